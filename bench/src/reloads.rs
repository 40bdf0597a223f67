//! What a reload costs the pipeline that runs: the longest time without a step of its cursor, in stretches of time with a reload and without.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use sluice_event::Batch;
use sluice_log::{Commit, Durability, NewTopic, TopicPartition};
use sluice_node::{Compiler, Node, NodeOptions, definitions};

use crate::events::Job;
use crate::measure::Times;

/// Events appended at once, and how often: 50,000 a second.
const AT_ONCE: usize = 500;
const EVERY: Duration = Duration::from_millis(10);
/// A stretch of time.
const STRETCH: Duration = Duration::from_millis(100);

pub(crate) struct Taken {
    pub(crate) without: Times,
    pub(crate) with: Times,
    /// From the order until it is in force.
    pub(crate) took: Times,
}

/// A definition and its plugin, whose bytes change while what it does does not.
struct Files {
    folder: PathBuf,
    wasm: Vec<u8>,
}

impl Files {
    fn write(&self, version: u8) -> Result<()> {
        // A custom section of its own: another digest.
        let other = [&self.wasm[..], &[0, 3, 1, b'v', version]].concat();
        Ok(std::fs::write(self.folder.join("p.wasm"), other)?)
    }
}

pub(crate) fn run(quick: bool) -> Result<Taken> {
    let stretches: u32 = if quick { 20 } else { 400 };
    let data = tempfile::tempdir()?;
    let wasm = std::fs::read(Path::new("plugins/pass-through/build/pass-through.wasm"))?;
    let files = Files { folder: data.path().to_owned(), wasm };
    let file = data.path().join("p.toml");
    std::fs::write(
        &file,
        "name = \"p\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = \"p.wasm\"\n[[sink]]\ntopic = \"out\"\n",
    )?;
    let compiler = Compiler::Here;
    let options = NodeOptions { data: data.path().join("data"), durability: Durability::Fsync, compiler };
    let node = Arc::new(Node::open(&options)?);
    sluice_node::topics::create(node.log(), NewTopic::new("in", 1))?;
    files.write(0)?;
    let definitions = definitions::read(&[file]).map_err(|_| anyhow!("not a pipeline"))?;
    node.start(&definitions)?;
    // Compiled code is cached for both.
    for version in [1, 0] {
        files.write(version)?;
        node.reload("p")?;
    }
    let info = node.log().pipeline("p").ok_or_else(|| anyhow!("it has not started"))?;
    let source = *info.cursors.keys().next().ok_or_else(|| anyhow!("it reads nothing"))?;
    let input = Job::J3.events(AT_ONCE as u64);
    let longest = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let (mut without, mut with, mut took) = (Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| -> Result<()> {
        let feeder = scope.spawn(|| feed(&node, source, &input, &done));
        let watcher = scope.spawn(|| watch(&node, (info.id, source), &longest, &done));
        let longest = || longest.swap(0, Ordering::SeqCst) as f64 / 1e3;
        pause(STRETCH);
        longest();
        let mut measure = || -> Result<()> {
            for stretch in 0..stretches {
                pause(STRETCH);
                without.push(longest());
                files.write(u8::from(stretch % 2 == 0))?;
                let begun = Instant::now();
                node.reload("p")?;
                took.push(begun.elapsed().as_secs_f64() * 1e3);
                pause(STRETCH.saturating_sub(begun.elapsed()));
                with.push(longest());
            }
            Ok(())
        };
        let measured = measure();
        done.store(true, Ordering::SeqCst);
        feeder.join().map_err(|_| anyhow!("a thread panicked"))??;
        watcher.join().map_err(|_| anyhow!("a thread panicked"))?;
        measured
    })?;
    Ok(Taken { without: Times::of(without), with: Times::of(with), took: Times::of(took) })
}

fn feed(node: &Node, source: TopicPartition, input: &[Batch], done: &AtomicBool) -> Result<()> {
    let begun = Instant::now();
    for round in 0.. {
        if done.load(Ordering::SeqCst) {
            break;
        }
        for batch in input {
            node.log().commit(Commit::append(source, batch.clone()))?;
        }
        pause((EVERY * round).saturating_sub(begun.elapsed()));
    }
    Ok(())
}

/// Notes the longest time without a step of the cursor, in microseconds.
fn watch(node: &Node, (pipeline, source): (u32, TopicPartition), longest: &AtomicU64, done: &AtomicBool) {
    let cursor = || node.log().cursor(pipeline, source).map_or(0, |(_, cursor)| cursor);
    let (mut last, mut since) = (cursor(), Instant::now());
    while !done.load(Ordering::SeqCst) {
        pause(Duration::from_micros(100));
        let now = cursor();
        if now != last {
            longest.fetch_max(since.elapsed().as_micros() as u64, Ordering::SeqCst);
            (last, since) = (now, Instant::now());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement goes by the clock")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
