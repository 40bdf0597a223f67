//! Opening a data directory: what was acknowledged is there, what was torn is cut, what is damaged is named.
//!
//! The steps, each of which may be interrupted and done again:
//!
//! 1. read the newest snapshot, then the commit log from there on, from the device and not from the cache;
//! 2. D is the highest `durable-through` any intact frame tells. Damage at or before D is corruption and stops the start;
//!    the first group after D that is torn, or whose batches are not in their segments, and all that follow, are cut;
//! 3. bring the segments to where the accepted groups say: write again what the commit log carries, cut what is beyond;
//! 4. write again and sync everything accepted that nobody can be sure is on the device;
//! 5. only then show it to readers.

mod commits;
mod directory;
mod segments;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_env::{Clock, Disk, File, Rng};

use self::directory::{check_ours, initialise, read_directory_id, sync_root};
use crate::catalog::Catalog;
use crate::change::TopicPartition;
use crate::commit_log::CommitLog;
use crate::committer::Committer;
use crate::directory::Directory;
use crate::error::Error;
use crate::frame::Frame;
use crate::log::Shared;
use crate::options::{Options, Planted};
use crate::partition::Partition;
use crate::segment::Segment;
use crate::snapshot::Snapshot;
use crate::upkeep::{Removal, Upkeep};

/// What recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Groups read from the commit log behind the snapshot.
    pub groups: u64,
    /// Bytes cut from the end of the commit log: whole groups that nobody was answered for.
    pub cut_bytes: u64,
    /// Batches written to their segments again.
    pub redone_batches: u64,
    /// Partitions that are damaged and stay stopped, by file.
    pub damaged: Vec<PathBuf>,
}

pub(crate) struct Opened {
    pub(crate) committer: Committer,
    pub(crate) report: Report,
    pub(crate) lock: Box<dyn Send + Sync>,
}

/// One file of the commit log, read whole.
struct Part {
    file: Arc<dyn File>,
    path: PathBuf,
    first: u64,
    salt: u32,
    bytes: Vec<u8>,
    /// Where its last intact frame ends.
    end: usize,
}

/// A frame in its place.
struct Placed {
    part: usize,
    position: usize,
    frame: Frame,
}

/// One batch that a commit appended.
struct Batch {
    tp: TopicPartition,
    /// Base offset of its segment.
    segment: u64,
    position: u64,
    length: u64,
    crc: u32,
}

struct Recovery {
    disk: Arc<dyn Disk>,
    dir: Directory,
    directory: u64,
    options: Options,
    catalog: Catalog,
    group: u64,
    seq: u64,
    snapshot_time: i64,
    /// When the last accepted group was committed.
    last_time: i64,
    snapshot_group: u64,
    report: Report,
    /// Files of segments that recovery has opened.
    files: HashMap<(TopicPartition, u64), Arc<dyn File>>,
    /// Segments that were made after the snapshot: their files and headers may not have reached the device.
    young: BTreeSet<(TopicPartition, u64)>,
    /// Segments that hold durable batches which nothing else holds.
    holders: BTreeSet<(TopicPartition, u64)>,
    damaged: HashMap<TopicPartition, Error>,
    /// Files that accepted groups let go of; they are removed when it is sure that these groups survive.
    superfluous: Vec<Removal>,
}

