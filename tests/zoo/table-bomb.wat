;; Takes table elements until there are no more.
(table 1 funcref)
(func $process (param $header i32) (param i32 i32 i32) (result i32) (loop (drop (table.grow 0 (ref.null func) (i32.const 10000))) (br 0)) unreachable)
