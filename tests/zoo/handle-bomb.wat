;; Makes handles of a resource of its own until there are no more.
(component
  (type $thing' (resource (rep i32)))
  (core func $new (canon resource.new $thing'))
  (core module $m
    (import "" "new" (func $new (param i32) (result i32)))
    (memory (export "memory") 4)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536)
    (func (export "process") (param i32 i32 i32 i32) (result i32) (loop (drop (call $new (i32.const 0))) (br 0)) unreachable))
  (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
  (func $process (param "header" (list u8)) (param "events" (list u8)) (result (list u8))
    (canon lift (core func $i "process") (memory (core memory $i "memory")) (realloc (core func $i "cabi_realloc"))))
  (instance $batch (export "process" (func $process)))
  (export "sluicegate:plugin/batch@1.0.0" (instance $batch)))
