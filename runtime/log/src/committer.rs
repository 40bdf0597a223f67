//! Group commit: takes all waiting commits, makes them durable together, then visible.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use sluice_env::{Clock, Disk, File, Open, Rng};

use crate::catalog::{Catalog, SegmentInfo, Undo};
use crate::change::{Change, TopicPartition, encode_commit};
use crate::codec::Encoder;
use crate::commit::{Append, Appended, Commit, Committed};
use crate::commit_log::CommitLog;
use crate::compression::Compression;
use crate::directory::Directory;
use crate::error::Error;
use crate::frame::{Frame, FrameInfo};
use crate::log::Shared;
use crate::options::{Durability, Options, Planted};
use crate::retention;
use crate::segment::{Segment, create_file};
use crate::spare::BATCHES;
use crate::stored_batch::{BATCH_HEADER, BatchHeader};
use crate::upkeep::{Removal, Upkeep};

/// After so many bytes in segments the device begins to write them.
const BEGIN_SYNC_BYTES: u64 = 2 << 20;

/// The one writer of a data directory.
///
/// **Groups never overlap**: the next group is written after this one's syncs have returned. **Nothing is published or
/// answered before it is as durable as the directory's durability says.** A failed sync, or a write that cannot be taken
/// back, poisons the log: nothing is written any more.
pub(crate) struct Committer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) dir: Directory,
    pub(crate) directory: u64,
    pub(crate) options: Options,
    pub(crate) catalog: Catalog,
    pub(crate) commit_log: CommitLog,
    pub(crate) writers: HashMap<TopicPartition, Writer>,
    /// Segments with bytes that are not synced; the commit log carries these bytes, or they may be lost.
    pub(crate) unsynced: BTreeMap<(TopicPartition, u64), Arc<dyn File>>,
    /// Directories with names that are not synced.
    pub(crate) new_names: BTreeSet<PathBuf>,
    /// Segments made by the group in hand, which readers don't know yet.
    pub(crate) fresh: Vec<(TopicPartition, Arc<Segment>)>,
    pub(crate) group: u64,
    pub(crate) seq: u64,
    /// All groups up to this one are synced.
    pub(crate) durable_through: u64,
    /// What the last frame said of that; an empty frame counts as saying it of itself.
    pub(crate) announced: u64,
    /// What the last frame said of that, and what the last one says that is sure to be on the device.
    pub(crate) told: u64,
    pub(crate) told_durably: u64,
    /// Bytes in segments that are not synced.
    pub(crate) unsynced_bytes: u64,
    /// Of these, those that the device was not told of.
    pub(crate) untold_bytes: u64,
    /// When the last group was committed: append times never go back.
    pub(crate) last_time: i64,
    pub(crate) upkeep: Upkeep,
    pub(crate) shared: Arc<Shared>,
    pub(crate) poisoned: Option<Arc<str>>,
}

/// The end of a partition that is being written.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) file: Arc<dyn File>,
    pub(crate) segment: Arc<Segment>,
}

/// A commit that was found good, its changes made in the catalog.
#[derive(Default)]
struct Planned {
    committed: Committed,
    changes: Vec<Change>,
    batches: Vec<PlannedBatch>,
    undo: Vec<Undo>,
}

impl Planned {
    /// What its commit is answered; the memory of what was written is handed on.
    fn answer(self) -> Committed {
        self.batches.into_iter().for_each(|planned| BATCHES.give(planned.append.batch.into_memory()));
        self.committed
    }
}

struct PlannedBatch {
    to: TopicPartition,
    append: Append,
    header: BatchHeader,
    header_bytes: [u8; BATCH_HEADER],
    /// Base offset of its segment.
    segment: u64,
    position: u64,
}

/// What has been written of a group, so that it can be taken back.
#[derive(Default)]
struct Written {
    /// Segments made for it.
    created: Vec<(TopicPartition, Writer)>,
    /// Segments that were there, with their ends before.
    grown: Vec<(Writer, u64)>,
}

