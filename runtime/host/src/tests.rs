//! Hostile and broken guests, a few lines of WAT each.

use std::sync::Arc;
use std::time::Duration;

use sluice_engine::{CallError, CallErrorKind, Plugin};
use sluice_env::SystemClock;
use sluice_event::{Batch, FailureKind, Items, NewEvent, Outcome, View};

use crate::{Code, Compiler, Error, Host, Interruption, Limits, Stage, World};

/// A core module of the world `batch-consumer` from the body of `process` and other parts of a core module.
fn component(process: &str, parts: &str) -> Vec<u8> {
    // A core module, of which the host makes a component as it would of a user's.
    wat::parse_str(component_text(process, parts)).unwrap()
}

fn component_text(process: &str, parts: &str) -> String {
    format!(
        r#"(module
            {parts}
            (memory (export "memory") 2)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536)
            (func (export "sluicegate:plugin/lifecycle@1.0.0#init") (param i32 i32) (result i32) i32.const 16)
            (func $process (export "sluicegate:plugin/batch@1.0.0#process") (param i32 i32 i32 i32) (result i32)
                {process}))"#
    )
}

fn limits() -> Limits {
    Limits { memory: 1 << 20, call_timeout: Duration::from_millis(50), output_bytes: 100_000, ..Limits::default() }
}

fn host() -> Arc<Host> {
    Host::new(None, Arc::new(SystemClock), Compiler::Here).unwrap()
}

fn load(wasm: &[u8]) -> Result<(Arc<Host>, Code), Error> {
    let host = host();
    let code = host.load(wasm, &limits())?;
    Ok((host, code))
}

/// What a call of the guest comes to.
fn call(wasm: &[u8]) -> Result<Vec<u8>, CallError> {
    let (host, code) = load(wasm).unwrap();
    let stage = Stage::new(&host, &code, "test", limits(), "{}".into(), &[]).unwrap();
    let mut returned = Vec::new();
    stage.instantiate(None)?.call(b"header", b"events", &mut |outcome| returned = outcome.to_vec())?;
    Ok(returned)
}

fn fails(process: &str, parts: &str, kind: CallErrorKind, says: &str) {
    let error = call(&component(process, parts)).unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(says), "{error}");
}

#[test]
fn a_guest_is_called_and_what_it_returns_is_handed_on() {
    let data = r#"(data (i32.const 32) "\28\00\00\00\03\00\00\00abc")"#;
    assert_eq!(call(&component("i32.const 32", data)).unwrap(), b"abc");
}

#[test]
fn an_endless_loop_is_stopped() {
    fails("(loop br 0) unreachable", "", CallErrorKind::Timeout, "limits.call-timeout");
}

#[test]
fn an_endless_loop_while_it_is_instantiated_is_stopped() {
    let start = "(func $start (loop br 0)) (start $start)";
    fails("unreachable", start, CallErrorKind::Instantiate, "limits.call-timeout");
}

/// Ways to run for ever: the body of `process`, and what else there is.
const ENDLESS: [(&str, &str, &str); 13] = [
    ("nothing in it", "(loop br 0) unreachable", ""),
    ("registers only", "(local i64) (loop (local.set 4 (i64.add (local.get 4) (i64.const 1))) br 0) unreachable", ""),
    ("left by no branch", "(loop (br_if 0 (i32.const 1))) unreachable", ""),
    ("stores", "(loop (i32.store (i32.const 64) (i32.load (i32.const 68))) br 0) unreachable", ""),
    (
        "loops within",
        "(local i32) (loop (loop (br_if 0 (i32.lt_u (local.tee 4 (i32.add (local.get 4) (i32.const 1))) (i32.const 9)))) (local.set 4 (i32.const 0)) br 0) unreachable",
        "",
    ),
    ("by a table", "(loop (block (br_table 0 1 (i32.const 1)))) (loop (br_table 0 0 (i32.const 7))) unreachable", ""),
    ("with a value", "(loop (result i32) (br 0)) ", ""),
    (
        "calls and calls",
        "(call $fib (i32.const 90))",
        "(func $fib (param i32) (result i32) (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (i32.const 1)) (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1))) (call $fib (i32.sub (local.get 0) (i32.const 2)))))))",
    ),
    (
        "through a table",
        "(call_indirect (type $t) (i32.const 60) (i32.const 0))",
        "(type $t (func (param i32) (result i32))) (table 1 funcref) (elem (i32.const 0) $twice) (func $twice (type $t) (if (result i32) (local.get 0) (then (i32.add (call_indirect (type $t) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)) (call_indirect (type $t) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)))) (else (i32.const 1))))",
    ),
    ("fills memory", "(loop (memory.fill (i32.const 0) (i32.const 7) (i32.const 131072)) br 0) unreachable", ""),
    ("in a function of its own", "(call $far)", "(func $far (result i32) (loop br 0) unreachable)"),
    (
        "calls the host",
        "(loop (call $log (i32.const 0) (i32.const 0) (i32.const 0)) br 0) unreachable",
        r#"(import "sluicegate:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32)))"#,
    ),
    (
        "several memories",
        "(loop (i32.store $more (i32.const 0) (i32.const 1)) br 0) unreachable",
        // The maximum by which interrupt pages are known.
        "(memory $more 1 42269)",
    ),
];

