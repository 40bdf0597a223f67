//! A new generation is watched for a while: whether it fails where the one before does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::chain::StageConfig;
use crate::router::Sink;

/// What came of a probation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Open,
    /// It did as well as the generation before.
    Passed,
    /// It failed where the generation before does not, as this says.
    Failed(String),
}

/// The probation of a generation, shared by all lanes of its pipeline.
pub struct Probation {
    batches: u64,
    hold_outputs: bool,
    dealt: AtomicU64,
    /// Events dealt with, and those among them that were given up; where the generation before cannot be asked.
    events: AtomicU64,
    given_up: AtomicU64,
    verdict: Mutex<Verdict>,
    told: Box<dyn Fn() + Send + Sync>,
}

impl Probation {
    /// One that is passed after so many batches. With `hold_outputs`, nothing is committed before it has ended. `told` is called, from a lane's thread,
    /// when there is a verdict.
    pub fn new(batches: u64, hold_outputs: bool, told: impl Fn() + Send + Sync + 'static) -> Self {
        let verdict = Mutex::new(Verdict::Open);
        let [dealt, events, given_up] = [const { AtomicU64::new(0) }; 3];
        Self { batches, hold_outputs, dealt, events, given_up, verdict, told: Box::new(told) }
    }

    /// Batches dealt with, all lanes together.
    pub fn dealt(&self) -> u64 {
        self.dealt.load(Ordering::Relaxed)
    }

    /// Batches after which it is passed.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Whether nothing is committed meanwhile.
    pub fn holds_outputs(&self) -> bool {
        self.hold_outputs
    }

    /// What came of it.
    pub fn verdict(&self) -> Verdict {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, unless it has ended: whatever comes later counts no more.
    pub fn end(&self, verdict: Verdict) {
        let mut own = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        if *own == Verdict::Open {
            *own = verdict;
            drop(own);
            (self.told)();
        }
    }

    /// Events were dealt with, of which some are to be given up. Whether these are more than they would be at the rate of the generation before, which gave up
    /// so many of so many; that is not known exactly, and so may be doubled.
    pub(crate) fn gives_up_more(&self, events: u64, given_up: u64, (known, of): (u64, u64)) -> bool {
        let events = self.events.fetch_add(events, Ordering::Relaxed) + events;
        let own = self.given_up.fetch_add(given_up, Ordering::Relaxed) + given_up;
        /// Where it gave up any, a few may come together by chance.
        const BY_CHANCE: u64 = 2;
        let expected = 2 * u128::from(known) * u128::from(events) / u128::from(of.max(1));
        let most = if known == 0 { 0 } else { expected + u128::from(BY_CHANCE) };
        given_up > 0 && u128::from(own) > most
    }

    /// One more batch was dealt with.
    pub(crate) fn deal(&self) {
        if self.dealt.fetch_add(1, Ordering::Relaxed) + 1 == self.batches {
            self.end(Verdict::Passed);
        }
    }
}

impl std::fmt::Debug for Probation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probation").field("dealt", &self.dealt).field("verdict", &self.verdict).finish_non_exhaustive()
    }
}

/// The generation before, that the one on probation is held against.
#[derive(Clone)]
pub enum Before {
    /// It is asked, should the one on probation fail.
    Asked {
        /// Its stages.
        stages: Vec<StageConfig>,
        /// Where its outputs would go.
        sinks: Vec<Sink>,
    },
    /// It cannot be asked, for the state has another shape by now: what is known of how it did.
    Known {
        /// Events that it gave up: dead-lettered, or skipped.
        given_up: u64,
        /// Events that it dealt with, those among them.
        events: u64,
    },
}
