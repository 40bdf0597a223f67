//! Backups: a copy as of one commit, made while a node runs, that goes on from there.

use std::collections::BTreeMap;
use std::process::Stdio;

use serde_json::Value;
use sluice_tests::sluice::{Workspace, kill};

use crate::state::{pay, payments, workspace};

/// What a data directory says, as JSON.
fn told(workspace: &Workspace, data: &str, verb: &[&str]) -> Value {
    let told = workspace.sluice(&[verb, &["--data", data, "--json"]].concat()).ok();
    serde_json::from_str(&told).unwrap()
}

/// What is kept of each key, and what the last output of each says; equal when nothing is lost, repeated or ahead.
fn sums(workspace: &Workspace, data: &str) -> [BTreeMap<String, String>; 2] {
    let found = told(workspace, data, &["state", "scan", "totals"]);
    let kept = found["entries"].as_array().unwrap().iter().map(|entry| {
        let key = entry["key"].as_str().unwrap().strip_prefix("total/").unwrap();
        (key.to_owned(), entry["value"].as_str().unwrap().to_owned())
    });
    let outputs = workspace.sluice(&["consume", "sums", "--data", data, "--json"]).ok();
    let written = outputs.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        (event["key"].as_str().unwrap().to_owned(), event["value"].as_str().unwrap().to_owned())
    });
    [kept.collect(), written.collect()]
}

fn goes_on(workspace: &Workspace, data: &str) {
    workspace.sluice(&["run", "--until-idle", "--data", data]).ok();
    let inputs = workspace.sluice(&["consume", "paid", "--data", data]).ok();
    let good = inputs.lines().filter(|line| !line.contains("none")).count();
    let outputs = workspace.sluice(&["consume", "sums", "--data", data]).ok();
    assert_eq!(outputs.lines().count(), good, "each payment has one output");
    let [kept, written] = sums(workspace, data);
    assert!(!kept.is_empty() && kept == written, "{kept:?} {written:?}");
    workspace.sluice(&["audit", "--data", data]).ok();
    workspace.sluice(&["fsck", "--data", data]).ok();
}

#[test]
fn a_backup_made_under_load_goes_on_from_its_commit() {
    let workspace = workspace("exactly-once");
    let lines = payments(0, 6000);
    let mut node = workspace.start(&[]).unwrap();
    pay(&workspace, &lines[..1500]);
    workspace.until_it_goes_on("totals");
    workspace.sluice(&["checkpoint", "create", "before"]).ok();
    workspace.sluice(&["token", "create", "me", "observe"]).ok();

    // Events keep coming until the backup is there.
    workspace.write("rest", lines[1500..].join("\n") + "\n");
    let mut producer = workspace.command(&["produce", "paid", "rest", "--key", "k", "--rate", "3000/s"]);
    let mut producer = producer.stdout(Stdio::null()).spawn().unwrap();
    workspace.until_it_goes_on("totals");
    for copy in ["first", "second"] {
        let made = workspace.json(&["backup", copy]);
        assert!(made["seq"].as_u64() > Some(0) && made["files"].as_u64() > Some(5), "{made}");
        assert_eq!(made["damaged"], serde_json::json!([]));
    }
    producer.wait().unwrap();
    kill(&mut node);

    for copy in ["first", "second"] {
        goes_on(&workspace, copy);
        assert_eq!(told(&workspace, copy, &["token", "list"])[0]["name"], "me");
        // What was kept is there, and can be gone back to.
        workspace.sluice(&["checkpoint", "restore", "before", "--yes", "--data", copy]).ok();
        workspace.sluice(&["run", "--until-idle", "--data", copy]).ok();
        let [kept, written] = sums(&workspace, copy);
        assert_eq!(kept, written);
    }
    // One goes on with what the other does not have.
    workspace.write("more", payments(6000, 6200).join("\n") + "\n");
    let before = told(&workspace, "second", &["status"])["pipelines"][0]["read"].as_u64().unwrap();
    workspace.sluice(&["produce", "paid", "more", "--key", "k", "--data", "second"]).ok();
    workspace.sluice(&["run", "--until-idle", "--data", "second"]).ok();
    assert_eq!(told(&workspace, "second", &["status"])["pipelines"][0]["read"], before + 200);
    // The original is as it was.
    goes_on(&workspace, ".sluice");
}

#[test]
fn a_backup_is_there_whole_or_not_at_all() {
    let workspace = workspace("exactly-once");
    pay(&workspace, &payments(0, 500));
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.sluice(&["backup", "copies/one"]).ok();
    goes_on(&workspace, "copies/one");
    let there = workspace.sluice(&["backup", "copies/one"]).fails(2);
    assert!(there.contains("is there already"), "{there}");
    let inside = workspace.sluice(&["backup", ".sluice/copy"]).fails(2);
    assert!(inside.contains("in the data directory"), "{inside}");
    assert!(!workspace.path(".sluice/copy").exists());
    let nothing = workspace.sluice(&["backup", "copy", "--data", "nowhere"]).fails(2);
    assert!(nothing.contains("no data directory"), "{nothing}");
    // Somebody else's folder is left alone, one that a killed backup left is not.
    std::fs::create_dir(workspace.path("two.partial")).unwrap();
    workspace.write("two.partial/theirs", "");
    assert!(workspace.sluice(&["backup", "two"]).fails(2).contains("is in the way"));
    assert!(!workspace.path("two").exists());

    let big: Vec<String> = (0..200_000).map(|n| format!(r#"{{"k":"user-{}","cents":{n}}}"#, n % 7)).collect();
    pay(&workspace, &big);
    let (mut whole, mut cut_short) = (0, 0);
    for round in 0..40 {
        let mut backup = workspace.command(&["backup", "three"]).stdout(Stdio::null()).spawn().unwrap();
        // Later each time, and so in the middle of something else.
        let until = std::time::Instant::now() + std::time::Duration::from_micros(2000 * round);
        while std::time::Instant::now() < until && backup.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        kill(&mut backup);
        if workspace.path("three").exists() {
            whole += 1;
            let copied = workspace.sluice(&["consume", "paid", "--data", "three"]).ok();
            assert_eq!(copied.lines().count(), 200_500);
            std::fs::remove_dir_all(workspace.path("three")).unwrap();
        } else {
            cut_short += u32::from(workspace.path("three.partial").exists());
        }
    }
    // Several at once: one of them makes it, and the others leave it alone.
    let mut node = workspace.start(&[]).unwrap();
    let all: Vec<_> = (0..4)
        .map(|_| {
            let mut backup = workspace.command(&["backup", "four"]);
            backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let ended: Vec<_> = all.into_iter().map(|backup| backup.wait_with_output().unwrap().status.success()).collect();
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 1, "{ended:?}");
    kill(&mut node);
    assert_eq!(workspace.sluice(&["consume", "paid", "--data", "four"]).ok().lines().count(), 200_500);
    assert!(cut_short > 0, "{whole} whole, none cut short: the test says nothing");
    workspace.sluice(&["backup", "three"]).ok();
    assert!(!workspace.path("three.partial").exists());
    goes_on(&workspace, "three");
}
