//! The decisions for one pipeline on one source partition.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_log::{Advice, Error};

/// Why a lane stands still until somebody acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Halt {
    /// Where: the event that blocks, or the next one.
    pub offset: u64,
    /// What happened.
    pub reason: String,
    /// What kind of reason that is.
    pub kind: HaltKind,
}

/// What makes a lane stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HaltKind {
    /// An event that does not go through.
    Event,
    /// A timer that does not go through, before the event there.
    Timer,
    /// So many events failed that the pipeline stopped before it would write more dead letters.
    Breaker,
    /// Damage to the log: no plugin is to blame.
    Damage,
    /// No event in particular: no instance can be made, or the log refuses.
    Other,
}

impl Halt {
    /// Because of what the log says.
    fn by(offset: u64, error: &Error) -> Self {
        let damaged = matches!(error, Error::Damaged { .. });
        Self { offset, reason: error.to_string(), kind: if damaged { HaltKind::Damage } else { HaltKind::Other } }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Read from this offset, at most so many events where there is a bound, and call the consumer.
    Call {
        /// Where to read; there may be nothing there, where timers are due.
        from: u64,
        /// A bound while a culprit is looked for.
        at_most: Option<u32>,
    },
    /// Nothing before a commit is answered.
    AwaitCommits,
    /// Ask where the cursor is, for somebody else has moved it, and go on from there.
    Resync,
    /// Nothing before there are new events.
    Idle,
    /// Nothing before the time has come to try again.
    Backoff,
    /// Nothing until somebody acts.
    Halted,
}

/// An attempt whose commit has not been answered.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    id: u64,
    to: u64,
    /// It was planned on one that failed; its answer is awaited, but it cannot succeed.
    discarded: bool,
    /// What is planned on it would not be fenced, should it fail: nothing is, before it is answered.
    last: bool,
}

/// Decides, and does nothing itself.
///
/// **Attempts commit in order, each from where the one before ends.** When one fails to commit, it and every later one are
/// discarded; nothing new is planned before all of these are answered, and then from the last survivor's end.
#[derive(Debug, Clone)]
pub struct Lane {
    /// All before it is committed.
    cursor: u64,
    /// All before it is committed or in flight.
    planned: u64,
    in_flight: VecDeque<InFlight>,
    next_id: u64,
    max_in_flight: usize,
    backoff: bool,
    resync: bool,
    halt: Option<Halt>,
    suspect: Option<Suspect>,
    /// Calls in a row that failed with the suspect among their events.
    failed_calls: u32,
}

/// How a culprit is looked for after a call failed.
#[derive(Debug, Clone, Copy)]
enum Suspect {
    /// The guest named it: first the events before it, then it alone.
    Named { culprit: u64 },
    /// Halves, until one event is left.
    Among { until: u64, at_most: u32 },
}

impl Lane {
    /// A lane whose cursor stands at `cursor`, with at most so many attempts in flight.
    pub fn new(cursor: u64, max_in_flight: usize) -> Self {
        Self {
            cursor,
            planned: cursor,
            in_flight: VecDeque::new(),
            next_id: 0,
            max_in_flight: max_in_flight.max(1),
            backoff: false,
            resync: false,
            halt: None,
            suspect: None,
            failed_calls: 0,
        }
    }

    /// From now on at most so many attempts may be in flight.
    pub fn set_max_in_flight(&mut self, max: usize) {
        self.max_in_flight = max.max(1);
    }

    /// All events before this offset are committed.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// All events before this offset are committed or in flight.
    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// Why it stands still, if it does.
    pub fn halt(&self) -> Option<&Halt> {
        self.halt.as_ref()
    }

    /// Whether every attempt has been answered.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// What to do now, with the source readable up to `high_watermark`; `timers_due` says whether timers wait to fire.
    pub fn next(&self, high_watermark: u64, timers_due: bool) -> Next {
        let waits = |attempt: &InFlight| attempt.discarded || attempt.last;
        if self.in_flight.iter().any(waits) || self.in_flight.len() >= self.max_in_flight {
            return Next::AwaitCommits;
        }
        if self.resync {
            return if self.is_settled() { Next::Resync } else { Next::AwaitCommits };
        }
        if self.halt.is_some() {
            return if self.is_settled() { Next::Halted } else { Next::AwaitCommits };
        }
        if self.backoff {
            return Next::Backoff;
        }
        if self.planned >= high_watermark && !timers_due {
            return if self.is_settled() { Next::Idle } else { Next::AwaitCommits };
        }
        let at_most = self.suspect.map(|suspect| match suspect {
            Suspect::Named { culprit } if self.planned < culprit => (culprit - self.planned) as u32,
            Suspect::Named { .. } => 1,
            Suspect::Among { at_most, .. } => at_most,
        });
        Next::Call { from: self.planned, at_most }
    }

    /// A call returned and dealt with all events up to `to`; its commit is about to be submitted. The attempt's number.
    pub fn submitted(&mut self, to: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.planned = to;
        self.in_flight.push_back(InFlight { id, to, discarded: false, last: false });
        // A suspect that went through alone was innocent.
        self.suspect = self.suspect.and_then(|suspect| match suspect {
            Suspect::Named { culprit } => (to <= culprit).then_some(suspect),
            Suspect::Among { until, .. } if to >= until => None,
            // The culprit is among the rest.
            Suspect::Among { until, .. } => Some(Suspect::Among { until, at_most: half(until - to) }),
        });
        if self.suspect.is_none() {
            self.failed_calls = 0;
        }
        id
    }