pub(crate) fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, root: &Path, options: Options) -> Result<Opened, Error> {
    let dir = Directory::new(root);
    check_ours(&*disk, &dir)?;
    disk.create_dir_all(root).map_err(|error| Error::io("create", root, error))?;
    let lock = disk.lock(&dir.lock()).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::InUse(root.to_owned()),
        _ => Error::io("lock", &dir.lock(), error),
    })?;
    let mut rng = Rng::from_os().map_err(|error| Error::io("seed salts for", root, error))?;
    let directory = match read_directory_id(&*disk, &dir)? {
        Some(id) => id,
        None => initialise(&*disk, &dir, &mut rng, &options)?,
    };
    // Whoever made it may have died before its name was durable.
    if !options.has(Planted::ForgetDirectorySync) {
        sync_root(&*disk, root)?;
    }
    let snapshot = Snapshot::newest(&*disk, &dir, directory)?;
    let mut recovery = Recovery {
        disk,
        dir,
        directory,
        options,
        group: snapshot.as_ref().map_or(0, |snapshot| snapshot.group),
        seq: snapshot.as_ref().map_or(0, |snapshot| snapshot.seq),
        snapshot_time: snapshot.as_ref().map_or_else(|| clock.now(), |snapshot| snapshot.time),
        last_time: snapshot.as_ref().map_or(i64::MIN, |snapshot| snapshot.time),
        snapshot_group: snapshot.as_ref().map_or(0, |snapshot| snapshot.group),
        catalog: snapshot.map(|snapshot| snapshot.catalog).unwrap_or_default(),
        report: Report::default(),
        files: HashMap::new(),
        young: BTreeSet::new(),
        holders: BTreeSet::new(),
        damaged: HashMap::new(),
        superfluous: Vec::new(),
    };
    let commit_log = recovery.recover()?;
    let (mut committer, report) = recovery.into_committer(clock, rng, commit_log);
    // The log says of what was accepted that it is durable, before anybody is told of it.
    match committer.cover() {
        // What was accepted is synced: the log can be read, and the frame is written when there is space.
        Err(Error::NoSpace { .. }) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    Ok(Opened { committer, report, lock })
}

impl Recovery {
    /// Steps 1 to 4; returns the commit log, ready to be written on.
    fn recover(&mut self) -> Result<CommitLog, Error> {
        let mut parts = self.read_parts()?;
        let (frames, durable_through) = self.read_frames(&mut parts)?;
        let accepted = self.accept(&parts, &frames, durable_through)?;
        self.report.groups = accepted.len() as u64;
        self.bring_segments(&parts, &frames[..accepted.len()], &accepted, durable_through)?;
        self.cut_commit_log(parts, &frames[..accepted.len()])
    }

    /// Step 5.
    fn into_committer(mut self, clock: Arc<dyn Clock>, rng: Rng, commit_log: CommitLog) -> (Committer, Report) {
        self.catalog.begin_outcomes();
        let shared = Arc::new(Shared::default());
        shared.publish_all(&self.catalog);
        shared.set_seq(self.seq);
        for topic in self.catalog.topics.values() {
            for partition in 0..topic.partitions {
                let tp = TopicPartition { topic: topic.id, partition };
                let infos = self.catalog.segments(tp);
                let segments: Vec<_> = infos
                    .iter()
                    .map(|info| {
                        let path = self.dir.segment(tp, info.base_offset);
                        Arc::new(Segment::existing(&self.disk, path, self.directory, tp, info))
                    })
                    .collect();
                let damage = self.damaged.remove(&tp);
                let (low_mark, high_watermark) = (self.catalog.low_mark(tp), self.catalog.next_offset(tp));
                let partition = Partition::new(tp, segments, low_mark, high_watermark);
                partition
                    .set_holes(self.catalog.partitions.get(&tp).map(|info| info.holes.clone()).unwrap_or_default());
                damage.map(|damage| partition.noting(damage));
                shared.add_partition(partition);
            }
        }
        let removals = self.superfluous.into_iter().map(|removal| (self.group, removal)).collect();
        let committer = Committer {
            disk: self.disk,
            clock,
            rng,
            dir: self.dir,
            directory: self.directory,
            options: self.options,
            catalog: self.catalog,
            commit_log,
            writers: HashMap::new(),
            unsynced: BTreeMap::new(),
            new_names: BTreeSet::new(),
            fresh: Vec::new(),
            group: self.group,
            seq: self.seq,
            durable_through: self.group,
            announced: self.snapshot_group,
            told: self.snapshot_group,
            told_durably: self.snapshot_group,
            unsynced_bytes: 0,
            untold_bytes: 0,
            last_time: self.last_time,
            upkeep: Upkeep::new(self.snapshot_time, self.snapshot_group, removals),
            shared,
            poisoned: None,
        };
        (committer, self.report)
    }
}
