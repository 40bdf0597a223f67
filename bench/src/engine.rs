//! J1 through the engine alone, with the consumer compiled natively: no log, no sandbox, nothing that fails. Made to be counted by
//! callgrind: `cargo xtask bench instructions`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use sluice_engine::{
    Breaker, CallError, Consumer, Delivery, ErrorPolicy, Generation, LaneConfig, LaneRunner, OnError, PartitionBy,
    Plugin, Retry, Sink, Source, SourceConfig, StageConfig, Step, Storage,
};
use sluice_env::ManualClock;
use sluice_event::Batch;
use sluice_log::{Commit, Committed, Done, Error, ReadBatch, TopicPartition};
use sluice_sdk::runner;

use crate::events::Job;

const SOURCE: TopicPartition = TopicPartition { topic: 1, partition: 0 };

/// All events, and where each begins.
struct Memory {
    bytes: Vec<u8>,
    starts: Vec<usize>,
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

struct NativeConsumer;

impl Consumer for NativeConsumer {
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        // The consumer remembers nothing: one for each call will do.
        let outcome =
            runner(orders::orders).run(&header.to_vec().into(), &events.to_vec().into(), &|_| {}).unwrap_or_default();
        receive(&outcome);
        Ok(())
    }
}

struct NativePlugin;

impl Plugin for NativePlugin {
    fn instantiate(&self, _: Option<sluice_state::StageState>) -> Result<Box<dyn Consumer>, CallError> {
        Ok(Box::new(NativeConsumer))
    }
}

/// Makes so many events and, unless they are only to be made, runs them through a lane.
pub(crate) fn run(events: u64, only_make: bool) -> Result<()> {
    let mut memory = Memory { bytes: Vec::new(), starts: vec![0] };
    for batch in Job::J1.events(events) {
        memory.add(&batch);
    }
    if only_make {
        return Ok(());
    }
    let errors = ErrorPolicy {
        retry: Retry { attempts: 5, initial_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(30) },
        on_error: OnError::DeadLetter { topic: 3, partitions: 1 },
        breaker: Arc::new(Breaker::new(1000, 500)),
    };
    let stage = StageConfig {
        name: "orders".into(),
        plugin: Arc::new(NativePlugin),
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
            max_events: 4096,
            max_bytes: 1 << 20,
            linger: Duration::ZERO,
            probation: None,
        },
        max_in_flight: 8,
        state: None,
    };
    let clock = Arc::new(ManualClock::default());
    let source = SourceConfig { source: SOURCE, topic_name: "in".into(), cursor: 0, tried: None };
    let mut lane = LaneRunner::new(config, vec![(source, Box::new(memory))], Arc::new(Nowhere), clock, Arc::new(|| {}));
    loop {
        match lane.step(false) {
            Step::Worked => {}
            Step::Idle => return Ok(()),
            other => bail!("the lane came to {other:?}"),
        }
    }
}

impl Memory {
    fn add(&mut self, batch: &Batch) {
        for event in batch.region().events().flatten() {
            self.bytes.extend_from_slice(event.bytes());
            self.starts.push(self.bytes.len());
        }
    }
}
