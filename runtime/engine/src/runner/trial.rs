//! A lane whose generation is on probation, and how it goes over to another.
//!
//! Whenever a call fails, or an event in it, the generation before is asked to deal with the same batch, aside: its outputs and changes are dropped.
//! Where it fails likewise, the events are to blame, and the lane goes on as always. Where it does not, the new generation has failed its probation:
//! nothing of the attempt is committed, and the lane waits for the generation that is put in its place. So what the old one can deal with is
//! never dead-lettered by the new one.
//!
//! Where the new one has brought the state into another shape, the one before cannot be asked: there it is how often each gives up an event that counts.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_event::TIMER_IN_HAND;
use sluice_log::{Commit, ReadBatch, TopicPartition};
use sluice_state::SharedState;

use super::{Generation, LaneConfig, LaneRunner, Step};
use crate::chain::{Called, Chain, StageError};
use crate::errors::Failed;
use crate::port::{CallErrorKind, Witness};
use crate::probation::{Before, Probation, Verdict};
use crate::timers::Due;
use crate::watermark::Marks;

/// What comes of asking the generation before.
pub(super) enum Judgement {
    /// The new one may go on.
    Innocent,
    /// The one before does not come to this event: that is to be called alone.
    Undecided(u32),
    /// It fails where the one before does not, as this says.
    Guilty(String),
}

/// Attempts of one lane that are held, at most.
const MOST_HELD: usize = 10_000;
/// Bytes of these.
const MOST_HELD_BYTES: usize = 64 << 20;

/// What it is held against.
enum Against {
    Asked(Box<Chain>),
    /// So many given up, of so many events.
    Known(u64, u64),
}

/// A generation on probation.
pub(super) struct Trial {
    pub(super) probation: Arc<Probation>,
    before: Against,
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
        let before = match before {
            Before::Asked { stages, sinks } => Against::Asked(Box::new(Chain::new(of, stages, sinks.clone(), state))),
            Before::Known { given_up, events } => Against::Known(*given_up, *events),
        };
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

