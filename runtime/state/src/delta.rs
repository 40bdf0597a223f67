//! What stands in a changelog: what a commit changes of a partition's state, and turns back to an earlier one.

use serde::{Deserialize, Serialize};

use crate::layer::{Change, Layer};

const MAGIC: &[u8; 4] = b"SLGD";
const VERSION: u16 = 2;
const FIXED: usize = 64;
const PAIR: usize = 16;

/// Bytes that are no delta, or of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// The next offset of each source topic, by the topic's id.
pub type Cursors = Vec<(u32, u64)>;

/// Where a commit stands: which events it dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// Once the commit is made, in each topic; empty where there is one topic only.
    pub cursors: Cursors,
    /// Where the time of day mattered: at which place (how many events of all topics were before it), and what it was.
    pub clocks: Vec<(u64, i64)>,
}

impl Head {
    /// The cursors once the commit is made.
    pub fn stood(&self) -> Cursors {
        if self.cursors.is_empty() { vec![(self.topic, self.to)] } else { self.cursors.clone() }
    }

    /// The cursors before it was made.
    pub fn began(&self) -> Cursors {
        let own = |(topic, cursor)| (topic, if topic == self.topic { self.from } else { cursor });
        self.stood().into_iter().map(own).collect()
    }
}

/// What one commit changes. It is the value of one event of the changelog, whose offset is where it stands in the row of changes.
///
/// ```text
///  0  "SLGD"                          24  u64  from
///  4  u16  version, 2                 32  u64  to
///  6  u16  length of this part        40  u64  epoch
///  8  u32  source topic               48  i64  watermark, i64::MIN while there is none
/// 12  u32  source partition           56  u32  number of entries
/// 16  u16  0 (a turn: 1)             60  u32  number of late events
/// 18  u8   1: closed, u8 number of cursors
/// 20  u32  outputs so far of timers that fired before `to`
/// 64  per cursor u64 topic, u64 offset; then, up to the length of this part, per clock u64 place, i64 time of day
///     per entry, in the order in which they were made: a number (2 × (length of the value + 1, or 0 where it is deleted), + 1 with an expiry);
///     a number (how many bytes its key begins with like the key before), a number (how many more the key has), i64 expiry (ms since the epoch)
///     where there is one, those bytes of the key, the value
/// ```
/// Numbers are in seven bits a byte, the lowest first, all but the last with the highest bit set.
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

/// Events that are dealt with again only for what they do to the state; their outputs are there already.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quiet {
    /// Those before this place: so many events of all source topics are before it. Of one topic, that is an offset.
    pub until: u64,
    /// Where there are several topics, the order in which they are dealt with first: topic, offset, and that behind the last one.
    pub runs: Vec<(u32, u64, u64)>,
}

