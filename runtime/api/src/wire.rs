//! What travels besides events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_log::{Committed, Compression, Desired, ReadBatch, TopicSettings};
use sluice_node::dead::Selection;
use sluice_node::state::StateChoice;

use crate::problem::Problem;

/// Bytes of events in one request, at most.
pub(crate) const MAX_BODY: usize = 8 << 20;
/// Bytes of events in one answer, at most, but for a single larger event.
pub(crate) const MAX_READ: usize = 4 << 20;
/// How long an answer may be held back until there are events.
pub(crate) const MAX_WAIT_MS: u64 = 30_000;

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// At least 1.
    pub partitions: u32,
    /// How long events are kept, in milliseconds; none for ever.
    #[serde(default)]
    pub retention_age_ms: Option<i64>,
    /// How many bytes of each partition are kept; none for all.
    #[serde(default)]
    pub retention_bytes: Option<u64>,
    /// Whether events go even when a pipeline has not read them.
    #[serde(default)]
    pub past_cursors: bool,
    /// `none`, `lz4` or `zstd`; none by default.
    #[serde(default)]
    pub compression: Option<String>,
}

impl NewTopic {
    /// As the log takes it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn to_log(&self) -> Result<sluice_log::NewTopic, Problem> {
        let compression = self.compression.as_deref().map(str::parse::<Compression>).transpose();
        let compression = compression.map_err(Problem::bad_request)?.unwrap_or_default();
        // The bounds of a [[topic]].
        if self.retention_age_ms.is_some_and(|age| age < 1000) {
            return Err(Problem::bad_request("a retention age is at least 1s"));
        }
        if self.retention_bytes.is_some_and(|bytes| bytes < 64 << 10) {
            return Err(Problem::bad_request("a retention size is at least 64KiB"));
        }
        let settings = TopicSettings {
            retention_age_ms: self.retention_age_ms,
            retention_bytes: self.retention_bytes,
            past_cursors: self.past_cursors,
            compression,
        };
        Ok(sluice_log::NewTopic { name: self.name.clone(), partitions: self.partitions, settings })
    }
}

/// Where a place is in a partition.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Located {
    pub(crate) offset: u64,
}

/// A place that is looked for.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocateQuery {
    /// `earliest`, `latest`, an offset, a time.
    pub(crate) at: String,
}

/// What a pipeline is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// Finish what is in hand, and stand still.
    Pause,
    /// Run, and try again what it stands still at.
    Resume,
    /// Run, and pass over the events that block it; they are counted as skipped.
    ResumePast,
    /// Deal with everything there is, then stand still.
    Drain,
}

impl From<Want> for Desired {
    fn from(want: Want) -> Self {
        match want {
            Want::Pause => Self::Pause,
            Want::Resume | Want::ResumePast => Self::Run,
            Want::Drain => Self::Drain,
        }
    }
}

/// Where cursors are to go.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewindRequest {
    /// As `sluice rewind` takes it; `undo` is back to before the last one.
    pub(crate) to: String,
    #[serde(default)]
    pub(crate) state: StateChoice,
    /// The topic to which outputs of what is read again go.
    #[serde(default)]
    pub(crate) into: Option<String>,
    /// Whether to do it, or only to say what it would do.
    pub(crate) really: bool,
}

/// A checkpoint as a file.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRequest {
    /// Absolute.
    pub(crate) file: std::path::PathBuf,
    /// Imported: under this name.
    #[serde(default)]
    pub(crate) name: Option<String>,
}

/// A copy to make of the data directory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupRequest {
    /// Absolute; it must not be there.
    pub(crate) folder: std::path::PathBuf,
}

/// A plugin that a definition in force names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Plugin {
    /// SHA-256 of the .wasm file, in hexadecimal.
    pub(crate) digest: String,
    /// The stages that run it.
    pub(crate) stages: Vec<PluginStage>,
}

/// A stage of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PluginStage {
    pub(crate) pipeline: String,
    pub(crate) stage: String,
    /// The pipeline's generation.
    pub(crate) generation: u64,
}

/// A checkpoint to make.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckpointRequest {
    pub(crate) name: String,
    /// Of this pipeline only.
    pub(crate) pipeline: Option<String>,
}

/// What to do about dead letters.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadRequest {
    pub(crate) selection: Selection,
    /// Whether to do it, or only to say what it would do.
    pub(crate) really: bool,
}

/// What became of events that were sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Produced {
    /// How many were appended; none for a repeat.
    pub appended: u64,
    /// Whether the producer had sent all of them before.
    pub repeated: bool,
}

impl From<Committed> for Produced {
    fn from(committed: Committed) -> Self {
        let appended = committed.appended.iter().map(|appended| u64::from(appended.count)).sum();
        Self { appended, repeated: committed.repeated }
    }
}

/// How a reader says what it wants.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ReadQuery {
    pub(crate) partition: u32,
    pub(crate) from: u64,
    pub(crate) max_bytes: usize,
    pub(crate) wait_ms: u64,
}

/// The next sequence number of a producer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct NextSequence {
    pub(crate) next: u64,
}

/// Bytes before the events of an answer: u64 base offset, u32 count, u32 0.
const READ_HEADER: usize = 16;

pub(crate) fn encode_read(batch: &ReadBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(READ_HEADER + batch.bytes.len());
    out.extend_from_slice(&batch.base_offset.to_le_bytes());
    out.extend_from_slice(&batch.count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&batch.bytes);
    out
}

pub(crate) fn decode_read(bytes: &[u8]) -> Result<ReadBatch, Problem> {
    let cut_short = || Problem::connection("its answer is cut short");
    let (header, events) = bytes.split_at_checked(READ_HEADER).ok_or_else(cut_short)?;
    let word = |at: usize| header[at..].first_chunk::<8>().copied().ok_or_else(cut_short);
    let batch = ReadBatch {
        base_offset: u64::from_le_bytes(word(0)?),
        count: u64::from_le_bytes(word(8)?) as u32,
        bytes: events.to_vec(),
        ..ReadBatch::default()
    };
    batch.region().check().map_err(Problem::connection)?;
    Ok(batch)
}

/// What deals with a pipeline's events.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct InForce {
    /// The generation that is in force now or, where the pipeline does not run, with which it will start.
    pub generation: u64,
}
