;; Writes its memory over and over in bulk.
(func $process (param $header i32) (param i32 i32 i32) (result i32) (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 262144)) (br 0)) unreachable)
