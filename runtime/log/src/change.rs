//! What a commit changes, as it stands in the commit log and in snapshots.

mod encoding;

use std::fmt;

pub(crate) use self::encoding::{Undecodable, decode_commits, encode_commit};

use crate::catalog::{Cursor, Desired, Hole, Times, TopicSettings};

/// One partition of one topic, by ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TopicPartition {
    /// The topic's id; never reused.
    pub topic: u32,
    /// Counts from 0.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {} partition {}", self.topic, self.partition)
    }
}

/// What a pipeline's commit says of the events it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Step {
    /// They were dealt with: the cursor moves over them. Their outputs are in this commit (exactly-once) or in earlier ones
    /// (at-least-once).
    #[default]
    Done = 0,
    /// The cursor moves over them, and only then they are given to the consumer (at-most-once).
    Claim = 1,
    /// What came of a claim (at-most-once), or outputs ahead of the cursor (at-least-once). The cursor stays.
    Outcome = 2,
}

/// What a pipeline's commit says of one of its inputs: the events from `from` up to `to`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Input {
    /// What it says of them.
    pub step: Step,
    /// The pipeline's id.
    pub pipeline: u32,
    /// The pipeline's epoch; a commit of another epoch is fenced.
    pub epoch: u64,
    /// The generation of the plugin that ran.
    pub generation: u64,
    /// The source topic's id.
    pub topic: u32,
    /// The source partition.
    pub partition: u32,
    /// The first event; where the cursor stands, if it moves.
    pub from: u64,
    /// Behind the last event; where the cursor goes, if it moves.
    pub to: u64,
    /// Events with outputs.
    pub committed: u64,
    /// Events without any output.
    pub filtered: u64,
    /// Events dead-lettered.
    pub dead: u64,
    /// Events skipped: after a failure, or because they are gone.
    pub skipped: u64,
    /// Events in each guest call; empty when there was one call.
    pub calls: Vec<u32>,
}

impl Input {
    /// The partition read.
    pub fn source(&self) -> TopicPartition {
        TopicPartition { topic: self.topic, partition: self.partition }
    }
}

/// One change. The numbers are tags in the format: never reuse one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// 1: a topic exists.
    Topic { id: u32, partitions: u32, name: String },
    /// 2: a segment exists; it follows the partition's last one.
    Segment { tp: TopicPartition, base_offset: u64, salt: u32 },
    /// 3: a batch is appended to the partition's last segment.
    Append { tp: TopicPartition, base_offset: u64, count: u32, crc: u32, position: u64, length: u64 },
    /// 4: a pipeline's definition is in force.
    Pipeline { id: u32, name: String, epoch: u64, generation: u64, digest: Vec<u8>, definition: String },
    /// 9 (5 in directories of the first version): a pipeline has come further.
    Input(Input),
    /// 6: a producer has sent all sequence numbers below `next` to a topic.
    Producer { id: u64, topic: u32, name: String, next: u64, time: i64 },
    /// 10: how a topic is kept.
    Settings { topic: u32, settings: TopicSettings },
    /// 11: a topic and all its events are gone.
    TopicDeleted { topic: u32 },
    /// 12: events before `offset` are gone; a segment begins there, or nothing is left.
    LowMark { tp: TopicPartition, offset: u64 },
    /// 13: a producer's count is forgotten.
    ProducerForgotten { topic: u32, name: String },
    /// 14: a pipeline and its cursors are gone.
    PipelineDeleted { pipeline: u32 },
    /// 15: what a pipeline is to do.
    Desired { pipeline: u32, desired: Desired },
    /// 16: a pipeline's cursors are set anew, under a new epoch: per partition where it stood and where it stands.
    Moved { pipeline: u32, epoch: u64, cursors: Vec<(TopicPartition, u64, u64)> },
    /// 17: a repair gave up events that were damaged.
    Hole { tp: TopicPartition, hole: Hole },
    /// 18, in snapshots only: the next ids.
    Counters { topic: u32, pipeline: u32, producer: u64 },
    /// 19 (7 in the first version), in snapshots only: where a segment ends, and when it was appended to.
    SegmentState { tp: TopicPartition, base_offset: u64, end_offset: u64, end_position: u64, times: Times },
    /// 20 (8 in the first version), in snapshots only: a cursor with its totals.
    Cursor { pipeline: u32, tp: TopicPartition, cursor: Cursor },
    /// 21, in snapshots only: where a pipeline's cursors stood before they were last set anew.
    Before { pipeline: u32, cursors: Vec<(TopicPartition, u64)> },
    /// 22: an event was tried so often, and failed so that it will be tried again.
    Tried { pipeline: u32, tp: TopicPartition, offset: u64, attempts: u32 },
    /// 23: a pipeline stands still for this reason until somebody acts; an empty one: no longer.
    Held { pipeline: u32, reason: String },
    /// 24: what a pipeline writes again, as long as its cursors are not where they were before they were last set anew, goes to this topic.
    Again { pipeline: u32, topic: u32 },
}
