//! How many events to give to a call.

use std::time::Duration;

/// A call should take about this long: long enough to be cheap, short enough to be stopped, committed and timed.
const TARGET: Duration = Duration::from_millis(10);
/// Where a new instance starts.
const FIRST: u32 = 256;

/// Adapts the number of events per call to how long they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    events: u32,
    max_events: u32,
}

impl BatchSize {
    /// At most `max_events` per call.
    pub fn new(max_events: u32) -> Self {
        Self { events: FIRST.min(max_events.max(1)), max_events: max_events.max(1) }
    }

    /// How many events the next call may get.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Learns that a call with so many events took so long. It at most doubles or halves.
    pub fn learn(&mut self, events: u32, took: Duration) {
        let fitting = u128::from(events) * TARGET.as_nanos() / took.as_nanos().max(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        // A batch that was smaller than it might have been says little about larger ones.
        let most = if events < self.events { self.events } else { self.events.saturating_mul(2) };
        self.events = fitting.clamp((self.events / 2).max(1), most).min(self.max_events);
    }

    /// Learns that a consumer stopped behind so many events, for a timer that it set fires there; it may well stop as soon again.
    pub fn stopped(&mut self, events: u32) {
        self.events = self.events.min(events.saturating_mul(2).max(16));
    }

    /// Learns that a call was too much: it did not return in time, or broke a limit.
    pub fn shrink(&mut self) {
        self.events = (self.events / 8).max(1);
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
}
