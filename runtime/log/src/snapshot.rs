//! A snapshot: the catalog after a group, so that a start need not read the commit log from its beginning.

use std::io::IoSlice;

use sluice_env::{Disk, Open};

use crate::catalog::Catalog;
use crate::change::{decode_commits, encode_commit};
use crate::codec::Encoder;
use crate::directory::{Directory, number};
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind, VERSION, read_whole};
use crate::frame::{Frame, FrameInfo};

/// Snapshots kept; the commit log is kept back to the oldest of them.
pub(crate) const KEPT: usize = 2;

/// The catalog after `group`, all of which was synced before.
pub(crate) struct Snapshot {
    pub(crate) group: u64,
    pub(crate) seq: u64,
    pub(crate) time: i64,
    pub(crate) catalog: Catalog,
}

impl Snapshot {
    /// Writes it under its name, durable when this returns: file header, then one frame.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Directory, directory: u64, salt: u32) -> Result<(), Error> {
        let mut records = Encoder::default();
        encode_commit(self.seq, &self.catalog.to_changes(), &mut records);
        let info = FrameInfo {
            group: self.group,
            durable_through: self.group,
            first_seq: self.seq,
            time: self.time,
            whole: false,
        };
        let frame = Frame::encode(info, salt, &records.0, std::iter::empty());
        let header = FileHeader { kind: Kind::Snapshot, salt, directory, first: self.group, topic: 0, partition: 0 };
        let (path, new) = (dir.snapshot(self.group), dir.snapshots().join("new"));
        let write = || {
            disk.remove(&new)?;
            let file = disk.open(&new, Open::Create)?;
            let header = header.encode();
            file.write_at(&[IoSlice::new(&header), IoSlice::new(&frame), IoSlice::new(&records.0)], 0)?;
            file.sync()?;
            disk.rename(&new, &path)?;
            disk.sync_dir(&dir.snapshots())
        };
        write().map_err(|error| Error::io("write", &path, error))
    }

    /// The groups of the snapshots there are, oldest first.
    pub(crate) fn list(disk: &dyn Disk, dir: &Directory) -> Result<Vec<u64>, Error> {
        let names = disk.list(&dir.snapshots()).map_err(|error| Error::io("list", &dir.snapshots(), error))?;
        Ok(names.iter().filter_map(|name| number(name, ".snapshot")).collect())
    }

    /// Reads the newest intact snapshot. A damaged one is passed over, for the one before still tells the same story.
    pub(crate) fn newest(disk: &dyn Disk, dir: &Directory, directory: u64) -> Result<Option<Self>, Error> {
        let mut damage = None;
        for group in Self::list(disk, dir)?.into_iter().rev() {
            match Self::read(disk, dir, Some(directory), group) {
                Ok(snapshot) => {
                    if damage.is_some() {
                        Self::put_aside(disk, dir, snapshot.group)?;
                    }
                    return Ok(Some(snapshot));
                }
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!(%error, "a snapshot is damaged; trying the one before");
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// Renames the damaged snapshots behind `good`, so that they no longer count as kept.
    fn put_aside(disk: &dyn Disk, dir: &Directory, good: u64) -> Result<(), Error> {
        for group in Self::list(disk, dir)?.into_iter().filter(|group| *group > good) {
            let path = dir.snapshot(group);
            let aside = path.with_added_extension("damaged");
            disk.rename(&path, &aside).map_err(|error| Error::io("rename", &path, error))?;
        }
        Ok(())
    }

    /// Reads a snapshot, which is to be of this data directory.
    pub(crate) fn read(disk: &dyn Disk, dir: &Directory, directory: Option<u64>, group: u64) -> Result<Self, Error> {
        let path = dir.snapshot(group);
        let open = || {
            let file = disk.open(&path, Open::Read)?;
            file.forget_cache()?;
            Ok(file)
        };
        let file = open().map_err(|error| Error::io("open", &path, error))?;
        let bytes = read_whole(&*file, &path)?;
        let damaged = |what: &str| Error::damaged(&path, 0, what);
        let header = FileHeader::parse(&bytes, Kind::Snapshot, &path)?.ok_or_else(|| damaged("not a file header"))?;
        let body = &bytes[FILE_HEADER as usize..];
        let frame = Frame::parse(body, header.salt, true).ok_or_else(|| damaged("wrong CRC"))?;
        if directory.is_some_and(|directory| directory != header.directory)
            || header.first != group
            || frame.group != group
        {
            return Err(damaged("a snapshot of another directory or group"));
        }
        let records = &body[crate::frame::FRAME_HEADER..][..frame.record_bytes];
        let commits = decode_commits(records).map_err(|error| match error {
            crate::change::Undecodable::UnknownTag(_) => {
                Error::NewerFormat { file: path.clone(), found: VERSION + 1, known: VERSION }
            }
            crate::change::Undecodable::Malformed => damaged("malformed records"),
        })?;
        let mut catalog = Catalog::default();
        for change in commits.iter().flat_map(|(_, changes)| changes) {
            catalog.apply(change, frame.time).map_err(|misfit| damaged(misfit.0))?;
        }
        Ok(Self { group, seq: frame.first_seq, time: frame.time, catalog })
    }
}
