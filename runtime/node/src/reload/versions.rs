//! Plugins whose state has another version than what is kept.
//!
//! A newer one brings the state over, lane by lane, once it is in force (`engine`'s `chain/migrating.rs`). Before that, it is tried on a copy, and a checkpoint is
//! made: **that is the way back**. Whoever is put in force again afterwards gets the state as the checkpoint has it, and deals without outputs with what came since.
//! An older one is refused: it would see nothing of what there is.

use std::collections::BTreeSet;

use sluice_config::{At, Delivery, Diagnostic, OnError, Pipeline, changelog_topic};
use sluice_engine::{Before, StageConfig};
use sluice_log::{Desired, Error, PipelineInfo};

use super::candidate::Candidate;
use crate::checkpoint;
use crate::generations::{self, GenerationInfo, Standing};
use crate::node::{Node, NodeError};
use crate::operate::{Request, Target};
use crate::replay;
use crate::state::StateChoice;

/// What a generation that brings the state into another shape comes with.
pub(crate) struct Migrates {
    /// The checkpoint that was made before.
    pub(crate) checkpoint: String,
    /// How the generation before did, for it cannot be asked any more.
    pub(crate) before: Before,
}

/// How a candidate's state versions compare with what is kept.
enum Shape {
    /// There is nothing of another version.
    Same,
    /// Some of it is older.
    Newer,
    /// Some of it is newer: of this stage, of that version, where the candidate's is the last.
    Older(String, u32, u32),
}

impl Node {
    /// `known` are the pipeline's generations.
    fn shape_of(
        &self,
        candidate: &Candidate,
        info: &PipelineInfo,
        known: &[GenerationInfo],
    ) -> Result<Shape, NodeError> {
        let own = candidate.state_versions();
        let partitions = info.cursors.keys().map(|tp| tp.partition).collect::<BTreeSet<_>>();
        let is_known = known.last().is_some_and(|last| last.state_versions == own);
        if own.is_empty() || is_known || self.log.topic(&changelog_topic(&info.name)).is_err() {
            return Ok(Shape::Same);
        }
        let mut shape = Shape::Same;
        for partition in partitions {
            let shared = self.states.shared(&self.log, info, partition)?;
            let state = shared.lock();
            for (stage, own) in &own {
                let versions = state.versions(stage).map_err(|error| Error::Invalid(error.to_string()))?;
                match versions.last().copied() {
                    Some(newest) if newest > *own => return Ok(Shape::Older(stage.clone(), newest, *own)),
                    _ if versions.iter().any(|version| version < own) => shape = Shape::Newer,
                    _ => {}
                }
            }
        }
        Ok(shape)
    }

    /// Sees whether a candidate has to bring the state over and, if so, that it can. A checkpoint is made then.
    pub(super) fn look_at_shape(&self, candidate: &Candidate) -> Result<Option<Migrates>, NodeError> {
        let pipeline = &candidate.pipeline;
        let Some(info) = self.log.pipeline(&pipeline.name) else { return Ok(None) };
        let known = generations::of(&self.log, &pipeline.name)?;
        self.prepare_for(self.shape_of(candidate, &info, &known)?, candidate, &info, &known)
    }

    /// What is to be done about a candidate's shape before it comes in force.
    fn prepare_for(
        &self,
        shape: Shape,
        candidate: &Candidate,
        info: &PipelineInfo,
        known: &[GenerationInfo],
    ) -> Result<Option<Migrates>, NodeError> {
        let pipeline = &candidate.pipeline;
        match shape {
            Shape::Same => Ok(None),
            Shape::Older(stage, kept, own) => Err(NodeError::Refused(vec![too_old(pipeline, &stage, (kept, own))])),
            Shape::Newer => {
                let Some(past) = self.states.past(&self.log, info) else { return Ok(None) };
                let stages = candidate.configs();
                let tried = replay::try_migration(&self.log, info, &past, (pipeline, &stages));
                tried.map_err(|error| NodeError::Failed(format!("on a copy of the state: {error}")))?;
                let before = rate(pipeline, info);
                Ok(Some(Migrates { checkpoint: self.checkpoint_before(info, known)?, before }))
            }
        }
    }

    fn checkpoint_before(&self, info: &PipelineInfo, known: &[GenerationInfo]) -> Result<String, NodeError> {
        let prefix = format!("{}.before-migration-", info.name);
        // Of one that did not come in force, nobody needs it.
        let is_needed = |name: &str| known.iter().any(|generation| generation.checkpoint.as_deref() == Some(name));
        for left in checkpoint::list(self.log.root())? {
            if left.name.starts_with(&prefix) && !is_needed(&left.name) {
                checkpoint::delete(self.log.root(), &left.name)?;
            }
        }
        let name = format!("{prefix}{}", self.clock.now());
        let shared = |info: &PipelineInfo, partition| self.states.shared(&self.log, info, partition);
        checkpoint::create(&self.log, &*self.clock, shared, &name, Some(&info.name))?;
        Ok(name)
    }

    /// The checkpoint whose state a generation needs that is to be put in force again, if it cannot read what there is.
    pub(super) fn way_back(&self, candidate: &Candidate) -> Result<Option<String>, NodeError> {
        let name = &candidate.pipeline.name;
        let Some(info) = self.log.pipeline(name) else { return Ok(None) };
        let known = generations::of(&self.log, name)?;
        if let Some(checkpoint) = checkpoint_behind(candidate, &known) {
            return Ok(Some(checkpoint));
        }
        let Shape::Older(stage, kept, own) = self.shape_of(candidate, &info, &known)? else { return Ok(None) };
        let what = format!("the state of stage {stage} is of version {kept}, and that generation's is of {own}");
        Err(NodeError::Failed(format!("{what}: there is no checkpoint to take it back to")))
    }

