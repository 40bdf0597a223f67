//! What an operator does with pipelines: set cursors anew, look what became of events.

use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_log::{Commit, Error, Log, Order, Partition, PipelineInfo, TopicInfo, TopicPartition};

use crate::checkpoint::{self, Stood};
use crate::definitions;
use crate::state::{self, Past, StateChoice, Step};
use crate::topics::{self, Place};

/// Where a pipeline's cursors are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All of them to a place in each partition, or those of one topic or partition.
    To {
        /// Of this topic only.
        topic: Option<String>,
        /// This partition only.
        partition: Option<u32>,
        /// Where.
        place: Place,
    },
    /// Back to where they were before they were last set anew.
    Undo,
    /// To where a checkpoint has them, with the state there.
    Checkpoint(String),
    /// They stay, with the state that a checkpoint has, brought forward to there: what came since is dealt with again without outputs. For rollbacks.
    CatchUp(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "undo" {
            return Ok(Self::Undo);
        }
        if let Some(name) = text.strip_prefix("checkpoint:") {
            return Ok(Self::Checkpoint(name.to_owned()));
        }
        if let Ok(place) = text.parse() {
            return Ok(Self::To { topic: None, partition: None, place });
        }
        // P:OFFSET or TOPIC/P:OFFSET
        let parts = || {
            let (partition, offset) = text.rsplit_once(':')?;
            let (topic, partition) = match partition.rsplit_once('/') {
                Some((topic, partition)) => (Some(topic.to_owned()), partition),
                None => (None, partition),
            };
            Some(Self::To {
                topic,
                partition: Some(partition.parse().ok()?),
                place: Place::Offset(offset.parse().ok()?),
            })
        };
        parts().ok_or_else(|| {
            format!(
                "not a place to rewind to: {text:?}; use earliest, latest, an RFC 3339 time, event-time:TIME, OFFSET, PARTITION:OFFSET, TOPIC/PARTITION:OFFSET or checkpoint:NAME"
            )
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Undo => f.write_str("undo"),
            Self::Checkpoint(name) | Self::CatchUp(name) => write!(f, "checkpoint:{name}"),
            Self::To { topic, partition, place } => {
                if let Some(topic) = topic {
                    write!(f, "{topic}/")?;
                }
                if let Some(partition) = partition {
                    write!(f, "{partition}:")?;
                }
                write!(f, "{place}")
            }
        }
    }
}

/// How a pipeline's cursors are to be set anew.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where they go.
    pub target: Target,
    /// What becomes of the state.
    pub state: StateChoice,
    /// The topic to which outputs of what is read again go, in place of the sinks; made where it is missing.
    pub into: Option<String>,
    /// Whether to do it, or only to say what it would do.
    pub really: bool,
}

/// How one cursor moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Move {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Where the cursor stands.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
    /// Events before that which are dealt with again without outputs, for the state to be what it was there.
    pub for_state: u64,
}

/// What setting cursors anew does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rewind {
    /// The pipeline.
    pub pipeline: String,
    /// Every cursor that is asked for, also those that stay.
    pub moves: Vec<Move>,
    /// Events that will be read again.
    pub again: u64,
    /// Events that will never be read.
    pub passed_over: u64,
    /// What becomes of the state; none for pipelines that keep none.
    pub state: Option<StateChoice>,
    /// The topic to which outputs of what is read again go, in place of the sinks.
    pub into: Option<String>,
    /// Whether it was done.
    pub done: bool,
}

/// Sets a pipeline's cursors anew on a data directory on which no node runs, or says what that would do.
///
/// # Errors
/// When there is no such pipeline or place, or storage refuses.
pub fn rewind(log: &Log, pipeline: &str, request: &Request) -> Result<Rewind, Error> {
    let info = log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
    let past = Past::of(log, |pipeline, partition| state::bring_up(log, pipeline, partition), &info);
    rewind_with(log, &info, past.as_ref(), request)
}

