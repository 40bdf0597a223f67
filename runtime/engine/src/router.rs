//! From a guest's outcome to batches for the sinks: checks, routes and copies each output once.

use sluice_event::{Batch, Event, FailureKind, Items, Origin, Outcome, Region, Source, TIMER_IN_HAND};
use sluice_log::{Append, MAX_EVENT_BYTES, TopicPartition, batch_for};

use crate::errors::Failed;
use crate::keyed::StateGrant;
use crate::legible::legible;
use crate::partitioner::PartitionBy;
use crate::port::{CallError, CallErrorKind};
use crate::timers::Due;
use crate::trace::Traces;

/// Where a pipeline's outputs can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// What outputs call it.
    pub name: String,
    /// Id of its topic.
    pub topic: u32,
    /// Partitions of its topic.
    pub partitions: u32,
    /// How events are spread over them.
    pub partition_by: PartitionBy,
}

/// What a stage says of the events it was given, each named by the index of its source event; where no events were read, by that of the timer
/// it comes from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// So many events and timers were dealt with.
    pub(crate) processed: u32,
    pub(crate) fired: u32,
    /// The first timer that failed, where there were events too.
    pub(crate) failed_timer: Option<u32>,
    /// Events that failed and always will, with the reason; in order.
    pub(crate) failed: Vec<(u32, String)>,
    /// The event at which it stopped, for trying again may help.
    pub(crate) stopped: Option<(u32, String)>,
}

impl Told {
    /// Whether the source event of this index failed for good.
    pub(crate) fn has_failed(&self, source: u32) -> bool {
        self.failed.binary_search_by_key(&source, |(failed, _)| *failed).is_ok()
    }
}

/// The events that one stage hands to the next.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// The events; their origins name the source events that they come from.
    pub(crate) events: Batch,
    /// For each, the index of that source event in the batch that was read.
    pub(crate) sources: Vec<u32>,
}

impl Link {
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.sources.clear();
    }
}

/// What a stage was given, as far as routing its outcome needs to know.
pub(crate) struct Given<'a> {
    /// The events.
    pub(crate) events: Region<'a>,
    /// For each, the index of the source event that it comes from; `None` when they are the source events themselves.
    pub(crate) sources: Option<&'a [u32]>,
    /// Whether outputs must keep the keys of their inputs.
    pub(crate) keys_unchanged: bool,
    /// How many outputs one of them may have.
    pub(crate) max_outputs_per_event: u32,
    /// What the stage may keep.
    pub(crate) grant: Option<StateGrant>,
    /// Timers that it was given too.
    pub(crate) due: &'a Due,
    /// No events were read: all comes of timers.
    pub(crate) of_timers: bool,
    /// Whether it may fire timers that it has set itself.
    pub(crate) fires: bool,
}

impl Given<'_> {
    /// The index of the source event of an event that was given.
    #[inline]
    pub(crate) fn source(&self, input: u32) -> u32 {
        self.sources.map_or(input, |sources| sources[input as usize])
    }

    /// What it was given, as its outcome names it.
    pub(crate) fn items(&self) -> Items<'_> {
        Items { inputs: self.events.count(), timers: &self.due.before, fires: self.fires }
    }

    /// The source event of an input, or the timer that all comes of; `None` for a timer among events.
    #[inline]
    fn item(&self, of: (Source, u32)) -> Option<u32> {
        match of {
            (Source::Input, input) => Some(self.source(input)),
            (Source::Timer, timer) => self.of_timers.then_some(timer),
        }
    }

    /// What the outcome says of the events, by their source events.
    fn told(&self, outcome: &Outcome<'_>) -> Result<Told, CallError> {
        let mut told = Told { processed: outcome.processed(), fired: outcome.fired(), ..Told::default() };
        for failure in outcome.failures() {
            let failure = failure?;
            let Some(item) = self.item(failure.of) else {
                let timer = told.failed_timer.unwrap_or(u32::MAX);
                told.failed_timer = Some(timer.min(failure.of.1));
                continue;
            };
            let failed = (item, legible(failure.reason));
            match failure.kind {
                FailureKind::Transient => told.stopped = told.stopped.or(Some(failed)),
                FailureKind::Permanent => told.failed.push(failed),
            }
        }
        // What is behind the event at which it stopped, or comes of the same source event, is tried again with that.
        let stopped = told.stopped.as_ref().map_or(u32::MAX, |(source, _)| *source);
        told.failed.retain(|(source, _)| *source < stopped);
        told.failed.sort_by_key(|(source, _)| *source);
        told.failed.dedup_by_key(|(source, _)| *source);
        Ok(told)
    }
}

