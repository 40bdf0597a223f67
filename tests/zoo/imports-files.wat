;; Wants to read files.
(component (import "wasi:filesystem/types@0.2.0" (instance (export "x" (func)))))
