//! What exists and how far it has come: the sum of all changes.

mod entities;
mod producers;

use std::collections::{BTreeMap, HashMap};

pub use self::entities::{Again, Cursor, Desired, Hole, PipelineInfo, TopicInfo, TopicSettings};
pub(crate) use self::entities::{Counters, PartitionInfo, ProducerInfo, SegmentInfo, Times};
pub(crate) use self::producers::{ONCE, Producers};
use crate::change::{Change, Input, Step, TopicPartition};
use crate::file_header::FILE_HEADER;

/// A change that does not fit what exists: a bug, or damage that no CRC caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misfit(pub(crate) &'static str);

/// Takes a change back: each holds what was there before.
pub(crate) enum Undo {
    Topic(u32, Option<TopicInfo>),
    Partition(TopicPartition, Option<PartitionInfo>),
    /// Cheaper than the whole partition, for it is by far the most frequent.
    SegmentEnd(TopicPartition, SegmentInfo),
    Pipeline(u32, Option<Box<PipelineInfo>>),
    Cursor(u32, TopicPartition, Option<Cursor>),
    Producer((String, u32), Option<ProducerInfo>),
    Counters(Counters),
    Outcome((u32, TopicPartition), Option<u64>),
    Several(Vec<Undo>),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) counters: Counters,
    pub(crate) topics: BTreeMap<u32, TopicInfo>,
    /// Those that have been written to.
    pub(crate) partitions: HashMap<TopicPartition, PartitionInfo>,
    pub(crate) pipelines: BTreeMap<u32, PipelineInfo>,
    pub(crate) producers: Producers,
    /// Where the last outcome of a pipeline on a partition ended: the next one begins there. An outcome moves no cursor that would
    /// fence those planned on one that failed, so this does. Only of this process: a start begins anew.
    pub(crate) outcomes: HashMap<(u32, TopicPartition), u64>,
}

impl Catalog {
    pub(crate) fn topic_named(&self, name: &str) -> Option<&TopicInfo> {
        self.topics.values().find(|topic| topic.name == name)
    }

    pub(crate) fn pipeline_named(&self, name: &str) -> Option<&PipelineInfo> {
        self.pipelines.values().find(|pipeline| pipeline.name == name)
    }

    /// Begins anew with outcomes: the next one of each pipeline begins at its cursor.
    pub(crate) fn begin_outcomes(&mut self) {
        let cursors = self
            .pipelines
            .values()
            .flat_map(|pipeline| pipeline.cursors.iter().map(|(tp, cursor)| ((pipeline.id, *tp), cursor.next)));
        self.outcomes = cursors.collect();
    }

    /// The offset the partition's next event gets.
    pub(crate) fn next_offset(&self, tp: TopicPartition) -> u64 {
        self.partitions.get(&tp).map_or(0, PartitionInfo::next_offset)
    }

    pub(crate) fn low_mark(&self, tp: TopicPartition) -> u64 {
        self.partitions.get(&tp).map_or(0, |partition| partition.low_mark)
    }

    pub(crate) fn segments(&self, tp: TopicPartition) -> &[SegmentInfo] {
        self.partitions.get(&tp).map_or(&[], |partition| &partition.segments)
    }

    pub(crate) fn last_segment(&self, tp: TopicPartition) -> Option<&SegmentInfo> {
        self.segments(tp).last()
    }

    pub(crate) fn segment(&self, tp: TopicPartition, base_offset: u64) -> Option<&SegmentInfo> {
        self.segments(tp).iter().find(|segment| segment.base_offset == base_offset)
    }

