//! How a node and its pipelines stand, as people and programs read it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::OnError;
use sluice_engine::{Fate, Halt, Retrying};
use sluice_env::{Clock, SystemClock};
use sluice_log::{Desired, Log, Partition, PipelineInfo, TopicInfo};

use crate::definitions;
use crate::generations::hex;
use crate::history::Rates;
use crate::reload::ReloadStatus;

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The node's process, or none: then pipelines stand where it left them.
    pub pid: Option<u32>,
    /// Where it listens on the network, if it does.
    #[serde(default)]
    pub url: Option<String>,
    /// By name.
    pub pipelines: Vec<PipelineStatus>,
    /// Files of partitions that are damaged and stopped.
    pub damaged: Vec<String>,
    /// What keeps events from going that topics need not keep.
    pub holds: Vec<HoldStatus>,
    /// Why definitions in files are not in force that are of no pipeline which runs.
    #[serde(default)]
    pub refused: Vec<String>,
}

/// A pipeline that keeps retention from doing its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HoldStatus {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// The pipeline that has not read what should go.
    pub pipeline: String,
    /// Where it is.
    pub cursor: u64,
    /// Events before this offset would go.
    pub wanted: u64,
    /// Bytes that would be freed.
    pub bytes: u64,
}

/// What a pipeline does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PipelineState {
    /// It has events to deal with.
    Running,
    /// It has dealt with all there is.
    Idle,
    /// Storage refuses for the moment; it goes on by itself.
    Waiting,
    /// A partition stands still until somebody acts.
    Halted,
    /// It finishes what is in hand, and then stands still.
    Pausing,
    /// It deals with everything there is, and then stands still.
    Draining,
    /// It stands still until it is resumed.
    Paused,
    /// It was stopped for a reason that `held` tells, and stands still until it is resumed.
    Held,
    /// No node runs it.
    Stopped,
}

impl PipelineState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Idle,
        Self::Waiting,
        Self::Halted,
        Self::Pausing,
        Self::Draining,
        Self::Paused,
        Self::Held,
        Self::Stopped,
    ];
}

impl std::fmt::Display for PipelineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Halted => "halted",
            Self::Pausing => "pausing",
            Self::Draining => "draining",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Stopped => "stopped",
        })
    }
}

/// How a pipeline stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: PipelineState,
    /// What it is told to do; remembered over restarts.
    pub desired: Desired,
    /// Why it stands still whatever it is told to do; remembered over restarts.
    pub held: Option<String>,
    /// Where its dead letters go, by the definition in force.
    pub dead_letter_topic: Option<String>,
    /// How often an event's effects can come about, by the definition in force.
    pub delivery: Option<String>,
    /// The topics it reads, by the definition in force.
    pub sources: Vec<String>,
    /// The topics it writes to, likewise.
    pub sinks: Vec<String>,
    /// Its stages, likewise.
    pub stages: Vec<String>,
    /// Counts definitions and plugins that were in force.
    pub generation: u64,
    /// Counts how often its cursors were set anew, from 1.
    pub epoch: u64,
    /// SHA-256 of each plugin in force, in hexadecimal.
    pub digests: Vec<String>,
    /// Events it has not read yet.
    pub lag: u64,
    /// How long the oldest of these waits since it was appended, in ms; none where there is none.
    pub lag_ms: Option<i64>,
    /// How fast it was lately, while a node runs it.
    pub rates: Option<Rates>,
    /// Events read since its first commit.
    pub read: u64,
    /// Of these, events with outputs that are committed.
    pub committed: u64,
    /// Of these, events without any output.
    pub filtered: u64,
    /// Of these, events dead-lettered.
    pub dead: u64,
    /// Of these, events skipped.
    pub skipped: u64,
    /// Of these, events claimed without an outcome (at-most-once): in hand, or lost.
    pub unsettled: u64,
    /// Events written to its sinks since the node started.
    pub written: u64,
    /// Calls that failed since the node started.
    pub failed_calls: u64,
    /// What failed last since then, the newest first.
    #[serde(default)]
    pub last_errors: Vec<ErrorStatus>,
    /// Why the newest definition or plugin is not in force, and how a new generation does, if there is anything to tell.
    #[serde(default)]
    pub reload: Option<ReloadStatus>,
    /// Per source partition.
    pub partitions: Vec<LaneStatus>,
}

