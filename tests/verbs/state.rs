//! Keyed state: over restarts and crashes, rewinds with it, and looking into it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, kill, project};

use crate::errors::balances;

const TOTALS: &str = r#"name = "totals"
delivery = "DELIVERY"
[source]
topics = ["paid"]
[[stage]]
plugin = "../plugins/totals"
capabilities = ["state"]
[[sink]]
topic = "sums"
[[topic]]
name = "paid"
partitions = 2
[batch]
max-events = 40
"#;

pub(crate) fn workspace(delivery: &str) -> Workspace {
    let workspace = Workspace::new();
    let every = if delivery == "at-least-once" { "commit-every = \"20ms\"\n" } else { "" };
    workspace.write("pipelines/totals.toml", TOTALS.replace("DELIVERY", delivery) + every);
    workspace.sluice(&["topic", "create", "paid", "--partitions", "2"]).ok();
    workspace
}

/// What is paid: key and cents; some lines are no payments.
pub(crate) fn payments(from: u64, to: u64) -> Vec<String> {
    let line = |n: u64| match n % 97 {
        13 => format!(r#"{{"k":"user-{}","cents":"none"}}"#, n % 11),
        _ => format!(r#"{{"k":"user-{}","cents":{}}}"#, n * 7919 % 31, n % 1000),
    };
    (from..to).map(line).collect()
}

/// The totals of a plain program.
fn plain(lines: &[String]) -> BTreeMap<String, (u64, u64)> {
    let mut totals = BTreeMap::new();
    for line in lines {
        let payment: Value = serde_json::from_str(line).unwrap();
        if let Some(cents) = payment["cents"].as_u64() {
            let total: &mut (u64, u64) = totals.entry(payment["k"].as_str().unwrap().to_owned()).or_default();
            *total = (total.0 + 1, total.1 + cents);
        }
    }
    totals
}

fn total(value: &str) -> (u64, u64) {
    let value: Value = serde_json::from_str(value).unwrap();
    (value["count"].as_u64().unwrap(), value["cents"].as_u64().unwrap())
}

/// The totals that are kept.
fn kept(workspace: &Workspace) -> BTreeMap<String, (u64, u64)> {
    let found = workspace.json(&["state", "scan", "totals", "--prefix", "total/"]);
    let entries = found["entries"].as_array().unwrap().iter();
    let entry = |entry: &Value| {
        let key = entry["key"].as_str().unwrap().strip_prefix("total/").unwrap();
        (key.to_owned(), total(entry["value"].as_str().unwrap()))
    };
    entries.map(entry).collect()
}

pub(crate) fn pay(workspace: &Workspace, lines: &[String]) {
    workspace.write("payments", lines.join("\n") + "\n");
    workspace.sluice(&["produce", "paid", "payments", "--key", "k"]).ok();
}

/// Kills a node that adds up, and rewinds it, again and again.
fn add_up_whatever_is_killed(delivery: &str, rewinds: bool) -> (Workspace, Vec<String>) {
    let workspace = workspace(delivery);
    let lines = payments(0, 6000);
    for (round, lines) in lines.chunks(750).enumerate() {
        let mut node = workspace.start(&[]).unwrap();
        pay(&workspace, lines);
        if rewinds && round % 2 == 1 {
            let choice = if round % 4 == 1 { "restore" } else { "reset" };
            workspace.sluice(&["rewind", "totals", "--to", "earliest", "--state", choice, "--yes"]).ok();
            if round % 3 == 0 {
                // It is in the middle of reading again, or has come as far already.
                let undone = workspace.sluice(&["rewind", "totals", "--undo", "--yes"]);
                if undone.code == Some(2) {
                    assert!(undone.fails(2).contains("nothing to undo any more"));
                } else {
                    undone.ok();
                }
            }
        }
        workspace.until_it_goes_on("totals");
        kill(&mut node);
    }
    workspace.sluice(&["run", "--until-idle"]).ok();
    balances(&workspace);
    (workspace, lines)
}

#[test]
fn totals_are_those_of_a_plain_program_and_each_comes_out_once_whatever_is_killed() {
    let (workspace, lines) = add_up_whatever_is_killed("exactly-once", false);
    assert_eq!(kept(&workspace), plain(&lines));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for event in workspace.events("sums") {
        let count = counts.entry(event["key"].as_str().unwrap().to_owned()).or_default();
        *count += 1;
        assert_eq!(total(event["value"].as_str().unwrap()).0, *count, "a total is missing or there twice");
    }
    assert!(plain(&lines).iter().all(|(key, total)| counts[key] == total.0));
}

#[test]
fn totals_are_those_of_a_plain_program_whatever_is_killed_and_rewound() {
    let (workspace, lines) = add_up_whatever_is_killed("exactly-once", true);
    assert_eq!(kept(&workspace), plain(&lines));
}

#[test]
fn at_least_once_totals_count_nothing_twice() {
    let (workspace, lines) = add_up_whatever_is_killed("at-least-once", false);
    assert_eq!(kept(&workspace), plain(&lines));
}

#[test]
fn at_most_once_totals_are_those_of_the_events_that_were_not_lost() {
    let (workspace, _) = add_up_whatever_is_killed("at-most-once", false);
    let pipeline = workspace.pipeline("totals");
    let number = |name: &str| pipeline[name].as_u64().unwrap();
    let counted: u64 = kept(&workspace).values().map(|total| total.0).sum();
    assert_eq!(counted, number("read") - number("unsettled") - number("dead"), "{pipeline}");
}

#[test]
fn behind_a_rewind_everything_comes_out_as_it_did_the_first_time() {
    let workspace = workspace("exactly-once");
    let lines = payments(0, 3000);
    pay(&workspace, &lines);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let at =
        |event: &Value| (event["origin"]["partition"].as_u64().unwrap(), event["origin"]["offset"].as_u64().unwrap());
    let first: BTreeMap<_, _> =
        workspace.events("sums").iter().map(|event| (at(event), event["value"].clone())).collect();
    let final_state = kept(&workspace);
    let status = workspace.pipeline("totals");
    let ends: Vec<u64> = status["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["cursor"].as_u64().unwrap())
        .collect();
    let mut seen = workspace.events("sums").len();
    for number in 0..20u64 {
        let partition = number % 2;
        let to = number * number * 7919 % ends[partition as usize];
        let place = format!("{partition}:{to}");
        workspace.sluice(&["rewind", "totals", "--to", &place, "--yes"]).ok();
        workspace.sluice(&["run", "--until-idle"]).ok();
        let all = workspace.events("sums");
        // Partitions of the sink come one after the other: what is new is known by what it comes of.
        let mut again: BTreeMap<_, u64> = BTreeMap::new();
        for event in &all {
            assert_eq!(event["value"], first[&at(event)], "{place}: another total than the first time");
            *again.entry(at(event)).or_default() += 1;
        }
        let due = first.keys().filter(|(of, offset)| *of == partition && *offset >= to).count();
        assert_eq!(all.len() - seen, due, "{place}: outputs of other events than those behind it");
        seen = all.len();
        assert_eq!(kept(&workspace), final_state, "{place}");
    }
    workspace.sluice(&["rewind", "totals", "--to", "earliest", "--state", "reset", "--yes"]).ok();
    assert_eq!(kept(&workspace), BTreeMap::new());
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&workspace), final_state);
}

#[test]
fn a_rewind_is_undone_with_its_state_until_the_cursor_has_passed_the_old_place() {
    let workspace = workspace("exactly-once");
    pay(&workspace, &payments(0, 500));
    let mut node = workspace.start(&[]).unwrap();
    let idle = || workspace.until("all is read", || workspace.pipeline("totals")["lag"] == 0);
    idle();
    let before = kept(&workspace);
    workspace.sluice(&["pipeline", "pause", "totals"]).ok();
    let shown = workspace.sluice(&["rewind", "totals", "--to", "earliest", "--state", "reset"]).ok();
    assert!(shown.contains("state: reset") && shown.contains("Nothing was changed"), "{shown}");
    assert_eq!(kept(&workspace), before);
    let reset = ["rewind", "totals", "--to", "earliest", "--state", "reset", "--yes"];
    workspace.sluice(&reset).ok();
    workspace.until("it is empty", || kept(&workspace).is_empty());
    workspace.sluice(&["rewind", "totals", "--undo", "--yes"]).ok();
    workspace.until("it is back", || kept(&workspace) == before);
    assert_eq!(workspace.pipeline("totals")["lag"], 0);

    // A rewind to where it is already is one as well: undone, it is where it was.
    workspace.sluice(&reset).ok();
    workspace.sluice(&["rewind", "totals", "--to", "earliest", "--yes"]).ok();
    workspace.sluice(&["rewind", "totals", "--undo", "--yes"]).ok();
    workspace.until("it is empty", || kept(&workspace).is_empty());
    assert_ne!(workspace.pipeline("totals")["lag"], 0);
    workspace.sluice(&["pipeline", "resume", "totals"]).ok();
    idle();
    pay(&workspace, &payments(500, 520));
    idle();
    let refused = workspace.sluice(&["rewind", "totals", "--undo", "--yes"]).fails(2);
    assert!(refused.contains("nothing to undo"), "{refused}");
    assert_eq!(kept(&workspace), plain(&payments(0, 520)));
    kill(&mut node);
}

#[test]
fn one_value_is_shown_and_what_is_not_there_is_told() {
    let workspace = workspace("exactly-once");
    pay(&workspace, &[r#"{"k":"a","cents":5}"#.to_owned()]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.sluice(&["state", "get", "totals", "total/a"]).ok(), "{\"count\":1,\"cents\":5}\n");
    let found = workspace.json(&["state", "get", "totals", "total/a", "--stage", "totals"]);
    assert_eq!(found["entries"][0]["key"], "total/a");
    assert!(workspace.sluice(&["state", "get", "totals", "total/b"]).fails(1).contains("state scan"));
    assert!(workspace.sluice(&["state", "get", "nobody", "a"]).fails(2).contains("nobody"));
    // Only the pipeline itself writes what its state is made of.
    workspace.write("line", "x\n");
    assert!(workspace.sluice(&["produce", "totals.changelog", "line"]).fails(2).contains("holds the state"));
    // What a pipeline kept is forgotten with it, and nobody finds it again.
    workspace.sluice(&["pipeline", "delete", "totals"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&workspace), BTreeMap::from([("a".to_owned(), (1, 5))]));
}

#[test]
fn state_is_granted_or_the_pipeline_is_refused_and_it_has_a_limit() {
    let workspace = workspace("exactly-once");
    let granted = std::fs::read_to_string(workspace.path("pipelines/totals.toml")).unwrap();
    workspace.write("pipelines/totals.toml", granted.replace("capabilities = [\"state\"]\n", ""));
    let refused = workspace.sluice(&["check"]).fails(2);
    assert!(refused.contains("capabilities") && refused.contains("state"), "{refused}");
    workspace
        .write("pipelines/totals.toml", granted.replace("[\"state\"]", "[\"state\"]\nlimits = { state = \"1KiB\" }"));
    let lines: Vec<_> = (0..400).map(|n| json!({ "k": format!("u{n}"), "cents": 1 }).to_string()).collect();
    pay(&workspace, &lines);
    // Few of the keys fit, in each partition.
    workspace.sluice(&["run", "--until-idle"]).ok();
    let dead = workspace.json(&["dead", "list", "totals"]);
    assert!(dead["causes"][0]["reason"].as_str().unwrap().contains("limits.state"), "{dead}");
    let kept = kept(&workspace).len() as u64;
    assert_eq!(kept + dead["causes"][0]["count"].as_u64().unwrap(), 400, "{dead}");
    assert!(kept > 20, "{kept}");
    // One that kept state does not go on without.
    workspace.write("pipelines/totals.toml", granted.replace("totals\"\ncapabilities = [\"state\"]", "pass-through\""));
    assert!(workspace.sluice(&["run", "--until-idle"]).fails(2).contains("keeps state"));
}

#[test]
fn a_checkpoint_is_come_back_to_from_anywhere_and_others_stay() {
    let workspace = workspace("exactly-once");
    let settled = |lines: &[String]| {
        pay(&workspace, lines);
        workspace.until("all is read", || workspace.pipeline("totals")["lag"] == 0);
    };
    let mut node = workspace.start(&[]).unwrap();
    settled(&payments(0, 500));
    let first = kept(&workspace);
    let made = workspace.json(&["checkpoint", "create", "first"]);
    assert_eq!(made["pipelines"][0]["pipeline"], "totals");
    settled(&payments(500, 900));
    let second = kept(&workspace);
    workspace.sluice(&["checkpoint", "create", "second", "--pipeline", "totals"]).ok();
    settled(&payments(900, 1000));
    let last = kept(&workspace);
    // It is made while events come, and is of one commit.
    workspace.write("payments", payments(1000, 4000).join("\n") + "\n");
    let mut producer = workspace.command(&["produce", "paid", "payments", "--key", "k"]).spawn().unwrap();
    workspace.sluice(&["checkpoint", "create", "third"]).ok();
    producer.wait().unwrap();
    workspace.until("all is read", || workspace.pipeline("totals")["lag"] == 0);
    workspace.sluice(&["pipeline", "pause", "totals"]).ok();

    let back = |name: &str| {
        workspace.sluice(&["checkpoint", "restore", name, "--yes"]).ok();
        workspace.until("the lanes have moved", || {
            let status = workspace.pipeline("totals");
            status["partitions"].as_array().unwrap().iter().all(|partition| partition["paused"] == true)
        });
    };
    for _ in 0..2 {
        back("second");
        workspace.until("it is as it was", || kept(&workspace) == second);
        back("first");
        workspace.until("it is as it was", || kept(&workspace) == first);
    }
    kill(&mut node);
    // Also where no node runs, and what was never flushed; and it goes on from there.
    workspace.sluice(&["checkpoint", "restore", "third", "--yes"]).ok();
    let third = kept(&workspace);
    let cursors: u64 = workspace.pipeline("totals")["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["cursor"].as_u64().unwrap())
        .sum();
    assert!(third.values().map(|total| total.0).sum::<u64>() <= cursors);
    assert!(last.iter().all(|(key, total)| third[key].0 >= total.0));
    workspace.sluice(&["rewind", "totals", "--to", "checkpoint:second", "--yes"]).ok();
    assert_eq!(kept(&workspace), second);
    workspace.sluice(&["pipeline", "resume", "totals"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&workspace), plain(&payments(0, 4000)));

    workspace.sluice(&["checkpoint", "delete", "first"]).ok();
    assert!(workspace.sluice(&["checkpoint", "list"]).ok().contains("second"));
    let shown = workspace.sluice(&["checkpoint", "show", "second"]).ok();
    assert!(shown.contains("CURSOR") && shown.contains("paid/1"), "{shown}");
    assert!(workspace.sluice(&["checkpoint", "show", "none"]).fails(2).contains("checkpoint list"));
    assert!(
        workspace.sluice(&["rewind", "totals", "--to", "checkpoint:first"]).fails(2).contains("unknown checkpoint")
    );
    assert!(workspace.sluice(&["checkpoint", "create", "second"]).fails(2).contains("already"));
    assert!(workspace.sluice(&["checkpoint", "create", "../x"]).fails(2).contains("not a name"));
    assert!(workspace.sluice(&["checkpoint", "create", "x", "--pipeline", "y"]).fails(2).contains("unknown pipeline"));
    // Another pipeline of the same name is another one, and the checkpoints went with the first.
    workspace.sluice(&["pipeline", "delete", "totals"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    let refused = workspace.sluice(&["rewind", "totals", "--to", "checkpoint:second", "--yes"]).fails(2);
    assert!(refused.contains("unknown checkpoint"), "{refused}");
}

/// A typed consumer that puts what comes under a key behind what came before.
fn keeps(more: &str) -> Workspace {
    let workspace = Workspace::new();
    let keep = wat::parse_file(project().join("tests/guests/keep.wat")).unwrap();
    workspace.write("pipelines/keep.wasm", keep);
    let text = "name = \"keep\"\n[source]\ntopics = [\"words\"]\n[[stage]]\nplugin = \"keep.wasm\"\ncapabilities = [\"state\"]\n";
    workspace.write("pipelines/keep.toml", format!("{text}{more}[[sink]]\ntopic = \"kept\"\n"));
    workspace.sluice(&["topic", "create", "words"]).ok();
    workspace
}

fn say(workspace: &Workspace, words: &[&str]) {
    let lines: Vec<_> = words.iter().map(|word| json!({ "k": word.len(), "w": word }).to_string()).collect();
    workspace.write("words", lines.join("\n") + "\n");
    workspace.sluice(&["produce", "words", "words", "--key", "k"]).ok();
}

#[test]
fn a_typed_consumer_keeps_state_and_an_event_that_fails_leaves_nothing_in_it() {
    let workspace = keeps("");
    // Whole lines are the values: the bytes before the first `x` decide.
    workspace.write("lines", "a\nxb\nc\nxd\nxe\nf\n");
    workspace.sluice(&["produce", "words", "lines"]).ok();
    // Without a key the guest reads the empty one.
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("kept"), ["a", "ac", "acf"]);
    let found = workspace.json(&["state", "scan", "keep"]);
    assert_eq!(found["entries"][0]["value"], "acf", "{found}");
    assert_eq!(workspace.pipeline("keep")["dead"], 3);
    // It goes on with what it kept, in a fresh instance.
    workspace.write("lines", "g\n");
    workspace.sluice(&["produce", "words", "lines"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("kept")[3], "acfg");
    say(&workspace, &["one", "two"]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let told = workspace.sluice(&["state", "get", "keep", "3"]).ok();
    assert_eq!(told, "{\"k\":3,\"w\":\"one\"}{\"k\":3,\"w\":\"two\"}\n");
}

#[test]
fn what_fails_in_a_later_stage_leaves_nothing_in_the_state_of_an_earlier_one() {
    let workspace = keeps("keys = \"unchanged\"\n[[stage]]\nplugin = \"../plugins/picky\"\nname = \"picky\"\n");
    // What it makes of the first word fails behind it: the others are put behind nothing.
    workspace.produce("words", &["bad", "a", "b"]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("kept"), ["A", "AB"]);
    assert_eq!(workspace.pipeline("keep")["dead"], 1);
    assert_eq!(workspace.json(&["state", "scan", "keep"])["entries"][0]["value"], "ab");
}

#[test]
fn checkpoints_are_made_by_themselves_and_are_come_back_to() {
    let workspace = workspace("exactly-once");
    let text = std::fs::read_to_string(workspace.path("pipelines/totals.toml")).unwrap();
    workspace.write("pipelines/totals.toml", text + "[checkpoint]\nevery = \"100ms\"\nkeep = { all = \"1h\" }\n");
    let mut node = workspace.start(&[]).unwrap();
    let names = || -> Vec<String> {
        let list = workspace.json(&["checkpoint", "list"]);
        list.as_array().unwrap().iter().map(|checkpoint| checkpoint["name"].as_str().unwrap().to_owned()).collect()
    };
    let made_after = |before: usize| workspace.until("a checkpoint is made", || names().len() > before);
    let settled = |lines: &[String]| {
        pay(&workspace, lines);
        workspace.until("all is read", || workspace.pipeline("totals")["lag"] == 0);
    };
    settled(&payments(0, 300));
    let first = kept(&workspace);
    // One that is made while events are read may be of before: the next one is not, for something has changed since.
    let before = names().len();
    settled(&payments(300, 301));
    let second = kept(&workspace);
    made_after(before);
    workspace.until("nothing changes any more", || {
        let name = names().pop().unwrap();
        let list = workspace.json(&["checkpoint", "list"]);
        let last = list.as_array().unwrap().last().unwrap();
        assert!(name.starts_with("totals.auto-"), "{name}");
        let cursors = last["pipelines"][0]["partitions"].as_array().unwrap();
        cursors.iter().map(|part| part["cursor"].as_u64().unwrap()).sum::<u64>() == 301
    });
    let name = names().pop().unwrap();
    settled(&payments(301, 600));
    assert_ne!(kept(&workspace), second);
    workspace.sluice(&["pipeline", "pause", "totals"]).ok();
    workspace.sluice(&["rewind", "totals", "--to", &format!("checkpoint:{name}"), "--yes"]).ok();
    workspace.until("it is as it was", || kept(&workspace) == second);
    assert!(first.iter().all(|(key, total)| second[key].0 >= total.0));
    // A store that is lost is made again, from the newest checkpoint.
    kill(&mut node);
    std::fs::remove_dir_all(workspace.path(".sluice/state/1/0/live")).unwrap();
    assert_eq!(kept(&workspace), second);
    workspace.sluice(&["pipeline", "resume", "totals"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&workspace), plain(&payments(0, 600)));
}

/// Starts a verb and kills it after a while, which grows from round to round; whether it was through by then.
fn killed_after(workspace: &Workspace, arguments: &[&str], spins: u32) -> bool {
    let mut child = workspace.command(arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
    for _ in 0..spins {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::yield_now();
    }
    kill(&mut child);
    child.wait().unwrap().success()
}

/// That of what did not come to its end nothing is left.
fn check_snapshots(workspace: &Workspace) {
    let list = workspace.json(&["checkpoint", "list"]);
    let mut snapshots: Vec<String> = std::fs::read_dir(workspace.path(".sluice/state/1/0"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("at-"))
        .collect();
    let name = |checkpoint: &Value| format!("at-{}", checkpoint["name"].as_str().unwrap());
    let mut named: Vec<String> = list.as_array().unwrap().iter().map(name).collect();
    snapshots.sort();
    named.sort();
    assert_eq!(snapshots, named);
}

#[test]
fn a_checkpoint_and_a_rewind_that_are_killed_are_done_or_not_and_never_half() {
    let workspace = workspace("exactly-once");
    pay(&workspace, &payments(0, 800));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let early = kept(&workspace);
    workspace.sluice(&["checkpoint", "create", "early"]).ok();
    pay(&workspace, &payments(800, 1600));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let late = kept(&workspace);
    workspace.sluice(&["checkpoint", "create", "late"]).ok();
    let (mut done, mut undone) = (0, 0);
    for round in 0..40u32 {
        let (name, spins) = (format!("c{round}"), round * round * 25);
        killed_after(&workspace, &["checkpoint", "create", &name], spins);
        let list = workspace.json(&["checkpoint", "list"]);
        let is_there = list.as_array().unwrap().iter().any(|checkpoint| checkpoint["name"] == name);
        let before = kept(&workspace);
        let (to, then) = if round % 2 == 0 { ("early", &early) } else { ("late", &late) };
        if is_there {
            workspace.sluice(&["checkpoint", "restore", &name, "--yes"]).ok();
            assert_eq!(kept(&workspace), before);
        }
        killed_after(&workspace, &["checkpoint", "restore", to, "--yes"], spins);
        let found = kept(&workspace);
        assert!(found == before || found == *then, "round {round}: {found:?}");
        if found == *then { done += 1 } else { undone += 1 }
    }
    assert!(done > 0 && undone > 0, "all were killed too early, or too late: {done} and {undone}");
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&workspace), late);
    check_snapshots(&workspace);
}

#[test]
fn a_checkpoint_is_taken_to_another_directory_and_the_pipeline_goes_on_from_there() {
    let here = workspace("exactly-once");
    let lines = payments(0, 1200);
    pay(&here, &lines[..800]);
    here.sluice(&["run", "--until-idle"]).ok();
    here.sluice(&["checkpoint", "create", "then"]).ok();
    pay(&here, &lines[800..]);
    here.sluice(&["run", "--until-idle"]).ok();
    // Beside a node, and back to before what was committed since.
    let mut node = here.start(&[]).unwrap();
    here.sluice(&["checkpoint", "export", "then", "then.checkpoint"]).ok();
    let told = here.sluice(&["checkpoint", "export", "then", "then.checkpoint"]).fails(2);
    assert!(told.contains("is there already"), "{told}");
    kill(&mut node);

    let there = workspace("exactly-once");
    let file = here.path("then.checkpoint");
    let file = file.to_str().unwrap();
    pay(&there, &lines);
    let told = there.sluice(&["checkpoint", "import", file]).fails(2);
    assert!(told.contains("has never run here"), "{told}");
    there.sluice(&["run", "--until-idle"]).ok();
    // A file that is cut short or damaged makes nothing.
    let bytes = std::fs::read(file).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    for (bytes, says) in [(&bytes[..bytes.len() - 7], "cut short"), (&damaged, "damaged"), (&bytes[..9], "cut short")] {
        there.write("cut", bytes);
        let told = there.sluice(&["checkpoint", "import", "cut"]).fails(2);
        assert!(told.contains(says), "{told}");
    }
    assert_eq!(there.json(&["checkpoint", "list"]), json!([]));
    let mut node = there.start(&[]).unwrap();
    there.sluice(&["checkpoint", "import", file, "--name", "from-there"]).ok();
    // The state that it brings is another one than that of here at the same place: nothing is mixed.
    there.sluice(&["rewind", "totals", "--to", "earliest", "--state", "reset", "--yes"]).ok();
    there.until("all is read", || there.pipeline("totals")["lag"] == 0);
    let before = there.events("sums").len();
    there.sluice(&["checkpoint", "restore", "from-there", "--yes"]).ok();
    there.until("all is read", || there.pipeline("totals")["lag"] == 0);
    assert_eq!(kept(&there), plain(&lines));
    let good = |line: &&String| !line.contains("none");
    assert_eq!(there.events("sums").len() - before, lines[800..].iter().filter(good).count());
    // It outlives the process, and the loss of its store.
    kill(&mut node);
    there.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&there), plain(&lines));
    let id = there.json(&["checkpoint", "list"])[0]["pipelines"][0]["id"].as_u64().unwrap();
    std::fs::remove_dir_all(there.path(&format!(".sluice/state/{id}/0/live"))).unwrap();
    pay(&there, &payments(1200, 1210));
    there.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&there), plain(&payments(0, 1210)));
    // Where there is less, it does not fit.
    let less = workspace("exactly-once");
    pay(&less, &lines[..100]);
    less.sluice(&["run", "--until-idle"]).ok();
    let told = less.sluice(&["checkpoint", "import", file]).fails(2);
    assert!(told.contains("has events up to"), "{told}");
}

#[test]
fn exports_imports_and_replays_that_are_killed_are_done_or_not_and_leave_nothing_behind() {
    let workspace = workspace("exactly-once");
    pay(&workspace, &payments(0, 800));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let then = kept(&workspace);
    workspace.sluice(&["checkpoint", "create", "then"]).ok();
    pay(&workspace, &payments(800, 900));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let now = kept(&workspace);
    let is_there = |name: &str| {
        let list = workspace.json(&["checkpoint", "list"]);
        list.as_array().unwrap().iter().any(|checkpoint| checkpoint["name"] == name)
    };
    let mut exported = 0;
    let mut imported = Vec::new();
    for round in 0..30u32 {
        let (file, name) = (format!("file-{round}"), format!("i{round}"));
        // The last ones have all the time they want.
        let spins = if round < 27 { round * round * 40 } else { u32::MAX };
        killed_after(&workspace, &["checkpoint", "export", "then", &file], spins);
        if workspace.path(&file).exists() {
            exported += 1;
            killed_after(&workspace, &["checkpoint", "import", &file, "--name", &name], spins.saturating_mul(8));
            if is_there(&name) {
                imported.push(name);
            }
        }
        killed_after(&workspace, &["replay", "totals", "--from", "0:100", "--diff"], spins);
    }
    assert!((1..30).contains(&exported), "{exported} of 30 were exported");
    let name = imported.last().expect("nothing was imported");
    assert_eq!(kept(&workspace), now);
    workspace.sluice(&["checkpoint", "restore", name, "--yes"]).ok();
    assert_eq!(kept(&workspace), then);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(kept(&workspace), now);
    check_snapshots(&workspace);
}

#[test]
fn what_is_written_again_can_go_to_a_topic_of_its_own() {
    let workspace = workspace("exactly-once");
    pay(&workspace, &payments(0, 600));
    workspace.sluice(&["run", "--until-idle"]).ok();
    let (first, final_state) = (workspace.events("sums"), kept(&workspace));
    let again = ["rewind", "totals", "--to", "0:100", "--into", "sums-again"];
    let shown = workspace.sluice(&again).ok();
    assert!(shown.contains("appended to topic sums-again") && shown.contains("Nothing was changed"), "{shown}");
    assert!(!workspace.sluice(&["topic", "list"]).ok().contains("sums-again"));
    for (into, what) in [("sums", "reads or writes"), ("paid", "reads or writes"), ("totals.changelog", "reads or")] {
        let refused = workspace.sluice(&["rewind", "totals", "--to", "0:100", "--into", into, "--yes"]).fails(2);
        assert!(refused.contains(what), "{refused}");
    }
    let mut node = workspace.start(&[]).unwrap();
    workspace.sluice(&["pipeline", "pause", "totals"]).ok();
    workspace.sluice(&[&again[..], &["--yes"]].concat()).ok();
    assert!(workspace.sluice(&["topic", "delete", "sums-again"]).fails(2).contains("to write again"));
    let refused = workspace.sluice(&["rewind", "totals", "--to", "1:10", "--yes"]).fails(2);
    assert!(refused.contains("--undo that first"), "{refused}");
    pay(&workspace, &payments(600, 700));
    // Also over a crash in the middle of it.
    workspace.sluice(&["pipeline", "resume", "totals"]).ok();
    workspace.until("it goes on", || !workspace.events("sums-again").is_empty());
    kill(&mut node);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let of = |event: &Value| {
        let origin = &event["origin"];
        (origin["partition"].as_u64().unwrap(), origin["offset"].as_u64().unwrap(), event["value"].to_string())
    };
    let sorted = |events: &[Value]| {
        let mut all: Vec<_> = events.iter().map(of).collect();
        all.sort();
        all
    };
    let last =
        first.iter().map(of).filter(|(partition, ..)| *partition == 0).map(|(_, offset, _)| offset).max().unwrap();
    let redone = |event: &&Value| (of(event).0, of(event).1 >= 100) == (0, true);
    let expected: Vec<Value> = first.iter().filter(redone).cloned().collect();
    assert_eq!(sorted(&workspace.events("sums-again")), sorted(&expected));
    // What had not been read before goes where it belongs.
    let all = workspace.events("sums");
    assert!(all.iter().skip_while(|event| first.contains(event)).all(|event| !expected.contains(event)));
    assert!(all.iter().any(|event| of(event).0 == 0 && of(event).1 > last));
    let ids: std::collections::BTreeSet<_> = all.iter().map(of).collect();
    assert_eq!(ids.len(), all.len(), "nothing is there twice");
    assert_eq!(kept(&workspace), plain(&payments(0, 700)));
    assert_ne!(kept(&workspace), final_state);
    workspace.sluice(&["topic", "delete", "sums-again"]).ok();
}
