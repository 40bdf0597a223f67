//! Timers of a lane: when they are called, and what becomes of one that fails.
//!
//! Timers come with the events between which they fire. When anything goes wrong in such a call, for a while they are called apart, and in the end one by
//! one: **what is to blame is one event, or one timer.**

use sluice_event::{Batch, Clock, NewEvent, TIMER_IN_HAND};
use sluice_log::ReadBatch;
use sluice_state::Timer;

use super::{Fate, LINE_CHARS, LaneRunner, Retrying, Step};
use crate::chain::Called;
use crate::dead_letter::{DeadLetter, DeadTimer};
use crate::delivery::Counts;
use crate::errors::{Failed, OnError};
use crate::keyed::Keyed;
use crate::lane::HaltKind;
use crate::legible::brief;
use crate::port::CallError;
use crate::timers::{Due, MOST_DUE};

/// After a call with events and timers failed, so many calls have one or the other.
const CALLS_APART: u32 = 16;

/// How timers are to be called.
#[derive(Debug, Default)]
pub(super) struct Firing {
    /// The time of day that the step in hand goes by.
    now: i64,
    /// So many more calls have timers or events, not both.
    apart: u32,
    /// The next call with timers has at most so many.
    at_most: Option<usize>,
    /// A timer that failed and is to be tried again, and how often it was tried.
    tried: Option<(Timer, u32)>,
    /// Timers that failed before the events at these offsets, of which the breaker knows: what is discarded comes again.
    counted: Vec<(u64, Timer)>,
    /// The timer that the lane stands still at.
    pub(super) halted: Option<Timer>,
}

impl LaneRunner {
    /// Whether timers wait to fire.
    pub(super) fn timers_due(&mut self) -> bool {
        if !self.chain.has_timers() {
            return false;
        }
        let now = self.clock.now();
        self.firing.now = now;
        // What was appended before now is not all read, as long as there is anything to read.
        let silent = self.sources.are_silent(self.lane.planned(), now);
        // What is dealt with again only for the state has no time of day.
        let keyed = self.keyed.as_mut().filter(|keyed| self.lane.planned() >= keyed.quiet_until());
        keyed.into_iter().for_each(|keyed| keyed.pass(now, &silent));
        // A failure shows when they are called.
        let most = if self.firing.tried.is_some() { MOST_DUE } else { 1 };
        let Ok(due) = self.due_now(most) else { return true };
        if self.firing.tried.take_if(|(tried, _)| !due.contains(tried)).is_some() {
            // Somebody has cleared it, or set it anew.
            self.retrying = None;
        }
        !due.is_empty()
    }

    fn due_now(&mut self, most: usize) -> Result<Vec<Timer>, sluice_state::Error> {
        let Some(keyed) = self.keyed.as_mut().filter(|_| self.chain.has_timers()) else { return Ok(Vec::new()) };
        // What is dealt with again only for the state has no time of day: those timers fire when that is over.
        let is_quiet = keyed.quiet_until() > 0 && self.lane.planned() <= keyed.quiet_until();
        let now = if is_quiet { i64::MIN } else { self.firing.now };
        let mut due = keyed.due_now(now, most)?;
        if self.config.generation.stages.len() > 1 {
            // Of equal times, the earlier stage's come first: what they send is the later one's.
            let place =
                |timer: &Timer| (timer.clock == Clock::EventTime, timer.time, self.chain.position(&timer.stage));
            due.sort_by_key(place);
        }
        Ok(due)
    }

    /// When the lane is to be woken for a timer, by the time of day, or because a writer is idle then.
    pub(super) fn next_timer(&mut self) -> Option<std::time::Duration> {
        /// The time of day may be set anew meanwhile.
        const MOST: u64 = 60_000;
        let keyed = self.keyed.as_mut().filter(|_| self.chain.has_timers())?;
        // A failure shows when they are called.
        let next =
            [keyed.next_by_wall_clock(), keyed.next_idle()].into_iter().filter_map(|next| next.ok().flatten()).min()?;
        let millis = u64::try_from(next.saturating_sub(self.clock.now())).unwrap_or(0).clamp(1, MOST);
        Some(self.clock.elapsed() + std::time::Duration::from_millis(millis))
    }

    /// Has all timers fire that are set by now for a time of events, for no more events are to come.
    pub fn close(&mut self) {
        if let Some(keyed) = self.keyed.as_mut().filter(|_| self.chain.has_timers()) {
            // A failure shows when they are called.
            let _ = keyed.close();
        }
    }

