;; Wants ten million table elements before it does anything.
(table 10000000 funcref)
(func $process (param $header i32) (param i32 i32 i32) (result i32) unreachable)
