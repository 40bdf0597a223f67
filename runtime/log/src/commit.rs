//! What callers ask the log to commit.

use sluice_event::Batch;

use crate::catalog::Catalog;
use crate::change::{Change, Input, TopicPartition};
use crate::error::Error;
use crate::options::{MAX_BATCH_BYTES, MAX_PARTITIONS};

/// Everything in it becomes true at once, or nothing does.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Topics to make.
    pub topics: Vec<NewTopic>,
    /// Batches to append, in this order.
    pub appends: Vec<Append>,
    /// A pipeline that starts, with a new definition or for the first time.
    pub pipeline: Option<PipelineStart>,
    /// The cursor that moves.
    pub input: Option<Input>,
    /// The producer's own count of what it sends; a repeat adds nothing.
    pub sequence: Option<Sequence>,
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// At least 1.
    pub partitions: u32,
}

/// A batch for one partition; it must not be empty.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where it goes.
    pub to: TopicPartition,
    /// What is appended.
    pub batch: Batch,
}

/// A pipeline starts. The log gives it an id when it is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStart {
    /// The pipeline's name.
    pub name: String,
    /// SHA-256 of its plugin.
    pub digest: Vec<u8>,
    /// Its definition as TOML.
    pub definition: String,
    /// The cursors it starts with, for partitions where it has none.
    pub start: Vec<(TopicPartition, u64)>,
}

/// A producer's own count: the commit's events are its numbers from `first` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The name the producer goes by.
    pub producer: String,
    /// The topic it counts for: it has a count of its own in each.
    pub topic: u32,
    /// The number of the first event.
    pub first: u64,
}

/// Where a commit's batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub to: TopicPartition,
    /// Offset of the first event.
    pub base_offset: u64,
    /// How many events.
    pub count: u32,
}

/// A commit that is true now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// Its number.
    pub seq: u64,
    /// Where each batch went; empty for a repeat.
    pub appended: Vec<Appended>,
    /// Whether the producer had sent all of it before.
    pub repeated: bool,
}

impl Commit {
    /// The changes other than appends and the producer's count, checked against what exists.
    pub(crate) fn changes(&self, catalog: &Catalog) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        let next_topic = catalog.topics.keys().next_back().map_or(1, |last| last + 1);
        for (topic, id) in self.topics.iter().zip(next_topic..) {
            changes.push(topic.change(catalog, id)?);
        }
        if let Some(start) = &self.pipeline {
            start.changes(catalog, &mut changes);
        }
        if let Some(input) = &self.input {
            let pipeline = catalog.pipelines.get(&input.pipeline);
            let cursor = pipeline.and_then(|pipeline| pipeline.cursors.get(&input.source()));
            let committed = cursor.map_or(0, |cursor| cursor.next);
            if pipeline.is_none_or(|pipeline| pipeline.epoch != input.epoch) || committed != input.from {
                return Err(Error::Fenced {
                    pipeline: input.pipeline,
                    input: input.source(),
                    from: input.from,
                    committed,
                });
            }
            changes.push(Change::Input(input.clone()));
        }
        Ok(changes)
    }

    /// About how many bytes it will write.
    pub(crate) fn size(&self) -> usize {
        self.appends.iter().map(|append| append.batch.bytes().len()).sum()
    }
}

impl NewTopic {
    fn change(&self, catalog: &Catalog, id: u32) -> Result<Change, Error> {
        let Self { name, partitions } = self;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 200 || !name.chars().all(good) || name.starts_with('.') {
            let rule = "use 1 to 200 letters, digits, `.`, `_` and `-`, not beginning with `.`";
            return Err(Error::Invalid(format!("not a topic name: {name:?}; {rule}")));
        }
        if *partitions == 0 || *partitions > MAX_PARTITIONS {
            return Err(Error::Invalid(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}")));
        }
        if catalog.topic_named(name).is_some() {
            return Err(Error::TopicExists(name.clone()));
        }
        Ok(Change::Topic { id, partitions: *partitions, name: name.clone() })
    }
}

impl PipelineStart {
    fn changes(&self, catalog: &Catalog, changes: &mut Vec<Change>) {
        let known = catalog.pipeline_named(&self.name);
        let same = known.is_some_and(|known| known.digest == self.digest && known.definition == self.definition);
        let id =
            known.map_or_else(|| catalog.pipelines.keys().next_back().map_or(1, |last| last + 1), |known| known.id);
        let (epoch, generation) = known.map_or((1, 1), |known| (known.epoch, known.generation + u64::from(!same)));
        if !same {
            changes.push(Change::Pipeline {
                id,
                name: self.name.clone(),
                epoch,
                generation,
                digest: self.digest.clone(),
                definition: self.definition.clone(),
            });
        }
        for (tp, offset) in &self.start {
            if known.is_none_or(|known| !known.cursors.contains_key(tp)) {
                changes.push(Change::Input(Input {
                    pipeline: id,
                    epoch,
                    generation,
                    topic: tp.topic,
                    partition: tp.partition,
                    from: *offset,
                    to: *offset,
                    ..Input::default()
                }));
            }
        }
    }
}

impl Sequence {
    /// The producer's new count, or `None` when all of it was sent before.
    pub(crate) fn change(&self, catalog: &Catalog, events: u64, now: i64) -> Result<Option<Change>, Error> {
        if self.producer.is_empty() || self.producer.len() > 200 {
            return Err(Error::Invalid("a producer's id has 1 to 200 bytes".into()));
        }
        let known = catalog.producers.get(&(self.producer.clone(), self.topic));
        let expected = known.map_or(0, |producer| producer.next);
        let end = self.first.checked_add(events);
        let end = end.ok_or_else(|| Error::Invalid(format!("not a sequence number: {}", self.first)))?;
        if end <= expected && events > 0 {
            return Ok(None);
        }
        if self.first != expected {
            return Err(Error::SequenceGap { producer: self.producer.clone(), expected, found: self.first });
        }
        let id = known.map_or_else(|| catalog.producers.len() as u64 + 1, |producer| producer.id);
        let name = self.producer.clone();
        Ok(Some(Change::Producer { id, topic: self.topic, name, next: end, time: now }))
    }
}

impl Append {
    pub(crate) fn check(&self, catalog: &Catalog) -> Result<(), Error> {
        let topic = catalog.topics.get(&self.to.topic);
        let topic = topic.ok_or_else(|| Error::UnknownTopic(format!("id {}", self.to.topic)))?;
        if self.to.partition >= topic.partitions {
            return Err(Error::UnknownPartition {
                topic: topic.name.clone(),
                partition: self.to.partition,
                partitions: topic.partitions,
            });
        }
        if self.batch.is_empty() {
            return Err(Error::Invalid("an empty batch cannot be appended".into()));
        }
        let (size, limit) = (self.batch.bytes().len() as u64, MAX_BATCH_BYTES as u64);
        if size > limit {
            return Err(Error::TooLarge { what: "the batch", size, limit });
        }
        Ok(())
    }
}
