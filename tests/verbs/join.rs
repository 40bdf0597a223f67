//! State that comes of several topics: over crashes, rewinds and replays; and time that goes on without one of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, kill, project};

use crate::errors::balances;
use crate::timers::{flights, fly};

/// The example pipelines, with small batches.
fn trips(delivery: &str) -> Workspace {
    let workspace = Workspace::new();
    let example = |name: &str| std::fs::read_to_string(project().join("pipelines").join(name)).unwrap();
    let every = if delivery == "at-least-once" { "commit-every = \"20ms\"\n" } else { "" };
    workspace.write("pipelines/airport-pairs.toml", example("airport-pairs.toml"));
    let text = format!("delivery = \"{delivery}\"\n{}[batch]\nmax-events = 40\n{every}", example("round-trips.toml"));
    workspace.write("pipelines/round-trips.toml", text);
    workspace.sluice(&["topic", "create", "flights", "--partitions", "4"]).ok();
    workspace
}

/// How often each flight there met one back: by pair, and the times of both.
fn met(workspace: &Workspace) -> BTreeMap<(String, i64, i64), usize> {
    let mut met = BTreeMap::new();
    for event in workspace.events("round-trips") {
        let trip: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let time = |way: &str| trip[way]["time"].as_i64().unwrap();
        *met.entry((event["key"].to_string(), time("there"), time("back"))).or_default() += 1;
    }
    met
}

/// The same, by a plain program.
fn plain(workspace: &Workspace) -> BTreeMap<(String, i64, i64), usize> {
    let mut by_pair: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in workspace.events("flights-back") {
        by_pair.entry(event["key"].to_string()).or_default().push(event["timestamp"].as_i64().unwrap());
    }
    let mut met = BTreeMap::new();
    for event in workspace.events("flights-there") {
        let (pair, there) = (event["key"].to_string(), event["timestamp"].as_i64().unwrap());
        for back in by_pair.get(&pair).into_iter().flatten().filter(|back| there.abs_diff(**back) <= 6 * 3_600_000) {
            *met.entry((pair.clone(), there, *back)).or_default() += 1;
        }
    }
    met
}

fn fly_whatever_is_killed(delivery: &str) -> Workspace {
    let workspace = trips(delivery);
    for round in 0..5 {
        let mut node = workspace.start(&[]).unwrap();
        fly(&workspace, &flights(round * 1000, round * 1000 + 1000));
        workspace.until_it_goes_on("round-trips");
        kill(&mut node);
        if round == 2 {
            workspace.sluice(&["checkpoint", "create", "mid"]).ok();
        }
    }
    workspace.sluice(&["run", "--until-idle"]).ok();
    balances(&workspace);
    workspace
}

fn kept(workspace: &Workspace) -> Value {
    workspace.json(&["state", "scan", "round-trips", "--max", "100000"])["entries"].clone()
}

