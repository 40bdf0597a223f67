//! What is known of those who write to a source partition, for its watermark.

use crate::key::WRITER;
use crate::layer::{Change, Layer};

/// A writer, as it stands in the state: u8 5, u32 topic, u32 partition (big-endian); the value is i64 newest timestamp, i64 time of appending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterSeen {
    /// What the writing pipeline reads: topic and partition.
    pub writer: (u32, u32),
    /// The newest timestamp that it has written.
    pub newest: i64,
    /// When it last wrote something.
    pub at: i64,
}

impl WriterSeen {
    /// Has changes keep it.
    pub fn keep(&self, changes: &mut Layer) {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.newest.to_le_bytes());
        value[8..].copy_from_slice(&self.at.to_le_bytes());
        let (topic, partition) = self.writer;
        let key = [&[WRITER][..], &topic.to_be_bytes(), &partition.to_be_bytes()].concat();
        changes.push(&key, &[], Some(&value), None);
    }

    pub(crate) fn of(change: &Change<'_>) -> Option<Self> {
        let (topic, rest) = change.key.strip_prefix(&[WRITER])?.split_first_chunk()?;
        let writer = (u32::from_be_bytes(*topic), u32::from_be_bytes(*rest.first_chunk()?));
        let (newest, at) = change.value?.split_first_chunk()?;
        Some(Self { writer, newest: i64::from_le_bytes(*newest), at: i64::from_le_bytes(*at.first_chunk()?) })
    }
}
