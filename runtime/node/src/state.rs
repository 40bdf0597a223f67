//! The state of pipelines: where it is kept, how it comes up, and who asks for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_engine::{Flusher, StateConfig};
use sluice_log::{Error, Log, ReadBatch, TopicPartition};
use sluice_state::{
    Delta, Flush, LsmStore, PartitionState, SharedState, StoreCache, full_key, prefix_of, stage_and_key,
};

/// Memory that a changelog which is applied may come to before it goes to the store.
const FLUSH_BYTES: usize = 16 << 20;
/// Bytes of a changelog read at once.
const READ_BYTES: usize = 1 << 20;

/// The stores of a data directory: `state/PIPELINE-ID/PARTITION/live`.
pub(crate) struct States {
    folder: PathBuf,
    cache: StoreCache,
    writer: Arc<Writer>,
    /// Those that lanes have, by the pipeline's id and the partition.
    open: Mutex<HashMap<(u32, u32), SharedState>>,
}

impl States {
    /// Of a data directory.
    pub(crate) fn of(data: &Path) -> std::io::Result<Self> {
        let writer = Arc::new(Writer::start()?);
        Ok(Self { folder: data.join("state"), cache: StoreCache::default(), writer, open: Mutex::default() })
    }

    /// The state of a pipeline's partition for its lane, as far as the changelog goes.
    pub(crate) fn config(&self, log: &Log, pipeline: (u32, &str), partition: u32) -> Result<StateConfig, Error> {
        let topic = log.topic(&changelog_topic(pipeline.1))?;
        let shared = SharedState::new(open(log, &self.folder, &self.cache, pipeline, partition)?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert((pipeline.0, partition), shared.clone());
        let changelog = TopicPartition { topic: topic.id, partition };
        Ok(StateConfig { shared, changelog, flusher: self.writer.clone() })
    }

    /// The state that a lane has, if one runs.
    fn running(&self, pipeline: u32, partition: u32) -> Option<SharedState> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&(pipeline, partition)).cloned()
    }

    /// Looks into a pipeline's state.
    pub(crate) fn look(&self, log: &Log, pipeline: &str, query: &Query) -> Result<Found, Error> {
        look(log, &self.folder, |pipeline, partition| self.running(pipeline, partition), pipeline, query)
    }

    /// Forgets what a pipeline kept.
    pub(crate) fn forget(&self, pipeline: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != pipeline);
        forget(&self.folder, pipeline);
    }
}

/// Removes the stores of a pipeline that is gone, in a data directory.
pub fn forget_in(data: &Path, pipeline: u32) {
    forget(&data.join("state"), pipeline);
}

fn forget(folder: &Path, pipeline: u32) {
    let folder = folder.join(pipeline.to_string());
    if let Err(error) = std::fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %folder.display(), "state that nobody needs any more could not be removed");
    }
}

/// Opens a store and applies what the changelog has beyond it.
fn open(
    log: &Log,
    folder: &Path,
    cache: &StoreCache,
    (pipeline, name): (u32, &str),
    partition: u32,
) -> Result<PartitionState, Error> {
    let topic = log.topic(&changelog_topic(name))?;
    let changelog = log.partition(&topic, partition)?;
    let live = folder.join(pipeline.to_string()).join(partition.to_string()).join("live");
    let opened = open_store(&live, cache);
    let state = match opened {
        Ok(state) if state.applied().offset <= changelog.high_watermark() => state,
        // Under a durability other than fsync a power cut may take events that the store has seen.
        Ok(_) => made_anew(&live, cache, "it is ahead of its changelog")?,
        Err(error) => made_anew(&live, cache, &error.to_string())?,
    };
    apply(log, &changelog, state)
}

fn open_store(live: &Path, cache: &StoreCache) -> Result<PartitionState, sluice_state::Error> {
    PartitionState::open(Arc::new(LsmStore::open(live, cache)?))
}

fn made_anew(live: &Path, cache: &StoreCache, reason: &str) -> Result<PartitionState, Error> {
    tracing::warn!(store = %live.display(), reason, "a state is made anew from its changelog");
    let cannot = |error: std::io::Error| Error::Invalid(format!("cannot remove {}: {error}", live.display()));
    match std::fs::remove_dir_all(live) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    open_store(live, cache).map_err(|error| refused(&error))
}

