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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_env::{Clock, Disk, File, Open, Rng};

use crate::catalog::Catalog;
use crate::change::{Change, TopicPartition, Undecodable, decode_commits};
use crate::commit_log::CommitLog;
use crate::committer::Committer;
use crate::directory::{Directory, number};
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind, VERSION, read_whole};
use crate::frame::{FRAME_HEADER, Frame};
use crate::log::Shared;
use crate::options::{MAX_BATCH_BYTES, Options, Planted};
use crate::partition::Partition;
use crate::segment::{Segment, create_file, segment_header};
use crate::snapshot::Snapshot;
use crate::stored_batch::{BATCH_HEADER, BatchHeader};

/// What recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Groups read from the commit log behind the snapshot.
    pub groups: u64,
    /// Bytes cut from the end of the commit log: groups that nobody was answered for.
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
    snapshot_group: u64,
    report: Report,
    /// Files of segments that recovery has opened.
    files: HashMap<(TopicPartition, u64), Arc<dyn File>>,
    /// Segments that were made after the snapshot: their files and headers may not have reached the device.
    young: BTreeSet<(TopicPartition, u64)>,
    /// Segments that hold durable batches which nothing else holds.
    holders: BTreeSet<(TopicPartition, u64)>,
    damaged: HashMap<TopicPartition, Error>,
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
        snapshot_group: snapshot.as_ref().map_or(0, |snapshot| snapshot.group),
        catalog: snapshot.map(|snapshot| snapshot.catalog).unwrap_or_default(),
        report: Report::default(),
        files: HashMap::new(),
        young: BTreeSet::new(),
        holders: BTreeSet::new(),
        damaged: HashMap::new(),
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

