;; Traps in the third call of each instance.
(global $calls (mut i32) (i32.const 0))
(func $process (param $header i32) (param i32 i32 i32) (result i32)
  (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
  (if (i32.eq (global.get $calls) (i32.const 3)) (then unreachable))
  (call $outcome (i32.load offset=8 (local.get $header)) (i32.const 0) (i32.const 1088)))
