//! What may come in force: a definition with its plugins, and the steps until it does.

use std::collections::BTreeMap;

use sluice_config::{Allow, At, Delivery, Diagnostic, Pipeline};
use sluice_engine::{Before, Generation, StageConfig};
use sluice_host::Digest;
use sluice_log::{Error, PipelineInfo, TopicInfo};

use super::versions::{Migrates, held_against};
use super::{Noted, OnProbation};
use crate::definitions::{self, Loaded};
use crate::fixture;
use crate::generations::{self, GenerationInfo, Standing, hex};
use crate::lanes::{self, Existing, Running};
use crate::node::{Node, NodeError};
use crate::replay;
use crate::topics::Place;

/// A definition with its plugins, loaded and tried.
pub(crate) struct Candidate {
    pub(crate) pipeline: Pipeline,
    pub(crate) stages: Vec<Loaded>,
}

impl Candidate {
    /// SHA-256 of each plugin, one behind the other.
    pub(crate) fn digest(&self) -> Vec<u8> {
        self.stages.iter().flat_map(|stage| stage.code.digest.0).collect()
    }

    /// The version of each stage's state, as far as it is known.
    pub(super) fn state_versions(&self) -> BTreeMap<String, u32> {
        let keeping = self.stages.iter().filter(|stage| stage.config.state.is_some_and(|grant| grant.values));
        keeping.filter_map(|stage| Some((stage.config.name.clone(), stage.config.state_version?))).collect()
    }

    /// The same, by what was noted of it: where its plugins are not tried, they say nothing.
    pub(super) fn remember(&mut self, generation: &GenerationInfo) {
        for Loaded { config, .. } in &mut self.stages {
            let noted = || generation.state_versions.get(&config.name).copied();
            config.state_version = config.state_version.or_else(noted);
        }
    }

    pub(super) fn configs(&self) -> Vec<StageConfig> {
        self.stages.iter().map(|stage| stage.config.clone()).collect()
    }
}

/// Whether lanes that run by one definition can go on by another. What they read, how they commit, and what time is to them they began with.
pub(super) fn goes_on(old: &Pipeline, new: &Pipeline) -> bool {
    let grants = |pipeline: &Pipeline| -> Vec<_> {
        pipeline.stages.iter().map(|stage| (stage.keeps(), stage.name.clone())).filter(|(keeps, _)| *keeps).collect()
    };
    // What was given up and is not committed yet went the old way.
    let settles =
        (old.errors.on_error, &old.errors.dead_letter_topic) == (new.errors.on_error, &new.errors.dead_letter_topic);
    (settles || old.delivery != Delivery::AtLeastOnce)
        && old.sources == new.sources
        && old.delivery == new.delivery
        && old.batch.commit_every == new.batch.commit_every
        && old.time == new.time
        && grants(old) == grants(new)
}

impl Node {
    /// Takes a definition in force that is newer than the one which runs, or whose plugins are; with all that are wanted. What was refused as it is now is
    /// tried again only where that is wanted. The number of the generation in force then.
    pub(super) fn take_over(&self, pipeline: &Pipeline, all: &[Pipeline], again: bool) -> Result<u64, NodeError> {
        let name = &pipeline.name;
        let read = |at| definitions::read_plugin(pipeline, at);
        let plugins = (0..pipeline.stages.len()).map(read).collect::<Result<Vec<_>, _>>();
        let plugins = plugins.map_err(|diagnostic| self.refuse(name, None, NodeError::Refused(vec![diagnostic])))?;
        let digest: Vec<u8> = plugins.iter().flat_map(|wasm| Digest::of(wasm).0).collect();
        let what = (pipeline.text.clone(), digest);
        let (number, in_force) = self.in_force(name)?;
        if what == in_force {
            // Back to what runs, maybe in a file of another name.
            self.reloads.note(name, Noted::all_is_well);
            let mut running = self.running();
            let own = running.iter_mut().find(|running| running.name == *name);
            own.into_iter().for_each(|own| own.definition.file.clone_from(&pipeline.file));
            return Ok(number);
        }
        let refused = self.reloads.note(name, |noted| noted.refused.as_ref() == Some(&what) && !again);
        if refused {
            return Ok(number);
        }
        let taken_over = self.try_take_over(pipeline, &plugins, all);
        self.host.forget_unused();
        let number = taken_over.map_err(|error| self.refuse(name, Some(what), error))?;
        self.reloads.note(name, Noted::all_is_well);
        tracing::info!(pipeline = name, generation = number, "is in force");
        Ok(number)
    }

