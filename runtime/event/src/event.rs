//! One event, read in place.

use alloc::vec::Vec;

use crate::bytes::{Malformed, append_words, array, i64_at, len_at, take, u16_at, u32_at, u64_at, word};

/// Bytes before an event's origin (where it has one) and its header table.
pub(crate) const FIXED: usize = 24;
/// Bytes of an origin.
pub(crate) const ORIGIN: usize = 24;
pub(crate) const FLAG_KEY: u16 = 1;
pub(crate) const FLAG_ORIGIN: u16 = 2;

/// What made an event: an input event, or a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Source {
    /// An event of the batch in hand.
    Input = 0,
    /// A timer that came with the batch.
    Timer = 1,
}

impl Source {
    /// The source of this number.
    pub(crate) fn of(number: u32) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Input),
            1 => Ok(Self::Timer),
            _ => Err(Malformed("an origin names an unknown source")),
        }
    }
}

/// Where an event that a pipeline wrote came from. Lineage, `diff` and audit rest on it.
///
/// Inside a guest's outcome the same bytes mean: `topic` the index in the outcome's table of sinks, `offset` the index of
/// the input or timer in the batch; the host replaces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Id of the source topic.
    pub topic: u32,
    /// Partition of the source topic.
    pub partition: u32,
    /// Offset of the source event; for a timer, of the event before which it fired.
    pub offset: u64,
    /// Counts the outputs of one source event, or of all timers that fired before one, from 0.
    pub ordinal: u32,
    /// Whether an event or a timer made it.
    pub source: Source,
}

impl Origin {
    #[inline(always)]
    pub(crate) fn to_words(self) -> [u64; ORIGIN / 8] {
        [word(self.topic, self.partition), self.offset, word(self.ordinal, self.source as u32)]
    }

    #[inline(always)]
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            topic: u32_at(bytes, 0)?,
            partition: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            ordinal: u32_at(bytes, 16)?,
            source: Source::of(u32_at(bytes, 20)?)?,
        })
    }
}

/// One event of a region: every length has been checked, nothing has been copied.
///
/// ```text
///  0  u32  size of the whole event, a multiple of 8     16  u32  key length (0 without a key)
///  4  u16  flags: 1 has a key, 2 has an origin          20  u32  value length
///  6  u16  number of headers                            24  origin, 24 bytes, where flag 2 is set
///  8  i64  timestamp, ms since the epoch                ..  per header: u32 name length, u32 value length
///                                                       ..  key, value, then per header: name, value; zeros to a multiple of 8
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    bytes: &'a [u8],
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: &'a [u8],
    headers: Headers<'a>,
    origin: Option<Origin>,
}

impl<'a> Event<'a> {
    /// Reads the event at the front of `bytes`; it takes up `event.bytes().len()` of them.
    ///
    /// # Errors
    /// When any length, flag or header name is not what it should be.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let size = len_at(bytes, 0)?;
        if size < FIXED || size % crate::ALIGN != 0 {
            return Err(Malformed("an event's size is too small or not a multiple of 8"));
        }
        let bytes = bytes.get(..size).ok_or(Malformed("an event reaches past the end of its region"))?;
        let flags = u16_at(bytes, 4)?;
        if flags & !(FLAG_KEY | FLAG_ORIGIN) != 0 {
            return Err(Malformed("an event has unknown flags"));
        }
        let header_count = usize::from(u16_at(bytes, 6)?);
        let timestamp = i64_at(bytes, 8)?;
        let key_len = len_at(bytes, 16)?;
        let value_len = len_at(bytes, 20)?;
        let mut rest = &bytes[FIXED..];
        let origin = if flags & FLAG_ORIGIN == 0 { None } else { Some(Origin::parse(take(&mut rest, ORIGIN)?)?) };
        let table = take(&mut rest, header_count * 8)?;
        let key = take(&mut rest, key_len)?;
        let value = take(&mut rest, value_len)?;
        let headers = Headers { table, data: rest };
        let unused = if header_count == 0 { rest.len() } else { headers.check()? };
        if unused >= crate::ALIGN {
            return Err(Malformed("an event's size does not fit its parts"));
        }
        let has_key = flags & FLAG_KEY != 0;
        if !has_key && key_len != 0 {
            return Err(Malformed("an event has key bytes but no key"));
        }
        Ok(Self { bytes, timestamp, key: has_key.then_some(key), value, headers, origin })
    }

    /// Milliseconds since the epoch, as the producer said.
    #[inline]
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// The key; `None` and empty differ.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; it may be empty.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// The headers, in order; names may repeat.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// Where the event came from, if a pipeline wrote it.
    #[inline]
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Appends a copy of the event with this origin in place of the one it has, if any.
    #[inline(always)]
    pub(crate) fn write_from(&self, origin: Origin, out: &mut Vec<u8>) {
        let (fixed, rest) = self.bytes.split_at(FIXED);
        let rest = if self.origin.is_some() { &rest[ORIGIN..] } else { rest };
        let [start, timestamp, lengths] = [0, 8, 16].map(|at| array(fixed, at).map_or(0, u64::from_le_bytes));
        let flags_and_headers = (start >> 32) as u32 | u32::from(FLAG_ORIGIN);
        let start = word((FIXED + ORIGIN + rest.len()) as u32, flags_and_headers);
        let [from, offset, of] = origin.to_words();
        append_words(out, [start, timestamp, lengths, from, offset, of]);
        out.extend_from_slice(rest);
    }

    /// The event's own bytes, padding included.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// An event's headers: pairs of name and value, in order.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    table: &'a [u8],
    data: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Checks every header; what is left behind the last one is padding.
    fn check(mut self) -> Result<usize, Malformed> {
        while !self.table.is_empty() {
            self.pop()?;
        }
        Ok(self.data.len())
    }

    fn pop(&mut self) -> Result<(&'a str, &'a [u8]), Malformed> {
        let entry = take(&mut self.table, 8)?;
        let name = take(&mut self.data, len_at(entry, 0)?)?;
        let value = take(&mut self.data, len_at(entry, 4)?)?;
        let name = core::str::from_utf8(name).map_err(|_| Malformed("a header's name is not UTF-8"))?;
        Ok((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // Checked when the event was parsed, so this ends only with the table.
        self.pop().ok()
    }
}
