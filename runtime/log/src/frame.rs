//! A group of commits as it stands in the commit log.

use crate::codec::{Decoder, Encoder};

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 64;
const MAGIC: &[u8; 4] = b"SLCG";
const FLAG_WHOLE: u32 = 1;

/// ```text
///  0  u32  magic "SLCG"                        40  u32  bytes of the records
///  4  u32  CRC-32C of bytes 8..64, salted      44  u32  flags: 1 carries its batches
///  8  u64  group                               48  u64  bytes of the batches carried
/// 16  u64  durable through: the last group     56  u32  CRC-32C of records and batches, salted
///          known synced when this was written  60  u32  0
/// 24  u64  seq of the first commit             64  the records (see `encode_commit`), then the batches as they stand
/// 32  i64  time                                    in their segments, in the order of the records
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) group: u64,
    pub(crate) durable_through: u64,
    pub(crate) first_seq: u64,
    pub(crate) time: i64,
    pub(crate) record_bytes: usize,
    pub(crate) whole: bool,
    pub(crate) batch_bytes: usize,
    body_crc: u32,
}

/// What a frame says besides its contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameInfo {
    pub(crate) group: u64,
    pub(crate) durable_through: u64,
    pub(crate) first_seq: u64,
    pub(crate) time: i64,
    pub(crate) whole: bool,
}

impl Frame {
    /// The header for these records and, if it carries them, batches.
    pub(crate) fn encode<'a>(
        info: FrameInfo,
        salt: u32,
        records: &[u8],
        batches: impl Iterator<Item = &'a [u8]>,
    ) -> [u8; FRAME_HEADER] {
        let mut crc = crc32c::crc32c_append(salt, records);
        let mut batch_bytes = 0;
        for part in batches {
            crc = crc32c::crc32c_append(crc, part);
            batch_bytes += part.len() as u64;
        }
        let mut out = Encoder(MAGIC.to_vec());
        out.u32(0).u64(info.group).u64(info.durable_through).u64(info.first_seq).u64(info.time.cast_unsigned());
        out.u32(records.len() as u32).u32(if info.whole { FLAG_WHOLE } else { 0 }).u64(batch_bytes).u32(crc).u32(0);
        let mut bytes = [0; FRAME_HEADER];
        bytes.copy_from_slice(&out.0);
        let header_crc = crc32c::crc32c_append(salt, &bytes[8..]);
        bytes[4..8].copy_from_slice(&header_crc.to_le_bytes());
        bytes
    }

    /// The frame at the front of `bytes` if it is intact, header and body.
    pub(crate) fn parse(bytes: &[u8], salt: u32, check_crc: bool) -> Option<Self> {
        let header = bytes.first_chunk::<FRAME_HEADER>()?;
        let mut from = Decoder(header);
        (from.take(4)? == MAGIC).then_some(())?;
        let header_crc = from.u32()?;
        // The header by itself is checked first: what a guest wrote can then not make a search for frames slow.
        (!check_crc || header_crc == crc32c::crc32c_append(salt, &header[8..])).then_some(())?;
        let (group, durable_through, first_seq, time) = (from.u64()?, from.u64()?, from.u64()?, from.i64()?);
        let (record_bytes, flags, batch_bytes) = (from.u32()? as usize, from.u32()?, from.u64()? as usize);
        let frame = Self {
            group,
            durable_through,
            first_seq,
            time,
            record_bytes,
            whole: flags & FLAG_WHOLE != 0,
            batch_bytes,
            body_crc: from.u32()?,
        };
        let body = bytes.get(FRAME_HEADER..frame.length())?;
        (!check_crc || crc32c::crc32c_append(salt, body) == frame.body_crc).then_some(frame)
    }

    /// Bytes of header and body.
    pub(crate) fn length(&self) -> usize {
        FRAME_HEADER.saturating_add(self.record_bytes).saturating_add(self.batch_bytes)
    }
}
