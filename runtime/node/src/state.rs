//! The state of pipelines: where it is kept, how it comes up, how it goes back, and who asks for it.

mod changelog;
mod history;
mod past;
mod place;
mod query;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_config::changelog_topic;
use sluice_engine::{Reopen, StateConfig, TimePolicy};
use sluice_log::{Error, Log, PipelineInfo, TopicPartition};
use sluice_state::{Line, LsmStore, PartitionState, SharedState, StoreCache};

pub(crate) use self::history::{Moment, Written, cursor_of};
pub use self::past::StateChoice;
pub(crate) use self::past::{Past, Side, Step, each, every};
use self::place::Place;
use self::query::look;
pub use self::query::{Entry, Found, Query, look_in};
use self::writer::Writer;
use crate::checkpoint;

/// The stores of a data directory: `state/PIPELINE-ID/PARTITION/live`.
pub(crate) struct States {
    data: PathBuf,
    cache: StoreCache,
    writer: Arc<Writer>,
    /// Those that lanes have, by the pipeline's id and the partition.
    open: Mutex<HashMap<(u32, u32), SharedState>>,
}

impl States {
    /// Of a data directory.
    pub(crate) fn of(data: &Path) -> std::io::Result<Self> {
        checkpoint::sweep(data)?;
        let writer = Arc::new(Writer::start()?);
        Ok(Self { data: data.to_owned(), cache: StoreCache::default(), writer, open: Mutex::default() })
    }

    /// The state of a pipeline's partition for its lane, as far as the changelog goes.
    pub(crate) fn config(
        &self,
        log: &Arc<Log>,
        pipeline: (u32, &str),
        partition: u32,
        time: TimePolicy,
    ) -> Result<StateConfig, Error> {
        let topic = log.topic(&changelog_topic(pipeline.1))?;
        let place = Place::of(&self.data, &self.cache, pipeline, partition);
        let shared = SharedState::new(place.open(log)?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert((pipeline.0, partition), shared.clone());
        let changelog = TopicPartition { topic: topic.id, partition };
        let log = log.clone();
        let reopen: Reopen = Arc::new(move || place.open(&log));
        Ok(StateConfig { shared, changelog, flusher: self.writer.clone(), reopen, time: Arc::new(time) })
    }

    /// The state that a lane has, if one runs.
    pub(crate) fn running(&self, pipeline: u32, partition: u32) -> Option<SharedState> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&(pipeline, partition)).cloned()
    }

    /// Where rewinds of a pipeline find its state.
    pub(crate) fn past<'a>(&'a self, log: &'a Log, pipeline: &'a PipelineInfo) -> Option<Past<'a>> {
        Past::of(log, |pipeline, partition| self.shared(log, pipeline, partition), pipeline)
    }

    /// The state of a partition: its lane's or, where none runs, brought up for the moment.
    pub(crate) fn shared(&self, log: &Log, pipeline: &PipelineInfo, partition: u32) -> Result<SharedState, Error> {
        match self.running(pipeline.id, partition) {
            Some(shared) => Ok(shared),
            None => bring_up(log, pipeline, partition),
        }
    }

    /// Looks into a pipeline's state.
    pub(crate) fn look(&self, log: &Log, pipeline: &str, query: &Query) -> Result<Found, Error> {
        look(log, |pipeline, partition| self.shared(log, pipeline, partition), pipeline, query)
    }

    /// Lets go of a pipeline's states, whose lanes are gone. False while one is in use; it is to be tried again then.
    pub(crate) fn release(&self, pipeline: u32) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(of, _), state| *of != pipeline || !state.close());
        open.keys().all(|(of, _)| *of != pipeline)
    }

    /// Forgets what a pipeline kept.
    pub(crate) fn forget(&self, pipeline: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != pipeline);
        forget_in(&self.data, pipeline);
    }
}

/// Removes the stores of a pipeline that is gone, and its checkpoints, in a data directory.
pub fn forget_in(data: &Path, pipeline: u32) {
    let folder = pipeline_folder(data, pipeline);
    for forgotten in [checkpoint::forget(data, pipeline), checkpoint::remove(&folder)] {
        if let Err(error) = forgotten {
            tracing::warn!(%error, pipeline, "state that nobody needs any more could not be removed");
        }
    }
}

/// Brings up the state of a partition in a data directory on which no lane has it.
pub(crate) fn bring_up(log: &Log, pipeline: &PipelineInfo, partition: u32) -> Result<SharedState, Error> {
    let place = Place::of(log.root(), &StoreCache::default(), (pipeline.id, &pipeline.name), partition);
    Ok(SharedState::new(place.open(log)?))
}

fn pipeline_folder(data: &Path, pipeline: u32) -> PathBuf {
    data.join("state").join(pipeline.to_string())
}

/// Where a checkpoint keeps the snapshot of a partition's store.
pub(crate) fn snapshot_folder(data: &Path, pipeline: u32, partition: u32, name: &str) -> PathBuf {
    pipeline_folder(data, pipeline).join(partition.to_string()).join(format!("at-{name}"))
}

/// Makes a snapshot of a state's store, with all that is committed by now: what made it, its size and keys.
pub(crate) fn snapshot(shared: &SharedState, to: &Path) -> Result<(Line, u64, u64), Error> {
    shared.snapshot(to).map_err(|error| refused(&error))?;
    // The lane may have written more meanwhile: what the snapshot has, it says itself.
    let made = LsmStore::open(to, &StoreCache::default()).and_then(|store| PartitionState::open(Arc::new(store)));
    let applied = made.map_err(|error| refused(&error))?.applied().clone();
    Ok((applied.line(), files_size(to), applied.usage.values().map(|usage| usage.keys).sum()))
}

/// Bytes of a folder's files.
pub(crate) fn files_size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => files_size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

fn refused(error: &sluice_state::Error) -> Error {
    Error::Invalid(error.to_string())
}
