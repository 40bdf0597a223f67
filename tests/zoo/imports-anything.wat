;; A core module that imports what nobody has.
(module
  (import "env" "system" (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
  (func (export "sluicegate:plugin/lifecycle@1.0.0#init") (param i32 i32) (result i32) i32.const 16)
  (func (export "sluicegate:plugin/batch@1.0.0#process") (param i32 i32 i32 i32) (result i32) unreachable))
