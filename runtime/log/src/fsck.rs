//! Reads every byte of a data directory, and tells what is damaged and what a repair would give up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_env::{Clock, Disk, Open};

use crate::catalog::{Hole, SegmentInfo};
use crate::change::TopicPartition;
use crate::commit::{Commit, Order};
use crate::directory::Directory;
use crate::error::{Error, is_unreadable};
use crate::file_header::{FILE_HEADER, FileHeader, Kind};
use crate::options::Options;
use crate::recovery;
use crate::segment::segment_header;
use crate::snapshot::Snapshot;
use crate::stored_batch::{BATCH_HEADER, BatchHeader};

/// Bytes read at once: a bad sector costs so many at most.
const BLOCK: usize = 64 << 10;

/// Events that are damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The topic's name.
    pub topic: String,
    /// Its partition.
    pub tp: TopicPartition,
    /// The segment's file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What a repair gives up.
    pub hole: Hole,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fsck {
    /// Bytes of segments that were read.
    pub bytes: u64,
    /// Batches whose CRC is right.
    pub batches: u64,
    /// Events in these.
    pub events: u64,
    /// Batches that the commit log still carries, and that were written to their segments again, as at every start after a kill.
    pub redone: u64,
    /// Snapshots that cannot be read; an older one and the commit log tell the same.
    pub snapshots: Vec<String>,
    /// Segments whose file header is damaged; their events are not, and a repair writes it again.
    pub headers: Vec<PathBuf>,
    /// Damaged events.
    pub findings: Vec<Finding>,
    /// Offsets that earlier repairs gave up, per topic and partition.
    pub holes: Vec<(String, u32, Hole)>,
    /// Whether the damaged events were given up.
    pub repaired: bool,
}

/// Opens a data directory as a start does, reads all of it and, if asked, gives up what is damaged.
///
/// # Errors
/// What a start says: [`Error::Damaged`] when the commit log itself is, for which there is no repair.
pub fn fsck(disk: &Arc<dyn Disk>, clock: Arc<dyn Clock>, root: &Path, repair: bool) -> Result<Fsck, Error> {
    let mut opened = recovery::open(disk.clone(), clock, root, Options::default())?;
    let dir = Directory::new(root);
    let mut told = Fsck { redone: opened.report.redone_batches, ..Fsck::default() };
    for group in Snapshot::list(&**disk, &dir)? {
        if let Err(error) = Snapshot::read(&**disk, &dir, Some(opened.committer.directory), group) {
            told.snapshots.push(error.to_string());
        }
    }
    let mut headers = Vec::new();
    let catalog = &opened.committer.catalog;
    for topic in catalog.topics.values() {
        for partition in 0..topic.partitions {
            let tp = TopicPartition { topic: topic.id, partition };
            let Some(info) = catalog.partitions.get(&tp) else { continue };
            told.holes.extend(info.holes.iter().map(|hole| (topic.name.clone(), partition, *hole)));
            for segment in &info.segments {
                let file = dir.segment(tp, segment.base_offset);
                let header = segment_header(opened.committer.directory, tp, segment.base_offset, segment.salt);
                let scrub = Scrub { disk: &**disk, file, header, segment: *segment, holes: &info.holes };
                for (what, hole) in scrub.run(&mut told)? {
                    let file = scrub.file.clone();
                    told.findings.push(Finding { topic: topic.name.clone(), tp, file, what, hole });
                }
                if told.headers.last() == Some(&scrub.file) {
                    headers.push((scrub.file, scrub.header));
                }
            }
        }
    }
    if repair && !(told.findings.is_empty() && told.headers.is_empty()) {
        let holes: Vec<_> = told.findings.iter().map(|finding| (finding.tp, finding.hole)).collect();
        if !holes.is_empty() {
            for answer in opened.committer.commit_group(vec![Commit::order(Order::GiveUp(holes))]) {
                answer?;
            }
        }
        for (file, header) in headers {
            let written = disk.open(&file, Open::Write).map_err(|error| Error::io("open", &file, error))?;
            header.write(&*written, &file)?;
            written.sync().map_err(|error| Error::io("sync", &file, error))?;
        }
        // From here on, no start looks for what was given up, though the commit log may still carry batches of it.
        let now = opened.committer.now();
        opened.committer.snapshot(now)?;
        told.repaired = true;
    }
    opened.committer.end();
    Ok(told)
}

