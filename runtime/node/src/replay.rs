//! Replays: side runs over committed history.
//!
//! The events of a range go through the pipeline's stages once more, with the state as it was where the range begins; what comes out goes to a topic
//! of its own, or is compared with what was committed. **The pipeline itself is not touched**: its cursors, its state and its topics stay as they
//! are. The time of day does not pass in a replay: timers that go by it do not fire.

mod compare;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_config::{OnError, Pipeline, changelog_topic};
use sluice_engine::{
    Breaker, Delivery, ErrorPolicy, LaneConfig, LaneRunner, PartitionBy, Reopen, Retry, Sink, Source, StageConfig,
    StateConfig, Step, Storage, Writer,
};
use sluice_env::{Clock, SystemClock};
use sluice_host::{Compiler, Host};
use sluice_log::{
    Append, Commit, Committed, Done, Error, Log, PipelineInfo, ReadBatch, Reader, TopicInfo, TopicPartition,
};
use sluice_state::{PartitionState, SharedState};

use self::compare::{Comparison, Range};
pub use self::compare::{Difference, Kind, Shown};
use crate::dead;
use crate::definitions::{self, Trial};
use crate::lanes;
use crate::node::NodeError;
use crate::operate::Target;
use crate::state::{self, Past, Side};

/// Those of the side run's own topics, which are not in the log: its changelog, and its dead letters.
const CHANGELOG: u32 = u32::MAX;
const DEAD: u32 = u32::MAX - 1;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Request {
    /// The pipeline.
    pub pipeline: String,
    /// Files and folders that hold its definition; absolute.
    pub files: Vec<PathBuf>,
    /// Another plugin than the definition's; absolute.
    pub plugin: Option<PathBuf>,
    /// The stage that it is for; may be left out where there is only one.
    pub stage: Option<String>,
    /// Where the range begins.
    pub from: String,
    /// Where it ends; nothing is replayed that the pipeline has not read.
    pub to: String,
    /// The topic that outputs go to; without it they are compared.
    pub into: Option<String>,
}

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replay {
    /// The pipeline.
    pub pipeline: String,
    /// What was replayed.
    pub partitions: Vec<Replayed>,
    /// Outputs that came out.
    pub outputs: u64,
    /// Events and timers that failed for good.
    pub dead: u64,
    /// Outputs that are as they were committed.
    pub same: u64,
    /// Outputs that were not committed.
    pub added: u64,
    /// Outputs that were committed, and did not come out.
    pub missing: u64,
    /// Outputs that were committed otherwise.
    pub changed: u64,
    /// The first of the differences.
    pub differences: Vec<Difference>,
    /// Hash of all outputs, each with its origin, whatever their order.
    pub outputs_hash: String,
    /// The topic that outputs went to, where they were not compared.
    pub into: Option<String>,
}

impl Replay {
    /// Whether anything differs from what was committed.
    pub fn differs(&self) -> bool {
        let states = self.partitions.iter().any(|part| part.state.as_ref().is_some_and(|state| state.differing > 0));
        self.added + self.missing + self.changed > 0 || states
    }
}

/// What was replayed of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replayed {
    /// The source topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// The first event.
    pub from: u64,
    /// Behind the last one.
    pub to: u64,
    /// The state at the end, where there is any.
    pub state: Option<StateReplayed>,
}

/// What a replay made of a partition's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateReplayed {
    /// Hash of all values and timers.
    pub hash: String,
    /// Whether it was compared; that is so where a commit of the pipeline ends with the range.
    pub compared: bool,
    /// Keys and timers that are not as they were committed.
    pub differing: u64,
    /// The first of them: stage and key.
    pub keys: Vec<(String, Vec<u8>)>,
}

/// Replays on a data directory on which no node runs.
///
/// # Errors
/// When there is no such pipeline, range or state, or a definition or plugin is refused, or an event stands still.
pub fn run_in(log: &Arc<Log>, compiler: Compiler, request: &Request) -> Result<Replay, NodeError> {
    let host = Host::new(Some(&log.root().join("cache")), Arc::new(SystemClock), compiler)?;
    let info = log.pipeline(&request.pipeline).ok_or_else(|| Error::UnknownPipeline(request.pipeline.clone()))?;
    let past = Past::of(log, |pipeline, partition| state::bring_up(log, pipeline, partition), &info);
    run(log, &host, &info, past.as_ref(), request)
}