/// An event that failed, or a timer behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ErrorStatus {
    /// When, ms since the epoch.
    pub time: i64,
    /// The source topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// The event.
    pub offset: u64,
    /// Why it failed.
    pub reason: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// How a pipeline stands on one source partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LaneStatus {
    /// The source topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// The next offset it reads.
    pub cursor: u64,
    /// The first offset that is not committed yet.
    pub high_watermark: u64,
    /// The difference of the two.
    pub lag: u64,
    /// How long the event at the cursor waits since it was appended, in ms; none where there is none.
    pub lag_ms: Option<i64>,
    /// Whether it stands still because it was told to.
    pub paused: bool,
    /// The offset and the reason, when it is halted.
    pub halted: Option<Halt>,
    /// The event that failed and is tried again, when there is one.
    pub retrying: Option<Retrying>,
    /// What it waits for, when storage refuses for the moment.
    pub waits_for: Option<String>,
    /// Whether timers wait to fire.
    pub timers_due: bool,
    /// How far its events have come in their own time, ms since the epoch, while it runs with state or timers.
    pub watermark: Option<i64>,
    /// How many of its events were late, while it runs with state or timers.
    pub late: Option<u64>,
}

/// How everything stands that a log knows of, when no node runs on it.
pub fn of(log: &Log) -> Status {
    let damaged = log.report().damaged.iter().map(|file| file.display().to_string()).collect();
    // Topics after the pipelines that read them: none of those made meanwhile is missed.
    let (pipelines, topics) = (log.pipelines(), log.topics());
    let pipelines = pipelines.into_iter().filter_map(|info| of_pipeline(log, &topics, info)).collect();
    let holds = log.holds().into_iter().filter_map(|hold| {
        let topic = topics.iter().find(|topic| topic.id == hold.tp.topic)?;
        Some(HoldStatus {
            topic: topic.name.clone(),
            partition: hold.tp.partition,
            pipeline: hold.pipeline,
            cursor: hold.cursor,
            wanted: hold.wanted,
            bytes: hold.bytes,
        })
    });
    Status { pid: None, url: None, pipelines, damaged, holds: holds.collect(), refused: Vec::new() }
}

/// How long the event at an offset waits since it was appended, in ms; none where there is none, or that cannot be read.
pub(crate) fn waits(partition: &Partition, offset: u64) -> Option<i64> {
    let appended = partition.append_time(offset).ok()??;
    Some((SystemClock.now() - appended).max(0))
}

/// How a pipeline's cursors stand, as the log knows them.
fn of_pipeline(log: &Log, topics: &[TopicInfo], info: PipelineInfo) -> Option<PipelineStatus> {
    let definition = definitions::in_force(&info).ok();
    let mut status = PipelineStatus {
        name: info.name,
        state: PipelineState::Stopped,
        desired: info.desired,
        held: Some(info.held).filter(|reason| !reason.is_empty()),
        dead_letter_topic: definition
            .as_ref()
            .filter(|pipeline| pipeline.errors.on_error == OnError::DeadLetter)
            .map(|pipeline| pipeline.errors.dead_letter_topic.clone()),
        delivery: definition.as_ref().map(|pipeline| pipeline.delivery.to_string()),
        sources: definition.iter().flat_map(|pipeline| pipeline.sources.clone()).collect(),
        sinks: definition.iter().flat_map(|p| &p.sinks).map(|sink| sink.topic.clone()).collect(),
        stages: definition.iter().flat_map(|p| &p.stages).map(|stage| stage.name.clone()).collect(),
        generation: info.generation,
        epoch: info.epoch,
        digests: hex(&info.digest),
        lag: 0,
        lag_ms: None,
        rates: None,
        read: 0,
        committed: 0,
        filtered: 0,
        dead: 0,
        skipped: 0,
        unsettled: 0,
        written: 0,
        failed_calls: 0,
        last_errors: Vec::new(),
        reload: None,
        partitions: Vec::new(),
    };
    for (tp, cursor) in info.cursors {
        let topic = topics.iter().find(|topic| topic.id == tp.topic)?;
        let partition = log.partition(topic, tp.partition).ok()?;
        let high_watermark = partition.high_watermark();
        let lag = high_watermark.saturating_sub(cursor.next);
        let lag_ms = waits(&partition, cursor.next);
        status.lag_ms = status.lag_ms.max(lag_ms);
        status.lag += lag;
        status.read += cursor.read;
        status.committed += cursor.committed;
        status.filtered += cursor.filtered;
        status.dead += cursor.dead;
        status.skipped += cursor.skipped;
        status.unsettled += cursor.unsettled;
        status.partitions.push(LaneStatus {
            topic: topic.name.clone(),
            partition: tp.partition,
            cursor: cursor.next,
            high_watermark,
            lag,
            lag_ms,
            paused: false,
            halted: None,
            retrying: None,
            waits_for: None,
            timers_due: false,
            watermark: None,
            late: None,
        });
    }
    Some(status)
}
