//! A running node.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_config::{Diagnostic, Pipeline};
use sluice_engine::Plugin;
use sluice_env::{Clock, RealDisk, SystemClock};
use sluice_host::{Code, Host};
use sluice_log::{Commit, Durability, Error, Log, NewTopic, Options};

use crate::definitions;
use crate::lanes::{self, Running};
use crate::scheduler::{Scheduler, Seen};
use crate::status::{Halted, LaneStatus, PipelineState, PipelineStatus, Status};

/// How a node is opened.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The data directory; made where there is none.
    pub data: PathBuf,
    /// When a commit counts as durable.
    pub durability: Durability,
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
    log: Arc<Log>,
    host: Arc<Host>,
    clock: Arc<dyn Clock>,
    scheduler: Scheduler,
    running: Mutex<Vec<Running>>,
}

/// How often a wait looks whether it was interrupted.
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
        let host = Host::new(Some(&options.data.join("cache")), clock.clone())?;
        let scheduler = Scheduler::new();
        log.on_append(scheduler.on_append());
        Ok(Self { log, host, clock, scheduler, running: Mutex::default() })
    }

    /// The log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts pipelines: all of them or, when anything is wrong, none.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn start(&self, pipelines: &[Pipeline]) -> Result<(), NodeError> {
        let existing = |name: &str| self.log.topic(name).ok().map(|topic| topic.partitions);
        let (stages, topics) = prepare(&self.host, &existing, pipelines)?;
        if !topics.is_empty() {
            self.log.commit(Commit { topics, ..Commit::default() })?;
        }
        let mut started = Vec::new();
        for (pipeline, (code, _)) in pipelines.iter().zip(&stages) {
            started.push(lanes::start(&self.log, pipeline, code.digest)?);
        }
        for ((pipeline, (_, plugin)), start) in pipelines.iter().zip(&stages).zip(started) {
            let running = lanes::run(&self.log, &self.clock, &self.scheduler, pipeline, start, plugin)?;
            self.running().push(running);
        }
        Ok(())
    }

    /// Waits until all input has been dealt with and committed, or nothing more can be.
    pub fn wait_until_idle(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        self.wait_for(interrupted, || self.idle().or_else(|| self.refused()))
    }

    /// Waits until storage fails or somebody interrupts.
    pub fn wait(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        self.wait_for(interrupted, || None)
    }

    /// Lets pipelines finish and commit what is in flight, and begin nothing new.
    pub fn drain(&self, interrupted: &dyn Fn() -> bool) -> Outcome {
        self.scheduler.drain();
        self.wait_for(interrupted, || self.is_at_rest().then_some(Outcome::Idle))
    }

    /// Looks again whenever a lane has come to rest, until there is an outcome.
    fn wait_for(&self, interrupted: &dyn Fn() -> bool, outcome: impl Fn() -> Option<Outcome>) -> Outcome {
        loop {
            if let Some(error) = self.scheduler.failure().or_else(|| self.log.failure()) {
                return Outcome::Failed(error);
            }
            if let Some(outcome) = outcome() {
                return outcome;
            }
            if interrupted() {
                return Outcome::Interrupted;
            }
            self.scheduler.wait_for_rest(LOOK);
        }
    }

    /// How each lane was when it last came off its thread.
    fn seen(&self) -> Vec<Seen> {
        let running = self.running();
        let lanes = running.iter().flat_map(|running| &running.lanes);
        lanes.filter_map(|lane| self.scheduler.seen(*lane)).collect()
    }

    /// Whether no lane is on a thread, and none has an attempt in flight.
    fn is_at_rest(&self) -> bool {
        self.seen().iter().all(|seen| seen.at_rest && seen.state.settled)
    }

    /// Whether all that can be dealt with has been, and what stands still.
    fn idle(&self) -> Option<Outcome> {
        // One pipeline's output is another's input: nothing may have been committed while it was looked.
        let seq = self.log.last_seq();
        let pipelines = self.pipelines();
        let done = |lane: &LaneStatus| lane.halted.is_some() || lane.lag == 0;
        let all_done = self.is_at_rest() && pipelines.iter().flat_map(|p| &p.partitions).all(done);
        if !all_done || self.log.last_seq() != seq {
            return None;
        }
        let halted: Vec<_> = pipelines.into_iter().filter(|p| p.state == PipelineState::Halted).collect();
        Some(if halted.is_empty() { Outcome::Idle } else { Outcome::Halted(halted) })
    }

    /// Why storage refuses, when it has refused some lane so often that waiting for it has no end.
    fn refused(&self) -> Option<Outcome> {
        const REFUSALS: u32 = 3;
        let refused = self.seen().into_iter().find(|seen| seen.state.refusals >= REFUSALS)?;
        refused.state.waits_for.map(Outcome::Refused)
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        let mut status = status_of(&self.log);
        status.pid = Some(std::process::id());
        for pipeline in self.pipelines() {
            status.pipelines.retain(|other| other.name != pipeline.name);
            status.pipelines.push(pipeline);
        }
        status.pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    fn pipelines(&self) -> Vec<PipelineStatus> {
        self.running().iter().filter_map(|running| self.pipeline(running)).collect()
    }

    fn pipeline(&self, running: &Running) -> Option<PipelineStatus> {
        let mut status = pipeline_of(&self.log, &running.name, Some(running.source.id))?;
        let mut waiting = false;
        for partition in &mut status.partitions {
            let lane = running.lanes.get(partition.partition as usize);
            let Some(seen) = lane.and_then(|lane| self.scheduler.seen(*lane)) else { continue };
            partition.halted = seen.state.halt.map(|halt| Halted { offset: halt.offset, reason: halt.reason });
            partition.waits_for = seen.state.waits_for;
            status.failed_calls += seen.state.failed_calls;
            waiting |= partition.waits_for.is_some();
        }
        status.state = match () {
            () if status.partitions.iter().any(|partition| partition.halted.is_some()) => PipelineState::Halted,
            () if waiting => PipelineState::Waiting,
            () if status.lag > 0 => PipelineState::Running,
            () => PipelineState::Idle,
        };
        Some(status)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.scheduler.end();
    }
}

