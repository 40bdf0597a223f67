//! What is known of those who write to a source partition, for its watermark.

use crate::key::WRITER;
use crate::layer::{Change, Layer};

/// What is known of a writer of a source topic, as it stands in the state: u8 5, u32 source topic, u32 topic, u32 partition (big-endian); the value is
/// i64 newest timestamp, i64 time of appending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterSeen {
    /// The source topic.
    pub topic: u32,
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
        let numbers = [self.topic, self.writer.0, self.writer.1].map(u32::to_be_bytes);
        let key = [&[WRITER][..], numbers.as_flattened()].concat();
        changes.push(&key, &[], Some(&value), None);
    }

    /// Where a key is that of a writer, puts the ids that topics have here in place of those they have there. Whether it can stand here: false where a
    /// topic is not known.
    pub fn move_to(key: &mut [u8], id: impl Fn(u32) -> Option<u32>) -> bool {
        let [WRITER, rest @ ..] = key else { return true };
        // Those who are no pipeline have no topic.
        let id = |topic| if topic == u32::MAX { Some(topic) } else { id(topic) };
        let topics = rest.as_chunks_mut().0.iter_mut().take(2);
        topics
            .map(|topic| id(u32::from_be_bytes(*topic)).map(|id| *topic = id.to_be_bytes()))
            .all(|moved| moved.is_some())
    }

    pub(crate) fn of(change: &Change<'_>) -> Option<Self> {
        let (numbers, rest) = change.key.strip_prefix(&[WRITER])?.as_chunks();
        let &[topic, of, partition] = numbers.first_chunk().filter(|_| rest.is_empty())?;
        let [topic, of, partition] = [topic, of, partition].map(u32::from_be_bytes);
        let (newest, at) = change.value?.split_first_chunk()?;
        let (newest, at) = (i64::from_le_bytes(*newest), i64::from_le_bytes(*at.first_chunk()?));
        Some(Self { topic, writer: (of, partition), newest, at })
    }
}
