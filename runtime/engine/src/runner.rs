//! Performs a lane's decisions.

mod committing;
mod failing;
mod firing;
mod last_error;
mod shaping;
mod trial;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_env::Clock;
use sluice_event::Batch;
use sluice_log::{Advice, Commit, Committed, Error, Input, ReadBatch, Step as InputStep, TopicPartition};

use crate::batch_size::BatchSize;
use crate::chain::{Called, Chain, StageConfig};
use crate::delivery::{Claims, Counts, Delivery, Follower};
use crate::errors::{ErrorPolicy, Failed};
use crate::keyed::{Keyed, StateConfig};
use crate::lane::{Halt, HaltKind, Lane, Next};
use crate::port::{Source, Storage, Witness};
use crate::probation::{Before, Probation, Verdict};
use crate::router::Sink;
use crate::sources::{SourceConfig, Sources};
use crate::timers::Due;
use crate::watermark::Marks;
use crate::work::Work;
use firing::Firing;
pub use last_error::{Fate, LastError};
use trial::{Judgement, Trial};

/// How often in a row the cursor may turn out to be elsewhere before a lane gives up.
const MOST_RESYNCS: u32 = 8;

/// Characters of what a guest says that go into a line of the log: it comes again with every failed call.
const LINE_CHARS: usize = 200;
/// A lane says at most this often that calls fail.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What deals with a pipeline's events, and how: what a reload changes.
#[derive(Clone)]
pub struct Generation {
    /// Counts definitions and plugins, as the log does.
    pub number: u64,
    /// What is called, one after the other; at least one.
    pub stages: Vec<StageConfig>,
    /// Where outputs go.
    pub sinks: Vec<Sink>,
    /// What to do about events that fail.
    pub errors: ErrorPolicy,
    /// Events per call; what one lane learns of it, those begin with that begin later.
    pub batch_size: BatchSize,
    /// Bytes per call, at most, but for a single larger event.
    pub max_bytes: usize,
    /// How long a batch that is not full may wait for more events.
    pub linger: Duration,
    /// Where it is on probation, that, and the generation before.
    pub probation: Option<(Arc<Probation>, Before)>,
}

/// What a lane needs to know.
pub struct LaneConfig {
    /// The pipeline's name.
    pub pipeline_name: String,
    /// The pipeline's id, as the log gave it.
    pub pipeline: u32,
    /// Commits of another epoch are fenced.
    pub epoch: u64,
    /// How often an event's effects can come about.
    pub delivery: Delivery,
    /// Is told of each call.
    pub witness: Arc<dyn Witness>,
    /// What deals with events, at first.
    pub generation: Generation,
    /// Attempts whose commits are not answered, at most.
    pub max_in_flight: usize,
    /// What its stages keep, where one is granted state.
    pub state: Option<StateConfig>,
}

/// What became of one step.
#[derive(Debug, Clone)]
pub enum Step {
    /// An attempt was made: there may be more to do.
    Worked,
    /// Wait to be woken, by a commit's answer or by new events.
    Waiting,
    /// The same, but not beyond this time (of [`Clock::elapsed`]).
    WaitingUntil(Duration),
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
    /// All before it is dealt with; at-least-once, the committed cursor follows.
    pub cursor: u64,
    /// Why it stands still, if it does.
    pub halt: Option<Halt>,
    /// Why it waits, if storage refuses for the moment.
    pub waits_for: Option<String>,
    /// How often storage has refused since it last committed something.
    pub refusals: u32,
    /// What it has done.
    pub work: Work,
    /// Bytes of memory that its instances have.
    pub memory: u64,
    /// The event that waits to be tried again.
    pub retrying: Option<Retrying>,
    /// Where that is, or what it stands still at: of several topics, in this one.
    pub at: Option<TopicPartition>,
    /// No attempt is in flight, and the committed cursor is where it should be.
    pub settled: bool,
    /// It holds instances and memory.
    pub warm: bool,
    /// Timers wait to fire.
    pub timers_due: bool,
    /// What failed last, the oldest first.
    pub last_errors: Arc<Vec<LastError>>,
}