    /// Calls the timers that are due at `from`, where that is to be a call of its own.
    pub(super) fn fire_apart(&mut self, from: u64, at_most: Option<u32>, readable: u64) -> Result<Vec<Timer>, Step> {
        let now = match self.due_now(MOST_DUE) {
            Ok(now) => now,
            Err(error) => {
                self.lane.halt_at(from, HaltKind::Other, error.to_string());
                return Err(Step::Worked);
            }
        };
        let apart = self.is_apart(from, at_most) || from >= readable;
        let Some(first) = now.first().filter(|_| apart) else { return Ok(now) };
        let Some(stage) = self.chain.position(&first.stage) else {
            let gone = "which the pipeline does not have any more: give a stage its name again, or let go of it";
            let reason = format!("{} is of stage {}, {gone}", Told(first), first.stage);
            self.firing.halted = Some(first.clone());
            self.lane.halt_at(from, HaltKind::Timer, reason);
            return Err(Step::Worked);
        };
        let same = now.iter().take_while(|timer| timer.stage == first.stage).count();
        let mut due = Due {
            stage,
            before: vec![0; now.len()],
            timers: now,
            behind: self.sources.behind(from),
            fired_outputs: self.keyed.as_ref().map_or(0, Keyed::fired_outputs),
        };
        let alone = self.chain.sets_timers_behind(stage);
        due.truncate(if alone { 1 } else { same.min(self.firing.at_most.unwrap_or(usize::MAX)) });
        let (source, offset) = due.behind;
        self.batch = ReadBatch { base_offset: offset, ..std::mem::take(&mut self.batch) };
        (self.batch.count, self.batch.bytes) = (0, Vec::new());
        self.batch_at = (from, self.sources.position(source));
        self.chain.point_at(source, self.sources.name(source));
        self.keyed.iter_mut().for_each(|keyed| keyed.begin((self.batch_at.1, &self.batch)));
        self.call(from, &due, false);
        Err(Step::Worked)
    }

    /// Whether events and timers are to be called apart at `from`.
    fn is_apart(&self, from: u64, at_most: Option<u32>) -> bool {
        let quiet_until = self.keyed.as_ref().map_or(0, Keyed::quiet_until);
        let ends = from == quiet_until || self.sources.is_where_again_ends(from);
        at_most.is_some() || self.firing.apart > 0 || !self.chain.takes_timers_between() || ends
    }

    /// The timers that come with the events that were read, of which those are cut off that cannot come along.
    pub(super) fn due_between(
        &mut self,
        from: u64,
        at_most: Option<u32>,
        now: &[Timer],
    ) -> Result<Due, sluice_state::Error> {
        let apart = self.is_apart(from, at_most);
        let Some(keyed) = self.keyed.as_ref().filter(|_| self.chain.has_timers()) else { return Ok(Due::default()) };
        let (due, events) =
            keyed.due_between(now, apart, &self.config.generation.stages[0].name, self.sources.behind(from))?;
        // They were read as a whole: there is nothing malformed in them.
        let _ = self.batch.truncate(events);
        if events == 0 {
            self.firing.apart = self.firing.apart.max(1);
        }
        Ok(due)
    }

    /// A call with timers was made, or one that has to be made with less. What is left to do of it, if it can be used.
    pub(super) fn called_with_timers(&mut self, from: u64, due: &Due, called: Called) -> Option<Called> {
        let events = self.batch.count;
        if let Some(cut) = called.cut {
            self.batch_size.shrink();
            match cut.events {
                0 => (self.firing.apart, self.firing.at_most) = (CALLS_APART, Some(cut.timers.max(1) as usize)),
                events => self.lane.single_out(from + u64::from(events)),
            }
            return None;
        }
        let failed = called.failed.first().or(called.stopped.as_ref()).cloned();
        let of_timer = called.failed_timer.or(failed.as_ref().filter(|_| events == 0).map(|failed| failed.index));
        match (of_timer, failed) {
            (Some(_), Some(failed)) if events == 0 && due.len() == 1 => {
                self.timer_failed(from, &due.timers[0], failed);
                None
            }
            (Some(timer), _) => {
                self.look_apart(Some(timer), events == 0);
                None
            }
            (None, _) => {
                self.firing.apart = self.firing.apart.saturating_sub(1);
                if events == 0 {
                    self.firing.at_most = None;
                    let fired = &due.timers[..called.fired as usize];
                    if self.firing.tried.take_if(|(tried, _)| fired.contains(tried)).is_some() {
                        self.retrying = None;
                    }
                }
                Some(called)
            }
        }
    }

    /// A call with timers did not return, or returned nonsense. Whether that was dealt with.
    pub(super) fn call_with_timers_failed(&mut self, from: u64, due: &Due, stage: usize, error: &CallError) -> bool {
        if due.is_empty() {
            return false;
        }
        if self.batch.count == 0 && due.len() == 1 {
            let error = CallError { in_hand: None, ..error.clone() };
            self.timer_failed(from, &due.timers[0], Failed { index: 0, stage, error, attempts: 1 });
            return true;
        }
        self.state.work.failed(error.kind);
        let in_hand = error.in_hand.filter(|in_hand| in_hand & TIMER_IN_HAND != 0).map(|index| index & !TIMER_IN_HAND);
        // The guest says so, and need not be right.
        let in_hand = in_hand.filter(|index| (*index as usize) < due.len());
        let timers_only = self.batch.count == 0;
        self.look_apart(in_hand.or(timers_only.then_some(due.len() as u32 / 2)), timers_only);
        true
    }

