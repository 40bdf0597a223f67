//! Reading a partition from an offset on, one after the other.

use std::sync::Arc;

use sluice_event::Region;

use crate::compression::Compression;
use crate::error::Error;
use crate::file_header::FILE_HEADER;
use crate::partition::Partition;
use crate::segment::Segment;
use crate::spare::{BATCHES, BUFFERS};
use crate::stored_batch::{BATCH_HEADER, BatchHeader};

/// Bytes asked of the file at once; a batch may be larger.
const READ_BYTES: usize = 1 << 20;

/// Events that were read, from one or several batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadBatch {
    /// Offset of the first event.
    pub base_offset: u64,
    /// How many there are; none when the reader stands at the high watermark.
    pub count: u32,
    /// The events region.
    pub bytes: Vec<u8>,
    /// When they were appended: the index of the first of some events, and when that was, ms since the epoch; in order.
    pub append_times: Vec<(u32, i64)>,
}

impl ReadBatch {
    /// The events, to be read.
    pub fn region(&self) -> Region<'_> {
        Region::new(&self.bytes, self.count)
    }

    /// Empties it, and gives back its memory.
    pub fn rest(&mut self) {
        BATCHES.give(std::mem::take(self).bytes);
    }

    /// Leaves only the first events.
    ///
    /// # Errors
    /// When the region is malformed.
    pub fn truncate(&mut self, events: u32) -> Result<(), Error> {
        if events < self.count {
            let kept = self.region().prefix(events, usize::MAX).map_err(|error| Error::Invalid(error.to_string()))?;
            let (kept, count) = (kept.bytes().len(), kept.count());
            self.bytes.truncate(kept);
            self.count = count;
        }
        Ok(())
    }
}

/// Reads one partition. Every batch's CRC is checked before anything of it is handed out.
pub struct Reader {
    partition: Arc<Partition>,
    /// The next offset to hand out.
    next: u64,
    segment: Option<Arc<Segment>>,
    /// Position in the segment and base offset of the next batch.
    position: u64,
    batch_offset: u64,
    /// Bytes of the segment from `buffer_start` on; the first `filled` of `buffer` are good.
    buffer: Vec<u8>,
    buffer_start: u64,
    filled: usize,
    /// The batch in hand, when it is compressed on disk.
    plain: Vec<u8>,
    is_plain: bool,
    /// Of the batch in hand: what is left of its region, as a range of `buffer` or `plain`, and how many events that is.
    left: std::ops::Range<usize>,
    left_events: u32,
    /// What was left before the last events of the batch in hand were handed out: the offset, where these begin, and how many were left.
    taken: Option<(u64, usize, u32)>,
    append_time: i64,
    check_crc: bool,
}

impl Reader {
    pub(crate) fn new(partition: Arc<Partition>, next: u64, check_crc: bool) -> Self {
        Self {
            partition,
            next,
            segment: None,
            position: 0,
            batch_offset: 0,
            buffer: Vec::new(),
            buffer_start: 0,
            filled: 0,
            plain: Vec::new(),
            is_plain: false,
            left: 0..0,
            left_events: 0,
            taken: None,
            append_time: 0,
            check_crc,
        }
    }

    /// The partition that is read.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// The next offset it will read.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// Goes on reading at `offset`. Back into what was handed out last, as where a call dealt with the first of its events only, nothing is read anew.
    pub fn seek(&mut self, offset: u64) {
        if offset != self.next && !self.step_back(offset) {
            (self.next, self.segment, self.left, self.left_events, self.taken) = (offset, None, 0..0, 0, None);
        }
    }

    /// Goes back into the events of the batch in hand that were handed out last, if the offset is of them.
    fn step_back(&mut self, offset: u64) -> bool {
        let Some((from, start, count)) = self.taken.filter(|(from, ..)| (*from..self.next).contains(&offset)) else {
            return false;
        };
        let bytes = if self.is_plain { &self.plain } else { &self.buffer };
        let Ok(left) = Region::new(&bytes[start..self.left.end], count).skip((offset - from) as u32) else {
            return false;
        };
        (self.left.start, self.left_events) = (self.left.end - left.bytes().len(), left.count());
        self.next = offset;
        true
    }

    /// Gives back the memory it reads into, until it reads again.
    pub fn rest(&mut self) {
        (self.plain, self.segment, self.left, self.left_events) = (Vec::new(), None, 0..0, 0);
        self.caught_up();
    }

    /// Gives back the memory it reads into, if all in it was handed out, and stays where it is.
    pub fn caught_up(&mut self) {
        if self.left_events == 0 {
            BUFFERS.give(std::mem::take(&mut self.buffer));
            (self.filled, self.taken) = (0, None);
        }
    }

