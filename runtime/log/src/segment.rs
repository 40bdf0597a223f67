//! One segment of a partition, as its readers share it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sluice_env::{Disk, File, Open};

use crate::catalog::{Hole, SegmentInfo};
use crate::change::TopicPartition;
use crate::error::{Error, is_unreadable};
use crate::file_header::{FILE_HEADER, FileHeader, Kind};
use crate::index::{Index, SPACING};
use crate::stored_batch::{BATCH_HEADER, BatchHeader};

pub(crate) struct Segment {
    pub(crate) base_offset: u64,
    pub(crate) path: PathBuf,
    disk: Arc<dyn Disk>,
    header: FileHeader,
    file: OnceLock<Arc<dyn File>>,
    /// Bytes that readers may see.
    committed: AtomicU64,
    last_append_time: AtomicI64,
    /// `None` until somebody needs it.
    index: Mutex<Option<Index>>,
}

impl Segment {
    /// A segment that is there already; its file is opened and its index read when they are needed.
    pub(crate) fn existing(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        directory: u64,
        tp: TopicPartition,
        info: &SegmentInfo,
    ) -> Self {
        Self {
            base_offset: info.base_offset,
            path,
            disk: disk.clone(),
            header: segment_header(directory, tp, info.base_offset, info.salt),
            file: OnceLock::new(),
            committed: AtomicU64::new(info.end_position),
            last_append_time: AtomicI64::new(info.times.map_or(i64::MIN, |times| times.last)),
            index: Mutex::new(None),
        }
    }

    /// A segment that was just made.
    pub(crate) fn created(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        directory: u64,
        tp: TopicPartition,
        info: &SegmentInfo,
        file: Arc<dyn File>,
    ) -> Self {
        let segment = Self::existing(disk, path, directory, tp, info);
        segment.committed.store(FILE_HEADER, Ordering::Release);
        let _ = segment.file.set(file);
        *segment.index.lock().unwrap_or_else(PoisonError::into_inner) = Some(Index::default());
        segment
    }

    /// Its partition and base offset.
    pub(crate) fn id(&self) -> (TopicPartition, u64) {
        let FileHeader { topic, partition, first, .. } = self.header;
        (TopicPartition { topic, partition }, first)
    }

    pub(crate) fn salt(&self) -> u32 {
        self.header.salt
    }

    /// The end of what readers may see.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Makes a batch visible to readers.
    pub(crate) fn publish(&self, batch: &BatchHeader, position: u64) {
        if let Some(index) = &mut *self.index.lock().unwrap_or_else(PoisonError::into_inner) {
            index.note(batch, position);
        }
        self.last_append_time.store(batch.append_time, Ordering::Release);
        self.committed.store(position + batch.stored_bytes() as u64, Ordering::Release);
    }

    /// When its last batch was appended.
    pub(crate) fn last_append_time(&self) -> i64 {
        self.last_append_time.load(Ordering::Acquire)
    }

