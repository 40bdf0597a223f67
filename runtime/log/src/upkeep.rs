//! What the committing thread does besides committing: snapshots, retention, syncs at an interval, removing files.

mod snapshots;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_env::Open;

use self::snapshots::{Ahead, UnderWay};
use crate::change::TopicPartition;
use crate::committer::Committer;
use crate::error::Error;
use crate::options::{Durability, Planted};
use crate::retention;

/// After this long without commits, the last group is covered.
const IDLE: Duration = Duration::from_millis(100);
/// How often the log looks for events that may go.
const RETENTION_EVERY: Duration = Duration::from_secs(1);
/// How often it looks for producers that may be forgotten.
const PRODUCERS_EVERY: Duration = Duration::from_secs(60);
/// Under `os`, files that may go wait at most this long for a snapshot.
const REMOVALS_WAIT: Duration = Duration::from_secs(30);

/// A file that is superfluous once the group that says so is sure to survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removal {
    /// A segment, with its index.
    Segment(TopicPartition, u64),
    /// Everything of a topic.
    Topic(u32),
}

/// When what is due.
#[derive(Default)]
pub(crate) struct Upkeep {
    pub(crate) snapshot_time: i64,
    /// The group of the last one.
    snapshot_group: u64,
    /// After one that failed for lack of space, when to try again.
    snapshot_not_before: i64,
    /// What is done before the next.
    ahead: Option<Ahead>,
    /// The one that is being written, aside.
    snapshot: Option<UnderWay>,
    retention_at: Duration,
    producers_at: Duration,
    synced_at: Duration,
    removals_at: Duration,
    /// After a failure for lack of space, when to cover again.
    cover_at: Duration,
    /// By the group whose durability they wait for.
    pub(crate) removals: VecDeque<(u64, Removal)>,
    has_reserve: bool,
    reserve_at: Duration,
    /// Who else has it needs all files that there are.
    kept: Arc<()>,
}

impl Upkeep {
    /// No file is removed for as long as somebody has what this returns.
    pub(crate) fn keep_files(&self) -> Arc<()> {
        self.kept.clone()
    }

    fn keeps_files(&self) -> bool {
        Arc::strong_count(&self.kept) > 1
    }

    pub(crate) fn new(snapshot_time: i64, snapshot_group: u64, removals: VecDeque<(u64, Removal)>) -> Self {
        Self { snapshot_time, snapshot_group, removals, snapshot_not_before: i64::MIN, ..Self::default() }
    }
}

