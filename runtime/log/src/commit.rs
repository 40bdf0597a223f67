//! What callers ask the log to commit.

use sluice_event::Batch;

use crate::catalog::{Catalog, Desired, Hole, ONCE, TopicSettings};
use crate::change::{Change, Input, Step, TopicPartition};
use crate::compression::Compression;
use crate::error::Error;
use crate::options::{MAX_BATCH_BYTES, MAX_PARTITIONS, MAX_PRODUCERS};

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
    /// An event that failed and is to be tried again.
    pub tried: Option<Tried>,
    /// The producer's own count of what it sends; a repeat adds nothing.
    pub sequence: Option<Sequence>,
    /// What an operator asks for.
    pub order: Option<Order>,
}

/// What an operator asks for. An order is a group of its own, and may use the space that is kept in reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Keep topics in another way.
    SetTopics(Vec<(String, TopicSettings)>),
    /// Delete a topic and all its events. Refused while a pipeline has a cursor on it.
    DeleteTopic(String),
    /// Delete a pipeline and its cursors, and with it a topic of its own, where that is there.
    DeletePipeline(String, String),
    /// Have a pipeline run, pause or drain.
    Want(String, Desired),
    /// Have a pipeline stand still, for a reason, until somebody wants it to do something.
    Hold(String, String),
    /// Set cursors of a pipeline anew, and fence what is under way.
    Move {
        /// The pipeline's name.
        pipeline: String,
        /// Where its cursors go; those not named stay.
        to: Vec<(TopicPartition, u64)>,
        /// The id of the topic that outputs of what is read again go to, in place of the sinks.
        into: Option<u32>,
    },
    /// Let go of events before these offsets, as far as full segments allow: nobody needs them any more.
    LetGo(Vec<(TopicPartition, u64)>),
    /// Give up damaged events.
    GiveUp(Vec<(TopicPartition, Hole)>),
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// At least 1.
    pub partitions: u32,
    /// How it is kept.
    pub settings: TopicSettings,
}

/// A batch for one partition; it must not be empty.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where it goes.
    pub to: TopicPartition,
    /// What is appended.
    pub batch: Batch,
    /// The offset that its first event must get; the commit is fenced when the partition ends elsewhere.
    pub at: Option<u64>,
    /// The same packed, when the topic wants that and it is smaller.
    pub(crate) packed: Option<Packed>,
}

/// A batch's region, compressed.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) compression: Compression,
    pub(crate) bytes: Vec<u8>,
    /// How many of these are padding.
    pub(crate) padding: u8,
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

/// An event failed, and is to be tried again: how often it was tried is remembered over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// The pipeline's id.
    pub pipeline: u32,
    /// The pipeline's epoch; a commit of another epoch is fenced.
    pub epoch: u64,
    /// The source partition.
    pub source: TopicPartition,
    /// The event.
    pub offset: u64,
    /// How often it was tried.
    pub attempts: u32,
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
    /// A commit that appends one batch.
    pub fn append(to: TopicPartition, batch: Batch) -> Self {
        Self { appends: vec![Append::new(to, batch)], ..Self::default() }
    }

    /// A commit of one order.
    pub fn order(order: Order) -> Self {
        Self { order: Some(order), ..Self::default() }
    }

    /// The changes other than appends and the producer's count, checked against what exists.
    pub(crate) fn changes(&self, catalog: &Catalog) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for Append { to, at, .. } in &self.appends {
            let next = catalog.next_offset(*to);
            if let Some(from) = at.filter(|at| *at != next) {
                let pipeline = self.input.as_ref().map_or(0, |input| input.pipeline);
                return Err(Error::Fenced { pipeline, input: *to, from, committed: next });
            }
        }
        for (topic, id) in self.topics.iter().zip(catalog.counters.topic..) {
            topic.changes(catalog, id, &mut changes)?;
        }
        if let Some(start) = &self.pipeline {
            start.changes(catalog, &mut changes);
        }
        if let Some(order) = &self.order {
            order.changes(catalog, &mut changes)?;
        }
        if let Some(Tried { pipeline, epoch, source, offset, attempts }) = self.tried {
            let found = catalog.pipelines.get(&pipeline).filter(|found| found.epoch == epoch);
            if found.is_none_or(|found| !found.cursors.contains_key(&source)) {
                return Err(Error::Fenced { pipeline, input: source, from: offset, committed: 0 });
            }
            changes.push(Change::Tried { pipeline, tp: source, offset, attempts });
        }
        if let Some(input) = &self.input {
            let pipeline = catalog.pipelines.get(&input.pipeline);
            let cursor = pipeline.and_then(|pipeline| pipeline.cursors.get(&input.source()));
            let committed = cursor.map_or(0, |cursor| cursor.next);
            let fits = match input.step {
                Step::Done | Step::Claim => committed == input.from,
                // It moves no cursor, but it follows the outcome before.
                Step::Outcome => {
                    let before = catalog.outcomes.get(&(input.pipeline, input.source()));
                    before == Some(&input.from)
                }
            };
            if pipeline.is_none_or(|pipeline| pipeline.epoch != input.epoch) || cursor.is_none() || !fits {
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
        self.appends.iter().map(|append| append.stored().len()).sum()
    }
}

