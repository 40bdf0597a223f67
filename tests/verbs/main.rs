//! Every verb, beside a running node and without one, with right input and with wrong.
#![allow(clippy::unwrap_used, reason = "a test, in functions of its own too")]

mod access;
mod backup;
mod dashboard;
mod delivery;
mod dev;
mod errors;
mod http;
mod join;
mod languages;
mod operate;
mod reload;
mod replay;
mod state;
mod storage;
mod timers;
mod watching;
mod zoo;

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::process::Stdio;

use serde_json::Value;
use sluice_tests::sluice::{Workspace, kill, project, terminate};

const PIPELINE: &str = r#"name = "late"
[source]
topics = ["flights"]
[[stage]]
plugin = "../plugins/late-flights"
config = { threshold-minutes = 60 }
[[sink]]
topic = "late"
"#;

/// Writes every event of one topic to another as it is.
const THROUGH: &str = r#"name = "p"
[source]
topics = ["in"]
[[stage]]
plugin = "../plugins/pass-through"
[[sink]]
topic = "out"
"#;

/// A workspace with the pipeline `THROUGH`, and the topic that it reads.
fn through() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH);
    workspace.sluice(&["topic", "create", "in"]).ok();
    workspace
}

const FLIGHT: &str = r#"{"date":"2001/01/01 00:47","delay":66,"distance":1750,"origin":"DTW","destination":"LAS"}"#;

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("pipelines/late.toml", PIPELINE);
    workspace
}

/// With a topic `flights` that holds one flight.
fn with_flight() -> Workspace {
    let workspace = workspace();
    workspace.sluice(&["topic", "create", "flights"]).ok();
    workspace.write("flight", FLIGHT);
    workspace.sluice(&["produce", "flights", "flight", "--key", "origin"]).ok();
    workspace
}

/// That each flight there met each one back within six hours, and nothing else did.
fn check_round_trips(workspace: &Workspace) {
    /// Times of the flights there and of those back.
    type Ways = (Vec<i64>, Vec<i64>);
    let mut pairs: BTreeMap<String, Ways> = BTreeMap::new();
    for event in workspace.events("flights") {
        let flight: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let (from, to) = (flight["origin"].as_str().unwrap(), flight["destination"].as_str().unwrap());
        let ways = pairs.entry(format!("{}-{}", from.min(to), from.max(to))).or_default();
        let way = if from < to { &mut ways.0 } else { &mut ways.1 };
        way.push(event["timestamp"].as_i64().unwrap());
    }
    let mut expected = Vec::new();
    for (pair, (there, back)) in &pairs {
        for there in there {
            let near = back.iter().filter(|back| there.abs_diff(**back) <= 6 * 3_600_000);
            expected.extend(near.map(|back| (pair.clone(), *there, *back)));
        }
    }
    let met = |event: &Value| {
        let trip: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let time = |way: &str| trip[way]["time"].as_i64().unwrap();
        (event["key"].as_str().unwrap().to_owned(), time("there"), time("back"))
    };
    let mut found: Vec<_> = workspace.events("round-trips").iter().map(met).collect();
    expected.sort();
    found.sort();
    assert!(expected.len() > 100, "only {} flights meet", expected.len());
    assert_eq!(found, expected);
}

