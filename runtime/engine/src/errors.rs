//! What becomes of events that fail: tried again, dead-lettered, skipped, or in the way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_env::Rng;
use sluice_event::Batch;
use sluice_log::{Append, TopicPartition};

use crate::chain::StageConfig;
use crate::dead_letter::DeadLetter;
use crate::port::{CallError, CallErrorKind};

/// What a pipeline does about events that fail.
#[derive(Debug, Clone)]
pub struct ErrorPolicy {
    /// How an event is tried again whose failure may pass.
    pub retry: Retry,
    /// What becomes of an event that will not go through.
    pub on_error: OnError,
    /// Stops a pipeline that would dead-letter nearly everything.
    pub breaker: Arc<Breaker>,
}

impl ErrorPolicy {
    /// Every failure blocks, and nothing is tried again.
    pub fn halt() -> Self {
        let retry = Retry { attempts: 1, initial_backoff: Duration::ZERO, max_backoff: Duration::ZERO };
        Self { retry, on_error: OnError::Halt, breaker: Arc::new(Breaker::new(1, 1)) }
    }
}

/// What becomes of an event that will not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It goes to this topic, with what is known of its failure.
    DeadLetter {
        /// The topic's id.
        topic: u32,
        /// How many partitions the topic has.
        partitions: u32,
    },
    /// It blocks its partition until somebody acts.
    Halt,
    /// It is counted and passed over.
    Skip,
}

impl OnError {
    /// A batch of dead letters from a source partition as it is appended, if there are any.
    pub(crate) fn appends(self, source: TopicPartition, dead: Batch) -> Vec<Append> {
        let Self::DeadLetter { topic, partitions } = self else { return Vec::new() };
        let to = TopicPartition { topic, partition: source.partition % partitions };
        if dead.is_empty() { Vec::new() } else { vec![Append::new(to, dead)] }
    }
}

/// How an event is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often it is tried in all, at least once.
    pub attempts: u32,
    /// How long to wait before the second attempt; twice as long before each one after that.
    pub initial_backoff: Duration,
    /// No wait is longer.
    pub max_backoff: Duration,
}

impl Retry {
    /// How long to wait after so many attempts: between half of the backoff and all of it. `seed` tells events apart, so
    /// that those which failed together do not all come back together.
    pub fn backoff(&self, attempts: u32, seed: u64) -> Duration {
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let backoff = self.initial_backoff.saturating_mul(factor).min(self.max_backoff);
        let random = Rng::from_seed(seed ^ u64::from(attempts)).next_u64();
        backoff.mul_f64(0.5 + 0.5 * ((random >> 40) as f64 / f64::from(1 << 24)))
    }
}

/// An event of a batch that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its index in the batch that was read.
    pub index: u32,
    /// The stage, by its position.
    pub stage: usize,
    /// What happened.
    pub error: CallError,
    /// How often it was tried.
    pub attempts: u32,
}

impl Failed {
    /// As the consumer says.
    pub(crate) fn told(index: u32, stage: usize, kind: CallErrorKind, reason: String) -> Self {
        Self { index, stage, error: CallError::new(kind, reason), attempts: 1 }
    }

    /// A dead letter of an event whose position `letter` tells.
    pub(crate) fn letter(&self, letter: DeadLetter, stage: &StageConfig, time: i64) -> DeadLetter {
        DeadLetter {
            stage: stage.name.clone(),
            plugin: stage.digest.to_string(),
            kind: self.error.kind.name().to_owned(),
            reason: self.error.message.clone(),
            backtrace: self.error.backtrace.clone(),
            attempts: self.attempts,
            time,
            ..letter
        }
    }
}

/// Opens when too many of the last events failed; shared by all lanes of a pipeline.
#[derive(Debug)]
pub struct Breaker {
    window: usize,
    max_failures: usize,
    state: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// Whether each of the last events failed, as runs of equal ones: how many, and whether they failed.
    runs: VecDeque<(usize, bool)>,
    events: usize,
    failures: usize,
    open: bool,
}

impl Window {
    fn push(&mut self, count: usize, failed: bool, window: usize) {
        match self.runs.back_mut() {
            Some((events, same)) if *same == failed => *events += count,
            _ => self.runs.push_back((count, failed)),
        }
        self.events += count;
        self.failures += if failed { count } else { 0 };
        while self.events > window {
            let over = self.events - window;
            let Some((events, failed)) = self.runs.front_mut() else { break };
            let gone = over.min(*events);
            *events -= gone;
            self.events -= gone;
            self.failures -= if *failed { gone } else { 0 };
            if *events == 0 {
                self.runs.pop_front();
            }
        }
    }
}

impl Breaker {
    /// One that opens when more than `max_failures` of the last `window` events failed.
    pub fn new(window: u32, max_failures: u32) -> Self {
        Self { window: window as usize, max_failures: max_failures as usize, state: Mutex::default() }
    }

    /// Learns of a batch: how many events it had, and the indices of those that failed, in order. False when it is open, or
    /// opens because of them: then none of the failures may be written.
    pub(crate) fn allows(&self, events: u32, failed: impl Iterator<Item = u32>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        for index in failed {
            state.push((index - at) as usize, false, self.window);
            state.push(1, true, self.window);
            at = index + 1;
            state.open |= state.failures > self.max_failures;
        }
        state.push((events - at) as usize, false, self.window);
        !state.open
    }

    /// Whether it has opened.
    pub fn is_open(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open
    }

    /// Closes it and forgets what it learned.
    pub fn reset(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Window::default();
    }

    /// What it says when it has opened.
    pub fn reason(&self) -> String {
        let Self { window, max_failures, .. } = self;
        format!("more than {max_failures} of the last {window} events failed; `breaker` in [errors] sets that bound")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_counts_the_last_events_only() {
        let breaker = Breaker::new(10, 3);
        assert!(breaker.allows(10, [0, 1, 2].into_iter()));
        // Seven more push three failures of the ten out, one by one.
        assert!(breaker.allows(1, std::iter::empty()));
        assert!(breaker.allows(1, [0].into_iter()), "the first failure has left the window");
        assert!(!breaker.allows(10, [0, 1, 2, 3].into_iter()));
        assert!(!breaker.allows(100, std::iter::empty()), "it does not close by itself");
        breaker.reset();
        assert!(breaker.allows(3, [0, 1, 2].into_iter()));
        assert!(!breaker.allows(1, [0].into_iter()), "a window that is not full yet counts too");
    }

    #[test]
    fn backoff_doubles_up_to_its_bound_and_is_spread() {
        let retry =
            Retry { attempts: 9, initial_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(1) };
        for seed in 0..100 {
            for (attempts, most) in [(1, 200), (2, 400), (3, 800), (4, 1000), (200, 1000)] {
                let backoff = retry.backoff(attempts, seed).as_millis();
                assert!((most / 2..=most).contains(&backoff), "{backoff} after {attempts}");
            }
        }
        let different: std::collections::BTreeSet<_> = (0..100).map(|seed| retry.backoff(1, seed)).collect();
        assert!(different.len() > 90);
    }
}
