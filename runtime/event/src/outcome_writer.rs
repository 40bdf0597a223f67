//! What a guest fills during one call.

use alloc::vec::Vec;

use crate::bytes::{append, append_words, pad, word};
use crate::event::{Event, ORIGIN, Origin, Source};
use crate::new_event::{NewEvent, TooLarge, length};
use crate::timer::{DueTimer, TimerChange};

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"SLGO");
pub(crate) const VERSION: u16 = 1;
pub(crate) const FIXED: usize = 64;
/// Bytes of a failure before its reason.
pub(crate) const FAILURE: usize = 16;
/// Bytes of a state write before its key.
pub(crate) const STATE_WRITE: usize = 32;

/// Whether it makes sense to try an event again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// Trying again may help: something the consumer depends on is away.
    Transient = 0,
    /// This event will never go through this consumer.
    Permanent = 1,
}

/// Collects outputs and failures in the bytes that go back to the host. The outputs are written where they will be read,
/// so that completing an outcome moves nothing.
#[derive(Debug)]
pub struct OutcomeWriter {
    /// Room for the fixed part, then the outputs.
    outputs: Vec<u8>,
    output_count: u32,
    sinks: Vec<u8>,
    sink_count: u32,
    failures: Vec<u8>,
    failure_count: u32,
    state: Vec<u8>,
    state_count: u32,
    timers: Vec<u8>,
    timer_count: u32,
    firings: Vec<u8>,
    firing_count: u32,
}

/// A point to go back to: everything written behind it is undone.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    outputs: usize,
    output_count: u32,
    failures: usize,
    failure_count: u32,
    firings: usize,
    firing_count: u32,
}

impl Default for OutcomeWriter {
    fn default() -> Self {
        let mut writer = Self {
            outputs: Vec::new(),
            output_count: 0,
            sinks: Vec::new(),
            sink_count: 0,
            failures: Vec::new(),
            failure_count: 0,
            state: Vec::new(),
            state_count: 0,
            timers: Vec::new(),
            timer_count: 0,
            firings: Vec::new(),
            firing_count: 0,
        };
        writer.outputs.resize(FIXED, 0);
        writer
    }
}

impl OutcomeWriter {
    /// Room for about as many bytes of outputs, and of changes of the state.
    pub fn with_capacity(outputs: usize, state: usize) -> Self {
        let mut writer = Self::default();
        // In the end both are in one place.
        writer.outputs.reserve(outputs + state);
        writer.state.reserve(state);
        writer
    }

    /// Where it stands now.
    pub fn mark(&self) -> Mark {
        Mark {
            outputs: self.outputs.len(),
            output_count: self.output_count,
            failures: self.failures.len(),
            failure_count: self.failure_count,
            firings: self.firings.len(),
            firing_count: self.firing_count,
        }
    }

    /// Undoes everything since `mark`. Names of sinks stay in their table; they do no harm.
    pub fn undo(&mut self, mark: Mark) {
        self.outputs.truncate(mark.outputs);
        self.output_count = mark.output_count;
        self.failures.truncate(mark.failures);
        self.failure_count = mark.failure_count;
        self.firings.truncate(mark.firings);
        self.firing_count = mark.firing_count;
    }

    /// Bytes of outputs so far.
    pub fn output_bytes(&self) -> usize {
        self.outputs.len() - FIXED
    }

    /// The index that outputs use for the sink of this name; `None` is the pipeline's default sink.
    #[inline]
    pub fn sink(&mut self, name: Option<&str>) -> u32 {
        name.map_or(0, |name| self.named_sink(name))
    }

    fn named_sink(&mut self, name: &str) -> u32 {
        let (mut at, mut index) = (0, 1);
        while let Some(len) = crate::bytes::array(&self.sinks, at).map(u32::from_le_bytes) {
            let end = at + 4 + len as usize;
            if self.sinks.get(at + 4..end) == Some(name.as_bytes()) {
                return index;
            }
            (at, index) = (end, index + 1);
        }
        self.sinks.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.sinks.extend_from_slice(name.as_bytes());
        self.sink_count += 1;
        index
    }

    /// Appends an output of the given input or timer to the sink of this index; `event.origin` is not used. Its value is what
    /// `value` appends to the vector it is given.
    ///
    /// # Errors
    /// Whatever `value` says, or [`TooLarge`]; nothing is appended then.
    #[inline]
    pub fn output<E: From<TooLarge>>(
        &mut self,
        of: (Source, u32),
        sink: u32,
        event: NewEvent<'_>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let origin = origin_of(of, sink);
        NewEvent { origin: Some(origin), ..event }.write(&mut self.outputs, value)?;
        self.output_count += 1;
        Ok(())
    }