/// Makes the names in a data directory durable, and its own.
fn sync_root(disk: &dyn Disk, root: &Path) -> Result<(), Error> {
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
fn check_ours(disk: &dyn Disk, dir: &Directory) -> Result<(), Error> {
    const OURS: [&str; 8] = ["LOCK", "FORMAT", "FORMAT.new", "commits", "snapshots", "topics", "cache", "sock"];
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

/// That a frame's batches are no larger than batches are, and that it carries what it says.
fn check_batches(frame: &Frame, batches: &[Batch]) -> Result<(), &'static str> {
    let longest = (BATCH_HEADER + MAX_BATCH_BYTES) as u64;
    if batches.iter().any(|batch| batch.length > longest || batch.length < BATCH_HEADER as u64) {
        return Err("a batch of an impossible length");
    }
    let carried: u64 = batches.iter().map(|batch| batch.length).sum();
    if frame.whole && carried != frame.batch_bytes as u64 {
        return Err("batches that do not add up");
    }
    Ok(())
}

fn read_directory_id(disk: &dyn Disk, dir: &Directory) -> Result<Option<u64>, Error> {
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
fn initialise(disk: &dyn Disk, dir: &Directory, rng: &mut Rng, options: &Options) -> Result<u64, Error> {
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
    let sync_names = !options.has(Planted::ForgetDirectorySync);
    CommitLog::create(disk, dir, directory, 1, rng.next_u64() as u32, sync_names)?;
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

impl Recovery {
    /// Steps 1 to 4; returns the commit log, ready to be written on.
    fn recover(&mut self) -> Result<CommitLog, Error> {
        let parts = self.read_parts()?;
        let (frames, durable_through) = self.read_frames(&parts)?;
        let accepted = self.accept(&parts, &frames, durable_through)?;
        self.report.groups = accepted.len() as u64;
        self.bring_segments(&parts, &frames[..accepted.len()], &accepted, durable_through)?;
        self.cut_commit_log(parts, &frames[..accepted.len()])
    }

    /// The files of the commit log from the snapshot on.
    fn read_parts(&self) -> Result<Vec<Part>, Error> {
        let commits = self.dir.commits();
        let names = self.disk.list(&commits).map_err(|error| Error::io("list", &commits, error))?;
        let firsts: Vec<u64> = names.iter().filter_map(|name| number(name, ".commits")).collect();
        // A part is durable before the snapshot that it follows is.
        let start = firsts
            .iter()
            .position(|first| *first == self.group + 1)
            .ok_or_else(|| Error::damaged(&self.dir.commit_file(self.group + 1), 0, "the file is missing"))?;
        let mut parts = Vec::new();
        for first in &firsts[start..] {
            let path = self.dir.commit_file(*first);
            let file = self.open_unsure(&path)?;
            let bytes = read_whole(&*file, &path)?;
            match FileHeader::parse(&bytes, Kind::CommitLog, &path)? {
                Some(header) if header.directory == self.directory && header.first == *first => {
                    parts.push(Part { file, path, first: *first, salt: header.salt, bytes });
                }
                Some(_) => return Err(Error::damaged(&path, 0, "a part of another commit log")),
                // A crash while it was made: nothing is ever written behind a header that is not synced.
                None if bytes.len() <= FILE_HEADER as usize && !parts.is_empty() => {
                    self.disk.remove(&path).map_err(|error| Error::io("remove", &path, error))?;
                }
                None => return Err(Error::damaged(&path, 0, "not a file header")),
            }
        }
        Ok(parts)
    }

    /// Opens a file of which the cache may know more than the device, and makes it forget.
    fn open_unsure(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let open = || {
            let file = self.disk.open(path, Open::Write)?;
            file.sync()?;
            if !self.options.has(Planted::TrustCacheAfterFailedSync) {
                file.forget_cache()?;
            }
            Ok(file)
        };
        open().map_err(|error| Error::io("sync", path, error))
    }

    /// The intact frames that follow one another from the snapshot on, and D.
    fn read_frames(&self, parts: &[Part]) -> Result<(Vec<Placed>, u64), Error> {
        let check_crc = !self.options.has(Planted::NoCrcCheck);
        let (mut frames, mut durable_through, mut next) = (Vec::new(), self.group, self.group + 1);
        let mut stop: Option<(usize, usize)> = None;
        for (index, part) in parts.iter().enumerate() {
            // A part is begun only after all before it was synced.
            durable_through = durable_through.max(part.first - 1);
            let mut position = FILE_HEADER as usize;
            while position < part.bytes.len() {
                let frame = Frame::parse(&part.bytes[position..], part.salt, check_crc);
                let Some(frame) = frame else {
                    // Perhaps the end, perhaps damage: what can be found further on tells.
                    stop.get_or_insert((index, position));
                    position += 8;
                    continue;
                };
                durable_through = durable_through.max(frame.durable_through);
                let length = frame.length().next_multiple_of(8);
                if frame.group == next && stop.is_none() {
                    next += 1;
                    frames.push(Placed { part: index, position, frame });
                } else if frame.group >= next {
                    stop.get_or_insert((index, position));
                }
                position += length;
            }
        }
        if durable_through >= next {
            let (part, position) = stop.unwrap_or((parts.len() - 1, parts[parts.len() - 1].bytes.len()));
            let what = format!("group {next} was durable and cannot be read; groups up to {durable_through} were");
            return Err(Error::damaged(&parts[part].path, position as u64, what));
        }
        Ok((frames, durable_through))
    }

    /// Applies the frames to the catalog, up to the first behind D whose batches are not all there. For each frame accepted,
    /// its batches.
    fn accept(&mut self, parts: &[Part], frames: &[Placed], durable_through: u64) -> Result<Vec<Vec<Batch>>, Error> {
        let mut accepted = Vec::new();
        for placed in frames {
            let path = &parts[placed.part].path;
            let damaged = |what: &str| Error::damaged(path, placed.position as u64, what);
            let start = placed.position + FRAME_HEADER;
            let records = &parts[placed.part].bytes[start..start + placed.frame.record_bytes];
            let commits = decode_commits(records).map_err(|error| match error {
                Undecodable::UnknownTag(_) => {
                    Error::NewerFormat { file: path.clone(), found: VERSION + 1, known: VERSION }
                }
                Undecodable::Malformed => damaged("malformed records"),
            })?;
            let (mut batches, mut undo, mut made) = (Vec::new(), Vec::new(), Vec::new());
            for change in commits.iter().flat_map(|(_, changes)| changes) {
                undo.push(self.catalog.apply(change).map_err(|misfit| damaged(misfit.0))?);
                match change {
                    Change::Segment { tp, base_offset, .. } => made.push((*tp, *base_offset)),
                    Change::Append { tp, position, length, crc, .. } => batches.push(Batch {
                        tp: *tp,
                        segment: self.catalog.last_segment(*tp).map_or(0, |segment| segment.base_offset),
                        position: *position,
                        length: *length,
                        crc: *crc,
                    }),
                    _ => {}
                }
            }
            self.young.extend(made);
            check_batches(&placed.frame, &batches).map_err(damaged)?;
            let durable = placed.frame.group <= durable_through;
            if durable && !placed.frame.whole {
                self.holders.extend(batches.iter().map(|batch| (batch.tp, batch.segment)));
            }
            let sure = placed.frame.whole || durable;
            if !sure && !self.are_there(&batches)? {
                undo.into_iter().rev().for_each(|undo| self.catalog.undo(undo));
                break;
            }
            self.group = placed.frame.group;
            self.seq = commits.last().map_or(self.seq, |(seq, _)| *seq);
            accepted.push(batches);
        }
        Ok(accepted)
    }

    /// Whether batches that only their segments hold are on the device.
    fn are_there(&mut self, batches: &[Batch]) -> Result<bool, Error> {
        for batch in batches {
            let (file, salt) = match (self.segment_file(batch.tp, batch.segment), self.salt(batch.tp, batch.segment)) {
                (Ok(file), Some(salt)) => (file, salt),
                (Err(Error::Damaged { .. }), _) | (Ok(_), None) => return Ok(false),
                (Err(error), _) => return Err(error),
            };
            let mut bytes = vec![0; batch.length as usize];
            let read = file.read_device_at(&mut bytes, batch.position);
            let read = read.map_err(|error| Error::io("read", &self.dir.segment(batch.tp, batch.segment), error))?;
            let header = bytes.first_chunk::<BATCH_HEADER>().and_then(|bytes| BatchHeader::parse(bytes));
            let intact = header.is_some_and(|header| header.crc == batch.crc && header.verify(salt, &bytes));
            if read < bytes.len() || !(intact || self.options.has(Planted::NoCrcCheck)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn salt(&self, tp: TopicPartition, base_offset: u64) -> Option<u32> {
        let segments = self.catalog.segments.get(&tp)?;
        Some(segments.iter().find(|segment| segment.base_offset == base_offset)?.salt)
    }

    /// Opens a segment as the device has it. One that was made after the snapshot, and of which nothing was sure to be on the
    /// device, is made again where it is missing.
    fn segment_file(&mut self, tp: TopicPartition, base_offset: u64) -> Result<Arc<dyn File>, Error> {
        if let Some(file) = self.files.get(&(tp, base_offset)) {
            return Ok(file.clone());
        }
        let path = self.dir.segment(tp, base_offset);
        let salt = self.salt(tp, base_offset).ok_or_else(|| Error::damaged(&path, 0, "not in the catalog"))?;
        let key = (tp, base_offset);
        let file = match self.open_unsure(&path) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if !self.is_unsure(&key) {
                    return Err(Error::damaged(&path, 0, "the file is missing"));
                }
                let topic = self.dir.topic(tp.topic);
                self.disk.create_dir_all(&topic).map_err(|error| Error::io("create", &topic, error))?;
                create_file(&*self.disk, &path, self.directory, tp, base_offset, salt)?
            }
            // Whatever else it is, it is no reason to touch the file.
            Err(error) => return Err(error),
        };
        self.bring_header(&*file, &path, key, salt)?;
        self.files.insert((tp, base_offset), file.clone());
        Ok(file)
    }

    /// Whether nothing of a segment was sure to be on the device.
    fn is_unsure(&self, key: &(TopicPartition, u64)) -> bool {
        self.young.contains(key) && !self.holders.contains(key)
    }

    /// Sees that a segment's header is right. That of one of which nothing was sure to be on the device may not have reached it,
    /// or be that of an attempt that failed; it says nothing that the commit log does not say, so it is written again.
    fn bring_header(&self, file: &dyn File, path: &Path, key: (TopicPartition, u64), salt: u32) -> Result<(), Error> {
        let mut bytes = [0; FILE_HEADER as usize];
        let read = file.read_device_at(&mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
        let header = segment_header(self.directory, key.0, key.1, salt);
        if FileHeader::parse(&bytes[..read], Kind::Segment, path)? == Some(header) {
            Ok(())
        } else if self.is_unsure(&key) {
            header.write(file, path)
        } else {
            Err(Error::damaged(path, 0, "not this segment's file header"))
        }
    }

    /// Step 3 and 4 for the segments.
    fn bring_segments(
        &mut self,
        parts: &[Part],
        frames: &[Placed],
        batches: &[Vec<Batch>],
        durable_through: u64,
    ) -> Result<(), Error> {
        let trusting = self.options.has(Planted::TrustCacheAfterFailedSync);
        for (placed, batches) in frames.iter().zip(batches) {
            let part = &parts[placed.part];
            let mut carried = placed.position + FRAME_HEADER + placed.frame.record_bytes;
            for batch in batches {
                if placed.frame.whole {
                    let bytes = &part.bytes[carried..carried + batch.length as usize];
                    carried += batch.length as usize;
                    self.rewrite(batch, bytes)?;
                } else if placed.frame.group > durable_through && !trusting {
                    self.rewrite_as_read(batch)?;
                }
            }
        }
        let ends: Vec<_> = self.catalog.segments.iter().flat_map(|(tp, row)| row.iter().map(|s| (*tp, *s))).collect();
        let mut touched_topics = BTreeSet::new();
        for (tp, info) in ends {
            let touched = self.files.contains_key(&(tp, info.base_offset));
            if let Err(error) = self.bring_to_end(tp, info, touched) {
                self.note_damage(tp, error)?;
            }
            if touched {
                touched_topics.insert(tp.topic);
            }
        }
        let files: Vec<_> = self.files.values().cloned().collect();
        self.disk.sync_files(&files).map_err(|error| Error::io("sync segments of", &self.dir.root, error))?;
        for topic in self.catalog.topics.keys() {
            let path = self.dir.topic(*topic);
            self.disk.create_dir_all(&path).map_err(|error| Error::io("create", &path, error))?;
        }
        for path in touched_topics.into_iter().map(|topic| self.dir.topic(topic)).chain([self.dir.root.join("topics")])
        {
            self.disk.sync_dir(&path).map_err(|error| Error::io("sync", &path, error))?;
        }
        self.remove_strangers()
    }

    /// Writes a batch where it belongs.
    fn rewrite(&mut self, batch: &Batch, bytes: &[u8]) -> Result<(), Error> {
        let path = self.dir.segment(batch.tp, batch.segment);
        match self.segment_file(batch.tp, batch.segment) {
            Ok(file) => {
                self.report.redone_batches += 1;
                file.write_at(&[IoSlice::new(bytes)], batch.position).map_err(|error| Error::io("write", &path, error))
            }
            Err(error) => self.note_damage(batch.tp, error),
        }
    }

    /// A batch that only its segment holds may be known to the cache alone: what was read is written again.
    fn rewrite_as_read(&mut self, batch: &Batch) -> Result<(), Error> {
        let path = self.dir.segment(batch.tp, batch.segment);
        let file = self.segment_file(batch.tp, batch.segment)?;
        let mut bytes = vec![0; batch.length as usize];
        let read = file.read_at(&mut bytes, batch.position).map_err(|error| Error::io("read", &path, error))?;
        if read < bytes.len() {
            return Err(Error::damaged(&path, batch.position + read as u64, "the file is too short"));
        }
        file.write_at(&[IoSlice::new(&bytes)], batch.position).map_err(|error| Error::io("write", &path, error))
    }

    /// Damage stops its partition; anything else stops the start.
    fn note_damage(&mut self, tp: TopicPartition, error: Error) -> Result<(), Error> {
        let Error::Damaged { file, .. } = &error else { return Err(error) };
        if !self.damaged.contains_key(&tp) {
            self.report.damaged.push(file.clone());
            self.damaged.insert(tp, error);
        }
        Ok(())
    }

    /// Sees that a segment has the length it should have; what is beyond was never acknowledged and is cut.
    fn bring_to_end(&self, tp: TopicPartition, info: crate::catalog::SegmentInfo, touched: bool) -> Result<(), Error> {
        let path = self.dir.segment(tp, info.base_offset);
        let io = |error| Error::io("open", &path, error);
        let file = match self.files.get(&(tp, info.base_offset)) {
            Some(file) => file.clone(),
            None => match self.disk.open(&path, Open::Write) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(Error::damaged(&path, 0, "the file is missing"));
                }
                file => file.map_err(io)?,
            },
        };
        let length = file.len().map_err(io)?;
        if length < info.end_position {
            return Err(Error::damaged(&path, length, "the file is too short"));
        }
        if self.catalog.last_segment(tp) == Some(&info) {
            // It grows again: an index that was written when it was thought to be full would mislead.
            let index = path.with_extension("index");
            self.disk.remove(&index).map_err(|error| Error::io("remove", &index, error))?;
        }
        if length > info.end_position && !self.options.has(Planted::ForgetTruncation) {
            tracing::info!(file = %path.display(), bytes = length - info.end_position, "cut an unfinished end");
            file.set_len(info.end_position).map_err(|error| Error::io("cut", &path, error))?;
            if !touched {
                file.sync().map_err(|error| Error::io("sync", &path, error))?;
            }
        }
        Ok(())
    }

    /// Removes segments that no accepted commit made, at or behind the end of their partition.
    fn remove_strangers(&self) -> Result<(), Error> {
        for topic in self.catalog.topics.values() {
            let dir = self.dir.topic(topic.id);
            let names = self.disk.list(&dir).map_err(|error| Error::io("list", &dir, error))?;
            for name in names.iter().filter(|name| name.ends_with(".segment")) {
                let partition = name.split('-').next().and_then(|text| text.parse().ok());
                let (Some(partition), Some(base)) = (partition, number(name, ".segment")) else { continue };
                let tp = TopicPartition { topic: topic.id, partition };
                if self.salt(tp, base).is_none() && base >= self.catalog.next_offset(tp) {
                    let path = dir.join(name);
                    self.disk.remove(&path).map_err(|error| Error::io("remove", &path, error))?;
                }
            }
        }
        Ok(())
    }

    /// Step 4 for the commit log: keeps the accepted frames, written again and synced, and nothing else.
    fn cut_commit_log(&mut self, mut parts: Vec<Part>, accepted: &[Placed]) -> Result<CommitLog, Error> {
        let end = accepted.last().map(|placed| (placed.part, placed.position + placed.frame.length()));
        let (last, end) = end.unwrap_or((0, FILE_HEADER as usize));
        for part in parts.drain(last + 1..) {
            self.report.cut_bytes += part.bytes.len() as u64 - FILE_HEADER;
            self.disk.remove(&part.path).map_err(|error| Error::io("remove", &part.path, error))?;
        }
        let Some(part) = parts.pop() else {
            return Err(Error::damaged(&self.dir.commits(), 0, "no commit log"));
        };
        self.report.cut_bytes += (part.bytes.len() - end) as u64;
        let write = || {
            if !self.options.has(Planted::ForgetTruncation) {
                part.file.set_len(end as u64)?;
            }
            if !self.options.has(Planted::TrustCacheAfterFailedSync) {
                part.file.write_at(&[IoSlice::new(&part.bytes[..end])], 0)?;
            }
            part.file.sync()?;
            self.disk.sync_dir(&self.dir.commits())
        };
        write().map_err(|error| Error::io("write", &part.path, error))?;
        if self.report.cut_bytes > 0 {
            tracing::info!(bytes = self.report.cut_bytes, file = %part.path.display(), "cut an unfinished end");
        }
        Ok(CommitLog { file: part.file, path: part.path, salt: part.salt, position: end as u64 })
    }

    /// Step 5.
    fn into_committer(mut self, clock: Arc<dyn Clock>, rng: Rng, commit_log: CommitLog) -> (Committer, Report) {
        let shared = Arc::new(Shared::default());
        shared.publish_all(&self.catalog);
        shared.set_seq(self.seq);
        for topic in self.catalog.topics.values() {
            for partition in 0..topic.partitions {
                let tp = TopicPartition { topic: topic.id, partition };
                let infos = self.catalog.segments.get(&tp).map_or(&[][..], Vec::as_slice);
                let segments: Vec<_> = infos
                    .iter()
                    .map(|info| {
                        let path = self.dir.segment(tp, info.base_offset);
                        Arc::new(Segment::existing(&self.disk, path, self.directory, tp, info))
                    })
                    .collect();
                let damage = self.damaged.remove(&tp);
                let partition = Partition::new(tp, segments, self.catalog.next_offset(tp));
                damage.map(|damage| partition.noting(damage));
                shared.add_partition(partition);
            }
        }
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
            unsynced_bytes: 0,
            snapshot_time: self.snapshot_time,
            snapshot_not_before: i64::MIN,
            shared,
            poisoned: None,
        };
        (committer, self.report)
    }
}
