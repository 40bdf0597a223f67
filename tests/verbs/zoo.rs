//! The zoo of hostile guests (`tests/zoo`): each in a pipeline beside a well-behaved one, in the real node.

use serde_json::Value;
use sluice_tests::sluice::{Workspace, project, terminate};

/// Around the fields of an animal that is no whole module: memory, and functions that write an outcome as it should be.
const SKELETON: &str = include_str!("../zoo/skeleton.txt");

/// Events that an animal is given.
const EVENTS: usize = 12;
/// Events that the pipeline beside it is given.
const TAME: usize = 2000;
/// The node's memory at its most: its own, 64 MiB of guest memory, and what is copied out of it.
const MOST_MEMORY_MIB: u64 = 300;

fn wasm(animal: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(project().join("tests/zoo").join(animal).with_extension("wat")).unwrap();
    let whole = text.contains("(module") || text.contains("(component");
    if whole { wat::parse_str(text).unwrap() } else { of_fields(&text) }
}

/// A module of these fields, with what the skeleton has.
pub(crate) fn of_fields(fields: &str) -> Vec<u8> {
    wat::parse_str(SKELETON.replace("FIELDS", fields)).unwrap()
}

/// A folder with the animal in the pipeline `wild`, and a well-behaved pipeline `tame`.
fn cage(wasm: &[u8], limits: &str) -> Workspace {
    let workspace = Workspace::new();
    let pipeline = |name: &str, plugin: &str, limits: &str| {
        format!(
            "name = \"{name}\"\n[source]\ntopics = [\"{name}-in\"]\n[[stage]]\nplugin = \"{plugin}\"\n{limits}\n[[sink]]\ntopic = \"{name}-out\"\n"
        )
    };
    workspace.write("pipelines/wild.wasm", wasm);
    workspace.write(
        "pipelines/wild.toml",
        pipeline("wild", "wild.wasm", &format!("limits = {{ call-timeout = \"50ms\" {limits}}}")),
    );
    workspace.write("pipelines/tame.toml", pipeline("tame", "../plugins/pass-through", ""));
    for (topic, events) in [("wild-in", EVENTS), ("tame-in", TAME)] {
        workspace.sluice(&["topic", "create", topic]).ok();
        let lines: Vec<String> = (0..events).map(|number| number.to_string()).collect();
        workspace.produce(topic, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
    workspace
}

/// The animal runs: so many of its events are dead-lettered, for this reason, and nothing else comes of it.
fn runs(animal: &str, dead: usize, says: &str) {
    let workspace = cage(&wasm(animal), "");
    let mut node = workspace.start(&[]).unwrap();
    let settled = |name: &str| {
        let pipeline = workspace.pipeline(name);
        pipeline["lag"] == 0 && pipeline["state"] == "idle"
    };
    workspace.until("all is dealt with", || settled("tame") && settled("wild"));
    assert_eq!(workspace.values("tame-out").len(), TAME);
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most >> 10 < MOST_MEMORY_MIB, "{most} kB");
    terminate(&node);
    assert!(node.wait().unwrap().success(), "the node ended in another way");
    let letters: Vec<Value> = workspace
        .events("wild.dead")
        .iter()
        .map(|event| serde_json::from_str(event["headers"][0]["value"].as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(letters.len(), dead, "{letters:?}");
    for letter in &letters {
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains(says), "{letter}");
        assert!(!reason.contains('\u{1b}'), "{reason:?}");
    }
    assert_eq!(workspace.values("wild-out").len(), 0);
    let audit = workspace.json(&["audit"]);
    assert!(audit["accounts"].as_array().unwrap().iter().all(|account| account["balances"] == true), "{audit}");
}

#[test]
fn an_animal_behind_another_stage_is_stopped_like_one_in_front() {
    for animal in ["transient-behind-the-end", "input-not-there", "traps-always", "loop-in-process", "many-outputs"] {
        let workspace = cage(&wasm(animal), "");
        let text = std::fs::read_to_string(workspace.path("pipelines/wild.toml")).unwrap();
        let first = "[[stage]]\nplugin = \"../plugins/pass-through\"\n[[stage]]";
        workspace.write("pipelines/wild.toml", text.replacen("[[stage]]", first, 1));
        workspace.sluice(&["run", "--until-idle"]).ok();
        assert_eq!(workspace.values("wild.dead").len(), EVENTS, "{animal}");
        assert_eq!(workspace.values("tame-out").len(), TAME);
    }
}

#[test]
fn an_instance_that_grows_with_each_call_makes_room_for_a_new_one_before_it_may_not() {
    let grows = "(func $process (param $header i32) (param i32 i32 i32) (result i32)
        (drop (memory.grow (i32.const 1)))
        (call $outcome (i32.load offset=8 (local.get $header)) (i32.const 0) (i32.const 1088)))";
    let workspace = cage(&of_fields(grows), ", memory = \"1MiB\"");
    let text = std::fs::read_to_string(workspace.path("pipelines/wild.toml")).unwrap();
    // At most once, so that no call is made again.
    workspace.write("pipelines/wild.toml", format!("delivery = \"at-most-once\"\n{text}[batch]\nmax-events = 1\n"));
    let lines: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    workspace.produce("wild-in", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    workspace.sluice(&["run", "--until-idle"]).ok();
    let audit = workspace.json(&["audit"]);
    let wild = audit["accounts"].as_array().unwrap().iter().find(|account| account["pipeline"] == "wild").unwrap();
    assert_eq!((&wild["balances"], &wild["lost"]), (&true.into(), &0.into()), "{audit}");
    assert_eq!(workspace.values("wild.dead").len(), 0);
}

#[test]
fn globals_that_no_instance_counts_are_bounded() {
    let globals = "(global i32 (i32.const 0))".repeat(200_000);
    let instances = "(core instance (instantiate $m))".repeat(20);
    let wasm = wat::parse_str(format!("(component (core module $m {globals}) {instances})")).unwrap();
    refuses(&wasm, "", "globals");
}

/// The animal is refused before anything runs, and it is said why.
fn refused(animal: &str, says: &str) {
    refuses(&wasm(animal), "", says);
}

fn refuses(wasm: &[u8], limits: &str, says: &str) {
    let workspace = cage(wasm, limits);
    let told = workspace.sluice(&["check"]).fails(2);
    assert!(told.contains(says) && told.contains("pipelines/wild.toml:5"), "{told}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
    let told = workspace.sluice(&["run", "--until-idle"]).fails(2);
    assert!(told.contains(says), "{told}");
    // Without it the others run.
    workspace.sluice(&["run", "--until-idle", "pipelines/tame.toml"]).ok();
    assert_eq!(workspace.values("tame-out").len(), TAME);
}

macro_rules! zoo {
    ($($name:ident: $how:ident($($expected:expr),+);)*) => {$(
        #[test]
        fn $name() {
            $how(&stringify!($name).replace('_', "-"), $($expected),+);
        }
    )*

    #[test]
    fn every_animal_is_met_and_stands_in_the_table() {
        let table = std::fs::read_to_string(project().join("tests/zoo/README.md")).unwrap();
        let met = [$(stringify!($name).replace('_', "-")),*];
        for file in std::fs::read_dir(project().join("tests/zoo")).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let Some(animal) = name.strip_suffix(".wat") else { continue };
            assert!(met.iter().any(|met| met == animal), "{animal} is not met");
            assert!(table.contains(&format!("| {animal} |")), "{animal} does not stand in the table");
        }
    }};
}

zoo! {
    loop_in_process: runs(EVENTS, "`limits.call-timeout`");
    loop_in_realloc: runs(EVENTS, "`limits.call-timeout`");
    loop_in_init: refused("`limits.call-timeout`");
    loop_in_start: refused("`limits.call-timeout`");
    fill_forever: runs(EVENTS, "`limits.call-timeout`");
    deep_recursion: runs(EVENTS, "the call stack is exhausted");
    memory_bomb: runs(EVENTS, "`limits.memory`");
    memory_at_start: refused("`limits.memory`");
    many_memories: refused("`limits.memory`");
    table_bomb: runs(EVENTS, "`limits.table-elements`");
    table_at_start: refused("`limits.table-elements`");
    many_instances: refused("cannot be changed");
    handle_bomb: runs(EVENTS, "handles");
    large_outcome: runs(EVENTS, "`limits.output-bytes`");
    aliases_one_string: runs(EVENTS, "`limits.output-bytes`");
    many_outputs: runs(EVENTS, "`limits.outputs-per-event`");
    large_output: runs(EVENTS, "an event has at most");
    lies_about_length: runs(EVENTS, "a length reaches past the end");
    lies_about_count: runs(EVENTS, "a fixed part is cut short");
    hides_outputs: runs(EVENTS, "bytes behind its last event");
    empty_event: runs(EVENTS, "size is too small");
    odd_event: runs(EVENTS, "multiple of 8");
    endless_event: runs(EVENTS, "past the end");
    lies_about_value: runs(EVENTS, "past the end");
    lies_about_key: runs(EVENTS, "key bytes but no key");
    many_headers: runs(EVENTS, "past the end");
    header_not_text: runs(EVENTS, "not UTF-8");
    unknown_flags: runs(EVENTS, "unknown flags");
    wrong_magic: runs(EVENTS, "not of version 1");
    empty_outcome: runs(EVENTS, "a fixed part is cut short");
    outside_of_memory: runs(EVENTS, "out of bounds");
    outcome_nowhere: runs(EVENTS, "out of bounds");
    unknown_sink: runs(EVENTS, "names the sink");
    sink_not_named: runs(EVENTS, "a sink that is not in the table");
    many_sinks: runs(EVENTS, "more than 1000 sinks");
    input_not_there: runs(EVENTS, "an input or timer that was not dealt with");
    out_of_order: runs(EVENTS, "");
    too_many_processed: runs(EVENTS, "more inputs than there were");
    none_processed: runs(EVENTS, "names no failure");
    transient_behind_the_end: runs(EVENTS, "an input or timer that was not given");
    failure_flood: runs(1, "");
    names_steer_the_terminal: refused("canonical ABI");
    failure_not_there: runs(EVENTS, "an input or timer that was not given");
    writes_state: runs(EVENTS, "");
    fires_timers: runs(EVENTS, "more timers than were due");
    traps_always: runs(EVENTS, "unreachable");
    traps_in_third_call: runs(0, "");
    traps_on_one_event: runs(1, "unreachable");
    divides_by_zero: runs(EVENTS, "divide by zero");
    jumps_nowhere: runs(EVENTS, "");
    log_flood: runs(EVENTS, "`limits.");
    host_call_flood: runs(EVENTS, "`limits.call-timeout`");
    panic_flood: runs(EVENTS, "`limits.");
    log_not_text: runs(EVENTS, "utf-8");
    log_outside_of_memory: runs(EVENTS, "out of bounds");
    steers_the_terminal: runs(EVENTS, "[2J");
    imports_sockets: refused("wasi:sockets/tcp@0.2.0");
    imports_files: refused("wasi:filesystem/types@0.2.0");
    imports_anything: refused("env");
    wants_state: refused("capability `state`");
    later_version: refused("another version of the contract");
    wrong_signature: refused("another signature");
}

/// Modules for the compiler, too large to be kept as text. They are refused by a limit, or are no matter.
fn for_the_compiler(fields: &str, limits: &str, says: Option<&str>) {
    let process = "(func $process (param i32 i32 i32 i32) (result i32) unreachable)";
    let wasm = wat::parse_str(SKELETON.replace("FIELDS", &format!("{fields}\n{process}"))).unwrap();
    match says {
        Some(says) => refuses(&wasm, limits, says),
        None => drop(cage(&wasm, limits).sluice(&["check"]).ok()),
    }
}

#[test]
fn a_hundred_thousand_functions() {
    let functions = "(func (param i32) (result i32) (i32.mul (local.get 0) (i32.const 7)))\n".repeat(100_000);
    for_the_compiler(&functions, ", compile-time = \"1s\"", Some("`limits.compile-time`"));
    for_the_compiler(&functions, ", compile-memory = \"256MiB\"", Some("`limits.compile-memory`"));
}

#[test]
fn fifty_thousand_locals() {
    let locals = format!("(func (local {}) (local.set 49999 (i64.const 1)))", "i64 ".repeat(50_000));
    for_the_compiler(&locals, "", None);
}

#[test]
fn deep_nesting() {
    let nested = format!("(func {} {})", "(block ".repeat(20_000), ")".repeat(20_000));
    for_the_compiler(&nested, "", None);
}

#[test]
fn one_huge_function() {
    let sums =
        "(local.set 0 (i32.add (i32.mul (local.get 0) (local.get 1)) (i32.load (local.get 0))))\n".repeat(400_000);
    let function = format!("(func (param i32 i32) {sums})");
    for_the_compiler(&function, ", compile-time = \"1s\"", Some("`limits.compile-time`"));
}

#[test]
fn a_file_that_is_too_large_is_not_read_whole() {
    let data = format!("(data \"{}\")", "x".repeat(2 << 20));
    for_the_compiler(&data, ", wasm-size = \"1MiB\"", Some("`limits.wasm-size`"));
}

#[test]
fn what_is_cut_short_or_no_wasm_at_all() {
    let whole = wasm("traps-always");
    refuses(&whole[..whole.len() / 2], "", "wild.wasm");
    refuses(b"#!/bin/sh\n", "", "not a WebAssembly file");
    refuses(b"", "", "not a WebAssembly file");
}
