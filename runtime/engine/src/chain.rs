//! The stages of a pipeline on one source partition, called one after the other.

mod migrating;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use sluice_event::{Origin, Outcome, Source, View};
use sluice_log::{Append, ReadBatch, TopicPartition};
use sluice_state::{Layer, SharedState, prefix_of, space_of};

use crate::errors::Failed;
use crate::keyed::{self, StateGrant};
use crate::port::{CallError, CallErrorKind, Consumer, Plugin, UnderWay, Witness};
use crate::router::{Given, Link, Router, Sink, Told};
use crate::timers::{self, Cut, Due};
use crate::watermark::Marks;

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
    /// The version of its state, where an instance was asked for it.
    pub state_version: Option<u32>,
}

impl StageConfig {
    /// Whether it has anything in the partition's state.
    fn keeps(&self) -> bool {
        self.state.is_some()
    }

    fn sets_timers(&self) -> bool {
        self.state.is_some_and(|grant| grant.timers)
    }
}

/// What a batch came to. Indices are those of the events in the batch or, where that has none, of the timers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Called {
    /// Timers dealt with, from the first on.
    pub(crate) fired: u32,
    /// The first timer that failed, where there are events too: nothing of the call can be used.
    pub(crate) failed_timer: Option<u32>,
    /// Nothing of the call can be used: it must be made with less.
    pub(crate) cut: Option<Cut>,
    /// Outputs so far of timers that fired before the next event.
    pub(crate) fired_outputs: u32,
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
    /// Where its values stand, which are of its consumer's version.
    space: String,
    /// What its keys in the store begin with.
    prefix: Vec<u8>,
    /// Up to which key of an older version values were brought over lately; there may be more before it.
    migrated: Option<(u32, Vec<u8>)>,
}

impl Stage {
    fn new(config: &StageConfig) -> Self {
        let space = space_of(&config.name, 0);
        Self { config: config.clone(), consumer: None, prefix: prefix_of(&space), space, migrated: None }
    }

    /// Takes its consumer, or makes one.
    fn take_consumer(&mut self, state: Option<&SharedState>) -> Result<Box<dyn Consumer>, CallError> {
        if let Some(consumer) = self.consumer.take() {
            return Ok(consumer);
        }
        let Self { config, .. } = self;
        let state = state.filter(|_| config.keeps()).map(|state| state.stage(&config.name));
        let consumer = config.plugin.instantiate(state)?;
        let version = consumer.state_version();
        if let Some(other) = config.state_version.filter(|said| *said != version) {
            let what = format!("it says that its state is of version {version}, and said {other} when it was loaded");
            return Err(CallError::new(CallErrorKind::Instantiate, what));
        }
        self.space = space_of(&config.name, version);
        self.prefix = prefix_of(&self.space);
        Ok(consumer)
    }
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
    due_bytes: Vec<u8>,
    /// Whether the first stage is not given all events that were read.
    diverts: bool,
    /// What the stage in hand is given, and what it hands on.
    given: Link,
    handed_on: Link,
}

impl Chain {
    /// The stages of a pipeline, whose calls a witness is told of. It is to be [pointed at](Self::point_at) a source partition first.
    pub(crate) fn new(
        (pipeline, witness): (u32, Arc<dyn Witness>),
        stages: &[StageConfig],
        sinks: Vec<Sink>,
        state: Option<SharedState>,
    ) -> Self {
        let (source, topic_name) = (TopicPartition::default(), String::new());
        Self {
            pipeline,
            witness,
            stages: stages.iter().map(Stage::new).collect(),
            router: Router::new(sinks, source),
            source,
            topic_name,
            state,
            changes: Layer::default(),
            header: Vec::new(),
            due_bytes: Vec::new(),
            diverts: false,
            given: Link::default(),
            handed_on: Link::default(),
        }
    }

    /// Has it called with events of another partition from now on.
    pub(crate) fn point_at(&mut self, source: TopicPartition, topic_name: &str) {
        if self.source == source && self.topic_name == topic_name {
            return;
        }
        self.source = source;
        self.topic_name.clear();
        self.topic_name.push_str(topic_name);
        self.router.point_at(source);
    }

