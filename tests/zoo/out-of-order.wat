;; Outputs that go back from the second event to the first.
(func $process (param $header i32) (param i32 i32 i32) (result i32)
  (if (i32.eq (i32.load offset=8 (local.get $header)) (i32.const 1)) (then unreachable))
  (call $outcome (i32.load offset=8 (local.get $header)) (i32.const 2)
    (call $event (call $event (i32.const 1088) (i32.const 1) (i32.const 5)) (i32.const 0) (i32.const 5))))
