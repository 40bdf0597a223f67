//! How long something took, again and again, in a fixed number of steps.

use std::time::Duration;

/// Where each step ends, in microseconds; the last one has no end.
pub const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Counts times by how long they were. Two of them add up, and an earlier one can be taken off: what is left is what came since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// By step: those up to its bound that are beyond the one before.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Counts those of another one, too.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, other)| *own += other);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// What came since this one was as `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = std::array::from_fn(|step| self.counts[step].saturating_sub(earlier.counts[step]));
        Self { counts, sum_us: self.sum_us.saturating_sub(earlier.sum_us) }
    }

    /// The time that this share of all did not exceed, in milliseconds, as if times were spread evenly in a step; none when there are none.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let count = self.count();
        let rank = share * count as f64;
        let mut before = 0;
        for (step, own) in self.counts.iter().copied().enumerate() {
            if own > 0 && (before + own) as f64 >= rank {
                let from = if step == 0 { 0 } else { BOUNDS_US[step - 1] } as f64;
                let to = BOUNDS_US.get(step).map_or(from, |bound| *bound as f64);
                return Some((from + (to - from) * ((rank - before as f64) / own as f64)) / 1000.0);
            }
            before += own;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_by_steps_and_what_came_since_is_told() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.5), None);
        let ms = Duration::from_millis;
        for took in [ms(0), ms(1), ms(2), Duration::from_secs(100)] {
            histogram.observe(took);
        }
        assert_eq!((histogram.counts[0], histogram.counts[3], histogram.counts[4], histogram.counts[15]), (1, 1, 1, 1));
        assert_eq!((histogram.count(), histogram.sum_us), (4, 100_003_000));
        assert_eq!(histogram.quantile_ms(0.5), Some(1.0));
        assert_eq!(histogram.quantile_ms(1.0), Some(10_000.0));
        let earlier = histogram;
        (0..100).for_each(|_| histogram.observe(ms(20)));
        let since = histogram.since(&earlier);
        assert_eq!((since.count(), since.quantile_ms(0.5)), (100, Some(17.5)));
        let mut both = earlier;
        both.add(&since);
        assert_eq!(both, histogram);
    }
}
