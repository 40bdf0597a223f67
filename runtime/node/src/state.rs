//! The state of pipelines: where it is kept, how it comes up, and who asks for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_engine::{Flusher, Reopen, StateConfig, TimePolicy};
use sluice_event::{Batch, NewEvent};
use sluice_log::{Append, Error, Log, Partition, PipelineInfo, ReadBatch, TopicInfo, TopicPartition};
use sluice_state::{
    Applied, Change, Delta, FLUSH_BYTES, Flush, Head, Line, LsmStore, PartitionState, Record, SharedState, StoreCache,
    Turn, ended, full_key, missing, prefix_of, stage_and_key,
};

use crate::checkpoint;

/// Bytes of a changelog read at once.
const READ_BYTES: usize = 1 << 20;

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

fn files_size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => files_size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Where the state of a partition is kept.
struct Place {
    live: PathBuf,
    id: u32,
    cache: StoreCache,
    pipeline: String,
    partition: u32,
}

impl Place {
    fn of(data: &Path, cache: &StoreCache, (id, name): (u32, &str), partition: u32) -> Self {
        let live = pipeline_folder(data, id).join(partition.to_string()).join("live");
        Self { live, id, cache: cache.clone(), pipeline: name.to_owned(), partition }
    }

    /// Opens the store and applies what the changelog has beyond it.
    fn open(&self, log: &Log) -> Result<PartitionState, Error> {
        let topic = log.topic(&changelog_topic(&self.pipeline))?;
        let changelog = Changelog { log, partition: log.partition(&topic, self.partition)? };
        let end = changelog.partition.high_watermark();
        let low = changelog.partition.low_mark();
        let (mut state, lost) = match self.open_store() {
            Ok(state) if (low..=end).contains(&state.applied().offset) => (state, false),
            Ok(state) if state.applied().offset < low => (state, true),
            // Under a durability other than fsync a power cut may take events that the store has seen.
            Ok(_) => (self.made_anew("it is ahead of its changelog")?, true),
            Err(error) => (self.made_anew(&error.to_string())?, true),
        };
        let mut from = if lost { low } else { state.applied().offset };
        let turn = changelog.last_turn(from, end)?;
        let wanted = match (&turn, lost) {
            (Some((_, turn)), _) => Some(turn.line.clone()),
            // Without its store nothing says what made the state: what the newest snapshot has, and all that came since.
            (None, true) => Some(self.newest_line(log.root(), end)?),
            (None, false) => None,
        };
        if let Some(line) = wanted {
            let missing = match state.applied().missing(&line) {
                Some(missing) if missing.iter().all(|(from, _)| *from >= low) => missing,
                _ => {
                    drop(state);
                    state = self.made_from_snapshot(log.root(), &line, low)?;
                    match state.applied().missing(&line) {
                        Some(missing) => missing,
                        None => {
                            drop(state);
                            state = self.made_anew("a snapshot is not what its checkpoint says")?;
                            line.clone()
                        }
                    }
                }
            };
            for (from, to) in missing {
                state.go_on_at(from);
                changelog.apply(&mut state, from, to)?;
            }
            from = state.applied().offset;
        }
        if let Some((at, turn)) = turn {
            state.turn(at, turn);
            from = at + 1;
        }
        changelog.apply(&mut state, from, end)?;
        Ok(state)
    }

    /// The state that a line made, in a place of its own.
    fn open_at(&self, log: &Log, line: &Line) -> Result<PartitionState, Error> {
        let topic = log.topic(&changelog_topic(&self.pipeline))?;
        let changelog = Changelog { log, partition: log.partition(&topic, self.partition)? };
        let mut state = self.made_from_snapshot(log.root(), line, changelog.partition.low_mark())?;
        let missing = state.applied().missing(line);
        let missing = missing.ok_or_else(|| Error::Invalid("a snapshot is not what its checkpoint says".to_owned()))?;
        for (from, to) in missing {
            state.go_on_at(from);
            changelog.apply(&mut state, from, to)?;
        }
        Ok(state)
    }

