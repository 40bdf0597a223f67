//! What exists and how far it has come: the sum of all changes.

use std::collections::{BTreeMap, HashMap};

use crate::change::{Change, TopicPartition};
use crate::file_header::FILE_HEADER;

/// A topic as it is known to everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Never reused.
    pub id: u32,
    /// Unique among the topics that exist.
    pub name: String,
    /// Fixed when the topic was made.
    pub partitions: u32,
}

/// How far a pipeline has read one partition, with totals since its first commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The next offset it reads.
    pub next: u64,
    /// Events read.
    pub read: u64,
    /// Of these, events without any output.
    pub filtered: u64,
    /// Of these, events dead-lettered.
    pub dead: u64,
    /// Of these, events skipped after a failure.
    pub skipped: u64,
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
    /// SHA-256 of the plugin in force.
    pub digest: Vec<u8>,
    /// The definition in force, as TOML.
    pub definition: String,
    /// Per partition read.
    pub cursors: BTreeMap<TopicPartition, Cursor>,
}

/// A segment: where it begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    pub(crate) base_offset: u64,
    pub(crate) salt: u32,
    pub(crate) end_offset: u64,
    /// Bytes of the file that are part of the log, its header included.
    pub(crate) end_position: u64,
}

/// A change that does not fit what exists: a bug, or damage that no CRC caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misfit(pub(crate) &'static str);

/// Takes a change back.
pub(crate) enum Undo {
    Topic(u32),
    Segment(TopicPartition),
    SegmentEnd(TopicPartition, SegmentInfo),
    Pipeline(u32, Option<Box<PipelineInfo>>),
    Cursor(u32, TopicPartition, Option<Cursor>),
    Producer((String, u32), Option<ProducerInfo>),
}

/// A producer that counts what it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProducerInfo {
    pub(crate) id: u64,
    pub(crate) next: u64,
    pub(crate) time: i64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) topics: BTreeMap<u32, TopicInfo>,
    pub(crate) segments: HashMap<TopicPartition, Vec<SegmentInfo>>,
    pub(crate) pipelines: BTreeMap<u32, PipelineInfo>,
    /// By the producer's name and the topic's id.
    pub(crate) producers: BTreeMap<(String, u32), ProducerInfo>,
}

impl Catalog {
    pub(crate) fn topic_named(&self, name: &str) -> Option<&TopicInfo> {
        self.topics.values().find(|topic| topic.name == name)
    }

    pub(crate) fn pipeline_named(&self, name: &str) -> Option<&PipelineInfo> {
        self.pipelines.values().find(|pipeline| pipeline.name == name)
    }

    /// The offset the partition's next event gets.
    pub(crate) fn next_offset(&self, tp: TopicPartition) -> u64 {
        self.segments.get(&tp).and_then(|segments| segments.last()).map_or(0, |segment| segment.end_offset)
    }

    pub(crate) fn last_segment(&self, tp: TopicPartition) -> Option<&SegmentInfo> {
        self.segments.get(&tp)?.last()
    }

    pub(crate) fn segment(&self, tp: TopicPartition, base_offset: u64) -> Option<&SegmentInfo> {
        self.segments.get(&tp)?.iter().find(|segment| segment.base_offset == base_offset)
    }

    fn set_cursor(&mut self, pipeline: u32, tp: TopicPartition, cursor: Cursor) -> Result<Undo, Misfit> {
        let pipeline_info = self.pipelines.get_mut(&pipeline).ok_or(Misfit("a cursor of an unknown pipeline"))?;
        Ok(Undo::Cursor(pipeline, tp, pipeline_info.cursors.insert(tp, cursor)))
    }

