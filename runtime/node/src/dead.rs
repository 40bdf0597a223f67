//! Dead letters as an operator sees them: by cause, one by one, sent through again, given up.
//!
//! What became of a dead letter stands in a topic of its own, `<dead-letter topic>.marks`: a mark is an event in the same commit as
//! what it tells of. A letter without a mark is open.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::OnError;
use sluice_config::changelog_topic;
use sluice_engine::{DeadLetter, murmur2};
use sluice_event::{Batch, Event, NewEvent};
use sluice_log::{Append, Commit, Error, Log, NewTopic, ReadBatch, TopicInfo, TopicPartition};

use crate::definitions;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Causes that are told apart; the rest is counted together.
const MAX_CAUSES: usize = 1000;
/// Marks in one commit, at most.
const MARKS_AT_ONCE: u32 = 10_000;
/// The key of a mark that says what is to be sent through again.
const REQUEST: &[u8] = b"redrive";

/// Where a dead letter stands: its partition and offset in the topic of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct LetterId {
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl From<LetterId> for String {
    fn from(id: LetterId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for LetterId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (partition, offset) = text.split_once(':').unwrap_or(("0", text));
        let parsed = partition.parse().ok().zip(offset.parse().ok());
        let (partition, offset) =
            parsed.ok_or_else(|| format!("not a dead letter: {text:?}; write PARTITION:OFFSET, such as 0:17"))?;
        Ok(Self { partition, offset })
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// It was sent through again, and went through.
    Redriven,
    /// It was sent through again, and failed again: there is a dead letter for that.
    DeadAgain,
    /// Somebody gave it up.
    Discarded,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Redriven => "redriven",
            Self::DeadAgain => "dead again",
            Self::Discarded => "discarded",
        })
    }
}

/// What is done about dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// They are sent through their pipeline again, with its current plugin. The node that runs it does it, now or when it starts.
    Redrive,
    /// They are given up.
    Discard,
}

impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Redrive => "redrive",
            Self::Discard => "discard",
        })
    }
}

/// Which dead letters are meant, of those that are open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Selection {
    /// These.
    pub ids: BTreeSet<LetterId>,
    /// Those of this cause.
    pub cause: Option<String>,
    /// Those that died at this time or later, ms since the epoch.
    pub since: Option<i64>,
    /// Those that died before this time.
    pub until: Option<i64>,
    /// All of them.
    pub all: bool,
}

impl Selection {
    /// Whether it takes some only.
    pub fn narrows(&self) -> bool {
        !self.ids.is_empty() || self.cause.is_some() || self.since.is_some() || self.until.is_some()
    }

    fn takes(&self, id: LetterId, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&id))
            && self.cause.as_ref().is_none_or(|cause| *cause == cause_id(letter))
            && self.since.is_none_or(|since| letter.time >= since)
            && self.until.is_none_or(|until| letter.time < until)
    }
}

/// Dead letters that failed in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Cause {
    /// Names it.
    pub id: String,
    /// The stage that failed.
    pub stage: String,
    /// How: see [`DeadLetter::kind`].
    pub kind: String,
    /// The reason, with `#` for numbers.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// When the first and the last of them died, ms since the epoch.
    pub first: i64,
    /// See `first`.
    pub last: i64,
    /// One of them.
    pub example: String,
}

/// A pipeline's dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeadLetters {
    /// The pipeline.
    pub pipeline: String,
    /// The topic that holds them.
    pub topic: String,
    /// Those nothing was done about.
    pub open: u64,
    /// Those that were sent through again, and went through.
    pub redriven: u64,
    /// Those that failed again.
    pub dead_again: u64,
    /// Those that were given up.
    pub discarded: u64,
    /// Open ones that are to be sent through again.
    pub redriving: u64,
    /// The open ones by cause, the most frequent first.
    pub causes: Vec<Cause>,
}

/// What is done about dead letters, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Treated {
    /// The pipeline.
    pub pipeline: String,
    /// How many.
    pub count: u64,
    /// By cause.
    pub causes: Vec<Cause>,
    /// Whether it was done or, of a redrive, asked for.
    pub done: bool,
}

/// Where one dead letter is, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Found {
    /// The topic of dead letters.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What became of it.
    pub mark: Option<Mark>,
}

fn cause_id(letter: &DeadLetter) -> String {
    let key = format!("{}\0{}\0{}", letter.stage, letter.kind, letter.cause());
    format!("{:08x}", murmur2(key.as_bytes()))
}

/// What a mark says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    mark: Mark,
}

