//! Hot reload: what is newer takes over while events come, and what is bad takes itself out.

use std::process::Child;

use serde_json::Value;
use sluice_tests::sluice::{Workspace, kill, project, terminate};

use crate::http::{ANYWHERE, Http};
use crate::zoo::of_fields;

/// A plugin that answers each event with a letter.
fn letter(letter: char) -> Vec<u8> {
    says(letter, "")
}

/// The same, with something else before each call.
fn says(letter: char, before: &str) -> Vec<u8> {
    of_fields(&format!(
        r"
(global $calls (mut i32) (i32.const 0))
(func $process (param $header i32) (param i32 i32 i32) (result i32) (local $at i32) (local $n i32) (local $count i32)
  (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
  {before}
  (local.set $count (i32.load offset=8 (local.get $header)))
  (local.set $at (i32.const 1088))
  (loop $each
    (i32.store8 offset=48 (local.get $at) (i32.const 0))
    (drop (call $event (local.get $at) (local.get $n) (i32.const 1)))
    (i32.store8 offset=48 (local.get $at) (i32.const {letter}))
    (local.set $at (i32.add (local.get $at) (i32.const 56)))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $each (i32.lt_u (local.get $n) (local.get $count))))
  (call $outcome (local.get $count) (local.get $count) (local.get $at)))",
        letter = u32::from(letter),
    ))
}

/// A plugin that fails on every event, for good.
fn fails() -> Vec<u8> {
    of_fields(
        r"
(func $process (param $header i32) (param i32 i32 i32) (result i32) (local $at i32) (local $n i32) (local $count i32)
  (local.set $count (i32.load offset=8 (local.get $header)))
  (drop (call $outcome (local.get $count) (i32.const 0) (i32.const 1088)))
  (local.set $at (i32.const 1088))
  (loop $each
    (i32.store (local.get $at) (i32.const 16))
    (i32.store offset=4 (local.get $at) (i32.const 0x100))
    (i32.store offset=8 (local.get $at) (local.get $n))
    (i32.store offset=12 (local.get $at) (i32.const 0))
    (local.set $at (i32.add (local.get $at) (i32.const 16)))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $each (i32.lt_u (local.get $n) (local.get $count))))
  (i32.store (i32.const 1056) (local.get $count))
  (i32.store (i32.const 1060) (i32.mul (local.get $count) (i32.const 16)))
  (i32.store (i32.const 1020) (i32.add (i32.const 64) (i32.mul (local.get $count) (i32.const 16))))
  (i32.const 1016))",
    )
}

fn definition(more: &str) -> String {
    format!(
        r#"name = "p"
[source]
topics = ["in"]
[[stage]]
plugin = "p.wasm"
limits = {{ call-timeout = "100ms", memory = "16MiB" }}
[[sink]]
topic = "out"
partition-by = "source"
{more}
"#
    )
}

/// Saves a file as editors do: another in its place.
fn save(workspace: &Workspace, name: &str, content: impl AsRef<[u8]>) {
    let new = format!("{name}.new");
    workspace.write(&new, content);
    #[expect(clippy::disallowed_methods, reason = "what an editor does")]
    std::fs::rename(workspace.path(&new), workspace.path(name)).unwrap();
}

