//! A running node.

mod observing;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_config::{Diagnostic, Pipeline};
use sluice_engine::{Generation, HaltKind, Witness, Work};
use sluice_env::{Clock, RealDisk, SystemClock};
use sluice_host::{Code, Compiler, Host};
use sluice_log::{Commit, Desired, Durability, Error, Log, Options, Order, PipelineInfo, TopicInfo};

use crate::backup::{self, Backup};
use crate::checkpoint::{self, Checkpoint};
use crate::dead::{self, Selection, Treated, Treatment};
use crate::definitions::{self, Loaded, Trial};
use crate::generations::{self, GenerationInfo};
use crate::history::Histories;
use crate::keeper::Keeper;
use crate::lanes::{self, Existing, Ground, Needed, Running};
use crate::lines::{Line, Lines};
use crate::operate::{self, Rewind};
use crate::redrive::Redrives;
use crate::reload::{Candidate, Reloads, check_state};
use crate::replay::{self, Replay};
use crate::scheduler::Scheduler;
use crate::state::{self, States};
use crate::status::{LaneStatus, PipelineState, PipelineStatus};
use crate::topics;
use crate::witness::{self, Calls};

/// How a node is opened.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The data directory; made where there is none.
    pub data: PathBuf,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Where plugins are compiled.
    pub compiler: Compiler,
}

/// Why a node does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Definitions or plugins are refused; nothing was changed.
    #[error("{} problems in pipeline definitions", .0.len())]
    Refused(Vec<Diagnostic>),
    /// The log.
    #[error(transparent)]
    Log(#[from] Error),
    /// What was asked for came to nothing.
    #[error("{0}")]
    Failed(String),
    /// The plugin host.
    #[error(transparent)]
    Host(#[from] sluice_host::Error),
}

/// How a wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// All input was dealt with and committed.
    Idle,
    /// What could be dealt with was; the pipelines named stand still.
    Halted(Vec<PipelineStatus>),
    /// Storage refuses again and again, for this reason.
    Refused(String),
    /// Storage failed.
    Failed(Error),
    /// Whoever waits wanted to stop.
    Interrupted,
}

/// A running node: an open log, and pipelines on it.
pub struct Node {
    pub(crate) log: Arc<Log>,
    pub(crate) host: Arc<Host>,
    pub(crate) clock: Arc<dyn Clock>,
    witness: Arc<dyn Witness>,
    pub(crate) scheduler: Scheduler,
    running: Mutex<Vec<Running>>,
    /// Pipelines that were asked to drain: once they have, the log is told that they stand still.
    draining: Mutex<BTreeSet<String>>,
    redrives: Redrives,
    pub(crate) states: Arc<States>,
    pub(crate) keeper: Keeper,
    operating: Arc<Mutex<()>>,
    histories: Mutex<Histories>,
    pub(crate) reloads: Reloads,
    lines: Arc<Lines>,
}

/// What one lane has done since the node started.
#[derive(Debug, Clone)]
pub struct LaneWork {
    /// Its pipeline.
    pub pipeline: String,
    /// The topic it reads; of several, the first.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// What it has done.
    pub work: Work,
    /// Bytes of memory that its instances have.
    pub memory: u64,
}

/// How often a wait looks whether it was interrupted, or storage refuses.
const LOOK: Duration = Duration::from_millis(50);

/// Opens the log of a data directory.
///
/// # Errors
/// See [`Log::open`].
pub fn open_log(options: &NodeOptions) -> Result<Log, Error> {
    Log::open(Arc::new(RealDisk), Arc::new(SystemClock), &options.data, Options::with(options.durability))
}