/// What was routed since the last time.
#[derive(Debug, Clone)]
struct Routed {
    /// Per sink and partition what goes there, as far as partitions were used; kept for its memory.
    batches: Vec<Vec<Batch>>,
    /// Sinks and partitions with something in them.
    touched: Vec<(usize, u32)>,
    /// Bytes that a batch is likely to have in the end, and that all new ones together may begin with: one large batch is
    /// followed by many small ones.
    room: usize,
    room_left: usize,
}

impl Routed {
    /// Adds an event that comes from a source partition to a sink.
    #[inline(always)]
    fn send(&mut self, (index, sink): (usize, &Sink), source_partition: u32, event: &Event<'_>, origin: Origin) {
        let (by, partitions) = (sink.partition_by, sink.partitions);
        let partition = by.partition(event.key(), source_partition, origin.offset, origin.ordinal, partitions);
        let row = &mut self.batches[index];
        if row.len() <= partition as usize {
            row.resize(partition as usize + 1, Batch::default());
        }
        let batch = &mut row[partition as usize];
        if batch.is_empty() {
            self.touched.push((index, partition));
            let room = self.room.min(self.room_left);
            self.room_left -= room;
            if batch.capacity() < room {
                *batch = batch_for(room);
            }
        }
        batch.push_output(event, origin);
    }
}

/// Routes the outputs of one lane.
#[derive(Debug, Clone)]
pub struct Router {
    sinks: Vec<Sink>,
    source: TopicPartition,
    routed: Routed,
    /// The outputs of each source event so far, all stages together.
    ordinals: Vec<u32>,
    /// The same of the timers that fire before the source event of this index.
    of_timers: (u32, u32),
    /// What outputs of timers that fire before the first source event are laid to.
    behind: (TopicPartition, u64),
}

impl Router {
    /// Routes to these sinks, the first being the default. Without sinks, outputs go nowhere.
    pub fn new(sinks: Vec<Sink>, source: TopicPartition) -> Self {
        let routed = Routed { batches: vec![Vec::new(); sinks.len()], touched: Vec::new(), room: 0, room_left: 0 };
        Self { sinks, source, routed, ordinals: Vec::new(), of_timers: (0, 0), behind: (source, 0) }
    }

    /// Routes what comes of another partition from now on.
    pub(crate) fn point_at(&mut self, source: TopicPartition) {
        self.source = source;
    }

    /// Sends everything to one topic, or where it belongs; `sinks` are those of the pipeline.
    pub(crate) fn send_to(&mut self, topic: Option<(u32, u32)>, sinks: &[Sink]) {
        for (own, sink) in self.sinks.iter_mut().zip(sinks) {
            (own.topic, own.partitions) = topic.unwrap_or((sink.topic, sink.partitions));
        }
    }

    /// Begins with a batch of `count` events, with these timers.
    pub(crate) fn begin(&mut self, count: u32, due: &Due) {
        self.clear();
        (self.of_timers, self.behind) = ((0, due.fired_outputs), due.behind);
        self.ordinals.clear();
        self.ordinals.resize(count as usize, 0);
    }

    /// Drops what was routed since the last time.
    pub(crate) fn clear(&mut self) {
        for (sink, partition) in self.routed.touched.drain(..) {
            self.routed.batches[sink][partition as usize].clear();
        }
    }

    /// Gives back the memory it keeps.
    pub(crate) fn rest(&mut self) {
        self.clear();
        self.routed.batches.iter_mut().for_each(|row| *row = Vec::new());
    }

