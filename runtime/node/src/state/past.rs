//! How a state goes back to where it was: rewinds, restored checkpoints, and states that are used aside.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::changelog_topic;
use sluice_event::{Batch, NewEvent};
use sluice_log::{Append, Error, Log, PipelineInfo, TopicInfo, TopicPartition};
use sluice_state::{
    Applied, Change, Cursors, Head, Line, PartitionState, Quiet, SharedState, StoreCache, Turn, ended, missing,
};

use super::changelog::Changelog;
use super::history::{History, Moment, Run, Written, cursor_of, place, within};
use super::place::Place;
use super::refused;
use crate::checkpoint::{self, IMPORTED};

/// What becomes of the state when a cursor is set anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StateChoice {
    /// It is what it was there.
    #[default]
    Restore,
    /// It is empty.
    Reset,
}

/// How one cursor is to move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) source: TopicPartition,
    /// Where it stands.
    pub(crate) from: u64,
    /// Where it goes.
    pub(crate) to: u64,
}

/// Where cursors go.
fn targets(steps: &[Step]) -> Cursors {
    steps.iter().map(|step| (step.source.topic, step.to)).collect()
}

/// How a partition's cursors and state go back.
pub(crate) struct Back {
    /// Where the cursors go, by topic: to the end of a commit.
    pub(crate) cursors: Cursors,
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
            quiet: applied.quiet.clone(),
            before: applied.before.clone(),
            origin: applied.origin,
        };
        if let Some((at, turn)) = changelog.last_turn(applied.offset, end)? {
            let before = ended(turn.before, at);
            stands.open = turn.line.into_iter().chain([(at + 1, 0)]).collect();
            (stands.quiet, stands.before) = (turn.quiet, Some((before, turn.quiet_before)));
        }
        Ok(stands)
    }

    fn history(&self, partition: u32, line: Line) -> Result<History<'a>, Error> {
        Ok(History { changelog: self.changelog(partition)?, line })
    }

    /// What made the state when the cursors stood there, at the end of a commit.
    pub(crate) fn line_at(&self, partition: u32, cursors: &Cursors) -> Result<Line, Error> {
        Ok(self.history(partition, self.stands(partition)?.line())?.up_to(cursors)?.0)
    }

    /// The part of a partition's line that leads up to cursors, and where they stood at its end.
    fn up_to(&self, partition: u32, stands: &Stands, to: &Cursors) -> Result<(Line, Cursors), Error> {
        if stands.is_before_origin(to) {
            return Ok((Line::new(), to.clone()));
        }
        self.history(partition, stands.line())?.up_to(to)
    }

    /// The last commit at which no cursor was past these.
    pub(crate) fn commit_before(&self, partition: u32, to: &Cursors) -> Result<Cursors, Error> {
        Ok(self.up_to(partition, &self.stands(partition)?, to)?.1)
    }

    /// Which outputs a partition's history has written.
    pub(crate) fn written(&self, partition: u32) -> Result<Written, Error> {
        self.history(partition, self.stands(partition)?.line())?.written()
    }

    /// The state at these cursors or, where they are within a commit, at the last commit before, to be used aside; `use_` tells several apart.
    pub(crate) fn side(&self, partition: u32, at: &Cursors, use_: &str) -> Result<Side, Error> {
        let stands = self.stands(partition)?;
        // Of a pipeline that begins later than that there was none.
        let (line, cursors) = match stands.origin.is_empty() {
            true => (Line::new(), at.clone()),
            false => self.up_to(partition, &stands, at)?,
        };
        let side = self.side_named(partition, &line, cursors, use_)?;
        if let ([(_, cursor)], [(_, at)]) = (&side.cursors[..], &at[..])
            && cursor < at
        {
            side.state.lock().quiet(Quiet { until: *at, runs: Vec::new() });
        }
        Ok(side)
    }

    /// The state that a line made, to be used aside.
    pub(crate) fn side_at(&self, partition: u32, line: &Line) -> Result<Side, Error> {
        self.side_named(partition, line, Cursors::new(), "export")
    }

    fn side_named(&self, partition: u32, line: &Line, cursors: Cursors, use_: &str) -> Result<Side, Error> {
        self.check(partition, line)?;
        let (id, name) = (self.pipeline.id, &*self.pipeline.name);
        let mut place = Place::of(self.log.root(), &StoreCache::default(), (id, name), partition);
        // Should the process die, the next start finds that no checkpoint has this name.
        place.live.set_file_name(format!("at-~{use_}-{}", NEXT_SIDE.fetch_add(1, Ordering::Relaxed)));
        let state = place.open_at(self.log, line)?;
        Ok(Side { state: SharedState::new(state), cursors, line: line.clone(), folder: place.live })
    }

    /// What came behind a state, up to these cursors: in which order events were dealt with, and what made timers fire besides.
    pub(crate) fn after(&self, partition: u32, side: &Side, to: &Cursors) -> Result<Behind, Error> {
        let history = self.history(partition, self.stands(partition)?.line())?;
        let runs = history.runs(&side.line, to)?;
        let mut moments = history.moments(&side.line, to)?;
        moments.retain(|(at, _)| within(&side.cursors, at));
        Ok((runs, moments))
    }

    /// How a partition goes to where a checkpoint has it.
    pub(crate) fn restore(&self, steps: &[Step], line: &Line) -> Result<Back, Error> {
        self.turn(steps, targets(steps), self.stands(steps[0].source.partition)?, line.clone(), None)
    }

    /// How a partition goes to where its cursors are told to or, where that is within a commit, to the last commit before: the events
    /// between are dealt with again. Ahead of its cursors its state stays as it is.
    pub(crate) fn go(&self, steps: &[Step], choice: StateChoice) -> Result<Back, Error> {
        let partition = steps[0].source.partition;
        let (stands, to) = (self.stands(partition)?, targets(steps));
        if choice == StateChoice::Reset {
            return self.turn(steps, to, stands, Line::new(), None);
        }
        if steps.iter().all(|step| step.to >= step.from) {
            let quiet = stands.quiet.clone().filter(|quiet| quiet.until > place(&to));
            let line = stands.line();
            return self.turn(steps, to, stands, line, quiet);
        }
        let (line, cursors) = self.up_to(partition, &stands, &to)?;
        let quiet = self.quiet(&stands, (&line, &cursors), (partition, &to))?;
        self.turn(steps, cursors, stands, line, quiet)
    }

    /// How a partition stays where it is, with a state as it was after an earlier commit of its line, which left the cursors there: the events between are dealt
    /// with again. What was claimed and not dealt with (at-most-once) is new then: nothing of it was committed, nor will be.
    pub(crate) fn catch_up(&self, steps: &[Step], line: &Line, cursors: Cursors) -> Result<Back, Error> {
        let partition = steps[0].source.partition;
        let (stands, mut to) = (self.stands(partition)?, targets(steps));
        if let Some((_, last)) = stands.line().last() {
            let dealt_with = self.changelog(partition)?.head(last - 1)?.stood();
            for (topic, to) in &mut to {
                *to = cursor_of(&dealt_with, *topic).unwrap_or(*to).min(*to);
            }
        }
        if missing(line, &stands.line()).is_none() {
            let what = "the state has gone another way since that checkpoint was made";
            return Err(Error::Invalid(format!("{what}: go back to it by hand, or begin with an empty state")));
        }
        let quiet = self.quiet(&stands, (line, &cursors), (partition, &to))?;
        self.turn(steps, cursors, stands, line.clone(), quiet)
    }

    /// What is dealt with again between a commit and a place behind it.
    fn quiet(
        &self,
        stands: &Stands,
        (line, cursors): (&Line, &Cursors),
        (partition, to): (u32, &Cursors),
    ) -> Result<Option<Quiet>, Error> {
        if cursors == to {
            return Ok(None);
        }
        let history = self.history(partition, stands.line())?;
        let mut runs = history.runs(line, to)?;
        for (topic, end) in to.iter().filter(|_| to.len() > 1) {
            // What history passed over, too: quiet ends where all have come so far.
            let last = runs.iter().rev().find(|(of, ..)| of == topic).map(|(_, _, end)| *end);
            let reached = last.or(cursor_of(cursors, *topic)).unwrap_or(*end);
            runs.extend((reached < *end).then_some((*topic, reached, *end)));
        }
        Ok(Some(Quiet { until: place(to), runs }))
    }

    /// How a partition goes to where it was before it was last rewound.
    pub(crate) fn undo(&self, steps: &[Step]) -> Result<Back, Error> {
        let stands = self.stands(steps[0].source.partition)?;
        let Some((line, quiet)) = stands.before.clone() else {
            return Err(Error::Invalid("its state was never rewound: there is nothing to undo".to_owned()));
        };
        self.turn(steps, targets(steps), stands, line, quiet)
    }

    fn turn(
        &self,
        steps: &[Step],
        cursors: Cursors,
        stands: Stands,
        line: Line,
        quiet: Option<Quiet>,
    ) -> Result<Back, Error> {
        let Step { source: TopicPartition { topic, partition }, from, .. } = steps[0];
        self.check(partition, &line)?;
        let head = Head { topic, partition, from, to: cursors[0].1, epoch: self.pipeline.epoch + 1, ..Head::default() };
        let turn = Turn { head, line, quiet, before: stands.open, quiet_before: stands.quiet };
        let mut batch = Batch::default();
        let bytes = turn.encode();
        let pushed = batch.push(&NewEvent { value: &bytes, ..NewEvent::default() });
        pushed.map_err(|_| {
            let what = "the way there goes from topic to topic more often than can be written down";
            Error::Invalid(format!("{what}: go back to a checkpoint, or begin with an empty state (--state reset)"))
        })?;
        // What is committed meanwhile fences it: it was planned on what stood before.
        let append = Append::new(TopicPartition { topic: self.changelog.id, partition }, batch).at(stands.end);
        Ok(Back { cursors, append })
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
    /// Where the cursors stood: where it was asked for, or before.
    pub(crate) cursors: Cursors,
    /// What made it.
    line: Line,
    folder: PathBuf,
}

/// What came behind a state: runs of events, and where cursors stood when timers fired for something else than an event.
pub(crate) type Behind = (Vec<Run>, Vec<(Cursors, Moment)>);

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
    quiet: Option<Quiet>,
    /// What made it before it was last rewound, and what `quiet` was then.
    before: Option<(Line, Option<Quiet>)>,
    /// Where the pipeline began to keep it; empty where it has not.
    origin: Cursors,
}

impl Stands {
    fn line(&self) -> Line {
        ended(self.open.clone(), self.end)
    }

    /// Whether there was no state at these cursors.
    fn is_before_origin(&self, cursors: &Cursors) -> bool {
        !self.origin.is_empty() && within(cursors, &self.origin)
    }
}
