;; A consumer of typed records in WAT, against guest-sdk/wit by hand: every event comes out again, with its key, headers and
;; timestamp. A core module; the host makes a component of it.
(module
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 1024))

  ;; A bump allocator: what a call takes is given back when the next begins.
  (func $alloc (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (block $enough
      (loop $grow
        (br_if $enough (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
        (br $grow)))
    (local.get $at))

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (call $alloc (local.get 2) (local.get 3)))

  ;; An event takes 64 bytes: topic 0, partition 8, offset 16, timestamp 24, key 32 (present, address, length), value 44, headers 52.
  ;; An output takes 72: origin 0 (case, index), sink 8 (present, ..), timestamp 24 (present, value at 32), key 40, value 52,
  ;; headers 60. Headers look the same in both.
  (func (export "sluicegate:plugin/handler@1.0.0#process")
    (param $events i32) (param $count i32) (param i32 i32) (result i32)
    (local $outputs i32) (local $index i32) (local $in i32) (local $out i32) (local $outcome i32)
    (local.set $outputs (call $alloc (i32.const 8) (i32.mul (local.get $count) (i32.const 72))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $index) (local.get $count)))
        (local.set $in (i32.add (local.get $events) (i32.mul (local.get $index) (i32.const 64))))
        (local.set $out (i32.add (local.get $outputs) (i32.mul (local.get $index) (i32.const 72))))
        (i32.store8 (local.get $out) (i32.const 0))
        (i32.store offset=4 (local.get $out) (local.get $index))
        (i32.store8 offset=8 (local.get $out) (i32.const 0))
        (i32.store8 offset=24 (local.get $out) (i32.const 0))
        (i32.store8 offset=40 (local.get $out) (i32.load8_u offset=32 (local.get $in)))
        (i64.store offset=44 align=4 (local.get $out) (i64.load offset=36 align=4 (local.get $in)))
        (i64.store offset=52 align=4 (local.get $out) (i64.load offset=44 align=4 (local.get $in)))
        (i64.store offset=60 align=4 (local.get $out) (i64.load offset=52 align=4 (local.get $in)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    ;; processed, fired, outputs, failures
    (local.set $outcome (call $alloc (i32.const 4) (i32.const 24)))
    (i32.store (local.get $outcome) (local.get $count))
    (i32.store offset=4 (local.get $outcome) (i32.const 0))
    (i32.store offset=8 (local.get $outcome) (local.get $outputs))
    (i32.store offset=12 (local.get $outcome) (local.get $count))
    (i64.store offset=16 align=4 (local.get $outcome) (i64.const 0))
    (global.set $free (i32.const 1024))
    (local.get $outcome)))