impl Written {
    fn writers(&self) -> impl Iterator<Item = &Writer> {
        self.created.iter().map(|(_, writer)| writer).chain(self.grown.iter().map(|(writer, _)| writer))
    }
}

impl Committer {
    /// Commits a group. Each commit gets its own answer, but what the disk refuses, it refuses to all.
    pub(crate) fn commit_group(&mut self, commits: Vec<Commit>) -> Vec<Result<Committed, Error>> {
        if let Some(reason) = &self.poisoned {
            let error = Error::Poisoned(reason.clone());
            return commits.iter().map(|_| Err(error.clone())).collect();
        }
        let (now, begun) = (self.now(), self.clock.elapsed());
        let seq_before = self.seq;
        let urgent = commits.iter().any(|commit| commit.order.is_some());
        let mut planned: Vec<_> = commits.into_iter().map(|commit| self.plan(commit, now)).collect();
        let good = || planned.iter().flatten();
        if good().all(|planned| planned.changes.is_empty()) {
            return planned.into_iter().map(|planned| planned.map(|planned| planned.committed)).collect();
        }
        let written = self.write_planned(&good().collect::<Vec<_>>(), seq_before + 1, now, urgent);
        if let Err(error) = written {
            let undo = planned.iter_mut().flatten().flat_map(|planned| std::mem::take(&mut planned.undo));
            self.catalog.undo_all(undo.collect());
            self.seq = seq_before;
            self.keep_up(now);
            return planned.into_iter().map(|planned| planned.and(Err(error.clone()))).collect();
        }
        let touched = self.publish(planned.iter().flatten());
        let batches = planned.iter().flatten().flat_map(|planned| &planned.batches);
        let bytes: u64 = batches.map(|batch| batch.header.stored_bytes() as u64).sum();
        let (commits, took) = (planned.iter().flatten().count() as u64, self.clock.elapsed().saturating_sub(begun));
        self.shared.worked(|work| {
            work.groups += 1;
            work.commits += commits;
            work.bytes += bytes;
            work.group.observe(took);
        });
        let answers = planned.into_iter().map(|planned| planned.map(Planned::answer)).collect();
        self.shared.wake(&touched);
        self.keep_up(now);
        answers
    }

    /// Commits what the log itself has to change.
    pub(crate) fn commit_changes(&mut self, changes: Vec<Change>, now: i64) -> Result<(), Error> {
        let seq_before = self.seq;
        let mut planned = Planned::default();
        let made = changes.into_iter().try_for_each(|change| self.make(change, now, &mut planned));
        self.seq += 1;
        planned.committed.seq = self.seq;
        if let Err(error) = made.and_then(|()| self.write_planned(&[&planned], self.seq, now, true)) {
            self.catalog.undo_all(planned.undo);
            self.seq = seq_before;
            return Err(error);
        }
        self.publish(std::iter::once(&planned));
        Ok(())
    }

    /// Now, as the log counts time: never before the last group.
    pub(crate) fn now(&mut self) -> i64 {
        self.last_time = self.last_time.max(self.clock.now());
        self.last_time
    }

    /// Writes a group; where there is no space, in that of a spare part of the commit log, and an urgent one may use up the reserve.
    fn write_planned(&mut self, planned: &[&Planned], first_seq: u64, now: i64, urgent: bool) -> Result<(), Error> {
        let mut result = self.write_group(planned, first_seq, now);
        if matches!(result, Err(Error::NoSpace { .. })) && self.give_up_spare() {
            result = self.write_group(planned, first_seq, now);
        }
        if matches!(result, Err(Error::NoSpace { .. })) && urgent && self.give_up_reserve() {
            result = self.write_group(planned, first_seq, now);
        }
        result
    }