#[test]
fn whatever_runs_for_ever_is_stopped_in_either_way() {
    for interruption in [Interruption::Page, Interruption::Epochs] {
        let host = Host::with_interruption(interruption, None, Arc::new(SystemClock), Compiler::Here).unwrap();
        for (name, process, parts) in ENDLESS {
            let code = host.load(&component(process, parts), &limits()).unwrap();
            let stage = Stage::new(&host, &code, "test", limits(), "{}".into(), &[]).unwrap();
            let mut instance = stage.instantiate(None).unwrap();
            let error = instance.call(b"header", b"events", &mut |_| {}).unwrap_err();
            assert_eq!(error.kind, CallErrorKind::Timeout, "{name}: {error}");
        }
    }
}

#[test]
fn a_guest_that_comes_back_too_late_but_comes_back_is_called_again() {
    // 20,000 times 128 KiB, without a check in between: stopped or not, whatever is quicker.
    let fill = "(memory.fill (i32.const 0) (i32.const 0) (i32.const 131072)) ".repeat(20_000);
    let data = format!(
        "{fill} (i32.store (i32.const 32) (i32.const 40)) (i32.store (i32.const 36) (i32.const 3)) i32.const 32"
    );
    let (host, code) = load(&component(&data, "")).unwrap();
    let limits = Limits { call_timeout: Duration::from_millis(1), ..limits() };
    let stage = Stage::new(&host, &code, "test", limits, "{}".into(), &[]).unwrap();
    let mut instance = stage.instantiate(None).unwrap();
    for _ in 0..3 {
        let mut returned = 0;
        instance.call(b"header", b"events", &mut |outcome| returned = outcome.len()).unwrap();
        assert_eq!(returned, 3);
    }
}

#[test]
fn what_reads_out_of_bounds_is_no_timeout() {
    fails("(i32.load (i32.const 0x7fffffff))", "", CallErrorKind::Trap, "out of bounds");
}

#[test]
fn an_instance_of_many_instances_is_stopped_in_each() {
    // A start function in the second module of a component with memories of its own.
    let text = r#"(component
        (core module $a (memory 1) (func (export "f") (loop br 0)))
        (core instance $i (instantiate $a))
        (component $inner (core module $m (func $s (loop br 0)) (start $s)) (core instance (instantiate $m)))
        (instance $n (instantiate $inner))
        (core module $c (memory (export "memory") 2)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536)
            (func (export "process") (param i32 i32 i32 i32) (result i32) i32.const 32))
        (core instance $o (instantiate $c))
        (alias core export $o "memory" (core memory $mem))
        (type $bytes (list u8))
        (func $process (param "header" $bytes) (param "events" $bytes) (result $bytes)
            (canon lift (core func $o "process") (memory (core memory $mem)) (realloc (core func $o "cabi_realloc"))))
        (instance $batch (export "process" (func $process)))
        (export "sluicegate:plugin/batch@1.0.0" (instance $batch)))"#;
    let (host, code) = load(&wat::parse_str(text).unwrap()).unwrap();
    let stage = Stage::new(&host, &code, "test", limits(), "{}".into(), &[]).unwrap();
    let error = stage.instantiate(None).err().unwrap();
    assert!(error.message.contains("limits.call-timeout"), "{error}");
}

#[test]
fn a_memory_bomb_is_stopped_at_its_limit() {
    fails("(drop (memory.grow (i32.const 1000))) i32.const 32", "", CallErrorKind::Limit, "limits.memory");
    fails("unreachable", "(memory 100)", CallErrorKind::Instantiate, "limits.memory");
}

#[test]
fn several_memories_count_together() {
    let memories = "(memory 7) (memory 7) (memory 7)";
    fails("unreachable", memories, CallErrorKind::Instantiate, "limits.memory");
}

#[test]
fn a_table_bomb_is_stopped_at_its_limit() {
    let grow = "(drop (table.grow 0 (ref.null func) (i32.const 10000000))) i32.const 32";
    fails(grow, "(table 1 funcref)", CallErrorKind::Limit, "table elements");
}

#[test]
fn deep_recursion_is_stopped() {
    let call = "(call $process (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
    fails(call, "", CallErrorKind::Limit, "stack");
}