    /// A state that is on its way to a line: that of the snapshot which is nearest, or nothing.
    fn made_from_snapshot(&self, data: &Path, line: &Line, low: u64) -> Result<PartitionState, Error> {
        let covers = |snapshot: &Line| snapshot.iter().map(|(from, to)| to - from).sum::<u64>();
        let checkpoints = checkpoint::list(data)?;
        let on_the_way = checkpoint::kept(&checkpoints, self.id, self.partition)
            .filter(|(_, kept)| missing(&kept.snapshot, line).is_some())
            .map(|(name, kept)| (covers(&kept.snapshot), snapshot_folder(data, self.id, self.partition, name)));
        let nearest = on_the_way.filter(|(_, folder)| folder.exists()).max_by_key(|(covered, _)| *covered);
        let Some((_, folder)) = nearest else {
            if line.first().is_some_and(|(from, _)| *from < low) {
                // What there is stays as it is, for somebody to look at.
                let what = format!("the changelog begins at {low}, and no checkpoint has what was before");
                return Err(Error::Invalid(format!("{what}: the state cannot be made anew")));
            }
            return self.made_anew("the pipeline was rewound");
        };
        tracing::info!(store = %self.live.display(), snapshot = %folder.display(), "a state is made from a snapshot");
        checkpoint::remove(&self.live)?;
        LsmStore::copy(&folder, &self.live).map_err(|error| refused(&error))?;
        self.open_store().map_err(|error| refused(&error))
    }

    /// What made the state, by the newest checkpoint, if nothing was rewound since.
    fn newest_line(&self, data: &Path, end: u64) -> Result<Line, Error> {
        let checkpoints = checkpoint::list(data)?;
        let newest = checkpoint::kept(&checkpoints, self.id, self.partition).next_back();
        let line = newest.map(|(_, kept)| kept.line.clone()).filter(|line| !line.is_empty());
        Ok(ended(line.unwrap_or_else(|| vec![(0, 0)]), end))
    }

    fn open_store(&self) -> Result<PartitionState, sluice_state::Error> {
        PartitionState::open(Arc::new(LsmStore::open(&self.live, &self.cache)?))
    }

    fn made_anew(&self, reason: &str) -> Result<PartitionState, Error> {
        tracing::info!(store = %self.live.display(), reason, "a state is made anew from its changelog");
        checkpoint::remove(&self.live)?;
        self.open_store().map_err(|error| refused(&error))
    }
}

/// Is handed a record of a changelog, with its offset.
type Visit<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), Error>;

/// A partition of a changelog, to be read.
struct Changelog<'a> {
    log: &'a Log,
    partition: Arc<Partition>,
}

impl Changelog<'_> {
    /// Hands the records of a stretch to `visit`, each with its offset.
    fn read(&self, from: u64, to: u64, visit: Visit<'_>) -> Result<(), Error> {
        let low = self.partition.low_mark();
        if from < low && from < to {
            let what =
                format!("the changelog is asked for offset {from}, and begins at {low}: the state cannot be made anew");
            return Err(Error::Invalid(what));
        }
        let mut reader = self.log.reader(self.partition.clone(), from);
        let mut read = ReadBatch::default();
        let mut next = from;
        while next < to {
            reader.read(u32::try_from(to - next).unwrap_or(u32::MAX), READ_BYTES, &mut read)?;
            if read.count == 0 || read.base_offset != next {
                return Err(Error::Invalid(format!(
                    "offset {next} of the changelog is gone: the state cannot be made anew"
                )));
            }
            for (offset, event) in (next..).zip(read.region().events()) {
                visit(offset, event.map_err(|error| malformed(offset, &error))?.value())?;
            }
            next += u64::from(read.count);
        }
        Ok(())
    }

    /// The last turn of a stretch.
    fn last_turn(&self, from: u64, to: u64) -> Result<Option<(u64, Turn)>, Error> {
        let mut last = None;
        self.read(from, to, &mut |offset, bytes| {
            if Record::is_turn(bytes)
                && let Record::Turn(turn) = Record::decode(bytes).map_err(|error| malformed(offset, &error))?
            {
                last = Some((offset, turn));
            }
            Ok(())
        })?;
        Ok(last)
    }

    /// Applies a stretch, in which there is no turn.
    fn apply(&self, state: &mut PartitionState, from: u64, to: u64) -> Result<(), Error> {
        self.read(from, to, &mut |offset, bytes| {
            let delta = Delta::decode(bytes).map_err(|error| malformed(offset, &error))?;
            state.apply(offset, &delta).map_err(|error| refused(&error))?;
            if state.unflushed_bytes() >= FLUSH_BYTES
                && let Some(flush) = state.start_flush()
            {
                let result = flush.run();
                state.flushed(&flush, result.clone());
                result.map_err(|error| refused(&error))?;
            }
            Ok(())
        })
    }

    /// How the cursor moved in the commit at an offset.
    fn head(&self, offset: u64) -> Result<Head, Error> {
        let mut head = Head::default();
        self.read(offset, offset + 1, &mut |offset, bytes| {
            head = Delta::head(bytes).map_err(|error| malformed(offset, &error))?;
            Ok(())
        })?;
        Ok(head)
    }
}

