//! Back to a generation that was good.

use sluice_engine::{Before, Generation};
use sluice_log::Error;

use super::candidate::{Candidate, check_state, goes_on};
use crate::generations::{self, GenerationInfo, Standing};
use crate::lanes;
use crate::node::{Node, NodeError};

/// The last good generation before another, if there is one that is made of something else.
pub(crate) fn good_before(known: &[GenerationInfo], number: u64) -> Option<&GenerationInfo> {
    let own = known.iter().find(|generation| generation.number == number);
    let is_other = |other: &&GenerationInfo| {
        own.is_none_or(|own| (&own.plugins, &own.definition) != (&other.plugins, &other.definition))
    };
    known.iter().rev().filter(|other| other.number < number && other.standing == Standing::Good).find(is_other)
}

/// Marks the generation in force of a pipeline as taken out, so that the next start takes the last good one. For data directories on which no node
/// runs. The number of that.
///
/// # Errors
/// When there is no such pipeline, or no other generation that was good.
pub fn roll_back_in(log: &sluice_log::Log, pipeline: &str) -> Result<u64, Error> {
    let known = generations::of(log, pipeline)?;
    let current = known.last().map_or(0, |generation| generation.number);
    let good = good_before(&known, current).ok_or_else(|| nothing_good(pipeline))?.number;
    generations::note(log, pipeline, |known| {
        if let Some(last) = known.last_mut() {
            (last.standing, last.reason) = (Standing::RolledBack, Some("by hand".to_owned()));
        }
    })?;
    Ok(good)
}

fn nothing_good(pipeline: &str) -> Error {
    Error::Invalid(format!(
        "there is no other generation of pipeline {pipeline} to go back to: `sluice plugin history {pipeline}` shows those that are kept"
    ))
}

impl Node {
    /// The last good generation of a pipeline before another, or before the one in force.
    pub(super) fn last_good(&self, pipeline: &str, before: Option<u64>) -> Option<GenerationInfo> {
        let known = generations::of(&self.log, pipeline).ok()?;
        let number = before.or_else(|| known.last().map(|generation| generation.number))?;
        good_before(&known, number).cloned()
    }

