;; Exports a later version of the contract.
(component
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  (instance $batch (export "process" (func $f)))
  (export "sluicegate:plugin/batch@2.0.0" (instance $batch)))
