//! The stages of a pipeline on one source partition, called one after the other.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use sluice_event::{Outcome, View};
use sluice_log::{Append, ReadBatch, TopicPartition};
use sluice_state::{Layer, SharedState, prefix_of};

use crate::errors::Failed;
use crate::keyed::{self, StateGrant};
use crate::port::{CallError, CallErrorKind, Consumer, Plugin, UnderWay, Witness};
use crate::router::{Given, Link, Router, Sink, Told};

/// One stage, as a lane is given it.
#[derive(Clone)]
pub struct StageConfig {
    /// Unique in the pipeline.
    pub name: String,
    /// Makes its instances.
    pub plugin: Arc<dyn Plugin>,
    /// Whether outputs must keep the keys of their inputs.
    pub keys_unchanged: bool,
    /// How many outputs one event may have.
    pub max_outputs_per_event: u32,
    /// SHA-256 of the plugin, in hexadecimal.
    pub digest: Arc<str>,
    /// What it may keep, if it may keep anything.
    pub state: Option<StateGrant>,
}

/// What a batch came to. Indices are those of the events in the batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Called {
    /// Events dealt with, from the first on.
    pub(crate) processed: u32,
    /// Of these, events with outputs.
    pub(crate) committed: u64,
    /// Of these, events without any output.
    pub(crate) filtered: u64,
    /// Of these, events that will not go through, in order; they have no effects.
    pub(crate) failed: Vec<Failed>,
    /// The next event, when a stage stopped there because trying it again may help.
    pub(crate) stopped: Option<Failed>,
    /// What this event did to the state cannot be told from what others did: nothing of the call can be used, and it is to be tried alone.
    pub(crate) entangled: Option<u32>,
}

/// What went wrong in which stage. An index of an event is that of the source event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stage {name}: {error}")]
pub struct StageError {
    /// The stage, by its position.
    pub stage: usize,
    /// Its name.
    pub name: String,
    /// What went wrong.
    pub error: CallError,
}

struct Stage {
    config: StageConfig,
    consumer: Option<Box<dyn Consumer>>,
    /// What its keys in the store begin with.
    prefix: Vec<u8>,
}

/// The stages of a lane, each with its instance.
pub(crate) struct Chain {
    /// Of this pipeline, by its id.
    pipeline: u32,
    /// Is told of each call.
    witness: Arc<dyn Witness>,
    stages: Vec<Stage>,
    router: Router,
    source: TopicPartition,
    topic_name: String,
    /// What its stages may read, where one is granted state.
    state: Option<SharedState>,
    /// What the call in hand changes of it.
    changes: Layer,
    header: Vec<u8>,
    /// What the stage in hand is given, and what it hands on.
    given: Link,
    handed_on: Link,
}

impl Chain {
    /// The stages of a pipeline, whose calls a witness is told of, on a source partition.
    pub(crate) fn new(
        (pipeline, witness): (u32, Arc<dyn Witness>),
        stages: &[StageConfig],
        sinks: Vec<Sink>,
        source: TopicPartition,
        topic_name: String,
        state: Option<SharedState>,
    ) -> Self {
        let stage =
            |config: &StageConfig| Stage { config: config.clone(), consumer: None, prefix: prefix_of(&config.name) };
        Self {
            pipeline,
            witness,
            stages: stages.iter().map(stage).collect(),
            router: Router::new(sinks, source),
            source,
            topic_name,
            state,
            changes: Layer::default(),
            header: Vec::new(),
            given: Link::default(),
            handed_on: Link::default(),
        }
    }

    /// Has it called with events of another partition from now on.
    pub(crate) fn point_at(&mut self, source: TopicPartition, topic_name: &str) {
        self.source = source;
        self.topic_name.clear();
        self.topic_name.push_str(topic_name);
        self.router.point_at(source);
    }

    /// Whether it holds instances.
    pub(crate) fn is_warm(&self) -> bool {
        self.stages.iter().any(|stage| stage.consumer.is_some())
    }