fn malformed(offset: u64, what: &dyn std::fmt::Display) -> Error {
    Error::Invalid(format!("changelog offset {offset}: {what}"))
}

/// What becomes of the state when a cursor is set anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateChoice {
    /// It is what it was there.
    #[default]
    Restore,
    /// It is empty.
    Reset,
}

/// How a partition's cursor and state go back.
pub(crate) struct Back {
    /// Where the cursor goes: at the end of a commit.
    pub(crate) cursor: u64,
    /// What is appended to the changelog.
    pub(crate) append: Append,
}

/// Where rewinds find the state of a pipeline's partitions.
pub(crate) struct Past<'a> {
    log: &'a Log,
    pipeline: &'a PipelineInfo,
    changelog: TopicInfo,
    applied: Box<dyn Fn(u32) -> Result<Applied, Error> + 'a>,
}

impl<'a> Past<'a> {
    /// Of a pipeline that keeps state; `None` for others. `shared` brings up states.
    pub(crate) fn of(
        log: &'a Log,
        shared: impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error> + 'a,
        pipeline: &'a PipelineInfo,
    ) -> Option<Self> {
        let changelog = log.topic(&changelog_topic(&pipeline.name)).ok()?;
        let applied = move |partition| Ok(shared(pipeline, partition)?.lock().applied().clone());
        Some(Self { log, pipeline, changelog, applied: Box::new(applied) })
    }