    /// Has outputs go to one topic of so many partitions from now on, or to the sinks.
    pub(crate) fn send_to(&mut self, topic: Option<(u32, u32)>, sinks: &[Sink]) {
        self.router.send_to(topic, sinks);
    }

    /// Whether a stage may set timers.
    pub(crate) fn has_timers(&self) -> bool {
        self.state.is_some() && self.stages.iter().any(|stage| stage.config.sets_timers())
    }

    /// Whether timers can be given between events.
    pub(crate) fn takes_timers_between(&self) -> bool {
        self.stages.len() == 1 && self.stages[0].config.plugin.takes_timers_between()
    }

    /// Whether a later stage than this one may set timers, which may be due before the next timer of this one.
    pub(crate) fn sets_timers_behind(&self, stage: usize) -> bool {
        self.stages[stage + 1..].iter().any(|stage| stage.config.sets_timers())
    }

    /// How many stages it has.
    pub(crate) fn stages(&self) -> usize {
        self.stages.len()
    }

    /// The position of a stage.
    pub(crate) fn position(&self, stage: &str) -> Option<usize> {
        self.stages.iter().position(|found| found.config.name == stage)
    }

    /// Whether it holds instances.
    pub(crate) fn is_warm(&self) -> bool {
        self.stages.iter().any(|stage| stage.consumer.is_some())
    }

    /// Bytes of memory that its instances have.
    pub(crate) fn memory(&self) -> usize {
        self.stages.iter().filter_map(|stage| stage.consumer.as_ref()).map(|consumer| consumer.memory()).sum()
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
        self.changes = Layer::default();
    }

    /// Gives a batch to the first stage, its outputs to the second, and so on. What goes to the sinks is
    /// [`take_appends`](Self::take_appends). Where a call fails, the whole fails: which source event was in hand is told, so that it
    /// can be tried alone.
    ///
    /// Should the host itself panic over what a guest returned, that is a failed call like any other: it must not take the thread along.
    ///
    /// `marks` are the watermarks before each event, for chains with state. Without events, all begins with the timers that are `due`, at their stage.
    /// Events that are to go to a sink in place of the first stage are `late`: the sink, and their indices; no timers come with these.
    pub(crate) fn call(
        &mut self,
        batch: &ReadBatch,
        marks: Marks<'_>,
        due: &Due,
        late: Option<(usize, &[u32])>,
    ) -> Result<Called, StageError> {
        self.guarded((batch.base_offset, batch.count), |chain| chain.call_stages(batch, marks, due, late))
    }