/// An event that is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retrying {
    /// The event.
    pub offset: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it failed.
    pub reason: String,
    /// When it will be tried again, of [`Clock::elapsed`], which says nothing to others.
    #[serde(skip)]
    pub until: Duration,
}

type Answer = (u64, Result<Committed, Error>);

/// One lane at work. [`step`](Self::step) does one thing at a time; whoever drives it waits to be woken when it says so.
pub struct LaneRunner {
    lane: Lane,
    config: LaneConfig,
    chain: Chain,
    keyed: Option<Keyed>,
    /// At-least-once: the committed cursor, and what follows it.
    follower: Follower,
    committed: u64,
    /// At-most-once.
    claims: Claims,
    sources: Sources,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    batch_size: BatchSize,
    batch: ReadBatch,
    /// The place of its first event, and the position of its source.
    batch_at: (u64, usize),
    answers: Arc<Mutex<Vec<Answer>>>,
    wake: Arc<dyn Fn() + Send + Sync>,
    /// Numbers of commits other than attempts; they count down, so that the two never meet.
    next_own_id: u64,
    /// The event that failed and is to be tried again, and how often it was tried. Kept beyond that, for the commit may fail.
    tried: Option<(u64, u32)>,
    /// The event that waits to be tried again.
    retrying: Option<Retrying>,
    /// The breaker knows of all events before this one.
    counted: u64,
    /// Numbers of commits that only say how often an event was tried.
    notes: Vec<u64>,
    /// When it was last said that a call failed, and how often it was not.
    told_at: Option<Duration>,
    untold: u64,
    /// Since when a batch that is not full waits for more events.
    lingering: Option<Duration>,
    /// After a failed call: until when others have their turn.
    rests_until: Duration,
    resyncs: u32,
    firing: Firing,
    /// Whether the state has the shape that the stages want, all of it.
    shaped: bool,
    /// Where the generation is on probation.
    trial: Option<Trial>,
    state: LaneState,
    fatal: Option<Error>,
}

impl LaneRunner {
    /// A lane at its cursors: of one source partition or, for pipelines that keep state, the partitions of the same number of several topics. `wake` is called, from any thread, when a commit has been answered.
    pub fn new(
        config: LaneConfig,
        sources: Vec<(SourceConfig, Box<dyn Source>)>,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (mut sources, tried) = Sources::new(sources);
        let topics = sources.partitions().map(|source| source.topic).collect();
        let keyed = config.state.clone().map(|state| Keyed::new(state, topics, &wake));
        let (last, first) = keyed.as_ref().map(Keyed::begins).unwrap_or_default();
        let is_planned = sources.begin_with(last, &first);
        let tried = tried.filter(|_| !is_planned);
        sources.write_again(|source| storage.again(config.pipeline, source));
        let cursor = sources.begins();
        let (mut chain, trial) = trial::assemble(&config);
        chain.point_at(sources.first(), sources.name(sources.first()));
        let max_in_flight =
            trial.as_ref().map_or(config.max_in_flight, |trial| trial.max_in_flight(config.max_in_flight));
        Self {
            lane: Lane::new(cursor, max_in_flight),
            trial,
            chain,
            shaped: keyed.is_none(),
            keyed,
            follower: Follower::default(),
            committed: cursor,
            claims: Claims::new(cursor),
            batch_size: config.generation.batch_size.clone(),
            state: LaneState { cursor, settled: true, ..LaneState::default() },
            tried,
            retrying: None,
            counted: cursor,
            notes: Vec::new(),
            told_at: None,
            untold: 0,
            config,
            sources,
            storage,
            clock,
            batch: ReadBatch::default(),
            batch_at: (cursor, 0),
            answers: Arc::default(),
            wake,
            next_own_id: u64::MAX,
            lingering: None,
            rests_until: Duration::ZERO,
            resyncs: 0,
            firing: Firing::default(),
            fatal: None,
        }
    }

    /// What can be seen of it.
    pub fn state(&self) -> &LaneState {
        &self.state
    }