    /// Checks a commit against what exists, and makes its changes in the catalog.
    fn plan(&mut self, commit: Commit, now: i64) -> Result<Planned, Error> {
        let mut planned = Planned::default();
        match self.plan_changes(commit, now, &mut planned) {
            Ok(()) => {
                if !planned.changes.is_empty() {
                    self.seq += 1;
                }
                planned.committed.seq = self.seq;
                Ok(planned)
            }
            Err(error) => {
                self.catalog.undo_all(planned.undo);
                Err(error)
            }
        }
    }

    fn plan_changes(&mut self, commit: Commit, now: i64, planned: &mut Planned) -> Result<(), Error> {
        for change in commit.changes(&self.catalog)? {
            self.make(change, now, planned)?;
        }
        if let Some(sequence) = &commit.sequence {
            let events: u64 = commit.appends.iter().map(|append| u64::from(append.batch.count())).sum();
            let changes = sequence.changes(&self.catalog, events, now)?;
            if changes.is_empty() {
                planned.committed.repeated = true;
                return Ok(());
            }
            for change in changes {
                self.make(change, now, planned)?;
            }
        }
        let producer = commit.sequence.map_or((0, 0), |sequence| {
            let known = self.catalog.producers.get(&(sequence.producer, sequence.topic));
            (known.map_or(0, |known| known.id), sequence.first)
        });
        for append in commit.appends {
            self.plan_append(append, producer, now, planned)?;
        }
        Ok(())
    }

    fn make(&mut self, change: Change, now: i64, planned: &mut Planned) -> Result<(), Error> {
        let undo = self.catalog.apply(&change, now).map_err(|misfit| Error::Invalid(misfit.0.to_owned()))?;
        planned.undo.push(undo);
        planned.changes.push(change);
        Ok(())
    }

    fn plan_append(
        &mut self,
        append: Append,
        (producer, sequence): (u64, u64),
        now: i64,
        planned: &mut Planned,
    ) -> Result<(), Error> {
        let to = append.to;
        append.check(&self.catalog)?;
        self.shared.partition(to).map_or(Ok(()), |partition| partition.check())?;
        let settings = self.catalog.topics.get(&to.topic).map(|topic| topic.settings).unwrap_or_default();
        let info = self.catalog.partitions.get(&to);
        let gave_up_end = |segment: &SegmentInfo| info.is_some_and(|info| info.gave_up_end(segment));
        let room = |segment: &&SegmentInfo| {
            retention::has_room(segment, &settings, self.options.segment_bytes, now) && !gave_up_end(segment)
        };
        let segment = match self.catalog.last_segment(to).filter(room) {
            Some(segment) => *segment,
            None => {
                let (base_offset, salt) = (self.catalog.next_offset(to), self.rng.next_u64() as u32);
                self.make(Change::Segment { tp: to, base_offset, salt }, now, planned)?;
                *self.catalog.last_segment(to).ok_or_else(|| Error::Invalid("a segment was not made".into()))?
            }
        };
        let (min_timestamp, max_timestamp) = append.batch.timestamps();
        let mut header = BatchHeader {
            crc: 0,
            stored_region: 0,
            region_bytes: append.batch.bytes().len() as u32,
            compression: append.packed.as_ref().map_or(Compression::None, |packed| packed.compression),
            padding: append.packed.as_ref().map_or(0, |packed| packed.padding),
            count: append.batch.count(),
            base_offset: segment.end_offset,
            append_time: now,
            min_timestamp,
            max_timestamp,
            producer,
            sequence,
        };
        let header_bytes = header.seal(segment.salt, append.stored());
        let change = Change::Append {
            tp: to,
            base_offset: header.base_offset,
            count: header.count,
            crc: header.crc,
            position: segment.end_position,
            length: header.stored_bytes() as u64,
        };
        self.make(change, now, planned)?;
        planned.committed.appended.push(Appended { to, base_offset: header.base_offset, count: header.count });
        let (segment, position) = (segment.base_offset, segment.end_position);
        planned.batches.push(PlannedBatch { to, append, header, header_bytes, segment, position });
        Ok(())
    }

