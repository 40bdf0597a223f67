//! How many events to give to a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A call should take about this long: long enough to be cheap, short enough to be stopped, committed and timed.
const TARGET: Duration = Duration::from_millis(10);
/// Where the first lane starts.
const FIRST: u32 = 256;

/// Adapts the number of events per call to how long they take. A clone learns for itself, and begins with what others have learned last.
#[derive(Debug, Clone)]
pub struct BatchSize {
    events: Option<u32>,
    max_events: u32,
    learned: Arc<AtomicU32>,
}

impl BatchSize {
    /// At most `max_events` per call.
    pub fn new(max_events: u32) -> Self {
        let max_events = max_events.max(1);
        Self { events: None, max_events, learned: Arc::new(AtomicU32::new(FIRST.min(max_events))) }
    }

    /// How many events the next call may get.
    pub fn events(&self) -> u32 {
        self.events.unwrap_or_else(|| self.learned.load(Ordering::Relaxed))
    }

    fn set(&mut self, events: u32) {
        self.events = Some(events);
        self.learned.store(events, Ordering::Relaxed);
    }

    /// Learns that a call with so many events took so long. It at most doubles or halves.
    pub fn learn(&mut self, events: u32, took: Duration) {
        let fitting = u128::from(events) * TARGET.as_nanos() / took.as_nanos().max(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        let now = self.events();
        // A batch that was smaller than it might have been says little about larger ones.
        let most = if events < now { now } else { now.saturating_mul(2) };
        self.set(fitting.clamp((now / 2).max(1), most).min(self.max_events));
    }

    /// Learns that a consumer stopped behind so many events, for a timer that it set fires there; it may well stop as soon again.
    pub fn stopped(&mut self, events: u32) {
        self.set(self.events().min(events.saturating_mul(2).max(16)));
    }

    /// Learns that a call was too much: it did not return in time, or broke a limit.
    pub fn shrink(&mut self) {
        self.set((self.events() / 8).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_calls_grow_and_slow_ones_shrink_within_bounds() {
        let mut size = BatchSize::new(4096);
        for _ in 0..20 {
            let events = size.events();
            size.learn(events, Duration::from_micros(u64::from(events)));
        }
        assert_eq!(size.events(), 4096);
        for _ in 0..20 {
            let events = size.events();
            size.learn(events, Duration::from_millis(u64::from(events)));
        }
        assert_eq!(size.events(), 10);
        size.learn(10, Duration::from_secs(9));
        assert_eq!(size.events(), 5);
    }

    #[test]
    fn a_lane_begins_with_what_another_has_learned_and_goes_its_own_way() {
        let size = BatchSize::new(4096);
        let (mut fast, mut slow) = (size.clone(), size.clone());
        fast.learn(256, Duration::from_micros(256));
        assert_eq!((fast.events(), size.clone().events()), (512, 512));
        slow.learn(256, Duration::from_secs(1));
        assert_eq!((fast.events(), slow.events(), size.events()), (512, 256, 256));
    }
}
