//! Replays: the same plugin makes the same of history, another one is told apart, and the pipeline itself is not touched.

use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, kill, project};

use crate::state;

fn totals() -> Workspace {
    state::workspace("exactly-once")
}

fn pay(workspace: &Workspace, from: u64, to: u64) {
    state::pay(workspace, &state::payments(from, to));
}

fn number(replay: &Value, name: &str) -> u64 {
    replay[name].as_u64().unwrap()
}

/// That a replay of this range gives what was committed.
fn is_same(workspace: &Workspace, pipeline: &str, from: &str, to: &str) -> Value {
    let replay = workspace.json(&["replay", pipeline, "--from", from, "--to", to, "--diff"]);
    assert_eq!(["added", "missing", "changed"].map(|name| number(&replay, name)), [0; 3], "{from} {to}: {replay}");
    assert!(number(&replay, "same") > 0, "{replay}");
    replay
}

#[test]
fn the_same_plugin_makes_the_same_of_any_range_while_the_pipeline_runs() {
    let workspace = totals();
    pay(&workspace, 0, 1500);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let before = workspace.events("sums").len();
    let whole = is_same(&workspace, "totals", "earliest", "latest");
    let states = whole["partitions"].as_array().unwrap().iter().map(|part| &part["state"]);
    assert!(states.clone().all(|state| state["compared"] == true && state["differing"] == 0), "{whole}");
    let mut node = workspace.start(&[]).unwrap();
    for (from, to) in [("0:77", "0:500"), ("1:301", "1:302"), ("100", "400"), ("0:0", "0:1")] {
        is_same(&workspace, "totals", from, to);
    }
    let verified = workspace.json(&["verify", "totals"]);
    assert_eq!(verified["outputs-hash"], whole["outputs-hash"]);
    pay(&workspace, 1500, 1700);
    workspace.until("all is read", || workspace.pipeline("totals")["lag"] == 0);
    kill(&mut node);
    // Nothing that a replay did is seen by the pipeline.
    assert!(workspace.events("sums").len() > before);
    is_same(&workspace, "totals", "earliest", "latest");
    let told = workspace.sluice(&["verify", "totals"]).ok();
    assert!(told.contains("same") && told.contains("state of paid/0"), "{told}");
}

#[test]
fn what_was_written_again_behind_a_rewind_counts() {
    let workspace = totals();
    pay(&workspace, 0, 400);
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.sluice(&["rewind", "totals", "--to", "0:50", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    is_same(&workspace, "totals", "earliest", "latest");
    workspace.sluice(&["rewind", "totals", "--to", "1:50", "--state", "reset", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    // From there on with nothing kept: what was committed last is not what the whole history gives, but what that does.
    let hash = |name: &str| workspace.json(&["verify", "totals", "--from", name, "--to", name])["outputs-hash"].clone();
    assert_eq!(hash("1:60"), hash("1:60"));
    is_same(&workspace, "totals", "1:60", "1:150");
}

#[test]
fn windows_close_in_a_replay_as_they_did() {
    let workspace = Workspace::new();
    let text = std::fs::read_to_string(project().join("pipelines/airport-hours.toml")).unwrap();
    workspace.write("pipelines/airport-hours.toml", text + "[batch]\nmax-events = 70\n");
    workspace.sluice(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let all = std::fs::read_to_string(project().join("pipelines/data/flights.ndjson")).unwrap();
    workspace.write("some", all.lines().take(3000).map(|line| format!("{line}\n")).collect::<String>());
    let time = ["--timestamp", "date", "--timestamp-format", "%Y/%m/%d %H:%M"];
    workspace.sluice(&[&["produce", "flights", "some", "--key", "origin"][..], &time].concat()).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    let ranges = [("earliest", "latest"), ("0:100", "0:400"), ("3:333", "latest"), ("150", "420")];
    ranges.iter().for_each(|(from, to)| drop(is_same(&workspace, "airport-hours", from, to)));
    // What fired in the end, for no more events were to come, does so again; also when some came all the same.
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    is_same(&workspace, "airport-hours", "earliest", "latest");
    workspace.write("some", all.lines().skip(3000).take(1000).map(|line| format!("{line}\n")).collect::<String>());
    workspace.sluice(&[&["produce", "flights", "some", "--key", "origin"][..], &time].concat()).ok();
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    ranges.iter().for_each(|(from, to)| drop(is_same(&workspace, "airport-hours", from, to)));
}

#[test]
fn another_plugin_is_told_by_what_differs_and_by_the_exit_code() {
    let workspace = totals();
    pay(&workspace, 0, 100);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let other = project().join("plugins/pass-through");
    let other = other.to_str().unwrap();
    let told = workspace.sluice(&["replay", "totals", "--diff", "--plugin", other]).ends(1);
    assert!(told.contains("changed, output 0 of event 0:0"), "{told}");
    assert!(told.contains("- value.count: 1") && told.contains("+ value.cents: "), "{told}");
    // It passes on what the other one refuses.
    assert!(told.contains(" 1 added, 0 missing"), "{told}");
    assert_eq!(workspace.events("sums").len(), 99);
}

#[test]
fn a_replay_can_go_to_a_topic_of_its_own() {
    let workspace = totals();
    pay(&workspace, 0, 300);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    let told = workspace.sluice(&["replay", "totals", "--from", "0:20", "--to", "0:60", "--into", "again"]).ok();
    assert!(told.contains("40 outputs appended to again"), "{told}");
    kill(&mut node);
    let in_range = |event: &&Value| {
        event["origin"]["partition"] == 0 && (20..60).contains(&event["origin"]["offset"].as_u64().unwrap())
    };
    let values = |events: &[Value]| {
        let mut values: Vec<_> = events.iter().filter(in_range).map(|event| event["value"].to_string()).collect();
        values.sort();
        values
    };
    assert_eq!(values(&workspace.events("again")), values(&workspace.events("sums")));
    assert_eq!(workspace.pipeline("totals")["read"], 300);
}

#[test]
fn what_cannot_be_replayed_says_why() {
    let workspace = totals();
    pay(&workspace, 0, 50);
    workspace.sluice(&["run", "--until-idle"]).ok();
    for (arguments, says) in [
        (&["replay", "nobody", "--diff"][..], "nobody"),
        (&["replay", "totals"], "--diff"),
        (&["replay", "totals", "--diff", "--from", "0:30", "--to", "0:20"], "no range from 30 to 20"),
        (&["replay", "totals", "--diff", "--from", "checkpoint:none"], "none"),
        (&["replay", "totals", "--into", "sums"], "a topic of its own"),
        (&["replay", "totals", "--into", "paid"], "a topic of its own"),
        (&["replay", "totals", "--into", "totals.changelog"], "a topic of its own"),
        (&["replay", "totals", "--into", "totals.dead.marks"], "a topic of its own"),
        (&["replay", "totals", "--diff", "--plugin", "nothing.wasm"], "nothing.wasm"),
        (&["replay", "totals", "--diff", "--definitions", "payments"], "payments"),
        (&["verify", "totals", "--from", "7:0"], "does not read"),
    ] {
        let told = workspace.sluice(arguments).fails(2);
        assert!(told.contains(says), "{arguments:?}: {told}");
    }
    assert_eq!(
        workspace
            .json(&["topic", "list"])
            .as_array()
            .unwrap()
            .iter()
            .filter(|topic| topic["name"] == json!("again"))
            .count(),
        0
    );
}