/// One segment that is read from end to end.
struct Scrub<'a> {
    disk: &'a dyn Disk,
    file: PathBuf,
    header: FileHeader,
    segment: SegmentInfo,
    holes: &'a [Hole],
}

impl Scrub<'_> {
    /// What is damaged, each with what is wrong.
    fn run(&self, told: &mut Fsck) -> Result<Vec<(String, Hole)>, Error> {
        let SegmentInfo { base_offset, end_offset, end_position, .. } = self.segment;
        let all = Hole { from: base_offset, to: end_offset, segment: base_offset, position: FILE_HEADER, end_position };
        if self.holes.contains(&all) || base_offset == end_offset {
            return Ok(Vec::new());
        }
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(Error::Damaged { what, .. }) => return Ok(vec![(what, all)]),
            Err(error) => return Err(error),
        };
        told.bytes += bytes.len() as u64;
        let mut found = Vec::new();
        if FileHeader::parse(&bytes, Kind::Segment, &self.file)? != Some(self.header) {
            // Batches are read by the salt that the commit log tells; the header itself tells readers nothing.
            told.headers.push(self.file.clone());
        }
        let (mut position, mut next) = (FILE_HEADER, base_offset);
        while position < end_position {
            if let Some(hole) = self.holes.iter().find(|h| h.segment == base_offset && h.position == position) {
                (position, next) = (hole.end_position, hole.to);
                continue;
            }
            match self.batch(&bytes, position) {
                Some(header) if header.base_offset == next => {
                    told.batches += 1;
                    told.events += u64::from(header.count);
                    next = header.end_offset();
                    position += header.stored_bytes() as u64;
                }
                _ => {
                    let short = bytes.len() as u64 <= position;
                    let what = if short { "the file is too short" } else { "wrong CRC, or not a batch" };
                    let (to, found_at) = self.next_batch(&bytes, position, next);
                    let hole = Hole { from: next, to, segment: base_offset, position, end_position: found_at };
                    found.push((format!("{what}, from byte {position}"), hole));
                    (position, next) = (found_at, to);
                }
            }
        }
        Ok(found)
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        let damaged = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::damaged(&self.file, 0, "the file is missing"),
            _ => Error::io("read", &self.file, error),
        };
        let file = self.disk.open(&self.file, Open::Read).map_err(damaged)?;
        let length = file.len().map_err(damaged)?.min(self.segment.end_position);
        let mut bytes = vec![0; length as usize];
        // A bad sector is damage like any other: what can be read around it is.
        for (at, block) in (0..).step_by(BLOCK).zip(bytes.chunks_mut(BLOCK)) {
            match file.read_device_at(block, at) {
                Ok(_) => {}
                Err(error) if is_unreadable(&error) => block.fill(0),
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(bytes)
    }

    /// The intact batch at a position.
    fn batch(&self, bytes: &[u8], position: u64) -> Option<BatchHeader> {
        let bytes = bytes.get(usize::try_from(position).ok()?..)?;
        let header = BatchHeader::parse(bytes.get(..BATCH_HEADER)?)?;
        let batch = bytes.get(..header.stored_bytes())?;
        header.verify(self.segment.salt, batch).then_some(header)
    }

    /// The first intact batch behind damage: its base offset and position; the end of the segment when there is none.
    fn next_batch(&self, bytes: &[u8], position: u64, next: u64) -> (u64, u64) {
        let places = (position + 8..bytes.len() as u64).step_by(8);
        let found = places.filter_map(|at| Some((self.batch(bytes, at)?.base_offset, at)));
        let mut found = found.filter(|(base, _)| *base > next && *base < self.segment.end_offset);
        found.next().unwrap_or((self.segment.end_offset, self.segment.end_position))
    }
}
