//! What a guest returned, read and checked by the host.

use crate::bytes::{Malformed, i64_at, len_at, padded, take, u16_at, u32_at};
use crate::event::{Event, Source};
use crate::outcome_writer::{FAILURE, FIXED, FailureKind, MAGIC, STATE_WRITE, VERSION};
use crate::records::Records;
use crate::region::{Events, Region};
use crate::timer::{self, Firing, Firings, TimerChange};

/// What a call was given, as far as its outcome can be wrong about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Items<'a> {
    /// How many events.
    pub inputs: u32,
    /// For each due timer, the index of the event before which it fires; in order.
    pub timers: &'a [u32],
    /// Whether it may fire timers that it has set itself.
    pub fires: bool,
}

/// Where an input or timer stands among all of a call. One number, for they are compared for each output; none is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Rank(u128);

impl Rank {
    #[inline]
    fn of_input(index: u32) -> Self {
        Self(1 << 127 | u128::from(index) << 65 | 1 << 64)
    }

    /// The same of a timer that fires before an input, and behind so many due ones and so many others.
    fn of_timer(before: u32, due: u32, others: u32) -> Self {
        Self(1 << 127 | u128::from(before) << 65 | u128::from(due) << 32 | u128::from(others))
    }

    /// The input that it is, or fires before.
    #[inline]
    fn before(self) -> u32 {
        (self.0 >> 65) as u32
    }
}

/// How far a guest came: the first inputs and the first timers. Those that it fired itself are numbered behind the due ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DealtWith {
    processed: u32,
    fired: u32,
    due: u32,
    firings: u32,
}

impl DealtWith {
    #[inline]
    fn has(self, (source, index): (Source, u32)) -> bool {
        match source {
            Source::Input => index < self.processed,
            Source::Timer => index < self.fired || index.checked_sub(self.due).is_some_and(|own| own < self.firings),
        }
    }

    /// Checks that timers which the call has fired itself stand in their order, and none behind what was not dealt with.
    fn check(self, items: Items<'_>, firings: Firings<'_>) -> Result<(), Malformed> {
        if !items.fires {
            return Err(Malformed("the outcome fires timers itself, which it may not in this call"));
        }
        let mut last = (0, 0);
        for firing in firings {
            let Firing { timer, behind } = firing?;
            let stands = behind <= self.fired && timer.before <= self.processed && last <= (timer.before, behind);
            let between = |(done, left): (&[u32], &[u32])| {
                done.last().is_none_or(|due| *due <= timer.before)
                    && left.first().is_none_or(|due| *due >= timer.before)
            };
            if !stands || !items.timers.split_at_checked(behind as usize).is_some_and(between) {
                return Err(Malformed("the outcome fires timers itself out of their order"));
            }
            last = (timer.before, behind);
        }
        Ok(())
    }
}

/// A guest's answer to one call. The guest may be hostile: nothing in it is believed before it is checked.
///
/// ```text
///  0  u32  magic "SLGO"             32  u32  number of failures, 36  u32  their bytes
///  4  u16  version, 1               40  u32  number of state writes, 44  u32  their bytes
///  6  u16  length of this part, 64  48  u32  number of timer changes, 52  u32  their bytes
///  8  u32  inputs dealt with        56  u32  number of timers set and fired in the call, 60  u32  their bytes
/// 12  u32  timers dealt with        64  outputs: an events region whose origins name inputs and sinks (see `Origin`)
/// 16  u32  number of outputs        ..  sinks: per name u32 length, bytes; index 0 is the default sink, names count from 1
/// 20  u32  their bytes              ..  failures: u32 size, u8 source, u8 kind, u16 0, u32 index, u32 reason length, reason
/// 24  u32  number of sink names     ..  state writes, timer changes, timers fired (see guest-sdk/wit); each part padded to 8
/// 28  u32  their bytes
/// ```
/// (56 and 60 are 0 in outcomes of SDKs that know nothing of timers fired in the call.)
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    items: Items<'a>,
    dealt_with: DealtWith,
    outputs: Region<'a>,
    sinks: &'a [u8],
    sink_count: u32,
    failures: &'a [u8],
    failure_count: u32,
    state: &'a [u8],
    state_count: u32,
    timers: &'a [u8],
    timer_count: u32,
    firings: &'a [u8],
}

