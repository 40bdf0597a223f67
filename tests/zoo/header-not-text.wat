;; A header whose name is not UTF-8.
(func $process (param $header i32) (param i32 i32 i32) (result i32) (local $out i32)
  (local.set $out (call $outcome (i32.const 1) (i32.const 1) (call $event (i32.const 1088) (i32.const 0) (i32.const 16))))
  (i32.store16 (i32.const 1094) (i32.const 1))
  (i32.store (i32.const 1108) (i32.const 0))
  (i32.store (i32.const 1136) (i32.const 4))
  (i32.store (i32.const 1144) (i32.const -1))
  (local.get $out))
