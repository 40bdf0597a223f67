//! Snapshots, beside committing.
//!
//! Where a snapshot is due, the committing thread begins a new part of the commit log and goes on in that. What the snapshot promises is done aside: the segments are
//! synced, and it is written. **Until it is there, a start needs the part before**, which stays until then, and holds whatever is not sure in the segments.
//! **A part is begun only when all before it is durable**: groups that are synced in the segments, or carried by the part itself. Under `os` that may be a lot, for
//! which everybody would wait: so most of it is synced aside before.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_env::{Disk, Open, Wait};

use crate::commit_log::CommitLog;
use crate::committer::Committer;
use crate::error::Error;
use crate::options::Planted;
use crate::snapshot::{KEPT, Snapshot};
use crate::upkeep::Upkeep;

/// Where no more than this part of [`unsynced_bytes`](crate::options::Options::unsynced_bytes) is not synced, it can be waited for.
const LITTLE: u64 = 16;
/// Milliseconds until a snapshot is tried again that failed for lack of space.
const RETRY_MS: i64 = 10_000;

/// Why a snapshot was not written.
#[derive(Debug, Clone)]
enum Failed {
    /// What was written before may be lost.
    Sync(Error),
    /// It alone: perhaps there is no space.
    Write(Error),
}

impl Failed {
    fn died() -> Self {
        Self::Sync(Error::Invalid("the thread that wrote a snapshot died; this is a bug".into()))
    }
}

type Outcome = Mutex<Option<Result<(), Failed>>>;

/// Something that is done aside.
struct Task {
    outcome: Arc<Outcome>,
    wait: Wait,
}

impl Task {
    fn begin(disk: &dyn Disk, work: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Self {
        let outcome = Arc::new(Mutex::new(None));
        let tell = Tell(outcome.clone());
        let wait = disk.aside("sluice-snapshot", Box::new(move || tell.tell(work())));
        Self { outcome, wait }
    }

    /// What became of it, if that is known.
    fn outcome(&self) -> Option<Result<(), Failed>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for it.
    fn end(self) -> Result<(), Failed> {
        (self.wait)();
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or_else(|| Err(Failed::died()))
    }
}

/// Where it is told what became of a task, whatever happens to the thread that does it.
struct Tell(Arc<Outcome>);

impl Tell {
    fn tell(&self, result: Result<(), Failed>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(result);
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        self.tell(Err(Failed::died()));
    }
}

/// A sync of segments aside before a snapshot is begun. It promises nothing: the snapshot syncs them again.
pub(crate) struct Ahead {
    /// How much was not synced when it began.
    unsynced_bytes: u64,
    /// So many were before it, for the same snapshot.
    rounds: u32,
    task: Task,
}

/// A snapshot that is on its way.
pub(crate) struct UnderWay {
    group: u64,
    /// What is to be written when all is synced; `None` when it is being written.
    to_write: Option<Snapshot>,
    task: Task,
}

/// Syncs segments, but for those that were removed meanwhile.
fn sync_segments(disk: &dyn Disk, segments: &[PathBuf]) -> Result<(), Failed> {
    // One by one: nobody waits for them, and those who sync meanwhile wait for each. A file is opened here, for a failure that is told to one who
    // has opened it is told to the others, too.
    segments.iter().try_for_each(|path| match disk.open(path, Open::Write).and_then(|file| file.sync()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(|error| Failed::Sync(Error::io("sync", path, error))),
    })
}

impl Committer {
    pub(super) fn snapshot_if_due(&mut self, now: i64) {
        let age = now.saturating_sub(self.upkeep.snapshot_time);
        let due = self.commit_log.position >= self.options.snapshot_bytes
            || self.unsynced_bytes >= self.options.unsynced_bytes
            || age >= self.options.snapshot_age_ms;
        let news = self.group > self.upkeep.snapshot_group;
        let may_begin = self.upkeep.snapshot.is_none() && now >= self.upkeep.snapshot_not_before;
        if due && news && may_begin && self.is_mostly_synced() {
            self.try_snapshot(now);
        }
    }