/// Plugins that are loaded and linked, a pipeline each, and the topics to make.
type Prepared = (Vec<(Code, Arc<dyn Plugin>)>, Vec<NewTopic>);

/// Checks definitions against plugins and topics, and changes nothing.
fn prepare(
    host: &Arc<Host>,
    existing: &dyn Fn(&str) -> Option<u32>,
    pipelines: &[Pipeline],
) -> Result<Prepared, NodeError> {
    let (mut stages, mut found) = (Vec::new(), Vec::new());
    for pipeline in pipelines {
        let loaded = definitions::load_plugin(host, pipeline)
            .and_then(|code| definitions::link(host, &code, pipeline).map(|stage| (code, stage)));
        match loaded {
            Ok((code, stage)) => stages.push((code, Arc::new(stage) as Arc<dyn Plugin>)),
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    match lanes::missing_topics(existing, pipelines) {
        Ok(topics) if found.is_empty() => Ok((stages, topics)),
        Ok(_) => Err(NodeError::Refused(found)),
        Err(diagnostics) => Err(NodeError::Refused([found, diagnostics].concat())),
    }
}

/// Checks definitions against their plugins and the topics there are, without a node: what each plugin is.
///
/// # Errors
/// Everything that is wrong.
pub fn check(pipelines: &[Pipeline], existing: &dyn Fn(&str) -> Option<u32>) -> Result<Vec<Code>, NodeError> {
    let host = Host::new(None, Arc::new(SystemClock))?;
    let (stages, _) = prepare(&host, existing, pipelines)?;
    Ok(stages.into_iter().map(|(code, _)| code).collect())
}

/// How the pipelines of a log stand that no node runs.
pub fn status_of(log: &Log) -> Status {
    let pipelines = log.pipelines().iter().filter_map(|pipeline| pipeline_of(log, &pipeline.name, None)).collect();
    let damaged = log.report().damaged.iter().map(|file| file.display().to_string()).collect();
    Status { pid: None, pipelines, damaged }
}

/// How a pipeline's cursors stand: those on its source, or all it ever had.
fn pipeline_of(log: &Log, name: &str, source: Option<u32>) -> Option<PipelineStatus> {
    let info = log.pipeline(name)?;
    let topics = log.topics();
    let mut status = PipelineStatus {
        name: info.name,
        state: PipelineState::Stopped,
        generation: info.generation,
        digest: info.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        lag: 0,
        read: 0,
        filtered: 0,
        failed_calls: 0,
        partitions: Vec::new(),
    };
    for (tp, cursor) in info.cursors.into_iter().filter(|(tp, _)| source.is_none_or(|source| source == tp.topic)) {
        let topic = topics.iter().find(|topic| topic.id == tp.topic)?;
        let high_watermark = log.partition(topic, tp.partition).ok()?.high_watermark();
        let lag = high_watermark.saturating_sub(cursor.next);
        status.lag += lag;
        status.read += cursor.read;
        status.filtered += cursor.filtered;
        status.partitions.push(LaneStatus {
            topic: topic.name.clone(),
            partition: tp.partition,
            cursor: cursor.next,
            high_watermark,
            lag,
            halted: None,
            waits_for: None,
        });
    }
    Some(status)
}
