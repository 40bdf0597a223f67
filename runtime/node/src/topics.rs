//! What producers and readers do with topics.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{Pipeline, changelog_topic};
use sluice_engine::PartitionBy;
use sluice_event::{Batch, Region};
use sluice_log::{
    Append, Commit, Done, Error, Log, MAX_EVENT_BYTES, NewTopic, Order, Partition, PipelineInfo, ReadBatch, Sequence,
    TopicInfo, TopicPartition,
};

use crate::dead::marks_topic;
use crate::definitions;

/// A topic and how far its partitions go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TopicDescription {
    /// Unique among the topics that exist.
    pub name: String,
    /// Never reused.
    pub id: u32,
    /// How long events are kept, in milliseconds since they were appended; none for ever.
    pub retention_age_ms: Option<i64>,
    /// How many bytes of each partition are kept; none for all.
    pub retention_bytes: Option<u64>,
    /// Whether events go even when a pipeline has not read them.
    pub past_cursors: bool,
    /// How batches are compressed.
    pub compression: String,
    /// In order.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition and how far it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PartitionDescription {
    /// Counts from 0.
    pub partition: u32,
    /// The oldest offset there is.
    pub low_mark: u64,
    /// The first offset that is not committed yet.
    pub high_watermark: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Offsets that a repair gave up, as half-open ranges.
    pub holes: Vec<(u64, u64)>,
    /// Where it is damaged, if it is known to be.
    pub damage: Option<String>,
}

/// Makes a topic.
///
/// # Errors
/// Why the log refused.
pub fn create(log: &Log, topic: NewTopic) -> Result<TopicInfo, Error> {
    let name = topic.name.clone();
    log.commit(Commit { topics: vec![topic], ..Commit::default() })?;
    log.topic(&name)
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
        let holes = found.holes().iter().map(|hole| (hole.from, hole.to)).collect();
        Ok(PartitionDescription { partition, low_mark, high_watermark, bytes: found.bytes(), holes, damage })
    };
    let partitions = (0..topic.partitions).map(describe).collect::<Result<_, Error>>()?;
    Ok(TopicDescription {
        name: topic.name.clone(),
        id: topic.id,
        retention_age_ms: topic.settings.retention_age_ms,
        retention_bytes: topic.settings.retention_bytes,
        past_cursors: topic.settings.past_cursors,
        compression: topic.settings.compression.to_string(),
        partitions,
    })
}

/// Deletes a topic and its events.
///
/// # Errors
/// When a pipeline reads it, it holds dead letters that nothing was done about, or storage refuses.
pub fn delete(log: &Log, name: &str) -> Result<(), Error> {
    if let Some((pipeline, open)) = crate::dead::open_in(log, name)? {
        let what = format!(
            "topic {name} holds {open} open dead letters of pipeline {pipeline}: redrive or discard them first"
        );
        return Err(Error::Invalid(what));
    }
    log.commit(Commit::order(Order::DeleteTopic(name.to_owned())))?;
    Ok(())
}