    /// Whether little is left to be synced before a part of the commit log can be begun. If not, it is done aside, again and again: each time for what was written during
    /// the last, which is less each time, unless more is written than the disk takes.
    fn is_mostly_synced(&mut self) -> bool {
        const MOST_ROUNDS: u32 = 4;
        if self.durable_through == self.group {
            return true;
        }
        let (mut left, mut rounds) = (self.unsynced_bytes, 0);
        if let Some(ahead) = self.upkeep.ahead.take() {
            match ahead.task.outcome() {
                None => {
                    self.upkeep.ahead = Some(ahead);
                    return false;
                }
                Some(Ok(())) => {}
                Some(Err(failed)) => {
                    self.not_written(failed);
                    return false;
                }
            }
            (left, rounds) = (left - ahead.unsynced_bytes, ahead.rounds + 1);
        }
        if left <= self.options.unsynced_bytes / LITTLE || rounds == MOST_ROUNDS {
            return true;
        }
        let (disk, segments) = (self.disk.clone(), self.segments_to_sync());
        let task = Task::begin(&*self.disk, move || sync_segments(&*disk, &segments));
        self.upkeep.ahead = Some(Ahead { unsynced_bytes: self.unsynced_bytes, rounds, task });
        false
    }

    /// Waits for what is done before one.
    pub(super) fn end_ahead(&mut self) -> Result<(), Error> {
        let Some(ahead) = self.upkeep.ahead.take() else { return Ok(()) };
        ahead.task.end().map_err(|failed| match failed {
            Failed::Write(error) | Failed::Sync(error) => self.poison(&error),
        })
    }

    fn segments_to_sync(&self) -> Vec<PathBuf> {
        self.unsynced.keys().map(|(tp, base_offset)| self.dir.segment(*tp, *base_offset)).collect()
    }

    /// Begins one, unless one is under way.
    pub(super) fn try_snapshot(&mut self, now: i64) {
        if self.upkeep.snapshot.is_some() {
            return;
        }
        self.upkeep.snapshot_time = now;
        match self.begin_snapshot(now) {
            Ok(under_way) => self.upkeep.snapshot = Some(under_way),
            Err(error) => self.not_written(Failed::Write(error)),
        }
        self.look_after_snapshot();
    }

    /// Goes on with one that is under way, as far as it can without waiting.
    pub(super) fn look_after_snapshot(&mut self) {
        let is_done = |under_way: &mut UnderWay| under_way.task.outcome().is_some();
        while let Some(under_way) = self.upkeep.snapshot.take_if(is_done) {
            self.advance_snapshot(under_way);
        }
    }

    /// Waits for one that is under way, or for what is done before it.
    pub(super) fn await_snapshot(&mut self) {
        // A failure has poisoned the log.
        let _ = self.end_ahead();
        while let Some(under_way) = self.upkeep.snapshot.take() {
            self.advance_snapshot(under_way);
        }
    }

    fn advance_snapshot(&mut self, under_way: UnderWay) {
        match self.advance(under_way) {
            Ok(next) => self.upkeep.snapshot = next,
            Err(failed) => self.not_written(failed),
        }
    }

    /// Why what was written may be lost, if that has turned out aside.
    pub(crate) fn failure_aside(&self) -> Option<Error> {
        let Upkeep { ahead, snapshot, .. } = &self.upkeep;
        let mut tasks = ahead.iter().map(|ahead| &ahead.task).chain(snapshot.iter().map(|snapshot| &snapshot.task));
        tasks.find_map(|task| match task.outcome()? {
            Err(Failed::Sync(error)) => Some(error),
            _ => None,
        })
    }

    /// Writes one, and waits for it; for one that is under way, first.
    pub(crate) fn snapshot(&mut self, now: i64) -> Result<(), Error> {
        self.await_snapshot();
        if let Some(reason) = &self.poisoned {
            return Err(Error::Poisoned(reason.clone()));
        }
        let mut next = Some(self.begin_snapshot(now)?);
        while let Some(under_way) = next {
            next = self.advance(under_way).map_err(|failed| match failed {
                Failed::Write(error) => error,
                Failed::Sync(error) => self.poison(&error),
            })?;
        }
        Ok(())
    }

