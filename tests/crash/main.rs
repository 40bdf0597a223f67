//! SIGKILL at random moments, then a checker that shares no code with the runtime.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test, in functions of its own"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_tests::checker::{Promise, Seen, check_outputs, check_rewound, check_seen};
use sluice_tests::sluice::{Workspace, kill};

/// Kills in CI, for each delivery; `cargo xtask test --kills 500` sets another number.
const KILLS: u32 = 12;

/// The pipeline that is looked at. What it has read of `in` is soon let go of.
const PIPELINE: &str = r#"
name = "through"
delivery = "DELIVERY"
[source]
topics = ["in"]
[[stage]]
plugin = "../plugins/pass-through"
[[sink]]
topic = "out"
partition-by = "key"
[[topic]]
name = "in"
partitions = 2
retention = { size = "64KiB" }
[[topic]]
name = "out"
partitions = 4
compression = "lz4"
[batch]
max-events = 50
"#;

/// Another one, which an operator rewinds, pauses and resumes all the time.
const AGAIN: &str = r#"
name = "again"
[source]
topics = ["in"]
[[stage]]
plugin = "../plugins/pass-through"
[[sink]]
topic = "again"
partition-by = "source"
[batch]
max-events = 50
"#;

/// A small generator; the seed is printed, so that a failure can be looked at again.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Sends the lines over and over under one producer's name until all are appended, whatever dies meanwhile. It starts anew
/// only while a node is up, for without one it would open the directory itself.
fn produce(workspace: &Workspace, sender: &Mutex<Option<Child>>, flags: &Flags) {
    let Flags { done, fast, up } = flags;
    while !done.load(Ordering::SeqCst) {
        while !up.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut arguments = vec!["produce", "in", "lines", "--key", "k", "--producer-id", "loader"];
        if !fast.load(Ordering::SeqCst) {
            arguments.extend(["--rate", "6000/s"]);
        }
        let mut command = workspace.command(&arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        *sender.lock().unwrap() = Some(child);
        loop {
            let mut slot = sender.lock().unwrap();
            let Some(child) = slot.as_mut() else { break };
            if let Some(status) = child.try_wait().unwrap() {
                done.fetch_or(status.success(), Ordering::SeqCst);
                *slot = None;
                break;
            }
            drop(slot);
            std::thread::yield_now();
        }
    }
}

/// What the producing thread is told, and tells.
#[derive(Default)]
struct Flags {
    /// Everything is appended.
    done: AtomicBool,
    /// No pace any more.
    fast: AtomicBool,
    /// A node is running.
    up: AtomicBool,
}

/// Starts the node; a producer that has opened the directory by itself meanwhile is killed as well.
fn start(workspace: &Workspace, sender: &Mutex<Option<Child>>) -> Child {
    loop {
        match workspace.start(&[]) {
            Ok(node) => return node,
            Err(ran) if ran.stderr.contains("in use") => {
                if let Some(mut child) = sender.lock().unwrap().take() {
                    kill(&mut child);
                }
            }
            Err(ran) => panic!("the node does not start: {}", ran.stderr),
        }
    }
}

/// Follows the output as a reader would, until the node dies.
fn follow(workspace: &Workspace) -> Receiver<Seen> {
    let mut command = workspace.command(&["consume", "out", "--json", "--follow"]);
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (seen, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(reader.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            // The last line may be cut short by the crash.
            let Ok(event) = serde_json::from_str(&line) else { break };
            if seen.send(Seen::from_json(&event).unwrap()).is_err() {
                break;
            }
        }
        kill(&mut reader);
    });
    receiver
}

/// Makes, fills and deletes topics, and rewinds, pauses and resumes the other pipeline, whatever dies meanwhile.
fn operate(workspace: &Workspace, flags: &Flags, mut rng: Rng) {
    let mut number = 0;
    while !flags.done.load(Ordering::SeqCst) {
        while !flags.up.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        number += 1;
        let side = format!("side-{number}");
        let before = format!("side-{}", number - 1);
        let verbs: [&[&str]; 5] = [
            &["topic", "create", &side, "--compression", "zstd"],
            &["produce", &side, "some-lines"],
            &["topic", "delete", &before],
            // Back: to an offset it might go forth, and leave events out.
            &["rewind", "again", "--to", "earliest", "--yes"],
            &["pipeline", if rng.below(3) == 0 { "pause" } else { "resume" }, "again"],
        ];
        // Now and then: a pipeline that is always far back lets go of nothing.
        let often = if rng.below(4) == 0 { 5 } else { 3 };
        for verb in &verbs[..often] {
            // What fails, fails: a node may have died, or be about to.
            workspace.sluice_if_answering(verb);
        }
    }
}