    fn changelog(&self, partition: u32) -> Result<Changelog<'a>, Error> {
        Ok(Changelog { log: self.log, partition: self.log.partition(&self.changelog, partition)? })
    }

    /// Where a partition's state stands by its changelog, whatever its lane has taken in of that.
    fn stands(&self, partition: u32) -> Result<Stands, Error> {
        let changelog = self.changelog(partition)?;
        let (applied, end) = ((self.applied)(partition)?, changelog.partition.high_watermark());
        let mut stands = Stands {
            end,
            open: applied.open_line(),
            quiet_until: applied.quiet_until,
            before: applied.before.clone(),
            origin: applied.origin,
        };
        if let Some((at, turn)) = changelog.last_turn(applied.offset, end)? {
            let before = ended(turn.before, at);
            stands.open = turn.line.into_iter().chain([(at + 1, 0)]).collect();
            (stands.quiet_until, stands.before) = (turn.quiet_until, Some((before, turn.quiet_before)));
        }
        Ok(stands)
    }

    /// What made the state when the cursor stood at `cursor`, at the end of a commit.
    pub(crate) fn line_at(&self, partition: u32, cursor: u64) -> Result<Line, Error> {
        Ok(line_up_to(&self.changelog(partition)?, &self.stands(partition)?.line(), cursor)?.0)
    }

    /// The state at an offset or, where that is within a commit, at the last commit before, to be used aside; `use_` tells several apart.
    pub(crate) fn side(&self, partition: u32, offset: u64, use_: &str) -> Result<Side, Error> {
        let stands = self.stands(partition)?;
        let (line, cursor) = match stands.origin {
            Some(origin) if offset > origin => line_up_to(&self.changelog(partition)?, &stands.line(), offset)?,
            // Before its beginning there was none.
            _ => (Line::new(), offset),
        };
        self.check(partition, &line)?;
        let (id, name) = (self.pipeline.id, &*self.pipeline.name);
        let mut place = Place::of(self.log.root(), &StoreCache::default(), (id, name), partition);
        // Should the process die, the next start finds that no checkpoint has this name.
        place.live.set_file_name(format!("at-~{use_}-{}", NEXT_SIDE.fetch_add(1, Ordering::Relaxed)));
        let mut state = place.open_at(self.log, &line)?;
        if cursor < offset {
            state.quiet_until(offset);
        }
        Ok(Side { state: SharedState::new(state), cursor, folder: place.live })
    }

    /// How a partition goes to where a checkpoint has it.
    pub(crate) fn restore(&self, tp: TopicPartition, cursors: (u64, u64), line: &Line) -> Result<Back, Error> {
        self.turn(tp, cursors, self.stands(tp.partition)?, line.clone(), None)
    }

    /// How a partition goes to where its cursor is at `to` or, where that is within a commit, to the last commit before: the events
    /// between are dealt with again. Ahead of its cursor its state stays as it is.
    pub(crate) fn go(&self, tp: TopicPartition, (cursor, to): (u64, u64), choice: StateChoice) -> Result<Back, Error> {
        let stands = self.stands(tp.partition)?;
        let (line, boundary) = match choice {
            StateChoice::Reset => (Line::new(), to),
            StateChoice::Restore if to >= cursor => {
                let quiet_until = stands.quiet_until.filter(|quiet| *quiet > to);
                let line = stands.line();
                return self.turn(tp, (cursor, to), stands, line, quiet_until);
            }
            // Before its beginning there was none.
            StateChoice::Restore if stands.origin.is_some_and(|origin| to <= origin) => (Line::new(), to),
            StateChoice::Restore => line_up_to(&self.changelog(tp.partition)?, &stands.line(), to)?,
        };
        self.turn(tp, (cursor, boundary), stands, line, (boundary < to).then_some(to))
    }

    /// How a partition goes to where it was before it was last rewound.
    pub(crate) fn undo(&self, tp: TopicPartition, cursors: (u64, u64)) -> Result<Back, Error> {
        let stands = self.stands(tp.partition)?;
        let Some((line, quiet_until)) = stands.before.clone() else {
            return Err(Error::Invalid("its state was never rewound: there is nothing to undo".to_owned()));
        };
        self.turn(tp, cursors, stands, line, quiet_until)
    }

    fn turn(
        &self,
        tp: TopicPartition,
        (from, to): (u64, u64),
        stands: Stands,
        line: Line,
        quiet_until: Option<u64>,
    ) -> Result<Back, Error> {
        self.check(tp.partition, &line)?;
        let TopicPartition { topic, partition } = tp;
        let head = Head { topic, partition, from, to, epoch: self.pipeline.epoch + 1, ..Head::default() };
        let turn = Turn { head, line, quiet_until, before: stands.open, quiet_before: stands.quiet_until };
        let mut batch = Batch::default();
        let bytes = turn.encode();
        let pushed = batch.push(&NewEvent { value: &bytes, ..NewEvent::default() });
        pushed.map_err(|error| Error::Invalid(error.to_string()))?;
        // What is committed meanwhile fences it: it was planned on what stood before.
        let append = Append::new(TopicPartition { topic: self.changelog.id, partition }, batch).at(stands.end);
        Ok(Back { cursor: to, append })
    }

    /// That the state which a line makes can be made: from the live store, a snapshot or nothing, and what is left of the changelog.
    fn check(&self, partition: u32, line: &Line) -> Result<(), Error> {
        let low = self.changelog(partition)?.partition.low_mark();
        let can = |mine: &Line| missing(mine, line).is_some_and(|rest| rest.iter().all(|(from, _)| *from >= low));
        if low == 0 || can(&Line::new()) {
            return Ok(());
        }
        let checkpoints = checkpoint::list(self.log.root())?;
        let mut kept = checkpoint::kept(&checkpoints, self.pipeline.id, partition).peekable();
        let oldest = kept.peek().map_or_else(String::new, |(name, _)| format!(" the oldest is checkpoint:{name},"));
        if kept.any(|(_, kept)| can(&kept.snapshot)) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "the state there cannot be made any more: go back to a checkpoint,{oldest} or begin with an empty state (--state reset)"
        )))
    }
}

/// Tells the folders of states that are used aside apart. Of earlier processes none are left.
static NEXT_SIDE: AtomicU64 = AtomicU64::new(0);

/// A state as it was at some place, to be used aside. It goes when it is dropped.
pub(crate) struct Side {
    pub(crate) state: SharedState,
    /// Where the cursor stood: at the offset that was asked for, or before.
    pub(crate) cursor: u64,
    folder: PathBuf,
}

