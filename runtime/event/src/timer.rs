//! Timers, as they come with a batch and as an outcome changes them.

use alloc::vec::Vec;

use crate::bytes::{Malformed, append, append_words, i64_at, len_at, pad, padded, take, u32_at, word};
use crate::event::Source;
use crate::records::Records;

/// Bytes of a due timer before its key.
const DUE: usize = 32;
/// Bytes of a timer change before its key.
const CHANGE: usize = 32;

/// Set in the guest's word for what is in hand when that is a timer.
pub const TIMER_IN_HAND: u32 = 1 << 31;

/// Which clock a timer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Clock {
    /// The partition's watermark: how far its events have come in their own time.
    EventTime = 0,
    /// The time of day.
    WallClock = 1,
}

impl Clock {
    /// The clock of this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::EventTime),
            1 => Ok(Self::WallClock),
            _ => Err(Malformed("a timer goes by an unknown clock")),
        }
    }
}

/// A timer that is due; its bytes are in `guest-sdk/wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueTimer<'a> {
    /// It fires before the event of this index; the number of events means behind the last one.
    pub before: u32,
    /// Milliseconds since the epoch.
    pub time: i64,
    /// What it goes by.
    pub clock: Clock,
    /// The key it was set under.
    pub key: &'a [u8],
    /// What the consumer gave along.
    pub tag: &'a [u8],
}

/// In which order timers fire that are due at once: by time, then by key, short ones first, then by tag.
pub type FiringOrder<'a> = (i64, usize, &'a [u8], &'a [u8]);

impl<'a> DueTimer<'a> {
    /// Where it stands among those that are due at once.
    pub fn order(&self) -> FiringOrder<'a> {
        (self.time, self.key.len(), self.key, self.tag)
    }

    /// Appends its bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_behind(0, out);
    }

    /// Appends its bytes, as those of a [`Firing`].
    pub(crate) fn write_behind(&self, behind: u32, out: &mut Vec<u8>) {
        let size = padded(DUE + self.key.len() + self.tag.len()) as u32;
        let lengths = word(self.key.len() as u32, self.tag.len() as u32);
        let time = self.time.cast_unsigned();
        append_words(out, [word(size, self.clock as u32), time, word(self.before, behind), lengths]);
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.tag);
        pad(out);
    }

    fn parse(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = &record[DUE..];
        let key = take(&mut rest, len_at(record, 24)?)?;
        let tag = take(&mut rest, len_at(record, 28)?)?;
        let clock = Clock::of(record[4])?;
        Ok(Self { before: u32_at(record, 16)?, time: i64_at(record, 8)?, clock, key, tag })
    }
}

/// Iterates over due timers, in the order in which they fire.
#[derive(Debug, Clone)]
pub struct DueTimers<'a>(Records<'a>);

impl<'a> DueTimers<'a> {
    pub(crate) fn new(bytes: &'a [u8], count: u32) -> Self {
        Self(Records {
            bytes,
            left: count,
            least: DUE,
            size: "a due timer's size is too small or not a multiple of 8",
            behind: "a batch header has bytes behind its last due timer",
        })
    }
}

impl<'a> Iterator for DueTimers<'a> {
    type Item = Result<DueTimer<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.read(DueTimer::parse)
    }
}

/// A timer that a call has set and fired itself; its bytes are in `guest-sdk/wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing<'a> {
    /// The timer.
    pub timer: DueTimer<'a>,
    /// So many of the call's due timers fired before it.
    pub behind: u32,
}

/// Iterates over the timers that a call has set and fired itself, in the order in which they fired.
#[derive(Debug, Clone)]
pub struct Firings<'a>(Records<'a>);

impl<'a> Firings<'a> {
    pub(crate) fn new(bytes: &'a [u8], count: u32) -> Self {
        Self(Records {
            bytes,
            left: count,
            least: DUE,
            size: "a fired timer's size is too small or not a multiple of 8",
            behind: "the outcome has bytes behind its last fired timer",
        })
    }
}

impl<'a> Iterator for Firings<'a> {
    type Item = Result<Firing<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.read(|record| Ok(Firing { timer: DueTimer::parse(record)?, behind: u32_at(record, 20)? }))
    }
}

/// A timer that a guest sets or clears; its bytes are in `guest-sdk/wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerChange<'a> {
    /// What it comes from: an input or a timer, by its index.
    pub of: (Source, u32),
    /// What it goes by.
    pub clock: Clock,
    /// When it is to fire, ms since the epoch; `None` clears it.
    pub time: Option<i64>,
    /// The key it is set under.
    pub key: &'a [u8],
    /// Timers of one key are told apart by it.
    pub tag: &'a [u8],
}

impl<'a> TimerChange<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let size = padded(CHANGE + self.key.len() + self.tag.len()) as u32;
        let kind = u32::from(self.time.is_some()) | (self.of.0 as u32) << 8 | (self.clock as u32) << 16;
        let [key_len, tag_len] = [self.key, self.tag].map(|bytes| bytes.len() as u32);
        let time = self.time.unwrap_or(0).cast_unsigned();
        append_words(out, [word(size, kind), word(self.of.1, key_len), word(tag_len, 0), time]);
        append(out, self.key);
        append(out, self.tag);
        pad(out);
    }

    pub(crate) fn parse(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = &record[CHANGE..];
        let key = take(&mut rest, len_at(record, 12)?)?;
        let tag = take(&mut rest, len_at(record, 16)?)?;
        if rest.len() >= crate::ALIGN {
            return Err(Malformed("a timer change's size does not fit its parts"));
        }
        let time = match record[4] {
            0 => None,
            1 => Some(i64_at(record, 24)?),
            _ => return Err(Malformed("a timer change is of an unknown operation")),
        };
        let of = (Source::of(u32::from(record[5]))?, u32_at(record, 8)?);
        Ok(Self { of, clock: Clock::of(record[6])?, time, key, tag })
    }
}

/// What stands in a section of timer changes.
pub(crate) fn changes(bytes: &[u8], count: u32) -> Records<'_> {
    Records {
        bytes,
        left: count,
        least: CHANGE,
        size: "a timer change's size is too small or not a multiple of 8",
        behind: "the outcome has bytes behind its last timer change",
    }
}
