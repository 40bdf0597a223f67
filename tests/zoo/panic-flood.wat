;; Tells of a panic of 100 KB for ever.
(import "sluicegate:plugin/log@1.0.0" "panicked" (func $panicked (param i32 i32)))
(func $process (param $header i32) (param i32 i32 i32) (result i32) (loop (call $panicked (i32.const 0) (i32.const 100000)) (br 0)) unreachable)
