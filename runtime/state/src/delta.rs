//! What stands in a changelog: what a commit changes of a partition's state, and turns back to an earlier one.

use crate::layer::{Change, Layer};

const MAGIC: &[u8; 4] = b"SLGD";
const VERSION: u16 = 1;
const FIXED: usize = 64;
const ENTRY: usize = 16;
const DELETED: u32 = u32::MAX;

/// Bytes that are no delta, or of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Where a commit stands: which events it dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Id of the source topic.
    pub topic: u32,
    /// The source partition.
    pub partition: u32,
    /// The first event dealt with.
    pub from: u64,
    /// Behind the last one: the cursor once the commit is made.
    pub to: u64,
    /// The pipeline's epoch.
    pub epoch: u64,
    /// Event time up to which the source is complete, ms since the epoch.
    pub watermark: Option<i64>,
    /// How many outputs there are of timers that fired before the event at `to`.
    pub fired_outputs: u32,
    /// How many of the events were late.
    pub late: u32,
    /// Timers fired wherever the watermark was, for no more events were to come.
    pub closed: bool,
}

/// What one commit changes. It is the value of one event of the changelog, whose offset is where it stands in the row of changes.
///
/// ```text
///  0  "SLGD"                          24  u64  from
///  4  u16  version, 1                 32  u64  to
///  6  u16  length of this part, 64    40  u64  epoch
///  8  u32  source topic               48  i64  watermark, i64::MIN while there is none
/// 12  u32  source partition           56  u32  number of entries
/// 16  u16  0 (a turn: 1), u16 1: closed  60  u32  number of late events
/// 20  u32  outputs so far of timers that fired before `to`
/// 64  per entry, in the order in which they were made: u32 key length, u32 value length (0xffffffff: deleted),
///     i64 expiry (ms since the epoch, 0 never), key, value
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Where it stands.
    pub head: Head,
    /// What it changes.
    pub layer: Layer,
}

/// Stretches of a changelog, half-open ranges of offsets: their deltas, one after the other, make a state. No two touch.
pub type Line = Vec<(u64, u64)>;

/// A line whose last stretch said only where it begins, now that it ends.
pub fn ended(mut line: Line, end: u64) -> Line {
    if let Some((start, last)) = line.last_mut() {
        *last = end.max(*start);
    }
    line.retain(|(from, to)| from < to);
    line
}

/// What is missing, when these stretches made a state, for the one that `line` makes; `None` when it is not on its way there.
pub fn missing(mine: &[(u64, u64)], line: &[(u64, u64)]) -> Option<Line> {
    let Some((last, closed)) = mine.split_last() else { return Some(line.to_vec()) };
    let (same, rest) = line.split_at_checked(closed.len())?;
    let (next, rest) = rest.split_first()?;
    let fits = same == closed && next.0 == last.0 && next.1 >= last.1;
    let begun = (last.1 < next.1).then_some((last.1, next.1));
    fits.then(|| begun.into_iter().chain(rest.iter().copied()).collect())
}

/// From here on the state is another one: a rewind. It is the value of an event like a [`Delta`], with u16 1 at byte 16, in `from` where the
/// cursor stood and in `to` where it stands; at 56 the number of stretches of `line`, at 60 that of `before`.
///
/// ```text
/// 64  u64  quiet-until, 0 for none    72  u64  that before
/// 80  line, then before: per stretch u64 first offset, u64 behind the last one
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// How the cursor moves.
    pub head: Head,
    /// What makes the state from here on.
    pub line: Line,
    /// Events before this offset are dealt with again only for what they do to the state; their outputs are there already.
    pub quiet_until: Option<u64>,
    /// What made the state up to here. The last stretch ends with this record, wherever it is appended, and so says only where it begins.
    pub before: Line,
    /// What `quiet_until` was then.
    pub quiet_before: Option<u64>,
}

/// What an event of a changelog is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// What a commit changed.
    Delta(Delta),
    /// A rewind.
    Turn(Turn),
}

impl Record {
    /// Reads one.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fill the bytes exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes.get(16..18) {
            Some([0, 0]) => Delta::decode(bytes).map(Self::Delta),
            Some([1, 0]) => Turn::decode(bytes).map(Self::Turn),
            _ => Err(Malformed("a record of an unknown kind")),
        }
    }

    /// Whether bytes are those of a turn, as far as a glance tells.
    pub fn is_turn(bytes: &[u8]) -> bool {
        bytes.get(16..18) == Some(&[1, 0])
    }
}