    /// Makes a change that was committed at `time`.
    pub(crate) fn apply(&mut self, change: &Change, time: i64) -> Result<Undo, Misfit> {
        match change {
            Change::Topic { id, partitions, name } => {
                let settings = TopicSettings::default();
                let info = TopicInfo { id: *id, name: name.clone(), partitions: *partitions, settings };
                if self.topics.insert(*id, info).is_some() {
                    return Err(Misfit("a topic id is used twice"));
                }
                let counters = Counters { topic: self.counters.topic.max(id + 1), ..self.counters };
                Ok(Undo::Several(vec![self.set_counters(counters), Undo::Topic(*id, None)]))
            }
            Change::Settings { topic, settings } => {
                let info = self.topics.get_mut(topic).ok_or(Misfit("settings of an unknown topic"))?;
                let before = info.clone();
                info.settings = *settings;
                Ok(Undo::Topic(*topic, Some(before)))
            }
            Change::TopicDeleted { topic } => self.delete_topic(*topic),
            Change::Segment { tp, base_offset, salt } => self.add_segment(*tp, *base_offset, *salt),
            Change::Append { tp, base_offset, count, position, length, .. } => {
                let segment = self.last_segment_mut(*tp)?;
                if segment.end_offset != *base_offset || segment.end_position != *position {
                    return Err(Misfit("a batch does not follow its predecessor"));
                }
                let before = *segment;
                segment.end_offset += u64::from(*count);
                segment.end_position += length;
                segment.times = Some(Times { first: before.times.map_or(time, |times| times.first), last: time });
                Ok(Undo::SegmentEnd(*tp, before))
            }
            Change::SegmentState { tp, base_offset, end_offset, end_position, times } => {
                let segment = self.last_segment_mut(*tp)?;
                let before = *segment;
                if before.base_offset != *base_offset {
                    return Err(Misfit("the end of another segment"));
                }
                // A time that was not kept counts as that of the snapshot.
                let known = Times { first: times.first.min(time), last: times.last.min(time) };
                (segment.end_offset, segment.end_position) = (*end_offset, *end_position);
                segment.times = (end_offset > base_offset).then_some(known);
                Ok(Undo::SegmentEnd(*tp, before))
            }
            Change::LowMark { tp, offset } => self.raise_low_mark(*tp, *offset),
            Change::Hole { tp, hole } => {
                let before = self.partitions.get(tp).cloned();
                let partition = self.partitions.get_mut(tp).ok_or(Misfit("a hole in a partition without segments"))?;
                partition.holes.push(*hole);
                partition.holes.sort_unstable_by_key(|hole| hole.from);
                Ok(Undo::Partition(*tp, before))
            }
            Change::Producer { id, topic, name, next, time } => {
                let (key, info) = ((name.clone(), *topic), ProducerInfo { id: *id, next: *next, time: *time });
                let counters = Counters { producer: self.counters.producer.max(id + 1), ..self.counters };
                let counters = self.set_counters(counters);
                let before = self.producers.set(key.clone(), Some(info));
                Ok(Undo::Several(vec![counters, Undo::Producer(key, before)]))
            }
            Change::ProducerForgotten { topic, name } => {
                let key = (name.clone(), *topic);
                let before = self.producers.set(key.clone(), None);
                Ok(Undo::Producer(key, before))
            }
            Change::Counters { topic, pipeline, producer } => {
                Ok(self.set_counters(Counters { topic: *topic, pipeline: *pipeline, producer: *producer }))
            }
            Change::Pipeline { .. }
            | Change::PipelineDeleted { .. }
            | Change::Desired { .. }
            | Change::Input(_)
            | Change::Moved { .. }
            | Change::Cursor { .. }
            | Change::Before { .. }
            | Change::Tried { .. }
            | Change::Held { .. }
            | Change::Again { .. } => self.apply_to_pipeline(change),
        }
    }