fn workspace(more: &str, partitions: u32) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", definition(more));
    workspace.write("pipelines/p.wasm", letter('A'));
    workspace.sluice(&["topic", "create", "in", "--partitions", &partitions.to_string()]).ok();
    workspace
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn produce(workspace: &Workspace, count: usize) {
    let lines = lines(count);
    workspace.produce("in", &lines.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Waits until all input is dealt with.
fn settle(workspace: &Workspace) {
    workspace.until("all is dealt with", || {
        let p = workspace.pipeline("p");
        p["lag"] == 0 && p["state"] == "idle"
    });
}

fn standings(workspace: &Workspace) -> Vec<String> {
    let known = workspace.json(&["plugin", "history", "p"]);
    known.as_array().unwrap().iter().map(|one| one["standing"].as_str().unwrap().to_owned()).collect()
}

fn problem(workspace: &Workspace) -> String {
    workspace.pipeline("p")["reload"]["problem"].as_str().unwrap_or_default().to_owned()
}

/// Per source partition and offset, what came of it: each once.
fn outputs(workspace: &Workspace) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<(u64, String)>> = vec![Vec::new(); 2];
    for event in workspace.events("out") {
        let origin = &event["origin"];
        let partition = origin["partition"].as_u64().unwrap() as usize;
        all[partition].push((origin["offset"].as_u64().unwrap(), event["value"].as_str().unwrap().to_owned()));
    }
    let each_once = |rows: Vec<(u64, String)>| {
        for (place, (offset, _)) in rows.iter().enumerate() {
            assert_eq!(*offset, place as u64, "an event is missing, is there twice, or out of order");
        }
        rows.into_iter().map(|(_, value)| value).collect()
    };
    all.into_iter().map(each_once).collect()
}

#[test]
fn a_saved_plugin_takes_over_and_a_half_written_one_does_not() {
    let workspace = workspace("", 1);
    let mut node = workspace.start(&[]).unwrap();
    produce(&workspace, 3);
    settle(&workspace);
    let b = letter('B');
    workspace.write("pipelines/p.wasm", &b[..b.len() / 2]);
    workspace.until("it is refused", || problem(&workspace).contains("p.wasm"));
    produce(&workspace, 2);
    settle(&workspace);
    workspace.write("pipelines/p.wasm", &b);
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    assert_eq!(problem(&workspace), "");
    produce(&workspace, 1);
    settle(&workspace);
    save(&workspace, "pipelines/p.wasm", letter('C'));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 3);
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!(workspace.values("out").concat(), "AAAAABC");
    assert_eq!(standings(&workspace), ["good", "replaced", "probation"]);
    // It is over where a restart finds it.
    kill(&mut node);
    let mut node = workspace.start(&[]).unwrap();
    assert_eq!(workspace.pipeline("p")["reload"]["probation"]["batches"], 0);
    kill(&mut node);
}

#[test]
fn who_is_rolled_back_stays_away_until_the_file_changes() {
    let workspace = workspace("", 1);
    let mut node = workspace.start(&[]).unwrap();
    save(&workspace, "pipelines/p.wasm", letter('B'));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    let told = workspace.sluice(&["plugin", "rollback", "p"]).ok();
    assert!(told.starts_with("pipeline p: generation 3 is in force"), "{told}");
    produce(&workspace, 1);
    settle(&workspace);
    assert!(problem(&workspace).contains("generation 2, which was rolled back"));
    kill(&mut node);
    let mut node = workspace.start(&[]).unwrap();
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!((workspace.values("out").concat().as_str(), standings(&workspace).len()), ("AA", 3));
    save(&workspace, "pipelines/p.wasm", letter('C'));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 4);
    kill(&mut node);
    // The same where no node runs.
    let told = workspace.sluice(&["plugin", "rollback", "p"]).ok();
    assert!(told.starts_with("pipeline p: generation 3 is what it will start with"), "{told}");
    let mut node = workspace.start(&[]).unwrap();
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!(workspace.values("out").concat(), "AAA");
    assert_eq!(standings(&workspace), ["good", "rolled-back", "good", "rolled-back", "good"]);
    // By hand what was taken out is tried again.
    workspace.sluice(&["plugin", "reload", "p"]).ok();
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!(workspace.values("out").concat(), "AAAC");
    kill(&mut node);
    assert!(workspace.sluice(&["plugin", "rollback", "none"]).fails(2).contains("unknown pipeline"));
    assert!(workspace.sluice(&["plugin", "reload", "p"]).fails(1).contains("no node runs"));
}

