;; Writes to the log what lies outside of its memory.
(import "sluicegate:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32)))
(func $process (param $header i32) (param i32 i32 i32) (result i32) (call $log (i32.const 2) (i32.const 2147418112) (i32.const 64)) unreachable)