fn kill_again_and_again(delivery: &str, promise: Promise) {
    let kills: u32 = std::env::var("SLUICE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("{delivery}: seed {seed}, {kills} kills");
    let mut rng = Rng(seed);
    let workspace = Arc::new(Workspace::new());
    workspace.write("pipelines/through.toml", PIPELINE.replace("DELIVERY", delivery));
    workspace.write("pipelines/again.toml", AGAIN);
    workspace.write("some-lines", "a line\n".repeat(100));
    // Enough to last at the pace of the producer: a node that has nothing to do is easily killed.
    let lines: Vec<String> =
        (0..u64::from(kills) * 2400).map(|n| format!(r#"{{"n":{n},"k":"key-{}"}}"#, n * 7919 % 101)).collect();
    workspace.write("lines", lines.join("\n") + "\n");

    let sender: Arc<Mutex<Option<Child>>> = Arc::default();
    let flags = Arc::new(Flags::default());
    let mut node = start(&workspace, &sender);
    flags.up.store(true, Ordering::SeqCst);
    let producer = {
        let (workspace, sender, flags) = (workspace.clone(), sender.clone(), flags.clone());
        std::thread::spawn(move || produce(&workspace, &sender, &flags))
    };
    let operator = {
        let (workspace, flags) = (workspace.clone(), flags.clone());
        std::thread::spawn(move || operate(&workspace, &flags, Rng(seed + 1)))
    };
    let mut early = Vec::new();
    for _ in 0..kills {
        let events = follow(&workspace);
        // After some events or some time, whichever comes first: in the middle of anything.
        let (most, until) = (rng.below(4000), Instant::now() + Duration::from_millis(rng.below(250)));
        for _ in 0..most {
            match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => early.push(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        flags.up.store(false, Ordering::SeqCst);
        kill(&mut node);
        early.extend(events);
        node = start(&workspace, &sender);
        flags.up.store(true, Ordering::SeqCst);
    }
    flags.fast.store(true, Ordering::SeqCst);
    producer.join().unwrap();
    operator.join().unwrap();
    kill(&mut node);
    workspace.sluice(&["pipeline", "resume", "again"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();

    let seen = |topic: &str| -> Vec<Seen> {
        workspace.events(topic).iter().map(|event| Seen::from_json(event).unwrap()).collect()
    };
    let outputs = seen("out");
    let lost = check_outputs(&lines, &outputs, promise).unwrap();
    check_seen(&early, &outputs).unwrap();
    check_rewound(&lines, &seen("again")).unwrap();
    let audit = workspace.json(&["audit"]);
    let accounts = audit["accounts"].as_array().unwrap();
    assert!(accounts.iter().all(|account| account["balances"] == true), "{audit}");
    assert!(workspace.sluice(&["fsck"]).ok().contains("nothing is damaged"));
    // What is missing is what the totals call lost, and nothing else is.
    let pipeline = workspace.pipeline("through");
    assert_eq!(pipeline["unsettled"].as_u64(), Some(lost), "{pipeline}");
    let low_mark = workspace.json(&["topic", "describe", "in"])["partitions"][0]["low-mark"].as_u64().unwrap();
    println!(
        "{delivery}: {} events read while the node died {kills} times, {lost} lost, low mark {low_mark}",
        early.len()
    );
}

#[test]
fn exactly_once_neither_loses_nor_repeats_whatever_is_killed() {
    kill_again_and_again("exactly-once", Promise::Once);
}

#[test]
fn at_least_once_loses_nothing_whatever_is_killed() {
    kill_again_and_again("at-least-once", Promise::AtLeastOnce);
}

#[test]
fn at_most_once_repeats_nothing_whatever_is_killed() {
    kill_again_and_again("at-most-once", Promise::AtMostOnce);
}
