//! What came out against what was committed, by origin.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_event::{Event, Origin, Source};
use sluice_log::{Error, Log, ReadBatch, TopicPartition};

use super::Replay;
use crate::state::Written;

/// Differences that are told in full, at most.
const MOST_DIFFERENCES: usize = 100;
/// Bytes of a value that are told.
const MOST_VALUE: usize = 4096;
/// Bytes of a sink read at once.
const READ_BYTES: usize = 1 << 20;

/// What a replay goes over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) source: TopicPartition,
    pub(super) from: u64,
    /// Behind the last event; timers that fire before the event there belong to it.
    pub(super) to: u64,
    /// So many outputs of timers that fired before the first event came out before the range.
    pub(super) told: u32,
}

impl Range {
    fn has(&self, origin: &Origin) -> bool {
        let own = (origin.topic, origin.partition) == (self.source.topic, self.source.partition);
        own && match origin.source {
            Source::Input => (self.from..self.to).contains(&origin.offset),
            Source::Timer if origin.offset == self.from => origin.ordinal >= self.told,
            Source::Timer => (self.from..=self.to).contains(&origin.offset),
        }
    }
}

/// Where an output comes from, and the topic it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id {
    offset: u64,
    of_timer: bool,
    ordinal: u32,
    from: u32,
    to: u32,
}

impl Id {
    fn of(to: u32, origin: &Origin) -> Self {
        let (offset, of_timer, ordinal) = (origin.offset, origin.source == Source::Timer, origin.ordinal);
        Self { offset, of_timer, ordinal, from: origin.topic, to }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { offset, of_timer, ordinal, from, to } = self;
        [
            &to.to_le_bytes()[..],
            &from.to_le_bytes(),
            &offset.to_le_bytes(),
            &[u8::from(*of_timer)],
            &ordinal.to_le_bytes(),
        ]
        .concat()
    }
}

/// An output that was committed.
struct Was {
    hash: u128,
    partition: u32,
    offset: u64,
    came: bool,
}

/// How an output differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It was not committed.
    Added,
    /// It did not come out.
    Missing,
    /// It was committed otherwise.
    Changed,
}

/// An output that is not as it was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// How.
    pub kind: Kind,
    /// The topic it goes to.
    pub topic: String,
    /// The id of the source topic.
    pub source: u32,
    /// The source partition.
    pub partition: u32,
    /// The source event, or the one before which the timer fired.
    pub offset: u64,
    /// Whether it comes of a timer.
    pub of_timer: bool,
    /// Counts the outputs of one event, or of the timers before it.
    pub ordinal: u32,
    /// As it was committed.
    pub was: Option<Shown>,
    /// As it came out.
    pub is: Option<Shown>,
}

/// An event, to be looked at. Long values are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Shown {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Shown {
    fn of(event: &Event<'_>) -> Self {
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(MOST_VALUE)].to_vec();
        Self {
            timestamp: event.timestamp(),
            key: event.key().map(cut),
            value: cut(event.value()),
            headers: event.headers().map(|(name, value)| (name.to_owned(), cut(value))).collect(),
        }
    }
}

/// 128 bits of SHA-256 over parts, each with its length.
pub(super) fn hash_of(parts: &[&[u8]]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    u128::from_le_bytes(*hasher.finalize().first_chunk().unwrap_or(&[0; 16]))
}

fn hash_event(event: &Event<'_>) -> u128 {
    let timestamp = event.timestamp().to_le_bytes();
    let mut parts =
        vec![&timestamp[..], if event.key().is_some() { b"k" } else { b"" }, event.key().unwrap_or_default()];
    parts.push(event.value());
    for (name, value) in event.headers() {
        parts.extend([name.as_bytes(), value]);
    }
    hash_of(&parts)
}

/// Whether an output is compared, by where it comes from and when it was appended.
fn counts(written: Option<&Written>, origin: &Origin, appended: Option<i64>) -> bool {
    // A timer is named by the place behind an event.
    let offset = origin.offset.saturating_sub(u64::from(origin.source == Source::Timer));
    written.is_none_or(|written| written.counts(origin.topic, offset, appended))
}

/// What came out of one source partition, against what was committed.
pub(super) struct Comparison {
    ranges: Vec<Range>,
    /// `None`: nothing is compared.
    committed: Option<HashMap<Id, Was>>,
    names: Vec<(u32, String)>,
    /// Which outputs are compared, where it is not all.
    written: Option<Written>,
    came: Replay,
    pub(super) dead: u64,
    hash: u128,
}

impl Comparison {
    pub(super) fn none(ranges: Vec<Range>) -> Self {
        Self { ranges, committed: None, names: Vec::new(), written: None, came: Replay::default(), dead: 0, hash: 0 }
    }