    /// Writes a group and makes it durable. After an error it is as if it had never been, or the log is poisoned.
    fn write_group(&mut self, planned: &[&Planned], first_seq: u64, now: i64) -> Result<(), Error> {
        let batches = || planned.iter().flat_map(|planned| &planned.batches);
        let bytes: u64 = batches().map(|batch| batch.header.stored_bytes() as u64).sum();
        let mut records = Encoder::default();
        let changed = planned.iter().filter(|planned| !planned.changes.is_empty());
        for planned in changed {
            encode_commit(planned.committed.seq, &planned.changes, &mut records);
        }
        let whole = self.options.durability == Durability::Fsync && bytes < self.options.whole_group_bytes;
        let carried = || {
            let parts = batches().flat_map(|batch| [&batch.header_bytes[..], batch.append.stored()]);
            parts.filter(move |_| whole)
        };
        let info =
            FrameInfo { group: self.group + 1, durable_through: self.durable_through, first_seq, time: now, whole };
        let frame = Frame::encode(info, self.commit_log.salt, &records.0, carried());
        let mut parts = vec![IoSlice::new(&frame), IoSlice::new(&records.0)];
        parts.extend(carried().map(IoSlice::new));

        let commit_start = self.commit_log.position;
        let mut written = Written::default();
        let result = self
            .make_topic_directories(planned)
            .and_then(|()| self.write_segments(planned, &mut written))
            .and_then(|()| self.commit_log.append(parts))
            .and_then(|()| self.make_durable(&written, whole, bytes));
        if let Err(error) = result {
            let taken_back = self.take_back(commit_start, &written);
            // After a failed sync the log has stopped, and nobody is answered for this group: what can be taken back of it, a
            // restart need not find, and whether that works makes no difference to what may be relied on.
            if self.poisoned.is_none() {
                taken_back.map_err(|error| self.poison(&error))?;
            }
            return Err(error);
        }
        for (tp, writer) in written.created {
            self.fresh.push((tp, writer.segment.clone()));
            if let Some(full) = self.writers.insert(tp, writer) {
                full.segment.save_index();
            }
        }
        self.group += 1;
        (self.announced, self.told) = (info.durable_through, info.durable_through);
        if self.durable_through == self.group {
            self.told_durably = self.told;
        }
        Ok(())
    }

    fn make_topic_directories(&mut self, planned: &[&Planned]) -> Result<(), Error> {
        for change in planned.iter().flat_map(|planned| &planned.changes) {
            if let Change::Topic { id, .. } = change {
                let path = self.dir.topic(*id);
                self.disk.create_dir_all(&path).map_err(|error| Error::io("create", &path, error))?;
                self.new_names.extend(path.parent().map(PathBuf::from));
            }
        }
        Ok(())
    }

    fn write_segments(&mut self, planned: &[&Planned], written: &mut Written) -> Result<(), Error> {
        let mut rows: BTreeMap<(TopicPartition, u64), Vec<&PlannedBatch>> = BTreeMap::new();
        for batch in planned.iter().flat_map(|planned| &planned.batches) {
            rows.entry((batch.to, batch.segment)).or_default().push(batch);
        }
        for ((tp, base_offset), row) in rows {
            let position = row[0].position;
            let writer = match self.existing_writer(tp, base_offset)? {
                Some(writer) => {
                    written.grown.push((writer.clone(), position));
                    writer
                }
                None => {
                    let writer = self.create_segment(tp, base_offset)?;
                    written.created.push((tp, writer.clone()));
                    writer
                }
            };
            let parts: Vec<_> = row
                .iter()
                .flat_map(|batch| [IoSlice::new(&batch.header_bytes), IoSlice::new(batch.append.stored())])
                .collect();
            let result = writer.file.write_at(&parts, position);
            result.map_err(|error| Error::io("write", &writer.segment.path, error))?;
        }
        Ok(())
    }

