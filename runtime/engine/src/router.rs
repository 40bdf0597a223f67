//! From a guest's outcome to batches for the sinks: checks, routes and copies each output once.

use sluice_event::{Batch, FailureKind, Origin, Outcome, Region, Source};
use sluice_log::{Append, MAX_EVENT_BYTES, TopicPartition};

use crate::legible::legible;
use crate::partitioner::PartitionBy;
use crate::port::{CallError, CallErrorKind};

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

/// What a call came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Events dealt with, from the first on.
    pub processed: u32,
    /// Of these, events with outputs.
    pub committed: u64,
    /// Of these, events without any output.
    pub filtered: u64,
    /// The first event that the consumer failed, with its reason; it is not among those dealt with.
    pub failed: Option<(u32, String)>,
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
}

/// Routes the outputs of one lane.
#[derive(Debug, Clone)]
pub struct Router {
    sinks: Vec<Sink>,
    source: TopicPartition,
    max_outputs_per_event: u32,
    /// Per sink and partition what goes there, as far as partitions were used; kept for its memory.
    batches: Vec<Vec<Batch>>,
    /// Sinks and partitions with something in them.
    touched: Vec<(usize, u32)>,
    /// Of a chain: the outputs of each source event so far, all stages together.
    ordinals: Vec<u32>,
}

impl Router {
    /// Routes to these sinks, the first being the default. Without sinks, outputs go nowhere.
    pub fn new(sinks: Vec<Sink>, source: TopicPartition) -> Self {
        let batches = vec![Vec::new(); sinks.len()];
        Self { sinks, source, max_outputs_per_event: 1000, batches, touched: Vec::new(), ordinals: Vec::new() }
    }

    /// Begins with a batch of `count` events, for a chain of several stages or for one.
    pub(crate) fn begin(&mut self, count: u32, is_chain: bool) {
        self.clear();
        self.ordinals.clear();
        if is_chain {
            self.ordinals.resize(count as usize, 0);
        }
    }

    /// Drops what was routed since the last time.
    pub(crate) fn clear(&mut self) {
        for (sink, partition) in self.touched.drain(..) {
            self.batches[sink][partition as usize].clear();
        }
    }

    /// Gives back the memory it keeps.
    pub(crate) fn rest(&mut self) {
        self.clear();
        self.batches.iter_mut().for_each(|row| *row = Vec::new());
    }