#[test]
fn what_cannot_be_noted_does_not_come_in_force() {
    let workspace = workspace("", 1);
    let mut node = workspace.start(&[]).unwrap();
    // What is noted is written under this name first.
    let in_the_way = workspace.path(".sluice/generations/p.json.partial");
    std::fs::create_dir(&in_the_way).unwrap();
    save(&workspace, "pipelines/p.wasm", letter('B'));
    workspace.until("it is refused", || problem(&workspace).contains("generations/p.json"));
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!((workspace.values("out").concat().as_str(), &workspace.pipeline("p")["generation"]), ("A", &1.into()));
    std::fs::remove_dir(&in_the_way).unwrap();
    workspace.sluice(&["plugin", "reload", "p"]).ok();
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!((workspace.values("out").concat().as_str(), &workspace.pipeline("p")["generation"]), ("AB", &2.into()));
    kill(&mut node);
}

/// A bad plugin: its bytes, and what the status says of it.
struct Bad {
    name: &'static str,
    wasm: Vec<u8>,
    says: &'static str,
    /// It is refused before it deals with anything.
    refused: bool,
}

fn bad_plugins() -> Vec<Bad> {
    let bad = |name, wasm, says, refused| Bad { name, wasm, says, refused };
    let cut = letter('B')[..200].to_vec();
    vec![
        bad(
            "will not compile",
            wat::parse_str("(module (func (result i32)))").unwrap_or_else(|_| b"\0asm\x01\0\0\0\x01".to_vec()),
            "p.wasm",
            true,
        ),
        bad("wrong world", wat::parse_str("(component)").unwrap(), "not a consumer", true),
        bad("file cut short", cut, "p.wasm", true),
        bad("traps at once", says('B', "unreachable"), "unreachable", false),
        bad(
            "traps after 50 batches",
            says('B', "(if (i32.gt_u (global.get $calls) (i32.const 50)) (then unreachable))"),
            "unreachable",
            false,
        ),
        bad("never returns", says('B', "(loop (br 0))"), "call-timeout", false),
        bad(
            "eats memory",
            says('B', "(loop (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br 0))"),
            "",
            false,
        ),
        bad("dead-letters everything", fails(), "", false),
    ]
}

/// Has a bad plugin come while events do, and go; what came of the events.
fn suffer(bad: &Bad, more: &str) -> Vec<String> {
    let workspace = workspace(&format!("[batch]\nmax-events = 10\n{more}"), 1);
    let mut node = workspace.start(&[]).unwrap();
    produce(&workspace, 100);
    settle(&workspace);
    save(&workspace, "pipelines/p.wasm", &bad.wasm);
    if bad.refused {
        workspace.until("it is refused", || problem(&workspace).contains(bad.says) && !problem(&workspace).is_empty());
    } else {
        workspace.until("it comes", || workspace.pipeline("p")["generation"].as_u64() >= Some(2));
    }
    produce(&workspace, 1000);
    if !bad.refused {
        let gone = || workspace.pipeline("p")["generation"] == 3 && !problem(&workspace).is_empty();
        workspace.until("it goes", gone);
        assert!(problem(&workspace).contains(bad.says), "{}: {}", bad.name, problem(&workspace));
        assert_eq!(standings(&workspace), ["good", "failed", "good"], "{}", bad.name);
    }
    settle(&workspace);
    assert_eq!(workspace.pipeline("p")["dead"], 0, "{}", bad.name);
    assert!(workspace.sluice(&["status"]).ok().contains("p goes on as it was"), "{}", bad.name);
    terminate(&node);
    assert!(node.wait().unwrap().success());
    crate::errors::balances(&workspace);
    outputs(&workspace).swap_remove(0)
}

#[test]
fn a_bad_plugin_takes_itself_out_and_each_event_has_one_result() {
    for bad in bad_plugins() {
        let came = suffer(&bad, "").concat();
        // What it committed before it failed stays.
        let own = came.matches('B').count();
        let expected = if bad.name == "traps after 50 batches" { 500 } else { 0 };
        assert_eq!((came.len(), own), (1100, expected), "{}", bad.name);
        assert!(came.trim_start_matches('A').trim_start_matches('B').chars().all(|c| c == 'A'), "{}", bad.name);
    }
}

