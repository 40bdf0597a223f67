//! Small commits under `fsync`, each with keyed output for many partitions, beside a plain sync of one file.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use sluice_env::{RealDisk, SystemClock};
use sluice_event::{Batch, NewEvent};
use sluice_log::{Append, Commit, Durability, Log, NewTopic, Options, TopicPartition};

use crate::measure::Spread;

/// Partitions that each commit writes to.
const PARTITIONS: u32 = 64;
/// Commits of one run.
const COMMITS: usize = 300;

/// Milliseconds for a commit, one after the other, and for appending as many bytes to one file and syncing it.
pub(crate) fn run(runs: usize) -> Result<(Spread, Spread)> {
    let dir = tempfile::tempdir()?;
    let options = Options::with(Durability::Fsync);
    let log = Log::open(Arc::new(RealDisk), Arc::new(SystemClock), &dir.path().join("data"), options)?;
    log.commit(Commit { topics: vec![NewTopic::new("keyed", PARTITIONS)], ..Commit::default() })?;
    let topic = log.topic("keyed")?.id;
    let mut batch = Batch::default();
    batch.push(&NewEvent { key: Some(b"key"), value: &[b'x'; 100], ..NewEvent::default() }).expect("it fits");
    let mut file = File::options().create_new(true).append(true).open(dir.path().join("plain"))?;
    // What a commit writes: per partition the batch in the commit log, with its header and record.
    let bytes = vec![b'x'; PARTITIONS as usize * 270];
    let (mut commits, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let start = Instant::now();
        for _ in 0..COMMITS {
            let to = |partition| TopicPartition { topic, partition };
            let appends = (0..PARTITIONS).map(|partition| Append::new(to(partition), batch.clone())).collect();
            log.commit(Commit { appends, ..Commit::default() })?;
        }
        commits.push(start.elapsed().as_secs_f64() * 1000.0 / COMMITS as f64);
        let start = Instant::now();
        for _ in 0..COMMITS {
            file.write_all(&bytes)?;
            file.sync_data()?;
        }
        plain.push(start.elapsed().as_secs_f64() * 1000.0 / COMMITS as f64);
    }
    Ok((Spread::of(commits), Spread::of(plain)))
}