impl Order {
    fn changes(&self, catalog: &Catalog, changes: &mut Vec<Change>) -> Result<(), Error> {
        let topic = |name: &str| catalog.topic_named(name).ok_or_else(|| Error::UnknownTopic(name.to_owned()));
        let pipeline = |name: &str| catalog.pipeline_named(name).ok_or_else(|| Error::UnknownPipeline(name.to_owned()));
        match self {
            Self::SetTopics(topics) => {
                for (name, settings) in topics {
                    let topic = topic(name)?;
                    if topic.settings != *settings {
                        changes.push(Change::Settings { topic: topic.id, settings: *settings });
                    }
                }
            }
            Self::DeleteTopic(name) => {
                let topic = topic(name)?;
                let reads = |tp: &TopicPartition| tp.topic == topic.id;
                let mut pipelines = catalog.pipelines.values();
                if let Some(reader) = pipelines.find(|pipeline| pipeline.cursors.keys().any(reads)) {
                    let what = format!("topic {name} is read by pipeline {}: delete that first", reader.name);
                    return Err(Error::Invalid(what));
                }
                let mut pipelines = catalog.pipelines.values();
                if let Some(writer) =
                    pipelines.find(|pipeline| pipeline.again == Some(topic.id) && pipeline.is_writing_again())
                {
                    let what =
                        format!("pipeline {} writes to topic {name} what it was rewound to write again", writer.name);
                    return Err(Error::Invalid(format!("{what}: undo that, or let it come to where it was")));
                }
                changes.push(Change::TopicDeleted { topic: topic.id });
            }
            Self::DeletePipeline(name, own_topic) => {
                changes.push(Change::PipelineDeleted { pipeline: pipeline(name)?.id });
                changes.extend(catalog.topic_named(own_topic).map(|topic| Change::TopicDeleted { topic: topic.id }));
            }
            Self::Want(name, desired) => {
                let pipeline = pipeline(name)?;
                if pipeline.desired != *desired {
                    changes.push(Change::Desired { pipeline: pipeline.id, desired: *desired });
                }
                if !pipeline.held.is_empty() {
                    changes.push(Change::Held { pipeline: pipeline.id, reason: String::new() });
                }
            }
            Self::Hold(name, reason) => {
                changes.push(Change::Held { pipeline: pipeline(name)?.id, reason: reason.clone() });
            }
            Self::Move { pipeline: name, to, into } => {
                let pipeline = pipeline(name)?;
                let moved = |(tp, to): &(TopicPartition, u64)| {
                    let cursor = pipeline.cursors.get(tp);
                    let cursor = cursor.ok_or_else(|| Error::Invalid(format!("pipeline {name} does not read {tp}")))?;
                    let (low, high) = (catalog.low_mark(*tp), catalog.next_offset(*tp));
                    if *to < low || *to > high {
                        let what = format!("offset {to} of {tp} is not there: it has {low} up to {high}");
                        return Err(Error::Invalid(what));
                    }
                    Ok((*tp, cursor.next, *to))
                };
                let cursors = to.iter().map(moved).collect::<Result<_, _>>()?;
                changes.push(Change::Moved { pipeline: pipeline.id, epoch: pipeline.epoch + 1, cursors });
                changes.extend(into.map(|topic| Change::Again { pipeline: pipeline.id, topic }));
            }
            Self::LetGo(before) => {
                for (tp, offset) in before {
                    // The last one is written to: what is little stays, however little it is needed.
                    let full = catalog.segments(*tp).split_last().map_or(&[][..], |(_, full)| full);
                    let behind = full.iter().take_while(|segment| segment.end_offset <= *offset);
                    let low = behind.last().map(|segment| segment.end_offset);
                    let low = low.filter(|low| *low > catalog.low_mark(*tp));
                    changes.extend(low.map(|offset| Change::LowMark { tp: *tp, offset }));
                }
            }
            Self::GiveUp(holes) => {
                changes.extend(holes.iter().map(|(tp, hole)| Change::Hole { tp: *tp, hole: *hole }));
            }
        }
        Ok(())
    }
}

impl NewTopic {
    /// A topic that is kept in the usual way: for ever, not compressed.
    pub fn new(name: &str, partitions: u32) -> Self {
        Self { name: name.to_owned(), partitions, settings: TopicSettings::default() }
    }

