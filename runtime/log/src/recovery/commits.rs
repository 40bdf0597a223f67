//! The commit log at a start: which groups are accepted, and what is cut.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use sluice_env::{File, Open};

use super::{Batch, Part, Placed, Recovery};
use crate::change::{Change, Undecodable, decode_commits};
use crate::commit_log::CommitLog;
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind, VERSION, read_whole};
use crate::frame::{FRAME_HEADER, Frame};
use crate::options::{MAX_BATCH_BYTES, Planted};
use crate::stored_batch::BATCH_HEADER;

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

impl Recovery {
    /// The files of the commit log from the snapshot on.
    pub(super) fn read_parts(&self) -> Result<Vec<Part>, Error> {
        let firsts = CommitLog::list(&*self.disk, &self.dir)?;
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
                    let end = FILE_HEADER as usize;
                    parts.push(Part { file, path, first: *first, salt: header.salt, bytes, end });
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
    pub(super) fn open_unsure(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
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
    pub(super) fn read_frames(&self, parts: &mut [Part]) -> Result<(Vec<Placed>, u64), Error> {
        let check_crc = !self.options.has(Planted::NoCrcCheck);
        let (mut frames, mut durable_through, mut next) = (Vec::new(), self.group, self.group + 1);
        let mut stop: Option<(usize, usize)> = None;
        for (index, part) in parts.iter_mut().enumerate() {
            // A part is begun only after all before it was synced.
            durable_through = durable_through.max(part.first - 1);
            if next == part.first {
                // All of the part before was found: what stands behind its end is of an earlier use of its file.
                stop = None;
            }
            let mut position = FILE_HEADER as usize;
            while position < part.bytes.len() {
                let frame = Frame::parse(&part.bytes[position..], part.salt, check_crc);
                let Some(frame) = frame else {
                    // Perhaps the end, behind which an earlier part may have left something, perhaps damage: what can be found further on tells.
                    stop.get_or_insert((index, position));
                    position += 8;
                    continue;
                };
                durable_through = durable_through.max(frame.durable_through);
                let length = frame.length().next_multiple_of(8);
                part.end = (position + length).min(part.bytes.len());
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
    pub(super) fn accept(
        &mut self,
        parts: &[Part],
        frames: &[Placed],
        durable_through: u64,
    ) -> Result<Vec<Vec<Batch>>, Error> {
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
                undo.push(self.catalog.apply(change, placed.frame.time).map_err(|misfit| damaged(misfit.0))?);
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
                self.catalog.undo_all(undo);
                break;
            }
            self.group = placed.frame.group;
            self.last_time = self.last_time.max(placed.frame.time);
            self.seq = commits.last().map_or(self.seq, |(seq, _)| *seq);
            accepted.push(batches);
        }
        Ok(accepted)
    }

    /// Step 4 for the commit log: keeps the accepted frames, written again and synced, and nothing else.
    pub(super) fn cut_commit_log(&mut self, mut parts: Vec<Part>, accepted: &[Placed]) -> Result<CommitLog, Error> {
        let end = accepted.last().map(|placed| (placed.part, placed.position + placed.frame.length()));
        let (last, end) = end.unwrap_or((0, FILE_HEADER as usize));
        for part in parts.drain(last + 1..) {
            self.report.cut_bytes += part.end as u64 - FILE_HEADER;
            self.disk.remove(&part.path).map_err(|error| Error::io("remove", &part.path, error))?;
        }
        let Some(part) = parts.pop() else {
            return Err(Error::damaged(&self.dir.commits(), 0, "no commit log"));
        };
        self.report.cut_bytes += part.end.saturating_sub(end) as u64;
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
        let (position, length) = (end as u64, end as u64);
        Ok(CommitLog { file: part.file, path: part.path, salt: part.salt, first: part.first, position, length })
    }
}