    /// The pipeline's name.
    pub fn pipeline_name(&self) -> &str {
        &self.config.pipeline_name
    }

    /// Has it stop at what there is now, or go on as new events come.
    pub fn stop_here(&mut self, stop: bool) {
        self.sources.stop_here(stop);
    }

    /// Ends a [`Step::Backoff`].
    pub fn retry(&mut self) {
        self.lane.retry();
        self.state.waits_for = None;
    }

    /// Tries again what it stands still at or waits for, its pipeline's breaker being closed; with `skip`, passes over the event
    /// that blocks, which is counted as skipped.
    pub fn resume(&mut self, skip: bool) {
        self.leave_probation_that_failed();
        (self.retrying, self.counted) = (None, 0);
        self.follower.retry();
        let Some(halt) = self.lane.resume() else { return };
        let timer = self.firing.halted.take();
        if let Some(timer) = timer.as_ref().filter(|_| skip) {
            self.pass_over_timer(halt.offset, timer, Batch::default());
        } else if skip && halt.kind == HaltKind::Event {
            self.tried = None;
            let counts = Counts { skipped: 1, ..Counts::default() };
            self.commit_range(halt.offset, halt.offset + 1, counts, Batch::default());
        }
    }

    /// Has it look where the cursor is, for somebody else has moved it. What is under way falls. It may have noticed by itself.
    pub fn resync(&mut self) {
        if self.position().is_none_or(|(epoch, _)| epoch != self.config.epoch) {
            self.drop_held();
            self.lane.resync();
        }
    }

    /// The pipeline's epoch, and its cursor in each source. `None` when it has none any more.
    fn position(&self) -> Option<(u64, Vec<u64>)> {
        loop {
            let positions = self.sources.partitions().map(|tp| self.storage.position(self.config.pipeline, tp));
            let (epochs, cursors): (Vec<u64>, Vec<u64>) = positions.collect::<Option<_>>()?;
            // They are asked for one by one, and all set anew at once.
            if epochs.iter().all(|epoch| *epoch == epochs[0]) {
                return Some((epochs[0], cursors));
            }
        }
    }

    /// Drops instances and memory until there is something to do. Nothing of what counts is in them.
    pub fn rest(&mut self) {
        self.chain.rest();
        self.sources.rest();
        self.batch.rest();
        self.state.warm = false;
    }

    /// Takes the answers that have come, then makes at most one attempt. While `draining`, it makes none.
    pub fn step(&mut self, draining: bool) -> Step {
        self.take_answers();
        let step = match self.fatal.take() {
            Some(error) => Step::StopNode(error),
            None => self.on_probation(draining).unwrap_or_else(|| self.decide(draining)),
        };
        let step = self.follow(step, draining);
        let passed = self.lane.cursor();
        let at_least_once = matches!(self.config.delivery, Delivery::AtLeastOnce { .. });
        self.sources.forget_before(if at_least_once { passed.min(self.committed) } else { passed });
        self.tell();
        self.state.settled = self.is_settled();
        self.state.warm = self.chain.is_warm();
        self.state.memory = self.chain.memory() as u64;
        if !matches!(step, Step::Worked) {
            // Only where it comes to rest does anybody ask.
            self.state.timers_due = self.timers_due();
            if self.lane.planned() >= self.sources.readable() {
                self.sources.caught_up();
                self.batch.rest();
            }
        }
        step
    }

    /// Notes what can be seen from outside, where offsets stand for places.
    fn tell(&mut self) {
        self.state.cursor = self.lane.cursor();
        self.state.halt = self.lane.halt().map(|halt| self.told(halt));
        self.state.retrying.clone_from(&self.retrying);
        let place = self.lane.halt().map(|halt| halt.offset).or(self.retrying.as_ref().map(|retrying| retrying.offset));
        self.state.at = place.map(|place| self.sources.at(place).0);
        if let Some(retrying) = &mut self.state.retrying {
            retrying.offset = self.sources.at(retrying.offset).1;
        }
    }

