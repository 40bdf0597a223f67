//! The stages of a pipeline on one source partition, called one after the other.

use std::sync::Arc;

use sluice_event::View;
use sluice_log::{Append, ReadBatch, TopicPartition};

use crate::port::{CallError, CallErrorKind, Consumer, Plugin};
use crate::router::{Given, Link, Routed, Router, Sink};

/// One stage, as a lane is given it.
#[derive(Clone)]
pub struct StageConfig {
    /// Unique in the pipeline.
    pub name: String,
    /// Makes its instances.
    pub plugin: Arc<dyn Plugin>,
    /// Whether outputs must keep the keys of their inputs.
    pub keys_unchanged: bool,
}

/// What went wrong in which stage. An index of an event is that of the source event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stage {stage}: {error}")]
pub struct StageError {
    /// The stage's name.
    pub stage: String,
    /// What went wrong.
    pub error: CallError,
}

struct Stage {
    config: StageConfig,
    consumer: Option<Box<dyn Consumer>>,
}

/// The stages of a lane, each with its instance.
pub(crate) struct Chain {
    stages: Vec<Stage>,
    router: Router,
    source: TopicPartition,
    topic_name: String,
    header: Vec<u8>,
    /// What the stage in hand is given, and what it hands on.
    given: Link,
    handed_on: Link,
}

impl Chain {
    pub(crate) fn new(stages: &[StageConfig], sinks: Vec<Sink>, source: TopicPartition, topic_name: String) -> Self {
        let stage = |config: &StageConfig| Stage { config: config.clone(), consumer: None };
        Self {
            stages: stages.iter().map(stage).collect(),
            router: Router::new(sinks, source),
            source,
            topic_name,
            header: Vec::new(),
            given: Link::default(),
            handed_on: Link::default(),
        }
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
    /// [`take_appends`](Self::take_appends). A failure in a later stage fails the whole: which source event it comes from is
    /// told, so that it can be tried alone.
    pub(crate) fn call(&mut self, batch: &ReadBatch) -> Result<Routed, StageError> {
        let count = self.stages.len();
        let is_chain = count > 1;
        self.router.begin(batch.count, is_chain);
        let mut total = Routed { processed: batch.count, ..Routed::default() };
        for at in 0..count {
            if at > 0 {
                std::mem::swap(&mut self.given, &mut self.handed_on);
                if self.given.events.is_empty() {
                    break;
                }
            }
            self.handed_on.clear();
            let routed = self.call_stage(at, batch).map_err(|error| {
                self.router.clear();
                StageError { stage: self.stages[at].config.name.clone(), error: self.at_source(at, error) }
            })?;
            if at == 0 {
                let stage = &self.stages[0].config.name;
                total = Routed {
                    failed: routed.failed.map(|(input, reason)| (input, format!("stage {stage}: {reason}"))),
                    ..routed
                };
            }
        }
        if is_chain {
            total.committed = self.router.with_outputs(total.processed);
            total.filtered = u64::from(total.processed) - total.committed;
        }
        Ok(total)
    }

    /// An error whose event is named by its index in what a stage was given, named by that of its source event.
    fn at_source(&self, stage: usize, error: CallError) -> CallError {
        let source =
            |input: u32| if stage == 0 { Some(input) } else { self.given.sources.get(input as usize).copied() };
        CallError { in_hand: error.in_hand.and_then(source), ..error }
    }

    /// Calls one stage. An event that fails in a later one is an error, for what came before it cannot be committed alone.
    fn call_stage(&mut self, at: usize, batch: &ReadBatch) -> Result<Routed, CallError> {
        let has_next = at + 1 < self.stages.len();
        let stage = &mut self.stages[at];
        let mut consumer = match stage.consumer.take() {
            Some(consumer) => consumer,
            None => stage.config.plugin.instantiate()?,
        };
        let (events, sources) = match at {
            0 => (batch.region(), None),
            _ => (self.given.events.region(), Some(&self.given.sources[..])),
        };
        let first = sources.and_then(|sources| sources.first().copied()).unwrap_or(0);
        let view = View {
            count: events.count(),
            base_offset: batch.base_offset + u64::from(first),
            watermark: None,
            seed: (u64::from(self.source.topic) << 32) | u64::from(self.source.partition),
            topic: self.source.topic,
            partition: self.source.partition,
            topic_name: &self.topic_name,
            chained: at > 0,
        };
        self.header.clear();
        view.write(&mut self.header);
        let given = Given { events, sources, keys_unchanged: stage.config.keys_unchanged };
        let (router, handed_on) = (&mut self.router, &mut self.handed_on);
        let mut routed = None;
        consumer.call(&self.header, events.bytes(), &mut |outcome| {
            routed = Some(router.route(outcome, &given, batch.base_offset, has_next.then_some(&mut *handed_on)));
        })?;
        let nothing =
            || CallError { kind: CallErrorKind::BadOutcome, message: "it returned nothing".into(), in_hand: None };
        let mut routed = routed.unwrap_or_else(|| Err(nothing()))?;
        if at > 0
            && let Some((input, message)) = routed.failed.take()
        {
            return Err(CallError { kind: CallErrorKind::Failed, message, in_hand: Some(input) });
        }
        // Only an instance that behaved is used again.
        stage.consumer = Some(consumer);
        Ok(routed)
    }

    /// What was routed to the sinks, ready to be appended.
    pub(crate) fn take_appends(&mut self) -> Vec<Append> {
        self.router.take_appends()
    }
}