    /// The number of the generation that runs, and what it is made of.
    fn in_force(&self, pipeline: &str) -> Result<(u64, (String, Vec<u8>)), NodeError> {
        let running = self.running();
        let own = running.iter().find(|running| running.name == pipeline);
        let own = own.ok_or_else(|| NodeError::Failed(format!("pipeline {pipeline} does not run")))?;
        Ok((own.generation.number, (own.definition.text.clone(), own.digest.clone())))
    }

    fn try_take_over(&self, pipeline: &Pipeline, plugins: &[Vec<u8>], all: &[Pipeline]) -> Result<u64, NodeError> {
        let running = self.running();
        let own = running.iter().find(|running| running.name == pipeline.name);
        let Some((old, old_stages)) = own.map(|own| (own.definition.clone(), own.generation.stages.clone())) else {
            return Err(NodeError::Failed("it does not run".to_owned()));
        };
        drop(running);
        check_state(&old, pipeline).map_err(|found| NodeError::Refused(vec![found]))?;
        let candidate = self.load(pipeline, |at| Ok(plugins[at].clone()))?;
        let needed = lanes::needed_topics(&Existing::of(&self.log), all).map_err(NodeError::Refused)?;
        self.self_test(pipeline)?;
        self.compare(pipeline)?;
        let migrates = self.look_at_shape(&candidate)?;
        needed.make(&self.log)?;
        // Without anybody who acts on it, there is no probation.
        let tried = pipeline.reload.batches > 0 && self.reloads.watches();
        // What was good needs none; and one that begins to keep state cannot be taken out again for one that keeps none.
        let good = self.last_good(&pipeline.name, None);
        let is_good = good.is_some_and(|good| good.is_of(pipeline, &candidate.digest()));
        let tried = tried && !is_good && pipeline.has_state() == old.has_state();
        let before = match &migrates {
            _ if !tried => None,
            Some(migrates) => Some(migrates.before.clone()),
            None => {
                let info = self.log.pipeline(&pipeline.name);
                let before = self.before(&old, old_stages).zip(info);
                before.map(|(before, info)| held_against(&candidate, before, &info))
            }
        };
        self.put_in_force(&candidate, migrates, before, all)
    }

    /// The generation that is asked should the next one fail: the one that runs or, where that is on probation itself, the last good one.
    fn before(&self, running: &Pipeline, stages: Vec<StageConfig>) -> Option<Before> {
        let is_open = self.reloads.note(&running.name, |noted| noted.probation.is_some());
        if !is_open {
            let sinks = self.running().iter().find(|own| own.name == running.name)?.generation.sinks.clone();
            return Some(Before::Asked { stages, sinks });
        }
        let good = self.last_good(&running.name, None)?;
        let candidate = self.raise(&good).ok()?;
        let Generation { stages, sinks, .. } =
            lanes::generation(&self.log, &candidate.pipeline, good.number, candidate.configs()).ok()?;
        Some(Before::Asked { stages, sinks })
    }

    /// Loads a definition's plugins, each read by its stage's position, and tries them.
    fn load(
        &self,
        pipeline: &Pipeline,
        read: impl Fn(usize) -> Result<Vec<u8>, Diagnostic>,
    ) -> Result<Candidate, NodeError> {
        let stages = definitions::load_stages_of(&self.host, pipeline, &self.trial_of(pipeline), read);
        Ok(Candidate { pipeline: pipeline.clone(), stages: stages.map_err(NodeError::Refused)? })
    }

    /// Brings back what a generation was made of.
    pub(super) fn raise(&self, generation: &GenerationInfo) -> Result<Candidate, NodeError> {
        let pipeline = Pipeline::parse(&generation.file, &generation.definition).map_err(NodeError::Refused)?;
        let read = |at| generations::plugin(self.log.root(), &pipeline, at, &generation.plugins, None);
        let mut candidate = self.load(&pipeline, read)?;
        candidate.remember(generation);
        Ok(candidate)
    }

