//! Making a data directory, and telling one from other folders.

use std::io::IoSlice;
use std::path::Path;

use sluice_env::{Disk, Open, Rng};

use crate::commit_log::CommitLog;
use crate::directory::{Directory, number};
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind, read_whole};
use crate::options::Options;

/// Makes the names in a data directory durable, and its own.
pub(super) fn sync_root(disk: &dyn Disk, root: &Path) -> Result<(), Error> {
    disk.sync_dir(root).map_err(|error| Error::io("sync", root, error))?;
    for up in root.ancestors().skip(1) {
        let up = if up.as_os_str().is_empty() { Path::new(".") } else { up };
        // The nearest counts; those above were most likely there before, and may be other people's.
        match disk.sync_dir(up) {
            Err(error) if Some(up) == root.parent() => return Err(Error::io("sync", up, error)),
            _ => {}
        }
    }
    Ok(())
}

/// A folder with other people's files is not made into a data directory.
pub(super) fn check_ours(disk: &dyn Disk, dir: &Directory) -> Result<(), Error> {
    const OURS: [&str; 9] =
        ["LOCK", "FORMAT", "FORMAT.new", "commits", "snapshots", "topics", "cache", "sock", "reserve"];
    let names = disk.list(&dir.root).map_err(|error| Error::io("list", &dir.root, error))?;
    let stranger = names.iter().find(|name| !OURS.contains(&name.as_str()));
    match stranger.filter(|_| !names.iter().any(|name| name == "FORMAT")) {
        None => Ok(()),
        Some(stranger) => {
            let what = format!("not a data directory: {} holds other files, such as {stranger}", dir.root.display());
            Err(Error::Invalid(what))
        }
    }
}

pub(super) fn read_directory_id(disk: &dyn Disk, dir: &Directory) -> Result<Option<u64>, Error> {
    let path = dir.format();
    let file = match disk.open(&path, Open::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| Error::io("open", &path, error))?,
    };
    let bytes = read_whole(&*file, &path)?;
    let header = FileHeader::parse(&bytes, Kind::Directory, &path)?;
    header.map(|header| Some(header.directory)).ok_or_else(|| Error::damaged(&path, 0, "not a file header"))
}

/// Makes the files of an empty log; the file FORMAT comes last and says that the others are complete.
pub(super) fn initialise(disk: &dyn Disk, dir: &Directory, rng: &mut Rng, options: &Options) -> Result<u64, Error> {
    let commits = disk.list(&dir.commits()).map_err(|error| Error::io("list", &dir.commits(), error))?;
    let snapshots = disk.list(&dir.snapshots()).map_err(|error| Error::io("list", &dir.snapshots(), error))?;
    if !snapshots.is_empty() || commits.iter().any(|name| number(name, ".commits") != Some(1)) {
        return Err(Error::damaged(&dir.format(), 0, "the file is missing from a directory that holds data"));
    }
    // Before FORMAT says that it is there, nothing is ever committed.
    let first = disk.open(&dir.commit_file(1), Open::Read).and_then(|file| file.len()).unwrap_or(0);
    let topics = disk.list(&dir.root.join("topics")).map_err(|error| Error::io("list", &dir.root, error))?;
    if first > FILE_HEADER || !topics.is_empty() {
        return Err(Error::damaged(&dir.format(), 0, "the file is missing from a directory that holds data"));
    }
    let directory = rng.next_u64();
    for path in [dir.commits(), dir.snapshots(), dir.root.join("topics")] {
        disk.create_dir_all(&path).map_err(|error| Error::io("create", &path, error))?;
    }
    CommitLog::create(disk, dir, directory, 1, rng.next_u64() as u32, options)?;
    let header = FileHeader { kind: Kind::Directory, salt: 0, directory, first: 0, topic: 0, partition: 0 };
    let (path, new) = (dir.format(), dir.root.join("FORMAT.new"));
    let write = || {
        disk.remove(&new)?;
        let file = disk.open(&new, Open::Create)?;
        file.write_at(&[IoSlice::new(&header.encode())], 0)?;
        file.sync()?;
        disk.rename(&new, &path)
    };
    write().map_err(|error| Error::io("write", &path, error))?;
    Ok(directory)
}
