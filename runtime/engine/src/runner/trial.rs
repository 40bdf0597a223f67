//! A lane whose generation is on probation, and how it goes over to another.
//!
//! Whenever a call fails, or an event in it, the generation before is asked to deal with the same batch, aside: its outputs and changes are dropped.
//! Where it fails likewise, the events are to blame, and the lane goes on as always. Where it does not, the new generation has failed its probation:
//! nothing of the attempt is committed, and the lane waits for the generation that is put in its place. So what the old one can deal with is
//! never dead-lettered by the new one.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_log::{Commit, Error, ReadBatch, TopicPartition};
use sluice_state::SharedState;

use super::{Generation, LaneRunner, Step};
use crate::batch_size::BatchSize;
use crate::chain::{Called, Chain, StageError};
use crate::keyed::Marks;
use crate::port::{CallErrorKind, Witness};
use crate::probation::{Before, Probation, Verdict};
use crate::timers::Due;

/// Attempts of one lane that are held, at most.
const MOST_HELD: usize = 10_000;
/// Bytes of these.
const MOST_HELD_BYTES: usize = 64 << 20;

/// A generation on probation.
pub(super) struct Trial {
    pub(super) probation: Arc<Probation>,
    before: Chain,
    /// Commits of attempts that wait for the end, in order.
    held: VecDeque<(u64, Commit)>,
    held_bytes: usize,
}

impl Trial {
    pub(super) fn new(
        (probation, before): (Arc<Probation>, &Before),
        of: (u32, Arc<dyn Witness>),
        state: Option<SharedState>,
    ) -> Self {
        let before = Chain::new(of, &before.stages, before.sinks.clone(), state);
        Self { probation, before, held: VecDeque::new(), held_bytes: 0 }
    }

    /// Attempts in flight that a lane may have meanwhile.
    pub(super) fn max_in_flight(&self, usual: usize) -> usize {
        if self.probation.holds_outputs() { MOST_HELD } else { usual }
    }

    /// Holds an attempt's commit, where commits are held.
    pub(super) fn hold(&mut self, id: u64, commit: Commit) -> Option<Commit> {
        if !self.probation.holds_outputs() {
            return Some(commit);
        }
        self.held_bytes += commit.appends.iter().map(|append| append.batch.bytes().len()).sum::<usize>();
        self.held.push_back((id, commit));
        None
    }

    /// Why the new generation has failed, if it has: with a result that the generation before would not have come to. `exhausted`: the event at
    /// which it stopped is given up with that.
    pub(super) fn judge(
        &mut self,
        (source, topic): (TopicPartition, &str),
        (batch, marks, due): (&ReadBatch, Marks<'_>, &Due),
        late: Option<(usize, &[u32])>,
        result: &Result<Called, StageError>,
        exhausted: Option<u32>,
    ) -> Option<String> {
        let own: Vec<(u32, String)> = match result {
            // What a store cannot do is nobody's fault.
            Err(error) if error.error.kind == CallErrorKind::State => return None,
            Err(_) => Vec::new(),
            Ok(called) if called.entangled.is_some() || called.cut.is_some() || called.failed_timer.is_some() => {
                return None;
            }
            Ok(called) => {
                let given_up = called.stopped.iter().filter(|stopped| exhausted == Some(stopped.index));
                called
                    .failed
                    .iter()
                    .chain(given_up)
                    .map(|failed| (failed.index, failed.error.message.clone()))
                    .collect()
            }
        };
        if result.is_ok() && own.is_empty() {
            return None;
        }
        self.before.point_at(source, topic);
        let told = self.before.call(batch, marks, due, late);
        // It has seen what never happens.
        self.before.drop_instances();
        let told = told.ok()?;
        let fails = |index: u32| {
            told.failed.iter().chain(&told.stopped).any(|failed| failed.index == index)
                || told.stopped.as_ref().is_some_and(|stopped| stopped.index < index)
        };
        match result {
            // One of the events makes both fail: the lane will find which.
            Err(error) => match error.error.in_hand {
                Some(culprit) if fails(culprit) => None,
                None if !told.failed.is_empty() || told.stopped.is_some() => None,
                _ => Some(error.to_string()),
            },
            Ok(_) => own.into_iter().find(|(index, _)| !fails(*index)).map(|(_, reason)| reason),
        }
    }
}

impl LaneRunner {
    /// Has another generation deal with events from here on. Attempts under way are committed as they are, but for those that are held.
    pub fn go_over(&mut self, generation: Generation) {
        self.drop_held();
        let of = || (self.config.pipeline, self.config.witness.clone());
        let state = self.config.state.as_ref().map(|state| state.shared.clone());
        let probation = generation.probation.as_ref().map(|(probation, before)| (probation.clone(), before));
        self.trial = probation.map(|probation| Trial::new(probation, of(), state.clone()));
        self.chain = Chain::new(of(), &generation.stages, generation.sinks.clone(), state);
        self.chain.point_at(self.sources.first(), self.sources.name(self.sources.first()));
        self.batch_size = BatchSize::new(generation.max_events);
        self.config.generation = generation;
        let usual = self.config.max_in_flight;
        self.lane.set_max_in_flight(self.trial.as_ref().map_or(usual, |trial| trial.max_in_flight(usual)));
        // It may do better where the one before stands still, or waits.
        (self.tried, self.rests_until) = (None, std::time::Duration::ZERO);
        self.firing = super::Firing::default();
        self.resume(false);
    }

    /// What the probation has the lane do, if anything.
    pub(super) fn on_probation(&mut self, draining: bool) -> Option<Step> {
        let trial = self.trial.as_ref()?;
        match trial.probation.verdict() {
            Verdict::Passed => {
                self.release_held();
                None
            }
            Verdict::Failed(_) => {
                self.drop_held();
                // Until another generation is put in its place.
                Some(if draining && self.is_settled() { Step::Idle } else { Step::Waiting })
            }
            Verdict::Open => {
                let is_full = trial.held_bytes >= MOST_HELD_BYTES;
                if draining {
                    // What is held is dealt with again.
                    self.drop_held();
                    return None;
                }
                is_full.then_some(Step::Waiting)
            }
        }
    }

    /// The generation has passed its probation: what is held is committed.
    fn release_held(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        self.lane.set_max_in_flight(self.config.max_in_flight);
        for (id, commit) in trial.held {
            self.hand_over(id, commit);
        }
    }

    /// What is held never happened: it is answered as if it had been fenced.
    fn drop_held(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.held_bytes = 0;
        let held = std::mem::take(&mut trial.held);
        let (pipeline, input) = (self.config.pipeline, self.sources.first());
        for (id, commit) in held {
            let from = commit.input.map_or(0, |input| input.from);
            self.refused(id, Error::Fenced { pipeline, input, from, committed: from }, false);
        }
    }
}
