//! Checkpoints: where pipelines stood at one commit, and their state there, to come back to.
//!
//! A checkpoint is a file, `checkpoints/NAME.json`, that says for each pipeline and partition where the cursor stood and which stretches of the
//! changelog made the state. Beside the live stores lie snapshots (`state/PIPELINE-ID/PARTITION/at-NAME`), made just before, from which these
//! states are quickly made again; the changelog has all that comes behind.

mod transfer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_env::{Clock, SystemClock};
use sluice_log::{Error, Log, PipelineInfo, TopicPartition};
use sluice_state::{Line, SharedState};

pub(crate) use self::transfer::{IMPORTED, export, import};
use crate::state::{self, Past};

/// Where pipelines stood at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// When it was made, ms since the epoch.
    pub time: i64,
    /// The commit.
    pub seq: u64,
    /// The pipelines.
    pub pipelines: Vec<Stood>,
}

/// Where a pipeline stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Stood {
    /// Its name.
    pub pipeline: String,
    /// Its id: one of the same name that was made later is another.
    pub id: u32,
    /// Each partition it reads.
    pub partitions: Vec<Part>,
}

/// Where a pipeline stood in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// The source topic.
    pub topic: String,
    /// Its id.
    pub topic_id: u32,
    /// The partition.
    pub partition: u32,
    /// The next offset.
    pub cursor: u64,
    /// Where there is state, what made it. Of several topics, it stands with the first.
    pub state: Option<Kept>,
}

/// What made a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Kept {
    /// Stretches of the changelog.
    pub line: Line,
    /// Those that the snapshot has.
    pub snapshot: Line,
    /// Bytes of the snapshot's files, which it mostly shares with the live store and other checkpoints.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
}

impl Kept {
    /// Whether it came from another data directory, and nothing was added to it here.
    pub(crate) fn is_imported(&self) -> bool {
        self.line.last().is_some_and(|(from, _)| *from >= IMPORTED)
    }
}

fn folder(data: &Path) -> PathBuf {
    data.join("checkpoints")
}

fn file(data: &Path, name: &str) -> PathBuf {
    folder(data).join(name).with_added_extension("json")
}

/// Removes a folder, if it is there.
pub(crate) fn remove(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// What could not be done to a file, as an error.
pub(crate) fn cannot<'a>(what: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Error + 'a {
    move |error| Error::Invalid(format!("cannot {what} {}: {error}", path.display()))
}

fn check_name(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=230).contains(&name.len()) || !name.chars().all(good) || name.starts_with('.') {
        let rule = "use 1 to 230 letters, digits, `-`, `_` and `.`, not beginning with `.`";
        return Err(Error::Invalid(format!("not a name for a checkpoint: {name:?}; {rule}")));
    }
    Ok(())
}

