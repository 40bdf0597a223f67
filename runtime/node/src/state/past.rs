//! How a state goes back to where it was: rewinds, restored checkpoints, and states that are used aside.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_event::{Batch, NewEvent};
use sluice_log::{Append, Error, Log, PipelineInfo, TopicInfo, TopicPartition};
use sluice_state::{Applied, Change, Head, Line, PartitionState, SharedState, StoreCache, Turn, ended, missing};

use super::changelog::Changelog;
use super::place::Place;
use super::refused;
use crate::checkpoint::{self, IMPORTED};

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
        let side = self.side_named(partition, &line, cursor, use_)?;
        if cursor < offset {
            side.state.lock().quiet_until(offset);
        }
        Ok(side)
    }

    /// The state that a line made, to be used aside.
    pub(crate) fn side_at(&self, partition: u32, line: &Line, cursor: u64) -> Result<Side, Error> {
        self.side_named(partition, line, cursor, "export")
    }

    fn side_named(&self, partition: u32, line: &Line, cursor: u64, use_: &str) -> Result<Side, Error> {
        self.check(partition, line)?;
        let (id, name) = (self.pipeline.id, &*self.pipeline.name);
        let mut place = Place::of(self.log.root(), &StoreCache::default(), (id, name), partition);
        // Should the process die, the next start finds that no checkpoint has this name.
        place.live.set_file_name(format!("at-~{use_}-{}", NEXT_SIDE.fetch_add(1, Ordering::Relaxed)));
        let state = place.open_at(self.log, line)?;
        Ok(Side { state: SharedState::new(state), cursor, folder: place.live })
    }

    /// Where between two offsets timers fired for no more events were to come.
    pub(crate) fn closings(&self, partition: u32, from: u64, to: u64) -> Result<Vec<u64>, Error> {
        let changelog = self.changelog(partition)?;
        let mut found = Vec::new();
        for (first, end) in self.stands(partition)?.line() {
            changelog.heads(first.max(changelog.partition.low_mark()), end, &mut |head| {
                if head.closed && (from..=to).contains(&head.to) && found.last() != Some(&head.to) {
                    found.push(head.to);
                }
            })?;
        }
        Ok(found)
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
        let is_there = |from: u64| (low..IMPORTED).contains(&from);
        let can = |mine: &Line| missing(mine, line).is_some_and(|rest| rest.iter().all(|(from, _)| is_there(*from)));
        if can(&Line::new()) {
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

/// Visits all that deltas have put into a state.
pub(crate) fn every(state: &PartitionState, visit: &mut dyn FnMut(Change<'_>)) -> Result<(), Error> {
    state.every(visit).map_err(|error| refused(&error))
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
    // Of the oldest part of the changelog nothing may be left, and an imported state was never in it.
    let left = changelog.partition.low_mark();
    let gone_of =
        |(from, to): &(u64, u64)| if *from >= IMPORTED { to - from } else { (*to).min(left).saturating_sub(*from) };
    let gone: u64 = line.iter().map(gone_of).sum();
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