/// Replays, in a process that has the log; `past` finds the states.
pub(crate) fn run(
    log: &Arc<Log>,
    host: &Arc<Host>,
    info: &PipelineInfo,
    past: Option<&Past<'_>>,
    request: &Request,
) -> Result<Replay, NodeError> {
    let all = definitions::read(&request.files).map_err(NodeError::Refused)?;
    let (pipeline, stages) = stages(host, &all, request)?;
    let target = |text: &str| text.parse::<Target>().map_err(invalid);
    let (from, to) = (target(&request.from)?, target(&request.to)?);
    let into = request.into.as_ref().map(|name| destination(log, &pipeline, name)).transpose()?;
    let mut replay = Replay { pipeline: info.name.clone(), into: request.into.clone(), ..Replay::default() };
    let mut hash = 0_u128;
    for (tp, cursor) in &info.cursors {
        let Some(topic) = log.topics().into_iter().find(|topic| topic.id == tp.topic) else { continue };
        let place = |target: &Target| place(log, info, target, (*tp, &topic), cursor.next);
        let (Some(from), Some(to)) = (place(&from)?, place(&to)?) else { continue };
        let to = to.min(cursor.next);
        let low = log.partition(&topic, tp.partition)?.low_mark();
        if from < low || from > to {
            let what = format!("{}/{}: no range from {from} to {to}", topic.name, tp.partition);
            let there =
                format!("there are events from {low} on, and the pipeline has read those before {}", cursor.next);
            return Err(invalid(format!("{what}: {there}")));
        }
        let writers = lanes::writers(log, &all, *tp, &topic.name)?;
        let into = into.as_ref();
        let lane = SideLane { log, pipeline: &pipeline, stages: &stages, past, into, tp: *tp, topic, writers };
        let (part, comparison) = lane.run(from, to)?;
        hash = hash.wrapping_add(comparison.hash());
        comparison.tell(&mut replay);
        replay.partitions.push(part);
    }
    if replay.partitions.is_empty() {
        return Err(invalid(format!("pipeline {} does not read {from}", info.name)));
    }
    replay.outputs_hash = format!("{hash:032x}");
    Ok(replay)
}

fn invalid(what: String) -> NodeError {
    NodeError::Log(Error::Invalid(what))
}

/// The definition, and its stages, with the other plugin in place.
fn stages(host: &Arc<Host>, all: &[Pipeline], request: &Request) -> Result<(Pipeline, Vec<StageConfig>), NodeError> {
    let found = all.iter().find(|pipeline| pipeline.name == request.pipeline);
    let mut pipeline = found.cloned().ok_or_else(|| {
        let files: Vec<_> = request.files.iter().map(|file| file.display().to_string()).collect();
        invalid(format!("no definition of pipeline {} in {}", request.pipeline, files.join(", ")))
    })?;
    if let Some(plugin) = &request.plugin {
        let names: Vec<_> = pipeline.stages.iter().map(|stage| stage.name.clone()).collect();
        let at = match &request.stage {
            Some(name) => names.iter().position(|stage| stage == name),
            None => (names.len() == 1).then_some(0),
        };
        let at = at.ok_or_else(|| invalid(format!("say which stage the plugin is for, with --stage: {names:?}")))?;
        pipeline.stages[at].plugin.clone_from(plugin);
    }
    let loaded = definitions::load_stages(host, &pipeline, &Trial::By(&(), crate::witness::starting(0)));
    let stages = loaded.map_err(NodeError::Refused)?.into_iter().map(|(_, stage)| stage).collect();
    Ok((pipeline, stages))
}

