//! Checkpoints of a large state while it changes: how long the pipeline stands still for them, and what keeping them costs.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use sluice_config::Pipeline;
use sluice_event::{Batch, NewEvent};
use sluice_log::{Commit, Durability, Log, NewTopic, TopicPartition};
use sluice_node::{Compiler, Node, NodeOptions};

use crate::events::mixed;
use crate::measure::{Spread, resident_mib};

/// Events appended at once, and how often: 50,000 a second.
const AT_ONCE: u64 = 500;
const EVERY: Duration = Duration::from_millis(10);
/// So many checkpoints are kept.
const KEPT: u64 = 24;

pub(crate) struct Taken {
    pub(crate) keys: u64,
    /// To deal with an event for each key, in seconds.
    pub(crate) filled: f64,
    /// Resident then.
    pub(crate) memory: u64,
    /// Of the state on disk.
    pub(crate) bytes: u64,
    /// The longest time without a step of the cursor, ms: of stretches of time without a checkpoint, and with one.
    pub(crate) alone: Spread,
    pub(crate) during: Spread,
    /// To make a checkpoint, ms.
    pub(crate) took: Spread,
    /// MiB more on disk for each of those that are kept, a hundredth of the keys changing between two; and for all of them.
    pub(crate) each: Spread,
    pub(crate) together: f64,
}

struct Totals {
    node: Node,
    pipeline: u32,
    source: TopicPartition,
    keys: u64,
}

pub(crate) fn run(quick: bool) -> Result<Taken> {
    let data = tempfile::tempdir()?;
    let compiler = Compiler::Here;
    let node = Node::open(&NodeOptions { data: data.path().to_owned(), durability: Durability::Fsync, compiler })?;
    sluice_node::topics::create(node.log(), NewTopic::new("in", 1))?;
    let text = "name = \"totals\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = \"plugins/totals\"\ncapabilities = [\"state\"]\n\
                [checkpoint]\nevery = \"1h\"\n";
    let pipeline = Pipeline::parse(Path::new("bench.toml"), text).map_err(|_| anyhow!("not a pipeline: {text}"))?;
    node.start(&[pipeline])?;
    let info = node.log().pipeline("totals").ok_or_else(|| anyhow!("it has not started"))?;
    let source = *info.cursors.keys().next().ok_or_else(|| anyhow!("it reads nothing"))?;
    let keys = if quick { 200_000 } else { 10_000_000 };
    let totals = Totals { node, pipeline: info.id, source, keys };

    let begun = Instant::now();
    for from in (0..keys).step_by(4096) {
        // Each once, in no order.
        totals.append((from..keys.min(from + 4096)).map(|number| number * 7_654_321 % keys))?;
    }
    totals.wait_for(keys);
    let filled = begun.elapsed().as_secs_f64();
    let memory = resident_mib()?;
    totals.node.checkpoint("first", None)?;
    let state = data.path().join("state");
    let bytes = bytes_of(&state)?;

    let runs = if quick { 1 } else { 5 };
    let (mut alone, mut during, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        alone.push(totals.longest_pause(|| pause(Duration::from_secs(2)))?);
        let longest = totals.longest_pause(|| {
            let begun = Instant::now();
            let made = totals.node.checkpoint(&format!("run-{run}"), None);
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            assert!(made.is_ok(), "{made:?}");
            // What it leaves behind.
            pause(Duration::from_millis(500));
        })?;
        during.push(longest);
    }

    let mut each = Vec::new();
    let mut before = bytes_of(&state)?;
    for number in 0..KEPT {
        let (from, first) = (totals.cursor(), number * keys / 100);
        totals.append((first..first + keys / 100).map(|number| mixed(number) % keys))?;
        totals.wait_for(from + keys / 100);
        totals.node.checkpoint(&format!("kept-{number}"), None)?;
        let now = bytes_of(&state)?;
        each.push(now.saturating_sub(before) as f64 / f64::from(1 << 20));
        before = now;
    }
    let together = each.iter().sum();
    let (alone, during, took, each) = (Spread::of(alone), Spread::of(during), Spread::of(took), Spread::of(each));
    Ok(Taken { keys, filled, memory, bytes, alone, during, took, each, together })
}

impl Totals {
    fn log(&self) -> &Log {
        self.node.log()
    }

    fn append(&self, keys: impl Iterator<Item = u64>) -> Result<()> {
        let mut batch = Batch::default();
        for key in keys {
            let key = format!("user-{key:08}");
            batch.push(&NewEvent { key: Some(key.as_bytes()), value: br#"{"cents":7}"#, ..NewEvent::default() })?;
        }
        self.log().commit(Commit::append(self.source, batch))?;
        Ok(())
    }

    fn cursor(&self) -> u64 {
        self.log().cursor(self.pipeline, self.source).map_or(0, |(_, cursor)| cursor)
    }

    fn wait_for(&self, cursor: u64) {
        while self.cursor() < cursor {
            pause(Duration::from_millis(1));
        }
    }

    /// The longest time without a step of the cursor, ms, while events come and something is done.
    fn longest_pause(&self, work: impl FnOnce()) -> Result<f64> {
        let done = AtomicBool::new(false);
        let longest = std::thread::scope(|scope| -> Result<f64> {
            let events = scope.spawn(|| -> Result<()> {
                let begun = Instant::now();
                for round in 0.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let seed = begun.elapsed().as_nanos() as u64;
                    self.append((0..AT_ONCE).map(|number| mixed(seed ^ (number << 40)) % self.keys))?;
                    pause((EVERY * round).saturating_sub(begun.elapsed()));
                }
                Ok(())
            });
            let watcher = scope.spawn(|| {
                let (mut cursor, mut since, mut longest) = (self.cursor(), Instant::now(), Duration::ZERO);
                while !done.load(Ordering::SeqCst) {
                    pause(Duration::from_millis(1));
                    let now = self.cursor();
                    if now != cursor {
                        longest = longest.max(since.elapsed());
                        (cursor, since) = (now, Instant::now());
                    }
                }
                longest.max(since.elapsed())
            });
            work();
            done.store(true, Ordering::SeqCst);
            events.join().map_err(|_| anyhow!("a thread panicked"))??;
            let longest = watcher.join().map_err(|_| anyhow!("a thread panicked"))?;
            Ok(longest.as_secs_f64() * 1e3)
        })?;
        Ok(longest)
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement goes by the clock")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Bytes on disk of a folder's files, those once that have several names.
fn bytes_of(folder: &Path) -> Result<u64> {
    let (mut known, mut bytes, mut folders) = (HashSet::new(), 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            // A table that was merged into others may go meanwhile.
            let Ok(entry) = entry else { continue };
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
            } else if known.insert(found.ino()) {
                bytes += found.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}
