//! A batch as it stands in a segment: a header, then the events region.

use crate::codec::{Decoder, Encoder};
use crate::compression::Compression;

/// Bytes of a batch's header.
pub(crate) const BATCH_HEADER: usize = 80;
const MAGIC: u32 = u32::from_le_bytes(*b"SLB1");
const VERSION: u8 = 1;

/// ```text
///  0  u32  magic "SLB1"                     32  i64  smallest timestamp
///  4  u32  CRC-32C of all that follows,     40  i64  largest timestamp
///          salted with the file's salt      48  u64  producer id, 0 for none
///  8  u32  bytes of the stored region       56  u64  sequence number of the commit's first event
/// 12  u32  number of events                 64  u32  bytes of the region, not compressed
/// 16  u64  base offset                      68  u8   version, 1    69  u8  compression   70  u8  padding   71  u8  0
/// 24  i64  append time                      72  i64  the writer's watermark, i64::MIN for none
/// 80  the events region
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) crc: u32,
    /// Bytes behind the header.
    pub(crate) stored_region: u32,
    /// Bytes of the events, not compressed.
    pub(crate) region_bytes: u32,
    pub(crate) compression: Compression,
    /// Bytes at the end of the stored region that mean nothing: batches are multiples of eight bytes.
    pub(crate) padding: u8,
    pub(crate) count: u32,
    pub(crate) base_offset: u64,
    pub(crate) append_time: i64,
    pub(crate) min_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer: u64,
    pub(crate) sequence: u64,
}

impl BatchHeader {
    /// The bytes of the header of a region that is stored in these bytes, its CRC computed; `self.crc` and
    /// `self.stored_region` are set.
    pub(crate) fn seal(&mut self, salt: u32, stored: &[u8]) -> [u8; BATCH_HEADER] {
        self.stored_region = stored.len() as u32;
        let mut out = Encoder(Vec::with_capacity(BATCH_HEADER));
        out.u32(MAGIC).u32(0).u32(self.stored_region).u32(self.count).u64(self.base_offset);
        out.u64(self.append_time.cast_unsigned()).u64(self.min_timestamp.cast_unsigned());
        out.u64(self.max_timestamp.cast_unsigned()).u64(self.producer).u64(self.sequence);
        let kind = u32::from_le_bytes([VERSION, self.compression as u8, self.padding, 0]);
        out.u32(self.region_bytes).u32(kind).u64(i64::MIN.cast_unsigned());
        let mut bytes = [0; BATCH_HEADER];
        bytes.copy_from_slice(&out.0);
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(salt, &bytes[8..]), stored);
        bytes[4..8].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Reads a header without believing it: the CRC, which covers the region too, is checked by [`verify`](Self::verify).
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut from = Decoder(bytes);
        (from.u32()? == MAGIC).then_some(())?;
        let mut header = Self {
            crc: from.u32()?,
            stored_region: from.u32()?,
            region_bytes: 0,
            compression: Compression::None,
            padding: 0,
            count: from.u32()?,
            base_offset: from.u64()?,
            append_time: from.i64()?,
            min_timestamp: from.i64()?,
            max_timestamp: from.i64()?,
            producer: from.u64()?,
            sequence: from.u64()?,
        };
        header.region_bytes = from.u32()?;
        let kind: [u8; 4] = from.take(4)?.try_into().ok()?;
        let [version, compression, padding, unused] = kind;
        (header.compression, header.padding) = (Compression::from_code(compression)?, padding);
        let fits = match header.compression {
            Compression::None => header.region_bytes == header.stored_region && padding == 0,
            _ => u32::from(padding) < header.stored_region.min(8),
        };
        (version == VERSION && unused == 0 && fits && header.count > 0).then_some(header)
    }

    /// Whether `batch`, header included, is what was written.
    pub(crate) fn verify(&self, salt: u32, batch: &[u8]) -> bool {
        batch.len() == self.stored_bytes() && crc32c::crc32c_append(salt, &batch[8..]) == self.crc
    }

    /// Bytes of header and region.
    pub(crate) fn stored_bytes(&self) -> usize {
        BATCH_HEADER + self.stored_region as usize
    }

    pub(crate) fn end_offset(&self) -> u64 {
        self.base_offset + u64::from(self.count)
    }
}