/// The topic that outputs go to, which is made where it is missing.
fn destination(log: &Log, pipeline: &Pipeline, name: &str) -> Result<TopicInfo, NodeError> {
    let written = |info: &PipelineInfo| match Pipeline::parse(Path::new(""), &info.definition) {
        Ok(pipeline) => pipeline.written().any(|(_, topic)| topic == name || dead::marks_topic(topic) == name),
        Err(_) => false,
    };
    let id = log.topic(name).map(|topic| topic.id).ok();
    let is_used = |info: &PipelineInfo| {
        let is_read = info.cursors.keys().any(|tp| Some(tp.topic) == id);
        is_read || name == changelog_topic(&info.name) || written(info)
    };
    let own =
        pipeline.sources.iter().any(|source| source == name) || pipeline.written().any(|(_, topic)| topic == name);
    if own || log.pipelines().iter().any(is_used) {
        let what = format!("topic {name} is one that a pipeline reads or writes");
        return Err(invalid(format!("{what}: outputs of a replay go to a topic of their own")));
    }
    if let Ok(topic) = log.topic(name) {
        return Ok(topic);
    }
    let partitions =
        pipeline.sources.first().and_then(|source| log.topic(source).ok()).map_or(1, |topic| topic.partitions);
    let new =
        sluice_log::NewTopic { name: name.to_owned(), partitions, settings: sluice_log::TopicSettings::default() };
    Ok(crate::topics::create(log, new)?)
}

/// The offset that a target means for a partition; `None` when it is not about it.
fn place(
    log: &Log,
    info: &PipelineInfo,
    target: &Target,
    (tp, topic): (TopicPartition, &TopicInfo),
    cursor: u64,
) -> Result<Option<u64>, NodeError> {
    match target {
        Target::Undo => Err(invalid("undo is no place in the history".to_owned())),
        Target::Checkpoint(name) => {
            let checkpoint = crate::checkpoint::find(log.root(), name)?;
            Ok(checkpoint.of(info)?.part(tp).map(|part| part.cursor))
        }
        Target::To { topic: only, partition, place } => {
            let asked = only.as_ref().is_none_or(|only| *only == topic.name)
                && partition.is_none_or(|partition| partition == tp.partition);
            if !asked {
                return Ok(None);
            }
            // What was read and committed is all the history there is.
            let found = if *place == crate::topics::Place::Latest {
                cursor
            } else {
                place.offset(&*log.partition(topic, tp.partition)?)?
            };
            Ok(Some(found))
        }
    }
}

/// One partition of a side run.
struct SideLane<'a> {
    log: &'a Arc<Log>,
    pipeline: &'a Pipeline,
    stages: &'a [StageConfig],
    past: Option<&'a Past<'a>>,
    into: Option<&'a TopicInfo>,
    tp: TopicPartition,
    topic: TopicInfo,
    /// Who is known to write to it.
    writers: Vec<Writer>,
}