impl Side {
    /// Outputs of timers that had fired before the event at the cursor.
    pub(crate) fn fired_outputs(&self) -> u32 {
        self.state.lock().applied().fired_outputs
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.state.close();
        if let Err(error) = checkpoint::remove(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot remove");
        }
    }
}

/// Visits all values and timers of a state.
pub(crate) fn each(state: &PartitionState, visit: &mut dyn FnMut(Change<'_>)) -> Result<(), Error> {
    state.each(visit).map_err(|error| refused(&error))
}

/// Where a partition's state stands.
struct Stands {
    /// The end of the changelog.
    end: u64,
    /// The stretches that made it; the last one ends there.
    open: Line,
    quiet_until: Option<u64>,
    /// What made it before it was last rewound, and what `quiet_until` was then.
    before: Option<(Line, Option<u64>)>,
    origin: Option<u64>,
}

impl Stands {
    fn line(&self) -> Line {
        ended(self.open.clone(), self.end)
    }
}

/// The part of a line that leads up to a cursor, and the cursor that it ends at: at `to`, or before.
fn line_up_to(changelog: &Changelog<'_>, line: &Line, to: u64) -> Result<(Line, u64), Error> {
    let total: u64 = line.iter().map(|(from, to)| to - from).sum();
    let offset = |index: u64| {
        let mut index = index;
        for (from, to) in line {
            if index < to - from {
                return from + index;
            }
            index -= to - from;
        }
        u64::MAX
    };
    // Of the oldest part of the changelog nothing may be left.
    let left = changelog.partition.low_mark();
    let gone: u64 = line.iter().map(|(from, to)| (*to).min(left).saturating_sub(*from)).sum();
    // Cursors only grow along a line.
    let (mut low, mut high) = (gone, total);
    while low < high {
        let middle = low.midpoint(high);
        if changelog.head(offset(middle))?.to <= to { low = middle + 1 } else { high = middle }
    }
    if low == gone && gone > 0 {
        let earliest = if gone < total { changelog.head(offset(gone))?.to } else { u64::MAX };
        let what = format!(
            "the state at offset {to} cannot be made any more: the earliest possible target is offset {earliest}"
        );
        return Err(Error::Invalid(format!("{what}, or a checkpoint; --state reset begins with an empty state")));
    }
    let boundary = match low.checked_sub(1) {
        Some(last) => changelog.head(offset(last))?.to,
        // The first commit begins where the pipeline began: before that there is no state.
        None if total > 0 => changelog.head(offset(0))?.from.min(to),
        None => to,
    };
    let mut left = low;
    let mut up_to = Line::new();
    for (from, to) in line {
        let taken = left.min(to - from);
        up_to.extend((taken > 0).then_some((*from, from + taken)));
        left -= taken;
    }
    Ok((up_to, boundary))
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
}

impl Writer {
    fn start() -> std::io::Result<Self> {
        // Bounded by the number of partitions: each has one flush under way at most.
        let (jobs, waiting) = channel::<Job>();
        let thread = sluice_env::spawn("sluice-state", move || {
            for Job { state, flush } in waiting {
                if let Err(error) = state.run(&flush) {
                    tracing::error!(%error, "a state cannot be kept");
                }
            }
        })?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }
}

impl Flusher for Writer {
    fn flush(&self, state: SharedState, flush: Flush) {
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.send(Job { state, flush });
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

/// Looks into a pipeline's state; `shared` brings up states.
fn look(
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
        let stages =
            state.applied().usage.keys().filter(|stage| query.stage.as_ref().is_none_or(|only| only == *stage));
        for stage in stages {
            let prefix = full_key(&prefix_of(stage), &query.key);
            let scanned = state.scan(&prefix, &prefix, false, &mut |Change { key: full, value, expires }| {
                let Some((_, key)) = stage_and_key(full) else { return true };
                let (key, value) = (key.to_vec(), value.unwrap_or_default().to_vec());
                bytes += key.len() + value.len();
                if query.whole && key != query.key {
                    return false;
                }
                found.more = found.entries.len() >= query.max || bytes > MOST_BYTES;
                if !found.more {
                    found.entries.push(Entry { partition, stage: stage.clone(), key, value, expires });
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