    /// Whether the new generation has failed: with a result that the generation before would not have come to. `exhausted`: the event at which it
    /// stopped is given up with that.
    pub(super) fn judge(
        &mut self,
        (source, topic): (TopicPartition, &str),
        (batch, marks, due): (&ReadBatch, Marks<'_>, &Due),
        late: Option<(usize, &[u32])>,
        result: &Result<Called, StageError>,
        exhausted: Option<u32>,
    ) -> Judgement {
        // The events that it gives up, and whether trying again might have helped.
        let own: Vec<(&Failed, bool)> = match result {
            // What a store cannot do is nobody's fault.
            Err(error) if error.error.kind == CallErrorKind::State => return Judgement::Innocent,
            Err(_) => Vec::new(),
            Ok(called) if !is_of_use(called) => return Judgement::Innocent,
            Ok(called) => {
                let given_up = called.stopped.iter().filter(|stopped| exhausted == Some(stopped.index));
                called
                    .failed
                    .iter()
                    .map(|failed| (failed, false))
                    .chain(given_up.map(|failed| (failed, true)))
                    .collect()
            }
        };
        let before = match &mut self.before {
            Against::Asked(before) => before,
            Against::Known(given_up, events) => {
                let known = (*given_up, *events);
                return judge_by_rate(&self.probation, (batch, due), result, &own, known);
            }
        };
        if result.is_ok() && own.is_empty() {
            return Judgement::Innocent;
        }
        // Timers that are called together and go wrong are called one by one: then it is time to ask. One of a stage that was not there before is
        // nothing to ask about.
        if (batch.count == 0 && due.len() > 1) || due.stage >= before.stages() {
            return Judgement::Innocent;
        }
        before.point_at(source, topic);
        let told = before.call(batch, marks, due, late);
        // It has seen what never happens.
        before.drop_instances();
        let told = match (told, own.first()) {
            (Ok(told), _) if is_of_use(&told) => told,
            // Which of the events makes the call fail?
            (_, Some((first, _))) if batch.count > 1 => return Judgement::Undecided(first.index),
            // Both fail as a whole: the lane will find the event that is to blame, and ask again.
            _ => return Judgement::Innocent,
        };
        let stopped = told.stopped.as_ref().map(|stopped| stopped.index);
        // It may stop where a timer fires that it has set.
        let stopped = stopped.or((told.processed < batch.count).then_some(told.processed));
        let fails = |index: u32| told.failed.iter().any(|failed| failed.index == index);
        match result {
            Err(error) => {
                let is_clean = told.failed.is_empty() && stopped.is_none();
                match error.error.in_hand.filter(|in_hand| in_hand & TIMER_IN_HAND == 0) {
                    Some(culprit) if fails(culprit) => Judgement::Innocent,
                    Some(culprit) if stopped.is_some_and(|stopped| stopped < culprit) => Judgement::Innocent,
                    None if !is_clean && batch.count > 1 => Judgement::Innocent,
                    None if fails(0) => Judgement::Innocent,
                    _ => Judgement::Guilty(error.to_string()),
                }
            }
            Ok(_) => {
                let guilty = own.iter().find_map(|(failed, may_pass)| match stopped {
                    _ if fails(failed.index) => None,
                    Some(stopped) if stopped < failed.index => Some(Judgement::Undecided(failed.index)),
                    // It would be tried again: only who has tried it as often may give it up.
                    Some(stopped) if stopped == failed.index && *may_pass => None,
                    _ => Some(Judgement::Guilty(failed.error.message.clone())),
                });
                guilty.unwrap_or(Judgement::Innocent)
            }
        }
    }
}

/// Whether more is given up than the generation before would have, which gave up so many of so many.
fn judge_by_rate(
    probation: &Probation,
    (batch, due): (&ReadBatch, &Due),
    result: &Result<Called, StageError>,
    own: &[(&Failed, bool)],
    known: (u64, u64),
) -> Judgement {
    let (events, given_up, reason) = match result {
        // Which of them is to blame shows when they are called alone.
        Err(_) if batch.count > 1 || due.len() > 1 => return Judgement::Innocent,
        Err(error) => (1, 1, error.to_string()),
        Ok(called) => {
            let first = own.first().map(|(failed, _)| failed.error.message.clone());
            (u64::from(called.processed), own.len() as u64, first.unwrap_or_default())
        }
    };
    match probation.gives_up_more(events, given_up, known) {
        true => Judgement::Guilty(format!("gives up more than the one before ({} of {}): {reason}", known.0, known.1)),
        false => Judgement::Innocent,
    }
}

/// Whether anything of a call is used, or it is made again with less.
fn is_of_use(called: &Called) -> bool {
    called.entangled.is_none() && called.cut.is_none() && called.failed_timer.is_none()
}

/// What deals with a generation's events and, where that is on probation, what else it takes; to be pointed at a source partition.
pub(super) fn assemble(config: &LaneConfig) -> (Chain, Option<Trial>) {
    let of = || (config.pipeline, config.witness.clone());
    let state = || config.state.as_ref().map(|state| state.shared.clone());
    let Generation { stages, sinks, probation, .. } = &config.generation;
    let trial = probation.as_ref().map(|(probation, before)| Trial::new((probation.clone(), before), of(), state()));
    (Chain::new(of(), stages, sinks.clone(), state()), trial)
}

impl LaneRunner {
    /// Has another generation deal with events from here on. Attempts under way are committed as they are, but for those that are held.
    pub fn go_over(&mut self, generation: Generation) {
        self.drop_held();
        self.batch_size = generation.batch_size.clone();
        self.shaped = self.keyed.is_none();
        self.config.generation = generation;
        (self.chain, self.trial) = assemble(&self.config);
        self.chain.point_at(self.sources.first(), self.sources.name(self.sources.first()));
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

    /// Somebody wants it to go on, though its generation has failed and none was put in its place.
    pub(super) fn leave_probation_that_failed(&mut self) {
        if self.trial.as_ref().is_some_and(|trial| matches!(trial.probation.verdict(), Verdict::Failed(_))) {
            self.drop_held();
            self.release_held();
        }
    }

    /// The probation is over: what is held, if anything, is committed.
    fn release_held(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        self.config.generation.probation = None;
        self.lane.set_max_in_flight(self.config.max_in_flight);
        for (id, commit) in trial.held {
            self.hand_over(id, commit);
        }
    }

    /// What is held never happened.
    pub(super) fn drop_held(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.held_bytes = 0;
        let held = std::mem::take(&mut trial.held);
        let Some((first, _)) = held.front() else { return };
        self.lane.take_back(*first);
        self.keyed.iter_mut().for_each(|keyed| keyed.discard_from(*first));
        self.follower.failed(*first);
        self.chain.drop_instances();
    }
}
