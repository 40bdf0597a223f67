;; An output of an event that was not given.
(func $process (param $header i32) (param i32 i32 i32) (result i32) (call $outcome (i32.const 1) (i32.const 1) (call $event (i32.const 1088) (i32.const 1000) (i32.const 5))))
