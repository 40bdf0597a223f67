//! Replays: side runs over committed history.
//!
//! The events of a range go through the pipeline's stages once more, with the state as it was where the range begins; what comes out goes to a topic
//! of its own, or is compared with what was committed. **The pipeline itself is not touched**: its cursors, its state and its topics stay as they
//! are. The time of day in a replay is that of history: what fired by it, or was found idle, does and is so again, at the same place.

mod compare;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{OnError, Pipeline};
use sluice_engine::{
    BatchSize, Breaker, Delivery, ErrorPolicy, Generation, LaneConfig, LaneRunner, PartitionBy, Reopen, Retry, Sink,
    Source, SourceConfig, StageConfig, StateConfig, Step, Storage, Writer,
};
use sluice_env::{Clock, SystemClock};
use sluice_host::{Compiler, Host};
use sluice_log::{
    Append, Commit, Committed, Done, Error, Log, PipelineInfo, ReadBatch, Reader, TopicInfo, TopicPartition,
};
use sluice_state::{Cursors, PartitionState, Quiet, SharedState};

use self::compare::{Comparison, Range};
pub use self::compare::{Difference, Kind, Shown};
use crate::definitions::{self, Trial};
use crate::generations;
use crate::lanes;
use crate::node::NodeError;
use crate::operate::Target;
use crate::state::{self, Moment, Past, Side};
use crate::topics;

/// Those of the side run's own topics, which are not in the log: its changelog, and its dead letters.
const CHANGELOG: u32 = u32::MAX;
const DEAD: u32 = u32::MAX - 1;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Request {
    /// The pipeline.
    pub pipeline: String,
    /// Files and folders that hold its definition; absolute. None: the definition and the plugins in force.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Another plugin than the definition's; absolute.
    #[serde(default)]
    pub plugin: Option<PathBuf>,
    /// The stage that it is for; may be left out where there is only one.
    #[serde(default)]
    pub stage: Option<String>,
    /// Where the range begins.
    pub from: String,
    /// Where it ends; nothing is replayed that the pipeline has not read.
    pub to: String,
    /// The topic that outputs go to; without it they are compared.
    #[serde(default)]
    pub into: Option<String>,
}

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    let in_force = request.files.is_empty().then_some(info);
    let all = match in_force {
        Some(_) => log.pipelines().iter().filter_map(|info| definitions::in_force(info).ok()).collect(),
        None => definitions::read(&request.files).map_err(NodeError::Refused)?,
    };
    let (pipeline, stages) = stages((log, host), in_force, &all, request)?;
    let target = |text: &str| text.parse::<Target>().map_err(invalid);
    let (from, to) = (target(&request.from)?, target(&request.to)?);
    let into = request.into.as_ref().map(|name| topics::aside(log, &pipeline, name, true)).transpose()?.flatten();
    let mut replay = Replay { pipeline: info.name.clone(), into: request.into.clone(), ..Replay::default() };
    let mut hash = 0_u128;
    let mut lanes: Vec<Vec<Feed>> = Vec::new();
    for (tp, cursor) in &info.cursors {
        let Some(topic) = log.topics().into_iter().find(|topic| topic.id == tp.topic) else { continue };
        let place = |target: &Target| place(log, info, target, (*tp, &topic), cursor.next);
        let (from, to) = (place(&from)?, place(&to)?);
        let to = to.map(|to| to.min(cursor.next));
        let low = log.partition(&topic, tp.partition)?.low_mark();
        if let Some((from, to)) = from.zip(to).filter(|(from, to)| *from < low || from > to) {
            let what = format!("{}/{}: no range from {from} to {to}", topic.name, tp.partition);
            let there =
                format!("there are events from {low} on, and the pipeline has read those before {}", cursor.next);
            return Err(invalid(format!("{what}: {there}")));
        }
        let writers = lanes::writers(log, &all, *tp, &topic.name)?;
        let is_asked = from.is_some() && to.is_some();
        let (from, to) = (from.unwrap_or(cursor.next), to.unwrap_or(cursor.next));
        let feed = Feed { tp: *tp, topic, writers, from, to, is_asked };
        match lanes.iter_mut().find(|lane| past.is_some() && lane[0].tp.partition == tp.partition) {
            Some(lane) => lane.push(feed),
            None => lanes.push(vec![feed]),
        }
    }
    for feeds in lanes.into_iter().filter(|lane| lane.iter().any(|feed| feed.is_asked)) {
        let (into, compares) = (into.as_ref(), into.is_none());
        let lane = SideLane { log, pipeline: &pipeline, stages: &stages, past, into, compares, feeds };
        let (parts, comparison) = lane.run()?;
        hash = hash.wrapping_add(comparison.hash());
        comparison.tell(&mut replay);
        replay.partitions.extend(parts);
    }
    if replay.partitions.is_empty() {
        return Err(invalid(format!("pipeline {} does not read {from}", info.name)));
    }
    replay.outputs_hash = format!("{hash:032x}");
    Ok(replay)
}