/// The same; `past` knows the states.
pub(crate) fn rewind_with(
    log: &Log,
    info: &PipelineInfo,
    past: Option<&Past<'_>>,
    &Request { ref target, state: choice, ref into, really }: &Request,
) -> Result<Rewind, Error> {
    let pipeline = &info.name;
    if *target == Target::Undo && into.is_some() {
        return Err(Error::Invalid("undo writes nothing again: it takes no topic".to_owned()));
    }
    if *target != Target::Undo && info.is_writing_again() {
        let what = format!("pipeline {pipeline} writes to a topic of its own what it was rewound to read again");
        return Err(Error::Invalid(format!("{what}: let it come to where it was, or --undo that first")));
    }
    let aside = |make| match into {
        Some(name) => {
            let unreadable =
                |_| Error::Invalid(format!("the definition of pipeline {pipeline} in force cannot be read"));
            let own = definitions::in_force(info).map_err(unreadable)?;
            topics::aside(log, &own, name, make)
        }
        None => Ok(None),
    };
    // Whatever is wrong is found before anything is made.
    aside(false)?;
    if *target == Target::Undo && info.before.is_empty() {
        return Err(Error::Invalid(format!("pipeline {pipeline} was never rewound: there is nothing to undo")));
    }
    let checkpoint = match target {
        Target::Checkpoint(name) | Target::CatchUp(name) => Some(checkpoint::find(log.root(), name)?),
        _ => None,
    };
    let stood = checkpoint.as_ref().map(|checkpoint| checkpoint.of(info)).transpose()?;
    let topics = log.topics();
    let (mut moves, mut to, mut appends) = (Vec::new(), Vec::new(), Vec::new());
    // Where the state comes along, it is one of all topics.
    let comes_along = past.is_some() && (*target == Target::Undo || choice == StateChoice::Restore);
    for (partition, steps) in steps((log, &topics), info, (past.is_some(), comes_along), target, stood)? {
        let back = match (past, target) {
            (None, _) => None,
            (Some(past), Target::Undo) => Some(past.undo(&steps)?),
            (Some(past), Target::Checkpoint(_) | Target::CatchUp(_)) if choice == StateChoice::Restore => {
                let Some((stood, kept)) = stood.and_then(|stood| Some((stood, stood.state(partition)?))) else {
                    let what = "the checkpoint has no state of the pipeline, which had none then";
                    return Err(Error::Invalid(format!("{what}: --state reset begins with an empty one")));
                };
                Some(match target {
                    Target::CatchUp(_) => {
                        let at = |step: &Step| Some((step.source.topic, stood.part(step.source)?.cursor));
                        past.catch_up(&steps, &kept.line, steps.iter().filter_map(at).collect())?
                    }
                    _ => past.restore(&steps, &kept.line)?,
                })
            }
            (Some(past), _) => Some(past.go(&steps, choice)?),
        };
        for step in steps {
            let Some((topic, found)) = partition_of(log, &topics, step.source)? else { continue };
            let start = back.as_ref().and_then(|back| state::cursor_of(&back.cursors, step.source.topic));
            let (start, low) = (start.unwrap_or(step.to), found.low_mark());
            if start < low {
                let what =
                    format!("the state at offset {} of {topic}/{partition} needs events from {start} on", step.to);
                let help = format!(
                    "and they are gone: the earliest that is left is {low}; --state reset begins with an empty state"
                );
                return Err(Error::Invalid(format!("{what}, {help}")));
            }
            let for_state = step.to - start;
            moves.push(Move { topic, partition, from: step.from, to: step.to, for_state });
            to.push((step.source, start));
        }
        appends.extend(back.map(|back| back.append));
    }
    if moves.is_empty() {
        return Err(Error::Invalid(format!("pipeline {pipeline} does not read {target}")));
    }
    moves.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    if really {
        let into = aside(true)?.map(|topic| topic.id);
        let order = Some(Order::Move { pipeline: pipeline.to_owned(), to, into });
        log.commit(Commit { order, appends, ..Commit::default() })?;
    }
    Ok(Rewind {
        pipeline: pipeline.to_owned(),
        again: moves.iter().map(|moved| moved.from.saturating_sub(moved.to)).sum(),
        passed_over: moves.iter().map(|moved| moved.to.saturating_sub(moved.from)).sum(),
        state: past.map(|_| choice),
        into: into.clone(),
        moves,
        done: really,
    })
}

