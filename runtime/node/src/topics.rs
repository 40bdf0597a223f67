//! What producers and readers do with topics.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluice_engine::PartitionBy;
use sluice_event::{Batch, Region};
use sluice_log::{
    Append, Commit, Done, Error, Log, MAX_EVENT_BYTES, NewTopic, Partition, ReadBatch, Sequence, TopicInfo,
    TopicPartition,
};

/// A topic and how far its partitions go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Unique among the topics that exist.
    pub name: String,
    /// Never reused.
    pub id: u32,
    /// In order.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition and how far it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartitionDescription {
    /// Counts from 0.
    pub partition: u32,
    /// The oldest offset there is.
    pub low_mark: u64,
    /// The first offset that is not committed yet.
    pub high_watermark: u64,
    /// Where it is damaged, if it is known to be.
    pub damage: Option<String>,
}

/// Makes a topic.
///
/// # Errors
/// Why the log refused.
pub fn create(log: &Log, name: &str, partitions: u32) -> Result<TopicInfo, Error> {
    log.commit(Commit { topics: vec![NewTopic { name: name.to_owned(), partitions }], ..Commit::default() })?;
    log.topic(name)
}

/// A topic and how far its partitions go.
///
/// # Errors
/// [`Error::UnknownTopic`].
pub fn describe(log: &Log, name: &str) -> Result<TopicDescription, Error> {
    let topic = log.topic(name)?;
    let describe = |partition| {
        let found = log.partition(&topic, partition)?;
        let damage = found.damage().map(|d| format!("{} at byte {}: {}", d.file.display(), d.position, d.what));
        let (low_mark, high_watermark) = (found.low_mark(), found.high_watermark());
        Ok(PartitionDescription { partition, low_mark, high_watermark, damage })
    };
    let partitions = (0..topic.partitions).map(describe).collect::<Result<_, Error>>()?;
    Ok(TopicDescription { name: topic.name.clone(), id: topic.id, partitions })
}

/// All topics.
///
/// # Errors
/// When one vanishes meanwhile.
pub fn list(log: &Log) -> Result<Vec<TopicDescription>, Error> {
    log.topics().iter().map(|topic| describe(log, &topic.name)).collect()
}

/// What a producer sends.
#[derive(Debug, Clone, Copy)]
pub struct Production<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition; `None` spreads by key, and whole batches without keys in turn.
    pub partition: Option<u32>,
    /// The events, not yet believed.
    pub events: Region<'a>,
    /// The producer's own count, so that a repeat adds nothing.
    pub sequence: Option<(&'a str, u64)>,
}

/// Checks and appends events in one commit; `done` learns what became of it.
///
/// # Errors
/// When the events or their destination are not what they should be; nothing was submitted then.
pub fn produce(log: &Log, production: Production<'_>, done: Done) -> Result<(), Error> {
    let topic = log.topic(production.topic)?;
    if let Some(partition) = production.partition {
        log.partition(&topic, partition)?;
    }
    let turn = log.last_seq();
    let mut batches = vec![Batch::default(); topic.partitions as usize];
    for event in production.events.events() {
        let event = event.map_err(|malformed| Error::Invalid(format!("malformed events: {malformed}")))?;
        if event.bytes().len() > MAX_EVENT_BYTES {
            let (size, limit) = (event.bytes().len() as u64, MAX_EVENT_BYTES as u64);
            return Err(Error::TooLarge { what: "an event", size, limit });
        }
        if event.origin().is_some() {
            return Err(Error::Invalid("malformed events: an origin is for pipelines to set".into()));
        }
        let in_turn = (turn % u64::from(topic.partitions)) as u32;
        let by_key = || PartitionBy::Key.partition(event.key(), in_turn, 0, 0, topic.partitions);
        let partition = production.partition.unwrap_or_else(by_key);
        batches[partition as usize].push_event(&event);
    }
    let appends = (0..).zip(batches).filter(|(_, batch)| !batch.is_empty());
    let to = |partition| TopicPartition { topic: topic.id, partition };
    let appends = appends.map(|(partition, batch)| Append { to: to(partition), batch }).collect();
    let numbered = |(producer, first): (&str, u64)| Sequence { producer: producer.to_owned(), topic: topic.id, first };
    let sequence = production.sequence.map(numbered);
    log.submit(Commit { appends, sequence, ..Commit::default() }, done);
    Ok(())
}

/// Reads events of a partition from an offset on; none at the high watermark.
///
/// # Errors
/// When there is no such partition or offset, or it is damaged.
pub fn read(log: &Log, topic: &str, partition: u32, from: u64, max_bytes: usize) -> Result<ReadBatch, Error> {
    let partition = find(log, topic, partition)?;
    let mut batch = ReadBatch::default();
    log.reader(partition, from).read(u32::MAX, max_bytes, &mut batch)?;
    Ok(batch)
}

/// A partition of a topic by name.
///
/// # Errors
/// When there is none.
pub fn find(log: &Log, topic: &str, partition: u32) -> Result<Arc<Partition>, Error> {
    log.partition(&log.topic(topic)?, partition)
}
