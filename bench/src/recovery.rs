//! How long a start takes after a kill, with a large log and many commits behind it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sluice_env::{RealDisk, SystemClock};
use sluice_event::{Batch, NewEvent};
use sluice_log::{Commit, Durability, Log, NewTopic, Options, TopicPartition};

use crate::measure::Spread;

/// Commits in the log.
const COMMITS: u64 = 10_000_000;
/// Bytes of each event, so that the log takes four gigabytes.
const EVENT_BYTES: usize = 330;
/// Commits under `fsync` at the end, which the commit log still carries whole.
const CARRIED: u64 = 100_000;

fn open(dir: &Path, durability: Durability) -> Result<Log> {
    Ok(Log::open(Arc::new(RealDisk), Arc::new(SystemClock), dir, Options::with(durability))?)
}

/// Fills a log, and is killed at the end of it: runs as a process of its own.
pub(crate) fn fill(dir: &Path, commits: u64) -> Result<()> {
    let mut batch = Batch::default();
    batch.push(&NewEvent { value: &[b'x'; EVENT_BYTES], ..NewEvent::default() }).expect("it fits");
    for (durability, commits) in [(Durability::Os, commits), (Durability::Fsync, CARRIED.min(commits))] {
        let log = open(dir, durability)?;
        if log.topic("in").is_err() {
            log.commit(Commit { topics: vec![NewTopic::new("in", 4)], ..Commit::default() })?;
        }
        let topic = log.topic("in")?.id;
        for number in 0..commits {
            let to = TopicPartition { topic, partition: (number % 4) as u32 };
            log.submit(Commit::append(to, batch.clone()), Box::new(|_| {}));
        }
        let to = TopicPartition { topic, partition: 0 };
        log.commit(Commit::append(to, batch.clone()))?;
        if durability == Durability::Fsync {
            // As a crash would: nothing is closed.
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        }
    }
    Ok(())
}

/// Seconds until a killed log is open again, and what it holds: bytes of segments, bytes of the commit log.
pub(crate) fn run(quick: bool) -> Result<(Spread, u64, u64)> {
    let dir = tempfile::tempdir()?;
    let commits = if quick { COMMITS / 100 } else { COMMITS };
    let mut seconds = Vec::new();
    for round in 0..3 {
        // The first fills the log; the others add to what has to be recovered.
        let commits = if round == 0 { commits } else { 1 };
        let mut child = Command::new(std::env::current_exe()?);
        let arguments = ["--fill".to_owned(), dir.path().display().to_string(), commits.to_string()];
        let status = child.args(arguments).stdout(Stdio::null()).status().context("a process of its own")?;
        ensure!(!status.success(), "it was to be killed");
        let start = Instant::now();
        let log = open(dir.path(), Durability::Fsync)?;
        seconds.push(start.elapsed().as_secs_f64());
        drop(log);
    }
    Ok((Spread::of(seconds), size(&dir.path().join("topics"))?, size(&dir.path().join("commits"))?))
}

fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
