//! J1 through the engine alone, with the consumer compiled natively: no log, no sandbox, nothing that fails. Made to be counted by
//! callgrind: `cargo xtask bench instructions`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use sluice_engine::{
    BatchSize, Breaker, Delivery, ErrorPolicy, Generation, LaneConfig, LaneRunner, OnError, PartitionBy, Retry, Sink,
    Source, SourceConfig, StageConfig, Step, Storage,
};
use sluice_env::ManualClock;
use sluice_event::Batch;
use sluice_log::{Commit, Committed, Done, Error, ReadBatch, TopicPartition};

use crate::events::Job;
use crate::native_lane::NativePlugin;

const SOURCE: TopicPartition = TopicPartition { topic: 1, partition: 0 };

/// All events, and where each begins.
#[derive(Clone)]
pub(crate) struct Memory {
    bytes: Arc<Vec<u8>>,
    starts: Arc<Vec<usize>>,
}

impl Memory {
    pub(crate) fn of(batches: &[Batch]) -> Self {
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for event in batches.iter().flat_map(|batch| batch.region().events().flatten()) {
            bytes.extend_from_slice(event.bytes());
            starts.push(bytes.len());
        }
        Self { bytes: Arc::new(bytes), starts: Arc::new(starts) }
    }
}

impl Source for Memory {
    fn high_watermark(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    fn read(&mut self, from: u64, max_events: u32, _: usize, out: &mut ReadBatch) -> Result<(), Error> {
        let end = (from + u64::from(max_events)).min(self.high_watermark());
        let bytes = &self.bytes[self.starts[from as usize]..self.starts[end as usize]];
        (out.base_offset, out.count) = (from, (end - from) as u32);
        out.bytes.clear();
        out.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// Commits at once, and forgets.
struct Nowhere;

impl Storage for Nowhere {
    fn submit(&self, commit: Commit, done: Done) {
        drop(commit);
        done(Ok(Committed::default()));
    }

    fn position(&self, _: u32, _: TopicPartition) -> Option<(u64, u64)> {
        None
    }
}

/// Makes so many events of J1 and, unless they are only to be made, runs them through a lane: what callgrind counts.
pub(crate) fn run(events: u64, only_make: bool) -> Result<()> {
    let memory = Memory::of(&Job::J1.events(events));
    if only_make { Ok(()) } else { run_lane(Job::J1, &memory) }
}

/// Runs events through a lane. The job's only stage keeps no state.
pub(crate) fn run_lane(job: Job, memory: &Memory) -> Result<()> {
    let errors = ErrorPolicy {
        retry: Retry { attempts: 5, initial_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(30) },
        on_error: OnError::DeadLetter { topic: 3, partitions: 1 },
        breaker: Arc::new(Breaker::new(1000, 500)),
    };
    let stage = StageConfig {
        name: "orders".into(),
        plugin: Arc::new(NativePlugin { job, stage: 0 }),
        keys_unchanged: false,
        max_outputs_per_event: 1000,
        digest: "native".into(),
        state: None,
        state_version: None,
    };
    let config = LaneConfig {
        pipeline_name: "engine".into(),
        pipeline: 1,
        epoch: 1,
        delivery: Delivery::ExactlyOnce,
        witness: Arc::new(()),
        generation: Generation {
            number: 1,
            stages: vec![stage],
            sinks: vec![Sink { name: "out".into(), topic: 2, partitions: 1, partition_by: PartitionBy::Key }],
            errors,
            batch_size: BatchSize::new(4096),
            max_bytes: 1 << 20,
            linger: Duration::ZERO,
            probation: None,
        },
        max_in_flight: 8,
        state: None,
    };
    let clock = Arc::new(ManualClock::default());
    let source = SourceConfig { source: SOURCE, topic_name: "in".into(), cursor: 0, tried: None };
    let mut lane =
        LaneRunner::new(config, vec![(source, Box::new(memory.clone()))], Arc::new(Nowhere), clock, Arc::new(|| {}));
    loop {
        match lane.step(false) {
            Step::Worked => {}
            Step::Idle => return Ok(()),
            other => bail!("the lane came to {other:?}"),
        }
    }
}