#[test]
fn an_outcome_over_the_limit_is_refused() {
    let data = r#"(data (i32.const 32) "\00\00\00\00\a1\86\01\00")"#; // 100,001 bytes from address 0
    fails("i32.const 32", data, CallErrorKind::Limit, "limits.output-bytes");
}

#[test]
fn an_outcome_outside_of_memory_is_refused() {
    let data = r#"(data (i32.const 32) "\00\00\ff\7f\00\10\00\00")"#;
    fails("i32.const 32", data, CallErrorKind::Trap, "out of bounds");
}

#[test]
fn a_trap_tells_where() {
    fails("unreachable", "", CallErrorKind::Trap, "unreachable");
}

#[test]
fn a_panic_text_and_the_event_in_hand_reach_the_host() {
    let imports = r#"
        (import "sluicegate:plugin/log@1.0.0" "panicked" (func $panicked (param i32 i32)))
        (import "sluicegate:plugin/progress@1.0.0" "watch" (func $watch (param i32 i32)))
        (data (i32.const 32) "no such airport")"#;
    let process = "(call $watch (i32.const 64) (i32.const 4)) (i32.store (i32.const 64) (i32.const 7))
        (call $panicked (i32.const 32) (i32.const 15)) unreachable";
    let error = call(&component(process, imports)).unwrap_err();
    assert_eq!((error.kind, error.in_hand), (CallErrorKind::Trap, Some(7)));
    assert!(error.message.starts_with("no such airport"), "{error}");
}

#[test]
fn state_is_for_stages_that_are_granted_it() {
    let import = r#"(import "sluicegate:plugin/state@1.0.0" "delete" (func $delete (param i32 i32 i32 i32)))"#;
    let process = "(call $delete (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) unreachable";
    let (host, code) = load(&component(process, import)).unwrap();
    let stage = |capabilities: &[&str]| Stage::new(&host, &code, "test", limits(), "{}".into(), capabilities);
    let refused = stage(&[]).err().unwrap();
    assert!(matches!(refused, Error::Capability { capability: "state", .. }), "{refused}");
    let mut instance = stage(&["state"]).unwrap().instantiate(None).unwrap();
    let error = instance.call(b"header", b"events", &mut |_| {}).unwrap_err();
    assert!(error.message.contains("no state and no timers here"), "{error}");
}

#[test]
fn what_is_no_plugin_is_refused_with_the_reason() {
    let refused = |bytes: &[u8]| load(bytes).err().unwrap();
    assert!(matches!(refused(b"#!/bin/sh"), Error::NotWasm));
    assert!(matches!(refused(&wat::parse_str("(module)").unwrap()), Error::World { .. }));
    let half = r#"(module (func (export "sluicegate:plugin/handler@1.0.0#process")))"#;
    assert!(matches!(refused(&wat::parse_str(half).unwrap()), Error::Module { .. }));
    assert!(matches!(refused(&wat::parse_str("(component)").unwrap()), Error::World { .. }));
    let sockets = r#"(component (import "wasi:sockets/tcp@0.2.0" (instance (export "x" (func)))))"#;
    assert!(matches!(refused(&wat::parse_str(sockets).unwrap()), Error::Import { .. }));
    let mut cut_short = component("unreachable", "");
    cut_short.truncate(cut_short.len() * 2 / 3);
    assert!(matches!(refused(&cut_short), Error::Invalid(_)));
    let later = r#"(component (import "sluicegate:plugin/log@2.0.0" (instance (export "x" (func)))))"#;
    assert!(matches!(refused(&wat::parse_str(later).unwrap()), Error::Version { .. }));
}

/// The guests that no SDK built, of `tests/guests`.
const ECHO: &str = include_str!("../../../tests/guests/echo.wat");
const UPPER: &[u8] = include_bytes!("../../../tests/guests/upper.wasm");

/// Calls a typed guest with these events, and hands its outcome on.
fn call_typed(wasm: &[u8], events: &[NewEvent<'_>], with: impl FnOnce(&Outcome<'_>)) {
    let (host, code) = load(wasm).unwrap();
    assert_eq!((code.world, code.core_module), (World::Consumer, true));
    let stage = Stage::new(&host, &code, "test", limits(), "{}".into(), &[]).unwrap();
    let mut batch = Batch::default();
    events.iter().for_each(|event| batch.push(event).unwrap());
    let (topic_name, count) = ("words", batch.count());
    let view = View {
        count,
        base_offset: 40,
        watermark: None,
        seed: 1,
        topic: 1,
        partition: 2,
        topic_name,
        chained: false,
        fires: false,
        watermarks: &[],
        due: (&[], 0),
    };
    let mut header = Vec::new();
    view.write(&mut header);
    let mut returned = Vec::new();
    let mut instance = stage.instantiate(None).unwrap();
    for _ in 0..2 {
        instance.call(&header, batch.bytes(), &mut |outcome| returned = outcome.to_vec()).unwrap();
    }
    with(&Outcome::parse(&returned, Items { inputs: count, ..Items::default() }).unwrap());
}

