;; WASI preview 1 with nothing in it, for core modules of languages whose runtimes ask for it (Go, C with a libc): no files, no sockets, no arguments, no environment. What
;; is printed goes to the contract's `log.print`. The clock goes on by what is slept, and a nanosecond whenever it is looked at, and random numbers are the same in every instance: a replay is to come to the
;; same. `adapter.wasm` is made of this (`SLUICE_WRITE_ADAPTER=1 cargo test -p sluice-host the_adapter`), and that test compares the two.
(module
  (import "sluicegate:plugin/log@1.1.0" "print" (func $print (param i32 i32)))
  (import "env" "memory" (memory 0))
  ;; Nanoseconds; some runtimes take zero for a clock that is broken.
  (global $clock (mut i64) (i64.const 1000000000))
  (global $random (mut i64) (i64.const 0x9e3779b97f4a7c15))

  ;; Two counts, of nothing.
  (func $none (param i32 i32) (result i32)
    (i32.store (local.get 0) (i32.const 0))
    (i32.store (local.get 1) (i32.const 0))
    (i32.const 0))
  (export "args_sizes_get" (func $none))
  (export "environ_sizes_get" (func $none))
  (func $fine (param i32 i32) (result i32) (i32.const 0))
  (export "args_get" (func $fine))
  (export "environ_get" (func $fine))
  (export "fd_fdstat_set_flags" (func $fine))
  (func (export "fd_close") (param i32) (result i32) (i32.const 0))
  (func (export "sched_yield") (result i32) (i32.const 0))

  (func (export "clock_res_get") (param i32 i32) (result i32)
    (i64.store (local.get 1) (i64.const 1))
    (i32.const 0))
  (func (export "clock_time_get") (param i32 i64 i32) (result i32)
    (global.set $clock (i64.add (global.get $clock) (i64.const 1)))
    (i64.store (local.get 2) (global.get $clock))
    (i32.const 0))

  ;; Xorshift, a byte each.
  (func (export "random_get") (param $at i32) (param $len i32) (result i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $len)))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 13))))
        (global.set $random (i64.xor (global.get $random) (i64.shr_u (global.get $random) (i64.const 7))))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 17))))
        (i64.store8 (local.get $at) (global.get $random))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Standard output and error; others are no descriptors (8).
  (func (export "fd_write") (param $fd i32) (param $at i32) (param $count i32) (param $told i32) (result i32)
    (local $written i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (call $print (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))
        (local.set $written (i32.add (local.get $written) (i32.load offset=4 (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $told) (local.get $written))
    (i32.const 0))
  ;; Nothing to read.
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32)
    (i32.store (local.get 3) (i32.const 0))
    (i32.const 0))
  ;; The three standard ones are terminals (2); others are no descriptors.
  (func (export "fd_fdstat_get") (param $fd i32) (param $at i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $at) (i64.const 2))
    (i64.store offset=8 (local.get $at) (i64.const -1))
    (i64.store offset=16 (local.get $at) (i64.const 0))
    (i32.const 0))

  ;; Whatever is waited for has come; the clock goes on by what is slept.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $told i32) (result i32)
    (i32.store (local.get $told) (local.get $count))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (i64.store (local.get $out) (i64.load (local.get $in)))
        (i64.store offset=8 (local.get $out) (i64.const 0))
        (i64.store offset=16 (local.get $out) (i64.const 0))
        (i64.store offset=24 (local.get $out) (i64.const 0))
        (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $in)))
        (if (i32.eqz (i32.load8_u offset=8 (local.get $in)))
          (then
            (if (i32.and (i32.load16_u offset=40 (local.get $in)) (i32.const 1))
              (then
                (if (i64.gt_u (i64.load offset=24 (local.get $in)) (global.get $clock))
                  (then (global.set $clock (i64.load offset=24 (local.get $in))))))
              (else (global.set $clock (i64.add (global.get $clock) (i64.load offset=24 (local.get $in))))))))
        (local.set $in (i32.add (local.get $in) (i32.const 48)))
        (local.set $out (i32.add (local.get $out) (i32.const 32)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Who ends the process ends the instance.
  (func (export "proc_exit") (param i32) (unreachable))

  ;; There are no such descriptors (8), or it may not be done (63).
  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_datasync") (param i32) (result i32) (i32.const 8))
  (func (export "fd_filestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_renumber") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_sync") (param i32) (result i32) (i32.const 8))
  (func (export "fd_tell") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (i32.const 63))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 63))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) (i32.const 63))
  (func (export "proc_raise") (param i32) (result i32) (i32.const 63))
  (func (export "sock_accept") (param i32 i32 i32) (result i32) (i32.const 63))
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) (i32.const 63))
  (func (export "sock_shutdown") (param i32 i32) (result i32) (i32.const 63))
)