impl SideLane<'_> {
    fn run(self, from: u64, to: u64) -> Result<(Replayed, Comparison), NodeError> {
        let sides = self.past.map(|past| past.side(self.tp.partition, from, "from")).transpose()?;
        let (start, told) = sides.as_ref().map_or((from, 0), |side| (side.cursor, side.fired_outputs()));
        // Timers that fired before the first event did so before the range, but for those that had not yet.
        let range = Range { source: self.tp, from, to, told: if start < from { u32::MAX } else { told } };
        let names: Vec<_> = self.pipeline.sinks.iter().map(|sink| sink.topic.clone()).collect();
        let comparison = match self.into {
            Some(_) => Comparison::none(range),
            None => Comparison::with_committed(self.log, range, &names)?,
        };
        let storage = Arc::new(Collector {
            log: self.into.map(|_| self.log.clone()),
            comparison: Mutex::new(Some(comparison)),
            dead: AtomicU64::new(0),
        });
        let shared = sides.as_ref().map(|side| side.state.clone());
        let config = self.config(start, shared)?;
        let reader = self.log.reader(self.log.partition(&self.topic, self.tp.partition)?, start);
        let bound = Arc::new(AtomicU64::new(to));
        let source = Box::new(Bounded { reader, to: bound.clone() });
        let mut runner = LaneRunner::new(config, source, storage.clone(), Arc::new(NoDay), Arc::new(|| {}));
        // Where timers fired for no more events were to come, they do so again.
        let closings = self.past.map_or(Ok(Vec::new()), |past| past.closings(self.tp.partition, start, to))?;
        for closing in closings {
            bound.store(closing, Ordering::SeqCst);
            Self::settle(&mut runner)?;
            for _ in &self.pipeline.stages {
                runner.close();
                Self::settle(&mut runner)?;
            }
        }
        bound.store(to, Ordering::SeqCst);
        Self::settle(&mut runner)?;
        drop(runner);
        let comparison = storage.comparison.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut comparison = comparison.ok_or(Error::Closed)?;
        comparison.dead = storage.dead.load(Ordering::SeqCst);
        comparison.finish(self.log)?;
        let state = match (&sides, self.past) {
            (Some(side), Some(past)) => Some(compare_state(side, past, self.tp.partition, to)?),
            _ => None,
        };
        let (topic, partition) = (self.topic.name, self.tp.partition);
        Ok((Replayed { topic, partition, from, to, state }, comparison))
    }

    /// Lets a lane deal with all there is.
    fn settle(runner: &mut LaneRunner) -> Result<(), NodeError> {
        // Up to where it reads now; what is set for a time of day stays set.
        [false, true].into_iter().for_each(|stop| runner.stop_here(stop));
        loop {
            match runner.step(false) {
                Step::Idle => return Ok(()),
                Step::Halted(halt) => {
                    return Err(NodeError::Failed(format!("stands still at offset {}: {}", halt.offset, halt.reason)));
                }
                Step::Backoff(reason) => return Err(NodeError::Failed(reason)),
                Step::StopNode(error) => return Err(error.into()),
                Step::Worked => {}
                Step::Waiting | Step::WaitingUntil(_) => std::thread::yield_now(),
            }
        }
    }

    fn config(&self, cursor: u64, state: Option<SharedState>) -> Result<LaneConfig, Error> {
        let sink = |sink: &sluice_config::Sink| {
            let topic = match self.into {
                Some(topic) => topic.clone(),
                None => self.log.topic(&sink.topic)?,
            };
            let partition_by: PartitionBy = lanes::partition_by(sink.partition_by);
            Ok(Sink { name: sink.name.clone(), topic: topic.id, partitions: topic.partitions, partition_by })
        };
        let errors = &self.pipeline.errors;
        Ok(LaneConfig {
            pipeline_name: self.pipeline.name.clone(),
            pipeline: 0,
            epoch: 0,
            generation: 0,
            delivery: Delivery::ExactlyOnce,
            source: self.tp,
            topic_name: self.topic.name.clone(),
            cursor,
            tried: None,
            errors: ErrorPolicy {
                // Nothing is waited for.
                retry: Retry {
                    attempts: errors.attempts,
                    initial_backoff: Duration::ZERO,
                    max_backoff: Duration::ZERO,
                },
                on_error: match errors.on_error {
                    OnError::DeadLetter => sluice_engine::OnError::DeadLetter { topic: DEAD, partitions: 1 },
                    OnError::Halt => sluice_engine::OnError::Halt,
                    OnError::Skip => sluice_engine::OnError::Skip,
                },
                breaker: Arc::new(Breaker::new(errors.window, errors.max_failures)),
            },
            witness: Arc::new(()),
            stages: self.stages.to_vec(),
            sinks: self.pipeline.sinks.iter().map(sink).collect::<Result<_, Error>>()?,
            max_events: self.pipeline.batch.max_events,
            max_bytes: self.pipeline.batch.max_bytes as usize,
            linger: Duration::ZERO,
            max_in_flight: 1,
            state: state.map(|shared| {
                let changelog = TopicPartition { topic: CHANGELOG, partition: 0 };
                let reopen: Reopen = Arc::new(|| Err(Error::Closed));
                let time = Arc::new(lanes::time(&self.pipeline.time, self.writers.clone()));
                StateConfig { shared, changelog, flusher: Arc::new(()), reopen, time }
            }),
        })
    }
}