    /// With all that was committed to these topics; what was committed last for an origin counts, of that which history has written.
    pub(super) fn with_committed(
        log: &Log,
        ranges: Vec<Range>,
        topics: &[String],
        written: Option<Written>,
    ) -> Result<Self, Error> {
        let (mut committed, mut names) = (HashMap::new(), Vec::new());
        for name in topics {
            let topic = log.topic(name)?;
            if names.iter().any(|(id, _)| *id == topic.id) {
                continue;
            }
            for partition in 0..topic.partitions {
                let found = log.partition(&topic, partition)?;
                let mut reader = log.reader(found.clone(), found.low_mark());
                let mut read = ReadBatch::default();
                loop {
                    reader.read(u32::MAX, READ_BYTES, &mut read)?;
                    if read.count == 0 {
                        break;
                    }
                    let mut times = read.append_times.iter().peekable();
                    let mut time = i64::MIN;
                    for (index, event) in (0..).zip(read.region().events().flatten()) {
                        while let Some((_, next)) = times.next_if(|(from, _)| *from <= index) {
                            time = *next;
                        }
                        let offset = read.base_offset + u64::from(index);
                        let is_asked = |origin: &Origin| ranges.iter().any(|range| range.has(origin));
                        let Some(origin) = event.origin().filter(is_asked) else { continue };
                        if !counts(written.as_ref(), &origin, Some(time)) {
                            continue;
                        }
                        let was = Was { hash: hash_event(&event), partition, offset, came: false };
                        committed.insert(Id::of(topic.id, &origin), was);
                    }
                }
            }
            names.push((topic.id, topic.name));
        }
        Ok(Self { committed: Some(committed), names, written, ..Self::none(ranges) })
    }

    /// An output came out.
    pub(super) fn came(&mut self, topic: u32, event: &Event<'_>) {
        let Some(origin) = event.origin() else { return };
        self.came.outputs += 1;
        let (id, hash) = (Id::of(topic, &origin), hash_event(event));
        self.hash = self.hash.wrapping_add(hash_of(&[&id.bytes(), &hash.to_le_bytes()]));
        if !counts(self.written.as_ref(), &origin, None) {
            return;
        }
        let Some(committed) = &mut self.committed else { return };
        let kind = match committed.get_mut(&id) {
            Some(was) => {
                was.came = true;
                if was.hash == hash {
                    self.came.same += 1;
                    return;
                }
                self.came.changed += 1;
                Kind::Changed
            }
            None => {
                self.came.added += 1;
                Kind::Added
            }
        };
        self.differs(kind, id, Some(Shown::of(event)));
    }

    fn differs(&mut self, kind: Kind, id: Id, is: Option<Shown>) {
        if self.came.differences.len() < MOST_DIFFERENCES {
            let name = self.names.iter().find(|(topic, _)| *topic == id.to).map(|(_, name)| name.clone());
            self.came.differences.push(Difference {
                kind,
                topic: name.unwrap_or_default(),
                source: id.from,
                partition: self.ranges[0].source.partition,
                offset: id.offset,
                of_timer: id.of_timer,
                ordinal: id.ordinal,
                was: None,
                is,
            });
        }
    }

    /// Hash of all that came out, whatever its order.
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// Finds what is missing, and reads what was committed in place of what differs.
    pub(super) fn finish(&mut self, log: &Log) -> Result<(), Error> {
        let Some(committed) = self.committed.take() else { return Ok(()) };
        let mut missing: Vec<Id> = committed.iter().filter(|(_, was)| !was.came).map(|(id, _)| *id).collect();
        missing.sort_unstable();
        self.came.missing = missing.len() as u64;
        missing.into_iter().for_each(|id| self.differs(Kind::Missing, id, None));
        for difference in &mut self.came.differences {
            let to = self.names.iter().find(|(_, name)| *name == difference.topic).map_or(0, |(id, _)| *id);
            let Difference { offset, of_timer, ordinal, source: from, .. } = *difference;
            let id = Id { offset, of_timer, ordinal, from, to };
            let Some(was) = committed.get(&id) else { continue };
            let topic = log.topic(&difference.topic)?;
            let mut read = ReadBatch::default();
            log.reader(log.partition(&topic, was.partition)?, was.offset).read(1, READ_BYTES, &mut read)?;
            difference.was = read.region().events().flatten().next().map(|event| Shown::of(&event));
        }
        Ok(())
    }

    /// Adds what it came to.
    pub(super) fn tell(self, replay: &mut Replay) {
        replay.outputs += self.came.outputs;
        replay.dead += self.dead;
        replay.same += self.came.same;
        replay.added += self.came.added;
        replay.missing += self.came.missing;
        replay.changed += self.came.changed;
        let room = MOST_DIFFERENCES.saturating_sub(replay.differences.len());
        replay.differences.extend(self.came.differences.into_iter().take(room));
    }
}