    /// Checks and routes a stage's outcome for the events it was given, the first source event being at `base_offset`. Outputs
    /// of events that failed are left out. Where a stage follows, the default outputs go to `next`.
    ///
    /// # Errors
    /// When the outcome is malformed, or breaks a limit; nothing of it may be used then.
    pub(crate) fn route(
        &mut self,
        bytes: &[u8],
        given: &Given<'_>,
        base_offset: u64,
        mut next: Option<&mut Link>,
    ) -> Result<Told, CallError> {
        let outcome = Outcome::parse(bytes, given.items())?;
        let may = |what: fn(StateGrant) -> bool| given.grant.is_some_and(what);
        if (outcome.uses_timers() && !may(|grant| grant.timers)) || (outcome.uses_state() && !may(|grant| grant.values))
        {
            let message = "the consumer writes state or timers, which the pipeline does not grant";
            return Err(CallError::new(CallErrorKind::Limit, message));
        }
        let told = given.told(&outcome)?;
        let (count, timers) = (given.events.count(), given.due.len() as u32);
        let some_left = told.processed < count || told.fired < timers;
        // It may stop where a timer that it has set is due before the next event; but not before it has dealt with anything.
        let may_stop = may(|grant| grant.timers) && told.processed + told.fired > 0;
        if told.stopped.is_none() && told.failed_timer.is_none() && some_left && !may_stop {
            let message = format!("it dealt with {} of {count} events and names no failure", told.processed);
            return Err(CallError::new(CallErrorKind::BadOutcome, message));
        }
        // Of a chain, several events may come of one source event: it stands or falls as a whole.
        let stopped = told.stopped.as_ref().map_or(u32::MAX, |(source, _)| *source);
        let mut keys = given.keys_unchanged.then(|| Keys { events: given.events.events(), at: None, due: given.due });
        let mut traces = Traces::of(given.events);
        let too_much = "its outputs come to too much with the trace headers of their events";
        let mut sinks = SinkTable::new(&outcome, &self.sinks, next.is_some())?;
        for output in outcome.outputs() {
            let output = output?;
            let item = given.item(output.of);
            // Outputs are in the order of their inputs: all that follow belong to events that are tried again.
            if item.is_some_and(|item| item >= stopped) {
                break;
            }
            if !told.failed.is_empty() && item.is_some_and(|item| told.has_failed(item)) {
                continue;
            }
            if output.ordinal >= given.max_outputs_per_event || output.event.bytes().len() > MAX_EVENT_BYTES {
                return Err(over_limit(&output, given.max_outputs_per_event));
            }
            if let Some(keys) = &mut keys {
                keys.check(&output)?;
            }
            // Where it stands, and what of: an event, or the timers before one.
            let (index, source) = match item.filter(|_| !given.of_timers) {
                Some(item) => (item, Source::Input),
                None if given.of_timers => (0, Source::Timer),
                None => (output.before, Source::Timer),
            };
            let (of, offset) = match source {
                Source::Timer if index == 0 => self.behind,
                _ => (self.source, base_offset + u64::from(index)),
            };
            let (topic, partition) = (of.topic, of.partition);
            let mut origin = Origin { topic, partition, offset, ordinal: output.ordinal, source };
            let to = sinks.resolve(&output)?;
            if traces.as_ref().is_some_and(Traces::is_too_much) {
                return Err(CallError::new(CallErrorKind::Limit, too_much));
            }
            let carried = traces.as_mut().and_then(|traces| traces.carry(&output, MAX_EVENT_BYTES));
            let event = carried.as_ref().unwrap_or(&output.event);
            if let (To::NextStage, Some(link)) = (to, next.as_deref_mut()) {
                link.events.push_output(event, origin);
                link.sources.push(item.unwrap_or(0));
                continue;
            }
            if source == Source::Timer {
                if self.of_timers.0 != index {
                    self.of_timers = (index, 0);
                }
                origin.ordinal = self.of_timers.1;
                self.of_timers.1 += 1;
            } else if let Some(ordinal) = self.ordinals.get_mut(index as usize) {
                origin.ordinal = *ordinal;
                *ordinal += 1;
            }
            let To::Sink(to_sink) = to else { continue };
            self.routed.send((to_sink, &self.sinks[to_sink]), self.source.partition, event, origin);
        }
        Ok(told)
    }