impl Committer {
    /// How long the thread may wait for commits before it calls [`idle`](Self::idle).
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        if self.poisoned.is_some() {
            return None;
        }
        let now = self.clock.elapsed();
        let cover = self.is_uncovered().then(|| self.upkeep.cover_at.saturating_sub(now).max(IDLE));
        let sync = match self.options.durability {
            Durability::Interval(every) if self.durable_through < self.group => {
                Some((self.upkeep.synced_at + every).saturating_sub(now))
            }
            _ => None,
        };
        let bounded = self.catalog.topics.values().any(|topic| topic.settings.is_bounded());
        let retention = bounded.then(|| self.upkeep.retention_at.saturating_sub(now));
        // They are looked for when retention is.
        let producers_at = self.upkeep.producers_at.max(self.upkeep.retention_at);
        let producers = (!self.catalog.producers.is_empty()).then(|| producers_at.saturating_sub(now));
        let removals = (!self.upkeep.removals.is_empty()).then_some(REMOVALS_WAIT);
        let snapshot = (self.upkeep.snapshot.is_some() || self.upkeep.ahead.is_some()).then_some(IDLE);
        [cover, sync, retention, producers, removals, snapshot].into_iter().flatten().min()
    }

    /// What is to be done when there was nothing to commit for a while.
    pub(crate) fn idle(&mut self) {
        if self.is_uncovered()
            && self.clock.elapsed() >= self.upkeep.cover_at
            && let Err(error) = self.cover()
        {
            tracing::warn!(%error, "the last group is not covered yet");
            self.upkeep.cover_at = self.clock.elapsed() + 100 * IDLE;
        }
        let now = self.now();
        self.keep_up(now);
    }

    /// The last thing before the log is closed.
    pub(crate) fn end(&mut self) {
        self.await_snapshot();
        if matches!(self.options.durability, Durability::Interval(_)) && self.poisoned.is_none() {
            let _ = self.sync_all();
        }
        let _ = self.cover();
        self.remove_files();
        if self.poisoned.is_none() {
            self.commit_log.end();
        }
    }

    /// Does what is due.
    pub(crate) fn keep_up(&mut self, now: i64) {
        if self.poisoned.is_some() {
            return;
        }
        self.look_after_snapshot();
        self.snapshot_if_due(now);
        let elapsed = self.clock.elapsed();
        if let Durability::Interval(every) = self.options.durability
            && self.durable_through < self.group
            && elapsed >= self.upkeep.synced_at + every
        {
            // A failure has poisoned the log.
            let _ = self.sync_all();
        }
        if elapsed >= self.upkeep.retention_at {
            self.upkeep.retention_at = elapsed + RETENTION_EVERY;
            self.retain(now);
        }
        self.remove_files();
        if !self.upkeep.has_reserve && elapsed >= self.upkeep.reserve_at {
            self.upkeep.reserve_at = elapsed + RETENTION_EVERY;
            self.make_reserve();
        }
    }

    /// Lets go what may go.
    fn retain(&mut self, now: i64) {
        let (mut changes, holds) = retention::due(&self.catalog, now);
        self.shared.set_holds(holds);
        let elapsed = self.clock.elapsed();
        if elapsed >= self.upkeep.producers_at {
            self.upkeep.producers_at = elapsed + PRODUCERS_EVERY;
            changes.extend(retention::silent_producers(&self.catalog, now));
        }
        if changes.is_empty() || self.poisoned.is_some() {
            return;
        }
        if let Err(error) = self.commit_changes(changes, now) {
            tracing::warn!(%error, "retention could not be committed; trying again");
        }
    }

    /// Removes the files whose end is sure to survive a crash.
    fn remove_files(&mut self) {
        if self.upkeep.keeps_files() {
            return;
        }
        let waiting = !self.upkeep.removals.is_empty();
        let elapsed = self.clock.elapsed();
        if waiting && self.options.durability == Durability::Os && elapsed >= self.upkeep.removals_at {
            // Nothing else would ever make it sure.
            self.upkeep.removals_at = elapsed + REMOVALS_WAIT;
            let now = self.now();
            self.try_snapshot(now);
            self.look_after_snapshot();
        }
        while let Some((group, removal)) = self.upkeep.removals.front()
            && (*group <= self.told_durably || self.options.has(Planted::RemoveTooEarly))
        {
            // What is gone need not be synced, and an open file would keep its space.
            let removed = match removal {
                Removal::Segment(tp, base_offset) => {
                    self.unsynced.remove(&(*tp, *base_offset));
                    let path = self.dir.segment(*tp, *base_offset);
                    self.disk.remove_aside(&path).and_then(|()| self.disk.remove(&path.with_extension("index")))
                }
                Removal::Topic(id) => {
                    self.unsynced.retain(|(tp, _), _| tp.topic != *id);
                    let dir = self.dir.topic(*id);
                    let names = self.disk.list(&dir);
                    let all =
                        names.and_then(|names| names.iter().try_for_each(|name| self.disk.remove(&dir.join(name))));
                    all.and_then(|()| self.disk.remove_dir(&dir))
                }
            };
            if let Err(error) = removed {
                // It is no part of the log any more; the next start removes it.
                tracing::warn!(%error, ?removal, "a superfluous file was not removed");
            }
            self.upkeep.removals.pop_front();
        }
    }

    /// Makes everything durable that was written, and with it what is being synced ahead.
    pub(crate) fn sync_all(&mut self) -> Result<(), Error> {
        self.end_ahead()?;
        self.sync_names()?;
        let segments = std::mem::take(&mut self.unsynced).into_values();
        self.sync(&segments.chain([self.commit_log.file.clone()]).collect::<Vec<_>>())?;
        self.unsynced_bytes = 0;
        self.durable_through = self.group;
        self.told_durably = self.told;
        self.upkeep.synced_at = self.clock.elapsed();
        Ok(())
    }

    /// Sets some space aside, so that a full disk does not stop those who make room on it.
    fn make_reserve(&mut self) {
        if self.options.reserve_bytes == 0 {
            return;
        }
        let path = self.dir.reserve();
        let make = || -> std::io::Result<()> {
            if let Ok(file) = self.disk.open(&path, Open::Read)
                && file.len()? == self.options.reserve_bytes
            {
                return Ok(());
            }
            self.disk.remove(&path)?;
            let file = self.disk.open(&path, Open::Create)?;
            let zeros = vec![0; self.options.reserve_bytes as usize];
            file.write_at(&[IoSlice::new(&zeros)], 0).and_then(|()| file.sync()).inspect_err(|_| {
                // Half a reserve takes space and gives none.
                let _ = self.disk.remove(&path);
            })
        };
        self.upkeep.has_reserve = make().is_ok();
    }

    /// Frees what space the commit log would write to next; false when there is none.
    pub(crate) fn give_up_spare(&mut self) -> bool {
        self.free(&self.dir.spare_commit_file())
    }

    /// Frees the space set aside; false when there is none.
    pub(crate) fn give_up_reserve(&mut self) -> bool {
        self.upkeep.has_reserve = false;
        self.upkeep.reserve_at = self.clock.elapsed() + RETENTION_EVERY;
        self.free(&self.dir.reserve())
    }

    /// Removes a file; false when there is none.
    fn free(&self, path: &Path) -> bool {
        self.disk.open(path, Open::Read).is_ok() && self.disk.remove(path).is_ok()
    }
}
