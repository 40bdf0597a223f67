//! Events of a lane that fail: what is told of them, and what becomes of them by the pipeline's policy.

use sluice_event::Batch;
use sluice_log::{Commit, TopicPartition, Tried};

use super::{Fate, LINE_CHARS, LaneRunner, Retrying, TELL_EVERY};
use crate::chain::{Called, StageError};
use crate::dead_letter::DeadLetter;
use crate::delivery::Counts;
use crate::errors::{Failed, OnError};
use crate::lane::HaltKind;
use crate::legible::brief;
use crate::port::CallErrorKind;
use crate::timers::Due;

impl LaneRunner {
    /// By the pipeline's policy: what to count, what to dead-letter, and why to stand still at the first failure.
    pub(super) fn settle_failures(
        &mut self,
        from: u64,
        called: &mut Called,
    ) -> (Counts, Batch, Option<(HaltKind, String)>) {
        let (mut counts, mut dead, mut halt) = (Counts::default(), Batch::default(), None);
        match self.config.generation.errors.on_error {
            OnError::Skip => counts.skipped = called.failed.len() as u64,
            OnError::Halt => halt = called.failed.first().map(|failed| (HaltKind::Event, self.explain(failed))),
            OnError::DeadLetter { .. } => {
                // Events of attempts that were discarded are known already.
                let known = u32::try_from(self.counted.saturating_sub(from)).unwrap_or(u32::MAX).min(called.processed);
                self.counted = self.counted.max(from + u64::from(called.processed));
                let failed =
                    called.failed.iter().filter(|failed| failed.index >= known).map(|failed| failed.index - known);
                let breaker = &self.config.generation.errors.breaker;
                if breaker.allows(called.processed - known + called.fired, failed) {
                    (counts.dead, dead) = (called.failed.len() as u64, self.bury(from, &called.failed));
                } else {
                    let failed = called.failed.first().map(|failed| self.explain(failed)).unwrap_or_default();
                    halt = Some((HaltKind::Breaker, format!("{}; the first one here: {failed}", breaker.reason())));
                }
            }
        }
        match halt {
            None => self.note_failures(from, &called.failed, Fate::by(self.config.generation.errors.on_error)),
            Some(_) => self.note_failures(from, called.failed.get(..1).unwrap_or_default(), Fate::Halted),
        }
        if halt.is_some() {
            let first = called.failed.first().map_or(called.processed, |failed| failed.index);
            self.chain.cut(called, &self.batch, first);
        }
        (counts.committed, counts.filtered) = (called.committed, called.filtered);
        (counts, dead, halt)
    }

    /// What an operator reads of a failure.
    pub(super) fn explain(&self, failed: &Failed) -> String {
        let stage = &self.config.generation.stages[failed.stage].name;
        let times = if failed.attempts > 1 { format!(" (tried {} times)", failed.attempts) } else { String::new() };
        let in_functions = failed.error.backtrace.iter().map(|function| format!("\n  in {function}"));
        format!("stage {stage}: {}{times}{}", failed.error, in_functions.collect::<String>())
    }

    /// Where an event stands that fails, or before which a timer does.
    pub(super) fn letter_at(&self, (source, offset): (TopicPartition, u64)) -> DeadLetter {
        DeadLetter {
            pipeline: self.config.pipeline_name.clone(),
            topic: self.sources.name(source).to_owned(),
            partition: source.partition,
            offset,
            ..DeadLetter::default()
        }
    }

    /// The dead letters of events of the batch that was read.
    pub(super) fn bury(&self, from: u64, failed: &[Failed]) -> Batch {
        let (source, offset) = self.sources.at(from);
        let position = |index: u32| self.letter_at((source, offset + u64::from(index)));
        let mut dead = Batch::default();
        if failed.is_empty() {
            return dead;
        }
        let mut failed = failed.iter().peekable();
        for (index, event) in (0..).zip(self.batch.region().events()) {
            let Some(failed) = failed.next_if(|failed| failed.index == index) else { continue };
            let letter = failed.letter(position(index), &self.config.generation.stages[failed.stage], self.clock.now());
            if let Ok(event) = event {
                letter.push(&event, source, &mut dead);
            }
        }
        debug_assert!(failed.next().is_none(), "a failure of an event that was not given");
        dead
    }

    /// Has an event tried again after a while, and remembers how often it was, also over a restart.
    pub(super) fn retry_later(&mut self, place: u64, failed: &Failed) {
        let attempts = failed.attempts;
        self.state.work.retries += 1;
        let (source, offset) = self.sources.at(place);
        let seed = offset ^ (u64::from(source.partition) << 48);
        let until = self.clock.elapsed() + self.config.generation.errors.retry.backoff(attempts, seed);
        let reason = self.explain(failed);
        self.note_failure((source, offset), &reason, Fate::TriedAgain);
        let told = brief(&reason, LINE_CHARS);
        tracing::info!(%source, offset, attempts, reason = told, "will be tried again");
        self.tried = Some((place, attempts));
        self.retrying = Some(Retrying { offset: place, attempts, reason, until });
        let (pipeline, epoch) = (self.config.pipeline, self.config.epoch);
        let tried = Tried { pipeline, epoch, source, offset, attempts };
        self.notes.push(self.next_own_id);
        self.submit_own(Commit { tried: Some(tried), ..Commit::default() });
    }

    /// Says in the log that a call failed, but not in every line what may come thousands of times a second.
    pub(super) fn tell_of_failure(&mut self, from: u64, to: u64, error: &StageError) {
        let now = self.clock.elapsed();
        if self.told_at.is_some_and(|at| now < at + TELL_EVERY) {
            self.untold += 1;
            return;
        }
        let (told, untold) = (brief(&error.to_string(), LINE_CHARS), std::mem::take(&mut self.untold));
        let (source, offset) = self.sources.at(from);
        tracing::warn!(%source, offset, events = to - from, error = told, untold, "a call failed");
        self.told_at = Some(now);
    }

    pub(super) fn call_failed(&mut self, error: StageError, due: &Due) {
        self.chain.drop_instances();
        let (from, to) = (self.batch_at.0, self.batch_at.0 + u64::from(self.batch.count));
        self.tell_of_failure(from, to, &error);
        let kind = error.error.kind;
        if matches!(kind, CallErrorKind::Instantiate | CallErrorKind::State) {
            self.state.work.failed(kind);
            // No event is to blame.
            return self.lane.halt_at(from, HaltKind::Other, error.to_string());
        }
        if self.call_with_timers_failed(from, due, error.stage, &error.error) {
            return;
        }
        if matches!(kind, CallErrorKind::Timeout | CallErrorKind::Limit) {
            self.batch_size.shrink();
        }
        match self.lane.call_failed(from, to, error.error.in_hand) {
            None => self.state.work.failed(kind),
            Some(attempts) => {
                let failed = Failed { index: 0, stage: error.stage, error: error.error, attempts };
                self.commit(from, Called { processed: 1, failed: vec![failed], ..Called::default() }, false, false);
            }
        }
    }
}
