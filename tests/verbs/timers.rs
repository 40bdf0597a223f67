//! Timers and windows: over crashes and rewinds, from both worlds, when they fail, and in the end.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, kill, project};

use crate::errors::balances;

const HOUR: i64 = 3_600_000;

/// The example pipeline, with small batches.
fn hours() -> Workspace {
    let workspace = Workspace::new();
    let text = std::fs::read_to_string(project().join("pipelines/airport-hours.toml")).unwrap();
    workspace.write("pipelines/airport-hours.toml", text + "[batch]\nmax-events = 50\n");
    workspace.sluice(&["topic", "create", "flights", "--partitions", "4"]).ok();
    workspace
}

pub(crate) fn flights(from: usize, to: usize) -> String {
    let all = std::fs::read_to_string(project().join("pipelines/data/flights.ndjson")).unwrap();
    all.lines().skip(from).take(to - from).map(|line| format!("{line}\n")).collect()
}

pub(crate) fn fly(workspace: &Workspace, flights: &str) {
    workspace.write("some", flights);
    let time = ["--timestamp", "date", "--timestamp-format", "%Y/%m/%d %H:%M"];
    workspace.sluice(&[&["produce", "flights", "some", "--key", "origin"][..], &time].concat()).ok();
}

/// What a plain program makes of the flights: for each airport and hour how many, and the sum and the greatest of their delays.
fn plain(workspace: &Workspace) -> BTreeMap<(String, i64), (u64, f64, f64)> {
    let mut hours = BTreeMap::new();
    for event in workspace.events("flights") {
        let flight: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let (airport, delay) = (event["key"].as_str().unwrap().to_owned(), flight["delay"].as_f64().unwrap());
        let start = event["timestamp"].as_i64().unwrap().div_euclid(HOUR) * HOUR;
        let hour: &mut (u64, f64, f64) = hours.entry((airport, start)).or_insert((0, 0.0, f64::MIN));
        *hour = (hour.0 + 1, hour.1 + delay, hour.2.max(delay));
    }
    hours
}

/// That each hour came out so many times, as the plain program has it.
fn check_hours(workspace: &Workspace, times: usize) {
    let plain = plain(workspace);
    let mut told: BTreeMap<(String, i64), usize> = BTreeMap::new();
    for event in workspace.events("airport-hours") {
        let hour: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let id = (event["key"].as_str().unwrap().to_owned(), hour["start"].as_i64().unwrap());
        let (count, sum, worst) = plain[&id];
        let average = (sum / count as f64 * 10.0).round() / 10.0;
        assert_eq!(hour, json!({"start": id.1, "flights": count, "average": average, "worst": worst}), "{id:?}");
        assert_eq!(event["timestamp"], id.1 + HOUR - 1);
        *told.entry(id).or_default() += 1;
    }
    assert_eq!(told.len(), plain.len());
    assert!(told.values().all(|found| *found == times), "an hour is told too often, or not often enough");
    assert_eq!(workspace.values("airport-hours.too-late"), [""; 0]);
}