    fn apply_to_pipeline(&mut self, change: &Change) -> Result<Undo, Misfit> {
        match change {
            Change::Pipeline { id, name, epoch, generation, digest, definition } => {
                let before = self.pipelines.remove(id);
                let kept = before.clone();
                let info = PipelineInfo {
                    id: *id,
                    name: name.clone(),
                    epoch: *epoch,
                    generation: *generation,
                    digest: digest.clone(),
                    definition: definition.clone(),
                    desired: kept.as_ref().map(|kept| kept.desired).unwrap_or_default(),
                    held: kept.as_ref().map(|kept| kept.held.clone()).unwrap_or_default(),
                    before: kept.as_ref().map(|kept| kept.before.clone()).unwrap_or_default(),
                    again: kept.as_ref().and_then(|kept| kept.again),
                    cursors: kept.map(|kept| kept.cursors).unwrap_or_default(),
                };
                self.pipelines.insert(*id, info);
                let counters = Counters { pipeline: self.counters.pipeline.max(id + 1), ..self.counters };
                Ok(Undo::Several(vec![self.set_counters(counters), Undo::Pipeline(*id, before.map(Box::new))]))
            }
            Change::PipelineDeleted { pipeline } => {
                let before = self.pipelines.remove(pipeline).ok_or(Misfit("an unknown pipeline is deleted"))?;
                Ok(Undo::Pipeline(*pipeline, Some(Box::new(before))))
            }
            Change::Desired { pipeline, desired } => self.change_pipeline(*pipeline, |info| info.desired = *desired),
            Change::Held { pipeline, reason } => self.change_pipeline(*pipeline, |info| info.held.clone_from(reason)),
            Change::Tried { pipeline, tp, offset, attempts } => {
                let cursor = self.pipelines.get(pipeline).and_then(|pipeline| pipeline.cursors.get(tp));
                let cursor = *cursor.ok_or(Misfit("an attempt on a partition that is not read"))?;
                self.set_cursor(*pipeline, *tp, Cursor { tried: Some((*offset, *attempts)), ..cursor })
            }
            Change::Again { pipeline, topic } => self.change_pipeline(*pipeline, |info| info.again = Some(*topic)),
            Change::Before { pipeline, cursors } => {
                self.change_pipeline(*pipeline, |info| info.before.clone_from(cursors))
            }
            Change::Moved { pipeline, epoch, cursors } => {
                let info = self.pipelines.get(pipeline).ok_or(Misfit("cursors of an unknown pipeline"))?;
                let fits = |(tp, from, _): &(_, u64, _)| info.cursors.get(tp).is_some_and(|at| at.next == *from);
                if !cursors.iter().all(fits) {
                    return Err(Misfit("cursors are moved from where they are not"));
                }
                let moved = self.change_pipeline(*pipeline, |info| {
                    info.epoch = *epoch;
                    info.before = cursors.iter().map(|(tp, from, _)| (*tp, *from)).collect();
                    info.again = None;
                    for (tp, _, to) in cursors {
                        let cursor = info.cursors.entry(*tp).or_default();
                        (cursor.next, cursor.tried) = (*to, None);
                    }
                })?;
                // The new epoch begins at its cursors, also where they stayed.
                let all: Vec<_> = self.pipelines[pipeline].cursors.iter().map(|(tp, c)| (*tp, c.next)).collect();
                let outcomes = all.into_iter().map(|(tp, next)| {
                    let key = (*pipeline, tp);
                    Undo::Outcome(key, self.outcomes.insert(key, next))
                });
                let outcomes = Undo::Several(outcomes.collect());
                Ok(Undo::Several(vec![outcomes, moved]))
            }
            Change::Input(input) => {
                let tp = input.source();
                let cursor = self.pipelines.get(&input.pipeline).and_then(|pipeline| pipeline.cursors.get(&tp));
                // The first commit of all sets the cursor wherever the pipeline starts.
                let mut cursor = cursor.copied().unwrap_or(Cursor { next: input.from, ..Cursor::default() });
                cursor.take(input)?;
                let moved = self.set_cursor(input.pipeline, tp, cursor)?;
                let key = (input.pipeline, tp);
                let outcome = match (input.step, self.outcomes.get(&key)) {
                    (Step::Outcome, _) => input.to,
                    (_, None) => input.from,
                    // Nothing is behind the cursor but what was claimed: a pipeline may go over to another delivery.
                    (Step::Done, Some(before)) if *before < input.to => input.to,
                    (_, Some(_)) => return Ok(moved),
                };
                Ok(Undo::Several(vec![moved, Undo::Outcome(key, self.outcomes.insert(key, outcome))]))
            }
            Change::Cursor { pipeline, tp, cursor } => self.set_cursor(*pipeline, *tp, *cursor),
            _ => Err(Misfit("no change of a pipeline")),
        }
    }

    fn set_counters(&mut self, counters: Counters) -> Undo {
        Undo::Counters(std::mem::replace(&mut self.counters, counters))
    }