/// From here on the state is another one: a rewind. It is the value of an event like a [`Delta`], with u16 1 at byte 16, in `from` where the
/// cursor stood and in `to` where it stands; at 56 the number of stretches of `line`, at 60 that of `before`.
///
/// ```text
/// ..  behind the first part: u64 quiet until, u64 runs; the same of before; 0 for none
/// ..  line, then before: per stretch u64 first offset, u64 behind the last one
/// ..  runs, then those of before: u64 topic, u64 first offset, u64 behind the last one
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// How the cursor moves.
    pub head: Head,
    /// What makes the state from here on.
    pub line: Line,
    /// What is dealt with again first.
    pub quiet: Option<Quiet>,
    /// What made the state up to here. The last stretch ends with this record, wherever it is appended, and so says only where it begins.
    pub before: Line,
    /// What `quiet` was then.
    pub quiet_before: Option<Quiet>,
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
        let len = FIXED + PAIR * (self.cursors.len() + self.clocks.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(len as u16).to_le_bytes());
        out.extend_from_slice(&self.topic.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&[u8::from(self.closed), self.cursors.len() as u8]);
        out.extend_from_slice(&self.fired_outputs.to_le_bytes());
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.watermark.unwrap_or(i64::MIN).to_le_bytes());
        out.extend_from_slice(&(first as u32).to_le_bytes());
        out.extend_from_slice(&(second as u32).to_le_bytes());
        let cursors = self.cursors.iter().map(|(topic, offset)| (u64::from(*topic), *offset));
        let clocks = self.clocks.iter().map(|(place, time)| (*place, time.cast_unsigned()));
        put(out, cursors.chain(clocks).flat_map(|(first, second)| [first, second]));
    }

    /// A head, how many entries or stretches follow, and what follows.
    fn decode(bytes: &[u8]) -> Result<(Self, u32, &[u8]), Malformed> {
        let version = bytes.get(4..6).map(|version| u16::from_le_bytes([version[0], version[1]]));
        if bytes.get(..4) != Some(MAGIC) || version != Some(VERSION) {
            return Err(Malformed("not a delta of version 2"));
        }
        let len = bytes.get(6..8).map_or(0, |len| u16::from_le_bytes([len[0], len[1]]) as usize);
        let (pairs, rest) = bytes.get(FIXED..len).ok_or(CUT)?.as_chunks::<PAIR>();
        let cursors = pairs.get(..usize::from(bytes[19])).filter(|_| rest.is_empty()).ok_or(CUT)?;
        let pair = |bytes: &[u8; PAIR]| Ok((u64_at(bytes, 0)?, u64_at(bytes, 8)?));
        let watermark = u64_at(bytes, 48)?.cast_signed();
        let head = Self {
            topic: u32_at(bytes, 8)?,
            partition: u32_at(bytes, 12)?,
            from: u64_at(bytes, 24)?,
            to: u64_at(bytes, 32)?,
            epoch: u64_at(bytes, 40)?,
            watermark: (watermark != i64::MIN).then_some(watermark),
            fired_outputs: u32_at(bytes, 20)?,
            late: u32_at(bytes, 60)?,
            closed: bytes[18] == 1,
            cursors: cursors
                .iter()
                .map(|bytes| pair(bytes).map(|(topic, offset)| (topic as u32, offset)))
                .collect::<Result<_, _>>()?,
            clocks: pairs[cursors.len()..]
                .iter()
                .map(|bytes| pair(bytes).map(|(place, time)| (place, time.cast_signed())))
                .collect::<Result<_, _>>()?,
        };
        Ok((head, u32_at(bytes, 56)?, &bytes[len..]))
    }
}

impl Turn {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.head.encode(1, (self.line.len(), self.before.len()), &mut out);
        let quiets = || [&self.quiet, &self.quiet_before].into_iter();
        put(&mut out, quiets().flat_map(|quiet| quiet.as_ref().map_or([0, 0], |q| [q.until, q.runs.len() as u64])));
        put(&mut out, self.line.iter().chain(&self.before).flat_map(|(from, to)| [*from, *to]));
        let runs = quiets().flatten().flat_map(|quiet| &quiet.runs);
        put(&mut out, runs.flat_map(|(topic, from, to)| [u64::from(*topic), *from, *to]));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, line, rest) = Head::decode(bytes)?;
        let (words, cut) = rest.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let malformed = Malformed("a turn's stretches do not fill it");
        let ([until, runs, until_before, runs_before], words) = words.split_first_chunk().ok_or(CUT)?;
        let stretches = 2 * (u64::from(line) + u64::from(head.late));
        let (stretches, of_runs) =
            usize::try_from(stretches).ok().and_then(|len| words.split_at_checked(len)).ok_or(malformed)?;
        if !cut.is_empty() || (of_runs.len() / 3) as u64 != runs.saturating_add(*runs_before) || of_runs.len() % 3 != 0
        {
            return Err(malformed);
        }
        let mut all: Line = stretches.as_chunks::<2>().0.iter().map(|[from, to]| (*from, *to)).collect();
        let mut of_runs: Vec<_> =
            of_runs.as_chunks::<3>().0.iter().map(|[topic, from, to]| (*topic as u32, *from, *to)).collect();
        let before = all.split_off(line as usize);
        let later = of_runs.split_off(*runs as usize);
        let quiet = |until: u64, runs| (until != 0).then_some(Quiet { until, runs });
        let (quiet, quiet_before) = (quiet(*until, of_runs), quiet(*until_before, later));
        Ok(Self { head: Head { late: 0, ..head }, line: all, quiet, before, quiet_before })
    }
}