    /// Makes a change.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<Undo, Misfit> {
        match change {
            Change::Topic { id, partitions, name } => {
                let info = TopicInfo { id: *id, name: name.clone(), partitions: *partitions };
                match self.topics.insert(*id, info) {
                    None => Ok(Undo::Topic(*id)),
                    Some(_) => Err(Misfit("a topic id is used twice")),
                }
            }
            Change::Segment { tp, base_offset, salt } => {
                let known = self.topics.get(&tp.topic).is_some_and(|topic| tp.partition < topic.partitions);
                if !known || self.next_offset(*tp) != *base_offset {
                    return Err(Misfit("a segment does not follow its predecessor"));
                }
                self.segments.entry(*tp).or_default().push(SegmentInfo {
                    base_offset: *base_offset,
                    salt: *salt,
                    end_offset: *base_offset,
                    end_position: FILE_HEADER,
                });
                Ok(Undo::Segment(*tp))
            }
            Change::Append { tp, base_offset, count, position, length, .. } => {
                let segment = self.segment_mut(*tp)?;
                if segment.end_offset != *base_offset || segment.end_position != *position {
                    return Err(Misfit("a batch does not follow its predecessor"));
                }
                let before = *segment;
                segment.end_offset += u64::from(*count);
                segment.end_position += length;
                Ok(Undo::SegmentEnd(*tp, before))
            }
            Change::SegmentEnd { tp, base_offset, end_offset, end_position } => {
                let segment = self.segment_mut(*tp)?;
                let before = *segment;
                if before.base_offset != *base_offset {
                    return Err(Misfit("the end of another segment"));
                }
                (segment.end_offset, segment.end_position) = (*end_offset, *end_position);
                Ok(Undo::SegmentEnd(*tp, before))
            }
            Change::Pipeline { id, name, epoch, generation, digest, definition } => {
                let before = self.pipelines.remove(id);
                let info = PipelineInfo {
                    id: *id,
                    name: name.clone(),
                    epoch: *epoch,
                    generation: *generation,
                    digest: digest.clone(),
                    definition: definition.clone(),
                    cursors: before.as_ref().map(|before| before.cursors.clone()).unwrap_or_default(),
                };
                self.pipelines.insert(*id, info);
                Ok(Undo::Pipeline(*id, before.map(Box::new)))
            }
            Change::Input(input) => {
                let tp = input.source();
                let cursor = self.pipelines.get(&input.pipeline).and_then(|pipeline| pipeline.cursors.get(&tp));
                // The first commit of all sets the cursor wherever the pipeline starts.
                let mut cursor = cursor.copied().unwrap_or(Cursor { next: input.from, ..Cursor::default() });
                if cursor.next != input.from || input.to < input.from {
                    return Err(Misfit("a cursor does not move on from where it was"));
                }
                cursor.next = input.to;
                cursor.read += input.to - input.from;
                cursor.filtered += input.filtered;
                cursor.dead += input.dead;
                cursor.skipped += input.skipped;
                self.set_cursor(input.pipeline, tp, cursor)
            }
            Change::Cursor { pipeline, tp, next, read, filtered, dead, skipped } => {
                let cursor = Cursor { next: *next, read: *read, filtered: *filtered, dead: *dead, skipped: *skipped };
                self.set_cursor(*pipeline, *tp, cursor)
            }
            Change::Producer { id, topic, name, next, time } => {
                let (key, info) = ((name.clone(), *topic), ProducerInfo { id: *id, next: *next, time: *time });
                Ok(Undo::Producer(key.clone(), self.producers.insert(key, info)))
            }
        }
    }

    fn segment_mut(&mut self, tp: TopicPartition) -> Result<&mut SegmentInfo, Misfit> {
        self.segments
            .get_mut(&tp)
            .and_then(|segments| segments.last_mut())
            .ok_or(Misfit("a partition without segments"))
    }

    /// Takes changes back that were made in this order.
    pub(crate) fn undo_all(&mut self, undos: Vec<Undo>) {
        undos.into_iter().rev().for_each(|undo| self.undo(undo));
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Topic(id) => drop(self.topics.remove(&id)),
            Undo::Segment(tp) => drop(self.segments.get_mut(&tp).and_then(Vec::pop)),
            Undo::SegmentEnd(tp, before) => {
                if let Ok(segment) = self.segment_mut(tp) {
                    *segment = before;
                }
            }
            Undo::Pipeline(id, before) => {
                self.pipelines.remove(&id);
                self.pipelines.extend(before.map(|before| (id, *before)));
            }
            Undo::Cursor(pipeline, tp, before) => {
                if let Some(pipeline) = self.pipelines.get_mut(&pipeline) {
                    pipeline.cursors.remove(&tp);
                    pipeline.cursors.extend(before.map(|before| (tp, before)));
                }
            }
            Undo::Producer(key, before) => {
                self.producers.remove(&key);
                self.producers.extend(before.map(|before| (key, before)));
            }
        }
    }

    /// The changes that make an empty catalog into this one: what a snapshot holds.
    pub(crate) fn to_changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for topic in self.topics.values() {
            changes.push(Change::Topic { id: topic.id, partitions: topic.partitions, name: topic.name.clone() });
            for partition in 0..topic.partitions {
                let tp = TopicPartition { topic: topic.id, partition };
                for segment in self.segments.get(&tp).into_iter().flatten() {
                    let SegmentInfo { base_offset, salt, end_offset, end_position } = *segment;
                    changes.push(Change::Segment { tp, base_offset, salt });
                    changes.push(Change::SegmentEnd { tp, base_offset, end_offset, end_position });
                }
            }
        }
        for pipeline in self.pipelines.values() {
            changes.push(Change::Pipeline {
                id: pipeline.id,
                name: pipeline.name.clone(),
                epoch: pipeline.epoch,
                generation: pipeline.generation,
                digest: pipeline.digest.clone(),
                definition: pipeline.definition.clone(),
            });
            changes.extend(pipeline.cursors.iter().map(|(tp, cursor)| Change::Cursor {
                pipeline: pipeline.id,
                tp: *tp,
                next: cursor.next,
                read: cursor.read,
                filtered: cursor.filtered,
                dead: cursor.dead,
                skipped: cursor.skipped,
            }));
        }
        changes.extend(self.producers.iter().map(|((name, topic), producer)| Change::Producer {
            id: producer.id,
            topic: *topic,
            name: name.clone(),
            next: producer.next,
            time: producer.time,
        }));
        changes
    }
}
