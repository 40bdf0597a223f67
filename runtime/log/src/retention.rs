//! What may go: old events, and producers that have been silent for long.

use crate::catalog::{Catalog, SegmentInfo, TopicSettings};
use crate::change::{Change, TopicPartition};

/// Retention takes whole segments: one of a topic that is not kept for ever holds this part of what is kept.
const PARTS: u32 = 4;
/// A segment takes at least this much, however little is kept.
const LEAST_SEGMENT_BYTES: u64 = 64 << 10;
/// A segment is written to for at least this long, however short events are kept.
const LEAST_SEGMENT_AGE_MS: i64 = 250;

/// What keeps retention from doing its work on a partition: a pipeline that has not read what should go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The partition.
    pub tp: TopicPartition,
    /// The pipeline whose cursor is furthest back.
    pub pipeline: String,
    /// Its cursor.
    pub cursor: u64,
    /// Events before this offset would go.
    pub wanted: u64,
    /// Bytes that would be freed.
    pub bytes: u64,
}

/// Whether a segment may be written to, or a new one follows it.
pub(crate) fn has_room(segment: &SegmentInfo, settings: &TopicSettings, segment_bytes: u64, now: i64) -> bool {
    let by_size =
        settings.retention_bytes.map_or(u64::MAX, |bytes| (bytes / u64::from(PARTS)).max(LEAST_SEGMENT_BYTES));
    let by_age = settings.retention_age_ms.map_or(i64::MAX, |age| (age / i64::from(PARTS)).max(LEAST_SEGMENT_AGE_MS));
    let first = segment.times.map_or(now, |times| times.first);
    segment.end_position < segment_bytes.min(by_size) && now.saturating_sub(first) < by_age
}

/// The changes that are due by now, and what holds others back.
pub(crate) fn due(catalog: &Catalog, now: i64) -> (Vec<Change>, Vec<Hold>) {
    let (mut changes, mut holds) = (Vec::new(), Vec::new());
    for topic in catalog.topics.values().filter(|topic| topic.settings.is_bounded()) {
        for partition in 0..topic.partitions {
            let tp = TopicPartition { topic: topic.id, partition };
            let segments = catalog.segments(tp);
            let expired = expired(segments, &topic.settings, now);
            let slowest = if topic.settings.past_cursors { None } else { slowest(catalog, tp) };
            let readable = slowest.map_or(u64::MAX, |(cursor, _)| cursor);
            let free = segments[..expired].iter().take_while(|segment| segment.end_offset <= readable).count();
            if free > 0 {
                changes.push(Change::LowMark { tp, offset: segments[free - 1].end_offset });
            }
            if let (Some((cursor, pipeline)), held @ [.., last]) = (slowest, &segments[free..expired]) {
                let bytes = held.iter().map(|segment| segment.end_position).sum();
                holds.push(Hold { tp, pipeline: pipeline.to_owned(), cursor, wanted: last.end_offset, bytes });
            }
        }
    }
    (changes, holds)
}

/// The producers to forget by now.
pub(crate) fn silent_producers(catalog: &Catalog, now: i64) -> Vec<Change> {
    let silent = catalog.producers.silent(now);
    silent.map(|(name, topic)| Change::ProducerForgotten { topic: *topic, name: name.clone() }).collect()
}

/// How many of the segments, from the oldest on, need not be kept.
fn expired(segments: &[SegmentInfo], settings: &TopicSettings, now: i64) -> usize {
    let too_old = |segment: &SegmentInfo| match (settings.retention_age_ms, segment.times) {
        (Some(age), Some(times)) => now.saturating_sub(times.last) > age,
        _ => false,
    };
    let by_age = segments.iter().take_while(|segment| too_old(segment)).count();
    let Some(most) = settings.retention_bytes else { return by_age };
    let mut bytes: u64 = segments.iter().map(|segment| segment.end_position).sum();
    let too_much = |segment: &&SegmentInfo| {
        bytes -= segment.end_position;
        bytes >= most
    };
    by_age.max(segments.iter().take_while(too_much).count())
}

/// The cursor that is furthest back, and whose it is.
fn slowest(catalog: &Catalog, tp: TopicPartition) -> Option<(u64, &str)> {
    let cursors = catalog.pipelines.values();
    let cursors = cursors.filter_map(|pipeline| Some((pipeline.cursors.get(&tp)?.next, pipeline.name.as_str())));
    cursors.min()
}

impl TopicSettings {
    /// Whether anything ever goes.
    pub(crate) fn is_bounded(&self) -> bool {
        self.retention_age_ms.is_some() || self.retention_bytes.is_some()
    }
}