#[test]
fn the_flights_run_through_the_example_pipelines() {
    let workspace = Workspace::new();
    let flights = project().join("pipelines/data/flights.ndjson").canonicalize().unwrap();
    let pipelines = project().join("pipelines").canonicalize().unwrap();
    workspace.sluice(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let produce = ["produce", "flights", flights.to_str().unwrap(), "--key", "origin", "--timestamp", "date"];
    workspace.sluice(&[&produce[..], &["--timestamp-format", "%Y/%m/%d %H:%M"]].concat()).ok();
    let told = workspace.sluice(&["run", pipelines.to_str().unwrap(), "--until-idle", "--json"]).ok();
    let told: Value = serde_json::from_str(&told).unwrap();

    let text = std::fs::read_to_string(&flights).unwrap();
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let late = |flight: &&Value| flight["delay"].as_i64().unwrap() >= 60;
    let mut expected: Vec<String> = all
        .iter()
        .filter(late)
        .map(|f| format!(r#"{{"route":[{},{}],"minutes":{}}}"#, f["origin"], f["destination"], f["delay"]))
        .collect();
    expected.sort();
    for topic in ["late-flights", "late-flights-copy"] {
        let events = workspace.events(topic);
        let mut values: Vec<_> = events.iter().map(|event| event["value"].as_str().unwrap().to_owned()).collect();
        values.sort();
        assert_eq!(values, expected, "{topic}");
        // Timestamps are the flights' own: 2001.
        assert!(
            events
                .iter()
                .all(|event| (978_307_200_000..1_009_843_200_000).contains(&event["timestamp"].as_i64().unwrap()))
        );
    }
    // Four pipelines read the flights, one the late ones, and one the flights there and back.
    assert_eq!(told["read"], 5 * all.len() + expected.len());
    check_round_trips(&workspace);
    // The averages of routes, over four partitions: each flight has its own, and the last one of a route is that of all.
    let mut routes: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for flight in &all {
        let route = format!("{}-{}", flight["origin"].as_str().unwrap(), flight["destination"].as_str().unwrap());
        let seen = routes.entry(route).or_default();
        *seen = (seen.0 + 1, seen.1 + flight["delay"].as_i64().unwrap());
    }
    let averages = workspace.events("route-delays");
    assert_eq!(averages.len(), all.len());
    let kept = workspace.json(&["state", "scan", "route-delays", "--max", "100000"]);
    let kept = kept["entries"].as_array().unwrap();
    assert_eq!(kept.len(), routes.len());
    for entry in kept {
        let seen: Value = serde_json::from_str(entry["value"].as_str().unwrap()).unwrap();
        let route = entry["key"].as_str().unwrap().strip_prefix("route/").unwrap();
        assert_eq!(
            (seen["flights"].as_i64(), seen["minutes"].as_i64()),
            (Some(routes[route].0), Some(routes[route].1))
        );
    }
}

#[test]
fn verbs_say_the_same_beside_a_node_and_without_one() {
    let workspace = with_flight();
    workspace.sluice(&["run", "--until-idle"]).ok();
    let verbs: [&[&str]; 5] = [
        &["topic", "list"],
        &["topic", "describe", "flights", "--json"],
        &["consume", "late", "--json"],
        &["consume", "late", "--max", "1"],
        &["consume", "flights", "--from", "latest"],
    ];
    let alone: Vec<_> = verbs.iter().map(|verb| workspace.sluice(verb).ok()).collect();
    let mut node = workspace.start(&[]).unwrap();
    let beside: Vec<_> = verbs.iter().map(|verb| workspace.sluice(verb).ok()).collect();
    assert_eq!(alone, beside);

    // What is produced and made beside the node arrives and counts.
    workspace.sluice(&["produce", "flights", "flight", "--key", "origin"]).ok();
    let two = workspace.sluice(&["consume", "late", "--max", "2", "--follow"]).ok();
    assert_eq!(two.lines().count(), 2);
    workspace.sluice(&["topic", "create", "other", "--partitions", "3"]).ok();
    let status: Value = serde_json::from_str(&workspace.sluice(&["status", "--json"]).ok()).unwrap();
    assert_eq!((&status["pid"], &status["pipelines"][0]["name"]), (&node.id().into(), &"late".into()));

    // SIGTERM drains, and the node says goodbye with 0.
    terminate(&node);
    assert_eq!(node.wait().unwrap().code(), Some(0));
    let status: Value = serde_json::from_str(&workspace.sluice(&["status", "--json"]).ok()).unwrap();
    assert_eq!((&status["pipelines"][0]["read"], &status["pipelines"][0]["lag"]), (&2.into(), &0.into()));
}

#[test]
fn a_consumed_event_tells_all_about_itself() {
    let workspace = with_flight();
    for read in [1, 0] {
        let told = workspace.sluice(&["run", "--until-idle", "--json"]).ok();
        assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["read"], read);
    }
    let event = &workspace.events("late")[0];
    assert_eq!(event["key"], "DTW");
    assert_eq!(event["value"], r#"{"route":["DTW","LAS"],"minutes":66}"#);
    assert_eq!((&event["origin"]["topic"], &event["origin"]["offset"]), (&"flights".into(), &0.into()));
    workspace.write("binary", [0xff, 0xfe]);
    workspace.sluice(&["produce", "flights", "binary"]).ok();
    assert_eq!(workspace.events("flights")[1]["value"]["base64"], "//4=");
    assert!(workspace.events("flights")[1]["key"].is_null());
}

#[test]
fn produce_with_an_id_goes_on_where_it_stopped() {
    let workspace = with_flight();
    workspace.write("lines", "a\nb\nc\n");
    let produce = ["produce", "flights", "lines", "--producer-id", "loader"];
    assert!(workspace.sluice(&produce).ok().starts_with("3 events appended"));
    workspace.write("lines", "a\nb\nc\nd\n");
    assert_eq!(workspace.sluice(&produce).ok(), "1 events appended to flights, 3 were there before\n");
    assert_eq!(workspace.events("flights").len(), 5);
}

/// Wrong definitions: what to change, the exit code being 2, and what stderr says.
#[test]
fn wrong_definitions_are_refused_with_file_line_and_help() {
    let wrong = [
        (PIPELINE.replace("topics =", "topcis ="), vec!["pipelines/late.toml:3:1", "topcis", "did you mean `topics`?"]),
        (PIPELINE.replace("[\"flights\"]", "7"), vec!["pipelines/late.toml:3:10", "invalid type"]),
        (
            PIPELINE.replace("late-flights", "nowhere"),
            vec![":5:10", "cannot read the plugin: plugins/nowhere", "sluice plugin build"],
        ),
        (PIPELINE.replace("../plugins/late-flights", "late.toml"), vec![":5:10", "not a WebAssembly file"]),
        (PIPELINE.replace("../plugins/late-flights", "other.wasm"), vec![":5:10", "not a consumer", "wasi:cli/run"]),
        (PIPELINE.replace("../plugins/late-flights", "net.wasm"), vec![":5:10", "imports wasi:sockets/tcp@0.2.0"]),
        (
            PIPELINE.replace("\"flights\"", "\"trains\""),
            vec![":3:11", "unknown topic: \"trains\"", "sluice topic create trains"],
        ),
        (PIPELINE.replace("threshold-minutes", "treshold"), vec![":6:10", "treshold"]),
        (PIPELINE.replace("topic = \"late\"", "topic = \"flights\""), vec![":8:9", "the sink is the source"]),
        (format!("{PIPELINE}[time]\nlateness = \"1s\"\n"), vec![":9:1", "capabilities = [\"state\", \"timers\"]"]),
        (format!("{PIPELINE}[reload]\nwatch = 1\n"), vec![":10:9", "invalid type"]),
        (PIPELINE.replace("name = \"late\"", "name = \"late"), vec![":1:"]),
    ];
    let workspace = with_flight();
    workspace.write("pipelines/other.wasm", include_bytes!("../fixtures/other-world.wasm"));
    workspace.write("pipelines/net.wasm", include_bytes!("../fixtures/sockets.wasm"));
    let before = workspace.sluice(&["status", "--json"]).ok() + &workspace.sluice(&["topic", "list"]).ok();
    for (definition, says) in wrong {
        workspace.write("pipelines/late.toml", &definition);
        for verb in ["run", "check"] {
            let stderr = workspace.sluice(&[verb]).fails(2);
            for text in &says {
                assert!(stderr.contains(text), "{verb} does not say {text:?}:\n{stderr}");
            }
        }
    }
    let after = workspace.sluice(&["status", "--json"]).ok() + &workspace.sluice(&["topic", "list"]).ok();
    assert_eq!(before, after, "something was changed");
}

#[test]
fn wrong_arguments_are_refused_with_what_to_do() {
    let workspace = with_flight();
    workspace.write("large", "x".repeat((1 << 20) + 1));
    workspace.write("mixed", format!("{FLIGHT}\nnot json\n{FLIGHT}\n"));
    let wrong: [(&[&str], i32, &str); 14] = [
        (&["topic", "create", "flights"], 2, "exists already: flights"),
        (&["topic", "create", "no/slashes"], 2, "letters, digits"),
        (&["topic", "create", "none", "--partitions", "0"], 2, "1 to 10000 partitions"),
        (&["topic", "describe", "trains"], 2, "unknown topic: trains"),
        (&["produce", "trains", "flight"], 2, "sluice topic create trains"),
        (&["produce", "flights", "missing-file"], 2, "missing-file"),
        (&["produce", "flights", "large"], 2, "line 1: an event of more than 1048576 bytes"),
        (&["produce", "flights", "mixed", "--key", "origin"], 2, "line 2: not JSON"),
        (&["produce", "flights", "flight", "--partition", "9"], 2, "unknown partition"),
        (&["consume", "trains"], 2, "unknown topic: trains"),
        (&["consume", "flights", "--from", "yesterday"], 2, "earliest, latest, an offset"),
        (&["consume", "flights", "--follow"], 2, "no node is running"),
        (&["plugin", "inspect", "flight"], 2, "not a WebAssembly file"),
        (&["run", "nowhere"], 2, "nowhere"),
    ];
    for (verb, code, says) in wrong {
        let stderr = workspace.sluice(verb).fails(code);
        assert!(stderr.contains(says), "{verb:?} does not say {says:?}:\n{stderr}");
    }
    // The line before the wrong one was appended, and it said so.
    assert_eq!(workspace.events("flights").len(), 2);
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let workspace = with_flight();
    let mut node = workspace.start(&[]).unwrap();
    let stderr = workspace.sluice(&["run"]).fails(1);
    assert!(stderr.contains("in use") && stderr.contains("--data"), "{stderr}");
    assert!(workspace.sluice(&["status"]).ok().contains("running"));
    kill(&mut node);
}

#[test]
fn a_directory_that_cannot_be_written_is_a_storage_fault() {
    let workspace = workspace();
    workspace.write("file", "");
    let stderr = workspace.sluice(&["topic", "create", "flights", "--data", "file/data"]).fails(3);
    assert!(stderr.contains("file/data"), "{stderr}");
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let workspace = with_flight();
    workspace.write("more", "x".repeat(700_000));
    // A limit on file size stands in for a full disk: writes fail half done, with SIGXFSZ ignored they say so.
    let script = "trap '' XFSZ; ulimit -f 400; exec \"$0\" produce flights more";
    let mut limited = std::process::Command::new("bash");
    limited
        .arg("-c")
        .arg(script)
        .arg(sluice_tests::sluice::binary())
        .current_dir(workspace.path(""))
        .stdin(Stdio::null());
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(workspace.events("flights").len(), 1);
    workspace.sluice(&["produce", "flights", "more"]).ok();
    assert_eq!(workspace.events("flights").len(), 2);
}

#[test]
fn an_event_that_fails_halts_its_partition_at_that_event_and_says_why() {
    let workspace = with_flight();
    workspace.write("pipelines/late.toml", format!("{PIPELINE}[errors]\non-error = \"halt\"\n"));
    workspace.write("bad", "not a flight\n");
    workspace.sluice(&["produce", "flights", "bad"]).ok();
    workspace.sluice(&["produce", "flights", "flight", "--key", "origin"]).ok();
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(1);
    assert!(stderr.contains("flights/0 offset 1") && stderr.contains("expected"), "{stderr}");
    assert_eq!(workspace.events("late").len(), 1);
    let status: Value = serde_json::from_str(&workspace.sluice(&["status", "--json"]).ok()).unwrap();
    assert_eq!(status["pipelines"][0]["partitions"][0]["cursor"], 1);
}

#[test]
fn a_flipped_bit_is_never_delivered_and_the_rest_runs() {
    let workspace = with_flight();
    workspace.sluice(&["topic", "create", "other"]).ok();
    workspace.sluice(&["produce", "other", "flight"]).ok();
    // More than fits the commit log's small groups, so that only the segment holds it.
    workspace.write("many", format!("{FLIGHT}\n").repeat(30_000));
    workspace.sluice(&["produce", "flights", "many"]).ok();
    workspace.sluice(&["produce", "other", "flight"]).ok();
    let segment = workspace.path(".sluice/topics/1/00000-00000000000000000000.segment");
    let mut file = std::fs::File::options().write(true).open(&segment).unwrap();
    file.seek(SeekFrom::Start(1_000_000)).unwrap();
    file.write_all(b"!").unwrap();
    let stderr = workspace.sluice(&["consume", "flights"]).fails(3);
    assert!(stderr.contains("00000-00000000000000000000.segment") && stderr.contains("wrong CRC"), "{stderr}");
    assert_eq!(workspace.events("other").len(), 2);
}

#[test]
fn plugins_are_inspected() {
    let workspace = Workspace::new();
    let shown: Value =
        serde_json::from_str(&workspace.sluice(&["plugin", "inspect", "plugins/late-flights", "--json"]).ok()).unwrap();
    assert_eq!(shown["world"], "batch-consumer");
    let imports: Vec<_> = shown["imports"].as_array().unwrap().iter().map(|i| i.as_str().unwrap().to_owned()).collect();
    assert_eq!(imports, ["sluicegate:plugin/log@1.1.0", "sluicegate:plugin/progress@1.1.0"]);
    assert_eq!((&shown["contract"], &shown["state-version"]), (&"1.1.0".into(), &0.into()));
    assert!(shown["memory"].as_u64() >= Some(65_536), "{shown}");
    let told = workspace.sluice(&["plugin", "inspect", "plugins/python/dedupe"]).ok();
    assert!(told.contains("consumer 1.1.0") && told.contains("capabilities = [\"state\"]"), "{told}");
}

/// The text of the n-th block of this language in the README.
fn readme_block(language: &str, n: usize) -> String {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = readme.split(fence.as_str()).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).nth(n).unwrap()
}

#[test]
fn what_the_readme_says_about_writing_a_consumer_is_true() {
    let workspace = Workspace::new();
    std::fs::create_dir_all(workspace.path("shout/src")).unwrap();
    let root = project().canonicalize().unwrap();
    let manifest = readme_block("toml", 0).replace("PATH/TO/sluicegate", root.to_str().unwrap());
    // A workspace of its own, with the versions that are built already.
    workspace.write("shout/Cargo.toml", manifest + "\n[workspace]\n");
    workspace.write("shout/src/lib.rs", readme_block("rust", 0));
    std::fs::copy(root.join("plugins/Cargo.lock"), workspace.path("shout/Cargo.lock")).unwrap();
    let mut build = workspace.command(&["plugin", "build", "shout"]);
    let built = build.env("CARGO_TARGET_DIR", root.join("plugins/target")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    workspace.write("pipelines/shout.toml", readme_block("toml", 1));

    workspace.sluice(&["topic", "create", "words"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    let mut produce = workspace.command(&["produce", "words"]).stdin(Stdio::piped()).spawn().unwrap();
    produce.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    assert!(produce.wait().unwrap().success());
    assert_eq!(workspace.sluice(&["consume", "shouted", "--follow", "--max", "1"]).ok(), "HELLO\n");
    kill(&mut node);
}

#[test]
fn a_refused_first_start_leaves_nothing() {
    let workspace = workspace();
    workspace.sluice(&["run"]).fails(2);
    assert!(!workspace.path(".sluice").exists());
}
