;; Traps when the event at offset 5 is among those it is given.
(func $process (param $header i32) (param i32 i32 i32) (result i32) (local $first i32)
  (local.set $first (i32.load offset=24 (local.get $header)))
  (if (i32.and (i32.le_u (local.get $first) (i32.const 5))
        (i32.gt_u (i32.add (local.get $first) (i32.load offset=8 (local.get $header))) (i32.const 5)))
    (then unreachable))
  (call $outcome (i32.load offset=8 (local.get $header)) (i32.const 0) (i32.const 1088)))
