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

use sluice_tests::checker::{Seen, check, check_seen};
use sluice_tests::sluice::{Workspace, kill};

/// Kills in CI; `cargo xtask test --kills 500` sets another number.
const KILLS: u32 = 25;

const PIPELINE: &str = r#"
name = "through"
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
[[topic]]
name = "out"
partitions = 4
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

#[test]
fn killed_at_random_moments_each_input_has_its_result_once() {
    let kills: u32 = std::env::var("SLUICE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}, {kills} kills");
    let mut rng = Rng(seed);
    let workspace = Arc::new(Workspace::new());
    workspace.write("pipelines/through.toml", PIPELINE);
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
    kill(&mut node);
    workspace.sluice(&["run", "--until-idle"]).ok();

    let seen = |topic: &str| -> Vec<Seen> {
        workspace.events(topic).iter().map(|event| Seen::from_json(event).unwrap()).collect()
    };
    let outputs = seen("out");
    check(&lines, &seen("in"), &outputs).unwrap();
    check_seen(&early, &outputs).unwrap();
    println!("{} events were read while the node died {kills} times", early.len());
}
