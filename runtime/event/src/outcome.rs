//! What a guest returned, read and checked by the host.

use crate::bytes::{Malformed, i64_at, len_at, padded, take, u16_at, u32_at};
use crate::event::{Event, Source};
use crate::outcome_writer::{FAILURE, FIXED, FailureKind, MAGIC, STATE_WRITE, VERSION};
use crate::region::{Events, Region};

/// A guest's answer to one call. The guest may be hostile: nothing in it is believed before it is checked.
///
/// ```text
///  0  u32  magic "SLGO"             32  u32  number of failures, 36  u32  their bytes
///  4  u16  version, 1               40  u32  number of state writes, 44  u32  their bytes
///  6  u16  length of this part, 64  48  u32  number of timer changes, 52  u32  their bytes
///  8  u32  inputs dealt with        56  u64  0
/// 12  u32  timers dealt with        64  outputs: an events region whose origins name inputs and sinks (see `Origin`)
/// 16  u32  number of outputs        ..  sinks: per name u32 length, bytes; index 0 is the default sink, names count from 1
/// 20  u32  their bytes              ..  failures: u32 size, u8 source, u8 kind, u16 0, u32 index, u32 reason length, reason
/// 24  u32  number of sink names     ..  state writes, timer changes (see guest-sdk/wit); each part padded to 8
/// 28  u32  their bytes
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    inputs: u32,
    processed: u32,
    outputs: Region<'a>,
    sinks: &'a [u8],
    sink_count: u32,
    failures: &'a [u8],
    failure_count: u32,
    state: &'a [u8],
    state_count: u32,
    uses_timers: bool,
}

impl<'a> Outcome<'a> {
    /// Reads the fixed part and cuts the sections apart; their contents are checked while they are read.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fill the bytes exactly.
    pub fn parse(bytes: &'a [u8], inputs: u32) -> Result<Self, Malformed> {
        if u32_at(bytes, 0)? != MAGIC || u16_at(bytes, 4)? != VERSION || usize::from(u16_at(bytes, 6)?) != FIXED {
            return Err(Malformed("the outcome is not of version 1"));
        }
        let processed = u32_at(bytes, 8)?;
        if processed > inputs {
            return Err(Malformed("the outcome deals with more inputs than there were"));
        }
        let mut rest = bytes.get(FIXED..).ok_or(Malformed("the outcome is cut short"))?;
        let outputs = take(&mut rest, len_at(bytes, 20)?)?;
        let sinks_len = len_at(bytes, 28)?;
        let sinks = take(&mut rest, sinks_len)?;
        take(&mut rest, padded(sinks_len) - sinks_len)?;
        let failures = take(&mut rest, len_at(bytes, 36)?)?;
        let state = take(&mut rest, len_at(bytes, 44)?)?;
        let timers = take(&mut rest, len_at(bytes, 52)?)?;
        if !rest.is_empty() {
            return Err(Malformed("the outcome has bytes behind its last section"));
        }
        Ok(Self {
            inputs,
            processed,
            outputs: Region::new(outputs, u32_at(bytes, 16)?),
            sinks,
            sink_count: u32_at(bytes, 24)?,
            failures,
            failure_count: u32_at(bytes, 32)?,
            state,
            state_count: u32_at(bytes, 40)?,
            uses_timers: !timers.is_empty() || u32_at(bytes, 12)? != 0,
        })
    }

    /// The first inputs of the batch were dealt with, this many; fewer than all after a transient failure.
    pub fn processed(&self) -> u32 {
        self.processed
    }

    /// How many outputs it says it has.
    pub fn output_count(&self) -> u32 {
        self.outputs.count()
    }