/// Brings a copy of a pipeline's state, as it is now, into the shape that these stages want, to see that they can.
pub(crate) fn try_migration(
    log: &Arc<Log>,
    info: &PipelineInfo,
    past: &Past<'_>,
    (pipeline, stages): (&Pipeline, &[StageConfig]),
) -> Result<(), NodeError> {
    let mut lanes: Vec<Vec<Feed>> = Vec::new();
    for (tp, cursor) in &info.cursors {
        let Some(topic) = log.topics().into_iter().find(|topic| topic.id == tp.topic) else { continue };
        let (from, to) = (cursor.next, cursor.next);
        let feed = Feed { tp: *tp, topic, writers: Vec::new(), from, to, is_asked: true };
        match lanes.iter_mut().find(|lane| lane[0].tp.partition == tp.partition) {
            Some(lane) => lane.push(feed),
            None => lanes.push(vec![feed]),
        }
    }
    for feeds in lanes {
        let (past, into, compares) = (Some(past), None, false);
        SideLane { log, pipeline, stages, past, into, compares, feeds }.run()?;
    }
    Ok(())
}

fn invalid(what: String) -> NodeError {
    NodeError::Log(Error::Invalid(what))
}

/// The definition, and its stages, with the other plugin in place; `info` is the pipeline where what is in force counts, not what stands in files.
fn stages(
    (log, host): (&Log, &Arc<Host>),
    info: Option<&PipelineInfo>,
    all: &[Pipeline],
    request: &Request,
) -> Result<(Pipeline, Vec<StageConfig>), NodeError> {
    let found = all.iter().find(|pipeline| pipeline.name == request.pipeline);
    let mut pipeline = found.cloned().ok_or_else(|| {
        let files: Vec<_> = request.files.iter().map(|file| file.display().to_string()).collect();
        invalid(format!("no definition of pipeline {} in {}", request.pipeline, files.join(", ")))
    })?;
    let mut replaced = None;
    if let Some(plugin) = &request.plugin {
        let names: Vec<_> = pipeline.stages.iter().map(|stage| stage.name.clone()).collect();
        let at = match &request.stage {
            Some(name) => names.iter().position(|stage| stage == name),
            None => (names.len() == 1).then_some(0),
        };
        let at = at.ok_or_else(|| invalid(format!("say which stage the plugin is for, with --stage: {names:?}")))?;
        pipeline.stages[at].plugin.clone_from(plugin);
        replaced = Some(at);
    }
    let digests = info.map(|info| generations::hex(&info.digest));
    let read = |at: usize| match digests.as_ref().filter(|_| replaced != Some(at)) {
        None => definitions::read_plugin(&pipeline, at),
        Some(digests) => {
            let help = "name the files with the definition: --definitions FILE|DIR".to_owned();
            generations::plugin(log.root(), &pipeline, at, digests, Some(help))
        }
    };
    let loaded = definitions::load_stages_of(host, &pipeline, &Trial::By(&(), crate::witness::starting(0)), read);
    let stages = loaded.map_err(NodeError::Refused)?.into_iter().map(|stage| stage.config).collect();
    Ok((pipeline, stages))
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
        Target::Checkpoint(name) | Target::CatchUp(name) => {
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

/// A source partition of a side run.
struct Feed {
    tp: TopicPartition,
    topic: TopicInfo,
    /// Who is known to write to it.
    writers: Vec<Writer>,
    from: u64,
    to: u64,
    /// Whether it was asked for; what is kept may come of others too.
    is_asked: bool,
}

/// One lane of a side run.
struct SideLane<'a> {
    log: &'a Arc<Log>,
    pipeline: &'a Pipeline,
    stages: &'a [StageConfig],
    past: Option<&'a Past<'a>>,
    into: Option<&'a TopicInfo>,
    /// Whether outputs and state are compared with what was committed.
    compares: bool,
    feeds: Vec<Feed>,
}

impl SideLane<'_> {
    fn run(mut self) -> Result<(Vec<Replayed>, Comparison), NodeError> {
        let partition = self.feeds[0].tp.partition;
        if let Some(past) = self.past.filter(|_| self.feeds.len() > 1) {
            // In which order events of several topics came is known of whole commits.
            let end = past.commit_before(partition, &self.cursors(|feed| feed.to))?;
            let begin = self.cursors(|feed| feed.from.min(state::cursor_of(&end, feed.tp.topic).unwrap_or(feed.from)));
            let begin = past.commit_before(partition, &begin)?;
            for feed in &mut self.feeds {
                let at = |cursors| state::cursor_of(cursors, feed.tp.topic);
                (feed.from, feed.to) = (at(&begin).unwrap_or(feed.from), at(&end).unwrap_or(feed.to));
            }
        }
        let (from, to) = (self.cursors(|feed| feed.from), self.cursors(|feed| feed.to));
        let side = self.past.map(|past| past.side(partition, &from, "from")).transpose()?;
        let start = side.as_ref().map_or(from.clone(), |side| side.cursors.clone());
        let names: Vec<_> = self.pipeline.sinks.iter().map(|sink| sink.topic.clone()).collect();
        let ranges = self.ranges(side.as_ref());
        let comparison = match self.compares {
            false => Comparison::none(ranges),
            true => {
                // Of one topic, what comes again comes under the same origins, and what was written last counts. Of several, only what this history
                // has written.
                let several = self.past.filter(|_| self.feeds.len() > 1);
                let written = several.map(|past| past.written(partition)).transpose()?;
                Comparison::with_committed(self.log, ranges, &names, written)?
            }
        };
        let storage = Arc::new(Collector {
            log: self.into.map(|_| self.log.clone()),
            comparison: Mutex::new(Some(comparison)),
            dead: AtomicU64::new(0),
        });
        let (runs, moments) = match (self.past, &side) {
            (Some(past), Some(side)) => past.after(partition, side, &to)?,
            _ => (Vec::new(), Vec::new()),
        };
        if let Some(side) = side.as_ref().filter(|_| !runs.is_empty()) {
            side.state.lock().quiet(Quiet { until: 0, runs });
        }
        let config = self.config(side.as_ref().map(|side| side.state.clone()))?;
        let (mut sources, mut bounds) = (Vec::new(), Vec::new());
        for feed in &self.feeds {
            let (source, topic_name) = (feed.tp, feed.topic.name.clone());
            let cursor = state::cursor_of(&start, source.topic).unwrap_or(feed.from);
            let reader = self.log.reader(self.log.partition(&feed.topic, source.partition)?, cursor);
            let to = Arc::new(AtomicU64::new(cursor));
            bounds.push((source.topic, to.clone()));
            let reader: Box<dyn Source> = Box::new(Bounded { reader, to });
            sources.push((SourceConfig { source, topic_name, cursor, tried: None }, reader));
        }
        let clock = Arc::new(ThatDay(AtomicI64::new(i64::MIN)));
        let mut runner = LaneRunner::new(config, sources, storage.clone(), clock.clone(), Arc::new(|| {}));
        let mut go = |cursors: &Cursors, then: Option<Moment>| {
            for (topic, bound) in &bounds {
                state::cursor_of(cursors, *topic).into_iter().for_each(|to| bound.store(to, Ordering::SeqCst));
            }
            Self::settle(&mut runner)?;
            match then {
                None => {}
                Some(Moment::Clock(time)) => {
                    clock.0.store(time, Ordering::SeqCst);
                    Self::settle(&mut runner)?;
                    clock.0.store(i64::MIN, Ordering::SeqCst);
                }
                Some(Moment::Closed) => {
                    for _ in &self.pipeline.stages {
                        runner.close();
                        Self::settle(&mut runner)?;
                    }
                }
            }
            Ok::<_, NodeError>(())
        };
        moments.iter().try_for_each(|(cursors, moment)| go(cursors, Some(*moment)))?;
        go(&to, None)?;
        drop(runner);
        let comparison = storage.comparison.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut comparison = comparison.ok_or(Error::Closed)?;
        comparison.dead = storage.dead.load(Ordering::SeqCst);
        comparison.finish(self.log)?;
        let mut state = match (&side, self.past) {
            (Some(side), Some(past)) if self.compares || self.into.is_some() => {
                Some(compare_state(side, past, partition, &to)?)
            }
            _ => None,
        };
        let part =
            |Feed { topic, from, to, .. }| Replayed { topic: topic.name, partition, from, to, state: state.take() };
        Ok((self.feeds.into_iter().map(part).collect(), comparison))
    }

    fn cursors(&self, of: impl Fn(&Feed) -> u64) -> Cursors {
        self.feeds.iter().map(|feed| (feed.tp.topic, of(feed))).collect()
    }

    /// What the side run goes over.
    fn ranges(&self, side: Option<&Side>) -> Vec<Range> {
        let (last, told) = side.map_or((None, 0), |side| {
            let state = side.state.lock();
            (state.applied().topic, state.applied().fired_outputs)
        });
        // Timers that fired before the first event did so before the range, but for those that had not yet. They are laid to the event before it.
        let last = last.unwrap_or(self.feeds[0].tp.topic);
        let range = |feed: &Feed| {
            let start = side.and_then(|side| state::cursor_of(&side.cursors, feed.tp.topic)).unwrap_or(feed.from);
            let told = if start < feed.from || feed.tp.topic != last { u32::MAX } else { told };
            Range { source: feed.tp, from: feed.from, to: feed.to, told }
        };
        self.feeds.iter().map(range).collect()
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

    fn config(&self, state: Option<SharedState>) -> Result<LaneConfig, Error> {
        let sink = |sink: &sluice_config::Sink| {
            let topic = match self.into {
                Some(topic) => topic.clone(),
                None => self.log.topic(&sink.topic)?,
            };
            let partition_by: PartitionBy = lanes::partition_by(sink.partition_by);
            Ok(Sink { name: sink.name.clone(), topic: topic.id, partitions: topic.partitions, partition_by })
        };
        let errors = &self.pipeline.errors;
        let generation = Generation {
            number: 0,
            stages: self.stages.to_vec(),
            sinks: self.pipeline.sinks.iter().map(sink).collect::<Result<_, Error>>()?,
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
            batch_size: BatchSize::new(self.pipeline.batch.max_events),
            max_bytes: self.pipeline.batch.max_bytes as usize,
            linger: Duration::ZERO,
            probation: None,
        };
        Ok(LaneConfig {
            pipeline_name: self.pipeline.name.clone(),
            pipeline: 0,
            epoch: 0,
            delivery: Delivery::ExactlyOnce,
            witness: Arc::new(()),
            generation,
            max_in_flight: 1,
            state: state.map(|shared| {
                let changelog = TopicPartition { topic: CHANGELOG, partition: 0 };
                let reopen: Reopen = Arc::new(|| Err(Error::Closed));
                let writers = self.feeds.iter().map(|feed| feed.writers.clone()).collect();
                let time = Arc::new(lanes::time(&self.pipeline.time, writers));
                StateConfig { shared, changelog, flusher: Arc::new(()), reopen, time }
            }),
        })
    }
}

/// Compares a state with the one that was committed at an offset, if a commit ends there.
fn compare_state(side: &Side, past: &Past<'_>, partition: u32, to: &Cursors) -> Result<StateReplayed, Error> {
    let committed = past.side(partition, to, "to")?;
    let (replayed, then) = (side.state.lock(), committed.state.lock());
    let mut told = StateReplayed { compared: committed.cursors == *to, ..StateReplayed::default() };
    let mut hash = 0_u128;
    state::each(&replayed, &mut |change| {
        hash = hash.wrapping_add(compare::hash_of(&[
            change.key,
            change.value.unwrap_or_default(),
            &change.expires.unwrap_or(0).to_le_bytes(),
        ]));
    })?;
    told.hash = format!("{hash:032x}");
    // Values of other versions are not the same however they came about.
    let spaces = |state: &PartitionState| -> Vec<String> {
        let usage = state.applied().usage.iter().filter(|(_, usage)| usage.keys > 0);
        usage.map(|(space, _)| space).filter(|space| sluice_state::stage_and_version(space).1 > 0).cloned().collect()
    };
    told.compared &= spaces(&replayed) == spaces(&then);
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
            if let Some((stage, key)) = sluice_state::space_and_key(change.key).filter(|_| told.keys.len() < MOST_KEYS)
            {
                told.keys.push((sluice_state::stage_and_version(stage).0.to_owned(), key.to_vec()));
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

    fn is_silent(&mut self, at: u64, now: i64) -> bool {
        let mut next = ReadBatch::default();
        if now == i64::MIN || at < self.high_watermark() {
            return false;
        }
        // What was appended later was not there then.
        self.reader.seek(at);
        let read = self.reader.read(1, 1, &mut next);
        read.is_err() || next.append_times.first().is_none_or(|(_, time)| *time >= now)
    }
}

/// A clock that tells the time of day only where history says it.
struct ThatDay(AtomicI64);

impl Clock for ThatDay {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
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