/// Applies all of a changelog that a state does not have.
fn apply(
    log: &Log,
    changelog: &Arc<sluice_log::Partition>,
    mut state: PartitionState,
) -> Result<PartitionState, Error> {
    let from = state.applied().offset;
    if from < changelog.low_mark() {
        let low = changelog.low_mark();
        let what =
            format!("a state is at offset {from} of its changelog, which begins at {low}: it cannot be made anew");
        return Err(Error::Invalid(what));
    }
    let mut reader = log.reader(changelog.clone(), from);
    let mut read = ReadBatch::default();
    loop {
        reader.read(u32::MAX, READ_BYTES, &mut read)?;
        if read.count == 0 {
            return Ok(state);
        }
        for (offset, event) in (read.base_offset..).zip(read.region().events()) {
            let malformed = |what: &dyn std::fmt::Display| Error::Invalid(format!("changelog offset {offset}: {what}"));
            let event = event.map_err(|error| malformed(&error))?;
            let delta = Delta::decode(event.value()).map_err(|error| malformed(&error))?;
            state.apply(offset, delta).map_err(|error| refused(&error))?;
        }
        if state.unflushed_bytes() >= FLUSH_BYTES
            && let Some(flush) = state.start_flush()
        {
            let result = flush.run();
            state.flushed(&flush, result.clone());
            result.map_err(|error| refused(&error))?;
        }
    }
}

fn refused(error: &sluice_state::Error) -> Error {
    Error::Invalid(error.to_string())
}

/// The thread that writes to stores what is committed.
struct Writer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Job {
    state: SharedState,
    flush: Flush,
    done: Arc<dyn Fn() + Send + Sync>,
}

impl Writer {
    fn start() -> std::io::Result<Self> {
        // Bounded by the number of partitions: each has one flush under way at most.
        let (jobs, waiting) = channel::<Job>();
        let thread = sluice_env::spawn("sluice-state", move || {
            for Job { state, flush, done } in waiting {
                let result = flush.run();
                if let Err(error) = &result {
                    tracing::error!(%error, "a state cannot be kept");
                }
                state.lock().flushed(&flush, result);
                done();
            }
        })?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }
}

impl Flusher for Writer {
    fn flush(&self, state: SharedState, flush: Flush, done: Arc<dyn Fn() + Send + Sync>) {
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.send(Job { state, flush, done });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A job that is told of may hold the last reference.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// What is asked of a pipeline's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Query {
    /// Of this stage only.
    pub stage: Option<String>,
    /// What keys begin with, or the whole key.
    pub key: Vec<u8>,
    /// Only this very key.
    pub whole: bool,
    /// Entries, at most.
    pub max: usize,
}

/// One value of a pipeline's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The source partition.
    pub partition: u32,
    /// The stage.
    pub stage: String,
    /// The stage's own key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// When it expires, ms since the epoch.
    pub expires: Option<i64>,
}

/// What a pipeline's state came to, each partition as of one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Looks into a pipeline's state; `running` knows those that lanes have.
pub(crate) fn look(
    log: &Log,
    folder: &Path,
    running: impl Fn(u32, u32) -> Option<SharedState>,
    pipeline: &str,
    query: &Query,
) -> Result<Found, Error> {
    let info = log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
    let keeps_none = |_| Error::Invalid(format!("pipeline {pipeline} keeps no state"));
    let topic = log.topic(&changelog_topic(pipeline)).map_err(keeps_none)?;
    let cache = StoreCache::default();
    let (mut found, mut bytes) = (Found::default(), 0);
    for partition in 0..topic.partitions {
        let end = log.partition(&topic, partition)?.high_watermark();
        let shared = match running(info.id, partition) {
            Some(shared) => shared,
            None => SharedState::new(open(log, folder, &cache, (info.id, pipeline), partition)?),
        };
        let state = shared.lock_at(end, PATIENCE);
        let stages =
            state.applied().usage.keys().filter(|stage| query.stage.as_ref().is_none_or(|only| only == *stage));
        for stage in stages {
            let prefix = full_key(&prefix_of(stage), &query.key);
            let scanned = state.scan(&prefix, &prefix, false, &mut |full, slot| {
                let Some((_, key)) = stage_and_key(full) else { return true };
                let (key, value) = (key.to_vec(), slot.value.as_deref().unwrap_or_default().to_vec());
                bytes += key.len() + value.len();
                if query.whole && key != query.key {
                    return false;
                }
                found.more = found.entries.len() >= query.max || bytes > MOST_BYTES;
                if !found.more {
                    found.entries.push(Entry { partition, stage: stage.clone(), key, value, expires: slot.expires });
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
pub fn look_in(log: &Log, data: &Path, pipeline: &str, query: &Query) -> Result<Found, Error> {
    look(log, &data.join("state"), |_, _| None, pipeline, query)
}