    /// Puts the next events into `out`, in place of what it held: at most `max_events` of them and `max_bytes`, but for one
    /// event that is larger by itself. None at the high watermark. Where events are gone (retention, or the hole that a repair
    /// left), `out` begins behind them.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes are not what was written; the partition is stopped then.
    pub fn read(&mut self, max_events: u32, max_bytes: usize, out: &mut ReadBatch) -> Result<(), Error> {
        if out.bytes.capacity() == 0 {
            out.bytes = BATCHES.take();
        }
        out.bytes.clear();
        out.append_times.clear();
        out.count = 0;
        let high_watermark = self.partition.high_watermark();
        self.partition.check_exists()?;
        while self.next < high_watermark && out.count < max_events {
            if self.left_events == 0 {
                let low_mark = self.partition.low_mark();
                if self.next < low_mark {
                    if out.count > 0 {
                        break;
                    }
                    self.seek(low_mark);
                    continue;
                }
                match self.load_batch() {
                    Ok(true) => {}
                    // A hole: what is behind it begins a batch of its own.
                    Ok(false) if out.count > 0 => break,
                    Ok(false) => continue,
                    Err(_) if self.next < self.partition.low_mark() || self.partition.is_deleted() => {
                        self.partition.check_exists()?;
                        continue;
                    }
                    Err(error) => {
                        let error = self.partition.noting(error);
                        // What was read before the damage is good; the next one who reads meets it first.
                        self.segment = None;
                        return if out.count > 0 { Ok(()) } else { Err(error) };
                    }
                }
            }
            if out.count == 0 {
                out.base_offset = self.next;
            }
            let bytes = if self.is_plain { &self.plain } else { &self.buffer };
            let left = Region::new(&bytes[self.left.clone()], self.left_events);
            let room = max_bytes.saturating_sub(out.bytes.len());
            let taken = left.prefix(max_events - out.count, room).map_err(|malformed| self.malformed(malformed))?;
            if out.count > 0 && taken.bytes().len() > room {
                break;
            }
            out.bytes.extend_from_slice(taken.bytes());
            self.taken = Some((self.next, self.left.start, self.left_events));
            let (count, length) = (taken.count(), taken.bytes().len());
            if out.append_times.last().is_none_or(|(_, time)| *time != self.append_time) {
                out.append_times.push((out.count, self.append_time));
            }
            out.count += count;
            self.next += u64::from(count);
            self.left.start += length;
            self.left_events -= count;
        }
        if out.count == 0 {
            out.base_offset = self.next;
        }
        Ok(())
    }

    fn malformed(&self, malformed: sluice_event::Malformed) -> Error {
        let path = self.segment.as_ref().map(|segment| segment.path.clone()).unwrap_or_default();
        self.partition.noting(Error::damaged(&path, self.position, malformed.to_string()))
    }

