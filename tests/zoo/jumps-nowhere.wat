;; Calls through an empty table.
(table 1 funcref)
(func $process (param $header i32) (param i32 i32 i32) (result i32) (call_indirect (i32.const 0)) unreachable)