    fn set_cursor(&mut self, pipeline: u32, tp: TopicPartition, cursor: Cursor) -> Result<Undo, Misfit> {
        let info = self.pipelines.get_mut(&pipeline).ok_or(Misfit("a cursor of an unknown pipeline"))?;
        Ok(Undo::Cursor(pipeline, tp, info.cursors.insert(tp, cursor)))
    }

    fn change_pipeline(&mut self, id: u32, change: impl FnOnce(&mut PipelineInfo)) -> Result<Undo, Misfit> {
        let info = self.pipelines.get_mut(&id).ok_or(Misfit("an unknown pipeline"))?;
        let before = info.clone();
        change(info);
        Ok(Undo::Pipeline(id, Some(Box::new(before))))
    }

    fn add_segment(&mut self, tp: TopicPartition, base_offset: u64, salt: u32) -> Result<Undo, Misfit> {
        let known = self.topics.get(&tp.topic).is_some_and(|topic| tp.partition < topic.partitions);
        if !known || self.next_offset(tp) != base_offset {
            return Err(Misfit("a segment does not follow its predecessor"));
        }
        let before = self.partitions.get(&tp).cloned();
        self.partitions.entry(tp).or_default().segments.push(SegmentInfo {
            base_offset,
            salt,
            end_offset: base_offset,
            end_position: FILE_HEADER,
            times: None,
        });
        Ok(Undo::Partition(tp, before))
    }

    fn raise_low_mark(&mut self, tp: TopicPartition, offset: u64) -> Result<Undo, Misfit> {
        let before = self.partitions.get(&tp).cloned();
        let partition = self.partitions.entry(tp).or_default();
        partition.segments.retain(|segment| segment.end_offset > offset);
        partition.holes.retain(|hole| hole.to > offset);
        partition.low_mark = offset;
        match partition.segments.first() {
            Some(first) if first.base_offset != offset => Err(Misfit("a low mark within a segment")),
            _ => Ok(Undo::Partition(tp, before)),
        }
    }

    fn delete_topic(&mut self, id: u32) -> Result<Undo, Misfit> {
        let topic = self.topics.remove(&id).ok_or(Misfit("an unknown topic is deleted"))?;
        let mut undo = Vec::new();
        for partition in 0..topic.partitions {
            let tp = TopicPartition { topic: id, partition };
            undo.extend(self.partitions.remove(&tp).map(|before| Undo::Partition(tp, Some(before))));
        }
        for pipeline in self.pipelines.values_mut() {
            let gone = pipeline.cursors.extract_if(.., |tp, _| tp.topic == id);
            undo.extend(gone.map(|(tp, cursor)| Undo::Cursor(pipeline.id, tp, Some(cursor))));
        }
        let gone = self.producers.forget_topic(id).into_iter();
        undo.extend(gone.map(|(key, producer)| Undo::Producer(key, Some(producer))));
        undo.push(Undo::Topic(id, Some(topic)));
        Ok(Undo::Several(undo))
    }

    fn last_segment_mut(&mut self, tp: TopicPartition) -> Result<&mut SegmentInfo, Misfit> {
        let last = self.partitions.get_mut(&tp).and_then(|partition| partition.segments.last_mut());
        last.ok_or(Misfit("a partition without segments"))
    }

    /// Takes changes back that were made in this order.
    pub(crate) fn undo_all(&mut self, undos: Vec<Undo>) {
        undos.into_iter().rev().for_each(|undo| self.undo(undo));
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Topic(id, before) => {
                self.topics.remove(&id);
                self.topics.extend(before.map(|before| (id, before)));
            }
            Undo::Partition(tp, before) => {
                self.partitions.remove(&tp);
                self.partitions.extend(before.map(|before| (tp, before)));
            }
            Undo::SegmentEnd(tp, before) => {
                if let Ok(segment) = self.last_segment_mut(tp) {
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
                self.producers.set(key, before);
            }
            Undo::Outcome(key, before) => {
                self.outcomes.remove(&key);
                self.outcomes.extend(before.map(|before| (key, before)));
            }
            Undo::Counters(before) => self.counters = before,
            Undo::Several(undos) => self.undo_all(undos),
        }
    }