    /// Takes a pipeline's state back to a checkpoint, from which it is brought forward again to where the cursors are. Its lanes, if there are any, stand still then.
    pub(super) fn take_state_back(&self, pipeline: &str, checkpoint: &str) -> Result<(), NodeError> {
        // Who has brought it over would do so again.
        self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.want(lane, Desired::Pause));
        let running = self.running();
        let own = running.iter().find(|own| own.name == pipeline);
        let is_ahead = own.is_some_and(|own| own.definition.delivery == Delivery::AtLeastOnce);
        drop(running);
        if is_ahead && let Err(error) = self.settle(pipeline) {
            // Outputs for which the cursor has not moved come once more.
            tracing::warn!(%error, pipeline, "the cursor may not be where outputs are");
        }
        let target = Target::CatchUp(checkpoint.to_owned());
        let request = Request { target, state: StateChoice::Restore, into: None, really: true };
        match self.rewind_now(pipeline, &request) {
            Ok(rewind) => {
                let events: u64 = rewind.moves.iter().map(|moved| moved.for_state).sum();
                tracing::info!(
                    pipeline,
                    checkpoint,
                    events,
                    "the state goes back, and is brought forward again without outputs"
                );
                Ok(())
            }
            Err(error) => {
                self.go_on(pipeline);
                Err(NodeError::Failed(format!("the state cannot be taken back to checkpoint {checkpoint}: {error}")))
            }
        }
    }

    /// What a candidate that a node starts with needs: a state that is brought over, or taken back where somebody took out what had brought it over.
    pub(crate) fn shape_at_start(
        &self,
        candidate: &Candidate,
        before: Option<Before>,
    ) -> Result<(Option<Migrates>, Option<Before>), NodeError> {
        let name = &candidate.pipeline.name;
        let Some(info) = self.log.pipeline(name) else { return Ok((None, before)) };
        let known = generations::of(&self.log, name)?;
        let taken_out = |last: &GenerationInfo| matches!(last.standing, Standing::Failed | Standing::RolledBack);
        let shape = self.shape_of(candidate, &info, &known)?;
        if let Shape::Older(..) = shape
            && known.last().is_some_and(taken_out)
            && let Some(checkpoint) = self.way_back(candidate)?
        {
            self.take_state_back(name, &checkpoint)?;
            return Ok((None, None));
        }
        let last = known.last().filter(|last| last.is_of(&candidate.pipeline, &candidate.digest()));
        // It has begun to bring it over already: the way back is known.
        let migrates = match last.and_then(|last| last.checkpoint.clone()) {
            Some(checkpoint) => Some(Migrates { checkpoint, before: rate(&candidate.pipeline, &info) }),
            None => self.prepare_for(shape, candidate, &info, &known)?,
        };
        let before = before.map(|before| match &migrates {
            Some(migrates) => migrates.before.clone(),
            None => held_against(candidate, before, &info),
        });
        Ok((migrates, before))
    }
}

/// The checkpoint from before those generations that are newer than what a candidate can read. Whether they have brought over anything yet only their lanes know.
fn checkpoint_behind(candidate: &Candidate, known: &[GenerationInfo]) -> Option<String> {
    let versions = candidate.state_versions();
    let is_newer = |generation: &&GenerationInfo| {
        let mut all = generation.state_versions.iter();
        all.any(|(stage, version)| versions.get(stage).is_some_and(|own| version > own))
    };
    // From behind, those in a row: the first of them has come after what this one can read.
    let newer: Vec<_> = known.iter().rev().take_while(is_newer).collect();
    newer.iter().rev().find_map(|generation| generation.checkpoint.clone())
}

/// What a candidate can be held against: the generation before, if it reads the same state.
pub(super) fn held_against(candidate: &Candidate, before: Before, info: &PipelineInfo) -> Before {
    let own = candidate.state_versions();
    let reads_other = |stage: &StageConfig| {
        own.get(&stage.name).is_some_and(|own| stage.state_version.is_some_and(|version| version != *own))
    };
    match &before {
        Before::Asked { stages, .. } if stages.iter().any(reads_other) => rate(&candidate.pipeline, info),
        _ => before,
    }
}

/// How many of its events a pipeline has given up.
fn rate(pipeline: &Pipeline, info: &PipelineInfo) -> Before {
    let (mut given_up, mut events) = (0, 0);
    for cursor in info.cursors.values() {
        // Others are skipped because they are gone, or are dealt with again for the state.
        given_up += cursor.dead + if pipeline.errors.on_error == OnError::Skip { cursor.skipped } else { 0 };
        events += cursor.committed + cursor.filtered + cursor.dead + cursor.skipped;
    }
    Before::Known { given_up, events }
}

/// Refuses a plugin that would see nothing of the state.
fn too_old(pipeline: &Pipeline, stage: &str, (kept, own): (u32, u32)) -> Diagnostic {
    let at = pipeline.stages.iter().position(|found| found.name == stage).unwrap_or(0);
    let message = format!("its state is of version {own}, and what is kept is of version {kept}");
    let help = format!(
        "an older plugin never touches newer state; `sluice plugin rollback {}` takes the state back as well, to a checkpoint from before",
        pipeline.name
    );
    pipeline.diagnose(At::Plugin(at), message, Some(help))
}
