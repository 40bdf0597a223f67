//! One partition, as its readers share it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::catalog::Hole;
use crate::change::TopicPartition;
use crate::error::Error;
use crate::segment::Segment;
use crate::stored_batch::BatchHeader;

/// Where a partition is damaged. It stays stopped until it is repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The byte at which the damage begins.
    pub position: u64,
    /// What is wrong.
    pub what: String,
}

/// A partition that can be read up to its high watermark.
pub struct Partition {
    id: TopicPartition,
    segments: RwLock<Vec<Arc<Segment>>>,
    low_mark: AtomicU64,
    high_watermark: AtomicU64,
    holes: RwLock<Vec<Hole>>,
    deleted: AtomicBool,
    damage: OnceLock<Damage>,
}

impl Partition {
    pub(crate) fn new(id: TopicPartition, segments: Vec<Arc<Segment>>, low_mark: u64, high_watermark: u64) -> Self {
        Self {
            id,
            segments: RwLock::new(segments),
            low_mark: AtomicU64::new(low_mark),
            high_watermark: AtomicU64::new(high_watermark),
            holes: RwLock::default(),
            deleted: AtomicBool::new(false),
            damage: OnceLock::new(),
        }
    }

    /// Its topic's id and its number.
    pub fn id(&self) -> TopicPartition {
        self.id
    }

    /// The first offset that is not committed yet; readers stop there.
    pub fn high_watermark(&self) -> u64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// The oldest offset there is; the high watermark when nothing is left.
    pub fn low_mark(&self) -> u64 {
        self.low_mark.load(Ordering::Acquire)
    }

    /// Events that repairs gave up, in order.
    pub fn holes(&self) -> Vec<Hole> {
        self.holes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes in its segments.
    pub fn bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.committed()).sum()
    }

    /// The first offset whose batch was appended at `time` or later; the high watermark when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn offset_at(&self, time: i64) -> Result<u64, Error> {
        self.first_batch(|segment| segment.last_append_time() >= time, |batch| batch.append_time >= time)
    }

    /// When the event at an offset was appended, ms since the epoch; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn append_time(&self, offset: u64) -> Result<Option<i64>, Error> {
        if offset >= self.high_watermark() || offset < self.low_mark() {
            return Ok(None);
        }
        let Some(segment) = self.segment_of(offset) else { return Ok(None) };
        self.unless_gone(&segment, segment.append_time(offset, &self.holes()))
    }

    /// The first offset whose batch has an event of this timestamp or a later one; the high watermark when there is none. It
    /// reads the headers of all batches before it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn offset_at_event_time(&self, time: i64) -> Result<u64, Error> {
        self.first_batch(|_| true, |batch| batch.max_timestamp >= time)
    }

    fn first_batch(
        &self,
        segment_may_hold: impl Fn(&Segment) -> bool,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<u64, Error> {
        for segment in self.segments().iter().filter(|segment| segment_may_hold(segment)) {
            if let Some(offset) = self.unless_gone(segment, segment.find_batch(&self.holes(), &wanted))? {
                return Ok(offset);
            }
        }
        Ok(self.high_watermark())
    }

    /// What was found in a segment: nothing when retention was faster, or somebody who deleted the topic.
    fn unless_gone<T>(&self, segment: &Segment, found: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
        match found {
            Err(_) if segment.base_offset < self.low_mark() => Ok(None),
            Err(_) if self.is_deleted() => self.check_exists().map(|()| None),
            Err(error) => Err(self.noting(error)),
            found => found,
        }
    }

    /// Where it is damaged, if somebody has come across it.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.get()
    }

    /// Moves the high watermark; what is below it was published before.
    pub(crate) fn advance(&self, high_watermark: u64) {
        self.high_watermark.store(high_watermark, Ordering::Release);
    }

    fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the segments before `offset`, and returns them.
    pub(crate) fn raise_low_mark(&self, offset: u64) -> Vec<Arc<Segment>> {
        // First the mark: a reader that finds a file gone looks at it.
        self.low_mark.store(offset, Ordering::Release);
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let kept = segments.partition_point(|segment| segment.base_offset < offset);
        segments.drain(..kept).collect()
    }

    pub(crate) fn set_holes(&self, holes: Vec<Hole>) {
        *self.holes.write().unwrap_or_else(PoisonError::into_inner) = holes;
    }

    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    /// Whether its topic was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    pub(crate) fn last_segment(&self) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// The segment that holds `offset`.
    pub(crate) fn segment_of(&self, offset: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base_offset <= offset);
        segments.get(after.checked_sub(1)?).cloned()
    }

    /// Stops the partition if the error says that it is damaged, and passes the error on.
    pub(crate) fn noting(&self, error: Error) -> Error {
        if let Error::Damaged { file, position, what } = &error {
            let damage = Damage { file: file.clone(), position: *position, what: what.clone() };
            if self.damage.set(damage).is_ok() {
                tracing::error!(partition = %self.id, %error, "partition stopped");
            }
        }
        error
    }

    /// An error when its topic is gone.
    pub(crate) fn check_exists(&self) -> Result<(), Error> {
        let gone = || Error::UnknownTopic(format!("id {}, it was deleted", self.id.topic));
        if self.is_deleted() { Err(gone()) } else { Ok(()) }
    }

    /// An error while nothing may be appended: when it is damaged, or gone. What is before the damage can be read.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_exists()?;
        match self.damage.get() {
            None => Ok(()),
            Some(damage) => Err(Error::damaged(&damage.file, damage.position, damage.what.clone())),
        }
    }
}