#[test]
fn a_typed_guest_in_wat_gets_every_field_and_hands_it_back() {
    let headers: [(&str, &[u8]); 2] = [("a", b"1"), ("b", b"")];
    let full = NewEvent { timestamp: 7, key: Some(b"key"), value: b"value", headers: &headers, origin: None };
    let bare = NewEvent { timestamp: -1, ..NewEvent::default() };
    call_typed(&wat::parse_str(ECHO).unwrap(), &[full, bare], |outcome| {
        let outputs: Vec<_> = outcome.outputs().map(Result::unwrap).collect();
        let event = outputs[0].event;
        assert_eq!((event.timestamp(), event.key(), event.value()), (7, Some(&b"key"[..]), &b"value"[..]));
        assert_eq!(event.headers().collect::<Vec<_>>(), headers);
        let event = outputs[1].event;
        assert_eq!((event.timestamp(), event.key(), event.value().len(), outputs[1].of.1), (-1, None, 0, 1));
        assert_eq!((outputs.len(), outcome.processed()), (2, 2));
    });
}

#[test]
fn a_typed_guest_in_c_returns_outputs_and_failures() {
    let event = |value: &'static str| NewEvent { value: value.as_bytes(), ..NewEvent::default() };
    call_typed(UPPER, &[event("one"), event("!"), event("two")], |outcome| {
        let outputs: Vec<_> = outcome.outputs().map(|output| output.unwrap().event.value().to_vec()).collect();
        assert_eq!(outputs, [b"ONE", b"TWO"]);
        let failures: Vec<_> = outcome.failures().map(|failure| failure.unwrap()).collect();
        assert_eq!((failures.len(), failures[0].of.1, failures[0].kind), (1, 1, FailureKind::Permanent));
        assert!(failures[0].reason.contains("exclamation mark"));
    });
}

#[test]
fn compiled_code_is_cached() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = component("unreachable", "");
    for cached in [false, true] {
        let host = Host::new(Some(dir.path()), Arc::new(SystemClock), Compiler::Here).unwrap();
        let code = host.load(&wasm, &limits()).unwrap();
        assert_eq!((code.cached, code.world), (cached, World::BatchConsumer));
    }
}

#[test]
fn a_migration_is_stopped_like_any_call_and_an_older_contract_has_none() {
    let versioned = |migrate: &str| {
        let parts = format!(
            r#"(func (export "sluicegate:plugin/versioned-state@1.1.0#version") (result i32) i32.const 7)
               (func (export "sluicegate:plugin/versioned-state@1.1.0#migrate") (param i32 i32 i32) (result i32) {migrate})"#
        );
        let text = component_text("unreachable", &parts).replace("@1.0.0", "@1.1.0");
        let (host, code) = load(&wat::parse_str(text).unwrap()).unwrap();
        let stage = Stage::new(&host, &code, "test", limits(), "{}".into(), &[]).unwrap();
        stage.instantiate(None).unwrap()
    };
    let entries = vec![(b"key".to_vec(), sluice_state::Slot { value: Some(b"value".to_vec()), expires: None })];
    let mut endless = versioned("(loop br 0) unreachable");
    assert_eq!(endless.state_version(), 7);
    assert_eq!(endless.migrate(3, &entries).unwrap_err().kind, CallErrorKind::Timeout);
    // An error with a text that is not there.
    let data = "(i32.store8 (i32.const 32) (i32.const 1)) (i32.store (i32.const 36) (i32.const 0x7fff0000)) (i32.store (i32.const 40) (i32.const 4096)) i32.const 32";
    assert_eq!(versioned(data).migrate(3, &entries).unwrap_err().kind, CallErrorKind::Trap);
    // No entries at all: that is allowed.
    assert_eq!(versioned("i32.const 32").migrate(3, &entries).unwrap(), vec![]);
    let (host, code) = load(&component("unreachable", "")).unwrap();
    let stage = Stage::new(&host, &code, "test", limits(), "{}".into(), &[]).unwrap();
    let mut older = stage.instantiate(None).unwrap();
    assert_eq!(older.state_version(), 0);
    assert!(older.migrate(3, &entries).unwrap_err().message.contains("no `migrate`"));
    // What the host does not know yet.
    let later = component_text("unreachable", "").replace("@1.0.0", "@1.2.0");
    assert!(matches!(load(&wat::parse_str(later).unwrap()), Err(Error::Version { .. })));
}