    /// Drops the instances: they have seen what never happened.
    pub(crate) fn drop_instances(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.consumer = None);
    }

    /// Drops instances and memory until the next call.
    pub(crate) fn rest(&mut self) {
        self.drop_instances();
        self.router.rest();
        (self.header, self.given, self.handed_on) = (Vec::new(), Link::default(), Link::default());
    }

    /// Gives a batch to the first stage, its outputs to the second, and so on. What goes to the sinks is
    /// [`take_appends`](Self::take_appends). Where a call fails, the whole fails: which source event was in hand is told, so that it
    /// can be tried alone.
    ///
    /// Should the host itself panic over what a guest returned, that is a failed call like any other: it must not take the thread along.
    ///
    /// `watermarks` are those before each event, for chains with state.
    pub(crate) fn call(&mut self, batch: &ReadBatch, watermarks: &[u8]) -> Result<Called, StageError> {
        let (pipeline, source) = (self.pipeline, self.source);
        self.witness.enter(&UnderWay { pipeline, source, from: batch.base_offset, events: batch.count });
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.call_stages(batch, watermarks)));
        self.witness.leave();
        result.unwrap_or_else(|_| {
            self.drop_instances();
            self.router.clear();
            self.changes.clear();
            let error =
                CallError::new(CallErrorKind::BadOutcome, "the host panicked over what it returned; this is a bug");
            Err(StageError { stage: 0, name: self.stages[0].config.name.clone(), error })
        })
    }

    fn call_stages(&mut self, batch: &ReadBatch, watermarks: &[u8]) -> Result<Called, StageError> {
        let count = self.stages.len();
        self.router.begin(batch.count);
        self.changes.clear();
        let mut called = Called { processed: batch.count, ..Called::default() };
        let mut keep_instances = true;
        for at in 0..count {
            if at > 0 {
                std::mem::swap(&mut self.given, &mut self.handed_on);
                if self.given.events.is_empty() {
                    break;
                }
            }
            self.handed_on.clear();
            let told = self.call_stage(at, batch, watermarks).map_err(|error| {
                self.router.clear();
                self.changes.clear();
                StageError { stage: at, name: self.stages[at].config.name.clone(), error: self.at_source(at, error) }
            })?;
            let failed = told.failed.into_iter();
            called.failed.extend(failed.map(|(i, reason)| Failed::told(i, at, CallErrorKind::Permanent, reason)));
            if let Some((source, reason)) = told.stopped {
                called.processed = source;
                called.stopped = Some(Failed::told(source, at, CallErrorKind::Transient, reason));
                // Earlier stages have seen events that will come again.
                keep_instances &= at == 0;
            }
        }
        called.failed.retain(|failed| failed.index < called.processed);
        called.failed.sort_by_key(|failed| failed.index);
        if let Some(first) = self.entangled(&called) {
            self.drop_instances();
            self.changes.clear();
            if batch.count > 1 {
                called.entangled = Some(first);
                return Ok(called);
            }
        }
        if !keep_instances {
            self.drop_instances();
        }
        if count > 1 && (called.stopped.is_some() || !called.failed.is_empty()) {
            // What earlier stages sent to sinks by name.
            self.router.keep(batch.base_offset, called.processed, &called.failed);
        }
        self.count(&mut called);
        Ok(called)
    }

    /// The first event whose failure leaves something in the state that does not belong there.
    fn entangled(&self, called: &Called) -> Option<u32> {
        self.state.as_ref()?;
        let leaves = |failed: &&Failed| {
            let own = &self.stages[failed.stage];
            let undone = own.consumer.as_ref().is_none_or(|consumer| consumer.undoes_failures());
            let before = &self.stages[..failed.stage];
            // Behind the first stage several of its events may come of one source event, of which only one failed.
            before.iter().any(|stage| stage.config.state.is_some())
                || (own.config.state.is_some() && (!undone || failed.stage > 0))
        };
        called.failed.iter().chain(&called.stopped).filter(leaves).map(|failed| failed.index).min()
    }

    /// Leaves only the first events of what was called; none of these may have failed. Of what was changed in the state nothing is left.
    pub(crate) fn cut(&mut self, called: &mut Called, batch: &ReadBatch, processed: u32) {
        (called.processed, called.failed) = (processed, Vec::new());
        self.router.keep(batch.base_offset, processed, &[]);
        self.changes.clear();
        self.count(called);
    }

    fn count(&self, called: &mut Called) {
        called.committed = self.router.with_outputs(called.processed, &called.failed);
        called.filtered = u64::from(called.processed) - called.committed - called.failed.len() as u64;
    }

    /// An error whose event is named by its index in what a stage was given, named by that of its source event.
    fn at_source(&self, stage: usize, error: CallError) -> CallError {
        let source =
            |input: u32| if stage == 0 { Some(input) } else { self.given.sources.get(input as usize).copied() };
        CallError { in_hand: error.in_hand.and_then(source), ..error }
    }

    fn call_stage(&mut self, at: usize, batch: &ReadBatch, watermarks: &[u8]) -> Result<Told, CallError> {
        let has_next = at + 1 < self.stages.len();
        let stage = &mut self.stages[at];
        let mut consumer = match stage.consumer.take() {
            Some(consumer) => consumer,
            None => {
                let state = self.state.as_ref().filter(|_| stage.config.state.is_some());
                stage.config.plugin.instantiate(state.map(|state| state.stage(&stage.config.name)))?
            }
        };
        let (events, sources) = match at {
            0 => (batch.region(), None),
            _ => (self.given.events.region(), Some(&self.given.sources[..])),
        };
        let first = sources.and_then(|sources| sources.first().copied()).unwrap_or(0);
        let first_mark = watermarks.get(first as usize * 8..).and_then(<[u8]>::first_chunk);
        let watermark = first_mark.map(|mark| i64::from_le_bytes(*mark)).filter(|mark| *mark != i64::MIN);
        let mut of_inputs = Vec::new();
        let watermarks = match sources {
            _ if stage.config.state.is_none() => &[],
            None => watermarks,
            Some(sources) => {
                let (marks, _) = watermarks.as_chunks::<8>();
                of_inputs.extend(sources.iter().flat_map(|source| marks[*source as usize]));
                &of_inputs[..]
            }
        };
        let view = View {
            count: events.count(),
            base_offset: batch.base_offset + u64::from(first),
            watermark,
            seed: (u64::from(self.source.topic) << 32) | u64::from(self.source.partition),
            topic: self.source.topic,
            partition: self.source.partition,
            topic_name: &self.topic_name,
            chained: at > 0,
            watermarks,
        };
        self.header.clear();
        view.write(&mut self.header);
        let StageConfig { keys_unchanged, max_outputs_per_event, .. } = stage.config;
        let state = self.state.as_ref();
        let has_state = stage.config.state.is_some() && state.is_some();
        let given = Given { events, sources, keys_unchanged, max_outputs_per_event, has_state };
        let (router, handed_on, changes) = (&mut self.router, &mut self.handed_on, &mut self.changes);
        let mut told = None;
        consumer.call(&self.header, events.bytes(), &mut |outcome| {
            let routed = router.route(outcome, &given, batch.base_offset, has_next.then_some(&mut *handed_on));
            told = Some(routed.and_then(|told| {
                if let (Some(state), Some(grant)) = (state, &stage.config.state) {
                    let outcome = Outcome::parse(outcome, events.count())?;
                    let has_failed = |input| sources.is_none() && told.has_failed(input);
                    keyed::changes(&outcome, has_failed, &stage.prefix, changes)?;
                    keyed::check_size(state, &stage.config.name, *grant, changes)?;
                }
                Ok(told)
            }));
        })?;
        let nothing = || CallError::new(CallErrorKind::BadOutcome, "it returned nothing");
        let told = told.unwrap_or_else(|| Err(nothing()))?;
        // Only an instance that behaved is used again.
        stage.consumer = Some(consumer);
        Ok(told)
    }

    /// What the call changed of the state.
    pub(crate) fn take_changes(&mut self) -> Layer {
        std::mem::take(&mut self.changes)
    }

    /// What was routed to the sinks, ready to be appended.
    pub(crate) fn take_appends(&mut self) -> Vec<Append> {
        self.router.take_appends()
    }
}