    /// Runs the fixtures that lie in the folders of its plugins.
    fn self_test(&self, pipeline: &Pipeline) -> Result<(), NodeError> {
        let folders: Vec<_> =
            pipeline.stages.iter().map(|stage| stage.plugin.clone()).filter(|path| path.is_dir()).collect();
        let files =
            fixture::find(&folders).map_err(|error| NodeError::Failed(format!("cannot look for fixtures: {error}")))?;
        let results = fixture::run_with(&self.host, &files)?;
        let Some(failed) = results.iter().find(|result| !result.differences.is_empty()) else { return Ok(()) };
        let (file, case) = (failed.file.display(), &failed.case);
        let what = format!("the plugin's fixture {file} fails, case {case:?}:\n{}", failed.differences.join("\n"));
        Err(NodeError::Failed(what))
    }

    /// Replays history through it, where its definition wants that.
    fn compare(&self, pipeline: &Pipeline) -> Result<(), NodeError> {
        let Some(diff) = pipeline.reload.diff else { return Ok(()) };
        let info = self.log.pipeline(&pipeline.name).ok_or_else(|| Error::UnknownPipeline(pipeline.name.clone()))?;
        let since = self.clock.now() - i64::try_from(diff.last.as_millis()).unwrap_or(i64::MAX);
        let request = replay::Request {
            pipeline: pipeline.name.clone(),
            files: vec![pipeline.file.clone()],
            plugin: None,
            stage: None,
            from: Place::Time(since).to_string(),
            to: "latest".to_owned(),
            into: None,
        };
        let replay = replay::run(&self.log, &self.host, &info, self.states.past(&self.log, &info).as_ref(), &request)?;
        let told = format!(
            "replayed over {:?}: {} outputs as before, {} more, {} missing, {} others",
            diff.last, replay.same, replay.added, replay.missing, replay.changed
        );
        let states = replay.partitions.iter().any(|part| part.state.as_ref().is_some_and(|state| state.differing > 0));
        let is_allowed = match diff.allow {
            Allow::All => true,
            Allow::Added => replay.missing + replay.changed == 0 && !states,
            Allow::None => !replay.differs(),
        };
        if is_allowed {
            tracing::info!(pipeline = pipeline.name, "{told}");
            return Ok(());
        }
        let help = format!("`sluice replay {} --diff` shows them; `[reload] diff` says what is allowed", pipeline.name);
        Err(NodeError::Failed(format!("{told}\nhelp: {help}")))
    }

    /// Says in the log that a candidate is in force, and has the pipeline's lanes go over to it. The generation's number.
    pub(super) fn put_in_force(
        &self,
        candidate: &Candidate,
        migrates: Option<Migrates>,
        before: Option<Before>,
        all: &[Pipeline],
    ) -> Result<u64, NodeError> {
        let name = &candidate.pipeline.name;
        let running = self.running();
        let own = running.iter().find(|running| running.name == *name);
        let in_place = own.is_none_or(|running| goes_on(&running.definition, &candidate.pipeline));
        drop(running);
        if !in_place {
            // From here on it stands still, until it runs again by the one or the other.
            self.settle(name)?;
        }
        let made = self.commit_generation(candidate, migrates, before.is_some());
        let made = made.and_then(|(info, sources)| {
            let generation = self.generation(candidate, &info, before)?;
            Ok((info, sources, generation))
        });
        let (info, sources, generation) = made.inspect_err(|_| self.go_on(name))?;
        let number = generation.number;
        if in_place {
            let mut running = self.running();
            let Some(own) = running.iter_mut().find(|running| running.name == *name) else { return Ok(number) };
            self.go_over(own, candidate, generation);
        } else {
            self.unmake(name, info.id)?;
            self.make(&candidate.pipeline, (info, sources), generation, all)?;
        }
        if candidate.pipeline.has_state() {
            self.keeper.keep(name, candidate.pipeline.checkpoints);
        }
        Ok(number)
    }

    fn go_over(&self, own: &mut Running, candidate: &Candidate, generation: Generation) {
        own.each_lane().into_iter().for_each(|lane| self.scheduler.go_over(lane, generation.clone()));
        own.generation = Generation { probation: None, ..generation };
        (own.definition, own.digest) = (candidate.pipeline.clone(), candidate.digest());
    }

