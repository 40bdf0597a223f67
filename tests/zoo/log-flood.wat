;; Writes kilobytes to the log for ever.
(import "sluicegate:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32)))
(func $process (param $header i32) (param i32 i32 i32) (result i32) (loop (call $log (i32.const 2) (i32.const 0) (i32.const 65536)) (br 0)) unreachable)