    /// The same of an event that goes on as it is: key, value, headers and time.
    ///
    /// # Errors
    /// When its size does not fit its field; nothing is appended then.
    #[inline]
    pub fn forward(&mut self, of: (Source, u32), sink: u32, event: &Event<'_>) -> Result<(), TooLarge> {
        length(event.bytes().len() + ORIGIN)?;
        event.write_from(origin_of(of, sink), &mut self.outputs);
        self.output_count += 1;
        Ok(())
    }

    /// Says that an input or timer failed. The caller undoes its effects first.
    pub fn fail(&mut self, (source, index): (Source, u32), kind: FailureKind, reason: &str) {
        let out = &mut self.failures;
        let start = out.len();
        let size = u32::try_from(crate::bytes::padded(FAILURE + reason.len())).unwrap_or(u32::MAX);
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&[source as u8, kind as u8, 0, 0]);
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&u32::try_from(reason.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(reason.as_bytes());
        out.resize(start + size as usize, 0);
        self.failure_count += 1;
    }

    /// Sets or deletes a value of the state. What an event wrote that failed is not undone by [`undo`](Self::undo): the caller writes
    /// when it knows what stands.
    pub fn state(&mut self, (source, index): (Source, u32), key: &[u8], value: Option<&[u8]>, expires: Option<i64>) {
        let out = &mut self.state;
        let start = out.len();
        let bytes = value.unwrap_or_default();
        let size = u32::try_from(crate::bytes::padded(STATE_WRITE + key.len() + bytes.len())).unwrap_or(u32::MAX);
        let kind = u32::from(value.is_some()) | (source as u32) << 8;
        let [key_len, value_len] = [key.len(), bytes.len()].map(|len| u32::try_from(len).unwrap_or(u32::MAX));
        let expires = expires.unwrap_or(0).cast_unsigned();
        append_words(out, [word(size, kind), word(index, key_len), word(value_len, 0), expires]);
        append(out, key);
        append(out, bytes);
        pad(out);
        debug_assert_eq!(out.len() - start, size as usize);
        self.state_count += 1;
    }

    /// Sets or clears a timer. Like [`state`](Self::state), it is not undone.
    pub fn timer(&mut self, change: &TimerChange<'_>) {
        change.write(&mut self.timers);
        self.timer_count += 1;
    }

    /// Says that a timer fires which was set in this call, behind so many of those that were due. What comes of it names it by its number, which is
    /// returned, behind those.
    pub fn firing(&mut self, timer: &DueTimer<'_>, behind: u32) -> u32 {
        timer.write_behind(behind, &mut self.firings);
        self.firing_count += 1;
        self.firing_count - 1
    }

    /// Completes the outcome: the first `processed` inputs and the first `fired` timers were dealt with, failures included.
    pub fn finish(mut self, processed: u32, fired: u32) -> Vec<u8> {
        let mut out = core::mem::take(&mut self.outputs);
        let outputs_len = out.len() - FIXED;
        let sinks_len = self.sinks.len();
        let words = [
            processed,
            fired,
            self.output_count,
            u32::try_from(outputs_len).unwrap_or(u32::MAX),
            self.sink_count,
            u32::try_from(sinks_len).unwrap_or(u32::MAX),
            self.failure_count,
            u32::try_from(self.failures.len()).unwrap_or(u32::MAX),
            self.state_count,
            u32::try_from(self.state.len()).unwrap_or(u32::MAX),
            self.timer_count,
            u32::try_from(self.timers.len()).unwrap_or(u32::MAX),
            self.firing_count,
            u32::try_from(self.firings.len()).unwrap_or(u32::MAX),
        ];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(FIXED as u16).to_le_bytes());
        for (slot, word) in out[8..FIXED].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.sinks);
        pad(&mut out);
        out.extend_from_slice(&self.failures);
        out.extend_from_slice(&self.state);
        out.extend_from_slice(&self.timers);
        out.extend_from_slice(&self.firings);
        out
    }
}

/// The origin of an output, as an outcome has it.
#[inline]
fn origin_of((source, index): (Source, u32), sink: u32) -> Origin {
    Origin { topic: sink, partition: 0, offset: u64::from(index), ordinal: 0, source }
}
