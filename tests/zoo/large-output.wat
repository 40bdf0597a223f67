;; One output of 2 MiB.
(func $process (param $header i32) (param i32 i32 i32) (result i32)
  (drop (memory.grow (i32.const 64)))
  (call $outcome (i32.const 1) (i32.const 1) (call $event (i32.const 1088) (i32.const 0) (i32.const 2097152))))
