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
    verdict: Mutex<Verdict>,
    told: Box<dyn Fn() + Send + Sync>,
}

impl Probation {
    /// One that is passed after so many batches. With `hold_outputs`, nothing is committed before it has ended. `told` is called, from a lane's thread,
    /// when there is a verdict.
    pub fn new(batches: u64, hold_outputs: bool, told: impl Fn() + Send + Sync + 'static) -> Self {
        let verdict = Mutex::new(Verdict::Open);
        Self { batches, hold_outputs, dealt: AtomicU64::new(0), verdict, told: Box::new(told) }
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

/// The generation that is asked, should the one on probation fail.
#[derive(Clone)]
pub struct Before {
    /// Its stages.
    pub stages: Vec<StageConfig>,
    /// Where its outputs would go.
    pub sinks: Vec<Sink>,
}
