//! The header a guest is given beside an events region.

use alloc::vec::Vec;

use crate::bytes::{Malformed, i64_at, len_at, pad, padded, take, u16_at, u32_at, u64_at};
use crate::timer::DueTimers;

const MAGIC: u32 = u32::from_le_bytes(*b"SLGV");
const VERSION: u16 = 1;
const FIXED: usize = 64;
const CHAINED: u32 = 1;
const WATERMARKS: u32 = 2;
const FIRES: u32 = 4;

/// What a guest is told of the batch in hand. Its version is that of the events region too: when either format moves on,
/// the host transcodes for plugins that were built for an older one.
///
/// ```text
///  0  u32  magic "SLGV"             24  u64  base offset: that of the first event
///  4  u16  version, 1               32  i64  watermark, i64::MIN while there is none
///  6  u16  length of this part, 64  40  u64  seed of the partition; an event's is made of it and its offset
///  8  u32  number of events         48  u32  topic id
/// 12  u32  number of due timers     52  u32  partition
/// 16  u32  bytes of due timers      56  u32  length of the topic's name
/// 20  u32  flags: 1 chained,        60  u32  0
///          2 has watermarks,
///          4 may fire timers that it sets
/// 64  the topic's name, zeros to a multiple of 8, then the due timers (see guest-sdk/wit), then, where flag 2 is set, per event
///     i64  the watermark before it, i64::MIN while there is none, and that behind the last
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View<'a> {
    /// Number of events in the region beside it.
    pub count: u32,
    /// Offset of the first event; the others follow without gaps.
    pub base_offset: u64,
    /// Event time up to which this partition is complete, if known.
    pub watermark: Option<i64>,
    /// Seed for everything random. It is that of the partition: an event's own is made of it and the event's offset, so that
    /// it is the same however events are batched.
    pub seed: u64,
    /// Id of the source topic.
    pub topic: u32,
    /// Partition of the source topic.
    pub partition: u32,
    /// Name of the source topic.
    pub topic_name: &'a str,
    /// The events are outputs of an earlier stage of a chain: the offset of each is that of the source event it comes from,
    /// which its origin tells, and not counted from `base_offset`.
    pub chained: bool,
    /// Timers that are set in the call and due before one of its events may be fired in it, as an outcome's [`Firing`](crate::Firing)s.
    pub fires: bool,
    /// The watermark before each event, and behind the last, 8 bytes each; empty for stages without state and timers.
    pub watermarks: &'a [u8],
    /// The due timers, one behind the other as [`DueTimer::write`](crate::DueTimer::write) writes them, and how many.
    pub due: (&'a [u8], u32),
}

/// Whether a value that expires at this time, if at all, has by this watermark.
#[inline]
pub fn has_expired(expires: Option<i64>, watermark: Option<i64>) -> bool {
    expires.is_some_and(|expires| watermark.is_some_and(|watermark| expires <= watermark))
}

impl<'a> View<'a> {
    /// Appends the bytes of this header to `out`, which should be empty.
    pub fn write(&self, out: &mut Vec<u8>) {
        let name_len = u32::try_from(self.topic_name.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(FIXED as u16).to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.due.1.to_le_bytes());
        out.extend_from_slice(&(self.due.0.len() as u32).to_le_bytes());
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let flags =
            flag(self.chained, CHAINED) | flag(!self.watermarks.is_empty(), WATERMARKS) | flag(self.fires, FIRES);
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.base_offset.to_le_bytes());
        out.extend_from_slice(&self.watermark.unwrap_or(i64::MIN).to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.topic.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.topic_name.as_bytes());
        pad(out);
        out.extend_from_slice(self.due.0);
        out.extend_from_slice(self.watermarks);
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if u32_at(bytes, 0)? != MAGIC || u16_at(bytes, 4)? != VERSION {
            return Err(Malformed("a batch header of another version"));
        }
        let mut rest = bytes.get(usize::from(u16_at(bytes, 6)?)..).ok_or(Malformed("a batch header is cut short"))?;
        let name_len = len_at(bytes, 56)?;
        let name = take(&mut rest, name_len)?;
        take(&mut rest, padded(name_len) - name_len)?;
        let due = (take(&mut rest, len_at(bytes, 16)?)?, u32_at(bytes, 12)?);
        let count = u32_at(bytes, 8)?;
        // A flag that is not known changes nothing of what is read here.
        let flags = u32_at(bytes, 20)?;
        let watermarks = if flags & WATERMARKS == 0 { &[] } else { take(&mut rest, (count as usize + 1) * 8)? };
        let watermark = i64_at(bytes, 32)?;
        Ok(Self {
            count,
            base_offset: u64_at(bytes, 24)?,
            watermark: (watermark != i64::MIN).then_some(watermark),
            seed: u64_at(bytes, 40)?,
            topic: u32_at(bytes, 48)?,
            partition: u32_at(bytes, 52)?,
            chained: flags & CHAINED != 0,
            fires: flags & FIRES != 0,
            watermarks,
            due,
            topic_name: core::str::from_utf8(name).map_err(|_| Malformed("a topic's name is not UTF-8"))?,
        })
    }

    /// The due timers, in the order in which they fire.
    pub fn due_timers(&self) -> DueTimers<'a> {
        DueTimers::new(self.due.0, self.due.1)
    }

    /// The watermark before an event, by its index; that of the number of events is the one behind the last.
    #[inline]
    pub fn watermark_before(&self, index: u32) -> Option<i64> {
        let watermark = i64_at(self.watermarks, index as usize * 8).ok().or(self.watermark)?;
        (watermark != i64::MIN).then_some(watermark)
    }
}