    /// Sends a source event to a sink, in place of giving it to a consumer.
    pub(crate) fn divert(&mut self, sink: usize, index: u32, base_offset: u64, event: &Event<'_>) {
        let TopicPartition { topic, partition } = self.source;
        let offset = base_offset + u64::from(index);
        let origin = Origin { topic, partition, offset, ordinal: 0, source: Source::Input };
        self.routed.send((sink, &self.sinks[sink]), partition, event, origin);
        self.ordinals[index as usize] = 1;
    }

    /// Outputs so far of timers that fired before the source event of this index, the first that was not dealt with.
    pub(crate) fn fired_outputs(&self, next: u32) -> u32 {
        if self.of_timers.0 == next { self.of_timers.1 } else { 0 }
    }

    /// How many of the first source events have outputs, but for those that failed.
    pub(crate) fn with_outputs(&self, processed: u32, failed: &[Failed]) -> u64 {
        let all = self.ordinals.iter().take(processed as usize).filter(|outputs| **outputs > 0).count() as u64;
        let failed = failed.iter().filter(|failed| self.ordinals[failed.index as usize] > 0).count() as u64;
        all - failed
    }

    /// Keeps what comes from the first source events, and of these not from those that failed.
    pub(crate) fn keep(&mut self, base_offset: u64, processed: u32, failed: &[Failed]) {
        for (sink, partition) in &self.routed.touched {
            let batch = &mut self.routed.batches[*sink][*partition as usize];
            let mut kept = Batch::with_capacity(batch.bytes().len());
            for event in batch.region().events().flatten() {
                let index =
                    event.origin().and_then(|origin| u32::try_from(origin.offset.checked_sub(base_offset)?).ok());
                let stays = index.is_some_and(|index| {
                    index < processed && failed.binary_search_by_key(&index, |failed| failed.index).is_err()
                });
                if stays {
                    kept.push_event(&event);
                }
            }
            *batch = kept;
        }
        let batches = &self.routed.batches;
        self.routed.touched.retain(|(sink, partition)| !batches[*sink][*partition as usize].is_empty());
    }

    /// What was routed since the last time, ready to be appended.
    pub fn take_appends(&mut self) -> Vec<Append> {
        let Routed { batches, touched, room, room_left } = &mut self.routed;
        touched.sort_unstable();
        // The next ones begin with room for what these have, and some more: none is made for partitions that get nothing.
        let (count, mut bytes) = (touched.len().max(1), 0);
        let taken = touched.drain(..).map(|(sink, partition)| {
            let batch = std::mem::take(&mut batches[sink][partition as usize]);
            bytes += batch.bytes().len();
            Append::new(TopicPartition { topic: self.sinks[sink].topic, partition }, batch)
        });
        let taken = taken.collect();
        bytes += bytes / 8;
        (*room, *room_left) = (bytes / count, bytes);
        taken
    }
}

fn over_limit(output: &sluice_event::Output<'_>, most: u32) -> CallError {
    let size = output.event.bytes().len();
    let message = if output.ordinal >= most {
        format!("more than {most} outputs for one event; `limits.outputs-per-event` changes that")
    } else {
        format!("an output of {size} bytes; an event has at most {MAX_EVENT_BYTES}, which cannot be changed")
    };
    at(output, CallError::new(CallErrorKind::Limit, message))
}

/// An error of the event that an output was made from.
fn at(output: &sluice_event::Output<'_>, error: CallError) -> CallError {
    match output.of {
        (Source::Input, input) => error.at(input),
        // Of one that the call has set itself, nobody knows yet.
        (Source::Timer, _) if output.own_key.is_some() => error.at(output.before),
        (Source::Timer, timer) => error.at(timer | TIMER_IN_HAND),
    }
}

/// Compares the keys of outputs with those of their inputs and timers.
struct Keys<'a> {
    due: &'a Due,
    events: sluice_event::Events<'a>,
    /// The input last looked at, with its index.
    at: Option<(u32, sluice_event::Event<'a>)>,
}

