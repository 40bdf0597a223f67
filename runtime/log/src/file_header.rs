//! The first 64 bytes of every file of the log.

use std::io::IoSlice;
use std::path::Path;

use sluice_env::File;

use crate::codec::{Decoder, Encoder};
use crate::error::Error;

/// Bytes of a file's header.
pub(crate) const FILE_HEADER: u64 = 64;
/// The newest format of each kind of file that this build reads and writes.
pub(crate) const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"SLUICE\r\n";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Directory = 1,
    CommitLog = 2,
    Snapshot = 3,
    Segment = 4,
    Index = 5,
}

/// ```text
///  0  8 bytes  "SLUICE\r\n"        24  u64  id of the data directory
///  8  u32  kind                    32  u64  first: group of a commit log or snapshot, base offset of a segment or index
/// 12  u32  version of the format   40  u32  topic id      44  u32  partition      (segment, index)
/// 16  u32  salt of the file's CRCs 48  u64  0
/// 20  u32  0                       56  u32  CRC-32C of the bytes before, not salted      60  u32  0
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) kind: Kind,
    pub(crate) salt: u32,
    pub(crate) directory: u64,
    pub(crate) first: u64,
    pub(crate) topic: u32,
    pub(crate) partition: u32,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER as usize] {
        let mut out = Encoder(MAGIC.to_vec());
        out.u32(self.kind as u32).u32(VERSION).u32(self.salt).u32(0).u64(self.directory).u64(self.first);
        out.u32(self.topic).u32(self.partition).u64(0);
        let crc = crc32c::crc32c(&out.0);
        out.u32(crc).u32(0);
        let mut bytes = [0; FILE_HEADER as usize];
        bytes.copy_from_slice(&out.0);
        bytes
    }

    /// Writes the header of a new file, not synced.
    pub(crate) fn write(&self, file: &dyn File, path: &Path) -> Result<(), Error> {
        file.write_at(&[IoSlice::new(&self.encode())], 0).map_err(|error| Error::io("write", path, error))
    }

    /// Reads and checks a file's header; `None` when it is not intact.
    pub(crate) fn parse(bytes: &[u8], kind: Kind, path: &Path) -> Result<Option<Self>, Error> {
        let read = || {
            let mut from = Decoder(bytes.get(..FILE_HEADER as usize)?);
            (from.take(8)? == MAGIC).then_some(())?;
            let (found_kind, version, salt, _) = (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
            let (directory, first) = (from.u64()?, from.u64()?);
            let (topic, partition, _) = (from.u32()?, from.u32()?, from.u64()?);
            (from.u32()? == crc32c::crc32c(&bytes[..56]) && found_kind == kind as u32).then_some(())?;
            Some((version, Self { kind, salt, directory, first, topic, partition }))
        };
        match read() {
            Some((version, _)) if version > VERSION => {
                Err(Error::NewerFormat { file: path.to_owned(), found: version, known: VERSION })
            }
            Some((_, header)) => Ok(Some(header)),
            None => Ok(None),
        }
    }
}

/// A file's bytes from the device, whole.
pub(crate) fn read_whole(file: &dyn File, path: &Path) -> Result<Vec<u8>, Error> {
    /// Far more than any file that is read whole can have.
    const MAX_BYTES: u64 = 1 << 30;
    let length = file.len().map_err(|error| Error::io("read", path, error))?;
    if length > MAX_BYTES {
        return Err(Error::damaged(path, MAX_BYTES, "the file is larger than such files get"));
    }
    let read = || {
        let mut bytes = vec![0; length as usize];
        let read = file.read_device_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    read().map_err(|error| Error::io("read", path, error))
}
