//! Event time: how far a partition has come, by what its writers have written.
//!
//! The watermark before an event follows from the events before it, so a replay comes to the same: **nothing here looks at a clock**, but for
//! [`Watermarks::pass`], by which what is idle does not hold up the others when no event comes at all.

use std::sync::Arc;

/// Who wrote an event: a pipeline on one of its source partitions (topic, partition), or anybody else.
pub type Writer = (u32, u32);

/// Everybody who is no pipeline.
pub(crate) const OUTSIDE: Writer = (u32::MAX, u32::MAX);

/// What `[time]` says. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimePolicy {
    /// How long after a timestamp earlier ones are still in time.
    pub lateness: i64,
    /// A writer that has written nothing for so long holds up nobody.
    pub idle_after: i64,
    /// A timestamp that is further ahead of the time it was appended counts for nothing.
    pub max_ahead: i64,
    /// The sink, by its position, to which late events go in place of the consumer.
    pub late_sink: Option<usize>,
    /// Writers that are known of from the beginning: until each has written something, or is idle, there is no watermark.
    pub writers: Vec<Writer>,
}

impl Default for TimePolicy {
    fn default() -> Self {
        Self { lateness: 0, idle_after: i64::MAX, max_ahead: i64::MAX, late_sink: None, writers: Vec::new() }
    }
}

/// What is known of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) writer: Writer,
    /// The newest timestamp that counts; the beginning of time while there is none.
    pub(crate) newest: i64,
    /// When it last wrote something.
    pub(crate) at: i64,
    /// It is not what the changelog says of it.
    pub(crate) changed: bool,
}

/// The watermark of a partition, and how it comes about.
#[derive(Debug, Clone)]
pub(crate) struct Watermarks {
    policy: Arc<TimePolicy>,
    writers: Vec<Seen>,
    /// The one that wrote last.
    last: usize,
    /// The newest time at which anything was appended.
    now: i64,
    /// Until then no writer becomes idle that was not.
    idle_at: i64,
    current: Option<i64>,
}

impl Watermarks {
    /// As it stands, with what is known of the writers.
    pub(crate) fn of(policy: &Arc<TimePolicy>, current: Option<i64>, writers: Vec<Seen>) -> Self {
        let now = writers.iter().map(|seen| seen.at).max().unwrap_or(i64::MIN);
        Self { policy: policy.clone(), writers, last: 0, now, idle_at: i64::MIN, current }
    }

    /// The watermark.
    pub(crate) fn current(&self) -> Option<i64> {
        self.current
    }

    /// An event was written at a time of day, with a timestamp. Whether it is late.
    pub(crate) fn event(&mut self, writer: Writer, timestamp: i64, appended: i64) -> bool {
        let is_late = self.current.is_some_and(|current| timestamp < current);
        if self.writers.is_empty() {
            let known = self.policy.writers.iter();
            let seen = |writer: &Writer| Seen { writer: *writer, newest: i64::MIN, at: appended, changed: true };
            self.writers.extend(known.map(seen));
        }
        if self.writers.get(self.last).is_none_or(|seen| seen.writer != writer) {
            self.last = self.find(writer, appended);
        }
        self.now = self.now.max(appended);
        let seen = &mut self.writers[self.last];
        let counts = timestamp.saturating_sub(appended) <= self.policy.max_ahead;
        let before = seen.newest;
        if counts && timestamp > before {
            seen.newest = timestamp;
        }
        let held_up = before.saturating_sub(self.policy.lateness) <= self.current.unwrap_or(i64::MIN);
        let was_idle = self.now.saturating_sub(seen.at) > self.policy.idle_after;
        (seen.at, seen.changed) = (self.now, true);
        // Only who holds the watermark up can let it go on, unless somebody becomes idle.
        if (held_up && seen.newest > before) || was_idle || self.now > self.idle_at {
            self.look();
        }
        is_late
    }

    fn find(&mut self, writer: Writer, appended: i64) -> usize {
        if let Some(at) = self.writers.iter().position(|seen| seen.writer == writer) {
            return at;
        }
        self.writers.push(Seen { writer, newest: i64::MIN, at: appended, changed: true });
        self.writers.len() - 1
    }

    /// It is this time of day, and nothing more was written before it: who is idle holds up nobody.
    pub(crate) fn pass(&mut self, now: i64) {
        if now > self.idle_at && now > self.now && !self.writers.is_empty() {
            self.now = now;
            self.look();
        }
    }

    /// When the next writer becomes idle that holds the others up; `None` when that changes nothing.
    pub(crate) fn next_idle(&self) -> Option<i64> {
        let newest = self.writers.iter().map(|seen| seen.newest).max()?;
        let held_up = self.current.is_none_or(|current| newest.saturating_sub(self.policy.lateness) > current);
        let is_active = |seen: &&Seen| self.now.saturating_sub(seen.at) <= self.policy.idle_after;
        let first = self.writers.iter().filter(is_active).map(|seen| seen.at).min()?;
        (held_up && self.policy.idle_after < i64::MAX)
            .then(|| first.saturating_add(self.policy.idle_after).saturating_add(1))
    }

