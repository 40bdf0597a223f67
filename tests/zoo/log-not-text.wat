;; Writes to the log what is not UTF-8.
(import "sluicegate:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32)))
(data (i32.const 0) "\ff\fe")
(func $process (param $header i32) (param i32 i32 i32) (result i32) (call $log (i32.const 2) (i32.const 0) (i32.const 2)) unreachable)
