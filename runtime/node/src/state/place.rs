//! Where the state of a partition is kept, and how it comes up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_config::changelog_topic;
use sluice_log::{Error, Log};
use sluice_state::{Line, LsmStore, PartitionState, StoreCache, ended, missing};

use super::changelog::Changelog;
use super::{pipeline_folder, refused, snapshot_folder};
use crate::checkpoint::{self, IMPORTED};

/// Where the state of a partition is kept.
pub(super) struct Place {
    pub(super) live: PathBuf,
    id: u32,
    cache: StoreCache,
    pipeline: String,
    partition: u32,
}

impl Place {
    pub(super) fn of(data: &Path, cache: &StoreCache, (id, name): (u32, &str), partition: u32) -> Self {
        let live = pipeline_folder(data, id).join(partition.to_string()).join("live");
        Self { live, id, cache: cache.clone(), pipeline: name.to_owned(), partition }
    }

    /// Opens the store and applies what the changelog has beyond it.
    pub(super) fn open(&self, log: &Log) -> Result<PartitionState, Error> {
        let changelog = self.changelog(log)?;
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
                Some(missing) if missing.iter().all(|(from, to)| *from >= low && *to <= end) => missing,
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
            changelog.apply_line(&mut state, &missing)?;
            from = state.applied().offset;
        }
        if let Some((at, turn)) = turn {
            state.turn(at, turn);
            from = at + 1;
        }
        changelog.apply(&mut state, from, end)?;
        Ok(state)
    }

    fn changelog<'a>(&self, log: &'a Log) -> Result<Changelog<'a>, Error> {
        let topic = log.topic(&changelog_topic(&self.pipeline))?;
        Ok(Changelog { log, partition: log.partition(&topic, self.partition)? })
    }

    /// The state that a line made, in a place of its own.
    pub(super) fn open_at(&self, log: &Log, line: &Line) -> Result<PartitionState, Error> {
        let changelog = self.changelog(log)?;
        let mut state = self.made_from_snapshot(log.root(), line, changelog.partition.low_mark())?;
        let missing = state.applied().missing(line);
        let missing = missing.ok_or_else(|| Error::Invalid("a snapshot is not what its checkpoint says".to_owned()))?;
        changelog.apply_line(&mut state, &missing)?;
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
            if line.iter().any(|(from, _)| *from >= IMPORTED) {
                let what = "the state goes back to an imported checkpoint, which is not there any more";
                return Err(Error::Invalid(format!("{what}: it cannot be made anew")));
            }
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
        let mut own = checkpoint::kept(&checkpoints, self.id, self.partition);
        // One that was imported says nothing of what was here.
        let newest = own.rfind(|(_, kept)| !kept.is_imported());
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
