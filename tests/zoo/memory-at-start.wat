;; Wants 128 MiB before it does anything.
(memory 2048)
(func $process (param $header i32) (param i32 i32 i32) (result i32) unreachable)
