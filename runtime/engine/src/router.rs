//! From a guest's outcome to batches for the sinks: checks, routes and copies each output once.

use sluice_event::{Batch, FailureKind, Origin, Outcome, Source};
use sluice_log::{Append, MAX_EVENT_BYTES, TopicPartition};

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
    /// Per sink and partition what goes there; kept for its memory.
    batches: Vec<Vec<Batch>>,
}

impl Router {
    /// Routes to these sinks, the first being the default. Without sinks, outputs go nowhere.
    pub fn new(sinks: Vec<Sink>, source: TopicPartition) -> Self {
        let batches = sinks.iter().map(|sink| vec![Batch::default(); sink.partitions as usize]).collect();
        Self { sinks, source, max_outputs_per_event: 1000, batches }
    }

    /// Checks and routes an outcome for `count` events from `base_offset` on. Outputs of events from the first failed one on
    /// are left out.
    ///
    /// # Errors
    /// When the outcome is malformed, or breaks a limit; nothing of it may be used then.
    pub fn route(&mut self, bytes: &[u8], base_offset: u64, count: u32) -> Result<Routed, CallError> {
        let result = self.try_route(bytes, base_offset, count);
        if result.is_err() {
            self.batches.iter_mut().flatten().for_each(Batch::clear);
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
            Ok::<_, CallError>(earlier.or_else(|| Some((failure.input, format!("{kind}: {}", failure.reason)))))
        })?;
        let processed = failed.as_ref().map_or(outcome.processed(), |(input, _)| *input);
        if failed.is_none() && processed < count {
            let message = format!("it dealt with {processed} of {count} events and names no failure");
            return Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: None });
        }
        let sinks = self.resolve_sinks(&outcome)?;
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
            let Some(index) = sinks.get(output.sink as usize).copied().flatten() else { continue };
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
            self.batches[index][partition as usize].push_output(&output.event, origin);
        }
        Ok(Routed { processed, filtered: u64::from(processed) - with_outputs, failed })
    }

    /// For each entry of the outcome's table of sinks, the default first, which of the pipeline's sinks it is.
    fn resolve_sinks(&self, outcome: &Outcome<'_>) -> Result<Vec<Option<usize>>, CallError> {
        let mut sinks = vec![(!self.sinks.is_empty()).then_some(0)];
        if outcome.sink_count() > 1000 {
            let message = "it names more than 1000 sinks".to_owned();
            return Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: None });
        }
        for index in 1..=outcome.sink_count() {
            let name = outcome.sink(index)?.unwrap_or_default();
            let found = self.sinks.iter().position(|sink| sink.name == name);
            if found.is_none() {
                let names: Vec<_> = self.sinks.iter().map(|sink| sink.name.as_str()).collect();
                let message = format!("an output names the sink {name:?}; the pipeline has {names:?}");
                return Err(CallError { kind: CallErrorKind::BadOutcome, message, in_hand: None });
            }
            sinks.push(found);
        }
        Ok(sinks)
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
        let mut appends = Vec::new();
        for (sink, batches) in self.sinks.iter().zip(&mut self.batches) {
            for (partition, batch) in (0..).zip(batches) {
                if !batch.is_empty() {
                    let fresh = Batch::with_capacity(batch.bytes().len() + 4096);
                    let batch = std::mem::replace(batch, fresh);
                    appends.push(Append { to: TopicPartition { topic: sink.topic, partition }, batch });
                }
            }
        }
        appends
    }
}

impl From<sluice_event::Malformed> for CallError {
    fn from(malformed: sluice_event::Malformed) -> Self {
        Self { kind: CallErrorKind::BadOutcome, message: malformed.to_string(), in_hand: None }
    }
}