impl Keys<'_> {
    fn check(&mut self, output: &sluice_event::Output<'_>) -> Result<(), CallError> {
        let key = match output.of {
            (Source::Timer, timer) => Some(output.own_key.unwrap_or_else(|| &self.due.timers[timer as usize].key)),
            (Source::Input, input) => {
                while self.at.is_none_or(|(index, _)| index < input) {
                    let index = self.at.map_or(0, |(index, _)| index + 1);
                    let Some(event) = self.events.next() else { return Ok(()) };
                    self.at = Some((index, event?));
                }
                self.at.and_then(|(_, input)| input.key())
            }
        };
        if key == output.event.key() {
            return Ok(());
        }
        let message =
            "an output has another key than its event, but the stage promises `keys = \"unchanged\"`".to_owned();
        Err(at(output, CallError::new(CallErrorKind::BadOutcome, message)))
    }
}

/// Where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Sink(usize),
    NextStage,
    Nowhere,
}

/// The names of sinks in an outcome, looked up when an output uses them.
struct SinkTable<'a> {
    outcome: &'a Outcome<'a>,
    sinks: &'a [Sink],
    has_next: bool,
    /// By index in the outcome's table; `None` while it has not been used.
    found: Vec<Option<To>>,
}

impl<'a> SinkTable<'a> {
    fn new(outcome: &'a Outcome<'a>, sinks: &'a [Sink], has_next: bool) -> Result<Self, CallError> {
        const MOST: u32 = 1000;
        if outcome.sink_count() > MOST {
            let message = format!("it names more than {MOST} sinks");
            return Err(CallError::new(CallErrorKind::BadOutcome, message));
        }
        Ok(Self { outcome, sinks, has_next, found: vec![None; outcome.sink_count() as usize + 1] })
    }

    #[inline]
    fn resolve(&mut self, output: &sluice_event::Output<'_>) -> Result<To, CallError> {
        let index = output.sink as usize;
        if let Some(to) = self.found.get(index).copied().flatten() {
            return Ok(to);
        }
        let to = self.look_up(output)?;
        if let Some(slot) = self.found.get_mut(index) {
            *slot = Some(to);
        }
        Ok(to)
    }

    fn look_up(&self, output: &sluice_event::Output<'_>) -> Result<To, CallError> {
        let name = self.outcome.sink(output.sink)?;
        if self.has_next && name.is_none() {
            return Ok(To::NextStage);
        }
        if self.sinks.is_empty() {
            return Ok(To::Nowhere);
        }
        let Some(name) = name else { return Ok(To::Sink(0)) };
        let found = self.sinks.iter().position(|sink| sink.name == name);
        found.map(To::Sink).ok_or_else(|| {
            let names: Vec<_> = self.sinks.iter().map(|sink| sink.name.as_str()).collect();
            let message = format!("an output names the sink `{}`; the pipeline has {names:?}", legible(name));
            at(output, CallError::new(CallErrorKind::BadOutcome, message))
        })
    }
}

impl From<sluice_event::Malformed> for CallError {
    fn from(malformed: sluice_event::Malformed) -> Self {
        Self::new(CallErrorKind::BadOutcome, malformed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use sluice_event::NewEvent;

    use super::*;

    #[test]
    fn many_small_batches_behind_a_large_one_make_no_more_room_than_that_had() {
        const LARGE: usize = 1_000_000;
        let sink = Sink { name: "out".into(), topic: 2, partitions: 1000, partition_by: PartitionBy::Key };
        let mut router = Router::new(vec![sink], TopicPartition { topic: 1, partition: 0 });
        let mut send = |values: &[Vec<u8>]| {
            router.begin(values.len() as u32, &Due::default());
            for (index, value) in (0..).zip(values) {
                let key = format!("key-{index}");
                let mut one = Batch::default();
                one.push(&NewEvent { key: Some(key.as_bytes()), value, ..NewEvent::default() }).unwrap();
                router.divert(0, index, 0, &one.region().events().next().unwrap().unwrap());
            }
            router.take_appends()
        };
        assert_eq!(send(&[vec![1; LARGE]]).len(), 1);
        let small = send(&vec![vec![1]; 1000]);
        assert!(small.len() > 500);
        let room: usize = small.iter().map(|append| append.batch.capacity()).sum();
        assert!(room < 2 * LARGE, "{room} bytes");
    }
}
