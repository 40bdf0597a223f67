//! Segments at a start: brought to where the accepted groups say.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use sluice_env::{File, Open};

use super::{Batch, Part, Placed, Recovery};
use crate::change::TopicPartition;
use crate::directory::number;
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind};
use crate::frame::FRAME_HEADER;
use crate::options::Planted;
use crate::segment::{create_file, segment_header};
use crate::stored_batch::{BATCH_HEADER, BatchHeader};
use crate::upkeep::Removal;

impl Recovery {
    /// Whether batches that only their segments hold are on the device.
    pub(super) fn are_there(&mut self, batches: &[Batch]) -> Result<bool, Error> {
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

    pub(super) fn salt(&self, tp: TopicPartition, base_offset: u64) -> Option<u32> {
        Some(self.catalog.segment(tp, base_offset)?.salt)
    }

    /// Opens a segment as the device has it. One that was made after the snapshot, and of which nothing was sure to be on the
    /// device, is made again where it is missing.
    pub(super) fn segment_file(&mut self, tp: TopicPartition, base_offset: u64) -> Result<Arc<dyn File>, Error> {
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
    pub(super) fn is_unsure(&self, key: &(TopicPartition, u64)) -> bool {
        self.young.contains(key) && !self.holders.contains(key)
    }

    /// Sees that a segment's header is right. That of one of which nothing was sure to be on the device may not have reached it,
    /// or be that of an attempt that failed; it says nothing that the commit log does not say, so it is written again.
    pub(super) fn bring_header(
        &self,
        file: &dyn File,
        path: &Path,
        key: (TopicPartition, u64),
        salt: u32,
    ) -> Result<(), Error> {
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
    pub(super) fn bring_segments(
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
                    // A later group may have let go of the segment.
                    if self.salt(batch.tp, batch.segment).is_some() {
                        self.rewrite(batch, bytes)?;
                    }
                } else if placed.frame.group > durable_through
                    && !trusting
                    && self.salt(batch.tp, batch.segment).is_some()
                {
                    self.rewrite_as_read(batch)?;
                }
            }
        }
        let partitions = self.catalog.partitions.iter();
        let ends: Vec<_> = partitions.flat_map(|(tp, info)| info.segments.iter().map(|s| (*tp, *s))).collect();
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
    pub(super) fn rewrite(&mut self, batch: &Batch, bytes: &[u8]) -> Result<(), Error> {
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
    pub(super) fn rewrite_as_read(&mut self, batch: &Batch) -> Result<(), Error> {
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
    pub(super) fn note_damage(&mut self, tp: TopicPartition, error: Error) -> Result<(), Error> {
        let Error::Damaged { file, .. } = &error else { return Err(error) };
        if !self.damaged.contains_key(&tp) {
            self.report.damaged.push(file.clone());
            self.damaged.insert(tp, error);
        }
        Ok(())
    }

    /// Sees that a segment has the length it should have; what is beyond was never acknowledged and is cut.
    pub(super) fn bring_to_end(
        &self,
        tp: TopicPartition,
        info: crate::catalog::SegmentInfo,
        touched: bool,
    ) -> Result<(), Error> {
        if self.catalog.partitions.get(&tp).is_some_and(|partition| partition.gave_up_end(&info)) {
            return Ok(());
        }
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

    /// Removes segments that no accepted commit made, at or behind the end of their partition; notes those that accepted commits
    /// let go of.
    pub(super) fn remove_strangers(&mut self) -> Result<(), Error> {
        for topic in self.catalog.topics.values() {
            let dir = self.dir.topic(topic.id);
            let names = self.disk.list(&dir).map_err(|error| Error::io("list", &dir, error))?;
            for name in names.iter().filter(|name| number(name, ".index").is_some()) {
                if !names.contains(&name.replace(".index", ".segment")) {
                    let path = dir.join(name);
                    self.disk.remove(&path).map_err(|error| Error::io("remove", &path, error))?;
                }
            }
            for name in names.iter().filter(|name| name.ends_with(".segment")) {
                let partition = name.split('-').next().and_then(|text| text.parse().ok());
                let (Some(partition), Some(base)) = (partition, number(name, ".segment")) else { continue };
                let tp = TopicPartition { topic: topic.id, partition };
                let path = dir.join(name);
                if self.salt(tp, base).is_some() {
                    continue;
                }
                if base >= self.catalog.next_offset(tp) {
                    self.disk.remove(&path).map_err(|error| Error::io("remove", &path, error))?;
                } else if base < self.catalog.low_mark(tp) {
                    self.superfluous.push(Removal::Segment(tp, base));
                }
            }
        }
        for id in (1..self.catalog.counters.topic).filter(|id| !self.catalog.topics.contains_key(id)) {
            let dir = self.dir.topic(id);
            if !self.disk.list(&dir).map_err(|error| Error::io("list", &dir, error))?.is_empty() {
                self.superfluous.push(Removal::Topic(id));
            }
        }
        Ok(())
    }
}
