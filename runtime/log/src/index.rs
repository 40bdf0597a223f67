//! A sparse index of one segment: enough to come near an offset without reading from the start.

use std::io::IoSlice;
use std::path::Path;

use sluice_env::{Disk, Open};

use crate::codec::{Decoder, Encoder};
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind, read_whole};
use crate::stored_batch::BatchHeader;

/// Bytes of the segment between two entries, at least.
pub(crate) const SPACING: u64 = 64 << 10;

/// A batch's place in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) position: u64,
    pub(crate) append_time: i64,
    pub(crate) max_timestamp: i64,
}

/// Entries in order. It can always be rebuilt from the segment, so its file is never synced, only checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    entries: Vec<Entry>,
}

impl Index {
    /// Notes a batch that begins at `position`, unless an entry is close before it.
    pub(crate) fn note(&mut self, batch: &BatchHeader, position: u64) {
        if self.entries.last().is_none_or(|last| position >= last.position + SPACING) {
            self.entries.push(Entry {
                offset: batch.base_offset,
                position,
                append_time: batch.append_time,
                max_timestamp: batch.max_timestamp,
            });
        }
    }

    /// The last batch noted that begins at or before `offset`.
    pub(crate) fn before(&self, offset: u64) -> Option<Entry> {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries.get(after.checked_sub(1)?).copied()
    }

    /// Writes the index of a segment that will not grow any more: file header, entries of 32 bytes, `u64` where the segment
    /// ends, `u32` CRC of all this, salted.
    pub(crate) fn save(&self, disk: &dyn Disk, path: &Path, header: FileHeader, end: u64) -> Result<(), Error> {
        let mut out = Encoder::default();
        for entry in &self.entries {
            out.u64(entry.offset).u64(entry.position);
            out.u64(entry.append_time.cast_unsigned()).u64(entry.max_timestamp.cast_unsigned());
        }
        out.u64(end);
        let crc = crc32c::crc32c_append(header.salt, &out.0);
        out.u32(crc);
        let write = || {
            disk.remove(path)?;
            let file = disk.open(path, Open::Create)?;
            file.write_at(
                &[IoSlice::new(&FileHeader { kind: Kind::Index, ..header }.encode()), IoSlice::new(&out.0)],
                0,
            )
        };
        write().map_err(|error| Error::io("write", path, error))
    }

    /// Reads an index; `None` when it is missing, damaged, or of another segment, or of this one at another length.
    pub(crate) fn load(disk: &dyn Disk, path: &Path, header: FileHeader, end: u64) -> Option<Self> {
        let file = disk.open(path, Open::Read).ok()?;
        let bytes = read_whole(&*file, path).ok()?;
        let found = FileHeader::parse(&bytes, Kind::Index, path).ok()??;
        (found == FileHeader { kind: Kind::Index, ..header }).then_some(())?;
        let (entries, crc) = bytes.get(FILE_HEADER as usize..)?.split_last_chunk::<4>()?;
        (crc32c::crc32c_append(header.salt, entries) == u32::from_le_bytes(*crc)).then_some(())?;
        let (entries, found_end) = entries.split_last_chunk::<8>()?;
        (u64::from_le_bytes(*found_end) == end).then_some(())?;
        let mut from = Decoder(entries);
        let mut index = Self::default();
        while !from.0.is_empty() {
            index.entries.push(Entry {
                offset: from.u64()?,
                position: from.u64()?,
                append_time: from.i64()?,
                max_timestamp: from.i64()?,
            });
        }
        Some(index)
    }
}