    /// The outputs, each checked as it is read.
    pub fn outputs(&self) -> Outputs<'a> {
        Outputs {
            events: self.outputs.events(),
            sinks: self.sink_count,
            processed: self.processed,
            last: 0,
            ordinal: 0,
            any: false,
        }
    }

    /// The failures, each checked as it is read.
    pub fn failures(&self) -> Failures<'a> {
        let records = Records {
            bytes: self.failures,
            left: self.failure_count,
            least: FAILURE,
            size: "a failure's size is too small or not a multiple of 8",
            behind: "the outcome has bytes behind its last failure",
        };
        Failures { records, inputs: self.inputs, processed: self.processed }
    }

    /// The name of a sink by its index in an output; `None` for the default sink.
    ///
    /// # Errors
    /// When the table does not hold it.
    pub fn sink(&self, index: u32) -> Result<Option<&'a str>, Malformed> {
        if index == 0 {
            return Ok(None);
        }
        let mut rest = self.sinks;
        for at in 1..=self.sink_count {
            let len = len_at(take(&mut rest, 4)?, 0)?;
            let name = take(&mut rest, len)?;
            if at == index {
                return core::str::from_utf8(name).map(Some).map_err(|_| Malformed("a sink's name is not UTF-8"));
            }
        }
        Err(Malformed("an output names a sink that is not in the table"))
    }

    /// How many names the table of sinks says it has.
    pub fn sink_count(&self) -> u32 {
        self.sink_count
    }

    /// Whether it writes state.
    pub fn uses_state(&self) -> bool {
        !self.state.is_empty()
    }

    /// What it writes to the state, in order, each checked as it is read.
    pub fn state_writes(&self) -> StateWrites<'a> {
        let records = Records {
            bytes: self.state,
            left: self.state_count,
            least: STATE_WRITE,
            size: "a state write's size is too small or not a multiple of 8",
            behind: "the outcome has bytes behind its last state write",
        };
        StateWrites { records, processed: self.processed }
    }

    /// Whether it sets, clears or fires timers.
    pub fn uses_timers(&self) -> bool {
        self.uses_timers
    }
}

/// One output of a guest.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The event; its origin is still the guest's.
    pub event: Event<'a>,
    /// Index in the outcome's table of sinks.
    pub sink: u32,
    /// The input it was made from, as an index in the batch.
    pub input: u32,
    /// Counts the outputs of one input, from 0.
    pub ordinal: u32,
}

/// Iterates over the outputs and checks that they come in the order of their inputs.
#[derive(Debug, Clone)]
pub struct Outputs<'a> {
    events: Events<'a>,
    sinks: u32,
    processed: u32,
    last: u32,
    ordinal: u32,
    any: bool,
}

impl<'a> Outputs<'a> {
    #[inline]
    fn output(&mut self, event: Event<'a>) -> Result<Output<'a>, Malformed> {
        let origin = event.origin().ok_or(Malformed("an output has no origin"))?;
        if origin.source != Source::Input {
            return Err(Malformed("an output names a timer, but none was due"));
        }
        if origin.offset >= u64::from(self.processed) {
            return Err(Malformed("an output names an input that was not dealt with"));
        }
        if origin.topic > self.sinks {
            return Err(Malformed("an output names a sink that is not in the table"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "below `processed`, a u32")]
        let input = origin.offset as u32;
        if self.any && input < self.last {
            return Err(Malformed("outputs are not in the order of their inputs"));
        }
        self.ordinal = if self.any && input == self.last { self.ordinal + 1 } else { 0 };
        (self.last, self.any) = (input, true);
        Ok(Output { event, sink: origin.topic, input, ordinal: self.ordinal })
    }
}

impl<'a> Iterator for Outputs<'a> {
    type Item = Result<Output<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let event = match self.events.next()? {
            Ok(event) => event,
            Err(malformed) => return Some(Err(malformed)),
        };
        Some(self.output(event))
    }
}

/// Iterates over records that begin with their size, and ends after the first that is wrong.
#[derive(Debug, Clone)]
struct Records<'a> {
    bytes: &'a [u8],
    left: u32,
    /// The least size of one.
    least: usize,
    /// What to say of a wrong size, and of bytes behind the last one.
    size: &'static str,
    behind: &'static str,
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Result<&'a [u8], Malformed> {
        let size = len_at(self.bytes, 0)?;
        if size < self.least || size % crate::ALIGN != 0 {
            return Err(Malformed(self.size));
        }
        take(&mut self.bytes, size)
    }

    /// Nothing comes any more.
    fn end(&mut self) {
        (self.bytes, self.left) = (&[], 0);
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let behind = !self.bytes.is_empty();
            self.end();
            return behind.then_some(Err(Malformed(self.behind)));
        }
        self.left -= 1;
        Some(self.record().inspect_err(|_| self.end()))
    }
}

