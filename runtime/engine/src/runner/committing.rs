//! What a call came to, made one commit and handed over.

use std::sync::PoisonError;

use sluice_event::Batch;
use sluice_log::{Commit, Input, Step as InputStep, TopicPartition};
use sluice_state::{Head, Layer};

use super::LaneRunner;
use crate::chain::Called;
use crate::delivery::{Counts, Delivered, Delivery};
use crate::errors::Failed;
use crate::keyed::Keyed;

impl LaneRunner {
    /// Commits what a call came to, and decides what becomes of events that failed.
    pub(super) fn commit(&mut self, from: u64, mut called: Called, with_timers: bool, draining: bool) {
        let known = self.tried;
        let tried = |index: u32| tried_before(known, from + u64::from(index));
        called.failed.iter_mut().for_each(|failed| failed.attempts += tried(failed.index));
        called.failed.iter().chain(&called.stopped).for_each(|failed| self.state.work.failed(failed.error.kind));
        // What is claimed must be dealt with before the end.
        let no_time = draining && self.config.delivery == Delivery::AtMostOnce;
        let stopped = called.stopped.take().map(|stopped| {
            let attempts = stopped.attempts + tried(stopped.index);
            Failed { attempts, ..stopped }
        });
        let retry = match stopped {
            Some(failed) if no_time || failed.attempts >= self.config.generation.errors.retry.attempts => {
                (called.processed, called.fired_outputs) = (called.processed + 1, 0);
                called.failed.push(failed);
                None
            }
            stopped => stopped,
        };
        let (counts, dead, halt) = self.settle_failures(from, &mut called);
        if halt.is_some() && self.keyed.is_some() && (self.batch.count > 1 || with_timers) {
            // What the events before it did to the state cannot be told from what it and those behind it did.
            self.chain.drop_instances();
            return self.lane.single_out(from + u64::from(called.processed));
        }
        let to = from + u64::from(called.processed);
        if to > from || called.fired > 0 {
            self.retrying = self.retrying.take().filter(|retrying| retrying.offset >= to);
            let changes = self.chain.take_changes();
            self.commit_changes((from, to), counts, dead, (changes, called.fired_outputs, called.fired > 0));
        }
        match (halt, retry) {
            (Some((kind, reason)), _) => self.lane.halt_at(to, kind, reason),
            (None, Some(failed)) => self.retry_later(to, &failed),
            (None, None) => {}
        }
    }

    /// Whether an event at which a call stopped is not tried again.
    pub(super) fn gives_up(&self, from: u64, stopped: &Failed) -> bool {
        let attempts = stopped.attempts + tried_before(self.tried, from + u64::from(stopped.index));
        attempts >= self.config.generation.errors.retry.attempts
    }

    pub(super) fn head(&self, from: u64, to: u64) -> Head {
        let (TopicPartition { topic, partition }, offset) = self.range(from, to);
        let (to_offset, cursors) = (offset + (to - from), self.sources.cursors(to));
        Head { topic, partition, from: offset, to: to_offset, epoch: self.config.epoch, cursors, ..Head::default() }
    }

    /// The source of the events between two places, and the offset of the first. Where there are none, behind the event before.
    pub(super) fn range(&self, from: u64, to: u64) -> (TopicPartition, u64) {
        if to > from { self.sources.at(from) } else { self.sources.behind(from) }
    }

    /// Commits that events are passed over, without a call.
    pub(super) fn commit_range(&mut self, from: u64, to: u64, counts: Counts, dead: Batch) {
        self.chain.forget_call();
        self.commit_changes((from, to), counts, dead, (Layer::default(), 0, false));
    }

