//! From a guest's outcome to batches for the sinks: checks, routes and copies each output once.

use sluice_event::{Batch, FailureKind, Origin, Outcome, Source};
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
    /// Of these, events without any output.
    pub filtered: u64,
    /// The first event that the consumer failed, with its reason; it is not among those dealt with.
    pub failed: Option<(u32, String)>,
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
}

impl Router {
    /// Routes to these sinks, the first being the default. Without sinks, outputs go nowhere.
    pub fn new(sinks: Vec<Sink>, source: TopicPartition) -> Self {
        let batches = vec![Vec::new(); sinks.len()];
        Self { sinks, source, max_outputs_per_event: 1000, batches, touched: Vec::new() }
    }

    /// Checks and routes an outcome for `count` events from `base_offset` on. Outputs of events from the first failed one on
    /// are left out.
    ///
    /// # Errors
    /// When the outcome is malformed, or breaks a limit; nothing of it may be used then.
    pub fn route(&mut self, bytes: &[u8], base_offset: u64, count: u32) -> Result<Routed, CallError> {
        let result = self.try_route(bytes, base_offset, count);
        if result.is_err() {
            for (sink, partition) in self.touched.drain(..) {
                self.batches[sink][partition as usize].clear();
            }
        }
        result
    }

    fn try_route(&mut self, bytes: &[u8], base_offset: u64, count: u32) -> Result<Routed, CallError> {
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
        let mut sinks = SinkTable::new(&outcome, &self.sinks)?;
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
            let Some(index) = sinks.resolve(&output)? else { continue };
            let sink = &self.sinks[index];
            let offset = base_offset + u64::from(output.input);
            let (key, from) = (output.event.key(), self.source.partition);
            let partition = sink.partition_by.partition(key, from, offset, output.ordinal, sink.partitions);
            let origin = Origin {
                topic: self.source.topic,
                partition: self.source.partition,
                offset,
                ordinal: output.ordinal,
                source: Source::Input,
            };
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
        Ok(Routed { processed, filtered: u64::from(processed) - with_outputs, failed })
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
            Append { to, batch: std::mem::replace(batch, fresh) }
        });
        taken.collect()
    }
}

/// The names of sinks in an outcome, looked up when an output uses them.
struct SinkTable<'a> {
    outcome: &'a Outcome<'a>,
    sinks: &'a [Sink],
    /// By index in the outcome's table; `None` while it has not been used.
    found: Vec<Option<usize>>,
}

impl<'a> SinkTable<'a> {
    fn new(outcome: &'a Outcome<'a>, sinks: &'a [Sink]) -> Result<Self, CallError> {
        const MOST: u32 = 1000;
        if outcome.sink_count() > MOST {
            let message = format!("it names more than {MOST} sinks");
            return Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: None });
        }
        Ok(Self { outcome, sinks, found: vec![None; outcome.sink_count() as usize + 1] })
    }

    /// Which of the pipeline's sinks an output goes to; `None` when it has none at all.
    #[inline]
    fn resolve(&mut self, output: &sluice_event::Output<'_>) -> Result<Option<usize>, CallError> {
        let index = output.sink as usize;
        match self.found.get(index).copied().flatten() {
            Some(sink) => Ok(Some(sink)),
            None if self.sinks.is_empty() => Ok(None),
            None => {
                let sink = self.look_up(output)?;
                if let Some(slot) = self.found.get_mut(index) {
                    *slot = Some(sink);
                }
                Ok(Some(sink))
            }
        }
    }

    fn look_up(&self, output: &sluice_event::Output<'_>) -> Result<usize, CallError> {
        let Some(name) = self.outcome.sink(output.sink)? else { return Ok(0) };
        let found = self.sinks.iter().position(|sink| sink.name == name);
        found.ok_or_else(|| {
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
