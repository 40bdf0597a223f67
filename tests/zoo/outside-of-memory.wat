;; Returns bytes that lie outside of its memory.
(func $process (param $header i32) (param i32 i32 i32) (result i32)
  (i32.store (i32.const 1016) (i32.const 2147418112))
  (i32.store (i32.const 1020) (i32.const 64))
  (i32.const 1016))
