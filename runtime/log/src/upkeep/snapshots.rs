//! Snapshots, beside committing.
//!
//! Where a snapshot is due, the committing thread begins a new part of the commit log and goes on in that. What the snapshot promises is done aside: the segments are
//! synced, and it is written. **Until it is there, a start needs the part before**, which stays until then, and holds whatever is not sure in the segments.
//! **A part is begun only when all before it is durable**: groups that are synced in the segments, or carried by the part itself.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_env::{Disk, Open, Wait};

use crate::commit_log::CommitLog;
use crate::committer::Committer;
use crate::directory::Directory;
use crate::error::Error;
use crate::options::Planted;
use crate::snapshot::{KEPT, Snapshot};

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

/// A snapshot that is being written.
pub(crate) struct UnderWay {
    group: u64,
    outcome: Arc<Outcome>,
    wait: Wait,
}

impl UnderWay {
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

/// Where it is told what became of a snapshot, whatever happens to the thread that writes it.
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

/// What is done aside for one.
struct Work {
    disk: Arc<dyn Disk>,
    dir: Directory,
    directory: u64,
    /// Names and segments with something in them that is not synced.
    names: Vec<PathBuf>,
    segments: Vec<PathBuf>,
    snapshot: Snapshot,
    salt: u32,
}

impl Work {
    fn run(&self) -> Result<(), Failed> {
        let sync = |path: &Path, result: std::io::Result<()>| match result {
            // It was removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| Failed::Sync(Error::io("sync", path, error))),
        };
        self.names.iter().try_for_each(|path| sync(path, self.disk.sync_dir(path)))?;
        // One by one: nobody waits for them, and those who sync meanwhile wait for each. A file is opened here, for a failure that is told to one who
        // has opened it is told to the others, too.
        let opened = |path: &Path| self.disk.open(path, Open::Write)?.sync();
        self.segments.iter().try_for_each(|path| sync(path, opened(path)))?;
        self.snapshot.write(&*self.disk, &self.dir, self.directory, self.salt).map_err(Failed::Write)
    }
}

impl Committer {
    pub(super) fn snapshot_if_due(&mut self, now: i64) {
        let age = now.saturating_sub(self.upkeep.snapshot_time);
        let due = self.commit_log.position >= self.options.snapshot_bytes
            || self.unsynced_bytes >= self.options.unsynced_bytes
            || age >= self.options.snapshot_age_ms;
        let news = self.group > self.upkeep.snapshot_group;
        if due && news && now >= self.upkeep.snapshot_not_before {
            self.try_snapshot(now);
        }
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

    /// Takes in what became of one that was under way.
    pub(super) fn look_after_snapshot(&mut self) {
        let is_done = |under_way: &mut UnderWay| under_way.outcome().is_some();
        if let Some(under_way) = self.upkeep.snapshot.take_if(is_done) {
            self.end_snapshot(under_way);
        }
    }

    /// Waits for one that is under way.
    pub(super) fn await_snapshot(&mut self) {
        if let Some(under_way) = self.upkeep.snapshot.take() {
            self.end_snapshot(under_way);
        }
    }

    /// Why what was written may be lost, if that has turned out while a snapshot was written.
    pub(crate) fn snapshot_failure(&self) -> Option<Error> {
        match self.upkeep.snapshot.as_ref()?.outcome()? {
            Err(Failed::Sync(error)) => Some(error),
            _ => None,
        }
    }

    /// Writes one, and waits for it; for one that is under way, first.
    pub(crate) fn snapshot(&mut self, now: i64) -> Result<(), Error> {
        self.await_snapshot();
        if let Some(reason) = &self.poisoned {
            return Err(Error::Poisoned(reason.clone()));
        }
        let under_way = self.begin_snapshot(now)?;
        match under_way.end() {
            Ok(()) => self.written(self.group),
            Err(Failed::Write(error)) => Err(error),
            Err(Failed::Sync(error)) => Err(self.poison(&error)),
        }
    }

    /// Begins a new part of the commit log, and has what was written before it synced, and the snapshot written.
    fn begin_snapshot(&mut self, now: i64) -> Result<UnderWay, Error> {
        if self.durable_through < self.group {
            self.sync_all()?;
        }
        // The new part first: a snapshot promises that what follows it can be found. It may be there, and empty, from an attempt
        // that found no space for the snapshot.
        if self.commit_log.first != self.group + 1 {
            let salt = self.rng.next_u64() as u32;
            let sync_names = !self.options.has(Planted::ForgetDirectorySync);
            self.commit_log =
                CommitLog::create(&*self.disk, &self.dir, self.directory, self.group + 1, salt, sync_names)?;
        }
        let (names, segments) = (std::mem::take(&mut self.new_names), std::mem::take(&mut self.unsynced));
        self.unsynced_bytes = 0;
        let segments = segments.into_keys().filter(|_| !self.options.has(Planted::SnapshotBeforeSync));
        let work = Work {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            directory: self.directory,
            names: names.into_iter().filter(|_| !self.options.has(Planted::ForgetDirectorySync)).collect(),
            segments: segments.map(|(tp, base_offset)| self.dir.segment(tp, base_offset)).collect(),
            snapshot: Snapshot { group: self.group, seq: self.seq, time: now, catalog: self.catalog.clone() },
            salt: self.rng.next_u64() as u32,
        };
        let outcome = Arc::new(Mutex::new(None));
        let tell = Tell(outcome.clone());
        let wait = self.disk.aside("sluice-snapshot", Box::new(move || tell.tell(work.run())));
        Ok(UnderWay { group: self.group, outcome, wait })
    }

    fn end_snapshot(&mut self, under_way: UnderWay) {
        let group = under_way.group;
        let ended = under_way.end().and_then(|()| self.written(group).map_err(Failed::Write));
        ended.unwrap_or_else(|failed| self.not_written(failed));
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
        let remove = |path: PathBuf| self.disk.remove_aside(&path).map_err(|error| Error::io("remove", &path, error));
        let firsts = CommitLog::list(&*self.disk, &self.dir)?;
        // A part ends where the next begins.
        for pair in firsts.windows(2).filter(|pair| pair[1] <= oldest + 1) {
            remove(self.dir.commit_file(pair[0]))?;
        }
        for group in snapshots.iter().filter(|group| *group < oldest) {
            remove(self.dir.snapshot(*group))?;
        }
        Ok(())
    }
}