    /// Checks and routes a stage's outcome for the events it was given, the first source event being at `base_offset`. Outputs
    /// of events from the first failed one on are left out. Where a stage follows, the default outputs go to `next`.
    ///
    /// # Errors
    /// When the outcome is malformed, or breaks a limit; nothing of it may be used then.
    pub(crate) fn route(
        &mut self,
        bytes: &[u8],
        given: &Given<'_>,
        base_offset: u64,
        mut next: Option<&mut Link>,
    ) -> Result<Routed, CallError> {
        let count = given.events.count();
        let outcome = Outcome::parse(bytes, count)?;
        if outcome.uses_state() || outcome.uses_timers() {
            let message = "the consumer writes state or timers, which the pipeline does not grant".to_owned();
            return Err(CallError { kind: CallErrorKind::Limit, message, in_hand: None });
        }
        let failed = outcome.failures().try_fold(None, |first: Option<(u32, String)>, failure| {
            let failure = failure?;
            let kind = if failure.kind == FailureKind::Transient { "transient" } else { "permanent" };
            let earlier = first.filter(|(input, _)| *input <= failure.input);
            Ok::<_, CallError>(
                earlier.or_else(|| Some((failure.input, format!("{kind}: {}", legible(failure.reason))))),
            )
        })?;
        let processed = failed.as_ref().map_or(outcome.processed(), |(input, _)| *input);
        if failed.is_none() && processed < count {
            let message = format!("it dealt with {processed} of {count} events and names no failure");
            return Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: None });
        }
        let mut keys = given.keys_unchanged.then(|| Keys { events: given.events.events(), at: None });
        let mut sinks = SinkTable::new(&outcome, &self.sinks, next.is_some())?;
        let (mut with_outputs, mut last) = (0, None);
        for output in outcome.outputs() {
            let output = output?;
            if output.input >= processed {
                // Outputs are in the order of their inputs: all that follow belong to events that are tried again.
                break;
            }
            if last != Some(output.input) {
                (with_outputs, last) = (with_outputs + 1, Some(output.input));
            }
            if output.ordinal >= self.max_outputs_per_event || output.event.bytes().len() > MAX_EVENT_BYTES {
                return Err(self.over_limit(&output));
            }
            if let Some(keys) = &mut keys {
                keys.check(&output)?;
            }
            let source = match given.sources {
                None => output.input,
                Some(sources) => sources[output.input as usize],
            };
            let offset = base_offset + u64::from(source);
            let mut origin = Origin {
                topic: self.source.topic,
                partition: self.source.partition,
                offset,
                ordinal: output.ordinal,
                source: Source::Input,
            };
            let to = sinks.resolve(&output)?;
            if let (To::NextStage, Some(link)) = (to, next.as_deref_mut()) {
                link.events.push_output(&output.event, origin);
                link.sources.push(source);
                continue;
            }
            if let Some(ordinal) = self.ordinals.get_mut(source as usize) {
                origin.ordinal = *ordinal;
                *ordinal += 1;
            }
            let To::Sink(index) = to else { continue };
            let sink = &self.sinks[index];
            let (key, from) = (output.event.key(), self.source.partition);
            let partition = sink.partition_by.partition(key, from, offset, origin.ordinal, sink.partitions);
            let row = &mut self.batches[index];
            if row.len() <= partition as usize {
                row.resize(partition as usize + 1, Batch::default());
            }
            let batch = &mut row[partition as usize];
            if batch.is_empty() {
                self.touched.push((index, partition));
            }
            batch.push_output(&output.event, origin);
        }
        Ok(Routed {
            processed,
            committed: with_outputs,
            filtered: u64::from(processed).saturating_sub(with_outputs),
            failed,
        })
    }

    /// Of a chain: how many of the first source events have outputs.
    pub(crate) fn with_outputs(&self, processed: u32) -> u64 {
        self.ordinals.iter().take(processed as usize).filter(|outputs| **outputs > 0).count() as u64
    }

    fn over_limit(&self, output: &sluice_event::Output<'_>) -> CallError {
        let (most, size) = (self.max_outputs_per_event, output.event.bytes().len());
        let message = if output.ordinal >= most {
            format!("more than {most} outputs for one event")
        } else {
            format!("an output of {size} bytes; the limit is {MAX_EVENT_BYTES}")
        };
        CallError { kind: CallErrorKind::Limit, message, in_hand: Some(output.input) }
    }

    /// What was routed since the last time, ready to be appended.
    pub fn take_appends(&mut self) -> Vec<Append> {
        self.touched.sort_unstable();
        let taken = self.touched.drain(..).map(|(sink, partition)| {
            let batch = &mut self.batches[sink][partition as usize];
            let fresh = Batch::with_capacity(batch.bytes().len() + 4096);
            let to = TopicPartition { topic: self.sinks[sink].topic, partition };
            Append::new(to, std::mem::replace(batch, fresh))
        });
        taken.collect()
    }
}

/// Compares the keys of outputs with those of their inputs.
struct Keys<'a> {
    events: sluice_event::Events<'a>,
    /// The input last looked at, with its index.
    at: Option<(u32, sluice_event::Event<'a>)>,
}

impl Keys<'_> {
    fn check(&mut self, output: &sluice_event::Output<'_>) -> Result<(), CallError> {
        while self.at.is_none_or(|(index, _)| index < output.input) {
            let index = self.at.map_or(0, |(index, _)| index + 1);
            let Some(event) = self.events.next() else { return Ok(()) };
            self.at = Some((index, event?));
        }
        if self.at.is_none_or(|(_, input)| input.key() == output.event.key()) {
            return Ok(());
        }
        let message =
            "an output has another key than its event, but the stage promises `keys = \"unchanged\"`".to_owned();
        Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: Some(output.input) })
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
            return Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: None });
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
            CallError { kind: CallErrorKind::BadOutcome, message, in_hand: Some(output.input) }
        })
    }
}

impl From<sluice_event::Malformed> for CallError {
    fn from(malformed: sluice_event::Malformed) -> Self {
        Self { kind: CallErrorKind::BadOutcome, message: malformed.to_string(), in_hand: None }
    }
}