    /// Writes the index of a segment that will not grow any more. It can be rebuilt, so a failure costs only time.
    pub(crate) fn save_index(&self) {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(index) = index
            && let Err(error) = index.save(&*self.disk, &self.index_path(), self.header, self.committed())
        {
            tracing::warn!(%error, "an index was not written; it will be rebuilt when it is needed");
        }
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, Error> {
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let opened = self.disk.open(&self.path, Open::Read);
                let opened = opened.map_err(|error| self.cannot_read(0, error))?;
                self.file.get_or_init(|| opened)
            }
        };
        file.read_at(buffer, position).map_err(|error| self.cannot_read(position, error))
    }

    /// A missing file and a device that cannot read it are damage; that there are too many files open, say, is not.
    fn cannot_read(&self, position: u64, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound || is_unreadable(&error) {
            Error::damaged(&self.path, position, error.to_string())
        } else {
            Error::io("read", &self.path, error)
        }
    }

    /// A position at which a batch begins, at or before the one that holds `offset`, with that batch's base offset.
    pub(crate) fn seek(&self, offset: u64, holes: &[Hole]) -> Result<(u64, u64), Error> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match &mut *index {
            Some(index) => index,
            empty => {
                let loaded = Index::load(&*self.disk, &self.index_path(), self.header, self.committed());
                empty.insert(loaded.map_or_else(|| self.scan(holes), Ok)?)
            }
        };
        let Some(entry) = index.before(offset) else { return Ok((self.base_offset, FILE_HEADER)) };
        // An index that was written before a repair knows of no holes.
        let holes = holes.iter().filter(|hole| hole.segment == self.base_offset);
        let hole = { holes }.find(|hole| (hole.position..hole.end_position).contains(&entry.position));
        Ok(hole.map_or((entry.offset, entry.position), |hole| (hole.from, hole.position)))
    }

    /// Rebuilds the index from the headers of the batches. Bodies are not checked: readers do that.
    fn scan(&self, holes: &[Hole]) -> Result<Index, Error> {
        let mut index = Index::default();
        self.walk(holes, &mut |header, position| {
            index.note(header, position);
            false
        })?;
        Ok(index)
    }

    /// The base offset of the first batch that is wanted.
    pub(crate) fn find_batch(
        &self,
        holes: &[Hole],
        wanted: &dyn Fn(&BatchHeader) -> bool,
    ) -> Result<Option<u64>, Error> {
        let mut found = None;
        self.walk(holes, &mut |header, _| {
            found = wanted(header).then_some(header.base_offset);
            found.is_some()
        })?;
        Ok(found)
    }

    /// When the batch was appended that holds an event.
    pub(crate) fn append_time(&self, offset: u64, holes: &[Hole]) -> Result<Option<i64>, Error> {
        let mut found = None;
        self.walk_from(self.seek(offset, holes)?, SPACING as usize, holes, &mut |header, _| {
            let holds = header.end_offset() > offset;
            found = holds.then_some(header.append_time);
            holds
        })?;
        Ok(found)
    }

    /// Shows the header of each batch, with its position, until `enough` says so.
    fn walk(&self, holes: &[Hole], enough: &mut dyn FnMut(&BatchHeader, u64) -> bool) -> Result<(), Error> {
        self.walk_from((self.base_offset, FILE_HEADER), 1 << 20, holes, enough)
    }

    /// The same from a batch on, by its base offset and position, reading so many bytes at once.
    fn walk_from(
        &self,
        (mut next, mut position): (u64, u64),
        at_once: usize,
        holes: &[Hole],
        enough: &mut dyn FnMut(&BatchHeader, u64) -> bool,
    ) -> Result<(), Error> {
        let end = self.committed();
        let (mut chunk, mut chunk_start, mut filled) = (vec![0; at_once.min(end as usize)], 0, 0);
        while position < end {
            if let Some(hole) = self.hole_at(holes, position) {
                (position, next) = (hole.end_position, hole.to);
                continue;
            }
            let mut at = (position - chunk_start) as usize;
            if chunk_start == 0 || at + BATCH_HEADER > filled {
                filled = self.read_at(&mut chunk, position)?;
                (chunk_start, at) = (position, 0);
            }
            let header = chunk[at..filled].first_chunk::<BATCH_HEADER>().and_then(|bytes| BatchHeader::parse(bytes));
            let Some(header) = header.filter(|header| header.base_offset == next) else {
                return Err(Error::damaged(&self.path, position, "not a batch header"));
            };
            if enough(&header, position) {
                return Ok(());
            }
            next = header.end_offset();
            position += header.stored_bytes() as u64;
        }
        Ok(())
    }

    /// The hole that begins at this position.
    pub(crate) fn hole_at<'a>(&self, holes: &'a [Hole], position: u64) -> Option<&'a Hole> {
        holes.iter().find(|hole| hole.segment == self.base_offset && hole.position == position)
    }
}

/// Makes the file of a new segment, replacing what a crash may have left of it; not synced.
pub(crate) fn create_file(
    disk: &dyn Disk,
    path: &Path,
    directory: u64,
    tp: TopicPartition,
    base_offset: u64,
    salt: u32,
) -> Result<Arc<dyn File>, Error> {
    let create = || {
        disk.remove(path)?;
        disk.open(path, Open::Create)
    };
    let file = create().map_err(|error| Error::io("create", path, error))?;
    segment_header(directory, tp, base_offset, salt).write(&*file, path)?;
    Ok(file)
}

pub(crate) fn segment_header(directory: u64, tp: TopicPartition, base_offset: u64, salt: u32) -> FileHeader {
    FileHeader { kind: Kind::Segment, salt, directory, first: base_offset, topic: tp.topic, partition: tp.partition }
}