fn put(out: &mut Vec<u8>, words: impl Iterator<Item = u64>) {
    words.for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// Appends a delta of all the changes of some layers.
pub(crate) fn encode_delta<'a>(head: &Head, layers: impl Iterator<Item = &'a Layer> + Clone, out: &mut Vec<u8>) {
    let count = layers.clone().map(Layer::len).sum();
    head.encode(0, (count, head.late as usize), out);
    let mut before: &[u8] = &[];
    for layer in layers {
        for Change { key, value, expires } in layer.changes() {
            let shared = shared(before, key);
            let value_number = 2 * value.map_or(0, |value| value.len() as u64 + 1) + u64::from(expires.is_some());
            put_numbers(out, [value_number, shared as u64, (key.len() - shared) as u64]);
            if let Some(expires) = expires {
                out.extend_from_slice(&expires.to_le_bytes());
            }
            out.extend_from_slice(&key[shared..]);
            out.extend_from_slice(value.unwrap_or_default());
            before = key;
        }
    }
}

/// How many bytes two keys begin with alike, looked at by eights.
#[inline]
fn shared(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    // Of eight bytes that differ, how many are alike before.
    let alike = |a: &[u8; 8], b: &[u8; 8]| match u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b) {
        0 => None,
        differ => Some(differ.trailing_zeros() as usize / 8),
    };
    let words = (0..).step_by(8).zip(a.as_chunks().0).zip(b.as_chunks().0);
    for ((at, a), b) in words {
        if let Some(alike) = alike(a, b) {
            return at + alike;
        }
    }
    match (a.last_chunk(), b.last_chunk()) {
        // Some of them were looked at.
        (Some(a), Some(b)) => alike(a, b).map_or(len, |alike| len - 8 + alike),
        _ => a.iter().zip(b).take_while(|(a, b)| a == b).count(),
    }
}

/// Numbers one behind the other, which mostly have a byte each.
#[inline]
fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    match numbers.into_iter().fold(0, |all, number| all | number) < 0x80 {
        true => out.extend_from_slice(&numbers.map(|number| number as u8)),
        false => numbers.into_iter().for_each(|number| put_number(out, number)),
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Result<usize, Malformed> {
    let mut number = 0;
    for shift in (0..u32::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(CUT)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(number).map_err(|_| CUT);
        }
    }
    Err(Malformed("a number of a delta is too large"))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or(CUT)?;
    *bytes = rest;
    Ok(taken)
}

impl Delta {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_delta(&self.head, std::iter::once(&self.layer), &mut out);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fill the bytes exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, count, mut rest) = Head::decode(bytes)?;
        let mut layer = Layer::default();
        let mut key: Vec<u8> = Vec::new();
        for _ in 0..count {
            let (value, shared, more) = (take_number(&mut rest)?, take_number(&mut rest)?, take_number(&mut rest)?);
            let expires = match value % 2 {
                0 => None,
                _ => take(&mut rest, 8)?.first_chunk().copied().map(i64::from_le_bytes),
            };
            if shared > key.len() {
                return Err(Malformed("a key of a delta begins like one that is shorter"));
            }
            key.truncate(shared);
            key.extend_from_slice(take(&mut rest, more)?);
            let value = (value / 2).checked_sub(1).map(|len| take(&mut rest, len)).transpose()?;
            layer.push(&[], &key, value, expires);
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
        Head::decode(bytes).map(|(head, _, _)| head)
    }
}

const CUT: Malformed = Malformed("a delta is cut short");

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes).ok_or(CUT)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes).ok_or(CUT)
}