impl Node {
    /// Opens a data directory; no pipeline runs yet.
    ///
    /// # Errors
    /// When the directory cannot be opened, or the plugin host cannot start.
    pub fn open(options: &NodeOptions) -> Result<Self, NodeError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = Arc::new(open_log(options)?);
        let noted = |error: std::io::Error| Error::Invalid(format!("cannot note guest calls: {error}"));
        let (calls, found) = Calls::open(&options.data).map_err(noted)?;
        witness::hold_culprits(&log, &options.data, &found)?;
        calls.clear().map_err(noted)?;
        let host = Host::new(Some(&options.data.join("cache")), clock.clone(), options.compiler)?;
        let scheduler = Scheduler::new(clock.clone());
        let states = States::of(&options.data);
        let states = Arc::new(states.map_err(|error| Error::Invalid(format!("cannot look after states: {error}")))?);
        let operating = Arc::new(Mutex::new(()));
        let keeper = Keeper::start(&log, &states, &clock, &operating);
        let keeper = keeper.map_err(|error| Error::Invalid(format!("cannot start a thread: {error}")))?;
        log.on_append(scheduler.on_append());
        let lines = Arc::new(Lines::default());
        let told = lines.clone();
        host.on_line(move |plugin, level, text| told.add(plugin, level, text));
        Ok(Self {
            witness: Arc::new(calls),
            log,
            host,
            clock,
            scheduler,
            running: Mutex::default(),
            draining: Mutex::default(),
            redrives: Redrives::default(),
            states,
            keeper,
            operating,
            histories: Mutex::default(),
            reloads: Reloads::default(),
            lines,
        })
    }

    /// Has somebody told whenever a plugin has written a line to the log. It must not block.
    pub fn on_line(&self, told: impl Fn() + Send + Sync + 'static) {
        self.lines.on_line(Box::new(told));
    }

    /// What a pipeline's plugins have written lately, from the line of this number on.
    ///
    /// # Errors
    /// When there is no such pipeline.
    pub fn lines(&self, pipeline: &str, from: u64) -> Result<Vec<Line>, Error> {
        self.log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
        Ok(self.lines.from(pipeline, from))
    }

    /// The log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts pipelines: all of them or, when anything is wrong, none.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn start(&self, pipelines: &[Pipeline]) -> Result<(), NodeError> {
        let _operating = self.operating();
        self.start_among(pipelines, pipelines)
    }

    /// How a pipeline's plugins are tried.
    pub(crate) fn trial_of(&self, pipeline: &Pipeline) -> Trial<'_> {
        match self.log.pipeline(&pipeline.name) {
            Some(info) if !info.held.is_empty() => Trial::Spared,
            info => Trial::By(&*self.witness, witness::starting(info.map_or(0, |info| info.id))),
        }
    }

    /// Starts pipelines among others that run or are to run.
    pub(crate) fn start_among(&self, pipelines: &[Pipeline], all: &[Pipeline]) -> Result<(), NodeError> {
        let existing = Existing::of(&self.log);
        let (stages, needed) = prepare(&self.host, &existing, (pipelines, all), |pipeline| self.trial_of(pipeline))?;
        let in_force = |pipeline: &Pipeline| {
            let info = self.log.pipeline(&pipeline.name)?;
            definitions::in_force(&info).ok()
        };
        let lost = pipelines.iter().filter_map(|pipeline| check_state(&in_force(pipeline)?, pipeline).err());
        let lost: Vec<_> = lost.collect();
        if !lost.is_empty() {
            return Err(NodeError::Refused(lost));
        }
        needed.make(&self.log)?;
        let mut started = Vec::new();
        for (pipeline, stages) in pipelines.iter().zip(stages) {
            let (candidate, before) = self.chosen(Candidate { pipeline: pipeline.clone(), stages })?;
            let (migrates, before) = self.shape_at_start(&candidate, before)?;
            let start = self.commit_generation(&candidate, migrates, before.is_some())?;
            started.push((candidate, before, start));
        }
        for (candidate, before, start) in started {
            let generation = self.generation(&candidate, &start.0, before)?;
            let pipeline = &candidate.pipeline;
            self.make(pipeline, start, generation, all)?;
            if pipeline.has_state() {
                self.keeper.keep(&pipeline.name, pipeline.checkpoints);
            }
            // What was asked for before the node stopped goes on.
            if self.log.topic(&dead::marks_topic(&pipeline.errors.dead_letter_topic)).is_ok() {
                self.send_dead_letters(&pipeline.name)?;
            }
        }
        Ok(())
    }

    /// Makes a pipeline's lanes, and lets them run.
    pub(crate) fn make(
        &self,
        pipeline: &Pipeline,
        start: (PipelineInfo, Vec<TopicInfo>),
        generation: Generation,
        all: &[Pipeline],
    ) -> Result<(), NodeError> {
        if start.0.desired == Desired::Drain && start.0.held.is_empty() {
            self.draining.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.name.clone());
        }
        let Self { log, clock, witness, scheduler, states, .. } = self;
        let ground = Ground { log, clock, witness, scheduler, states, all };
        let running = lanes::run(&ground, pipeline, start, generation)?;
        self.running().push(running);
        Ok(())
    }

    /// Has a pipeline's lanes come to rest, with nothing in flight.
    pub(crate) fn settle(&self, pipeline: &str) -> Result<(), NodeError> {
        /// As long as a guest call may take, and more.
        const PATIENCE: Duration = Duration::from_secs(60);
        let lanes = self.lanes_of(pipeline);
        lanes.iter().for_each(|lane| self.scheduler.want(*lane, Desired::Pause));
        let until = self.clock.elapsed() + PATIENCE;
        let rests = |lane: &usize| self.scheduler.rests(*lane);
        while !lanes.iter().all(rests) {
            if self.clock.elapsed() > until {
                let desired = self.log.pipeline(pipeline).map_or(Desired::Run, |info| info.desired);
                lanes.iter().for_each(|lane| self.scheduler.want(*lane, desired));
                let what = format!("pipeline {pipeline} does not come to rest within {PATIENCE:?}");
                return Err(NodeError::Failed(what));
            }
            self.scheduler.wait_for_rest(LOOK);
        }
        Ok(())
    }

    /// Takes away lanes that have settled.
    pub(crate) fn unmake(&self, pipeline: &str, id: u32) -> Result<(), NodeError> {
        let lanes = self.lanes_of(pipeline);
        self.running().retain(|running| running.name != pipeline);
        self.scheduler.remove(&lanes);
        let until = self.clock.elapsed() + Duration::from_secs(60);
        while !self.states.release(id) {
            if self.clock.elapsed() > until {
                return Err(NodeError::Failed(format!("the state of pipeline {pipeline} is still being written")));
            }
            self.scheduler.wait_for_rest(LOOK);
        }
        Ok(())
    }

    /// Stops a pipeline; its cursors and its state stay.
    pub(crate) fn stop(&self, pipeline: &str) -> Result<(), NodeError> {
        let Some(info) = self.log.pipeline(pipeline) else { return Ok(()) };
        self.settle(pipeline)?;
        self.keeper.forget(pipeline);
        self.reloads.forget(pipeline);
        self.unmake(pipeline, info.id)
    }

    /// The generations of a pipeline that are known, the oldest first; the last is in force.
    ///
    /// # Errors
    /// When there is no such pipeline, or they cannot be read.
    pub fn generations(&self, pipeline: &str) -> Result<Vec<GenerationInfo>, Error> {
        generations::of(&self.log, pipeline)
    }

    /// Does something about dead letters, or says about which that would be. A redrive is begun at once.
    ///
    /// # Errors
    /// See [`dead::treat`].
    pub fn treat(
        &self,
        pipeline: &str,
        treatment: Treatment,
        selection: &Selection,
        really: bool,
    ) -> Result<Treated, Error> {
        let _operating = self.operating();
        if really && treatment == Treatment::Discard && self.redrives.is_sending(pipeline) {
            let what = format!("dead letters of pipeline {pipeline} are being sent through again: wait for these");
            return Err(Error::Invalid(what));
        }
        let treated = dead::treat(&self.log, pipeline, treatment, selection, really)?;
        if really && treatment == Treatment::Redrive {
            self.send_dead_letters(pipeline)?;
        }
        Ok(treated)
    }

    /// One operator at a time, where what is done depends on what was looked at before.
    pub(crate) fn operating(&self) -> MutexGuard<'_, ()> {
        self.operating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_dead_letters(&self, pipeline: &str) -> Result<(), Error> {
        let running = self.running();
        let config = running.iter().find(|running| running.name == pipeline).and_then(Running::redrive);
        drop(running);
        let Some(config) = config else { return Ok(()) };
        let started = self.redrives.start(&self.log, &self.clock, config);
        started.map_err(|error| Error::Invalid(format!("cannot start a thread: {error}")))
    }

    /// Lets a pipeline run that stands still, for whatever reason; with `skip`, past the events that block it.
    ///
    /// # Errors
    /// When there is no such pipeline, or storage refuses.
    pub fn resume(&self, pipeline: &str, skip: bool) -> Result<(), Error> {
        let _operating = self.operating();
        if skip && !self.lanes_of(pipeline).iter().any(|lane| self.is_blocked(*lane)) {
            let what = format!("no event blocks pipeline {pipeline}: there is nothing to skip");
            return Err(Error::Invalid(what));
        }
        tracing::info!(pipeline, skip, "is resumed");
        // Once for all lanes, and first: what they still say of it counts no more.
        let running = self.running();
        if let Some(running) = running.iter().find(|running| running.name == pipeline && running.breaker().is_open()) {
            running.breaker().reset();
        }
        drop(running);
        self.want(pipeline, Desired::Run)?;
        self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.resume(lane, skip));
        Ok(())
    }

    /// Whether a lane stands still at an event.
    fn is_blocked(&self, lane: usize) -> bool {
        let halt = self.scheduler.seen(lane).and_then(|seen| seen.state.halt);
        halt.is_some_and(|halt| matches!(halt.kind, HaltKind::Event | HaltKind::Timer))
    }

    /// Has a pipeline stand still for a reason, until it is resumed, and remembers it.
    pub(crate) fn hold(&self, pipeline: &str, reason: &str) -> Result<(), Error> {
        tracing::error!(pipeline, reason, "is held: `sluice pipeline resume {pipeline}` lets it run");
        self.log.commit(Commit::order(Order::Hold(pipeline.to_owned(), reason.to_owned())))?;
        self.draining.lock().unwrap_or_else(PoisonError::into_inner).remove(pipeline);
        self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.want(lane, Desired::Pause));
        Ok(())
    }

    /// Has pipelines stand still, also after a restart, that have come to too many failures.
    fn note_breakers(&self) {
        // Looked at whenever a lane comes to rest: mostly there is nothing, and nobody is waited for.
        if !self.running().iter().any(|running| running.breaker().is_open()) {
            return;
        }
        // Whoever waits here must notice other things too: the next look will do.
        let Ok(_operating) = self.operating.try_lock() else { return };
        let mut tripped = Vec::new();
        for running in self.running().iter().filter(|running| running.breaker().is_open()) {
            let seen = running.each_lane().into_iter().filter_map(|lane| self.scheduler.seen(lane));
            let mut halts = seen.filter(|seen| !seen.paused).filter_map(|seen| seen.state.halt);
            tripped.extend(
                halts.find(|halt| halt.kind == HaltKind::Breaker).map(|halt| (running.name.clone(), halt.reason)),
            );
        }
        for (pipeline, reason) in tripped {
            if let Err(error) = self.hold(&pipeline, &reason) {
                tracing::warn!(%error, pipeline, "has halted, and the log could not be told");
            }
        }
    }

    /// Has a pipeline run, pause or drain, and remembers it.
    ///
    /// # Errors
    /// When there is no such pipeline, or storage refuses.
    pub fn want(&self, pipeline: &str, desired: Desired) -> Result<(), Error> {
        self.log.commit(Commit::order(Order::Want(pipeline.to_owned(), desired)))?;
        let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        if desired == Desired::Drain {
            draining.insert(pipeline.to_owned())
        } else {
            draining.remove(pipeline)
        };
        drop(draining);
        self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.want(lane, desired));
        Ok(())
    }

    /// What setting a pipeline's cursors anew would do, or did.
    ///
    /// # Errors
    /// When there is no such pipeline or target, or storage refuses.
    pub fn rewind(&self, pipeline: &str, request: &operate::Request) -> Result<Rewind, Error> {
        let _operating = self.operating();
        self.rewind_now(pipeline, request)
    }

    /// The same, for whoever operates already.
    pub(crate) fn rewind_now(&self, pipeline: &str, request: &operate::Request) -> Result<Rewind, Error> {
        /// How often it is planned anew, for the pipeline has committed something meanwhile.
        const TRIES: usize = 1000;
        let mut tries = 0;
        let rewind = loop {
            let info = self.log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
            let past = self.states.past(&self.log, &info);
            tries += 1;
            match operate::rewind_with(&self.log, &info, past.as_ref(), request) {
                Err(Error::Fenced { .. }) if tries < TRIES => {}
                rewind => break rewind?,
            }
        };
        if request.really {
            self.lanes_of(pipeline).into_iter().for_each(|lane| self.scheduler.moved(lane));
        }
        Ok(rewind)
    }

    /// Makes a checkpoint of a pipeline, or of all, as they are at one commit.
    ///
    /// # Errors
    /// When there is no such pipeline, one of this name already, or it cannot be written.
    pub fn checkpoint(&self, name: &str, pipeline: Option<&str>) -> Result<Checkpoint, Error> {
        let _operating = self.operating();
        let shared = |pipeline: &PipelineInfo, partition| self.states.shared(&self.log, pipeline, partition);
        checkpoint::create(&self.log, &*self.clock, shared, name, pipeline)
    }

    /// Deletes a checkpoint.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn delete_checkpoint(&self, name: &str) -> Result<(), Error> {
        let _operating = self.operating();
        checkpoint::delete(self.log.root(), name)
    }

    /// Copies the data directory into a folder, as of one commit.
    ///
    /// # Errors
    /// When the folder is there, or in the data directory, or cannot be written.
    pub fn backup(&self, to: &Path) -> Result<Backup, Error> {
        let shared = |pipeline: &PipelineInfo, partition| self.states.shared(&self.log, pipeline, partition);
        backup::backup(&self.log, &self.operating, shared, to)
    }

    /// Writes a checkpoint to a file.
    ///
    /// # Errors
    /// When there is none, its state cannot be made any more, or the file is there or cannot be written.
    pub fn export_checkpoint(&self, name: &str, to: &Path) -> Result<Checkpoint, Error> {
        let _operating = self.operating();
        let shared = |pipeline: &PipelineInfo, partition| self.states.shared(&self.log, pipeline, partition);
        checkpoint::export(&self.log, shared, name, to)
    }

    /// Takes a checkpoint in from a file.
    ///
    /// # Errors
    /// When the file is no whole checkpoint, or what it is of is not here, or not as it was there.
    pub fn import_checkpoint(&self, from: &Path, name: Option<&str>) -> Result<Checkpoint, Error> {
        let _operating = self.operating();
        checkpoint::import(&self.log, from, name)
    }

    /// Looks into a pipeline's state.
    ///
    /// # Errors
    /// When there is no such pipeline, or it keeps no state, or that cannot be read.
    pub fn look(&self, pipeline: &str, query: &state::Query) -> Result<state::Found, Error> {
        // Of one that does not run the state is brought up for the moment, by one at a time.
        let _operating = self.lanes_of(pipeline).is_empty().then(|| self.operating());
        self.states.look(&self.log, pipeline, query)
    }

    /// Stops a pipeline and forgets its cursors.
    ///
    /// # Errors
    /// When there is no such pipeline, or storage refuses.
    pub fn delete_pipeline(&self, pipeline: &str) -> Result<(), Error> {
        let _operating = self.operating();
        // From here on what it has in hand is fenced.
        let id = self.log.pipeline(pipeline).map(|pipeline| pipeline.id);
        operate::delete_pipeline(&self.log, pipeline)?;
        let lanes = self.lanes_of(pipeline);
        self.running().retain(|running| running.name != pipeline);
        self.scheduler.remove(&lanes);
        self.keeper.forget(pipeline);
        self.lines.forget(pipeline);
        self.reloads.forget(pipeline);
        if let Err(error) = generations::forget(self.log.root(), pipeline) {
            tracing::warn!(%error, pipeline, "generations that nobody needs any more could not be removed");
        }
        id.into_iter().for_each(|id| self.states.forget(id));
        Ok(())
    }

    /// Deletes a topic and its events.
    ///
    /// # Errors
    /// When a pipeline reads or writes it, or storage refuses.
    pub fn delete_topic(&self, topic: &str) -> Result<(), Error> {
        let writer = self.running().iter().find(|running| running.writes(topic)).map(|r| r.name.clone());
        if let Some(writer) = writer {
            let what = format!("topic {topic} is written to by pipeline {writer}, which runs: delete that first");
            return Err(Error::Invalid(what));
        }
        topics::delete(&self.log, topic)
    }

    pub(crate) fn lanes_of(&self, pipeline: &str) -> Vec<usize> {
        self.running().iter().find(|running| running.name == pipeline).map(Running::each_lane).unwrap_or_default()
    }

    /// Waits until all input has been dealt with and committed, or nothing more can be.
    pub fn wait_until_idle(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        self.wait_for(interrupted, || self.idle().or_else(|| self.refused()))
    }

    /// The same, then has the timers fire that are set for a time of events, for no more events are to come: pipeline by pipeline, those first whose
    /// outputs others read.
    pub fn wait_until_closed(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        // What one stage sends when it closes, the next may set timers for: so each stage has its turn.
        let rounds = |running: &Running| std::iter::repeat_n(running.name.clone(), running.definition.stages.len());
        let mut open: Vec<String> = self.running().iter().flat_map(rounds).collect();
        loop {
            let outcome = self.wait_until_idle(interrupted);
            if open.is_empty() || !matches!(outcome, Outcome::Idle) {
                return outcome;
            }
            let running = self.running();
            let writes =
                |name: &String, topic: &String| running.iter().any(|other| other.name == *name && other.writes(topic));
            let waits = |name: &String| {
                let own = running.iter().find(|running| running.name == *name);
                let sources = own.map(|own| &own.definition.sources[..]).unwrap_or_default();
                sources.iter().any(|topic| open.iter().any(|other| other != name && writes(other, topic)))
            };
            let mut ready: Vec<String> = open.iter().filter(|name| !waits(name)).cloned().collect();
            if ready.is_empty() {
                // No definition with a cycle is taken; should there be one, it must come to an end.
                ready.clone_from(&open);
            }
            ready.sort();
            ready.dedup();
            for name in &ready {
                let turn = open.iter().position(|open| open == name);
                turn.into_iter().for_each(|turn| drop(open.remove(turn)));
            }
            let closing = running.iter().filter(|running| ready.contains(&running.name));
            closing.flat_map(Running::each_lane).for_each(|lane| self.scheduler.close(lane));
        }
    }

    /// Runs a range of a pipeline's history once more, aside.
    ///
    /// # Errors
    /// When there is no such pipeline, range or state, or a definition or plugin is refused, or an event stands still.
    pub fn replay(&self, request: &replay::Request) -> Result<Replay, NodeError> {
        let info = self.log.pipeline(&request.pipeline);
        let info = info.ok_or_else(|| Error::UnknownPipeline(request.pipeline.clone()))?;
        // The state of a pipeline that does not run is brought up from its own store, which only one may have.
        let _operating = self.lanes_of(&info.name).is_empty().then(|| self.operating());
        let past = self.states.past(&self.log, &info);
        replay::run(&self.log, &self.host, &info, past.as_ref(), request)
    }

    /// Waits until storage fails or somebody interrupts.
    pub fn wait(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        self.wait_for(interrupted, || None)
    }

    /// Lets pipelines finish and commit what is in flight, and begin nothing new.
    pub fn drain(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        self.redrives.end();
        self.scheduler.drain();
        self.wait_for(interrupted, || self.is_at_rest().then_some(Outcome::Idle).or_else(|| self.refused()))
    }

    /// Looks again whenever all lanes have come to rest, and after a while, until there is an outcome.
    fn wait_for(&self, interrupted: &dyn Fn() -> bool, outcome: impl Fn() -> Option<Outcome>) -> Outcome {
        loop {
            let quiets = self.scheduler.quiets();
            if let Some(error) = self.scheduler.failure().or_else(|| self.log.failure()) {
                return Outcome::Failed(error);
            }
            // Before anything else, so that what has come to a stand stays so after a restart.
            self.note_drained();
            self.note_breakers();
            if let Some(outcome) = outcome() {
                return outcome;
            }
            if interrupted() {
                return Outcome::Interrupted;
            }
            self.scheduler.wait_for_quiet(quiets, LOOK);
        }
    }

    /// Tells the log of pipelines that have drained that they stand still, also after a restart.
    fn note_drained(&self) {
        let draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pipeline in draining {
            let stands = |lane: &usize| {
                self.scheduler.seen(*lane).is_none_or(|seen| seen.paused && seen.at_rest && seen.state.settled)
            };
            if self.lanes_of(&pipeline).iter().all(stands)
                && let Err(error) = self.want(&pipeline, Desired::Pause)
            {
                tracing::warn!(%error, pipeline, "has drained, and the log could not be told");
            }
        }
    }

    /// All lanes of all pipelines.
    fn lanes(&self) -> Vec<usize> {
        self.running().iter().flat_map(Running::each_lane).collect()
    }

    /// Whether no lane is on a thread, and none has an attempt in flight.
    fn is_at_rest(&self) -> bool {
        self.lanes().into_iter().all(|lane| self.scheduler.rests(lane))
    }

    /// Whether all that can be dealt with has been, and what stands still.
    fn idle(&self) -> Option<Outcome> {
        // One pipeline's output is another's input: nothing may have been committed while it was looked.
        let seq = self.log.last_seq();
        if self.redrives.is_active() || !self.is_at_rest() {
            return None;
        }
        let mut pipelines = self.status().pipelines;
        pipelines.retain(|pipeline| pipeline.state != PipelineState::Stopped);
        let done = |lane: &LaneStatus| {
            lane.halted.is_some() || lane.paused || (lane.lag == 0 && lane.retrying.is_none() && !lane.timers_due)
        };
        if !pipelines.iter().flat_map(|p| &p.partitions).all(done) || self.log.last_seq() != seq {
            return None;
        }
        let stands = |p: &PipelineStatus| matches!(p.state, PipelineState::Halted | PipelineState::Held);
        let halted: Vec<_> = pipelines.into_iter().filter(stands).collect();
        Some(if halted.is_empty() { Outcome::Idle } else { Outcome::Halted(halted) })
    }

    /// Why storage refuses, when it has refused some lane so often that waiting for it has no end.
    fn refused(&self) -> Option<Outcome> {
        const REFUSALS: u32 = 3;
        let refused = self.lanes().into_iter().find_map(|lane| self.scheduler.refused(lane, REFUSALS));
        refused.map(Outcome::Refused)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.reloads.end();
        self.redrives.end();
        self.keeper.end();
        self.scheduler.end();
    }
}