#[test]
fn what_belongs_together_meets_once_whatever_is_killed_and_rewound() {
    let workspace = fly_whatever_is_killed("exactly-once");
    let plain = plain(&workspace);
    assert!(plain.len() > 50, "only {} meet", plain.len());
    assert_eq!(met(&workspace), plain);
    // The order in which the topics were read stands in the changelog: so a replay comes to the very same.
    let is_same = |from: &str, to: &str| {
        let replay = workspace.json(&["replay", "round-trips", "--from", from, "--to", to, "--diff"]);
        assert_eq!(["added", "missing", "changed"].map(|name| replay[name].as_u64().unwrap()), [0; 3], "{replay}");
        let states = || replay["partitions"].as_array().unwrap().iter().map(|part| &part["state"]);
        assert!(states().filter(|state| !state.is_null()).all(|state| state["differing"] == 0), "{replay}");
        assert!(states().any(|state| state["compared"] == true), "{replay}");
        replay["same"].as_u64().unwrap()
    };
    assert_eq!(is_same("earliest", "latest"), plain.values().sum::<usize>() as u64);
    assert!(is_same("checkpoint:mid", "latest") > 0);
    assert!(is_same("earliest", "checkpoint:mid") > 0);
    is_same("flights-back/2:100", "flights-back/2:200");

    let told = workspace.events("round-trips").len();
    for to in ["flights-there/0:50", "flights-back/3:111", "checkpoint:mid", "70", "2:130"] {
        let moved = workspace.json(&["rewind", "round-trips", "--to", to, "--yes"]);
        assert!(moved["again"].as_u64().unwrap() > 0, "{moved}");
        workspace.sluice(&["run", "--until-idle"]).ok();
        assert!(met(&workspace).keys().eq(plain.keys()), "what meets behind a rewind to {to} does not belong together");
    }
    assert!(workspace.events("round-trips").len() > told);
    // What was written before by histories that were left does not count.
    is_same("earliest", "latest");

    let state = kept(&workspace);
    workspace.sluice(&["rewind", "round-trips", "--to", "earliest", "--state", "reset", "--yes"]).ok();
    assert_eq!(kept(&workspace), json!([]));
    workspace.sluice(&["rewind", "round-trips", "--undo", "--yes"]).ok();
    assert!(kept(&workspace) == state && !state.as_array().unwrap().is_empty());
    assert_eq!(workspace.pipeline("round-trips")["lag"], 0);
    let told = workspace.events("round-trips").len();
    workspace.sluice(&["rewind", "round-trips", "--to", "earliest", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.events("round-trips").len() - told, plain.values().sum::<usize>());
    is_same("earliest", "latest");
    // What is kept behind all this is what later flights need.
    fly(&workspace, &flights(5000, 6000));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let plain = self::plain(&workspace);
    assert!(met(&workspace).keys().eq(plain.keys()));
}

/// Where commits end, there and within them.
#[test]
fn behind_a_rewind_over_two_topics_the_state_is_what_it_was_there() {
    let workspace = trips("exactly-once");
    let all = || {
        fly(&workspace, &flights(0, 3000));
        workspace.sluice(&["run", "pipelines/airport-pairs.toml", "--until-idle"]).ok();
    };
    all();
    // All is there before it is read: so it is read in the same order each time.
    workspace.sluice(&["run", "pipelines/round-trips.toml", "--until-idle"]).ok();
    let state = kept(&workspace);
    for number in 0..10u64 {
        let (topic, partition) = (["flights-there", "flights-back"][number as usize % 2], number % 4);
        let to = format!("{topic}/{partition}:{}", number * number * 7919 % 300);
        workspace.sluice(&["rewind", "round-trips", "--to", &to, "--yes"]).ok();
        workspace.sluice(&["run", "pipelines/round-trips.toml", "--until-idle"]).ok();
        assert!(kept(&workspace) == state, "behind a rewind to {to} the state is another one in the end");
    }
    assert!(state.as_array().unwrap().len() > 100);
}

#[test]
fn at_least_once_nothing_that_belongs_together_is_missed() {
    let workspace = fly_whatever_is_killed("at-least-once");
    let (met, plain) = (met(&workspace), plain(&workspace));
    assert!(met.keys().eq(plain.keys()) && plain.iter().all(|(id, times)| met[id] >= *times));
}

#[test]
fn at_most_once_nothing_meets_twice() {
    let workspace = fly_whatever_is_killed("at-most-once");
    let (met, plain) = (met(&workspace), plain(&workspace));
    assert!(met.iter().all(|(id, times)| plain.get(id).is_some_and(|most| times <= most)));
}

#[test]
fn a_state_over_several_topics_goes_to_a_file_and_comes_back_elsewhere() {
    let (here, there) = (trips("exactly-once"), trips("exactly-once"));
    // Topics have other ids there.
    there.sluice(&["topic", "create", "another"]).ok();
    for workspace in [&here, &there] {
        fly(workspace, &flights(0, 1500));
        workspace.sluice(&["run", "--until-idle"]).ok();
    }
    here.sluice(&["checkpoint", "create", "whole"]).ok();
    let file = there.path("whole.checkpoint");
    here.sluice(&["checkpoint", "export", "whole", file.to_str().unwrap()]).ok();
    there.sluice(&["rewind", "round-trips", "--to", "earliest", "--state", "reset", "--yes"]).ok();
    there.sluice(&["checkpoint", "import", file.to_str().unwrap()]).ok();
    there.sluice(&["checkpoint", "restore", "whole", "--pipeline", "round-trips", "--yes"]).ok();
    assert!(kept(&there) == kept(&here));
    for workspace in [&here, &there] {
        fly(workspace, &flights(1500, 3000));
        workspace.sluice(&["run", "--until-idle"]).ok();
    }
    assert!(met(&there) == met(&here) && met(&here) == plain(&here));
}

#[test]
fn topics_of_one_state_have_the_same_partition_count() {
    let workspace = trips("exactly-once");
    workspace.sluice(&["topic", "create", "flights-back", "--partitions", "3"]).ok();
    let refused = workspace.sluice(&["check"]).fails(2);
    assert!(refused.contains("flights-back") && refused.contains("3 partitions"), "{refused}");
}

#[test]
fn a_topic_that_nobody_writes_to_holds_time_up_only_for_a_while_and_a_replay_knows_of_it() {
    let workspace = Workspace::new();
    let text = std::fs::read_to_string(project().join("pipelines/airport-hours.toml")).unwrap();
    let text = text.replace("topics = [\"flights\"]", "topics = [\"flights\", \"more-flights\"]");
    workspace.write("pipelines/airport-hours.toml", text + "[batch]\nmax-events = 50\n[time]\nidle-after = \"40ms\"\n");
    workspace.sluice(&["topic", "create", "flights", "--partitions", "4"]).ok();
    workspace.sluice(&["topic", "create", "more-flights", "--partitions", "4"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    let told = || workspace.events("airport-hours").len();
    fly(&workspace, &flights(0, 1000));
    workspace.until("the other topic is not waited for", || told() > 100);
    let before = told();
    fly(&workspace, &flights(1000, 2000));
    workspace.until("it goes on", || told() > before + 100 && workspace.pipeline("airport-hours")["lag"] == 0);
    // What comes there late is late.
    workspace.write("some", flights(100, 200));
    let time = ["--timestamp", "date", "--timestamp-format", "%Y/%m/%d %H:%M"];
    workspace.sluice(&[&["produce", "more-flights", "some", "--key", "origin"][..], &time].concat()).ok();
    workspace.until("all is read", || workspace.pipeline("airport-hours")["lag"] == 0);
    let hours = told();
    kill(&mut node);
    assert!(!workspace.values("airport-hours.too-late").is_empty());
    let replay = workspace.json(&["verify", "airport-hours"]);
    assert_eq!(["added", "missing", "changed"].map(|name| replay[name].as_u64().unwrap()), [0; 3], "{replay}");
    assert!(replay["same"].as_u64().unwrap() >= hours as u64, "{replay}");
}
