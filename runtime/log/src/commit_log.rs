//! The part of the commit log that is being written.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use sluice_env::{Disk, File, Open};

use crate::directory::{Directory, number};
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind};

pub(crate) struct CommitLog {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) salt: u32,
    /// Its first group.
    pub(crate) first: u64,
    /// Where the next frame goes.
    pub(crate) position: u64,
}

impl CommitLog {
    /// The first groups of the parts there are, oldest first.
    pub(crate) fn list(disk: &dyn Disk, dir: &Directory) -> Result<Vec<u64>, Error> {
        let names = disk.list(&dir.commits()).map_err(|error| Error::io("list", &dir.commits(), error))?;
        Ok(names.iter().filter_map(|name| number(name, ".commits")).collect())
    }

    /// Makes a new part that begins with `first_group`, durable when this returns.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Directory,
        directory: u64,
        first_group: u64,
        salt: u32,
        sync_names: bool,
    ) -> Result<Self, Error> {
        let path = dir.commit_file(first_group);
        let header = FileHeader { kind: Kind::CommitLog, salt, directory, first: first_group, topic: 0, partition: 0 };
        let create = || {
            disk.remove(&path)?;
            let file = disk.open(&path, Open::Create)?;
            file.write_at(&[IoSlice::new(&header.encode())], 0)?;
            file.sync()?;
            if sync_names {
                disk.sync_dir(&dir.commits())?;
            }
            Ok(file)
        };
        let file = create().map_err(|error| {
            // Half a part is no part: the one before goes on.
            let _ = disk.remove(&path);
            Error::io("create", &path, error)
        })?;
        Ok(Self { file, path, salt, first: first_group, position: FILE_HEADER })
    }

    /// Writes a frame at the end, not synced.
    pub(crate) fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<(), Error> {
        self.file.write_at(parts, self.position).map_err(|error| Error::io("write", &self.path, error))?;
        self.position += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Takes back everything from `position` on.
    pub(crate) fn cut(&mut self, position: u64) -> Result<(), Error> {
        self.position = position;
        self.file.set_len(position).map_err(|error| Error::io("cut", &self.path, error))
    }
}