impl<'a> Outcome<'a> {
    /// Reads the fixed part and cuts the sections apart; their contents are checked while they are read.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fill the bytes exactly.
    pub fn parse(bytes: &'a [u8], items: Items<'a>) -> Result<Self, Malformed> {
        if u32_at(bytes, 0)? != MAGIC || u16_at(bytes, 4)? != VERSION || usize::from(u16_at(bytes, 6)?) != FIXED {
            return Err(Malformed("the outcome is not of version 1"));
        }
        let processed = u32_at(bytes, 8)?;
        if processed > items.inputs {
            return Err(Malformed("the outcome deals with more inputs than there were"));
        }
        let fired = u32_at(bytes, 12)?;
        let (done, left) = items
            .timers
            .split_at_checked(fired as usize)
            .ok_or(Malformed("the outcome deals with more timers than were due"))?;
        if done.last().is_some_and(|before| *before > processed) || left.first().is_some_and(|next| *next < processed) {
            return Err(Malformed("the outcome deals with events and timers out of their order"));
        }
        let mut rest = bytes.get(FIXED..).ok_or(Malformed("the outcome is cut short"))?;
        let outputs = take(&mut rest, len_at(bytes, 20)?)?;
        let sinks_len = len_at(bytes, 28)?;
        let sinks = take(&mut rest, sinks_len)?;
        take(&mut rest, padded(sinks_len) - sinks_len)?;
        let failures = take(&mut rest, len_at(bytes, 36)?)?;
        let state = take(&mut rest, len_at(bytes, 44)?)?;
        let timers = take(&mut rest, len_at(bytes, 52)?)?;
        let firings = take(&mut rest, len_at(bytes, 60)?)?;
        if !rest.is_empty() {
            return Err(Malformed("the outcome has bytes behind its last section"));
        }
        let dealt_with = DealtWith { processed, fired, due: items.timers.len() as u32, firings: u32_at(bytes, 56)? };
        if !firings.is_empty() || dealt_with.firings > 0 {
            dealt_with.check(items, Firings::new(firings, dealt_with.firings))?;
        }
        Ok(Self {
            items,
            dealt_with,
            outputs: Region::new(outputs, u32_at(bytes, 16)?),
            sinks,
            sink_count: u32_at(bytes, 24)?,
            failures,
            failure_count: u32_at(bytes, 32)?,
            state,
            state_count: u32_at(bytes, 40)?,
            timers,
            timer_count: u32_at(bytes, 48)?,
            firings,
        })
    }

    /// The first inputs of the batch were dealt with, this many; fewer than all after a transient failure, or where a timer that was set in
    /// the call is to fire first.
    pub fn processed(&self) -> u32 {
        self.dealt_with.processed
    }

    /// Likewise for the due timers.
    pub fn fired(&self) -> u32 {
        self.dealt_with.fired
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
            items: self.items,
            dealt_with: self.dealt_with,
            last: Rank::default(),
            ordinal: 0,
            firings: self.firings(),
            firing: None,
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
        Failures { records, items: self.items, dealt_with: self.dealt_with }
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
        StateWrites { records, dealt_with: self.dealt_with }
    }

    /// Whether it sets or clears timers.
    pub fn uses_timers(&self) -> bool {
        !self.timers.is_empty()
    }

    /// The timers that it has set and fired itself, in order; what comes of them names them by their numbers behind the due ones.
    pub fn firings(&self) -> Firings<'a> {
        Firings::new(self.firings, self.dealt_with.firings)
    }

    /// The timers that it sets and clears, in order, each checked as it is read.
    pub fn timer_changes(&self) -> TimerChanges<'a> {
        let records = timer::changes(self.timers, self.timer_count);
        TimerChanges { records, dealt_with: self.dealt_with }
    }
}

/// One output of a guest.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The event; its origin is still the guest's.
    pub event: Event<'a>,
    /// Index in the outcome's table of sinks.
    pub sink: u32,
    /// The input or timer it was made from, by its index.
    pub of: (Source, u32),
    /// The index of that input, or of the one before which the timer fired.
    pub before: u32,
    /// The key of the timer, where the call has set and fired it itself.
    pub own_key: Option<&'a [u8]>,
    /// Counts the outputs of one input or timer, from 0.
    pub ordinal: u32,
}

/// Iterates over the outputs and checks that they come in the order of their inputs and timers.
#[derive(Debug, Clone)]
pub struct Outputs<'a> {
    events: Events<'a>,
    sinks: u32,
    items: Items<'a>,
    dealt_with: DealtWith,
    /// Zero before the first.
    last: Rank,
    ordinal: u32,
    firings: Firings<'a>,
    /// That of the last one, with its number.
    firing: Option<(u32, Firing<'a>)>,
}

impl<'a> Outputs<'a> {
    /// Where an input or timer stands among all, which was dealt with.
    #[inline]
    fn rank(&mut self, (source, index): (Source, u32)) -> Result<Rank, Malformed> {
        match source {
            Source::Input => Ok(Rank::of_input(index)),
            Source::Timer => match self.items.timers.get(index as usize) {
                Some(before) => Ok(Rank::of_timer(*before, index, u32::MAX)),
                None => self.rank_of_firing(index - self.dealt_with.due),
            },
        }
    }