/// Makes a checkpoint of these pipelines, or of all; `shared` brings up states.
pub(crate) fn create(
    log: &Log,
    clock: &dyn Clock,
    shared: impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error>,
    name: &str,
    only: Option<&str>,
) -> Result<Checkpoint, Error> {
    check_name(name)?;
    let data = log.root();
    if file(data, name).exists() {
        return Err(Error::Invalid(format!("there is a checkpoint {name} already: choose another name, or delete it")));
    }
    let is_wanted = |pipeline: &PipelineInfo| only.is_none_or(|only| only == pipeline.name);
    let before = log.pipelines();
    if !before.iter().any(is_wanted) {
        return Err(only.map_or_else(
            || Error::Invalid("no pipeline has run here: there is nothing to keep".to_owned()),
            |only| Error::UnknownPipeline(only.to_owned()),
        ));
    }
    // First the snapshots, a little behind; then the cursors, all as of one commit. What is between stands in the changelog.
    let mut snapshots = BTreeMap::new();
    for pipeline in before.iter().filter(|pipeline| is_wanted(pipeline)) {
        let Ok(changelog) = log.topic(&changelog_topic(&pipeline.name)) else { continue };
        for partition in 0..changelog.partitions {
            let shared = shared(pipeline, partition)?;
            let to = state::snapshot_folder(data, pipeline.id, partition, name);
            snapshots.insert((pipeline.id, partition), state::snapshot(&shared, &to)?);
        }
    }
    let (now, seq) = (clock.now(), log.last_seq());
    let mut checkpoint = Checkpoint { name: name.to_owned(), time: now, seq, pipelines: Vec::new() };
    let topics = log.topics();
    for pipeline in log.pipelines().iter().filter(|pipeline| is_wanted(pipeline)) {
        let past = Past::of(log, &shared, pipeline);
        let mut partitions = Vec::new();
        for (tp, cursor) in &pipeline.cursors {
            let Some(topic) = topics.iter().find(|topic| topic.id == tp.topic) else { continue };
            let kept = match (&past, snapshots.remove(&(pipeline.id, tp.partition))) {
                (Some(past), Some((snapshot, bytes, keys))) => {
                    let of_all = pipeline.cursors.iter().filter(|(other, _)| other.partition == tp.partition);
                    let cursors = of_all.map(|(other, cursor)| (other.topic, cursor.next)).collect();
                    let line = past.line_at(tp.partition, &cursors)?;
                    Some(Kept { line, snapshot, bytes, keys })
                }
                _ => None,
            };
            partitions.push(Part {
                topic: topic.name.clone(),
                topic_id: tp.topic,
                partition: tp.partition,
                cursor: cursor.next,
                state: kept,
            });
        }
        checkpoint.pipelines.push(Stood { pipeline: pipeline.name.clone(), id: pipeline.id, partitions });
    }
    write(data, &checkpoint)?;
    Ok(checkpoint)
}

fn write(data: &Path, checkpoint: &Checkpoint) -> Result<(), Error> {
    let path = file(data, &checkpoint.name);
    let json = serde_json::to_vec_pretty(checkpoint).unwrap_or_default();
    sluice_env::write_whole(&path, &json).map_err(cannot("write", &path))
}

/// Makes a checkpoint of a pipeline, or of all, in a data directory on which no node runs.
///
/// # Errors
/// When there is no such pipeline, one of this name already, or it cannot be written.
pub fn create_in(log: &Log, name: &str, pipeline: Option<&str>) -> Result<Checkpoint, Error> {
    create(log, &SystemClock, |pipeline, partition| state::bring_up(log, pipeline, partition), name, pipeline)
}

/// Writes a checkpoint to a file, in a data directory on which no node runs.
///
/// # Errors
/// When there is none, its state cannot be made any more, or the file is there or cannot be written.
pub fn export_in(log: &Log, name: &str, to: &Path) -> Result<Checkpoint, Error> {
    export(log, |pipeline, partition| state::bring_up(log, pipeline, partition), name, to)
}

/// Takes a checkpoint in from a file, in a data directory on which no node runs.
///
/// # Errors
/// When the file is no whole checkpoint, or what it is of is not here, or not as it was there.
pub fn import_in(log: &Log, from: &Path, name: Option<&str>) -> Result<Checkpoint, Error> {
    import(log, from, name)
}

/// All checkpoints of a data directory, the oldest first.
///
/// # Errors
/// When one cannot be read.
pub fn list(data: &Path) -> Result<Vec<Checkpoint>, Error> {
    let folder = folder(data);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot("read", &folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot("read", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found.push(read(&path)?);
        }
    }
    found.sort_by_key(|checkpoint| (checkpoint.time, checkpoint.seq));
    Ok(found)
}

fn read(path: &Path) -> Result<Checkpoint, Error> {
    let json = std::fs::read(path).map_err(cannot("read", path))?;
    serde_json::from_slice(&json)
        .map_err(|error| Error::Invalid(format!("{} is no checkpoint: {error}; delete the file", path.display())))
}

