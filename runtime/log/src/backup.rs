//! A copy of the log as of one commit, made while it goes on.
//!
//! The committing thread syncs everything, takes a snapshot, and says where each file ends: that is the [`Cut`]. Up to there files never change, so that
//! they are copied while others are appended to; what retention or a deletion lets go of meanwhile is removed when the copy is made. The copy holds the
//! snapshot, an empty part of the commit log behind it, and the segments: a start finds in it what a start finds after a clean end.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluice_env::{Disk, Open};

use crate::committer::Committer;
use crate::directory::Directory;
use crate::error::Error;
use crate::file_header::FILE_HEADER;

/// All of a file.
const WHOLE: u64 = u64::MAX;
/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Where the log stood at one commit. While it is there, no file is removed.
pub struct Cut {
    seq: u64,
    /// Files, as paths in the data directory, and how much of each counts.
    files: Vec<(PathBuf, u64)>,
    _kept: Arc<()>,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backup {
    /// The last commit that is in it.
    pub seq: u64,
    /// How many files.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Files that are damaged, and are in it as they are.
    pub damaged: Vec<PathBuf>,
}

impl Committer {
    /// Makes everything durable, and says where it ends.
    pub(crate) fn cut(&mut self) -> Result<Cut, Error> {
        if let Some(reason) = &self.poisoned {
            return Err(Error::Poisoned(reason.clone()));
        }
        let now = self.now();
        self.upkeep.snapshot_time = now;
        let kept = self.upkeep.keep_files();
        self.snapshot(now).map_err(|error| match error {
            Error::NoSpace { .. } | Error::Poisoned(_) => error,
            error => self.poison(&error),
        })?;
        let mut files = vec![
            (self.dir.format(), WHOLE),
            (self.dir.snapshot(self.group), WHOLE),
            (self.commit_log.path.clone(), FILE_HEADER),
        ];
        for (tp, partition) in &self.catalog.partitions {
            let segment = |segment: &crate::catalog::SegmentInfo| {
                (self.dir.segment(*tp, segment.base_offset), segment.end_position)
            };
            files.extend(partition.segments.iter().map(segment));
        }
        let own = |(path, end): (PathBuf, u64)| {
            let path = path.strip_prefix(&self.dir.root).map(Path::to_owned).unwrap_or(path);
            (path, end)
        };
        Ok(Cut { seq: self.seq, files: files.into_iter().map(own).collect(), _kept: kept })
    }
}

impl Cut {
    /// Copies the log of the data directory `from` into the folder `to`, durably.
    pub(crate) fn copy(&self, disk: &dyn Disk, from: &Path, to: &Path) -> Result<Backup, Error> {
        let mut backup = Backup { seq: self.seq, ..Backup::default() };
        let mut folders = std::collections::BTreeSet::new();
        // What a start expects, though it may be empty.
        let dir = Directory::new(to);
        for folder in [dir.commits(), dir.snapshots(), to.join("topics")] {
            disk.create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
            folders.insert(folder);
        }
        for (path, end) in &self.files {
            let (source, target) = (from.join(path), to.join(path));
            if let Some(folder) = target.parent()
                && folders.insert(folder.to_owned())
            {
                disk.create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
            }
            let copied = copy_file(disk, &source, &target, *end)?;
            if *end != WHOLE && copied < *end {
                backup.damaged.push(path.clone());
            }
            (backup.files, backup.bytes) = (backup.files + 1, backup.bytes + copied);
        }
        for folder in folders.iter().map(PathBuf::as_path).chain([to]) {
            disk.sync_dir(folder).map_err(|error| Error::io("sync", folder, error))?;
        }
        Ok(backup)
    }
}

/// Copies the beginning of a file; how many bytes there were. One that is missing is passed over.
fn copy_file(disk: &dyn Disk, source: &Path, target: &Path, end: u64) -> Result<u64, Error> {
    let from = match disk.open(source, Open::Read) {
        Ok(from) => from,
        // A segment that is gone is damage, which the copy tells of, too.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && end != WHOLE => return Ok(0),
        Err(error) => return Err(Error::io("read", source, error)),
    };
    let to = disk.open(target, Open::Create).map_err(|error| Error::io("create", target, error))?;
    let (mut chunk, mut at) = (vec![0; CHUNK], 0);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let read = from.read_at(&mut chunk[..wanted], at).map_err(|error| Error::io("read", source, error))?;
        if read == 0 {
            break;
        }
        to.write_at(&[IoSlice::new(&chunk[..read])], at).map_err(|error| Error::io("write", target, error))?;
        at += read as u64;
    }
    to.sync().map_err(|error| Error::io("sync", target, error))?;
    Ok(at)
}