    fn rank_of_firing(&mut self, number: u32) -> Result<Rank, Malformed> {
        const DISORDER: Malformed = Malformed("outputs are not in the order of the timers that were fired");
        while self.firing.is_none_or(|(at, _)| at < number) {
            let at = self.firing.map_or(0, |(at, _)| at + 1);
            self.firing = Some((at, self.firings.next().ok_or(DISORDER)??));
        }
        let (_, Firing { timer, behind }) = self.firing.filter(|(at, _)| *at == number).ok_or(DISORDER)?;
        Ok(Rank::of_timer(timer.before, behind, number))
    }

    #[inline]
    fn output(&mut self, event: Event<'a>) -> Result<Output<'a>, Malformed> {
        let origin = event.origin().ok_or(Malformed("an output has no origin"))?;
        let of = (origin.source, u32::try_from(origin.offset).unwrap_or(u32::MAX));
        if !self.dealt_with.has(of) {
            return Err(Malformed("an output names an input or timer that was not dealt with"));
        }
        if origin.topic > self.sinks {
            return Err(Malformed("an output names a sink that is not in the table"));
        }
        let rank = self.rank(of)?;
        if rank < self.last {
            return Err(Malformed("outputs are not in the order of their inputs"));
        }
        self.ordinal = if self.last == rank { self.ordinal + 1 } else { 0 };
        self.last = rank;
        let own_key = self.firing.filter(|_| of.0 == Source::Timer && of.1 >= self.dealt_with.due);
        let own_key = own_key.map(|(_, firing)| firing.timer.key);
        Ok(Output { event, sink: origin.topic, of, before: rank.before(), own_key, ordinal: self.ordinal })
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

/// One event or timer that a guest could not deal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The input or timer, by its index.
    pub of: (Source, u32),
    /// Whether trying again may help.
    pub kind: FailureKind,
    /// What the consumer said.
    pub reason: &'a str,
}

/// Iterates over the failures.
#[derive(Debug, Clone)]
pub struct Failures<'a> {
    records: Records<'a>,
    items: Items<'a>,
    dealt_with: DealtWith,
}

impl<'a> Iterator for Failures<'a> {
    type Item = Result<Failure<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { items, dealt_with, .. } = *self;
        self.records.read(|record| {
            let source = Source::of(u32::from(record[4]))?;
            let kind = match record[5] {
                0 => FailureKind::Transient,
                1 => FailureKind::Permanent,
                _ => return Err(Malformed("a failure is of an unknown kind")),
            };
            let of = (source, u32_at(record, 8)?);
            let (given, next) = match source {
                Source::Input => (items.inputs, dealt_with.processed),
                Source::Timer => (items.timers.len() as u32, dealt_with.fired),
            };
            if of.1 >= given {
                return Err(Malformed("a failure names an input or timer that was not given"));
            }
            // A permanent failure is dealt with; a transient one is where the guest stopped.
            if (kind == FailureKind::Permanent && !dealt_with.has(of))
                || (kind == FailureKind::Transient && of.1 != next)
            {
                return Err(Malformed("a failure names an input or timer at which the guest did not stop"));
            }
            let reason = take(&mut &record[FAILURE..], len_at(record, 12)?)?;
            let reason = core::str::from_utf8(reason).map_err(|_| Malformed("a failure's reason is not UTF-8"))?;
            Ok(Failure { of, kind, reason })
        })
    }
}

/// One value of the state that a guest sets or deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateWrite<'a> {
    /// The input or timer that it comes from, by its index.
    pub of: (Source, u32),
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
    dealt_with: DealtWith,
}

impl<'a> Iterator for StateWrites<'a> {
    type Item = Result<StateWrite<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let dealt_with = self.dealt_with;
        self.records.read(|record| {
            let of = (Source::of(u32::from(record[5]))?, u32_at(record, 8)?);
            if !dealt_with.has(of) {
                return Err(Malformed("a state write names an input or timer that was not dealt with"));
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
            Ok(StateWrite { of, key, value, expires: (expires != 0).then_some(expires) })
        })
    }
}

/// Iterates over the timer changes.
#[derive(Debug, Clone)]
pub struct TimerChanges<'a> {
    records: Records<'a>,
    dealt_with: DealtWith,
}

impl<'a> Iterator for TimerChanges<'a> {
    type Item = Result<TimerChange<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let dealt_with = self.dealt_with;
        self.records.read(|record| {
            let change = TimerChange::parse(record)?;
            let stands = dealt_with.has(change.of);
            if stands {
                Ok(change)
            } else {
                Err(Malformed("a timer change names an input or timer that was not dealt with"))
            }
        })
    }
}