/// A topic that outputs of a pipeline go to aside of its sinks; made where it is missing, if that is wanted.
pub(crate) fn aside(log: &Log, pipeline: &Pipeline, name: &str, make: bool) -> Result<Option<TopicInfo>, Error> {
    let written = |info: &PipelineInfo| match definitions::in_force(info) {
        Ok(pipeline) => {
            let mut all =
                pipeline.written().map(|(_, topic)| topic).chain([pipeline.errors.dead_letter_topic.as_str()]);
            all.any(|topic| topic == name || marks_topic(topic) == name)
        }
        Err(_) => false,
    };
    let there = log.topic(name).ok();
    let is_used = |info: &PipelineInfo| {
        let is_read = info.cursors.keys().any(|tp| there.as_ref().is_some_and(|topic| topic.id == tp.topic));
        is_read || name == changelog_topic(&info.name) || written(info)
    };
    let own =
        pipeline.sources.iter().any(|source| source == name) || pipeline.written().any(|(_, topic)| topic == name);
    if own || log.pipelines().iter().any(is_used) {
        let what = format!("topic {name} is one that a pipeline reads or writes");
        return Err(Error::Invalid(format!("{what}: what comes out again goes to a topic of its own")));
    }
    if there.is_some() || !make {
        return Ok(there);
    }
    let source = pipeline.sources.first().and_then(|source| log.topic(source).ok());
    let new = NewTopic::new(name, source.map_or(1, |topic| topic.partitions));
    create(log, new).map(Some)
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
    /// A key that no other request has, to the same end, and a hash of the request.
    pub once: Option<(&'a str, u64)>,
}

/// Checks and appends events in one commit; `done` learns what became of it.
///
/// # Errors
/// When the events or their destination are not what they should be; nothing was submitted then.
pub fn produce(log: &Log, production: Production<'_>, done: Done) -> Result<(), Error> {
    let topic = log.topic(production.topic)?;
    let changelog = log.pipelines().into_iter().find(|pipeline| changelog_topic(&pipeline.name) == topic.name);
    if let Some(pipeline) = changelog {
        let what =
            format!("topic {} holds the state of pipeline {}: only that writes to it", topic.name, pipeline.name);
        return Err(Error::Invalid(what));
    }
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
    let appends = appends.map(|(partition, batch)| Append::new(to(partition), batch)).collect();
    let sequence = match (production.sequence, production.once) {
        (Some(_), Some(_)) => {
            return Err(Error::Invalid("a producer's sequence and an idempotency key do not go together".into()));
        }
        (Some((producer, first)), None) => Some(Sequence::numbered(producer, topic.id, first)?),
        (None, Some((key, request))) => Some(Sequence::once(key, request, topic.id)?),
        (None, None) => None,
    };
    log.submit(Commit { appends, sequence, ..Commit::default() }, done);
    Ok(())
}

/// Reads events of a partition from an offset on; none at the high watermark.
///
/// # Errors
/// When there is no such partition or offset, or it is damaged.
pub fn read(log: &Log, topic: &str, partition: u32, from: u64, max_bytes: usize) -> Result<ReadBatch, Error> {
    read_partition(log, find(log, topic, partition)?, from, max_bytes)
}

/// The same of a partition that was found.
///
/// # Errors
/// When there is no such offset, or it is damaged.
pub fn read_partition(log: &Log, partition: Arc<Partition>, from: u64, max_bytes: usize) -> Result<ReadBatch, Error> {
    let mut batch = ReadBatch::default();
    log.reader(partition, from).read(u32::MAX, max_bytes, &mut batch)?;
    Ok(batch)
}

/// Where to begin to read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the oldest event.
    Earliest,
    /// Behind the newest.
    Latest,
    /// At this offset.
    Offset(u64),
    /// At the first event appended at this time or later, ms since the epoch.
    Time(i64),
    /// At the first batch that holds an event of this timestamp or a later one.
    EventTime(i64),
}

impl Place {
    /// The offset that it means in a partition.
    ///
    /// # Errors
    /// When the partition cannot be read.
    pub fn offset(self, partition: &Partition) -> Result<u64, Error> {
        Ok(match self {
            Self::Earliest => partition.low_mark(),
            Self::Latest => partition.high_watermark(),
            Self::Offset(offset) => offset,
            Self::Time(time) => partition.offset_at(time)?,
            Self::EventTime(time) => partition.offset_at_event_time(time)?,
        })
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = |text: &str| text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond).ok();
        let place = match text {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            _ => match text.strip_prefix("event-time:") {
                Some(event_time) => time(event_time).map(Self::EventTime),
                None => text.parse().map(Self::Offset).ok().or_else(|| time(text).map(Self::Time)),
            },
        };
        place.ok_or_else(|| {
            format!("not a place: {text:?}; use earliest, latest, an offset, an RFC 3339 time (when events were appended), or event-time:TIME")
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = |time: i64| jiff::Timestamp::from_millisecond(time).unwrap_or_default();
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Offset(offset) => write!(f, "{offset}"),
            Self::Time(at) => write!(f, "{}", time(*at)),
            Self::EventTime(at) => write!(f, "event-time:{}", time(*at)),
        }
    }
}

/// The offset that a place means in a partition of a topic.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn locate(log: &Log, topic: &str, partition: u32, place: Place) -> Result<u64, Error> {
    place.offset(&*find(log, topic, partition)?)
}

/// A partition of a topic by name.
///
/// # Errors
/// When there is none.
pub fn find(log: &Log, topic: &str, partition: u32) -> Result<Arc<Partition>, Error> {
    log.partition(&log.topic(topic)?, partition)
}
