//! Performs a lane's decisions.

use std::sync::{Arc, Mutex, PoisonError};

use sluice_env::Clock;
use sluice_event::View;
use sluice_log::{Advice, Commit, Committed, Error, Input, ReadBatch, TopicPartition};

use crate::batch_size::BatchSize;
use crate::lane::{Halt, Lane, Next};
use crate::port::{CallError, CallErrorKind, Consumer, Plugin, Source, Storage};
use crate::router::{Routed, Router, Sink};

/// What a lane needs to know.
pub struct LaneConfig {
    /// The pipeline's id, epoch and generation, as the log gave them.
    pub pipeline: u32,
    /// Commits of another epoch are fenced.
    pub epoch: u64,
    /// Counts definitions and plugins.
    pub generation: u64,
    /// What is read.
    pub source: TopicPartition,
    /// Its topic's name.
    pub topic_name: String,
    /// Where it starts.
    pub cursor: u64,
    /// Where outputs go.
    pub sinks: Vec<Sink>,
    /// Events per call, at most.
    pub max_events: u32,
    /// Bytes per call, at most, but for a single larger event.
    pub max_bytes: usize,
    /// Attempts whose commits are not answered, at most.
    pub max_in_flight: usize,
}

/// What became of one step.
#[derive(Debug, Clone)]
pub enum Step {
    /// An attempt was made: there may be more to do.
    Worked,
    /// Wait to be woken, by a commit's answer or by new events.
    Waiting,
    /// Everything there is was dealt with and committed.
    Idle,
    /// Storage is full or busy: try again later, with [`LaneRunner::retry`].
    Backoff(String),
    /// Stands still until somebody acts.
    Halted(Halt),
    /// Storage has failed: the node must stop.
    StopNode(Error),
}

/// What can be seen of a lane from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneState {
    /// All before it is committed.
    pub cursor: u64,
    /// Why it stands still, if it does.
    pub halt: Option<Halt>,
    /// Why it waits, if storage refuses for the moment.
    pub waits_for: Option<String>,
    /// How often storage has refused since it last committed something.
    pub refusals: u32,
    /// Calls that did not return, or returned nonsense.
    pub failed_calls: u64,
    /// No attempt is in flight.
    pub settled: bool,
}

type Answer = (u64, Result<Committed, Error>);

/// One lane at work. [`step`](Self::step) does one thing at a time; whoever drives it waits to be woken when it says so.
pub struct LaneRunner {
    lane: Lane,
    config: LaneConfig,
    plugin: Arc<dyn Plugin>,
    consumer: Option<Box<dyn Consumer>>,
    source: Box<dyn Source>,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    router: Router,
    batch_size: BatchSize,
    batch: ReadBatch,
    header: Vec<u8>,
    answers: Arc<Mutex<Vec<Answer>>>,
    wake: Arc<dyn Fn() + Send + Sync>,
    state: LaneState,
    fatal: Option<Error>,
}