/// What is to be sent through again: open letters that are selected, up to where each partition ended then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Request {
    pipeline: String,
    /// The id of the topic of dead letters.
    topic: u32,
    selection: Selection,
    ends: Vec<u64>,
}

/// The topic that holds the marks of a topic of dead letters. It is made when there is something to mark.
pub(crate) fn marks_topic(dead_letter_topic: &str) -> String {
    format!("{dead_letter_topic}.marks")
}

/// The topic of a pipeline's dead letters, and what became of them.
pub(crate) struct Graveyard {
    pipeline: String,
    /// Whether it still writes dead letters.
    writes: bool,
    topic: TopicInfo,
    marks_topic: String,
    marks: BTreeMap<LetterId, Mark>,
    /// What was asked for last.
    request: Option<Request>,
}

impl Graveyard {
    /// Of a pipeline, by its definition in force.
    pub(crate) fn of(log: &Log, pipeline: &str) -> Result<Self, Error> {
        let info = log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
        let none =
            || Error::Invalid(format!("pipeline {pipeline} writes no dead letters: see on-error in its definition"));
        let errors = definitions::in_force(&info).map_err(|_| none())?.errors;
        let writes = errors.on_error == OnError::DeadLetter;
        // Those that it wrote under an earlier definition are still there.
        let topic = log.topic(&errors.dead_letter_topic).map_err(|error| if writes { error } else { none() })?;
        let marks_topic = marks_topic(&topic.name);
        let mut graveyard =
            Self { pipeline: pipeline.to_owned(), writes, topic, marks_topic, marks: BTreeMap::new(), request: None };
        graveyard.read_marks(log)?;
        Ok(graveyard)
    }