    /// The changes that make an empty catalog into this one: what a snapshot holds.
    pub(crate) fn to_changes(&self) -> Vec<Change> {
        let Counters { topic, pipeline, producer } = self.counters;
        let mut changes = Vec::new();
        for topic in self.topics.values() {
            changes.push(Change::Topic { id: topic.id, partitions: topic.partitions, name: topic.name.clone() });
            if topic.settings != TopicSettings::default() {
                changes.push(Change::Settings { topic: topic.id, settings: topic.settings });
            }
            for partition in 0..topic.partitions {
                let tp = TopicPartition { topic: topic.id, partition };
                self.partition_to_changes(tp, &mut changes);
            }
        }
        for pipeline in self.pipelines.values() {
            pipeline.to_changes(&mut changes);
        }
        changes.extend(self.producers.iter().map(|((name, topic), producer)| Change::Producer {
            id: producer.id,
            topic: *topic,
            name: name.clone(),
            next: producer.next,
            time: producer.time,
        }));
        changes.push(Change::Counters { topic, pipeline, producer });
        changes
    }

    fn partition_to_changes(&self, tp: TopicPartition, changes: &mut Vec<Change>) {
        let Some(partition) = self.partitions.get(&tp) else { return };
        if partition.low_mark > 0 {
            changes.push(Change::LowMark { tp, offset: partition.low_mark });
        }
        for segment in &partition.segments {
            let SegmentInfo { base_offset, salt, end_offset, end_position, times } = *segment;
            changes.push(Change::Segment { tp, base_offset, salt });
            let times = times.unwrap_or(Times { first: i64::MAX, last: i64::MAX });
            changes.push(Change::SegmentState { tp, base_offset, end_offset, end_position, times });
        }
        changes.extend(partition.holes.iter().map(|hole| Change::Hole { tp, hole: *hole }));
    }
}

impl PipelineInfo {
    fn to_changes(&self, changes: &mut Vec<Change>) {
        changes.push(Change::Pipeline {
            id: self.id,
            name: self.name.clone(),
            epoch: self.epoch,
            generation: self.generation,
            digest: self.digest.clone(),
            definition: self.definition.clone(),
        });
        if self.desired != Desired::Run {
            changes.push(Change::Desired { pipeline: self.id, desired: self.desired });
        }
        if !self.held.is_empty() {
            changes.push(Change::Held { pipeline: self.id, reason: self.held.clone() });
        }
        if !self.before.is_empty() {
            changes.push(Change::Before { pipeline: self.id, cursors: self.before.clone() });
        }
        if let Some(topic) = self.again {
            changes.push(Change::Again { pipeline: self.id, topic });
        }
        for (tp, cursor) in &self.cursors {
            changes.push(Change::Cursor { pipeline: self.id, tp: *tp, cursor: *cursor });
            if let Some((offset, attempts)) = cursor.tried {
                changes.push(Change::Tried { pipeline: self.id, tp: *tp, offset, attempts });
            }
        }
    }
}

impl Cursor {
    /// Learns what a commit says of the events from here on, or of some that it has passed.
    fn take(&mut self, input: &Input) -> Result<(), Misfit> {
        let events = input.to.checked_sub(input.from).ok_or(Misfit("a range of events that ends before it begins"))?;
        let counts = |cursor: &mut Self| {
            cursor.committed += input.committed;
            cursor.filtered += input.filtered;
            cursor.dead += input.dead;
            cursor.skipped += input.skipped;
        };
        match input.step {
            Step::Done | Step::Claim if self.next != input.from => {
                return Err(Misfit("a cursor does not move on from where it was"));
            }
            Step::Done => {
                (self.next, self.read) = (input.to, self.read + events);
                counts(self);
            }
            Step::Claim => {
                (self.next, self.read) = (input.to, self.read + events);
                self.unsettled += events;
            }
            // Of a claim; outputs ahead of the cursor are counted when the cursor moves.
            Step::Outcome if input.to <= self.next => {
                self.unsettled = self.unsettled.saturating_sub(events);
                counts(self);
            }
            Step::Outcome => {}
        }
        self.tried = self.tried.filter(|(offset, _)| *offset >= self.next);
        Ok(())
    }
}