    /// Does something that calls guests, about these events.
    pub(super) fn guarded<T>(
        &mut self,
        (from, events): (u64, u32),
        run: impl FnOnce(&mut Self) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let (pipeline, source) = (self.pipeline, self.source);
        self.witness.enter(&UnderWay { pipeline, source, from, events });
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(self)));
        self.witness.leave();
        result.unwrap_or_else(|_| {
            self.drop_instances();
            self.forget_call();
            let error =
                CallError::new(CallErrorKind::BadOutcome, "the host panicked over what it returned; this is a bug");
            Err(self.error_of(0, error))
        })
    }

    fn error_of(&self, stage: usize, error: CallError) -> StageError {
        StageError { stage, name: self.stages[stage].config.name.clone(), error }
    }

    fn call_stages(
        &mut self,
        batch: &ReadBatch,
        marks: Marks<'_>,
        due: &Due,
        late: Option<(usize, &[u32])>,
    ) -> Result<Called, StageError> {
        let count = self.stages.len();
        self.router.begin(batch.count, due);
        self.changes.clear();
        let mut called = Called { processed: batch.count, fired: due.len() as u32, ..Called::default() };
        let mut keep_instances = true;
        let nothing = Due::default();
        self.diverts = late.is_some();
        if let Some((sink, late)) = late {
            self.divert(batch, sink, late);
        }
        for at in due.stage..count {
            if at > due.stage || self.diverts {
                std::mem::swap(&mut self.given, &mut self.handed_on);
                if self.given.events.is_empty() {
                    break;
                }
            }
            self.handed_on.clear();
            let own = if at == due.stage { due } else { &nothing };
            let told = self.call_stage(at, batch, marks, own).map_err(|error| {
                self.forget_call();
                self.error_of(at, self.at_source(at, error))
            })?;
            let (told, cut) = told;
            if count == 1 {
                let all =
                    told.processed == batch.count || (self.diverts && told.processed == self.given.events.count());
                called.processed = match self.diverts {
                    _ if all => batch.count,
                    true => self.given.sources[told.processed as usize],
                    false => told.processed,
                };
            }
            if !own.is_empty() {
                (called.fired, called.failed_timer) = (told.fired, told.failed_timer);
            }
            called.cut = called.cut.into_iter().chain(cut).min();
            let failed = told.failed.into_iter();
            called.failed.extend(failed.map(|(i, reason)| Failed::told(i, at, CallErrorKind::Permanent, reason)));
            if let Some((source, reason)) = told.stopped {
                called.processed = source.min(batch.count);
                called.stopped = Some(Failed::told(source, at, CallErrorKind::Transient, reason));
                // Earlier stages have seen events that will come again.
                keep_instances &= at == 0;
            }
        }
        let some_failed = called.stopped.is_some() || !called.failed.is_empty();
        if called.failed_timer.is_some() || called.cut.is_some() || (batch.count == 0 && some_failed) {
            self.drop_instances();
            self.changes.clear();
            self.router.clear();
            return Ok(called);
        }
        called.failed.retain(|failed| failed.index < called.processed);
        called.failed.sort_by_key(|failed| failed.index);
        called.fired_outputs = self.router.fired_outputs(called.processed);
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
        if (count > 1 || self.diverts) && (called.processed < batch.count || !called.failed.is_empty()) {
            // What earlier stages sent to sinks by name, and what was late.
            self.router.keep(batch.base_offset, called.processed, &called.failed);
        }
        self.count(&mut called);
        Ok(called)
    }

    /// Sends late events to a sink, and hands on the others.
    fn divert(&mut self, batch: &ReadBatch, sink: usize, late: &[u32]) {
        self.handed_on.clear();
        let mut late = late.iter().peekable();
        for (index, event) in (0..).zip(batch.region().events().flatten()) {
            if late.next_if(|late| **late == index).is_some() {
                self.router.divert(sink, index, batch.base_offset, &event);
                continue;
            }
            let TopicPartition { topic, partition } = self.source;
            let offset = batch.base_offset + u64::from(index);
            let origin = Origin { topic, partition, offset, ordinal: 0, source: Source::Input };
            self.handed_on.events.push_output(&event, origin);
            self.handed_on.sources.push(index);
        }
    }

    /// The first event whose failure leaves something in the state that does not belong there.
    fn entangled(&self, called: &Called) -> Option<u32> {
        self.state.as_ref()?;
        let leaves = |failed: &&Failed| {
            let own = &self.stages[failed.stage];
            let undone = own.consumer.as_ref().is_none_or(|consumer| consumer.undoes_failures());
            let before = &self.stages[..failed.stage];
            // Behind the first stage several of its events may come of one source event, of which only one failed.
            before.iter().any(|stage| stage.config.keeps()) || (own.config.keeps() && (!undone || failed.stage > 0))
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
        let is_whole = stage == 0 && !self.diverts;
        let source = |input: u32| if is_whole { Some(input) } else { self.given.sources.get(input as usize).copied() };
        CallError { in_hand: error.in_hand.and_then(source), ..error }
    }

    fn call_stage(
        &mut self,
        at: usize,
        batch: &ReadBatch,
        marks: Marks<'_>,
        due: &Due,
    ) -> Result<(Told, Option<Cut>), CallError> {
        let stage_count = self.stages.len();
        let has_next = at + 1 < stage_count;
        let stage = &mut self.stages[at];
        let mut consumer = stage.take_consumer(self.state.as_ref())?;
        let is_first = (at == 0 && !self.diverts) || !due.is_empty();
        let is_one_to_one = at == 0 || is_first;
        let (events, sources) = match is_first {
            true => (batch.region(), None),
            false => (self.given.events.region(), Some(&self.given.sources[..])),
        };
        let of_timers = batch.count == 0 && !marks.0.is_empty();
        // Where all comes of timers, there is one place for all.
        let place = |input: u32| match sources {
            _ if of_timers => 0,
            Some(sources) => sources[input as usize],
            None => input,
        };
        let first = if sources.is_some_and(|sources| !sources.is_empty()) { place(0) } else { 0 };
        let mut of_inputs = Vec::new();
        let watermarks = match sources {
            _ if !stage.config.keeps() || marks.0.is_empty() => &[],
            None => marks.bytes(),
            Some(_) => {
                of_inputs.extend((0..events.count()).map(|input| marks.0[place(input) as usize]));
                of_inputs.extend(marks.0.last());
                of_inputs.as_flattened()
            }
        };
        // Alone, and between events: what comes of a timer in a chain, or by the time of day, is a call of its own.
        let fires = is_first && stage_count == 1 && batch.count > 0 && stage.config.sets_timers();
        self.due_bytes.clear();
        due.timers.iter().zip(&due.before).for_each(|(timer, before)| timer.due(*before).write(&mut self.due_bytes));
        let view = View {
            count: events.count(),
            base_offset: batch.base_offset + u64::from(first),
            watermark: marks.before(first),
            seed: (u64::from(self.source.topic) << 32) | u64::from(self.source.partition),
            topic: self.source.topic,
            partition: self.source.partition,
            topic_name: &self.topic_name,
            chained: !is_first,
            fires,
            watermarks,
            due: (&self.due_bytes, due.len() as u32),
        };
        self.header.clear();
        view.write(&mut self.header);
        let StageConfig { keys_unchanged, max_outputs_per_event, .. } = stage.config;
        let state = self.state.as_ref();
        let grant = stage.config.state.filter(|_| state.is_some());
        let given = Given { events, sources, keys_unchanged, max_outputs_per_event, grant, due, of_timers, fires };
        let (router, handed_on, changes) = (&mut self.router, &mut self.handed_on, &mut self.changes);
        let mut told = None;
        consumer.call(&self.header, events.bytes(), &mut |outcome| {
            let routed = router.route(outcome, &given, batch.base_offset, has_next.then_some(&mut *handed_on));
            told = Some(routed.and_then(|told| {
                let mut cut = None;
                if stage_count > 1 && told.processed < events.count() && told.stopped.is_none() {
                    // Earlier stages have dealt with all of them.
                    let events = place(told.processed);
                    if events == 0 {
                        let message = "it stopped within one event of an earlier stage";
                        return Err(CallError::new(CallErrorKind::BadOutcome, message));
                    }
                    cut = Some(Cut { events, timers: 0 });
                }
                let fired = &due.timers[..told.fired as usize];
                // First of all: what it says of the same timers comes after.
                fired.iter().for_each(|timer| timer.remove(changes));
                if let (Some(state), Some(grant)) = (state, grant) {
                    let outcome = Outcome::parse(outcome, given.items())?;
                    let has_failed = |(of, index)| {
                        is_one_to_one && of == Source::Input && !of_timers && told.has_failed(place(index))
                    };
                    keyed::changes(&outcome, has_failed, &stage.prefix, changes)?;
                    let own = timers::changes(&outcome, &stage.config.name, due, place, marks, changes)?;
                    cut = cut.into_iter().chain(own).min();
                    let spaces = [&*stage.space, &stage.config.name];
                    // Timers stand under the name, whatever the version.
                    let spaces = &spaces[..if spaces[0] == spaces[1] { 1 } else { 2 }];
                    keyed::check_size(state, spaces, grant, changes)?;
                }
                Ok((told, cut))
            }));
        })?;
        let nothing = || CallError::new(CallErrorKind::BadOutcome, "it returned nothing");
        let told = told.unwrap_or_else(|| Err(nothing()))?;
        // Only an instance that behaved is used again.
        stage.consumer = Some(consumer).filter(|consumer| !consumer.is_worn());
        Ok(told)
    }

    /// Forgets what came of a call that is made again.
    pub(crate) fn forget_call(&mut self) {
        self.router.clear();
        self.changes.clear();
    }

    /// What the call changed of the state.
    pub(crate) fn take_changes(&mut self) -> Layer {
        let next = self.changes.with_room();
        std::mem::replace(&mut self.changes, next)
    }

    /// What was routed to the sinks, ready to be appended.
    pub(crate) fn take_appends(&mut self) -> Vec<Append> {
        self.router.take_appends()
    }
}