    fn read_marks(&mut self, log: &Log) -> Result<(), Error> {
        let Ok(topic) = log.topic(&self.marks_topic) else { return Ok(()) };
        // A topic of dead letters may be deleted and made again: its offsets mean others then.
        let (of, id) = (self.key_prefix(), self.topic.id);
        let (marks, request, pipeline) = (&mut self.marks, &mut self.request, &self.pipeline);
        each(log, &topic, &mut |_, event| {
            let key = event.key().unwrap_or_default();
            if key == REQUEST {
                let asked = serde_json::from_slice::<Request>(event.value()).ok();
                *request = asked.filter(|asked| asked.pipeline == *pipeline && asked.topic == id).or(request.take());
            } else if let Some(id) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&of)?.parse().ok())
                && let Ok(Written { mark }) = serde_json::from_slice(event.value())
            {
                marks.insert(id, mark);
            }
            Ok(())
        })
    }

    /// What became of a letter.
    fn mark(&self, id: LetterId) -> Option<Mark> {
        self.marks.get(&id).copied()
    }

    /// Every letter of this pipeline.
    fn letters(
        &self,
        log: &Log,
        each_letter: &mut dyn FnMut(LetterId, DeadLetter, &Event<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        each(log, &self.topic, &mut |id, event| match DeadLetter::of(event) {
            Some((letter, _)) if letter.pipeline == self.pipeline => each_letter(id, letter, event),
            _ => Ok(()),
        })
    }

    /// Whether a letter is to be sent through again and has not been.
    fn is_requested(&self, id: LetterId, letter: &DeadLetter) -> bool {
        self.mark(id).is_none()
            && self.request.as_ref().is_some_and(|Request { selection, ends, .. }| {
                let was_there = ends.get(id.partition as usize).is_some_and(|end| id.offset < *end);
                was_there && selection.takes(id, letter)
            })
    }

    /// The letters that are to be sent through again and have not been.
    pub(crate) fn requested(
        &self,
        log: &Log,
        each_letter: &mut dyn FnMut(LetterId, &Event<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.letters(log, &mut |id, letter, event| {
            if self.is_requested(id, &letter) { each_letter(id, event) } else { Ok(()) }
        })
    }

    /// All letters, by what became of them and, the open ones, by cause.
    fn told(&self, log: &Log) -> Result<DeadLetters, Error> {
        let (pipeline, topic) = (self.pipeline.clone(), self.topic.name.clone());
        let (mut told, mut causes) = (DeadLetters { pipeline, topic, ..<_>::default() }, Causes::default());
        self.letters(log, &mut |id, letter, _| {
            told.redriving += u64::from(self.is_requested(id, &letter));
            match self.mark(id) {
                None => {
                    told.open += 1;
                    causes.add(id, letter);
                }
                Some(Mark::Redriven) => told.redriven += 1,
                Some(Mark::DeadAgain) => told.dead_again += 1,
                Some(Mark::Discarded) => told.discarded += 1,
            }
            Ok(())
        })?;
        told.causes = causes.sorted();
        Ok(told)
    }

    /// The open letters that are selected.
    fn selected(&self, log: &Log, selection: &Selection) -> Result<(BTreeSet<LetterId>, Vec<Cause>), Error> {
        let Self { pipeline, .. } = self;
        if !selection.narrows() && !selection.all {
            return Err(Error::Invalid("say which dead letters: ids, a cause, a time, or all".to_owned()));
        }
        let (mut causes, mut taken) = (Causes::default(), BTreeSet::new());
        self.letters(log, &mut |id, letter, _| {
            if self.mark(id).is_none() && selection.takes(id, &letter) {
                causes.add(id, letter);
                taken.insert(id);
            }
            Ok(())
        })?;
        if let Some(missing) = selection.ids.difference(&taken).next() {
            return Err(Error::Invalid(match self.mark(*missing) {
                Some(mark) => format!("dead letter {missing} is not open any more: {mark}"),
                None => format!("pipeline {pipeline} has no dead letter {missing} that the selection takes"),
            }));
        }
        if taken.is_empty() && !selection.all {
            let what = format!("no open dead letter of pipeline {pipeline} is of that cause or time");
            return Err(Error::Invalid(what));
        }
        Ok((taken, causes.sorted()))
    }

    /// Gives letters up.
    fn discard(&self, log: &Log, letters: BTreeSet<LetterId>) -> Result<(), Error> {
        let mut batch = Batch::default();
        for id in letters {
            self.push_mark(&mut batch, id, Mark::Discarded)?;
            if batch.count() == MARKS_AT_ONCE {
                self.commit_marks(log, std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.commit_marks(log, batch) }
    }

    /// Asks for letters to be sent through again.
    fn request(&self, log: &Log, selection: &Selection) -> Result<(), Error> {
        let end = |partition| Ok(log.partition(&self.topic, partition)?.high_watermark());
        let request = Request {
            pipeline: self.pipeline.clone(),
            topic: self.topic.id,
            selection: selection.clone(),
            ends: (0..self.topic.partitions).map(end).collect::<Result<_, Error>>()?,
        };
        let mut batch = Batch::default();
        push(&mut batch, REQUEST, &request)?;
        self.commit_marks(log, batch)
    }

    /// Nothing may be asked for while letters are still to be sent: it would be about these as well.
    fn none_requested(&self, log: &Log) -> Result<(), Error> {
        match self.told(log)?.redriving {
            0 => Ok(()),
            left => {
                let pipeline = &self.pipeline;
                let what = format!("{left} dead letters of pipeline {pipeline} are still to be sent: wait for these");
                Err(Error::Invalid(what))
            }
        }
    }

    /// A mark, ready to be appended.
    pub(crate) fn marked(&self, log: &Log, id: LetterId, mark: Mark) -> Result<Append, Error> {
        let mut batch = Batch::default();
        self.push_mark(&mut batch, id, mark)?;
        self.append_marks(log, batch)
    }

    fn key_prefix(&self) -> String {
        format!("{}/", self.topic.id)
    }

    fn push_mark(&self, batch: &mut Batch, id: LetterId, mark: Mark) -> Result<(), Error> {
        push(batch, format!("{}{id}", self.key_prefix()).as_bytes(), &Written { mark })
    }

    fn append_marks(&self, log: &Log, batch: Batch) -> Result<Append, Error> {
        let topic = log.topic(&self.marks_topic)?;
        Ok(Append::new(TopicPartition { topic: topic.id, partition: 0 }, batch))
    }

    /// Makes the topic of marks where there is none.
    fn commit_marks(&self, log: &Log, batch: Batch) -> Result<(), Error> {
        if log.topic(&self.marks_topic).is_err() {
            log.commit(Commit { topics: vec![NewTopic::new(&self.marks_topic, 1)], ..Commit::default() })?;
        }
        log.commit(Commit { appends: vec![self.append_marks(log, batch)?], ..Commit::default() })?;
        Ok(())
    }
}

fn push(batch: &mut Batch, key: &[u8], value: &impl Serialize) -> Result<(), Error> {
    let value = serde_json::to_vec(value).map_err(|error| Error::Invalid(error.to_string()))?;
    let event = NewEvent { key: Some(key), value: &value, ..NewEvent::default() };
    batch.push(&event).map_err(|error| Error::Invalid(error.to_string()))
}

/// Every event of a topic.
fn each(
    log: &Log,
    topic: &TopicInfo,
    each_event: &mut dyn FnMut(LetterId, &Event<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for partition in 0..topic.partitions {
        let found = log.partition(topic, partition)?;
        let end = found.high_watermark();
        let mut reader = log.reader(found.clone(), found.low_mark());
        let mut batch = ReadBatch::default();
        loop {
            reader.read(u32::MAX, READ_BYTES, &mut batch)?;
            if batch.count == 0 || batch.base_offset >= end {
                break;
            }
            for (offset, event) in (batch.base_offset..end).zip(batch.region().events()) {
                let event = event.map_err(|malformed| Error::Invalid(malformed.to_string()))?;
                each_event(LetterId { partition, offset }, &event)?;
            }
        }
    }
    Ok(())
}

/// Counts letters by cause.
#[derive(Default)]
struct Causes(BTreeMap<String, Cause>);

impl Causes {
    fn add(&mut self, id: LetterId, letter: DeadLetter) {
        let mut key = cause_id(&letter);
        let mut reason = letter.cause();
        if self.0.len() >= MAX_CAUSES && !self.0.contains_key(&key) {
            (key, reason) = ("other".to_owned(), "(more causes than are told apart)".to_owned());
        }
        let cause = self.0.entry(key.clone()).or_insert_with(|| Cause {
            id: key,
            stage: letter.stage,
            kind: letter.kind,
            reason,
            count: 0,
            first: letter.time,
            last: letter.time,
            example: id.to_string(),
        });
        cause.count += 1;
        (cause.first, cause.last) = (cause.first.min(letter.time), cause.last.max(letter.time));
    }

    fn sorted(self) -> Vec<Cause> {
        let mut causes: Vec<_> = self.0.into_values().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        causes
    }
}

/// A pipeline's dead letters, by cause.
///
/// # Errors
/// When there is no such pipeline, it writes none, or they cannot be read.
pub fn list(log: &Log, pipeline: &str) -> Result<DeadLetters, Error> {
    Graveyard::of(log, pipeline)?.told(log)
}

/// A pipeline whose dead letters go to a topic, and how many of them are open, if any are.
pub(crate) fn open_in(log: &Log, topic: &str) -> Result<Option<(String, u64)>, Error> {
    for pipeline in log.pipelines() {
        let Ok(graveyard) = Graveyard::of(log, &pipeline.name) else { continue };
        if graveyard.topic.name == topic {
            let open = graveyard.told(log)?.open;
            if open > 0 {
                return Ok(Some((pipeline.name, open)));
            }
        }
    }
    Ok(None)
}

/// Where a dead letter is, and what became of it.
///
/// # Errors
/// When there is no such pipeline, or it writes none.
pub fn find(log: &Log, pipeline: &str, id: LetterId) -> Result<Found, Error> {
    let graveyard = Graveyard::of(log, pipeline)?;
    let LetterId { partition, offset } = id;
    Ok(Found { topic: graveyard.topic.name.clone(), partition, offset, mark: graveyard.mark(id) })
}

/// Does something about dead letters, or says about which that would be.
///
/// # Errors
/// When there are no such letters, others are still to be sent, or storage refuses.
pub fn treat(
    log: &Log,
    pipeline: &str,
    treatment: Treatment,
    selection: &Selection,
    really: bool,
) -> Result<Treated, Error> {
    let graveyard = Graveyard::of(log, pipeline)?;
    if treatment == Treatment::Redrive && !graveyard.writes {
        let what = "what fails again needs a place to go: write on-error = \"dead-letter\" in its definition";
        return Err(Error::Invalid(format!("pipeline {pipeline} writes no dead letters now; {what}")));
    }
    if treatment == Treatment::Redrive && log.topic(&changelog_topic(pipeline)).is_ok() {
        let what = "dead letters of a pipeline that keeps state cannot be redriven yet: produce the events again, or discard them";
        return Err(Error::Invalid(what.to_owned()));
    }
    let (taken, causes) = graveyard.selected(log, selection)?;
    let treated = Treated { pipeline: pipeline.to_owned(), count: taken.len() as u64, causes, done: really };
    if !really || taken.is_empty() {
        return Ok(treated);
    }
    match treatment {
        Treatment::Discard => graveyard.discard(log, taken)?,
        Treatment::Redrive => {
            graveyard.none_requested(log)?;
            graveyard.request(log, selection)?;
        }
    }
    Ok(treated)
}
