//! What an operator does with pipelines: set cursors anew, look what became of events.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_log::{Commit, Error, Log, Order, TopicPartition};

use crate::topics::Place;

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
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "undo" {
            return Ok(Self::Undo);
        }
        if text.starts_with("checkpoint:") {
            return Err("checkpoints are not available yet in this version: use a time or an offset".to_owned());
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
                "not a place to rewind to: {text:?}; use earliest, latest, an RFC 3339 time, event-time:TIME, OFFSET, PARTITION:OFFSET or TOPIC/PARTITION:OFFSET"
            )
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Undo => f.write_str("undo"),
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

/// How one cursor moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Where the cursor stands.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
}

/// What setting cursors anew does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether it was done.
    pub done: bool,
}

/// Sets a pipeline's cursors anew, or says what that would do.
///
/// # Errors
/// When there is no such pipeline or place, or storage refuses.
pub fn rewind(log: &Log, pipeline: &str, target: &Target, really: bool) -> Result<Rewind, Error> {
    let info = log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
    let topics = log.topics();
    let mut moves = Vec::new();
    if *target == Target::Undo && info.before.is_empty() {
        return Err(Error::Invalid(format!("pipeline {pipeline} was never rewound: there is nothing to undo")));
    }
    for (tp, cursor) in &info.cursors {
        let Some(topic) = topics.iter().find(|topic| topic.id == tp.topic) else { continue };
        let found = log.partition(topic, tp.partition)?;
        let (low, high) = (found.low_mark(), found.high_watermark());
        let to = match target {
            Target::Undo => match info.before.iter().find(|(before, _)| before == tp) {
                // What retention let go of meanwhile does not come back.
                Some((_, before)) => (*before).clamp(low, high),
                None => continue,
            },
            Target::To { topic: only, partition, place } => {
                let asked = only.as_ref().is_none_or(|only| *only == topic.name)
                    && partition.is_none_or(|partition| partition == tp.partition);
                if !asked {
                    continue;
                }
                place.offset(&found)?
            }
        };
        if to < low || to > high {
            let what =
                format!("offset {to} of {}/{} is not there: it has {low} up to {high}", topic.name, tp.partition);
            return Err(Error::Invalid(what));
        }
        moves.push((*tp, Move { topic: topic.name.clone(), partition: tp.partition, from: cursor.next, to }));
    }
    if moves.is_empty() {
        return Err(Error::Invalid(format!("pipeline {pipeline} does not read {target}")));
    }
    if really {
        let to: Vec<(TopicPartition, u64)> = moves.iter().map(|(tp, moved)| (*tp, moved.to)).collect();
        log.commit(Commit::order(Order::Move { pipeline: pipeline.to_owned(), to }))?;
    }
    let moves: Vec<_> = moves.into_iter().map(|(_, moved)| moved).collect();
    Ok(Rewind {
        pipeline: pipeline.to_owned(),
        again: moves.iter().map(|moved| moved.from.saturating_sub(moved.to)).sum(),
        passed_over: moves.iter().map(|moved| moved.to.saturating_sub(moved.from)).sum(),
        moves,
        done: really,
    })
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
