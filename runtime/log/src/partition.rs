//! One partition, as its readers share it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::change::TopicPartition;
use crate::error::Error;
use crate::segment::Segment;

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
    high_watermark: AtomicU64,
    damage: OnceLock<Damage>,
}

impl Partition {
    pub(crate) fn new(id: TopicPartition, segments: Vec<Arc<Segment>>, high_watermark: u64) -> Self {
        Self {
            id,
            segments: RwLock::new(segments),
            high_watermark: AtomicU64::new(high_watermark),
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

    /// The oldest offset there is.
    pub fn low_mark(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.first().map_or(0, |segment| segment.base_offset)
    }

    /// Where it is damaged, if somebody has come across it.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.get()
    }

    /// Moves the high watermark; what is below it was published before.
    pub(crate) fn advance(&self, high_watermark: u64) {
        self.high_watermark.store(high_watermark, Ordering::Release);
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

    /// An error while the partition is stopped.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.damage.get() {
            None => Ok(()),
            Some(damage) => Err(Error::damaged(&damage.file, damage.position, damage.what.clone())),
        }
    }
}
