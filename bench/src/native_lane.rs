//! A job through log and engine with its consumers compiled natively: what the sandbox adds is the difference to that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sluice_engine::{
    BatchSize, CallError, CallErrorKind, Consumer, Delivery, ErrorPolicy, Generation, LaneConfig, LaneRunner,
    PartitionBy, Plugin, Reopen, Sink, SourceConfig, StageConfig, StateConfig, StateGrant, Step, TimePolicy,
};
use sluice_env::{Clock, SystemClock};
use sluice_log::{Commit, Log, NewTopic, PipelineStart, TopicPartition};
use sluice_sdk::testing::{Store, Stored, keep_in};
use sluice_sdk::{Runner, Shared};
use sluice_state::{MemoryStore, PartitionState, SharedState, StageState};

use crate::events::Job;
use crate::native;

/// A stage of a job.
pub(crate) struct NativePlugin {
    pub(crate) job: Job,
    pub(crate) stage: usize,
}

/// A consumer, what it reads, and what it keeps.
type Own = (Box<dyn Runner>, Shared, Shared, Option<Rc<dyn Store>>);

/// What a stage keeps, found for its consumer as the sandbox does it.
struct Kept(StageState);

impl Store for Kept {
    fn get(&self, key: &[u8]) -> Option<(Vec<u8>, Option<i64>)> {
        let slot = self.0.get(key).expect("a state in memory can be read")?;
        Some((slot.value?, slot.expires))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Stored> {
        let (found, _) = self.0.scan(prefix, after, limit, usize::MAX).expect("a state in memory can be read");
        found.into_iter().filter_map(|(key, slot)| Some((key, slot.value?, slot.expires))).collect()
    }
}

thread_local! {
    /// Consumers stay on the thread they were made on, and the engine wants what can be sent to others: it is given their numbers.
    static CONSUMERS: RefCell<HashMap<u64, Own>> = RefCell::default();
}

struct NativeConsumer(u64);

impl Plugin for NativePlugin {
    fn instantiate(&self, state: Option<StageState>) -> Result<Box<dyn Consumer>, CallError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let failed = |error: &dyn std::fmt::Display| CallError::new(CallErrorKind::Instantiate, error.to_string());
        let mut consumers = native::consumers(self.job).map_err(|error| failed(&error))?;
        if self.stage >= consumers.len() {
            return Err(failed(&"there is no such stage"));
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let store = state.map(|state| Rc::new(Kept(state)) as Rc<dyn Store>);
        let own = (consumers.swap_remove(self.stage), Shared::default(), Shared::default(), store);
        CONSUMERS.with_borrow_mut(|all| all.insert(number, own));
        Ok(Box::new(NativeConsumer(number)))
    }
}

impl Consumer for NativeConsumer {
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        let outcome = CONSUMERS.with_borrow_mut(|all| {
            let (runner, own_header, own_events, store) = all.get_mut(&self.0)?;
            store.iter().cloned().for_each(keep_in);
            for (own, given) in [(&mut *own_header, header), (&mut *own_events, events)] {
                let own = Rc::make_mut(own);
                own.clear();
                own.extend_from_slice(given);
            }
            runner.run(own_header, own_events, &AtomicU32::new(0)).ok()
        });
        let failed = || CallError::new(CallErrorKind::Trap, "the native consumer failed".to_owned());
        receive(&outcome.ok_or_else(failed)?);
        Ok(())
    }
}

impl Drop for NativeConsumer {
    fn drop(&mut self) {
        let _ = CONSUMERS.try_with(|all| all.borrow_mut().remove(&self.0));
    }
}

/// Runs the job over the first partition of `in`, from its first event to its last, on this thread; the log's own does the committing.
pub(crate) fn run(job: Job, log: &Arc<Log>, delivery: Delivery, name: &str) -> Result<()> {
    let (out, changelog) = (format!("out-{name}"), format!("changes-{name}"));
    let topics = [&out, &changelog].map(|topic| NewTopic::new(topic, 1));
    log.commit(Commit { topics: topics.to_vec(), ..Commit::default() })?;
    let of = |topic: &str| anyhow::Ok(TopicPartition { topic: log.topic(topic)?.id, partition: 0 });
    let source = of("in")?;
    let start = PipelineStart {
        name: name.to_owned(),
        digest: Vec::new(),
        definition: String::new(),
        start: vec![(source, 0)],
    };
    log.commit(Commit { pipeline: Some(start), ..Commit::default() })?;
    let info = log.pipeline(name).context("the pipeline has not started")?;
    let grant = job.capabilities().contains(&"state").then(|| StateGrant {
        max_bytes: 1 << 30,
        values: true,
        timers: job.capabilities().contains(&"timers"),
    });
    let stage = |stage: usize| StageConfig {
        name: format!("stage-{stage}"),
        plugin: Arc::new(NativePlugin { job, stage }),
        keys_unchanged: false,
        max_outputs_per_event: 1000,
        digest: "native".into(),
        state: grant,
        state_version: None,
    };
    let state = match grant {
        Some(_) => {
            let reopen: Reopen = Arc::new(|| Err(sluice_log::Error::Closed));
            let shared = SharedState::new(PartitionState::open(Arc::new(MemoryStore::default()))?);
            let time = Arc::new(TimePolicy::default());
            Some(StateConfig { shared, changelog: of(&changelog)?, flusher: Arc::new(()), reopen, time })
        }
        None => None,
    };
    let sink = Sink { name: "out".into(), topic: of(&out)?.topic, partitions: 1, partition_by: PartitionBy::Key };
    let config = LaneConfig {
        pipeline_name: name.to_owned(),
        pipeline: info.id,
        epoch: info.epoch,
        delivery,
        witness: Arc::new(()),
        generation: Generation {
            number: info.generation,
            stages: (0..job.plugins().len()).map(stage).collect(),
            sinks: vec![sink],
            errors: ErrorPolicy::halt(),
            batch_size: BatchSize::new(4096),
            max_bytes: 1 << 20,
            linger: Duration::ZERO,
            probation: None,
        },
        max_in_flight: 8,
        state,
    };
    let partition = log.partition(&log.topic("in")?, 0)?;
    let reader = Box::new(log.reader(partition, 0));
    let from = SourceConfig { source, topic_name: "in".into(), cursor: 0, tried: None };
    let clock = Arc::new(SystemClock);
    let this = std::thread::current();
    let mut lane =
        LaneRunner::new(config, vec![(from, reader)], log.clone(), clock.clone(), Arc::new(move || this.unpark()));
    loop {
        match lane.step(false) {
            Step::Worked => {}
            Step::Idle => return Ok(()),
            Step::Waiting => std::thread::park(),
            Step::WaitingUntil(time) => std::thread::park_timeout(time.saturating_sub(clock.elapsed())),
            other => bail!("the lane came to {other:?}"),
        }
    }
}