    /// A generation has passed its probation.
    pub(super) fn pass(&self, pipeline: &str, number: u64) {
        self.reloads.note(pipeline, |noted| noted.probation = None);
        let noted = generations::note(&self.log, pipeline, |known| {
            let own = known.iter_mut().find(|generation| generation.number == number);
            own.into_iter().for_each(|own| own.standing = Standing::Good);
        });
        if let Err(error) = noted {
            tracing::warn!(%error, pipeline, "that a generation has passed its probation could not be noted");
        }
        tracing::info!(pipeline, generation = number, "has passed its probation");
        self.host.forget_unused();
        // What is held goes out.
        self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.wake(lane));
    }

    /// A generation has failed its probation.
    pub(super) fn fail(&self, pipeline: &str, number: u64, reason: &str) {
        self.reloads.note(pipeline, |noted| noted.probation = None);
        match self.take_out(pipeline, number, (Standing::Failed, reason)) {
            Ok(good) => {
                tracing::error!(pipeline, generation = number, reason, "has failed its probation: {good} goes on");
            }
            Err(error) => {
                let what = format!(
                    "generation {number} has failed ({reason}), and the one before cannot be brought back: {error}"
                );
                if let Err(error) = self.hold(pipeline, &what) {
                    tracing::error!(%error, pipeline, "{what}");
                }
            }
        }
    }

    /// Takes the generation in force out, and puts the last good one in its place. The number of that.
    ///
    /// # Errors
    /// When the pipeline does not run, or there is no other generation that was good, or it cannot be brought back.
    pub fn roll_back(&self, pipeline: &str) -> Result<u64, NodeError> {
        let _operating = self.operating();
        let info = self.log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
        if self.lanes_of(pipeline).is_empty() {
            return Ok(roll_back_in(&self.log, pipeline)?);
        }
        self.take_out(pipeline, info.generation, (Standing::RolledBack, "by hand"))
    }

    fn take_out(&self, pipeline: &str, number: u64, (standing, reason): (Standing, &str)) -> Result<u64, NodeError> {
        let good = self.last_good(pipeline, Some(number)).ok_or_else(|| nothing_good(pipeline))?;
        let candidate = self.raise(&good)?;
        let running = self.running();
        let own = running.iter().find(|own| own.name == pipeline).map(|own| own.definition.clone());
        drop(running);
        if let Some(own) = &own {
            check_state(own, &candidate.pipeline).map_err(|found| NodeError::Refused(vec![found]))?;
        }
        let way_back = self.way_back(&candidate)?;
        // First, so that a start after a crash does not begin with it again.
        generations::note(&self.log, pipeline, |known| {
            if let Some(own) = known.iter_mut().find(|generation| generation.number == number) {
                (own.standing, own.reason) = (standing, Some(reason.to_owned()));
            }
        })?;
        if let Some(checkpoint) = &way_back {
            self.take_state_back(pipeline, checkpoint)?;
        }
        if let Some(own) = own.filter(|own| !goes_on(own, &candidate.pipeline)) {
            // Lanes come to rest by what can deal with what they have claimed.
            self.give_way(&own.name, &candidate)?;
        }
        let running = self.running();
        let taken_out = running.iter().find(|own| own.name == pipeline);
        let taken_out = taken_out.map(|own| (own.definition.text.clone(), own.digest.clone()));
        let all: Vec<_> = running.iter().map(|own| own.definition.clone()).collect();
        drop(running);
        let new = self.put_in_force(&candidate, None, None, &all)?;
        if way_back.is_some() {
            self.go_on(pipeline);
        }
        let problem = taken_out_by(number, standing, reason, new);
        self.reloads.note(pipeline, |noted| (noted.problem, noted.refused) = (Some(problem), taken_out));
        self.host.forget_unused();
        Ok(new)
    }

    /// What to begin with: what stands in the files or, where that was taken out before, what was good then. With the generation that is asked should it
    /// fail, where it is on probation.
    pub(crate) fn chosen(&self, mut candidate: Candidate) -> Result<(Candidate, Option<Before>), NodeError> {
        let name = &candidate.pipeline.name.clone();
        if self.log.pipeline(name).is_none() {
            return Ok((candidate, None));
        }
        let known = generations::of(&self.log, name)?;
        let digest = candidate.digest();
        let own = known.iter().rev().find(|generation| generation.is_of(&candidate.pipeline, &digest));
        let good = known.iter().rev().find(|generation| {
            generation.standing == Standing::Good && !generation.is_of(&candidate.pipeline, &digest)
        });
        own.into_iter().for_each(|own| candidate.remember(own));
        match (own, good) {
            (Some(own), Some(good)) if matches!(own.standing, Standing::Failed | Standing::RolledBack) => {
                let raised = self.raise(good)?;
                let reason = own.reason.as_deref().unwrap_or_default();
                let problem = taken_out_by(own.number, own.standing, reason, good.number);
                tracing::error!(pipeline = name, "{problem}");
                let refused = Some((candidate.pipeline.text.clone(), digest));
                self.reloads.note(name, |noted| (noted.problem, noted.refused) = (Some(problem), refused));
                Ok((raised, None))
            }
            (Some(own), _) if own.standing == Standing::Good => Ok((candidate, None)),
            (_, Some(good)) if self.reloads.watches() && candidate.pipeline.reload.batches > 0 => {
                let raised = self.raise(good);
                let before = raised.and_then(|raised| {
                    let stages = raised.stages.iter().map(|stage| stage.config.clone()).collect();
                    Ok(lanes::generation(&self.log, &raised.pipeline, good.number, stages)?)
                });
                let before = before.map(|Generation { stages, sinks, .. }| Before::Asked { stages, sinks });
                if let Err(error) = &before {
                    tracing::warn!(
                        pipeline = name,
                        "runs without a probation, for the generation before cannot be brought back: {error}"
                    );
                }
                Ok((candidate, before.ok()))
            }
            _ => Ok((candidate, None)),
        }
    }
}

fn taken_out_by(number: u64, standing: Standing, reason: &str, now: u64) -> String {
    let how = if standing == Standing::RolledBack {
        "rolled back"
    } else {
        "taken out, for it fails where the one before does not"
    };
    format!("what stands in the files is generation {number}, which was {how}: {reason}; generation {now} goes on")
}