    /// Takes the batch that holds `next` in hand; false when it stepped over a hole instead.
    fn load_batch(&mut self) -> Result<bool, Error> {
        self.taken = None;
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.enter_segment()?,
        };
        let holes = self.partition.holes();
        loop {
            if self.position >= segment.committed() {
                segment = self.enter_segment()?;
            }
            if let Some(hole) = segment.hole_at(&holes, self.position) {
                (self.position, self.batch_offset) = (hole.end_position, hole.to);
                if self.next < hole.to {
                    (self.next, self.segment) = (hole.to, Some(segment));
                    return Ok(false);
                }
                continue;
            }
            let header = self.fill_batch(&segment)?;
            let start = (self.position - self.buffer_start) as usize;
            let batch = start..start + header.stored_bytes();
            let damaged = |position: u64, what: &str| Error::damaged(&segment.path, position, what);
            if header.base_offset != self.batch_offset {
                return Err(damaged(self.position, "a batch does not follow its predecessor"));
            }
            if self.check_crc && !header.verify(segment.salt(), &self.buffer[batch.clone()]) {
                return Err(damaged(self.position, "wrong CRC"));
            }
            let position = self.position;
            self.position += header.stored_bytes() as u64;
            self.batch_offset = header.end_offset();
            if header.end_offset() <= self.next {
                continue;
            }
            let stored = start + BATCH_HEADER..batch.end;
            self.is_plain = header.compression != Compression::None;
            if self.is_plain {
                let unpacked = header.compression.unpack(
                    &self.buffer[stored.start..stored.end - usize::from(header.padding)],
                    header.region_bytes as usize,
                    &mut self.plain,
                );
                unpacked.map_err(|what| damaged(position, &what))?;
            }
            let (region, start) =
                if self.is_plain { (&self.plain[..], 0) } else { (&self.buffer[stored.clone()], stored.start) };
            let left = Region::new(region, header.count)
                .skip((self.next - header.base_offset) as u32)
                .map_err(|malformed| damaged(position, &malformed.to_string()))?;
            let end = start + region.len();
            (self.left, self.left_events) = (end - left.bytes().len()..end, left.count());
            self.append_time = header.append_time;
            self.segment = Some(segment);
            return Ok(true);
        }
    }

    /// Stands before the batch that holds `next`, or before an earlier one of its segment.
    fn enter_segment(&mut self) -> Result<Arc<Segment>, Error> {
        let segment = self.partition.segment_of(self.next);
        let segment = segment.ok_or_else(|| Error::Invalid(format!("offset {} does not exist", self.next)))?;
        (self.batch_offset, self.position) = if self.next == segment.base_offset {
            (self.next, FILE_HEADER)
        } else {
            segment.seek(self.next, &self.partition.holes())?
        };
        self.filled = 0;
        Ok(segment)
    }

    /// Sees to it that the whole batch at `position` is in the buffer.
    fn fill_batch(&mut self, segment: &Segment) -> Result<BatchHeader, Error> {
        self.fill(segment, BATCH_HEADER)?;
        let start = (self.position - self.buffer_start) as usize;
        let header = BatchHeader::parse(&self.buffer[start..start + BATCH_HEADER])
            .ok_or_else(|| Error::damaged(&segment.path, self.position, "not a batch header"))?;
        self.fill(segment, header.stored_bytes())?;
        Ok(header)
    }

    /// Sees to it that `wanted` bytes from `position` on are in the buffer.
    fn fill(&mut self, segment: &Segment, wanted: usize) -> Result<(), Error> {
        let start = self.position.checked_sub(self.buffer_start).map_or(usize::MAX, |start| start as usize);
        if start.saturating_add(wanted) <= self.filled {
            return Ok(());
        }
        let committed = segment.committed().saturating_sub(self.position);
        if wanted as u64 > committed {
            return Err(Error::damaged(&segment.path, self.position, "a batch reaches past the end of its segment"));
        }
        let ask = wanted.max(READ_BYTES.min(committed as usize));
        if self.buffer.is_empty() {
            self.buffer = BUFFERS.take();
        }
        if self.buffer.len() < ask {
            self.buffer.resize(ask, 0);
        }
        self.buffer_start = self.position;
        self.filled = match segment.read_at(&mut self.buffer[..ask], self.position) {
            // Reading ahead may have met a bad sector that is none of this batch.
            Err(Error::Damaged { .. }) if ask > wanted => segment.read_at(&mut self.buffer[..wanted], self.position)?,
            read => read?,
        };
        if self.filled < wanted {
            return Err(Error::damaged(&segment.path, self.position + self.filled as u64, "the file is too short"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sluice_env::{SimDisk, SystemClock};
    use sluice_event::{Batch, NewEvent};

    use super::*;
    use crate::{Commit, Log, NewTopic, Options, TopicPartition};

    #[test]
    fn a_reader_that_goes_back_and_forth_reads_what_a_new_one_reads() {
        let disk = Arc::new(SimDisk::default());
        let log = Log::open(disk, Arc::new(SystemClock), Path::new("/data"), Options::default()).unwrap();
        log.commit(Commit { topics: vec![NewTopic::new("in", 1)], ..Commit::default() }).unwrap();
        let to = TopicPartition { topic: log.topic("in").unwrap().id, partition: 0 };
        let mut end = 0;
        for count in [1_u64, 40, 3, 25, 2, 60] {
            let mut batch = Batch::default();
            for number in end..end + count {
                let value = vec![number as u8; number as usize % 70];
                batch.push(&NewEvent { value: &value, ..NewEvent::default() }).unwrap();
            }
            log.commit(Commit::append(to, batch)).unwrap();
            end += count;
        }
        let partition = log.partition_of(to).unwrap();
        let mut reader = log.reader(partition.clone(), 0);
        let (mut read, mut expected) = (ReadBatch::default(), ReadBatch::default());
        let (mut at, mut random) = (0_u64, 7_u64);
        for _ in 0..5_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (max_events, back) = ((random >> 33) as u32 % 30 + 1, (random >> 50) % 12);
            reader.seek(at);
            reader.read(max_events, 2_000, &mut read).unwrap();
            log.reader(partition.clone(), at).read(max_events, 2_000, &mut expected).unwrap();
            assert_eq!(read, expected, "at {at}, {max_events} events");
            if random & 4 == 0 {
                reader.caught_up();
            }
            // Mostly on to where it came, often a little back; from the end to anywhere.
            at += u64::from(read.count);
            at = if at == end { (random >> 40) % end } else { at.saturating_sub(back) };
        }
    }
}
