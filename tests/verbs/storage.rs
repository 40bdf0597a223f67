//! Disks that are full, fail or rot, and directories that older versions wrote.

use std::process::Command;

use sluice_tests::sluice::{Ran, Workspace, binary, kill, project};

use crate::THROUGH;

/// Runs a script with the workspace as its folder and `sluice` on its path.
fn script(workspace: &Workspace, program: &[&str], script: &str) -> Ran {
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .args(["timeout", "120", "bash", "-euc", script])
        .current_dir(workspace.path(""))
        .env("PATH", path);
    command.output().unwrap_or_else(|error| panic!("{} cannot be run: {error}", program[0])).into()
}

#[test]
fn on_a_full_disk_reading_goes_on_and_writing_resumes_with_space() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH);
    workspace.write("little", "x\n".repeat(10));
    workspace.write("much", format!("{}\n", "y".repeat(1000)).repeat(4000));
    // A small file system of its own, in a namespace that ends with the script.
    let steps = r"
        trap 'kill -9 $node 2> /dev/null' EXIT
        mkdir .sluice; mount -t tmpfs -o size=16m none .sluice
        sluice topic create in
        sluice produce in little
        sluice run > node.out 2> node.log & node=$!
        until test -S .sluice/sock && sluice status 2> /dev/null | grep -q running,; do kill -0 $node; done
        head -c 8000000 /dev/zero > .sluice/filler
        while sluice produce in much > told 2>&1; do kill -0 $node; done
        code=0; sluice produce in much > told 2>&1 || code=$?
        echo code $code; grep 'no space left' told > /dev/null && echo refused
        sluice status | grep running, > /dev/null && echo status
        sluice consume in --max 10 | grep -c x
        sluice pipeline pause p && echo order
        rm .sluice/filler
        until sluice produce in little --producer-id after > told 2>&1; do kill -0 $node; done
        cat told
        sluice pipeline resume p
        until sluice status | grep '^p .* idle ' > /dev/null; do kill -0 $node; done
        kill $node; wait $node; echo ended $?
        sluice audit | grep -c yes
        sluice fsck | tail -1
    ";
    let is_root = rustix::process::geteuid().is_root();
    let unshare: &[&str] = if is_root { &["unshare", "--mount"] } else { &["unshare", "--map-root-user", "--mount"] };
    let ran = script(&workspace, unshare, steps);
    let log = std::fs::read_to_string(workspace.path("node.log")).unwrap_or_default();
    let (out, all) = (&ran.stdout, format!("{}{}{log}", ran.stdout, ran.stderr));
    for expected in
        ["code 3", "refused", "status", "\n10\n", "order", "10 events appended to in", "ended 0", "nothing is damaged"]
    {
        assert!(out.contains(expected), "{expected:?} is missing: {all}");
    }
}

#[test]
fn a_failed_sync_stops_the_node_and_what_was_acknowledged_is_there_afterwards() {
    for at in [2, 5, 8] {
        let workspace = Workspace::new();
        workspace.write("pipelines/p.toml", THROUGH);
        workspace.sluice(&["topic", "create", "in"]).ok();
        // Counted for each thread: the committing one gets so far.
        let inject = format!("inject=fdatasync:error=EIO:when={at}+");
        let strace =
            ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject];
        let started = workspace.start_under(&strace, &[]);
        let (mut acknowledged, mut ended) = (0, None);
        match started {
            Err(ran) => ended = Some(ran),
            Ok(node) => {
                workspace.write("event", "acknowledged\n");
                while acknowledged < 100 && workspace.sluice_if_answering(&["produce", "in", "event"]) {
                    acknowledged += 1;
                }
                ended.get_or_insert(Ran::from(node.wait_with_output().unwrap()));
            }
        }
        let ran = ended.unwrap();
        assert!(ran.stderr.contains("os error 5"), "{}", ran.stderr);
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        // As root, also what the cache remembers is forgotten.
        rustix::fs::sync();
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
        // The last one may have been committed, and the node gone before it could say so.
        let there = workspace.values("in").len();
        assert!((acknowledged..=acknowledged + 1).contains(&there), "sync {at}: {there} of {acknowledged}");
        workspace.sluice(&["run", "--until-idle"]).ok();
        assert_eq!(workspace.values("out").len(), there, "sync {at}");
        assert!(workspace.sluice(&["fsck"]).ok().contains("nothing is damaged"));
    }
}