/// What checkpoints keep of a pipeline's partition, in their order, each with the checkpoint's name.
pub(crate) fn kept(
    checkpoints: &[Checkpoint],
    pipeline: u32,
    partition: u32,
) -> impl DoubleEndedIterator<Item = (&str, &Kept)> {
    checkpoints.iter().filter_map(move |checkpoint| {
        let stood = checkpoint.pipelines.iter().find(|stood| stood.id == pipeline)?;
        Some((checkpoint.name.as_str(), stood.state(partition)?))
    })
}

/// The checkpoint of this name.
///
/// # Errors
/// When there is none.
pub fn find(data: &Path, name: &str) -> Result<Checkpoint, Error> {
    let path = file(data, name);
    let plain = path.file_stem().is_some_and(|stem| stem == name) && !name.starts_with('.');
    if !plain || !path.exists() {
        return Err(Error::Invalid(format!(
            "unknown checkpoint: {name}; `sluice checkpoint list` shows those there are"
        )));
    }
    read(&path)
}

/// Deletes a checkpoint.
///
/// # Errors
/// When there is none, or it cannot be deleted.
pub fn delete(data: &Path, name: &str) -> Result<(), Error> {
    let checkpoint = find(data, name)?;
    // The file first: snapshots that nobody names are no checkpoint.
    let path = file(data, name);
    std::fs::remove_file(&path).map_err(cannot("remove", &path))?;
    for stood in &checkpoint.pipelines {
        for part in stood.partitions.iter().filter(|part| part.state.is_some()) {
            remove(&state::snapshot_folder(data, stood.id, part.partition, name))?;
        }
    }
    Ok(())
}

/// Deletes the checkpoints that are of a pipeline only, which is gone.
///
/// # Errors
/// When one cannot be read or deleted.
pub fn forget(data: &Path, pipeline: u32) -> Result<(), Error> {
    for checkpoint in list(data)? {
        if checkpoint.pipelines.iter().all(|stood| stood.id == pipeline) {
            delete(data, &checkpoint.name)?;
        }
    }
    Ok(())
}

/// Removes snapshots that no checkpoint names: whoever made them did not come to its end.
pub(crate) fn sweep(data: &Path) -> std::io::Result<()> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for partition in entries(&data.join("state")).flat_map(|pipeline| entries(&pipeline).collect::<Vec<_>>()) {
        for folder in entries(&partition) {
            let name = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("at-"));
            if name.is_some_and(|name| !file(data, name).exists()) {
                std::fs::remove_dir_all(&folder)?;
            }
        }
    }
    Ok(())
}

impl Checkpoint {
    /// Where a pipeline stood.
    ///
    /// # Errors
    /// When the checkpoint is not of it.
    pub(crate) fn of(&self, pipeline: &PipelineInfo) -> Result<&Stood, Error> {
        let found = self.pipelines.iter().find(|stood| stood.pipeline == pipeline.name);
        let names: Vec<_> = self.pipelines.iter().map(|stood| stood.pipeline.as_str()).collect();
        match found {
            Some(stood) if stood.id == pipeline.id => Ok(stood),
            Some(_) => Err(Error::Invalid(format!(
                "checkpoint {} is of a pipeline {} that was deleted since: this is another one",
                self.name, pipeline.name
            ))),
            None => Err(Error::Invalid(format!(
                "checkpoint {} is not of pipeline {}, but of {}",
                self.name,
                pipeline.name,
                names.join(", ")
            ))),
        }
    }
}

impl Stood {
    /// Where it stood in one partition.
    pub(crate) fn part(&self, tp: TopicPartition) -> Option<&Part> {
        self.partitions.iter().find(|part| (part.topic_id, part.partition) == (tp.topic, tp.partition))
    }

    /// What made the state of a partition.
    pub(crate) fn state(&self, partition: u32) -> Option<&Kept> {
        self.partitions.iter().filter(|part| part.partition == partition).find_map(|part| part.state.as_ref())
    }
}