impl LaneRunner {
    /// A lane at its cursor. `wake` is called, from any thread, when a commit has been answered.
    pub fn new(
        config: LaneConfig,
        plugin: Arc<dyn Plugin>,
        source: Box<dyn Source>,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            lane: Lane::new(config.cursor, config.max_in_flight),
            router: Router::new(config.sinks.clone(), config.source),
            batch_size: BatchSize::new(config.max_events),
            state: LaneState { cursor: config.cursor, settled: true, ..LaneState::default() },
            config,
            plugin,
            consumer: None,
            source,
            storage,
            clock,
            batch: ReadBatch::default(),
            header: Vec::new(),
            answers: Arc::default(),
            wake,
            fatal: None,
        }
    }

    /// What can be seen of it.
    pub fn state(&self) -> &LaneState {
        &self.state
    }

    /// The first offset of the source that cannot be read yet.
    pub fn high_watermark(&self) -> u64 {
        self.source.high_watermark()
    }

    /// Ends a [`Step::Backoff`].
    pub fn retry(&mut self) {
        self.lane.retry();
        self.state.waits_for = None;
    }

    /// Takes the answers that have come, then makes at most one attempt. While `draining`, it makes none.
    pub fn step(&mut self, draining: bool) -> Step {
        self.take_answers();
        let step = match self.fatal.take() {
            Some(error) => Step::StopNode(error),
            None => self.decide(draining),
        };
        self.state.cursor = self.lane.cursor();
        self.state.halt = self.lane.halt().cloned();
        self.state.settled = self.lane.is_settled();
        step
    }

    fn decide(&mut self, draining: bool) -> Step {
        match self.lane.next(self.source.high_watermark()) {
            Next::Call { .. } if draining && self.lane.is_settled() => Step::Idle,
            Next::Call { .. } if draining => Step::Waiting,
            Next::Call { from, at_most } => self.attempt(from, at_most),
            Next::AwaitCommits => Step::Waiting,
            Next::Idle => Step::Idle,
            Next::Backoff => Step::Backoff(self.state.waits_for.clone().unwrap_or_default()),
            Next::Halted => self.lane.halt().cloned().map_or(Step::Waiting, Step::Halted),
        }
    }

    fn take_answers(&mut self) {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, answer) in answers {
            match answer {
                Ok(_) => {
                    self.lane.committed(id);
                    self.state.refusals = 0;
                }
                Err(error) => {
                    let advice = error.advice();
                    if self.lane.commit_failed(id, advice, error.to_string()) {
                        // The instance has seen what never happened.
                        self.consumer = None;
                        tracing::warn!(%error, source = %self.config.source, "a commit failed; its attempts are discarded");
                    }
                    match advice {
                        Advice::Retry => {
                            self.state.waits_for = Some(error.to_string());
                            self.state.refusals += 1;
                        }
                        Advice::StopNode => self.fatal = Some(error),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Reads, calls, routes, and hands the commit over without waiting for it.
    fn attempt(&mut self, from: u64, at_most: Option<u32>) -> Step {
        let max_events = at_most.unwrap_or(u32::MAX).min(self.batch_size.events());
        if let Err(error) = self.source.read(from, max_events, self.config.max_bytes, &mut self.batch) {
            if error.advice() == Advice::StopNode {
                return Step::StopNode(error);
            }
            self.lane.halt_at(from, error.to_string());
            return Step::Worked;
        }
        if self.batch.count == 0 {
            return Step::Idle;
        }
        match self.call() {
            Ok(routed) => self.submit(&routed),
            Err(error) => self.call_failed(&error),
        }
        Step::Worked
    }

    fn call(&mut self) -> Result<Routed, CallError> {
        let mut consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.plugin.instantiate()?,
        };
        let (batch, router) = (&self.batch, &mut self.router);
        let source = self.config.source;
        let view = View {
            count: batch.count,
            base_offset: batch.base_offset,
            watermark: None,
            seed: (u64::from(source.topic) << 32) | u64::from(source.partition),
            topic: source.topic,
            partition: source.partition,
            topic_name: &self.config.topic_name,
        };
        self.header.clear();
        view.write(&mut self.header);
        let mut routed = None;
        let before = self.clock.elapsed();
        consumer.call(&self.header, &batch.bytes, &mut |outcome| {
            routed = Some(router.route(outcome, batch.base_offset, batch.count));
        })?;
        self.batch_size.learn(batch.count, self.clock.elapsed().saturating_sub(before));
        let nothing =
            || CallError { kind: CallErrorKind::BadOutcome, message: "it returned nothing".into(), in_hand: None };
        let routed = routed.unwrap_or_else(|| Err(nothing()))?;
        // Only an instance that behaved is used again.
        self.consumer = Some(consumer);
        Ok(routed)
    }

    fn submit(&mut self, routed: &Routed) {
        let from = self.batch.base_offset;
        let to = from + u64::from(routed.processed);
        if to > from {
            let commit = Commit {
                appends: self.router.take_appends(),
                input: Some(Input {
                    pipeline: self.config.pipeline,
                    epoch: self.config.epoch,
                    generation: self.config.generation,
                    topic: self.config.source.topic,
                    partition: self.config.source.partition,
                    from,
                    to,
                    filtered: routed.filtered,
                    ..Input::default()
                }),
                ..Commit::default()
            };
            let id = self.lane.submitted(to);
            let (answers, wake) = (self.answers.clone(), self.wake.clone());
            self.storage.submit(
                commit,
                Box::new(move |answer| {
                    answers.lock().unwrap_or_else(PoisonError::into_inner).push((id, answer));
                    wake();
                }),
            );
        }
        if let Some((_, reason)) = &routed.failed {
            self.consumer = None;
            self.state.failed_calls += 1;
            self.lane.halt_at(to, format!("{}: {reason}", CallErrorKind::Failed));
        }
    }

    fn call_failed(&mut self, error: &CallError) {
        self.consumer = None;
        self.state.failed_calls += 1;
        let (from, to) = (self.batch.base_offset, self.batch.base_offset + u64::from(self.batch.count));
        tracing::warn!(source = %self.config.source, from, to, %error, "a call failed");
        match error.kind {
            // No event is to blame.
            CallErrorKind::Instantiate => self.lane.halt_at(from, error.to_string()),
            kind => {
                if matches!(kind, CallErrorKind::Timeout | CallErrorKind::Limit) {
                    self.batch_size.shrink();
                }
                self.lane.call_failed(from, to, error.in_hand, error.to_string());
            }
        }
    }
}