    /// The writer of a segment that is there, opened when it was made before this start.
    fn existing_writer(&mut self, tp: TopicPartition, base_offset: u64) -> Result<Option<Writer>, Error> {
        if let Some(writer) = self.writers.get(&tp).filter(|writer| writer.segment.base_offset == base_offset) {
            return Ok(Some(writer.clone()));
        }
        let last = self.shared.partition(tp).and_then(|partition| partition.last_segment());
        let Some(segment) = last.filter(|segment| segment.base_offset == base_offset) else { return Ok(None) };
        let file = self.disk.open(&segment.path, Open::Write);
        let file = file.map_err(|error| Error::io("open", &segment.path, error))?;
        let writer = Writer { file, segment };
        self.writers.insert(tp, writer.clone());
        Ok(Some(writer))
    }

    fn create_segment(&mut self, tp: TopicPartition, base_offset: u64) -> Result<Writer, Error> {
        let info = self.catalog.segment(tp, base_offset).copied();
        let info = info.ok_or_else(|| Error::Invalid("a segment was not planned".into()))?;
        let path = self.dir.segment(tp, base_offset);
        let file = create_file(&*self.disk, &path, self.directory, tp, base_offset, info.salt)?;
        self.new_names.insert(self.dir.topic(tp.topic));
        let segment = Segment::created(&self.disk, path, self.directory, tp, &info, file.clone());
        Ok(Writer { file, segment: Arc::new(segment) })
    }

    /// Cuts every file back to where the group began, as far as that goes.
    fn take_back(&mut self, commit_start: u64, written: &Written) -> Result<(), Error> {
        let mut result = self.commit_log.cut(commit_start);
        for (writer, position) in &written.grown {
            let cut = writer.file.set_len(*position);
            result = result.and(cut.map_err(|error| Error::io("cut", &writer.segment.path, error)));
        }
        for (_, writer) in &written.created {
            let removed = self.disk.remove(&writer.segment.path);
            result = result.and(removed.map_err(|error| Error::io("remove", &writer.segment.path, error)));
        }
        result
    }

    pub(crate) fn poison(&mut self, error: &Error) -> Error {
        tracing::error!(%error, "the log has stopped");
        let reason: Arc<str> = error.to_string().into();
        self.poisoned = Some(reason.clone());
        self.shared.fail(Error::Poisoned(reason.clone()));
        Error::Poisoned(reason)
    }

    fn make_durable(&mut self, written: &Written, whole: bool, bytes: u64) -> Result<(), Error> {
        let unsynced = written.writers().map(|writer| (writer.segment.id(), writer.file.clone()));
        self.unsynced.extend(unsynced);
        self.unsynced_bytes += bytes;
        let odd = self.group % 2 == 1;
        if (self.options.has(Planted::SkipSync) || self.options.has(Planted::OverlapGroups)) && odd {
            // Skipped for good, or until the next group has been written.
            self.durable_through = self.group + 1;
            return Ok(());
        }
        if self.options.durability != Durability::Fsync || self.options.has(Planted::AnswerBeforeSync) {
            return Ok(());
        }
        let mut files = vec![self.commit_log.file.clone()];
        if !whole {
            self.sync_names()?;
            files.extend(written.writers().map(|writer| writer.file.clone()));
        }
        self.sync(&files)?;
        self.untold_bytes += bytes;
        if self.untold_bytes >= BEGIN_SYNC_BYTES {
            // So that a snapshot, which syncs all of them, does not hold up everybody for long.
            self.untold_bytes = 0;
            self.unsynced.values().for_each(|file| file.begin_sync());
        }
        if !whole {
            written.writers().for_each(|writer| drop(self.unsynced.remove(&writer.segment.id())));
            self.unsynced_bytes -= bytes;
        }
        self.durable_through = self.group + 1;
        Ok(())
    }

