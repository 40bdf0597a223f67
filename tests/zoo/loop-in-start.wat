;; Never comes back while it is instantiated.
(func $start (loop (br 0)))
(start $start)
(func $process (param $header i32) (param i32 i32 i32) (result i32) unreachable)
