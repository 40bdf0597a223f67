//! Who asks what a pipeline keeps.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_log::{Error, Log, PipelineInfo};
use sluice_state::{Change, SharedState, full_key, prefix_of, space_and_key, stage_and_version};

use super::{bring_up, refused};

/// What is asked of a pipeline's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Query {
    /// Of this stage only.
    #[serde(default)]
    pub stage: Option<String>,
    /// What keys begin with, or the whole key.
    #[serde(with = "crate::text")]
    #[schemars(with = "crate::text::Text")]
    pub key: Vec<u8>,
    /// Only this very key.
    #[serde(default)]
    pub whole: bool,
    /// Entries, at most.
    pub max: usize,
}

/// One value of a pipeline's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// The source partition.
    pub partition: u32,
    /// The stage.
    pub stage: String,
    /// The version of the value, as the plugin counts them; 0 where it does not.
    #[serde(default)]
    pub version: u32,
    /// The stage's own key.
    #[serde(with = "crate::text")]
    #[schemars(with = "crate::text::Text")]
    pub key: Vec<u8>,
    /// The value.
    #[serde(with = "crate::text")]
    #[schemars(with = "crate::text::Text")]
    pub value: Vec<u8>,
    /// When it expires, ms since the epoch.
    pub expires: Option<i64>,
}

/// What a pipeline's state came to, each partition as of one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Found {
    /// By partition, stage and key.
    pub entries: Vec<Entry>,
    /// There is more than was asked for.
    pub more: bool,
}

/// How long a question waits for a lane that is about to take in what is committed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of keys and values that one answer holds, about.
const MOST_BYTES: usize = 8 << 20;

/// Looks into a pipeline's state; `shared` brings up states.
pub(super) fn look(
    log: &Log,
    shared: impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error>,
    pipeline: &str,
    query: &Query,
) -> Result<Found, Error> {
    let info = log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
    let keeps_none = |_| Error::Invalid(format!("pipeline {pipeline} keeps no state"));
    let topic = log.topic(&changelog_topic(pipeline)).map_err(keeps_none)?;
    let (mut found, mut bytes) = (Found::default(), 0);
    for partition in 0..topic.partitions {
        let end = log.partition(&topic, partition)?.high_watermark();
        let shared = shared(&info, partition)?;
        let state = shared.lock_at(end, PATIENCE);
        if state.applied().offset < end {
            let what = "its state is being brought up, or could not be (`sluice status`): ask again";
            return Err(Error::Invalid(format!("pipeline {pipeline}, partition {partition}: {what}")));
        }
        let is_asked = |stage: &str| query.stage.as_ref().is_none_or(|only| only == stage);
        let spaces = state.applied().usage.keys().map(|space| (space, stage_and_version(space)));
        for (space, (stage, version)) in spaces.filter(|(_, (stage, _))| is_asked(stage)) {
            let prefix = full_key(&prefix_of(space), &query.key);
            let scanned = state.scan(&prefix, &prefix, false, &mut |Change { key: full, value, expires }| {
                let Some((_, key)) = space_and_key(full) else { return true };
                let (key, value) = (key.to_vec(), value.unwrap_or_default().to_vec());
                bytes += key.len() + value.len();
                if query.whole && key != query.key {
                    return false;
                }
                found.more = found.entries.len() >= query.max || bytes > MOST_BYTES;
                if !found.more {
                    found.entries.push(Entry { partition, stage: stage.to_owned(), version, key, value, expires });
                }
                !found.more && !query.whole
            });
            scanned.map_err(|error| refused(&error))?;
        }
    }
    Ok(found)
}

/// Looks into a pipeline's state in a data directory on which no node runs.
///
/// # Errors
/// When there is no such pipeline, or it keeps no state, or that cannot be read.
pub fn look_in(log: &Log, pipeline: &str, query: &Query) -> Result<Found, Error> {
    look(log, |pipeline, partition| bring_up(log, pipeline, partition), pipeline, query)
}