#[test]
fn damage_is_explained_and_given_up_only_on_request() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH);
    workspace.sluice(&["topic", "create", "in"]).ok();
    // Large enough that the commit log does not carry them: only the segment holds them.
    let line = "z".repeat(1000);
    workspace.write("many", format!("{line}\n").repeat(4000));
    workspace.sluice(&["produce", "in", "many"]).ok();
    workspace.produce("in", &["the last one"]);
    assert!(workspace.sluice(&["fsck"]).ok().contains("4001 events are intact"));
    let segment = workspace.path(".sluice/topics/1/00000-00000000000000000000.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[500_000] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();

    let ran = workspace.sluice(&["fsck"]);
    assert_eq!(ran.code, Some(3), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("in/0") && ran.stdout.contains("a repair would give up offsets 0 to"),
        "{}",
        ran.stdout
    );
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "fsck changed the segment without being asked");
    workspace.sluice(&["consume", "in"]).fails(3);
    let halted = workspace.sluice(&["run", "--until-idle"]).fails(3);
    assert!(halted.contains("p is halted at in/0 offset 0: damaged: ") && halted.contains("`sluice fsck` explains"));
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("it is halted", || workspace.pipeline("p")["state"] == "halted");
    let status = workspace.sluice(&["status"]).ok();
    assert!(status.contains("run `sluice fsck`: it explains") && !status.contains("mend the plugin"), "{status}");
    let refused = workspace.sluice(&["consume", "in"]).fails(3);
    assert!(refused.contains("help: stop the node, and run `sluice fsck`"), "{refused}");
    kill(&mut node);
    workspace.sluice(&["fsck", "--repair"]).ok();
    let told = workspace.json(&["fsck"]);
    let gone = told["holes"][0]["to"].as_u64().unwrap();
    assert!(gone > 0 && gone < 4000, "{told}");
    let ran = workspace.sluice(&["consume", "in"]);
    assert!(ran.stderr.contains(&format!("offsets 0 to {} are gone", gone - 1)), "{}", ran.stderr);
    let read = ran.ok();
    assert_eq!((read.lines().count() as u64, read.lines().last()), (4001 - gone, Some("the last one")));
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out").len() as u64, 4001 - gone);
    let account = &workspace.json(&["audit"])["accounts"][0];
    assert_eq!((&account["skipped"], &account["balances"]), (&gone.into(), &true.into()));
}

/// A copy of a data directory that is kept as a fixture.
fn kept(name: &str) -> Workspace {
    let workspace = Workspace::new();
    let archive = project().join("tests/fixtures").join(name).canonicalize().unwrap();
    let ran = script(&workspace, &["env"], &format!("tar xzf {}", archive.display()));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    workspace
}

#[test]
fn a_directory_of_the_first_version_is_opened_and_goes_on() {
    let workspace = kept("data-1.tar.gz");
    assert_eq!((workspace.values("flights").len(), workspace.values("late").len()), (300, 23));
    let pipeline = workspace.pipeline("late");
    let counts = ["read", "committed", "filtered", "lag"].map(|name| pipeline[name].as_u64().unwrap());
    assert_eq!(counts, [300, 23, 277, 0]);
    assert!(workspace.sluice(&["audit"]).ok().contains("yes"));
    assert!(workspace.sluice(&["fsck"]).ok().contains("nothing is damaged"));
    // Its producer has been silent for more than a week: the tests of the log look at it by an earlier clock.
    workspace.write("more", "{}\n");
    let told = workspace.json(&["produce", "flights", "more"]);
    assert_eq!(told["appended"], 1);
    workspace.sluice(&["rewind", "late", "--to", "earliest", "--yes"]).ok();
    assert_eq!(workspace.pipeline("late")["lag"], 301);
}

#[test]
fn a_directory_of_the_second_version_is_opened_and_goes_on() {
    let workspace = kept("data-2.tar.gz");
    let counts = ["flights", "late", "copy", "words"].map(|topic| workspace.values(topic).len());
    assert_eq!(counts, [300, 23, 29, 4]);
    // A snapshot, a hole, compression, retention, a deleted topic, a rewind, a paused pipeline: all of it is in there.
    let ran = workspace.sluice(&["consume", "big"]);
    assert!(ran.stderr.contains("big/0: offsets 0 to") && ran.stdout.ends_with("behind\nagain\n"), "{}", ran.stderr);
    let late = workspace.json(&["topic", "describe", "late"]);
    assert_eq!((&late["compression"], &late["retention-bytes"]), (&"zstd".into(), &(1_u64 << 30).into()));
    assert_eq!((&workspace.pipeline("copy")["epoch"], &workspace.pipeline("copy")["read"]), (&2.into(), &29.into()));
    let undone = workspace.json(&["rewind", "copy", "--undo"]);
    assert_eq!((&undone["moves"][0]["topic"], &undone["moves"][0]["to"]), (&"words".into(), &3.into()));
    let made = workspace.json(&["topic", "create", "gone"]);
    assert!(made["id"].as_u64().unwrap() > 6, "an id is used again: {made}");
    workspace.sluice(&["rewind", "late", "--to", "earliest", "--yes"]).ok();
    assert_eq!(workspace.pipeline("late")["lag"], 300);
    let audit = workspace.json(&["audit"]);
    assert!(audit["accounts"].as_array().unwrap().iter().all(|account| account["balances"] == true), "{audit}");
    assert!(workspace.sluice(&["fsck"]).ok().contains("nothing is damaged"));
}
