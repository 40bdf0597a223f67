;; Imports a capability that it is not granted.
(import "sluicegate:plugin/state@1.0.0" "delete" (func (param i32 i32 i32 i32)))
(func $process (param $header i32) (param i32 i32 i32) (result i32) unreachable)