    fn told(&self, halt: &Halt) -> Halt {
        Halt { offset: self.sources.at(halt.offset).1, ..halt.clone() }
    }

    fn decide(&mut self, draining: bool) -> Step {
        let timers_due = self.timers_due();
        let next = self.lane.next(self.sources.readable(), timers_due);
        if let Next::Call { from, .. } = next {
            if let Some(reason) = self.keyed.as_ref().and_then(Keyed::failure) {
                self.lane.halt_at(from, HaltKind::Other, format!("{reason}; start the node again"));
                return Step::Worked;
            }
            if self.keyed.as_ref().is_some_and(Keyed::must_wait) {
                return Step::Waiting;
            }
            if self.config.generation.errors.breaker.is_open() {
                self.lane.halt_at(from, HaltKind::Breaker, self.config.generation.errors.breaker.reason());
                return Step::Worked;
            }
            let retrying = self.retrying.as_ref().filter(|retrying| retrying.offset == from);
            let until = retrying.map_or(self.rests_until, |retrying| retrying.until.max(self.rests_until));
            if !draining && until > self.clock.elapsed() {
                return Step::WaitingUntil(until);
            }
        }
        if let Some(step) = self.shape(&next, draining) {
            return step;
        }
        match next {
            // What is claimed is dealt with in any case, for it would be lost; and at once, for it has waited.
            Next::Call { from, at_most } if from < self.claims.claimed() => self.attempt(from, at_most, draining),
            Next::Call { .. } if draining && self.is_settled() => Step::Idle,
            Next::Call { .. } if draining => Step::Waiting,
            Next::Call { from, at_most } if timers_due => self.attempt(from, at_most, false),
            Next::Call { from, at_most } => self.linger(from).unwrap_or_else(|| self.attempt(from, at_most, false)),
            Next::AwaitCommits => Step::Waiting,
            Next::Idle if draining || self.sources.is_bounded() => Step::Idle,
            Next::Idle => self.next_timer().map_or(Step::Idle, Step::WaitingUntil),
            Next::Backoff => Step::Backoff(self.state.waits_for.clone().unwrap_or_default()),
            Next::Halted => self.lane.halt().map_or(Step::Waiting, |halt| Step::Halted(self.told(halt))),
            Next::Resync => self.find_cursor(),
        }
    }

    /// Whether nothing is in flight, the cursor is where it should be, and everything claimed was dealt with, as far as it can be.
    fn is_settled(&self) -> bool {
        let claims = self.lane.halt().is_some() || self.lane.cursor() >= self.claims.claimed();
        let dealt_with = self.config.delivery != Delivery::AtMostOnce || (claims && !self.claims.is_claiming());
        self.lane.is_settled() && self.follower.is_settled(self.committed) && dealt_with
    }

    /// Waits for a batch to fill, if it may.
    fn linger(&mut self, from: u64) -> Option<Step> {
        if self.config.generation.linger.is_zero() {
            return None;
        }
        let now = self.clock.elapsed();
        let until = *self.lingering.get_or_insert(now) + self.config.generation.linger;
        let full = self.sources.readable().saturating_sub(from) >= u64::from(self.batch_size.events());
        if full || now >= until {
            self.lingering = None;
            return None;
        }
        Some(Step::WaitingUntil(until))
    }