/// A partition of one of these topics, and the topic's name.
fn partition_of(
    log: &Log,
    topics: &[TopicInfo],
    source: TopicPartition,
) -> Result<Option<(String, Arc<Partition>)>, Error> {
    let Some(topic) = topics.iter().find(|topic| topic.id == source.topic) else { return Ok(None) };
    Ok(Some((topic.name.clone(), log.partition(topic, source.partition)?)))
}

/// How cursors are to move, by partition. Where state is kept, the cursors of all topics move together.
fn steps(
    (log, topics): (&Log, &[TopicInfo]),
    info: &PipelineInfo,
    (has_state, comes_along): (bool, bool),
    target: &Target,
    stood: Option<&Stood>,
) -> Result<Vec<(u32, Vec<Step>)>, Error> {
    let mut all: Vec<(u32, Vec<(Step, bool)>)> = Vec::new();
    for (source, cursor) in &info.cursors {
        let Some((topic, found)) = partition_of(log, topics, *source)? else { continue };
        let (low, high) = (found.low_mark(), found.high_watermark());
        let place = match target {
            Target::Undo => match info.before.iter().find(|(before, _)| before == source) {
                Some((_, before)) if has_state && cursor.next > *before => {
                    let what = format!("the cursor on {topic}/{} is past {before}, where it was", source.partition);
                    return Err(Error::Invalid(format!("{what}: there is nothing to undo any more")));
                }
                // What retention let go of meanwhile does not come back.
                before => before.map(|(_, before)| (*before).clamp(low, high)),
            },
            Target::Checkpoint(_) => stood.and_then(|stood| stood.part(*source)).map(|part| part.cursor),
            Target::CatchUp(_) => stood.and_then(|stood| stood.part(*source)).map(|_| cursor.next),
            Target::To { topic: only, partition, place } => {
                let asked = only.as_ref().is_none_or(|only| *only == topic)
                    && partition.is_none_or(|partition| partition == source.partition);
                if asked { Some(place.offset(&found)?) } else { None }
            }
        };
        if let Some(place) = place.filter(|place| *place < low || *place > high) {
            let what =
                format!("offset {place} of {topic}/{} is not there: it has {low} up to {high}", source.partition);
            return Err(Error::Invalid(what));
        }
        let step = Step { source: *source, from: cursor.next, to: place.unwrap_or(cursor.next) };
        match all.iter_mut().find(|(partition, _)| has_state && *partition == source.partition) {
            Some((_, steps)) => steps.push((step, place.is_some())),
            None => all.push((source.partition, vec![(step, place.is_some())])),
        }
    }
    all.retain(|(_, steps)| steps.iter().any(|(_, asked)| *asked));
    let is_whole = |(_, steps): &(_, Vec<(Step, bool)>)| steps.iter().all(|(_, asked)| *asked);
    if comes_along && !matches!(target, Target::To { .. }) && !all.iter().all(is_whole) {
        let what = "a topic that the pipeline reads was not read there yet: the state would lack what came of it";
        return Err(Error::Invalid(format!("{what}; go back to an offset or a time, or with --state reset")));
    }
    for (_, steps) in &mut all {
        // A state that goes back in one topic does not go on in another.
        if steps.iter().any(|(step, _)| step.to < step.from) {
            steps.iter_mut().for_each(|(step, _)| step.to = step.to.min(step.from));
        }
    }
    Ok(all
        .into_iter()
        .map(|(partition, steps)| (partition, steps.into_iter().map(|(step, _)| step).collect()))
        .collect())
}

/// Forgets a pipeline: its cursors, and what its state went through.
///
/// # Errors
/// When there is no such pipeline, or storage refuses.
pub fn delete_pipeline(log: &Log, pipeline: &str) -> Result<(), Error> {
    let changelog = changelog_topic(pipeline);
    log.commit(Commit::order(Order::DeletePipeline(pipeline.to_owned(), changelog)))?;
    Ok(())
}
