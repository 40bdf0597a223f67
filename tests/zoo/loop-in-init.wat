;; Never comes back from its initialisation.
(module
  (memory (export "memory") 4)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536)
  (func (export "sluicegate:plugin/lifecycle@1.0.0#init") (param i32 i32) (result i32) (loop (br 0)) unreachable)
  (func (export "sluicegate:plugin/batch@1.0.0#process") (param i32 i32 i32 i32) (result i32) unreachable))
