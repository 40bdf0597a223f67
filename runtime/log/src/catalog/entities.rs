//! What exists: topics, segments, pipelines, producers.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::TopicPartition;
use crate::compression::Compression;

/// How long a topic's events are kept, and how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicSettings {
    /// Events appended longer ago than this, in milliseconds, may go.
    pub retention_age_ms: Option<i64>,
    /// Per partition: the oldest events may go while more bytes than this are there.
    pub retention_bytes: Option<u64>,
    /// Whether they go even when a pipeline has not read them.
    pub past_cursors: bool,
    /// How batches are compressed from now on.
    pub compression: Compression,
}

/// A topic as it is known to everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Never reused.
    pub id: u32,
    /// Unique among the topics that exist.
    pub name: String,
    /// Fixed when the topic was made.
    pub partitions: u32,
    /// May change.
    pub settings: TopicSettings,
}

/// How far a pipeline has read one partition, with totals since its first commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The next offset it reads.
    pub next: u64,
    /// Events read.
    pub read: u64,
    /// Of these, events with outputs that are committed.
    pub committed: u64,
    /// Of these, events without any output.
    pub filtered: u64,
    /// Of these, events dead-lettered.
    pub dead: u64,
    /// Of these, events skipped: after a failure, or because they were gone.
    pub skipped: u64,
    /// Of these, events whose outcome is not committed: in hand or, when no attempt is under way, lost (at-most-once).
    pub unsettled: u64,
    /// The offset of an event that failed and is to be tried again, and how often it was tried.
    pub tried: Option<(u64, u32)>,
}

/// What a pipeline is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum Desired {
    /// Run.
    #[default]
    Run = 0,
    /// Finish what is in hand, and stand still.
    Pause = 1,
    /// Deal with everything there is, then stand still.
    Drain = 2,
}

impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Drain => "drain",
        })
    }
}

/// What the log knows of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineInfo {
    /// Never reused.
    pub id: u32,
    /// Unique.
    pub name: String,
    /// Commits of another epoch are fenced.
    pub epoch: u64,
    /// Counts the definitions and plugins that were in force.
    pub generation: u64,
    /// SHA-256 of the plugins in force, one behind the other.
    pub digest: Vec<u8>,
    /// The definition in force, as TOML.
    pub definition: String,
    /// What it is to do.
    pub desired: Desired,
    /// Why it stands still whatever it is to do, until somebody acts; empty when it does not.
    pub held: String,
    /// Per partition read.
    pub cursors: BTreeMap<TopicPartition, Cursor>,
    /// Where the cursors stood before they were last set anew; empty when they never were.
    pub before: Vec<(TopicPartition, u64)>,
    /// The id of the topic that it writes to, in place of its sinks, as long as a cursor is not where it was then.
    pub again: Option<u32>,
}

/// Where outputs go of events that a pipeline reads again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// The id of the topic.
    pub topic: u32,
    /// Its partition count.
    pub partitions: u32,
    /// Events before this offset are read again.
    pub until: u64,
}

impl PipelineInfo {
    /// The generation that is in force once the pipeline has been started by these plugins and this definition; the present one if they are in force.
    pub fn generation_by(&self, digest: &[u8], definition: &str) -> u64 {
        self.generation + u64::from(self.digest != digest || self.definition != definition)
    }

    /// Where the cursor on a partition was before it was last set anew, if what is read again up to there goes to this topic.
    pub(crate) fn again_until(&self, source: TopicPartition) -> Option<(u32, u64)> {
        let topic = self.again?;
        let until = self.before.iter().find(|(before, _)| *before == source)?.1;
        Some((topic, until))
    }

    /// Whether it writes to a topic of its own what it was rewound to read again.
    pub fn is_writing_again(&self) -> bool {
        let is_behind = |(source, cursor): (&TopicPartition, &Cursor)| {
            self.again_until(*source).is_some_and(|(_, until)| cursor.next < until)
        };
        self.cursors.iter().any(is_behind)
    }
}

/// When a segment's first and last batches were appended, ms since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// A segment: where it begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    pub(crate) base_offset: u64,
    pub(crate) salt: u32,
    pub(crate) end_offset: u64,
    /// Bytes of the file that are part of the log, its header included.
    pub(crate) end_position: u64,
    /// `None` while it is empty.
    pub(crate) times: Option<Times>,
}

/// Events that were given up by a repair, and the bytes of the segment where they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first offset that is gone.
    pub from: u64,
    /// Behind the last.
    pub to: u64,
    /// Base offset of the segment.
    pub segment: u64,
    /// Where in the segment's file the damage begins.
    pub position: u64,
    /// Where the next intact batch begins, or the segment ends.
    pub end_position: u64,
}

/// One partition: what is left of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartitionInfo {
    /// The oldest offset there is, or the next one when nothing is left.
    pub(crate) low_mark: u64,
    pub(crate) segments: Vec<SegmentInfo>,
    pub(crate) holes: Vec<Hole>,
}

impl PartitionInfo {
    /// The offset that the next event gets.
    pub(crate) fn next_offset(&self) -> u64 {
        self.segments.last().map_or(self.low_mark, |segment| segment.end_offset)
    }

    /// Whether a repair gave up the end of a segment: its file may be shorter than it was, or be gone.
    pub(crate) fn gave_up_end(&self, segment: &SegmentInfo) -> bool {
        let of = |hole: &&Hole| hole.segment == segment.base_offset;
        self.holes.iter().filter(of).any(|hole| hole.end_position == segment.end_position)
    }
}

/// A producer that counts what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerInfo {
    pub(crate) id: u64,
    pub(crate) next: u64,
    pub(crate) time: i64,
}

/// The next id of each kind; ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) topic: u32,
    pub(crate) pipeline: u32,
    pub(crate) producer: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { topic: 1, pipeline: 1, producer: 1 }
    }
}
