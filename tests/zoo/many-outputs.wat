;; 2,000 outputs for one event.
(func $process (param $header i32) (param i32 i32 i32) (result i32) (local $at i32) (local $n i32)
  (local.set $at (i32.const 1088))
  (loop
    (local.set $at (call $event (local.get $at) (i32.const 0) (i32.const 0)))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $n) (i32.const 2000))))
  (call $outcome (i32.const 1) (local.get $n) (local.get $at)))