    /// Has lanes that stand still for a change go on, for it comes to nothing.
    pub(super) fn go_on(&self, pipeline: &str) {
        let Some(info) = self.log.pipeline(pipeline).filter(|info| info.held.is_empty()) else { return };
        self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.want(lane, info.desired));
    }

    /// Has lanes deal with what they have in hand by a candidate, without saying so.
    pub(super) fn give_way(&self, pipeline: &str, candidate: &Candidate) -> Result<(), NodeError> {
        let generation = lanes::generation(&self.log, &candidate.pipeline, 0, candidate.configs())?;
        let running = self.running();
        let Some(own) = running.iter().find(|own| own.name == pipeline) else { return Ok(()) };
        let generation = Generation { number: own.generation.number, ..generation };
        own.each_lane().into_iter().for_each(|lane| self.scheduler.go_over(lane, generation.clone()));
        Ok(())
    }

    /// What deals with events by a candidate that is in force; where it is on probation, that is noted.
    pub(crate) fn generation(
        &self,
        candidate: &Candidate,
        info: &PipelineInfo,
        before: Option<Before>,
    ) -> Result<Generation, NodeError> {
        let Candidate { pipeline, .. } = candidate;
        let mut generation = lanes::generation(&self.log, pipeline, info.generation, candidate.configs())?;
        let probation = before.map(|before| {
            let probation = self.reloads.probation(pipeline.reload.batches, pipeline.reload.hold_outputs);
            (probation, before)
        });
        let on_probation = probation.as_ref().map(|(probation, _)| OnProbation {
            probation: probation.clone(),
            generation: info.generation,
            until: self.clock.elapsed() + pipeline.reload.time,
        });
        self.reloads.note(&pipeline.name, |noted: &mut Noted| noted.probation = on_probation);
        generation.probation = probation;
        Ok(generation)
    }

    /// Keeps what a candidate is made of and notes it, and says in the log that it is in force.
    pub(crate) fn commit_generation(
        &self,
        candidate: &Candidate,
        migrates: Option<Migrates>,
        on_probation: bool,
    ) -> Result<(PipelineInfo, Vec<TopicInfo>), NodeError> {
        let Candidate { pipeline, stages } = candidate;
        let digest = candidate.digest();
        for (stage, digest) in stages.iter().zip(hex(&digest)) {
            generations::keep_plugin(self.log.root(), &digest, &stage.wasm)?;
        }
        let standing = if on_probation { Standing::Probation } else { Standing::Good };
        let new = |number| GenerationInfo {
            number,
            time: self.clock.now(),
            standing,
            reason: None,
            plugins: hex(&digest),
            state_versions: candidate.state_versions(),
            checkpoint: migrates.map(|migrates| migrates.checkpoint),
            file: pipeline.file.clone(),
            definition: pipeline.text.clone(),
        };
        // What comes in force is noted before, so that what is in force is always known, and can be taken out. Before its first start nothing is known of a
        // pipeline, not even its id.
        match self.log.pipeline(&pipeline.name) {
            Some(info) => {
                self.note_generation(&pipeline.name, new(info.generation_by(&digest, &pipeline.text)))?;
                Ok(lanes::start(&self.log, pipeline, digest)?)
            }
            None => {
                let started = lanes::start(&self.log, pipeline, digest.clone())?;
                self.note_generation(&pipeline.name, new(started.0.generation))?;
                Ok(started)
            }
        }
    }

    /// Notes what is about to be in force.
    fn note_generation(&self, pipeline: &str, new: GenerationInfo) -> Result<(), Error> {
        let is_known = |last: &GenerationInfo| {
            last.number == new.number
                && last.standing == new.standing
                && (&last.definition, &last.plugins) == (&new.definition, &new.plugins)
                && (last.checkpoint.is_some() || new.checkpoint.is_none())
        };
        if generations::of(&self.log, pipeline)?.last().is_some_and(is_known) {
            return Ok(());
        }
        generations::note(&self.log, pipeline, |known| {
            if let Some(last) = known.last_mut().filter(|last| last.standing == Standing::Probation) {
                last.standing = Standing::Replaced;
            }
            known.retain(|generation| generation.number != new.number);
            known.push(new);
        })
    }
}

/// Refuses a definition that has no stage for what is kept.
pub(crate) fn check_state(old: &Pipeline, new: &Pipeline) -> Result<(), Diagnostic> {
    let is_there = |name: &str| new.stages.iter().any(|stage| stage.name == name && stage.keeps());
    let Some(gone) = old.stages.iter().find(|stage| stage.keeps() && !is_there(&stage.name)) else { return Ok(()) };
    let message = format!("stage {:?} keeps state, and this definition has no such stage", gone.name);
    let help = format!(
        "what it keeps goes by its name: give a stage `name = {:?}` and its capabilities; or give the pipeline another name, or forget all with `sluice pipeline delete {}`",
        gone.name, new.name
    );
    Err(new.diagnose(At::Name, message, Some(help)))
}
