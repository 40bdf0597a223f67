//! Changes as bytes.

use super::{Change, Input, Step, TopicPartition};
use crate::catalog::{Cursor, Desired, Hole, Times, TopicSettings};
use crate::codec::{Decoder, Encoder};
use crate::compression::Compression;

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
                out.u32(input.pipeline).u32(input.step as u32).u64(input.epoch).u64(input.generation);
                out.u32(input.topic).u32(input.partition).u64(input.from).u64(input.to);
                out.u64(input.committed).u64(input.filtered).u64(input.dead).u64(input.skipped);
                out.u32(input.calls.len() as u32);
                for events in &input.calls {
                    out.u32(*events);
                }
                9
            }
            Self::Producer { id, topic, name, next, time } => {
                out.u64(*id).u32(*topic).u64(*next).u64(time.cast_unsigned()).bytes(name.as_bytes());
                6
            }
            Self::Settings { topic, settings } => {
                let age = settings.retention_age_ms.unwrap_or(-1);
                let bytes = settings.retention_bytes.unwrap_or(u64::MAX);
                out.u32(*topic).u32(settings.compression as u32).u64(age.cast_unsigned()).u64(bytes);
                out.u32(u32::from(settings.past_cursors));
                10
            }
            Self::TopicDeleted { topic } => {
                out.u32(*topic);
                11
            }
            Self::LowMark { tp, offset } => {
                out.u32(tp.topic).u32(tp.partition).u64(*offset);
                12
            }
            Self::ProducerForgotten { topic, name } => {
                out.u32(*topic).bytes(name.as_bytes());
                13
            }
            Self::PipelineDeleted { pipeline } => {
                out.u32(*pipeline);
                14
            }
            Self::Desired { pipeline, desired } => {
                out.u32(*pipeline).u32(*desired as u32);
                15
            }
            Self::Moved { pipeline, epoch, cursors } => {
                out.u32(*pipeline).u32(cursors.len() as u32).u64(*epoch);
                for (tp, from, to) in cursors {
                    out.u32(tp.topic).u32(tp.partition).u64(*from).u64(*to);
                }
                16
            }
            Self::Hole { tp, hole } => {
                out.u32(tp.topic).u32(tp.partition).u64(hole.from).u64(hole.to);
                out.u64(hole.segment).u64(hole.position).u64(hole.end_position);
                17
            }
            Self::Tried { pipeline, tp, offset, attempts } => {
                out.u32(*pipeline).u32(tp.topic).u32(tp.partition).u32(*attempts).u64(*offset);
                22
            }
            Self::Held { pipeline, reason } => {
                out.u32(*pipeline).bytes(reason.as_bytes());
                23
            }
            Self::Again { pipeline, topic } => {
                out.u32(*pipeline).u32(*topic);
                24
            }
            snapshot => snapshot.encode_in_snapshot(out),
        };
        let length = (out.0.len() - start - 8) as u32;
        out.0[start..start + 2].copy_from_slice(&tag.to_le_bytes());
        out.0[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        out.pad();
    }

    /// The body of what stands in snapshots only, and its tag.
    fn encode_in_snapshot(&self, out: &mut Encoder) -> u16 {
        match self {
            Self::Counters { topic, pipeline, producer } => {
                out.u32(*topic).u32(*pipeline).u64(*producer);
                18
            }
            Self::SegmentState { tp, base_offset, end_offset, end_position, times } => {
                out.u32(tp.topic).u32(tp.partition).u64(*base_offset).u64(*end_offset).u64(*end_position);
                out.u64(times.first.cast_unsigned()).u64(times.last.cast_unsigned());
                19
            }
            Self::Cursor { pipeline, tp, cursor } => {
                out.u32(*pipeline).u32(tp.topic).u32(tp.partition).u64(cursor.next).u64(cursor.read);
                out.u64(cursor.committed).u64(cursor.filtered).u64(cursor.dead).u64(cursor.skipped);
                out.u64(cursor.unsettled);
                20
            }
            Self::Before { pipeline, cursors } => {
                out.u32(*pipeline).u32(cursors.len() as u32);
                for (tp, offset) in cursors {
                    out.u32(tp.topic).u32(tp.partition).u64(*offset);
                }
                21
            }
            _ => 0,
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Undecodable> {
        let mut header = || Some((from.u16()?, from.u16()?, from.u32()? as usize));
        let (tag, _, length) = header().ok_or(Undecodable::Malformed)?;
        let body = from.take(length.next_multiple_of(8)).ok_or(Undecodable::Malformed)?;
        if !(1..=24).contains(&tag) {
            return Err(Undecodable::UnknownTag(tag));
        }
        Self::decode_body(tag, Decoder(&body[..length])).ok_or(Undecodable::Malformed)
    }

    fn decode_body(tag: u16, mut body: Decoder<'_>) -> Option<Self> {
        match tag {
            4 | 5 | 9 | 14..=16 | 22..=24 => Self::decode_of_pipeline(tag, &mut body),
            7 | 8 | 18..=21 => Self::decode_in_snapshot(tag, &mut body),
            _ => Self::decode_of_topic(tag, &mut body),
        }
    }

    /// What happens to topics, partitions and producers.
    fn decode_of_topic(tag: u16, body: &mut Decoder<'_>) -> Option<Self> {
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
            6 => {
                let (id, topic, next, time) = (body.u64()?, body.u32()?, body.u64()?, body.i64()?);
                Self::Producer { id, topic, name: body.string()?, next, time }
            }
            10 => {
                let (topic, compression, age, bytes) = (body.u32()?, body.u32()?, body.i64()?, body.u64()?);
                let settings = TopicSettings {
                    retention_age_ms: (age >= 0).then_some(age),
                    retention_bytes: (bytes != u64::MAX).then_some(bytes),
                    past_cursors: body.u32()? != 0,
                    compression: Compression::from_code(u8::try_from(compression).ok()?)?,
                };
                Self::Settings { topic, settings }
            }
            11 => Self::TopicDeleted { topic: body.u32()? },
            12 => Self::LowMark { tp: tp(body)?, offset: body.u64()? },
            13 => Self::ProducerForgotten { topic: body.u32()?, name: body.string()? },
            17 => {
                let tp = tp(body)?;
                let (from, to, segment) = (body.u64()?, body.u64()?, body.u64()?);
                let hole = Hole { from, to, segment, position: body.u64()?, end_position: body.u64()? };
                Self::Hole { tp, hole }
            }
            _ => return None,
        })
    }

    /// What happens to pipelines.
    fn decode_of_pipeline(tag: u16, body: &mut Decoder<'_>) -> Option<Self> {
        Some(match tag {
            4 => {
                let (id, epoch, generation) = (body.u32()?, body.u64()?, body.u64()?);
                let (name, digest, definition) = (body.string()?, body.bytes()?.to_vec(), body.string()?);
                Self::Pipeline { id, name, epoch, generation, digest, definition }
            }
            5 => {
                let (pipeline, epoch, generation) = (body.u32()?, body.u64()?, body.u64()?);
                let (topic, partition, from, to) = (body.u32()?, body.u32()?, body.u64()?, body.u64()?);
                let (filtered, dead, skipped) = (body.u64()?, body.u64()?, body.u64()?);
                let calls = (0..body.u32()?).map(|_| body.u32()).collect::<Option<_>>()?;
                let committed = to.checked_sub(from)?.checked_sub(filtered)?.checked_sub(dead)?.checked_sub(skipped)?;
                let step = Step::Done;
                Self::Input(Input {
                    step,
                    pipeline,
                    epoch,
                    generation,
                    topic,
                    partition,
                    from,
                    to,
                    committed,
                    filtered,
                    dead,
                    skipped,
                    calls,
                })
            }
            9 => Self::Input(Input {
                pipeline: body.u32()?,
                step: match body.u32()? {
                    0 => Step::Done,
                    1 => Step::Claim,
                    2 => Step::Outcome,
                    _ => return None,
                },
                epoch: body.u64()?,
                generation: body.u64()?,
                topic: body.u32()?,
                partition: body.u32()?,
                from: body.u64()?,
                to: body.u64()?,
                committed: body.u64()?,
                filtered: body.u64()?,
                dead: body.u64()?,
                skipped: body.u64()?,
                calls: (0..body.u32()?).map(|_| body.u32()).collect::<Option<_>>()?,
            }),
            14 => Self::PipelineDeleted { pipeline: body.u32()? },
            15 => Self::Desired {
                pipeline: body.u32()?,
                desired: match body.u32()? {
                    0 => Desired::Run,
                    1 => Desired::Pause,
                    2 => Desired::Drain,
                    _ => return None,
                },
            },
            16 => {
                let (pipeline, count, epoch) = (body.u32()?, body.u32()?, body.u64()?);
                let mut cursor = || Some((tp(body)?, body.u64()?, body.u64()?));
                Self::Moved { pipeline, epoch, cursors: (0..count).map(|_| cursor()).collect::<Option<_>>()? }
            }
            22 => {
                let (pipeline, tp, attempts) = (body.u32()?, tp(body)?, body.u32()?);
                Self::Tried { pipeline, tp, offset: body.u64()?, attempts }
            }
            23 => Self::Held { pipeline: body.u32()?, reason: body.string()? },
            24 => Self::Again { pipeline: body.u32()?, topic: body.u32()? },
            _ => return None,
        })
    }

    /// What stands in snapshots only.
    fn decode_in_snapshot(tag: u16, body: &mut Decoder<'_>) -> Option<Self> {
        Some(match tag {
            7 => Self::SegmentState {
                tp: tp(body)?,
                base_offset: body.u64()?,
                end_offset: body.u64()?,
                end_position: body.u64()?,
                // The first version did not keep them: such a segment counts as new.
                times: Times { first: i64::MAX, last: i64::MAX },
            },
            8 => {
                let (pipeline, tp, next, read) = (body.u32()?, tp(body)?, body.u64()?, body.u64()?);
                let (filtered, dead, skipped) = (body.u64()?, body.u64()?, body.u64()?);
                let committed = read.checked_sub(filtered)?.checked_sub(dead)?.checked_sub(skipped)?;
                let cursor = Cursor { next, read, committed, filtered, dead, skipped, unsettled: 0, tried: None };
                Self::Cursor { pipeline, tp, cursor }
            }
            18 => Self::Counters { topic: body.u32()?, pipeline: body.u32()?, producer: body.u64()? },
            19 => Self::SegmentState {
                tp: tp(body)?,
                base_offset: body.u64()?,
                end_offset: body.u64()?,
                end_position: body.u64()?,
                times: Times { first: body.i64()?, last: body.i64()? },
            },
            20 => Self::Cursor {
                pipeline: body.u32()?,
                tp: tp(body)?,
                cursor: Cursor {
                    next: body.u64()?,
                    read: body.u64()?,
                    committed: body.u64()?,
                    filtered: body.u64()?,
                    dead: body.u64()?,
                    skipped: body.u64()?,
                    unsettled: body.u64()?,
                    tried: None,
                },
            },
            21 => {
                let (pipeline, count) = (body.u32()?, body.u32()?);
                let mut cursor = || Some((tp(body)?, body.u64()?));
                Self::Before { pipeline, cursors: (0..count).map(|_| cursor()).collect::<Option<_>>()? }
            }
            _ => return None,
        })
    }
}

fn tp(body: &mut Decoder<'_>) -> Option<TopicPartition> {
    Some(TopicPartition { topic: body.u32()?, partition: body.u32()? })
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