    /// At-least-once: moves the cursor over what was delivered, when that is due.
    fn follow(&mut self, step: Step, draining: bool) -> Step {
        let Delivery::AtLeastOnce { every } = self.config.delivery else { return step };
        if matches!(step, Step::StopNode(_) | Step::Backoff(_)) {
            return step;
        }
        let now = self.clock.elapsed();
        if self.lane.is_backing_off() {
            // Also a lane that is halted asks storage only now and then.
            return Step::Backoff(self.state.waits_for.clone().unwrap_or_default());
        }
        let at_once = draining || self.sources.is_bounded() || matches!(step, Step::Halted(_));
        if let Some((input, dead, through)) = self.follower.due(self.next_own_id, self.committed, now, every, at_once) {
            let (on_error, source) = (self.config.generation.errors.on_error, self.sources.first());
            let mut appends: Vec<_> = dead.into_iter().flat_map(|dead| on_error.appends(source, dead)).collect();
            let head = self.head(input.from, input.to);
            appends.extend(self.keyed.as_mut().map(|keyed| keyed.append(self.next_own_id, through, head)));
            self.submit_own(Commit { appends, input: Some(input), ..Commit::default() });
            return if matches!(step, Step::Worked) { step } else { Step::Waiting };
        }
        match (step, self.follower.next_at(self.committed, every)) {
            (Step::Idle | Step::Waiting, Some(at)) => Step::WaitingUntil(at),
            (Step::WaitingUntil(until), Some(at)) => Step::WaitingUntil(until.min(at)),
            (Step::Idle, None) if !self.follower.is_settled(self.committed) => Step::Waiting,
            (step, _) => step,
        }
    }

