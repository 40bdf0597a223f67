;; Calls itself for ever.
(func $process (param $header i32) (param i32 i32 i32) (result i32) (call $process (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
