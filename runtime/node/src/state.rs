//! The state of pipelines: where it is kept, how it comes up, and who asks for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sluice_config::{Pipeline, changelog_topic};
use sluice_engine::{Flusher, StateConfig};
use sluice_log::{Error, Log, ReadBatch, TopicPartition};
use sluice_state::{Delta, Flush, LsmStore, PartitionState, SharedState, StoreCache};

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
    pub(crate) fn running(&self, pipeline: u32, partition: u32) -> Option<SharedState> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&(pipeline, partition)).cloned()
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
fn apply(log: &Log, changelog: &Arc<sluice_log::Partition>, mut state: PartitionState) -> Result<PartitionState, Error> {
    let from = state.applied().offset;
    if from < changelog.low_mark() {
        let low = changelog.low_mark();
        let what = format!("a state is at offset {from} of its changelog, which begins at {low}: it cannot be made anew");
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

/// A pipeline's stages that keep state.
pub(crate) fn stages(pipeline: &Pipeline) -> impl Iterator<Item = &str> {
    pipeline.stages.iter().filter(|stage| stage.state).map(|stage| stage.name.as_str())
}