#[test]
fn each_hour_is_told_once_whatever_is_killed_and_again_behind_a_rewind() {
    let workspace = hours();
    for round in 0..6 {
        let mut node = workspace.start(&[]).unwrap();
        fly(&workspace, &flights(round * 1000, round * 1000 + 1000));
        workspace.until_it_goes_on("airport-hours");
        kill(&mut node);
    }
    workspace.sluice(&["run", "--until-idle"]).ok();
    let open = workspace.json(&["state", "scan", "airport-hours"]);
    assert!(!open["entries"].as_array().unwrap().is_empty(), "the last hours are open");
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    check_hours(&workspace, 1);
    assert_eq!(workspace.json(&["state", "scan", "airport-hours"])["entries"], json!([]));
    balances(&workspace);
    // From the start, with nothing: all of it once more.
    workspace.sluice(&["rewind", "airport-hours", "--to", "earliest", "--state", "reset", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    check_hours(&workspace, 2);
}

#[test]
fn behind_a_rewind_with_its_state_the_hours_from_there_on_are_told_again() {
    let workspace = hours();
    fly(&workspace, &flights(0, 3000));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let first = workspace.events("airport-hours");
    workspace.sluice(&["rewind", "airport-hours", "--to", "0:200", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    let since = |event: &&Value| event["origin"]["partition"] == 0 && event["origin"]["offset"].as_u64() >= Some(200);
    let told = |event: &Value| {
        let origin = &event["origin"];
        let number = |name: &str| origin[name].as_u64();
        let position = (number("partition"), number("offset"), number("ordinal"));
        (position, event["key"].to_string(), event["value"].to_string())
    };
    // What fired just before the event at 200 is not told again.
    let expected: Vec<_> =
        first.iter().filter(since).filter(|event| event["origin"]["offset"] != 200).map(told).collect();
    assert!(!expected.is_empty());
    let mut all: Vec<_> = first.iter().map(told).chain(expected).collect();
    let mut found: Vec<_> = workspace.events("airport-hours").iter().map(told).collect();
    all.sort();
    found.sort();
    assert_eq!(found, all);
}

#[test]
fn an_hour_is_told_when_all_who_write_have_come_so_far() {
    let workspace = hours();
    workspace.write(
        "pipelines/mix.toml",
        "name = \"mix\"\n[source]\ntopics = [\"raw\"]\n[[stage]]\nplugin = \"../plugins/pass-through\"\n\
         [[sink]]\ntopic = \"flights\"\npartition-by = \"round-robin\"\n[batch]\nmax-events = 100\n",
    );
    workspace.sluice(&["topic", "create", "raw", "--partitions", "4"]).ok();
    workspace.write("some", flights(0, 4000));
    let time = ["--timestamp", "date", "--timestamp-format", "%Y/%m/%d %H:%M"];
    workspace.sluice(&[&["produce", "raw", "some", "--key", "origin"][..], &time].concat()).ok();
    // All is there before anybody reads it: what four lanes have written, one far ahead of the other.
    workspace.sluice(&["run", "pipelines/mix.toml", "--until-idle"]).ok();
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    assert_eq!(workspace.values("airport-hours.too-late"), [""; 0]);
    let mut told: BTreeMap<(String, i64), u64> = BTreeMap::new();
    let mut ids = std::collections::BTreeSet::new();
    for event in workspace.events("airport-hours") {
        let hour: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        let id = (event["key"].as_str().unwrap().to_owned(), hour["start"].as_i64().unwrap());
        assert!(ids.insert((event["origin"]["partition"].to_string(), id.clone())), "{id:?} is told twice");
        *told.entry(id).or_default() += hour["flights"].as_u64().unwrap();
    }
    let plain: BTreeMap<_, _> = plain(&workspace).into_iter().map(|(id, (count, _, _))| (id, count)).collect();
    assert_eq!(told, plain);
}

#[test]
fn late_events_are_counted_and_go_to_a_sink_of_their_own() {
    let late =
        "[time]\nlateness = \"1s\"\nlate-sink = \"late\"\n[[sink]]\ntopic = \"out\"\n[[sink]]\ntopic = \"late\"\n";
    let workspace = alarms("");
    let text = std::fs::read_to_string(workspace.path("pipelines/alarm.toml")).unwrap();
    workspace.write("pipelines/alarm.toml", text.replace("[[sink]]\ntopic = \"out\"\n", late));
    set(&workspace, &[("a", 5000), ("b", 4200), ("c", 3900), ("d", 7000), ("e", 5999), ("f", 6000)]);
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("all is read", || workspace.pipeline("alarm")["lag"] == 0);
    let keys: Vec<_> = workspace.events("late").iter().map(|event| event["key"].clone()).collect();
    assert_eq!(keys, ["c", "e"]);
    let lane = &workspace.pipeline("alarm")["partitions"][0];
    assert_eq!((&lane["late"], &lane["watermark"]), (&json!(2), &json!(6000)));
    assert!(workspace.sluice(&["status"]).ok().contains("had 2 late events"));
    assert_eq!(fired(&workspace), named(&[("b", 5200), ("a", 6000)]));
    kill(&mut node);
}

#[test]
fn who_writes_nothing_any_more_does_not_hold_up_the_others() {
    let workspace = alarms("[time]\nidle-after = \"300ms\"\n");
    workspace.write(
        "pipelines/mix.toml",
        "name = \"mix\"\n[source]\ntopics = [\"raw\"]\n[[stage]]\nplugin = \"../plugins/pass-through\"\n\
         [[sink]]\ntopic = \"in\"\n",
    );
    workspace.sluice(&["topic", "create", "raw", "--partitions", "2"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    // Of the two partitions one stays empty.
    let lines = [("a", 1000), ("a", 3000)].map(|(key, time)| json!({"k": key, "t": time}).to_string() + "\n");
    workspace.write("lines", lines.concat());
    workspace.sluice(&["produce", "raw", "lines", "--key", "k", "--timestamp", "t"]).ok();
    workspace.until("it fires", || fired(&workspace) == named(&[("a", 2000)]));
    kill(&mut node);
}

fn alarms(more: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("pipelines/alarm.wasm", wat::parse_file(project().join("tests/guests/alarm.wat")).unwrap());
    let text = "name = \"alarm\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = \"alarm.wasm\"\ncapabilities = [\"timers\"]\n";
    workspace.write("pipelines/alarm.toml", format!("{text}{more}[[sink]]\ntopic = \"out\"\n"));
    workspace.sluice(&["topic", "create", "in"]).ok();
    workspace
}

/// Events with these keys and times; the first byte of the key says what becomes of the timer.
fn set(workspace: &Workspace, alarms: &[(&str, i64)]) {
    let line = |(key, time): &(&str, i64)| json!({"k": key, "t": time}).to_string() + "\n";
    workspace.write("lines", alarms.iter().map(line).collect::<String>());
    workspace.sluice(&["produce", "in", "lines", "--key", "k", "--timestamp", "t"]).ok();
}

/// The keys of what came out, with the times.
fn fired(workspace: &Workspace) -> Vec<(String, i64)> {
    let event = |event: Value| (event["key"].as_str().unwrap().to_owned(), event["timestamp"].as_i64().unwrap());
    workspace.events("out").into_iter().map(event).collect()
}

fn named(fired: &[(&str, i64)]) -> Vec<(String, i64)> {
    fired.iter().map(|(key, time)| ((*key).to_owned(), *time)).collect()
}

#[test]
fn a_typed_consumer_sets_timers_which_fire_in_their_order() {
    let workspace = alarms("");
    set(&workspace, &[("a", 5000), ("b", 4500), ("c", 5600), ("d", 6100)]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    // What was set for up to 6100 has fired: in the order of its time, not of its setting.
    assert_eq!(fired(&workspace), named(&[("b", 5500), ("a", 6000)]));
    let offsets: Vec<_> = workspace.events("out").iter().map(|event| event["origin"]["offset"].clone()).collect();
    assert_eq!(offsets, [3, 4], "each before the event whose turn it was");
    // They outlive the process.
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    assert_eq!(fired(&workspace), named(&[("b", 5500), ("a", 6000), ("c", 6600), ("d", 7100)]));
    assert_eq!(workspace.pipeline("alarm")["read"], 4);
}

#[test]
fn a_timer_of_the_day_fires_without_an_event_when_its_time_has_come() {
    let workspace = alarms("");
    workspace.sluice(&["topic", "create", "clock"]).ok();
    // What is produced without a timestamp says what time it is.
    let now = || {
        workspace.produce("clock", &["tick"]);
        workspace.events("clock").last().unwrap()["timestamp"].as_i64().unwrap()
    };
    let mut node = workspace.start(&[]).unwrap();
    let due = now() + 500;
    set(&workspace, &[("w", due)]);
    workspace.until("it fires", || !workspace.events("out").is_empty());
    assert!(now() >= due);
    assert_eq!(fired(&workspace), named(&[("w", due)]));
    kill(&mut node);
    // What time it was stands in the changelog, so a replay does the same.
    let replay = workspace.json(&["verify", "alarm"]);
    assert_eq!(["same", "added", "missing", "changed"].map(|name| replay[name].as_u64().unwrap()), [1, 0, 0, 0]);
}

#[test]
fn a_timer_that_fails_is_dead_lettered_like_an_event_and_the_others_fire() {
    let workspace = alarms("");
    set(&workspace, &[("a", 100), ("x", 200), ("b", 300), ("c", 2000)]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(fired(&workspace), named(&[("a", 1100), ("b", 1300)]));
    let dead = workspace.json(&["dead", "show", "alarm", "0:0"]);
    let text = dead.to_string();
    assert!(text.contains("an x") && text.contains("\"event-time\""), "{text}");
    let told = workspace.sluice(&["dead", "list", "alarm"]).ok();
    assert!(told.contains("an x"), "{told}");
}

#[test]
fn a_timer_that_blocks_says_so_and_can_be_let_go_of() {
    let workspace = alarms("[errors]\non-error = \"halt\"\n");
    set(&workspace, &[("a", 100), ("x", 200), ("b", 300), ("c", 2000)]);
    let told = workspace.sluice(&["run", "--until-idle"]).fails(1);
    assert!(told.contains("an x") && told.contains("timer"), "{told}");
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("it is halted", || workspace.pipeline("alarm")["state"] == "halted");
    let told = workspace.sluice(&["status"]).ok();
    assert!(told.contains("tries the timer again"), "{told}");
    workspace.sluice(&["pipeline", "resume", "alarm", "--skip"]).ok();
    workspace.until("the others fire", || fired(&workspace) == named(&[("a", 1100), ("b", 1300)]));
    kill(&mut node);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(fired(&workspace).len(), 2);
}

#[test]
fn minutes_make_hours_in_one_chain_and_nothing_is_late() {
    let workspace = Workspace::new();
    let stage = |name: &str, seconds: u32| {
        format!(
            "[[stage]]\nplugin = \"../plugins/window-sums\"\nname = \"{name}\"\nconfig = {{ seconds = {seconds} }}\n\
             capabilities = [\"state\", \"timers\"]\nkeys = \"unchanged\"\n"
        )
    };
    let stages = stage("each-minute", 60) + &stage("hours", 3600);
    workspace.write(
        "pipelines/sums.toml",
        format!("name = \"sums\"\n[source]\ntopics = [\"numbers\"]\n{stages}[[sink]]\ntopic = \"sums\"\n[batch]\nmax-events = 37\n"),
    );
    workspace.sluice(&["topic", "create", "numbers"]).ok();
    // Some 20 seconds apart, now and then with a gap of hours.
    let (mut time, mut lines) = (0, String::new());
    let mut hours: BTreeMap<i64, i64> = BTreeMap::new();
    for number in 0..600_i64 {
        time += if number % 97 == 96 { 3 * HOUR + 1 } else { 20_000 + number % 7 };
        *hours.entry(time / HOUR).or_default() += number;
        lines.push_str(&(json!({"k": "k", "t": time, "n": number}).to_string() + "\n"));
    }
    workspace.write("numbers", lines);
    workspace.sluice(&["produce", "numbers", "numbers", "--key", "k", "--timestamp", "t"]).ok();
    workspace.sluice(&["run", "--until-idle", "--close-windows"]).ok();
    assert_eq!(workspace.pipeline("sums")["dead"], 0);
    let told = |event: &Value| {
        let sum: Value = serde_json::from_str(event["value"].as_str().unwrap()).unwrap();
        (event["timestamp"].as_i64().unwrap() / HOUR, sum["n"].as_i64().unwrap())
    };
    assert_eq!(workspace.events("sums").iter().map(told).collect::<Vec<_>>(), hours.into_iter().collect::<Vec<_>>());
    assert!(workspace.sluice(&["verify", "sums"]).ok().contains(" 0 added, 0 missing, 0 changed"));
}

#[test]
fn a_replay_has_no_time_of_day() {
    let workspace = alarms("");
    set(&workspace, &[("w-later", i64::from(u32::MAX) * 1000), ("a", 1000), ("b", 3000)]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let told = workspace.sluice(&["verify", "alarm"]).ok();
    assert!(told.contains("1 same, 0 added, 0 missing"), "{told}");
}

#[test]
fn timers_must_be_granted() {
    let workspace = alarms("");
    let text = std::fs::read_to_string(workspace.path("pipelines/alarm.toml")).unwrap();
    workspace.write("pipelines/alarm.toml", text.replace("capabilities = [\"timers\"]\n", ""));
    let told = workspace.sluice(&["check"]).fails(2);
    assert!(told.contains("capabilities = [\"timers\"]"), "{told}");
}