#[test]
fn with_held_outputs_a_bad_plugin_was_never_there() {
    for bad in bad_plugins() {
        let came = suffer(&bad, "[reload]\nhold-outputs = true\n").concat();
        assert_eq!(came, "A".repeat(1100), "{}", bad.name);
    }
}

#[test]
fn held_outputs_go_out_once_the_probation_is_passed() {
    let workspace = workspace(
        "[batch]\nmax-events = 10\n[reload]\nhold-outputs = true\nprobation = { batches = 20, time = \"1h\" }\n",
        2,
    );
    let mut node = workspace.start(&[]).unwrap();
    save(&workspace, "pipelines/p.wasm", letter('B'));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    produce(&workspace, 100);
    workspace
        .until("all is dealt with", || workspace.pipeline("p")["reload"]["probation"]["batches"].as_u64() >= Some(10));
    assert_eq!(workspace.values("out").len(), 0, "nothing is committed yet");
    // Whoever goes back does not wait for it.
    workspace.sluice(&["rewind", "p", "--to", "earliest", "--yes"]).ok();
    workspace.until("it has noticed", || workspace.pipeline("p")["epoch"] == 2);
    // What is held is dealt with again after a restart, and after a pause.
    kill(&mut node);
    let mut node = workspace.start(&[]).unwrap();
    workspace.sluice(&["pipeline", "pause", "p"]).ok();
    workspace.until("it is paused", || workspace.pipeline("p")["state"] == "paused");
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    produce(&workspace, 500);
    settle(&workspace);
    assert_eq!(outputs(&workspace).concat(), vec!["B"; 600]);
    workspace.until("it has passed", || standings(&workspace) == ["good", "good"]);
    kill(&mut node);
}

fn refused(workspace: &Workspace, says: &str) {
    workspace.until(says, || problem(workspace).contains(says));
    assert_eq!(workspace.pipeline("p")["generation"], 2, "what runs goes on");
}

#[test]
fn definitions_are_taken_over_too_and_what_cannot_be_is_refused() {
    let workspace = workspace("", 1);
    workspace.sluice(&["topic", "create", "other"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    produce(&workspace, 1);
    settle(&workspace);
    let other = definition("[batch]\nmax-events = 7\n").replace("topic = \"out\"", "topic = \"elsewhere\"");
    save(&workspace, "pipelines/p.toml", &other);
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    produce(&workspace, 2);
    settle(&workspace);
    assert_eq!((workspace.values("out").concat(), workspace.values("elsewhere").concat()), ("A".into(), "AA".into()));
    save(&workspace, "pipelines/p.toml", format!("{other}oops = 1\n"));
    refused(&workspace, "oops");
    save(&workspace, "pipelines/p.toml", other.replace("[\"in\"]", "[\"other\"]"));
    refused(&workspace, "its cursor there would be lost");
    save(&workspace, "pipelines/p.toml", other.replace("p.wasm", "none.wasm"));
    refused(&workspace, "none.wasm");
    save(&workspace, "pipelines/p.toml", &other);
    workspace.until("all is well", || problem(&workspace).is_empty());
    // What has the lanes made anew: another delivery, another topic besides.
    let more =
        other.replace("[\"in\"]", "[\"in\", \"other\"]").replace("[source]", "delivery = \"at-least-once\"\n[source]");
    save(&workspace, "pipelines/p.toml", &more);
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 3);
    produce(&workspace, 1);
    workspace.sluice(&["produce", "other", "lines-to-produce"]).ok();
    settle(&workspace);
    assert_eq!(workspace.values("elsewhere").concat(), "AAAA");

    // More of them, and fewer.
    let second =
        definition("").replace("name = \"p\"", "name = \"second\"").replace("topic = \"out\"", "topic = \"second\"");
    save(&workspace, "pipelines/second.toml", second.replace("plugin", "plugni"));
    let said = || workspace.sluice(&["status"]).ok();
    workspace.until("it is told", || said().contains("plugni"));
    save(&workspace, "pipelines/second.toml", &second);
    let runs = |name: &str| {
        let status = workspace.json(&["status"]);
        let found = status["pipelines"].as_array().unwrap().iter().find(|p| p["name"] == name).cloned();
        found.is_some_and(|found| found["state"] != "stopped")
    };
    workspace.until("it runs", || runs("second"));
    workspace.until("it has read", || workspace.pipeline("second")["lag"] == 0);
    assert!(!said().contains("plugni"));
    std::fs::remove_file(workspace.path("pipelines/second.toml")).unwrap();
    workspace.until("it stops", || !runs("second"));
    assert_eq!(workspace.pipeline("second")["read"], 4);
    save(&workspace, "pipelines/second.toml", &second);
    workspace.until("it runs again", || runs("second"));
    assert_eq!(workspace.pipeline("second")["read"], 4);
    // One that is not watched stays as it is, whatever else changes.
    save(&workspace, "pipelines/p.toml", format!("{more}[reload]\nwatch = false\n"));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 4);
    save(&workspace, "pipelines/p.wasm", letter('Z'));
    #[expect(clippy::disallowed_methods, reason = "what an operator does")]
    std::fs::rename(workspace.path("pipelines/second.toml"), workspace.path("pipelines/third.toml")).unwrap();
    save(&workspace, "pipelines/third.toml", second.replace("name = \"second\"", "name = \"third\""));
    workspace.until("it has another name", || runs("third") && !runs("second"));
    assert_eq!(workspace.pipeline("p")["generation"], 4);
    workspace.sluice(&["plugin", "reload", "p"]).ok();
    assert_eq!(workspace.pipeline("p")["generation"], 5);
    for file in ["third.toml", "p.toml"] {
        std::fs::remove_file(workspace.path("pipelines").join(file)).unwrap();
    }
    workspace.until("none is left", || !runs("third") && !runs("p"));
    kill(&mut node);
}

