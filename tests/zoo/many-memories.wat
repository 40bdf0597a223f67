;; Several memories, each below the limit.
(memory 300)
(memory 300)
(memory 300)
(memory 300)
(func $process (param $header i32) (param i32 i32 i32) (result i32) unreachable)