    /// Syncs files; a failure is never retried, for the data may be lost and a second sync would not say so.
    pub(crate) fn sync(&mut self, files: &[Arc<dyn File>]) -> Result<(), Error> {
        let begun = self.clock.elapsed();
        let result = self.disk.sync_files(files);
        let took = self.clock.elapsed().saturating_sub(begun);
        self.shared.worked(|work| work.sync.observe(took));
        let result = result.map_err(|error| Error::io("sync", &self.commit_log.path, error));
        // What a sync aside has found out, this one need not say again.
        let result = result.and_then(|()| self.failure_aside().map_or(Ok(()), Err));
        result.map_err(|error| self.poison(&error))
    }

    pub(crate) fn sync_names(&mut self) -> Result<(), Error> {
        for path in std::mem::take(&mut self.new_names) {
            if self.options.has(Planted::ForgetDirectorySync) {
                continue;
            }
            if let Err(error) = self.disk.sync_dir(&path) {
                return Err(self.poison(&Error::io("sync", &path, error)));
            }
        }
        Ok(())
    }

    /// Lets readers see a group.
    fn publish<'a>(&mut self, planned: impl Iterator<Item = &'a Planned>) -> Vec<TopicPartition> {
        let mut touched = BTreeSet::new();
        let planned: Vec<_> = planned.collect();
        let changes = || planned.iter().flat_map(|planned| &planned.changes);
        // Whoever sees a cursor must find the outputs before it: what exists, then events, then cursors.
        let (moves, makes): (Vec<_>, Vec<_>) = changes()
            .partition(|change| matches!(change, Change::Input(_) | Change::Moved { .. } | Change::Producer { .. }));
        for change in makes {
            self.note_removals(change);
            self.shared.publish(change, &self.catalog);
        }
        for planned in &planned {
            for batch in &planned.batches {
                let Some(partition) = self.shared.partition(batch.to) else { continue };
                let fresh =
                    self.fresh.iter().position(|(tp, segment)| *tp == batch.to && segment.base_offset == batch.segment);
                if let Some(fresh) = fresh {
                    partition.push_segment(self.fresh.swap_remove(fresh).1);
                }
                let segment = partition.last_segment().filter(|segment| segment.base_offset == batch.segment);
                if let Some(segment) = segment {
                    segment.publish(&batch.header, batch.position);
                    partition.advance(batch.header.end_offset());
                    touched.insert(batch.to);
                }
            }
        }
        moves.into_iter().for_each(|change| self.shared.publish(change, &self.catalog));
        self.shared.set_seq(self.seq);
        touched.into_iter().collect()
    }

    /// Says in the log that the last group is synced, so that damage to it is told from a torn tail.
    pub(crate) fn cover(&mut self) -> Result<(), Error> {
        if self.poisoned.is_some() || self.announced == self.group || self.durable_through < self.group {
            return Ok(());
        }
        let now = self.now();
        self.write_group(&[], self.seq + 1, now)?;
        // The empty group is of no interest itself: nothing need be said of it again.
        self.announced = self.group;
        Ok(())
    }

    /// Whether [`cover`](Self::cover) has something to do.
    pub(crate) fn is_uncovered(&self) -> bool {
        self.poisoned.is_none() && self.announced < self.group && self.durable_through == self.group
    }

    /// Notes the files that a change makes superfluous: they go when nobody can need them any more.
    fn note_removals(&mut self, change: &Change) {
        match change {
            Change::LowMark { tp, offset } => {
                let gone = self.shared.partition(*tp).map(|partition| partition.raise_low_mark(*offset));
                let gone = gone.unwrap_or_default();
                let removals = gone.iter().map(|segment| Removal::Segment(*tp, segment.base_offset));
                self.upkeep.removals.extend(removals.map(|removal| (self.group, removal)));
                if self.writers.get(tp).is_some_and(|writer| writer.segment.base_offset < *offset) {
                    self.writers.remove(tp);
                }
            }
            Change::TopicDeleted { topic } => {
                self.upkeep.removals.push_back((self.group, Removal::Topic(*topic)));
                self.writers.retain(|tp, _| tp.topic != *topic);
                self.new_names.remove(&self.dir.topic(*topic));
            }
            _ => {}
        }
    }
}