    /// Has nothing planned before the last attempt is answered.
    pub fn wait(&mut self) {
        self.in_flight.back_mut().into_iter().for_each(|attempt| attempt.last = true);
    }

    /// A call with the events `from..to` did not return, or returned nonsense. What was in hand is tried alone, or the
    /// events are halved, until one event is left. Then that is the culprit, and how often it was tried is the answer.
    pub fn call_failed(&mut self, from: u64, to: u64, in_hand: Option<u32>) -> Option<u32> {
        self.failed_calls += 1;
        if to - from <= 1 {
            return Some(self.failed_calls);
        }
        self.suspect = Some(match in_hand.map(|index| from + u64::from(index)).filter(|culprit| *culprit < to) {
            Some(culprit) => Suspect::Named { culprit },
            None => Suspect::Among { until: to, at_most: half(to - from) },
        });
        None
    }

    /// Has an event called alone, after those before it: what it does cannot be told from what others do, or timers fire before it.
    pub fn single_out(&mut self, culprit: u64) {
        self.suspect = Some(Suspect::Named { culprit });
    }

    /// The event at `offset` cannot be dealt with, or nothing from there on; all before it were.
    pub fn halt_at(&mut self, offset: u64, kind: HaltKind, reason: String) {
        self.halt = Some(Halt { offset, reason, kind });
    }

    /// Tries again what it stands still at. What it stood still at, if it did.
    pub fn resume(&mut self) -> Option<Halt> {
        (self.suspect, self.failed_calls) = (None, 0);
        self.halt.take()
    }

    /// The event at `offset` cannot be read, or the log refuses what became of it.
    pub fn halt_by(&mut self, offset: u64, error: &Error) {
        self.halt = Some(Halt::by(offset, error));
    }

    /// A commit was made. False when it should not have been: it was planned on one that failed.
    pub fn committed(&mut self, id: u64) -> bool {
        let Some(at) = self.in_flight.iter().position(|attempt| attempt.id == id) else { return false };
        let Some(attempt) = self.in_flight.remove(at) else { return false };
        if attempt.discarded {
            return false;
        }
        self.cursor = self.cursor.max(attempt.to);
        true
    }

    /// A commit was refused: it falls, and with it all planned on it. True when the instance must go as well, because it
    /// has seen what never happened.
    pub fn commit_failed(&mut self, id: u64, error: &Error) -> bool {
        let Some(at) = self.in_flight.iter().position(|attempt| attempt.id == id) else { return false };
        let failed = self.in_flight.remove(at);
        let first = failed.is_some_and(|attempt| !attempt.discarded);
        self.in_flight.iter_mut().skip(at).for_each(|attempt| attempt.discarded = true);
        // Everything before the failed one was answered before it, for commits are answered in order.
        self.planned = self.in_flight.iter().take(at).next_back().map_or(self.cursor, |attempt| attempt.to);
        (self.suspect, self.failed_calls) = (None, 0);
        match error.advice() {
            Advice::Retry => {
                self.backoff = true;
                // A halt further on came of an attempt that is discarded now; it will come again.
                self.halt = self.halt.take().filter(|halt| halt.offset <= self.planned);
            }
            // Those that fall with another one are fenced as a matter of course.
            Advice::Resync if !first => {}
            Advice::Resync => self.resync = true,
            Advice::Fix | Advice::StopPartition | Advice::StopNode => {
                self.halt = self.halt.take().filter(|halt| halt.offset <= self.planned);
                self.halt.get_or_insert_with(|| Halt::by(self.cursor, error));
            }
        }
        first
    }

    /// An attempt that was not submitted falls, and with it all planned on it.
    pub fn take_back(&mut self, id: u64) {
        let Some(at) = self.in_flight.iter().position(|attempt| attempt.id == id) else { return };
        self.in_flight.truncate(at);
        self.planned = self.in_flight.back().map_or(self.cursor, |attempt| attempt.to);
        (self.suspect, self.failed_calls) = (None, 0);
        self.halt = self.halt.take().filter(|halt| halt.offset <= self.planned);
    }

    /// Storage refuses for the moment: nothing is planned before [`retry`](Self::retry).
    pub fn back_off(&mut self) {
        self.backoff = true;
    }

    /// Whether it waits for [`retry`](Self::retry).
    pub fn is_backing_off(&self) -> bool {
        self.backoff
    }

    /// Somebody else has moved the cursor: all that is in flight falls, and nothing is planned before it is known where to go
    /// on.
    pub fn resync(&mut self) {
        self.in_flight.iter_mut().for_each(|attempt| attempt.discarded = true);
        (self.resync, self.halt, self.suspect, self.failed_calls) = (true, None, None, 0);
    }

    /// Goes on from `cursor`. Nothing may be in flight.
    pub fn go_on_from(&mut self, cursor: u64) {
        *self = Self { next_id: self.next_id, ..Self::new(cursor, self.max_in_flight) };
    }

    /// The time has come to try again.
    pub fn retry(&mut self) {
        self.backoff = false;
    }
}

/// Half of so many events, but at least one.
fn half(events: u64) -> u32 {
    u32::try_from(events / 2).unwrap_or(u32::MAX).max(1)
}