#[test]
fn what_keeps_state_keeps_its_stage() {
    let workspace = Workspace::new();
    let totals = totals("totals", "");
    workspace.write("pipelines/p.toml", &totals);
    workspace.sluice(&["topic", "create", "in"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    let pay = |cents: u32| {
        workspace.write("lines-to-produce", format!("{{\"user\":\"a\",\"cents\":{cents}}}\n"));
        workspace.sluice(&["produce", "in", "lines-to-produce", "--key", "user"]).ok();
        settle(&workspace);
    };
    pay(1);
    for (other, says) in [
        (totals.replace("sums", "totals"), "stage \"sums\" keeps state"),
        (totals.replace("capabilities = [\"state\"]\n", ""), "`capabilities = [\"state\"]`"),
    ] {
        save(&workspace, "pipelines/p.toml", other);
        workspace.until(says, || problem(&workspace).contains("sums") || problem(&workspace).contains(says));
        assert_eq!(workspace.pipeline("p")["generation"], 1);
    }
    // Taken over in place, and with lanes made anew: the state goes on.
    save(&workspace, "pipelines/p.toml", format!("{totals}[batch]\nmax-events = 9\n"));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    pay(2);
    save(&workspace, "pipelines/p.toml", format!("{totals}[time]\nlateness = \"1s\"\n"));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 3);
    pay(4);
    let totals: Vec<Value> = workspace.values("out").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(totals.iter().map(|total| total["cents"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3, 7]);
    kill(&mut node);
}

/// A pipeline with totals that `plugins/NAME` adds up, `more` behind it.
fn totals(name: &str, more: &str) -> String {
    format!(
        r#"name = "p"
[source]
topics = ["in"]
[[stage]]
plugin = "../plugins/{name}"
name = "sums"
capabilities = ["state"]
[[sink]]
topic = "out"
{more}"#
    )
}

/// What came out under each key, in its order.
fn sums(workspace: &Workspace) -> Vec<(String, u64, Option<u64>)> {
    let of = |event: &Value| {
        let total: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let largest = total["largest"].as_u64();
        (event["key"].as_str().unwrap().to_owned(), total["cents"].as_u64().unwrap(), largest)
    };
    workspace.events("out").iter().map(of).collect()
}

/// Payments of one cent under so many keys, in turn.
fn pay(workspace: &Workspace, count: usize, keys: usize) {
    let line = |number: usize| format!("{{\"user\":\"u{:04}\",\"cents\":1}}\n", number % keys);
    workspace.write("payments", (0..count).map(line).collect::<String>());
    workspace.sluice(&["produce", "in", "payments", "--key", "user"]).ok();
}

/// That under each key each payment counts once, whoever has counted it.
fn each_counts_once(workspace: &Workspace, keys: usize) {
    let mut last: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for (key, cents, _) in sums(workspace) {
        let before = last.insert(key.clone(), cents).unwrap_or(0);
        assert_eq!(cents, before + 1, "{key}");
    }
    assert_eq!(last.len(), keys);
}

#[test]
fn state_that_changes_its_shape_is_brought_over_and_taken_back() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", totals("totals", ""));
    workspace.sluice(&["topic", "create", "in", "--partitions", "2"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    // More than is brought over in one part, of at most ten thousand.
    pay(&workspace, 30_000, 30_000);
    settle(&workspace);
    save(&workspace, "pipelines/p.toml", totals("best-totals", ""));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    let versions = || -> Vec<u64> {
        let found = workspace.json(&["state", "scan", "p", "--max", "100000"]);
        let mut versions: Vec<u64> =
            found["entries"].as_array().unwrap().iter().map(|entry| entry["version"].as_u64().unwrap()).collect();
        versions.dedup();
        versions
    };
    // Wherever it is killed, and also where no event comes.
    kill(&mut node);
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("it is brought over", || versions() == [1]);
    pay(&workspace, 30_000, 30_000);
    settle(&workspace);
    let came = sums(&workspace);
    assert_eq!(came.iter().filter(|(_, cents, largest)| (*cents, *largest) == (2, Some(1))).count(), 30_000);
    // An older one sees nothing of it.
    save(&workspace, "pipelines/p.toml", totals("totals", "[batch]\nmax-events = 4000\n"));
    refused(&workspace, "its state is of version 0, and what is kept is of version 1");
    assert!(problem(&workspace).contains("`sluice plugin rollback p`"), "{}", problem(&workspace));
    let history = workspace.sluice(&["plugin", "history", "p"]).ok();
    assert!(history.contains("sums 1") && history.contains("sums 0"), "{history}");
    assert_eq!(workspace.json(&["checkpoint", "list"]).as_array().unwrap().len(), 1);
    // Back, with what came since.
    workspace.sluice(&["plugin", "rollback", "p"]).ok();
    kill(&mut node);
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("it is taken back", || versions() == [0]);
    pay(&workspace, 30_000, 30_000);
    settle(&workspace);
    let came = sums(&workspace);
    assert_eq!(came.iter().filter(|(_, cents, largest)| (*cents, *largest) == (3, None)).count(), 30_000);
    each_counts_once(&workspace, 30_000);
    assert_eq!(came.len(), 90_000);
    // The same where no node runs, and forward again: what was taken out is tried again by hand only.
    kill(&mut node);
    workspace.write("pipelines/p.toml", totals("best-totals", "[batch]\nmax-events = 5000\n"));
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("it is brought over", || versions() == [1]);
    pay(&workspace, 1000, 1000);
    settle(&workspace);
    terminate(&node);
    assert!(node.wait().unwrap().success());
    workspace.sluice(&["plugin", "rollback", "p"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("it is taken back", || versions() == [0]);
    pay(&workspace, 1000, 1000);
    settle(&workspace);
    each_counts_once(&workspace, 30_000);
    kill(&mut node);
}

#[test]
fn a_bad_plugin_takes_itself_out_with_the_state_that_it_has_brought_over() {
    for (more, delivery) in [
        ("", "exactly-once"),
        ("[reload]\nhold-outputs = true\n", "exactly-once"),
        ("", "at-least-once"),
        ("", "at-most-once"),
    ] {
        let definition =
            |name: &str| totals(name, more).replace("[source]", &format!("delivery = \"{delivery}\"\n[source]"));
        let workspace = Workspace::new();
        workspace.write("pipelines/p.toml", definition("totals"));
        workspace.sluice(&["topic", "create", "in"]).ok();
        let mut node = workspace.start(&[]).unwrap();
        pay(&workspace, 300, 100);
        settle(&workspace);
        save(&workspace, "pipelines/p.toml", definition("best-totals"));
        workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
        pay(&workspace, 500, 100);
        // Both fail on it. The one before never had any: that is enough.
        workspace.produce("in", &["{}"]);
        pay(&workspace, 300, 100);
        workspace.until("it goes", || workspace.pipeline("p")["generation"] == 3 && !problem(&workspace).is_empty());
        assert!(
            problem(&workspace).contains("gives up more than the one before (0 of 300)"),
            "{}",
            problem(&workspace)
        );
        settle(&workspace);
        each_counts_once(&workspace, 100);
        let came = sums(&workspace);
        let own = came.iter().filter(|(_, _, largest)| largest.is_some()).count();
        assert_eq!((came.len(), workspace.pipeline("p")["dead"].as_u64()), (1100, Some(1)), "{delivery}");
        assert!(own == if more.is_empty() { 500 } else { 0 } || delivery != "exactly-once", "{own}");
        crate::errors::balances(&workspace);
        kill(&mut node);
    }
}

#[test]
fn a_plugin_that_was_built_against_the_first_contract_loads_for_ever() {
    let workspace = Workspace::new();
    // Built by this project's SDK when the contract was 1.0.0, and never again.
    let old = project().join("tests/fixtures/totals-1.0.0.wasm");
    workspace.write("pipelines/old.wasm", std::fs::read(old).unwrap());
    let inspected = workspace.json(&["plugin", "inspect", "pipelines/old.wasm"]);
    assert!(inspected["imports"].to_string().contains("sluicegate:plugin/state@1.0.0"), "{inspected}");
    workspace.write("pipelines/p.toml", totals("totals", "").replace("../plugins/totals", "old.wasm"));
    workspace.sluice(&["topic", "create", "in"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    pay(&workspace, 300, 100);
    settle(&workspace);
    each_counts_once(&workspace, 100);
    // One of today, whose state is of a newer version, takes over from it.
    save(&workspace, "pipelines/p.toml", totals("best-totals", ""));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    pay(&workspace, 300, 100);
    settle(&workspace);
    each_counts_once(&workspace, 100);
    kill(&mut node);
}

#[test]
fn a_plugin_that_cannot_read_the_state_is_refused_before_anything_is_done() {
    let workspace = Workspace::new();
    workspace.write("pipelines/keep.wasm", wat::parse_file(project().join("tests/guests/keep.wat")).unwrap());
    let keep = totals("totals", "").replace("../plugins/totals", "keep.wasm");
    workspace.write("pipelines/p.toml", &keep);
    workspace.sluice(&["topic", "create", "in"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    pay(&workspace, 3, 3);
    settle(&workspace);
    save(&workspace, "pipelines/p.toml", totals("best-totals", ""));
    workspace.until("it is refused", || problem(&workspace).contains("on a copy of the state"));
    assert_eq!(workspace.pipeline("p")["generation"], 1);
    assert_eq!(workspace.json(&["checkpoint", "list"]).as_array().unwrap().len(), 0);
    pay(&workspace, 3, 3);
    settle(&workspace);
    assert_eq!(workspace.pipeline("p")["state"], "idle");
    kill(&mut node);
}

/// Bytes of memory and open files of a process.
fn usage(node: &Child) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, std::fs::read_dir(format!("/proc/{}/fd", node.id())).unwrap().count())
}

#[test]
fn a_thousand_reloads_under_load_lose_nothing_and_repeat_nothing() {
    const ROUNDS: usize = 4;
    const RELOADS: usize = 250;
    let workspace = workspace("[batch]\nmax-events = 5\n", 2);
    let versions = [letter('A'), letter('B')];
    let mut done = 0;
    let mut node = None;
    for round in 0..ROUNDS {
        let mut running = workspace.start(&ANYWHERE).unwrap();
        let http = Http::of(&workspace);
        let lag = || http.get("/pipelines/p").json()["lag"].as_u64().unwrap();
        let mut early = (0, 0);
        for reload in 0..RELOADS {
            if reload % 25 == 0 && lag() < 5_000 {
                produce(&workspace, 20_000);
            }
            save(&workspace, "pipelines/p.wasm", &versions[(done + 1) % 2]);
            let answer = http.send("POST /pipelines/p/reload", &[], "");
            assert_eq!(answer.status, 200, "{}", answer.body);
            done += 1;
            if reload == RELOADS / 5 {
                early = usage(&running);
            }
        }
        let late = usage(&running);
        assert!(late.1 <= early.1 + 8, "open files: {early:?}, {late:?}");
        assert!(late.0 < early.0 + (48 << 10), "memory, KiB: {early:?}, {late:?}");
        if round + 1 < ROUNDS {
            kill(&mut running);
        } else {
            node = Some(running);
        }
    }
    settle(&workspace);
    let came = outputs(&workspace);
    let changes = |values: &Vec<String>| values.windows(2).filter(|pair| pair[0] != pair[1]).count();
    for values in &came {
        // Batches have one version each: there are no more changes than reloads, and restarts.
        let changes = changes(values);
        assert!(
            (ROUNDS..=ROUNDS * RELOADS + ROUNDS).contains(&changes),
            "{changes} changes in {} events",
            values.len()
        );
    }
    crate::errors::balances(&workspace);
    node.iter_mut().for_each(kill);
}

#[test]
fn before_it_goes_live_a_plugin_is_tested_by_its_fixtures_and_by_history() {
    let workspace = workspace("", 1);
    std::fs::create_dir_all(workspace.path("pipelines/mine/build")).unwrap();
    let saved = |letter: char| save(&workspace, "pipelines/mine/build/mine.wasm", says(letter, ""));
    saved('A');
    let fixture = |letter: char| {
        format!(
            "plugin = \".\"\n[[case]]\nname = \"it says its letter\"\n[[case.given]]\nvalue = \"x\"\n[[case.expect]]\nvalue = \"{letter}\"\n"
        )
    };
    workspace.write("pipelines/mine/mine.test.toml", fixture('A'));
    let definition = definition("").replace("p.wasm", "mine");
    workspace.write("pipelines/p.toml", &definition);
    let mut node = workspace.start(&[]).unwrap();
    produce(&workspace, 3);
    settle(&workspace);
    saved('B');
    workspace.until("the fixture fails", || problem(&workspace).contains("case \"it says its letter\""));
    assert!(problem(&workspace).contains("- ") && problem(&workspace).contains("+ "), "{}", problem(&workspace));
    assert_eq!(workspace.pipeline("p")["generation"], 1);
    // The fixture is mended, and history says no.
    workspace.write("pipelines/mine/mine.test.toml", fixture('B'));
    let with = |allow: &str| format!("{definition}[reload]\ndiff = {{ last = \"1h\", allow = \"{allow}\" }}\n");
    save(&workspace, "pipelines/p.toml", with("none"));
    workspace.until("it differs", || problem(&workspace).contains("0 outputs as before, 0 more, 0 missing, 3 others"));
    save(&workspace, "pipelines/p.toml", with("added"));
    workspace.until("it still differs", || problem(&workspace).contains("3 others"));
    assert_eq!(workspace.pipeline("p")["generation"], 1);
    save(&workspace, "pipelines/p.toml", with("all"));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    produce(&workspace, 1);
    settle(&workspace);
    assert_eq!(workspace.values("out").concat(), "AAAB");
    kill(&mut node);
}