/// Compares a state with the one that was committed at an offset, if a commit ends there.
fn compare_state(side: &Side, past: &Past<'_>, partition: u32, to: u64) -> Result<StateReplayed, Error> {
    let committed = past.side(partition, to, "to")?;
    let (replayed, then) = (side.state.lock(), committed.state.lock());
    let mut told = StateReplayed { compared: committed.cursor == to, ..StateReplayed::default() };
    let mut hash = 0_u128;
    state::each(&replayed, &mut |change| {
        hash = hash.wrapping_add(compare::hash_of(&[
            change.key,
            change.value.unwrap_or_default(),
            &change.expires.unwrap_or(0).to_le_bytes(),
        ]));
    })?;
    told.hash = format!("{hash:032x}");
    if told.compared {
        differing(&replayed, &then, true, &mut told)?;
        differing(&then, &replayed, false, &mut told)?;
    }
    Ok(told)
}

/// Notes what is in one state and not in another, or is otherwise there.
fn differing(
    one: &PartitionState,
    other: &PartitionState,
    or_other: bool,
    told: &mut StateReplayed,
) -> Result<(), Error> {
    /// Keys that are named, at most.
    const MOST_KEYS: usize = 100;
    let mut failed = None;
    state::each(one, &mut |change| match other.get_committed(change.key) {
        Ok(Some(there)) if !or_other || (there.value.as_deref() == change.value && there.expires == change.expires) => {
        }
        Ok(_) => {
            told.differing += 1;
            if let Some((stage, key)) = sluice_state::stage_and_key(change.key).filter(|_| told.keys.len() < MOST_KEYS)
            {
                told.keys.push((stage.to_owned(), key.to_vec()));
            }
        }
        Err(error) => drop(failed.get_or_insert(error)),
    })?;
    failed.map_or(Ok(()), |error| Err(Error::Invalid(error.to_string())))
}

/// Reads up to the end of the range.
struct Bounded {
    reader: Reader,
    to: Arc<AtomicU64>,
}

impl Source for Bounded {
    fn high_watermark(&self) -> u64 {
        self.to.load(Ordering::SeqCst)
    }

    fn read(&mut self, from: u64, max_events: u32, max_bytes: usize, out: &mut ReadBatch) -> Result<(), Error> {
        let left = u32::try_from(self.high_watermark() - from).unwrap_or(u32::MAX);
        self.reader.seek(from);
        self.reader.read(max_events.min(left), max_bytes, out)
    }
}

/// A clock that does not tell the time of day.
struct NoDay;

impl Clock for NoDay {
    fn now(&self) -> i64 {
        i64::MIN
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }
}

/// Takes what the side run would commit.
struct Collector {
    /// Where outputs are appended, if they are.
    log: Option<Arc<Log>>,
    comparison: Mutex<Option<Comparison>>,
    dead: AtomicU64,
}

impl Storage for Collector {
    fn submit(&self, commit: Commit, done: Done) {
        let mut appends = Vec::new();
        for append in commit.appends {
            match append.to.topic {
                CHANGELOG => {}
                DEAD => drop(self.dead.fetch_add(u64::from(append.batch.count()), Ordering::SeqCst)),
                _ => appends.push(append),
            }
        }
        done(self.take(appends).map(|()| Committed::default()));
    }

    fn position(&self, _: u32, _: TopicPartition) -> Option<(u64, u64)> {
        None
    }
}

impl Collector {
    fn take(&self, appends: Vec<Append>) -> Result<(), Error> {
        if let Some(comparison) = &mut *self.comparison.lock().unwrap_or_else(PoisonError::into_inner) {
            for append in &appends {
                append.batch.region().events().flatten().for_each(|event| comparison.came(append.to.topic, &event));
            }
        }
        match &self.log {
            Some(log) if !appends.is_empty() => log.commit(Commit { appends, ..Commit::default() }).map(drop),
            _ => Ok(()),
        }
    }
}