    fn look(&mut self) {
        let Self { policy, writers, now, .. } = self;
        let is_active = |seen: &&Seen| now.saturating_sub(seen.at) <= policy.idle_after;
        // Where all are idle, there is nobody to wait for.
        let active = writers.iter().filter(is_active).map(|seen| seen.newest).min();
        let first = active.or(writers.iter().map(|seen| seen.newest).max());
        self.idle_at = writers
            .iter()
            .filter(is_active)
            .map(|seen| seen.at.saturating_add(policy.idle_after))
            .min()
            .unwrap_or(i64::MAX);
        if let Some(first) = first.filter(|first| *first > i64::MIN) {
            self.current = self.current.max(Some(first.saturating_sub(policy.lateness)));
        }
    }

    /// What is to be kept of the writers that have changed. Nothing of a partition that only others than pipelines write to: it follows from the
    /// watermark.
    pub(crate) fn take_changed(&mut self) -> Vec<Seen> {
        if self.writers.iter().all(|seen| seen.writer == OUTSIDE) {
            return Vec::new();
        }
        let changed = self.writers.iter_mut().filter(|seen| seen.changed);
        changed
            .map(|seen| {
                seen.changed = false;
                *seen
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Writer = (1, 0);
    const B: Writer = (1, 1);

    fn marks(policy: TimePolicy) -> Watermarks {
        Watermarks::of(&Arc::new(policy), None, Vec::new())
    }

    #[test]
    fn it_is_the_newest_timestamp_less_the_lateness_and_never_goes_back() {
        let mut marks = marks(TimePolicy { lateness: 10, ..TimePolicy::default() });
        assert_eq!(marks.current(), None);
        for (timestamp, late, current) in [(100, false, 90), (95, false, 90), (120, false, 110), (109, true, 110)] {
            assert_eq!(marks.event(OUTSIDE, timestamp, 0), late);
            assert_eq!(marks.current(), Some(current));
        }
    }

    #[test]
    fn it_is_that_of_the_slowest_writer_and_waits_for_those_that_are_known_of() {
        let mut marks = marks(TimePolicy { writers: vec![A, B], ..TimePolicy::default() });
        marks.event(A, 100, 0);
        assert_eq!(marks.current(), None, "the other one has written nothing");
        marks.event(B, 40, 0);
        assert_eq!(marks.current(), Some(40));
        marks.event(A, 200, 0);
        assert_eq!(marks.current(), Some(40));
        marks.event(B, 150, 0);
        assert_eq!(marks.current(), Some(150));
        marks.event(B, 300, 0);
        assert_eq!(marks.current(), Some(200));
        // A new one does not take it back.
        assert!(marks.event(OUTSIDE, 50, 0));
        assert_eq!(marks.current(), Some(200));
        marks.event(A, 400, 0);
        assert_eq!(marks.current(), Some(200), "the new one holds up");
    }

    #[test]
    fn who_is_idle_holds_up_nobody_by_the_times_of_appending_or_by_the_clock() {
        let policy = TimePolicy { idle_after: 30, writers: vec![A, B], ..TimePolicy::default() };
        let mut marks = marks(policy);
        marks.event(A, 100, 1000);
        assert_eq!(marks.next_idle(), Some(1031));
        marks.event(A, 110, 1030);
        assert_eq!(marks.current(), None);
        marks.event(A, 120, 1031);
        assert_eq!(marks.current(), Some(120), "the other one is idle");
        marks.event(B, 90, 1032);
        marks.event(A, 130, 1032);
        assert_eq!(marks.current(), Some(120), "it is back");
        assert_eq!(marks.next_idle(), Some(1063));
        marks.pass(1062);
        assert_eq!(marks.current(), Some(120));
        // Both are idle then: there is nobody to wait for.
        marks.pass(1063);
        assert_eq!((marks.current(), marks.next_idle()), (Some(130), None));
    }

    #[test]
    fn what_is_too_far_ahead_counts_for_nothing() {
        let mut marks = marks(TimePolicy { max_ahead: 60, ..TimePolicy::default() });
        marks.event(OUTSIDE, 1060, 1000);
        assert_eq!(marks.current(), Some(1060));
        assert!(!marks.event(OUTSIDE, 9_000_000, 1000));
        assert_eq!(marks.current(), Some(1060));
    }

    #[test]
    fn what_is_kept_of_the_writers_is_enough_to_go_on() {
        let policy = Arc::new(TimePolicy { idle_after: 50, lateness: 5, writers: vec![A, B], ..TimePolicy::default() });
        let (mut marks, mut kept) = (Watermarks::of(&policy, None, Vec::new()), Vec::<Seen>::new());
        let mut random = 7_u64;
        for step in 0..500 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            let below = |n: u64, shift: u32| ((random >> shift) % n).cast_signed();
            let writer = [A, B, (2, 7)][below(3, 40).unsigned_abs() as usize];
            let (timestamp, appended) = (step * 3 - below(30, 20), step * 2 + below(2, 50));
            marks.event(writer, timestamp, appended);
            for seen in marks.take_changed() {
                kept.retain(|old| old.writer != seen.writer);
                kept.push(seen);
            }
            // As after a restart.
            let mut other = Watermarks::of(&policy, marks.current(), kept.clone());
            let mut one = marks.clone();
            for writer in [A, B, A] {
                assert_eq!(
                    one.event(writer, timestamp + 9, appended + 4),
                    other.event(writer, timestamp + 9, appended + 4)
                );
                assert_eq!(one.current(), other.current(), "step {step}");
            }
        }
    }
}