/// The stages of each pipeline, loaded and linked, and the topics that are needed.
type Prepared = (Vec<Vec<Loaded>>, Needed);

/// Checks definitions, among all, against plugins and what exists, and changes nothing.
fn prepare<'a>(
    host: &Arc<Host>,
    existing: &Existing,
    (pipelines, all): (&[Pipeline], &[Pipeline]),
    trial: impl Fn(&Pipeline) -> Trial<'a>,
) -> Result<Prepared, NodeError> {
    let (mut stages, mut found) = (Vec::new(), Vec::new());
    for pipeline in pipelines {
        match definitions::load_stages(host, pipeline, &trial(pipeline)) {
            Ok(loaded) => stages.push(loaded),
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    match lanes::needed_topics(existing, all) {
        Ok(needed) if found.is_empty() => Ok((stages, needed)),
        Ok(_) => Err(NodeError::Refused(found)),
        Err(diagnostics) => Err(NodeError::Refused([found, diagnostics].concat())),
    }
}

/// Checks definitions against their plugins and what exists, without a node: what the plugins of each are.
///
/// # Errors
/// Everything that is wrong.
pub fn check(pipelines: &[Pipeline], existing: &Existing, compiler: Compiler) -> Result<Vec<Vec<Code>>, NodeError> {
    let host = Host::new(None, Arc::new(SystemClock), compiler)?;
    let (stages, _) = prepare(&host, existing, (pipelines, pipelines), |_| Trial::By(&(), witness::starting(0)))?;
    Ok(stages.into_iter().map(|stages| stages.into_iter().map(|stage| stage.code).collect()).collect())
}