    /// Commits what became of events, and with them what they and timers changed: with how many outputs there are of timers that fired before
    /// the next event, and whether any were dealt with.
    pub(super) fn commit_changes(
        &mut self,
        (from, to): (u64, u64),
        mut counts: Counts,
        mut dead: Batch,
        (changes, fired_outputs, fired): (Layer, u32, bool),
    ) {
        let mut appends = self.chain.take_appends();
        // Timers that fire before the event there fired before it the first time.
        let is_quiet = |keyed: &Keyed| from < keyed.quiet_until() || (to == from && from == keyed.quiet_until());
        if self.keyed.as_ref().is_some_and(is_quiet) {
            // Only what they do to the state is wanted: all else came of them the first time.
            appends.clear();
            (counts, dead) = (Counts { skipped: to - from, ..Counts::default() }, Batch::default());
        }
        let work = &mut self.state.work;
        work.events += to - from;
        for append in &appends {
            work.outputs += u64::from(append.batch.count());
            work.bytes_out += append.batch.bytes().len() as u64;
        }
        let id = self.lane.submitted(to);
        let is_fence = from < to && !self.sources.changes_at(to);
        if !is_fence && matches!(self.config.delivery, Delivery::AtLeastOnce { .. }) {
            // Outputs ahead of the cursor are fenced by where those before them end: these end where they begin, or the next are of another topic.
            self.lane.wait();
        }
        let head = self.head(from, to);
        let changed_bytes = changes.bytes();
        if let Some(keyed) = &mut self.keyed {
            let (at, topic) = self.batch_at;
            let processed = if (at..at + u64::from(self.batch.count)).contains(&from) { (to - from) as u32 } else { 0 };
            keyed.attempted((id, from), (topic, &self.batch, processed), fired_outputs, changes);
            if !matches!(self.config.delivery, Delivery::AtLeastOnce { .. }) {
                appends.push(keyed.append(id, id, head));
            }
        }
        let step = match self.config.delivery {
            Delivery::ExactlyOnce => InputStep::Done,
            Delivery::AtLeastOnce { .. } | Delivery::AtMostOnce => InputStep::Outcome,
        };
        let mut input = Input { step, from, to, ..Input::default() };
        if matches!(self.config.delivery, Delivery::AtLeastOnce { .. }) {
            // They count, and dead letters are written, when the cursor moves.
            let bytes = changed_bytes + appends.iter().map(|append| append.batch.bytes().len()).sum::<usize>();
            let calls = (to > from).then(|| u32::try_from(to - from).unwrap_or(u32::MAX)).into_iter().collect();
            let (source, dead) = (self.range(from, to).0, vec![dead]);
            self.follower.submitted(id, Delivered { source, through: id, to, counts, calls, bytes, dead, fired });
        } else {
            counts.tell(&mut input);
            appends.extend(self.config.generation.errors.on_error.appends(self.sources.first(), dead));
        }
        self.submit(id, Commit { appends, input: Some(input), ..Commit::default() });
    }

    /// What a commit says of the events between two places.
    fn input(&self, input: Input) -> Input {
        let (TopicPartition { topic, partition }, from) = self.range(input.from, input.to);
        let (to, epoch, generation) =
            (from + (input.to - input.from), self.config.epoch, self.config.generation.number);
        Input { pipeline: self.config.pipeline, epoch, generation, topic, partition, from, to, ..input }
    }

    /// Hands over a commit other than an attempt, under [`next_own_id`](Self::next_own_id).
    pub(super) fn submit_own(&mut self, commit: Commit) {
        let id = self.next_own_id;
        self.next_own_id -= 1;
        let input = commit.input.map(|input| self.input(input));
        self.hand_over(id, Commit { input, ..commit });
    }

    /// Hands over the commit of an attempt.
    pub(super) fn submit(&mut self, id: u64, commit: Commit) {
        let input = commit.input.map(|input| self.input(input));
        let commit = Commit { input, ..commit };
        let commit = match &mut self.trial {
            // The state's new shape is no output: the checkpoint before it is the way back.
            Some(trial) if self.shaped => trial.hold(id, commit),
            _ => Some(commit),
        };
        commit.into_iter().for_each(|commit| self.hand_over(id, commit));
    }

    pub(super) fn hand_over(&self, id: u64, commit: Commit) {
        let (answers, wake) = (self.answers.clone(), self.wake.clone());
        self.storage.submit(
            commit,
            Box::new(move |answer| {
                answers.lock().unwrap_or_else(PoisonError::into_inner).push((id, answer));
                wake();
            }),
        );
    }
}

/// How often the event at a place was tried before.
fn tried_before(tried: Option<(u64, u32)>, place: u64) -> u32 {
    tried.filter(|(tried, _)| *tried == place).map_or(0, |(_, attempts)| attempts)
}
