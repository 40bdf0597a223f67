;; A core module whose import is named with the codes that clear a terminal.
(module
  (import "\1b[2J" "\1b]0;owned\07" (func))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
  (func (export "sluicegate:plugin/lifecycle@1.0.0#init") (param i32 i32) (result i32) i32.const 16)
  (func (export "sluicegate:plugin/batch@1.0.0#process") (param i32 i32 i32 i32) (result i32) unreachable))
