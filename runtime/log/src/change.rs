//! What a commit changes, as it stands in the commit log and in snapshots.

use std::fmt;

use crate::codec::{Decoder, Encoder};

/// One partition of one topic, by ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// What a pipeline's commit says of one of its inputs: the cursor moves from `from` to `to`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Input {
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
    /// The cursor before.
    pub from: u64,
    /// The cursor after.
    pub to: u64,
    /// Events read without any output.
    pub filtered: u64,
    /// Events dead-lettered.
    pub dead: u64,
    /// Events skipped after a failure.
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
    /// 5: a pipeline's cursor moves.
    Input(Input),
    /// 6: a producer has sent all sequence numbers below `next` to a topic.
    Producer { id: u64, topic: u32, name: String, next: u64, time: i64 },
    /// 7, in snapshots only: where a segment ends, for it was filled before.
    SegmentEnd { tp: TopicPartition, base_offset: u64, end_offset: u64, end_position: u64 },
    /// 8, in snapshots only: a cursor with its totals.
    Cursor { pipeline: u32, tp: TopicPartition, next: u64, read: u64, filtered: u64, dead: u64, skipped: u64 },
}

/// Why bytes are no change: damaged, or of a kind that only a newer build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecodable {
    Malformed,
    UnknownTag(u16),
}

impl Change {
    /// Appends `u16` tag, `u16` 0, `u32` length of the body, the body, zeros to a multiple of eight.
    pub(crate) fn encode(&self, out: &mut Encoder) {
        let start = out.0.len();
        out.u64(0);
        let tag: u16 = match self {
            Self::Topic { id, partitions, name } => {
                out.u32(*id).u32(*partitions).bytes(name.as_bytes());
                1
            }
            Self::Segment { tp, base_offset, salt } => {
                out.u32(tp.topic).u32(tp.partition).u64(*base_offset).u32(*salt);
                2
            }
            Self::Append { tp, base_offset, count, crc, position, length } => {
                out.u32(tp.topic).u32(tp.partition).u64(*base_offset).u32(*count).u32(*crc).u64(*position).u64(*length);
                3
            }
            Self::Pipeline { id, name, epoch, generation, digest, definition } => {
                out.u32(*id).u64(*epoch).u64(*generation);
                out.bytes(name.as_bytes()).bytes(digest).bytes(definition.as_bytes());
                4
            }
            Self::Input(input) => {
                out.u32(input.pipeline).u64(input.epoch).u64(input.generation).u32(input.topic).u32(input.partition);
                out.u64(input.from).u64(input.to).u64(input.filtered).u64(input.dead).u64(input.skipped);
                out.u32(input.calls.len() as u32);
                for events in &input.calls {
                    out.u32(*events);
                }
                5
            }
            Self::Producer { id, topic, name, next, time } => {
                out.u64(*id).u32(*topic).u64(*next).u64(time.cast_unsigned()).bytes(name.as_bytes());
                6
            }
            Self::SegmentEnd { tp, base_offset, end_offset, end_position } => {
                out.u32(tp.topic).u32(tp.partition).u64(*base_offset).u64(*end_offset).u64(*end_position);
                7
            }
            Self::Cursor { pipeline, tp, next, read, filtered, dead, skipped } => {
                out.u32(*pipeline).u32(tp.topic).u32(tp.partition).u64(*next);
                out.u64(*read).u64(*filtered).u64(*dead).u64(*skipped);
                8
            }
        };
        let length = (out.0.len() - start - 8) as u32;
        out.0[start..start + 2].copy_from_slice(&tag.to_le_bytes());
        out.0[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        out.pad();
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Undecodable> {
        let mut header = || Some((from.u16()?, from.u16()?, from.u32()? as usize));
        let (tag, _, length) = header().ok_or(Undecodable::Malformed)?;
        let body = from.take(length.next_multiple_of(8)).ok_or(Undecodable::Malformed)?;
        if !(1..=8).contains(&tag) {
            return Err(Undecodable::UnknownTag(tag));
        }
        Self::decode_body(tag, Decoder(&body[..length])).ok_or(Undecodable::Malformed)
    }

    fn decode_body(tag: u16, mut body: Decoder<'_>) -> Option<Self> {
        let body = &mut body;
        fn tp(body: &mut Decoder<'_>) -> Option<TopicPartition> {
            Some(TopicPartition { topic: body.u32()?, partition: body.u32()? })
        }
        Some(match tag {
            1 => Self::Topic { id: body.u32()?, partitions: body.u32()?, name: body.string()? },
            2 => Self::Segment { tp: tp(body)?, base_offset: body.u64()?, salt: body.u32()? },
            3 => Self::Append {
                tp: tp(body)?,
                base_offset: body.u64()?,
                count: body.u32()?,
                crc: body.u32()?,
                position: body.u64()?,
                length: body.u64()?,
            },
            4 => {
                let (id, epoch, generation) = (body.u32()?, body.u64()?, body.u64()?);
                let (name, digest, definition) = (body.string()?, body.bytes()?.to_vec(), body.string()?);
                Self::Pipeline { id, name, epoch, generation, digest, definition }
            }
            5 => Self::Input(Input {
                pipeline: body.u32()?,
                epoch: body.u64()?,
                generation: body.u64()?,
                topic: body.u32()?,
                partition: body.u32()?,
                from: body.u64()?,
                to: body.u64()?,
                filtered: body.u64()?,
                dead: body.u64()?,
                skipped: body.u64()?,
                calls: (0..body.u32()?).map(|_| body.u32()).collect::<Option<_>>()?,
            }),
            6 => {
                let (id, topic, next, time) = (body.u64()?, body.u32()?, body.u64()?, body.i64()?);
                Self::Producer { id, topic, name: body.string()?, next, time }
            }
            7 => Self::SegmentEnd {
                tp: tp(body)?,
                base_offset: body.u64()?,
                end_offset: body.u64()?,
                end_position: body.u64()?,
            },
            _ => Self::Cursor {
                pipeline: body.u32()?,
                tp: tp(body)?,
                next: body.u64()?,
                read: body.u64()?,
                filtered: body.u64()?,
                dead: body.u64()?,
                skipped: body.u64()?,
            },
        })
    }
}

/// Encodes one commit: `u32` length, `u32` number of changes, `u64` seq, the changes.
pub(crate) fn encode_commit(seq: u64, changes: &[Change], out: &mut Encoder) {
    let start = out.0.len();
    out.u32(0).u32(changes.len() as u32).u64(seq);
    for change in changes {
        change.encode(out);
    }
    let length = (out.0.len() - start) as u32;
    out.0[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Decodes a row of commits into their sequence numbers and changes.
pub(crate) fn decode_commits(bytes: &[u8]) -> Result<Vec<(u64, Vec<Change>)>, Undecodable> {
    let mut from = Decoder(bytes);
    let mut commits = Vec::new();
    while !from.0.is_empty() {
        let mut header = || {
            let (length, count, seq) = (from.u32()? as usize, from.u32()?, from.u64()?);
            Some((count, seq, from.take(length.checked_sub(16)?)?))
        };
        let (count, seq, body) = header().ok_or(Undecodable::Malformed)?;
        let mut body = Decoder(body);
        let changes = (0..count).map(|_| Change::decode(&mut body)).collect::<Result<_, _>>()?;
        if !body.0.is_empty() {
            return Err(Undecodable::Malformed);
        }
        commits.push((seq, changes));
    }
    Ok(commits)
}