    /// Has events and timers called apart, with at most so many timers first: those before the one that is suspected, then it alone.
    fn look_apart(&mut self, timer: Option<u32>, timers_only: bool) {
        self.firing.apart = CALLS_APART;
        self.firing.at_most = timer.filter(|_| timers_only).map(|timer| timer.max(1) as usize);
    }

    /// A timer failed that was called alone.
    fn timer_failed(&mut self, from: u64, timer: &Timer, failed: Failed) {
        (self.firing.at_most, self.firing.apart) = (Some(1), CALLS_APART);
        self.chain.drop_instances();
        let tried = self.firing.tried.take().filter(|(tried, _)| tried == timer).map_or(0, |(_, attempts)| attempts);
        let failed = Failed { attempts: tried + 1, ..failed };
        self.state.work.failed(failed.error.kind);
        let may_pass = failed.error.kind == crate::port::CallErrorKind::Transient;
        let reason = format!("{}: {}", Told(timer), self.explain(&failed));
        if may_pass && failed.attempts < self.config.generation.errors.retry.attempts {
            self.state.work.retries += 1;
            let until = self.clock.elapsed() + self.config.generation.errors.retry.backoff(failed.attempts, from);
            let (attempts, told) = (failed.attempts, brief(&reason, LINE_CHARS));
            let (source, offset) = self.sources.behind(from);
            tracing::info!(%source, offset, attempts, reason = told, "will be tried again");
            self.note_failure((source, offset), &reason, Fate::TriedAgain);
            self.firing.tried = Some((timer.clone(), attempts));
            self.retrying = Some(Retrying { offset: from, attempts, reason, until });
            return;
        }
        self.retrying = None;
        let mut dead = Batch::default();
        let on_error = self.config.generation.errors.on_error;
        self.note_failure(self.sources.behind(from), &reason, Fate::by(on_error));
        match on_error {
            OnError::Skip => {}
            OnError::DeadLetter { .. } if self.breaker_allows(from, timer) => {
                dead = self.bury_timer(from, timer, &failed);
            }
            OnError::DeadLetter { .. } => {
                let reason =
                    format!("{}; the first one here: {reason}", self.config.generation.errors.breaker.reason());
                return self.lane.halt_at(from, HaltKind::Breaker, reason);
            }
            OnError::Halt => {
                self.firing.halted = Some(timer.clone());
                return self.lane.halt_at(from, HaltKind::Timer, reason);
            }
        }
        self.pass_over_timer(from, timer, dead);
    }

    /// Whether a timer may be dead-lettered.
    fn breaker_allows(&mut self, from: u64, timer: &Timer) -> bool {
        let cursor = self.lane.cursor();
        self.firing.counted.retain(|(offset, _)| *offset >= cursor);
        let is_known = self.firing.counted.iter().any(|(offset, known)| *offset == from && known == timer);
        if !is_known {
            self.firing.counted.push((from, timer.clone()));
        }
        self.config.generation.errors.breaker.allows(u32::from(!is_known), (!is_known).then_some(0).into_iter())
    }

    /// Lets go of a timer that does not go through.
    pub(super) fn pass_over_timer(&mut self, from: u64, timer: &Timer, dead: Batch) {
        self.chain.forget_call();
        let mut changes = sluice_state::Layer::default();
        timer.remove(&mut changes);
        let fired_outputs = self.keyed.as_ref().map_or(0, Keyed::fired_outputs);
        self.commit_changes((from, from), Counts::default(), dead, (changes, fired_outputs, true));
    }

    /// The dead letter of a timer: an event with its key, and its tag as the value.
    fn bury_timer(&self, from: u64, timer: &Timer, failed: &Failed) -> Batch {
        let (source, offset) = self.sources.behind(from);
        let position = DeadLetter {
            timer: Some(DeadTimer {
                clock: match timer.clock {
                    Clock::EventTime => "event-time".to_owned(),
                    Clock::WallClock => "wall-clock".to_owned(),
                },
                time: timer.time,
            }),
            ..self.letter_at((source, offset))
        };
        let letter = failed.letter(position, &self.config.generation.stages[failed.stage], self.clock.now());
        let (mut one, mut dead) = (Batch::default(), Batch::default());
        let event = NewEvent { timestamp: timer.time, key: Some(&timer.key), value: &timer.tag, ..NewEvent::default() };
        let pushed = one.push(&event);
        debug_assert!(pushed.is_ok(), "keys and tags of timers are small");
        for event in one.region().events().flatten() {
            letter.push(&event, source, &mut dead);
        }
        dead
    }
}

/// A timer, as an operator reads of it.
struct Told<'a>(&'a Timer);

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Timer { time, key, tag, .. } = self.0;
        let text = |bytes: &[u8]| crate::legible::legible(&String::from_utf8_lossy(bytes));
        write!(f, "the timer {:?} of key {:?} at {time}", text(tag), text(key))
    }
}