/// One event that a guest could not deal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Index of the input in the batch.
    pub input: u32,
    /// Whether trying again may help.
    pub kind: FailureKind,
    /// What the consumer said.
    pub reason: &'a str,
}

/// Iterates over the failures.
#[derive(Debug, Clone)]
pub struct Failures<'a> {
    records: Records<'a>,
    inputs: u32,
    processed: u32,
}

impl<'a> Failures<'a> {
    fn failure(&self, record: &'a [u8]) -> Result<Failure<'a>, Malformed> {
        if record[4] != Source::Input as u8 {
            return Err(Malformed("a failure names a timer, but none was due"));
        }
        let kind = match record[5] {
            0 => FailureKind::Transient,
            1 => FailureKind::Permanent,
            _ => return Err(Malformed("a failure is of an unknown kind")),
        };
        let input = u32_at(record, 8)?;
        if input >= self.inputs {
            return Err(Malformed("a failure names an input that was not given"));
        }
        // A permanent failure is dealt with; a transient one is where the guest stopped.
        if (kind == FailureKind::Permanent && input >= self.processed)
            || (kind == FailureKind::Transient && input != self.processed)
        {
            return Err(Malformed("a failure names an input at which the guest did not stop"));
        }
        let reason = take(&mut &record[FAILURE..], len_at(record, 12)?)?;
        let reason = core::str::from_utf8(reason).map_err(|_| Malformed("a failure's reason is not UTF-8"))?;
        Ok(Failure { input, kind, reason })
    }
}

impl<'a> Iterator for Failures<'a> {
    type Item = Result<Failure<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some(record.and_then(|record| self.failure(record)).inspect_err(|_| self.records.end()))
    }
}

/// One value of the state that a guest sets or deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateWrite<'a> {
    /// Index of the input in the batch that it comes from.
    pub input: u32,
    /// The key.
    pub key: &'a [u8],
    /// The value; `None` deletes it.
    pub value: Option<&'a [u8]>,
    /// When it expires, ms since the epoch.
    pub expires: Option<i64>,
}

/// Iterates over the state writes.
#[derive(Debug, Clone)]
pub struct StateWrites<'a> {
    records: Records<'a>,
    processed: u32,
}

impl<'a> StateWrites<'a> {
    fn write(&self, record: &'a [u8]) -> Result<StateWrite<'a>, Malformed> {
        if record[5] != Source::Input as u8 {
            return Err(Malformed("a state write names a timer, but none was due"));
        }
        let input = u32_at(record, 8)?;
        if input >= self.processed {
            return Err(Malformed("a state write names an input that was not dealt with"));
        }
        let mut rest = &record[STATE_WRITE..];
        let key = take(&mut rest, len_at(record, 12)?)?;
        let value = take(&mut rest, len_at(record, 16)?)?;
        if rest.len() >= crate::ALIGN {
            return Err(Malformed("a state write's size does not fit its parts"));
        }
        let value = match record[4] {
            0 if value.is_empty() => None,
            1 => Some(value),
            _ => return Err(Malformed("a state write is of an unknown operation")),
        };
        let expires = i64_at(record, 24)?;
        Ok(StateWrite { input, key, value, expires: (expires != 0).then_some(expires) })
    }
}

impl<'a> Iterator for StateWrites<'a> {
    type Item = Result<StateWrite<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some(record.and_then(|record| self.write(record)).inspect_err(|_| self.records.end()))
    }
}