impl Head {
    fn encode(&self, kind: u16, (first, second): (usize, usize), out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(FIXED as u16).to_le_bytes());
        out.extend_from_slice(&self.topic.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&u16::from(self.closed).to_le_bytes());
        out.extend_from_slice(&self.fired_outputs.to_le_bytes());
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.watermark.unwrap_or(i64::MIN).to_le_bytes());
        out.extend_from_slice(&(first as u32).to_le_bytes());
        out.extend_from_slice(&(second as u32).to_le_bytes());
    }
}

impl Turn {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.head.encode(1, (self.line.len(), self.before.len()), &mut out);
        out.extend_from_slice(&self.quiet_until.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.quiet_before.unwrap_or(0).to_le_bytes());
        for (from, to) in self.line.iter().chain(&self.before) {
            out.extend_from_slice(&from.to_le_bytes());
            out.extend_from_slice(&to.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, line) = Delta::decode_head(bytes)?;
        let before = u32_at(bytes, 60)?;
        let quiet = |at| u64_at(bytes, at).map(|offset| (offset != 0).then_some(offset));
        let (stretches, rest) = bytes.get(80..).ok_or(CUT)?.as_chunks::<16>();
        if !rest.is_empty() || stretches.len() as u64 != u64::from(line) + u64::from(before) {
            return Err(Malformed("a turn's stretches do not fill it"));
        }
        let stretch = |bytes: &[u8; 16]| Ok((u64_at(bytes, 0)?, u64_at(bytes, 8)?));
        let mut all: Line = stretches.iter().map(stretch).collect::<Result<_, Malformed>>()?;
        let before = all.split_off(line as usize);
        Ok(Self { head, line: all, quiet_until: quiet(64)?, before, quiet_before: quiet(72)? })
    }
}

/// The bytes of a delta of so many changes.
pub(crate) fn encode_delta<'a>(head: Head, count: usize, changes: impl Iterator<Item = Change<'a>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED + 64 * count);
    head.encode(0, (count, head.late as usize), &mut out);
    for Change { key, value, expires } in changes {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&value.map_or(DELETED, |value| value.len() as u32).to_le_bytes());
        out.extend_from_slice(&expires.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.unwrap_or_default());
    }
    out
}

impl Delta {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_delta(self.head, self.layer.len(), self.layer.changes())
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fill the bytes exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, count) = Self::decode_head(bytes)?;
        let head = Head { late: u32_at(bytes, 60)?, ..head };
        let mut rest = bytes.get(FIXED..).ok_or(CUT)?;
        let mut layer = Layer::default();
        for _ in 0..count {
            let (key_len, value_len) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)?);
            let expires = u64_at(rest, 8)?.cast_signed();
            let value_bytes = if value_len == DELETED { 0 } else { value_len as usize };
            let (key, tail) = rest.get(ENTRY..).ok_or(CUT)?.split_at_checked(key_len).ok_or(CUT)?;
            let (value, tail) = tail.split_at_checked(value_bytes).ok_or(CUT)?;
            layer.push(&[], key, (value_len != DELETED).then_some(value), (expires != 0).then_some(expires));
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(Malformed("a delta has bytes behind its last entry"));
        }
        Ok(Self { head, layer })
    }

    /// Reads only where a delta stands.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn head(bytes: &[u8]) -> Result<Head, Malformed> {
        Self::decode_head(bytes).map(|(head, _)| head)
    }

    fn decode_head(bytes: &[u8]) -> Result<(Head, u32), Malformed> {
        let version = bytes.get(4..6).map(|version| u16::from_le_bytes([version[0], version[1]]));
        if bytes.get(..4) != Some(MAGIC) || version != Some(VERSION) {
            return Err(Malformed("not a delta of version 1"));
        }
        let watermark = u64_at(bytes, 48)?.cast_signed();
        let head = Head {
            topic: u32_at(bytes, 8)?,
            partition: u32_at(bytes, 12)?,
            from: u64_at(bytes, 24)?,
            to: u64_at(bytes, 32)?,
            epoch: u64_at(bytes, 40)?,
            watermark: (watermark != i64::MIN).then_some(watermark),
            fired_outputs: u32_at(bytes, 20)?,
            late: 0,
            closed: bytes.get(18) == Some(&1),
        };
        Ok((head, u32_at(bytes, 56)?))
    }
}

const CUT: Malformed = Malformed("a delta is cut short");

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes).ok_or(CUT)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes).ok_or(CUT)
}
