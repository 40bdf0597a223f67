//! How a node and its pipelines stand, as people and programs read it.

use serde::{Deserialize, Serialize};

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The node's process, or none: then pipelines stand where it left them.
    pub pid: Option<u32>,
    /// By name.
    pub pipelines: Vec<PipelineStatus>,
    /// Files of partitions that are damaged and stopped.
    pub damaged: Vec<String>,
}

/// What a pipeline does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// No node runs it.
    Stopped,
}

impl std::fmt::Display for PipelineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Halted => "halted",
            Self::Stopped => "stopped",
        })
    }
}

/// How a pipeline stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: PipelineState,
    /// Counts definitions and plugins that were in force.
    pub generation: u64,
    /// SHA-256 of the plugin in force, in hexadecimal.
    pub digest: String,
    /// Events it has not read yet.
    pub lag: u64,
    /// Events read since its first commit.
    pub read: u64,
    /// Of these, events without any output.
    pub filtered: u64,
    /// Calls that failed since the node started.
    pub failed_calls: u64,
    /// Per source partition.
    pub partitions: Vec<LaneStatus>,
}

/// How a pipeline stands on one source partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The offset and the reason, when it is halted.
    pub halted: Option<Halted>,
    /// What it waits for, when storage refuses for the moment.
    pub waits_for: Option<String>,
}

/// What blocks a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halted {
    /// The event that blocks.
    pub offset: u64,
    /// What happened.
    pub reason: String,
}