    fn changes(&self, catalog: &Catalog, id: u32, changes: &mut Vec<Change>) -> Result<(), Error> {
        let Self { name, partitions, settings } = self;
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
        changes.push(Change::Topic { id, partitions: *partitions, name: name.clone() });
        if *settings != TopicSettings::default() {
            changes.push(Change::Settings { topic: id, settings: *settings });
        }
        Ok(())
    }
}

impl PipelineStart {
    fn changes(&self, catalog: &Catalog, changes: &mut Vec<Change>) {
        let known = catalog.pipeline_named(&self.name);
        let id = known.map_or(catalog.counters.pipeline, |known| known.id);
        let epoch = known.map_or(1, |known| known.epoch);
        let generation = known.map_or(1, |known| known.generation_by(&self.digest, &self.definition));
        if known.is_none_or(|known| known.generation != generation) {
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

/// Bytes of a producer's name.
const MAX_PRODUCER_NAME: usize = 220;

impl Sequence {
    /// Of a commit that counts once, whatever else has this key. `content` is a hash of all that the commit comes of: what has the key and another
    /// content is refused.
    ///
    /// # Errors
    /// When it is no key.
    pub fn once(key: &str, content: u64, topic: u32) -> Result<Self, Error> {
        if !(1..=200).contains(&key.len()) || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(Error::Invalid("an idempotency key has 1 to 200 printable ASCII characters".into()));
        }
        // It stands where others have a number to count from, with room for the events of any commit.
        Ok(Self { producer: format!("{ONCE}{key}"), topic, first: content >> 1 })
    }

    /// Of a producer that comes again.
    ///
    /// # Errors
    /// When no producer may be called that.
    pub fn numbered(producer: &str, topic: u32, first: u64) -> Result<Self, Error> {
        if producer.starts_with(ONCE) {
            return Err(Error::Invalid(format!("a producer's id does not begin with {ONCE}")));
        }
        Ok(Self { producer: producer.to_owned(), topic, first })
    }

    /// The producer's new count; nothing when all of it was sent before.
    pub(crate) fn changes(&self, catalog: &Catalog, events: u64, now: i64) -> Result<Vec<Change>, Error> {
        if self.producer.is_empty() || self.producer.len() > MAX_PRODUCER_NAME {
            return Err(Error::Invalid(format!("a producer's id has 1 to {MAX_PRODUCER_NAME} bytes")));
        }
        let known = catalog.producers.get(&(self.producer.clone(), self.topic));
        let expected = known.map_or(0, |producer| producer.next);
        let end = self.first.checked_add(events);
        let end = end.ok_or_else(|| Error::Invalid(format!("not a sequence number: {}", self.first)))?;
        let is_once = self.producer.starts_with(ONCE);
        // A request is sent again whole.
        let is_repeat = if is_once { known.is_some() && end == expected } else { end <= expected };
        if is_repeat && events > 0 {
            return Ok(Vec::new());
        }
        let is_other = if is_once { known.is_some() } else { self.first != expected };
        if is_other {
            return Err(Error::SequenceGap { producer: self.producer.clone(), expected, found: self.first });
        }
        let mut changes = Vec::new();
        let alike = catalog.producers.like(&self.producer);
        if known.is_none() && alike.len() >= MAX_PRODUCERS {
            // Those that have been silent for longest make room: some at once, for to find them takes a look at all.
            let mut all: Vec<_> = alike.iter().map(|(key, producer)| (producer.time, key)).collect();
            let room = (all.len() / 100).max(1);
            all.select_nth_unstable(room - 1);
            changes.extend(
                all[..room]
                    .iter()
                    .map(|(_, (name, topic))| Change::ProducerForgotten { topic: *topic, name: name.clone() }),
            );
        }
        let id = known.map_or(catalog.counters.producer, |producer| producer.id);
        changes.push(Change::Producer { id, topic: self.topic, name: self.producer.clone(), next: end, time: now });
        Ok(changes)
    }
}

impl Append {
    /// A batch for a partition.
    pub fn new(to: TopicPartition, batch: Batch) -> Self {
        Self { to, batch, at: None, packed: None }
    }

    /// The same, whose first event must get this offset.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self { at: Some(offset), ..self }
    }

    /// Packs the batch as its topic wants it.
    pub(crate) fn pack(&mut self, compression: Compression) {
        let packed = compression.pack(self.batch.bytes());
        self.packed = packed.map(|(bytes, padding)| Packed { compression, bytes, padding });
    }

    /// The bytes that go into the segment behind the batch's header.
    pub(crate) fn stored(&self) -> &[u8] {
        self.packed.as_ref().map_or(self.batch.bytes(), |packed| &packed.bytes)
    }

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