    fn take_answers(&mut self) {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, answer) in answers {
            let ok = answer.is_ok();
            let is_claim = self.claims.answered(id, ok);
            let is_move = self.follower.answered(id, ok, &mut self.committed);
            if let Some(at) = self.notes.iter().position(|note| *note == id) {
                self.notes.swap_remove(at);
                if let Err(error) = answer.as_ref()
                    && error.advice() != Advice::StopNode
                {
                    // The number is wrong after a restart; nothing else depends on it.
                    continue;
                }
            }
            if let (Some(keyed), Ok(committed)) = (&mut self.keyed, &answer) {
                keyed.committed(id, committed);
            }
            match answer {
                Ok(_) => {
                    if self.lane.committed(id) {
                        self.follower.committed(id);
                    }
                    (self.state.refusals, self.resyncs) = (0, 0);
                }
                Err(error) => self.refused(id, error, is_claim || is_move),
            }
        }
    }

    /// A commit was refused: an attempt's, or one of the lane's own.
    fn refused(&mut self, id: u64, error: Error, own: bool) {
        let advice = error.advice();
        if own {
            self.keyed.iter_mut().for_each(|keyed| keyed.refused(id));
            match advice {
                Advice::Retry => self.lane.back_off(),
                Advice::Resync => self.lane.resync(),
                _ => {
                    // Not again by itself: it would be refused again.
                    self.follower.give_up();
                    self.lane.halt_by(self.lane.cursor(), &error);
                }
            }
        } else {
            // What is held was planned on it.
            self.drop_held();
            self.shaped = self.keyed.is_none();
            self.follower.failed(id);
            self.keyed.iter_mut().for_each(|keyed| keyed.discard_from(id));
            if self.lane.commit_failed(id, &error) {
                // The instances have seen what never happened.
                self.chain.drop_instances();
                // Fenced by somebody who moved the cursor is nothing to worry about.
                if advice == Advice::Resync {
                    tracing::debug!(%error, source = %self.sources.first(), "fenced; its attempts are discarded");
                } else {
                    tracing::warn!(%error, source = %self.sources.first(), "a commit failed; its attempts are discarded");
                }
            }
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

    /// Goes on from where the log says that the cursor is.
    fn find_cursor(&mut self) -> Step {
        if self.claims.is_claiming() || self.follower.is_moving() {
            return Step::Waiting;
        }
        self.chain.drop_instances();
        self.shaped = self.keyed.is_none();
        self.resyncs += 1;
        let position = self.position();
        let place = |cursors: &Vec<u64>| cursors.iter().sum::<u64>();
        let mut first = (None, Vec::new());
        if let (Some(keyed), Some((_, cursors))) = (&mut self.keyed, &position) {
            match keyed.reopen() {
                Ok(true) => first = keyed.begins(),
                // Its store is being written: it is woken when that is done.
                Ok(false) => {
                    self.resyncs -= 1;
                    return Step::Waiting;
                }
                Err(error) if error.advice() == Advice::StopNode => return Step::StopNode(error),
                Err(error) => {
                    let cursor = place(cursors);
                    self.sources.go_on_from(cursors.clone(), None, &[]);
                    (self.follower, self.claims, self.committed) = (Follower::default(), Claims::new(cursor), cursor);
                    self.lane.go_on_from(cursor);
                    self.lane.halt_at(cursor, HaltKind::Other, error.to_string());
                    return Step::Worked;
                }
            }
        }
        let reason = match position {
            Some((epoch, cursors)) if self.resyncs <= MOST_RESYNCS => {
                let cursor = place(&cursors);
                tracing::info!(source = %self.sources.first(), epoch, ?cursors, "goes on from the committed cursor");
                self.config.epoch = epoch;
                self.sources.go_on_from(cursors, first.0, &first.1);
                let (storage, pipeline) = (self.storage.clone(), self.config.pipeline);
                self.sources.write_again(|source| storage.again(pipeline, source));
                self.lane.go_on_from(cursor);
                (self.follower, self.claims, self.committed) = (Follower::default(), Claims::new(cursor), cursor);
                (self.tried, self.retrying, self.counted) = (None, None, cursor);
                self.firing = Firing::default();
                return Step::Worked;
            }
            Some(_) => "somebody else keeps moving the cursor",
            None => "the pipeline was deleted",
        };
        self.lane.go_on_from(self.lane.cursor());
        self.lane.halt_at(self.lane.cursor(), HaltKind::Other, reason.to_owned());
        Step::Worked
    }

    /// At-most-once: claims events ahead of the next call. `None` while there is nothing to call the consumer with.
    fn claim(&mut self, from: u64, draining: bool) -> Result<Option<u32>, Error> {
        let (events, claimed) = (self.batch_size.events(), self.claims.claimed());
        // Of several topics, no further than it is decided whose events come; and that only when the rest is dealt with.
        let end = self.sources.decide(
            if from < claimed { claimed - 1 } else { claimed },
            events,
            self.config.generation.max_bytes,
        )?;
        let due = self.claims.due(from, events, end.min(self.sources.readable()));
        if let Some((from, to)) = due.filter(|_| !draining) {
            self.claims.claiming(self.next_own_id, to);
            let input = Input { step: InputStep::Claim, from, to, ..Input::default() };
            self.submit_own(Commit { input: Some(input), ..Commit::default() });
        }
        let claimed = self.claims.claimed().saturating_sub(from);
        Ok((claimed > 0).then(|| u32::try_from(claimed).unwrap_or(u32::MAX)))
    }

    /// Reads, calls, routes, and hands the commit over without waiting for it.
    fn attempt(&mut self, from: u64, at_most: Option<u32>, draining: bool) -> Step {
        let due_now = match self.fire_apart(from, at_most, self.sources.readable()) {
            Ok(due_now) => due_now,
            Err(step) => return step,
        };
        let read = match self.read(from, at_most, draining) {
            Ok(Some(read)) => read,
            Ok(None) => return Step::Waiting,
            Err(error) if error.advice() == Advice::StopNode => return Step::StopNode(error),
            Err(error) => {
                self.lane.halt_by(from, &error);
                return Step::Worked;
            }
        };
        if self.batch.base_offset > read {
            return self.pass_over(from, self.batch.base_offset - read);
        }
        if self.batch.count == 0 {
            return Step::Idle;
        }
        self.keyed.iter_mut().for_each(|keyed| keyed.begin((self.batch_at.1, &self.batch)));
        match self.due_between(from, at_most, &due_now) {
            // First of all timers fire, in a call of their own.
            Ok(_) if self.batch.count == 0 => {}
            Ok(due) => self.call(from, &due, draining),
            Err(error) => self.lane.halt_at(from, HaltKind::Other, error.to_string()),
        }
        Step::Worked
    }

    /// Reads a batch at a place, whose offset it tells. `None` when events must be claimed first.
    fn read(&mut self, from: u64, at_most: Option<u32>, draining: bool) -> Result<Option<u64>, Error> {
        let mut max_events = at_most.unwrap_or(u32::MAX).min(self.batch_size.events());
        if self.config.delivery == Delivery::AtMostOnce {
            let Some(claimed) = self.claim(from, draining)? else { return Ok(None) };
            max_events = max_events.min(claimed);
        }
        let readable = self.sources.readable();
        let quiet_until = self.keyed.as_ref().map_or(0, Keyed::quiet_until);
        let end = if from < quiet_until { readable.min(quiet_until) } else { readable };
        max_events = max_events.min(u32::try_from(end - from).unwrap_or(u32::MAX));
        let (source, offset) =
            self.sources.read(from, max_events, self.config.generation.max_bytes, &mut self.batch)?;
        self.batch_at = (from, self.sources.position(source));
        self.chain.point_at(source, self.sources.name(source));
        Ok(Some(offset))
    }

    /// Calls with the events that were read and the timers that are due, and commits what that comes to.
    fn call(&mut self, from: u64, due: &Due, draining: bool) {
        let (source, offset) = self.range(from, from + u64::from(self.batch.count));
        // What fires by the time of day, or because no more events are to come, is new.
        let follows = self.batch.count == 0 && !self.keyed.as_ref().is_some_and(Keyed::fires_besides);
        let again = self.sources.again(source, offset, follows);
        self.chain.send_to(again.map(|again| (again.topic, again.partitions)), &self.config.generation.sinks);
        let before = self.clock.elapsed();
        let marks = self.keyed.as_ref().map_or(Marks::default(), |keyed| keyed.marks(self.batch.count));
        let keyed = self.keyed.as_ref().filter(|_| self.batch.count > 0);
        let late = keyed.and_then(|keyed| keyed.diverted(self.batch.count));
        let result = self.chain.call(&self.batch, marks, due, late);
        let given_up = |failed: &Failed| self.gives_up(from, failed).then_some(failed.index);
        let given_up = result.as_ref().ok().and_then(|called| called.stopped.as_ref()).and_then(given_up);
        if let Some(trial) = &mut self.trial {
            let source = (source, self.sources.name(source));
            match trial.judge(source, (&self.batch, marks, due), late, &result, given_up) {
                Judgement::Innocent => trial.probation.deal(),
                Judgement::Undecided(index) => {
                    self.chain.drop_instances();
                    return self.lane.single_out(from + u64::from(index));
                }
                Judgement::Guilty(reason) => {
                    self.chain.drop_instances();
                    return trial.probation.end(Verdict::Failed(reason));
                }
            }
        }
        let took = self.clock.elapsed().saturating_sub(before);
        let work = &mut self.state.work;
        (work.calls, work.bytes_in) = (work.calls + 1, work.bytes_in + self.batch.bytes.len() as u64);
        work.took.observe(took);
        match result {
            Ok(Called { entangled: Some(first), .. }) => self.lane.single_out(from + u64::from(first)),
            Ok(called) => {
                let Some(called) = self.called_with_timers(from, due, called) else { return };
                match called.stopped.is_none() && called.processed < self.batch.count {
                    true => self.batch_size.stopped(called.processed),
                    false if self.batch.count == 0 => {}
                    false => self.batch_size.learn(self.batch.count, took),
                }
                self.commit(from, called, !due.is_empty(), draining);
            }
            Err(error) => {
                self.call_failed(error, due);
                // Dropping an instance and making another costs also those who run on other cores, which share the address space
                // and the log: it must not be more than a fair share, however short the calls are.
                let now = self.clock.elapsed();
                self.rests_until = now + now.saturating_sub(before);
            }
        }
    }

    /// Events before the batch that was read are gone: they are passed over in a commit of their own.
    fn pass_over(&mut self, from: u64, events: u64) -> Step {
        let gone = from + events;
        // Behind what is claimed, the next claim finds them.
        let to = if self.config.delivery == Delivery::AtMostOnce { gone.min(self.claims.claimed()) } else { gone };
        let (source, offset) = self.sources.at(from);
        tracing::warn!(%source, from = offset, events = to - from, "passes over events that are gone");
        let counts = Counts { skipped: to - from, ..Counts::default() };
        self.commit_range(from, to, counts, Batch::default());
        Step::Worked
    }
}