#[cfg(test)]
mod tests {
    use sluice_env::{SimDisk, SystemClock};
    use sluice_event::{Batch, NewEvent};

    use super::*;
    use crate::{Append, Commit, Log, NewTopic, Options, Order, ReadBatch, TopicPartition, TopicSettings};

    fn append(log: &Log, topic: u32, values: std::ops::Range<u32>) {
        for value in values {
            let mut batch = Batch::default();
            batch.push(&NewEvent { value: &value.to_be_bytes().repeat(100), ..NewEvent::default() }).unwrap();
            let to = TopicPartition { topic, partition: 0 };
            log.commit(Commit { appends: vec![Append::new(to, batch)], ..Commit::default() }).unwrap();
        }
    }

    fn values(log: &Log, topic: &str) -> Vec<u32> {
        let topic = log.topic(topic).unwrap();
        let partition = log.partition(&topic, 0).unwrap();
        let mut reader = log.reader(partition.clone(), partition.low_mark());
        let (mut values, mut read) = (Vec::new(), ReadBatch::default());
        loop {
            reader.read(1000, 1 << 20, &mut read).unwrap();
            if read.count == 0 {
                return values;
            }
            let events = read.region().events().map(Result::unwrap);
            values.extend(events.map(|event| u32::from_be_bytes(*event.value().first_chunk().unwrap())));
        }
    }

    #[test]
    fn a_copy_holds_what_was_there_at_the_cut_whatever_goes_on_meanwhile() {
        let (disk, clock) = (Arc::new(SimDisk::default()), Arc::new(SystemClock));
        // Small segments, so that many come and go.
        let options = Options { segment_bytes: 4096, snapshot_bytes: 8192, ..Options::default() };
        let open = |path: &str| Log::open(disk.clone(), clock.clone(), Path::new(path), options.clone()).unwrap();
        let log = open("/data");
        let topics = ["kept", "deleted"].map(|name| NewTopic::new(name, 1)).to_vec();
        log.commit(Commit { topics, ..Commit::default() }).unwrap();
        append(&log, 1, 0..50);
        append(&log, 2, 0..50);
        let cut = log.cut().unwrap();

        append(&log, 1, 50..120);
        log.commit(Commit::order(Order::DeleteTopic("deleted".into()))).unwrap();
        let settings = TopicSettings { retention_bytes: Some(4096), ..TopicSettings::default() };
        log.commit(Commit::order(Order::SetTopics(vec![("kept".into(), settings)]))).unwrap();
        append(&log, 1, 120..200);
        let backup = log.copy(&cut, Path::new("/copy")).unwrap();
        assert_eq!(backup.damaged, Vec::<PathBuf>::new());
        drop(cut);
        append(&log, 1, 200..201);
        log.close();
        let log = open("/data");
        assert_eq!(values(&log, "kept").last(), Some(&200));

        let copy = open("/copy");
        assert_eq!(copy.report().damaged, Vec::<PathBuf>::new());
        for topic in ["kept", "deleted"] {
            assert_eq!(values(&copy, topic), (0..50).collect::<Vec<_>>(), "{topic}");
        }
        append(&copy, 1, 50..60);
        copy.close();
        assert_eq!(values(&open("/copy"), "kept"), (0..60).collect::<Vec<_>>());
    }
}
