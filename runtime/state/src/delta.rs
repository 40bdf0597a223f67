//! What one commit changes of a partition's state, as it stands in the changelog.

use crate::partition::{Layer, Slot};

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
}

/// What one commit changes. It is the value of one event of the changelog, whose offset is where it stands in the row of changes.
///
/// ```text
///  0  "SLGD"                          24  u64  from
///  4  u16  version, 1                 32  u64  to
///  6  u16  length of this part, 64    40  u64  epoch
///  8  u32  source topic               48  i64  watermark, i64::MIN while there is none
/// 12  u32  source partition           56  u32  number of entries
/// 16  u64  0                          60  u32  0
/// 64  per entry, in the order of keys: u32 key length, u32 value length (0xffffffff: deleted),
///     i64 expiry (ms since the epoch, 0 never), key, value
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Where it stands.
    pub head: Head,
    /// What it changes.
    pub layer: Layer,
}

impl Delta {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.layer.entries();
        let bytes: usize = entries.iter().map(|(key, slot)| ENTRY + key.len() + slot.len()).sum();
        let mut out = Vec::with_capacity(FIXED + bytes);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(FIXED as u16).to_le_bytes());
        out.extend_from_slice(&self.head.topic.to_le_bytes());
        out.extend_from_slice(&self.head.partition.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.head.from.to_le_bytes());
        out.extend_from_slice(&self.head.to.to_le_bytes());
        out.extend_from_slice(&self.head.epoch.to_le_bytes());
        out.extend_from_slice(&self.head.watermark.unwrap_or(i64::MIN).to_le_bytes());
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for (key, slot) in entries {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(&slot.value.as_ref().map_or(DELETED, |value| value.len() as u32).to_le_bytes());
            out.extend_from_slice(&slot.expires.unwrap_or(0).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(slot.value.as_deref().unwrap_or_default());
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is of another version, or its lengths do not fill the bytes exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, count) = Self::decode_head(bytes)?;
        let mut rest = bytes.get(FIXED..).ok_or(CUT)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let (key_len, value_len) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)?);
            let expires = u64_at(rest, 8)?.cast_signed();
            let value_bytes = if value_len == DELETED { 0 } else { value_len as usize };
            let (key, tail) = rest.get(ENTRY..).ok_or(CUT)?.split_at_checked(key_len).ok_or(CUT)?;
            let (value, tail) = tail.split_at_checked(value_bytes).ok_or(CUT)?;
            let value = (value_len != DELETED).then(|| value.into());
            entries.push((key.into(), Slot { value, expires: (expires != 0).then_some(expires) }));
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(Malformed("a delta has bytes behind its last entry"));
        }
        let layer = Layer::sorted(entries).ok_or(Malformed("a delta's entries are not in the order of keys"))?;
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