    /// Begins a new part of the commit log, and has what was written before it synced.
    fn begin_snapshot(&mut self, now: i64) -> Result<UnderWay, Error> {
        if self.durable_through < self.group {
            self.sync_all()?;
        }
        // The new part first: a snapshot promises that what follows it can be found. It may be there, and empty, from an attempt
        // that found no space for the snapshot.
        if self.commit_log.first != self.group + 1 {
            let salt = self.rng.next_u64() as u32;
            self.commit_log =
                CommitLog::create(&*self.disk, &self.dir, self.directory, self.group + 1, salt, &self.options)?;
        }
        // Names that are not synced concern the groups that follow, too, and there are hardly ever any.
        self.sync_names()?;
        let mut segments = self.segments_to_sync();
        if self.options.has(Planted::SnapshotBeforeSync) {
            segments.clear();
        }
        self.unsynced.clear();
        self.unsynced_bytes = 0;
        let to_write = Snapshot { group: self.group, seq: self.seq, time: now, catalog: self.catalog.clone() };
        let disk = self.disk.clone();
        let task = Task::begin(&*self.disk, move || sync_segments(&*disk, &segments));
        Ok(UnderWay { group: self.group, to_write: Some(to_write), task })
    }

    /// Waits for what is done aside, and goes on with what comes then; `None` in the end.
    ///
    /// It is written only now: had a sync of the committing thread failed meanwhile, one that was made aside after it would not have said so.
    fn advance(&mut self, under_way: UnderWay) -> Result<Option<UnderWay>, Failed> {
        let UnderWay { group, to_write, task } = under_way;
        task.end()?;
        if let Some(reason) = &self.poisoned {
            return Err(Failed::Write(Error::Poisoned(reason.clone())));
        }
        let Some(snapshot) = to_write else { return self.written(group).map(|()| None).map_err(Failed::Write) };
        let (disk, dir, directory, salt) = (self.disk.clone(), self.dir.clone(), self.directory, self.rng.next_u64());
        let write = move || snapshot.write(&*disk, &dir, directory, salt as u32).map_err(Failed::Write);
        let task = Task::begin(&*self.disk, write);
        Ok(Some(UnderWay { group, to_write: None, task }))
    }

    /// One could not be written.
    fn not_written(&mut self, failed: Failed) {
        match failed {
            Failed::Write(Error::Poisoned(_)) => {}
            Failed::Write(error @ Error::NoSpace { .. }) => {
                self.upkeep.snapshot_not_before = self.last_time.saturating_add(RETRY_MS);
                tracing::warn!(%error, "no snapshot was taken; trying again in a while");
            }
            Failed::Write(error) | Failed::Sync(error) => drop(self.poison(&error)),
        }
    }

    /// The snapshot of a group was written.
    fn written(&mut self, group: u64) -> Result<(), Error> {
        self.announced = self.announced.max(group);
        (self.told, self.told_durably) = (self.told.max(group), self.told_durably.max(group));
        self.upkeep.snapshot_group = group;
        self.remove_superfluous()
    }

    /// Removes all but the newest snapshots, and the parts of the commit log before the oldest kept.
    fn remove_superfluous(&mut self) -> Result<(), Error> {
        if self.upkeep.keeps_files() {
            return Ok(());
        }
        let snapshots = Snapshot::list(&*self.disk, &self.dir)?;
        let Some(oldest) = snapshots.len().checked_sub(KEPT).and_then(|at| snapshots.get(at)) else { return Ok(()) };
        let firsts = CommitLog::list(&*self.disk, &self.dir)?;
        // A part ends where the next begins.
        for pair in firsts.windows(2).filter(|pair| pair[1] <= oldest + 1) {
            CommitLog::retire(&*self.disk, &self.dir, pair[0], 2 * self.options.snapshot_bytes)?;
        }
        for group in snapshots.iter().filter(|group| *group < oldest) {
            let path = self.dir.snapshot(*group);
            self.disk.remove_aside(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }
}
