//! Event time: how far a partition has come, by what its writers have written.
//!
//! The watermark before an event follows from the events before it, so a replay comes to the same: **nothing here looks at a clock**, but for
//! [`Watermarks::pass`], by which what is idle does not hold up the others when no event comes at all.

use std::sync::Arc;

use sluice_state::WriterSeen;

/// Who wrote an event: a pipeline on one of its source partitions (topic, partition), or anybody else.
pub type Writer = (u32, u32);

/// Everybody who is no pipeline.
pub(crate) const OUTSIDE: Writer = (u32::MAX, u32::MAX);
/// No writer: in its place stand the time of day up to which it is known that nobody wrote anything and, of several topics, the watermark of this one.
const NOBODY: Writer = (u32::MAX, u32::MAX - 1);

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
    /// Of each source topic, writers that are known of from the beginning: until each has written something, or is idle, there is no watermark.
    pub writers: Vec<Vec<Writer>>,
}

impl Default for TimePolicy {
    fn default() -> Self {
        Self { lateness: 0, idle_after: i64::MAX, max_ahead: i64::MAX, late_sink: None, writers: Vec::new() }
    }
}

/// The watermark of a lane, and how it comes about: that of its source topic or, where there are several, the least of theirs. A topic whose writers
/// are all idle is left out, as a writer is.
#[derive(Debug, Clone)]
pub(crate) struct EventTime {
    topics: Vec<Watermarks>,
    current: Option<i64>,
}

impl EventTime {
    /// As it stands, with what is known of the writers of these source topics.
    pub(crate) fn of(policy: &Arc<TimePolicy>, topics: &[u32], current: Option<i64>, writers: &[WriterSeen]) -> Self {
        let of_topic = |(index, topic): (usize, &u32)| {
            let own = writers.iter().filter(|seen| seen.topic == *topic);
            let mut marks = Watermarks::of(policy, (index, *topic), own);
            if topics.len() == 1 {
                marks.current = current;
            } else {
                // It never goes back, also where a writer is behind that was idle before.
                let kept = writers.iter().find(|seen| (seen.topic, seen.writer) == (*topic, NOBODY));
                marks.current = kept.map(|kept| kept.newest).filter(|newest| *newest > i64::MIN);
                marks.look();
                marks.told = marks.current;
            }
            marks
        };
        Self { topics: topics.iter().enumerate().map(of_topic).collect(), current }
    }

    /// The watermark.
    pub(crate) fn current(&self) -> Option<i64> {
        self.current
    }

    /// An event was written to a topic, by its position, at a time of day, with a timestamp. Whether it is late.
    #[inline]
    pub(crate) fn event(&mut self, topic: usize, writer: Writer, timestamp: i64, appended: i64) -> bool {
        let is_late = self.current.is_some_and(|current| timestamp < current);
        if let [only] = &mut self.topics[..] {
            only.event(writer, timestamp, appended);
            self.current = only.current;
        } else {
            // Those that nobody has written to are waited for, for as long as for any writer.
            self.topics.iter_mut().for_each(|topic| topic.expect(appended));
            self.topics[topic].event(writer, timestamp, appended);
            self.combine();
        }
        is_late
    }

    /// It is this time of day, and nothing more was written before it to these topics: who is idle holds up nobody. Whether anybody is who was not.
    pub(crate) fn pass(&mut self, now: i64, silent: &[bool]) -> bool {
        let mut passed = false;
        for (topic, silent) in self.topics.iter_mut().zip(silent) {
            passed |= *silent && topic.pass(now);
        }
        self.combine();
        passed
    }

    fn combine(&mut self) {
        if let [one] = &self.topics[..] {
            self.current = one.current;
            return;
        }
        let mut active = self.topics.iter().filter(|topic| !topic.is_idle()).peekable();
        let least = match active.peek() {
            Some(_) => active.map(|topic| topic.current).min().flatten(),
            None => self.topics.iter().filter_map(|topic| topic.current).max(),
        };
        self.current = self.current.max(least);
    }

    /// When the next writer becomes idle that holds the others up; `None` when that changes nothing.
    pub(crate) fn next_idle(&self) -> Option<i64> {
        let policy = &self.topics[0].policy;
        let newest = self.topics.iter().flat_map(|topic| &topic.writers).map(|seen| seen.newest).max()?;
        let held_up = self.current.is_none_or(|current| newest.saturating_sub(policy.lateness) > current);
        let first = self.topics.iter().filter_map(Watermarks::first_idle).min()?;
        (held_up && policy.idle_after < i64::MAX).then_some(first)
    }

    /// What is to be kept of the writers that have changed.
    pub(crate) fn take_changed(&mut self) -> Vec<WriterSeen> {
        if let [one] = &self.topics[..]
            && one.writers.iter().all(|seen| seen.writer == OUTSIDE)
        {
            // It follows from the watermark.
            return Vec::new();
        }
        let several = self.topics.len() > 1;
        self.topics.iter_mut().flat_map(|topic| topic.take_changed(several)).collect()
    }
}

/// Watermarks before each event of a batch and behind the last; empty for chains without state. They never fall.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks<'a>(pub(crate) &'a [Mark]);

/// A watermark as guests get it: i64, ms since the epoch, `i64::MIN` while there is none.
pub(crate) type Mark = [u8; 8];

/// A watermark for guests.
#[inline]
pub(crate) fn mark(watermark: Option<i64>) -> Mark {
    watermark.unwrap_or(i64::MIN).to_le_bytes()
}

fn watermark(mark: Mark) -> Option<i64> {
    Some(i64::from_le_bytes(mark)).filter(|mark| *mark != i64::MIN)
}

impl<'a> Marks<'a> {
    /// As guests get them.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0.as_flattened()
    }

    /// The one before an event.
    pub(crate) fn before(self, event: u32) -> Option<i64> {
        self.0.get(event as usize).copied().and_then(watermark)
    }

    /// The one behind the last event.
    pub(crate) fn last(self) -> Option<i64> {
        self.0.last().copied().and_then(watermark)
    }

    /// The first event before which a timer of this time is due; one more than there are where it is not due even behind the last.
    pub(crate) fn reach(self, time: i64) -> u32 {
        self.0.partition_point(|mark| watermark(*mark).is_none_or(|mark| mark < time)) as u32
    }
}

/// What is known of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    writer: Writer,
    /// The newest timestamp that counts; the beginning of time while there is none.
    newest: i64,
    /// When it last wrote something.
    at: i64,
    /// It is not what the changelog says of it.
    changed: bool,
}

/// The watermark of a partition of one source topic, and how it comes about.
#[derive(Debug, Clone)]
struct Watermarks {
    policy: Arc<TimePolicy>,
    /// The topic: its position and its id.
    topic: (usize, u32),
    writers: Vec<Seen>,
    /// The one that wrote last.
    last: usize,
    /// The newest time at which anything was appended, or at which it is known that nothing was.
    now: i64,
    /// The watermark that the changelog has, of several topics.
    told: Option<i64>,
    /// Time has passed in which nothing was appended, and the changelog does not say so.
    passed: bool,
    /// Until then no writer becomes idle that was not.
    idle_at: i64,
    current: Option<i64>,
}

impl Watermarks {
    /// With what is known of the writers.
    fn of<'a>(
        policy: &Arc<TimePolicy>,
        topic: (usize, u32),
        writers: impl Iterator<Item = &'a WriterSeen> + Clone,
    ) -> Self {
        let now = writers.clone().map(|seen| seen.at).max().unwrap_or(i64::MIN);
        let seen = |seen: &WriterSeen| Seen { writer: seen.writer, newest: seen.newest, at: seen.at, changed: false };
        let writers = writers.filter(|seen| seen.writer != NOBODY).map(seen).collect();
        let policy = policy.clone();
        Self { policy, topic, writers, last: 0, now, told: None, passed: false, idle_at: i64::MIN, current: None }
    }

    /// Adds the writers that are known of from the beginning.
    fn begin(&mut self, appended: i64) {
        let known = self.policy.writers.get(self.topic.0).into_iter().flatten();
        let seen = |writer: &Writer| Seen { writer: *writer, newest: i64::MIN, at: appended, changed: true };
        self.writers.extend(known.map(seen));
        self.idle_at = i64::MIN;
    }

    /// Somebody is to write to it, from this time of day on.
    fn expect(&mut self, appended: i64) {
        if self.writers.is_empty() {
            self.begin(appended);
            if self.writers.is_empty() {
                self.find(OUTSIDE, appended);
            }
            self.now = self.now.max(appended);
        }
    }

    #[inline]
    fn event(&mut self, writer: Writer, timestamp: i64, appended: i64) {
        // Mostly one writes, and no time passes from one event to the next.
        if let [only] = &mut self.writers[..]
            && only.writer == writer
            && appended <= self.now
            && self.now <= self.idle_at
        {
            (only.at, only.changed) = (self.now, true);
            if timestamp > only.newest && timestamp.saturating_sub(appended) <= self.policy.max_ahead {
                only.newest = timestamp;
                self.current = self.current.max(Some(timestamp.saturating_sub(self.policy.lateness)));
            }
            return;
        }
        self.event_of_several(writer, timestamp, appended);
    }

    fn event_of_several(&mut self, writer: Writer, timestamp: i64, appended: i64) {
        if self.writers.is_empty() {
            self.begin(appended);
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
    }

    fn find(&mut self, writer: Writer, appended: i64) -> usize {
        if let Some(at) = self.writers.iter().position(|seen| seen.writer == writer) {
            return at;
        }
        self.writers.push(Seen { writer, newest: i64::MIN, at: appended, changed: true });
        self.idle_at = i64::MIN;
        self.writers.len() - 1
    }

    fn pass(&mut self, now: i64) -> bool {
        let passes = now > self.idle_at && now > self.now && !self.writers.is_empty();
        if passes {
            (self.now, self.passed) = (now, true);
            self.look();
        }
        passes
    }

    fn active(&self) -> impl Iterator<Item = &Seen> {
        self.writers.iter().filter(|seen| self.now.saturating_sub(seen.at) <= self.policy.idle_after)
    }

    /// Whether all who write to it are idle.
    fn is_idle(&self) -> bool {
        !self.writers.is_empty() && self.active().next().is_none()
    }

    /// When the next writer becomes idle.
    fn first_idle(&self) -> Option<i64> {
        let first = self.active().map(|seen| seen.at).min()?;
        Some(first.saturating_add(self.policy.idle_after).saturating_add(1))
    }

    fn look(&mut self) {
        // Where all are idle, there is nobody to wait for.
        let active = self.active().map(|seen| seen.newest).min();
        let first = active.or(self.writers.iter().map(|seen| seen.newest).max());
        let idle_at = self.active().map(|seen| seen.at.saturating_add(self.policy.idle_after)).min();
        self.idle_at = idle_at.unwrap_or(i64::MAX);
        if let Some(first) = first.filter(|first| *first > i64::MIN) {
            self.current = self.current.max(Some(first.saturating_sub(self.policy.lateness)));
        }
    }

    fn take_changed(&mut self, several: bool) -> Vec<WriterSeen> {
        let topic = self.topic.1;
        let is_new = several && std::mem::replace(&mut self.told, self.current) != self.current;
        let passed = std::mem::take(&mut self.passed) || is_new;
        let nobody = passed.then_some((NOBODY, self.current.unwrap_or(i64::MIN), self.now));
        let changed = self
            .writers
            .iter_mut()
            .filter_map(|seen| std::mem::take(&mut seen.changed).then_some((seen.writer, seen.newest, seen.at)));
        changed.chain(nobody).map(|(writer, newest, at)| WriterSeen { topic, writer, newest, at }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Writer = (1, 0);
    const B: Writer = (1, 1);

    /// Of one topic.
    fn marks(policy: TimePolicy) -> EventTime {
        EventTime::of(&Arc::new(policy), &[1], None, &[])
    }

    #[test]
    fn it_is_the_newest_timestamp_less_the_lateness_and_never_goes_back() {
        let mut marks = marks(TimePolicy { lateness: 10, ..TimePolicy::default() });
        assert_eq!(marks.current(), None);
        for (timestamp, late, current) in [(100, false, 90), (95, false, 90), (120, false, 110), (109, true, 110)] {
            assert_eq!(marks.event(0, OUTSIDE, timestamp, 0), late);
            assert_eq!(marks.current(), Some(current));
        }
    }

    #[test]
    fn it_is_that_of_the_slowest_writer_and_waits_for_those_that_are_known_of() {
        let mut marks = marks(TimePolicy { writers: vec![vec![A, B]], ..TimePolicy::default() });
        marks.event(0, A, 100, 0);
        assert_eq!(marks.current(), None, "the other one has written nothing");
        marks.event(0, B, 40, 0);
        assert_eq!(marks.current(), Some(40));
        marks.event(0, A, 200, 0);
        assert_eq!(marks.current(), Some(40));
        marks.event(0, B, 150, 0);
        assert_eq!(marks.current(), Some(150));
        marks.event(0, B, 300, 0);
        assert_eq!(marks.current(), Some(200));
        // A new one does not take it back.
        assert!(marks.event(0, OUTSIDE, 50, 0));
        assert_eq!(marks.current(), Some(200));
        marks.event(0, A, 400, 0);
        assert_eq!(marks.current(), Some(200), "the new one holds up");
    }

    #[test]
    fn who_is_idle_holds_up_nobody_by_the_times_of_appending_or_by_the_clock() {
        let policy = TimePolicy { idle_after: 30, writers: vec![vec![A, B]], ..TimePolicy::default() };
        let mut marks = marks(policy);
        marks.event(0, A, 100, 1000);
        assert_eq!(marks.next_idle(), Some(1031));
        marks.event(0, A, 110, 1030);
        assert_eq!(marks.current(), None);
        marks.event(0, A, 120, 1031);
        assert_eq!(marks.current(), Some(120), "the other one is idle");
        marks.event(0, B, 90, 1032);
        marks.event(0, A, 130, 1032);
        assert_eq!(marks.current(), Some(120), "it is back");
        assert_eq!(marks.next_idle(), Some(1063));
        marks.pass(1062, &[true]);
        assert_eq!(marks.current(), Some(120));
        // Both are idle then: there is nobody to wait for.
        marks.pass(1063, &[true]);
        assert_eq!((marks.current(), marks.next_idle()), (Some(130), None));
    }

    #[test]
    fn of_several_topics_it_is_the_least_and_who_is_silent_in_all_of_one_is_not_waited_for() {
        let policy = TimePolicy { idle_after: 30, writers: vec![vec![], vec![A]], ..TimePolicy::default() };
        let mut time = EventTime::of(&Arc::new(policy.clone()), &[8, 9], None, &[]);
        time.event(0, OUTSIDE, 100, 1000);
        assert_eq!((time.current(), time.next_idle()), (None, Some(1031)), "nobody has written to the other");
        assert!(!time.pass(1031, &[true, false]) || time.current().is_none(), "there is something to read of it");
        time.event(1, A, 70, 1031);
        assert_eq!(time.current(), Some(70));
        assert!(time.event(0, OUTSIDE, 69, 1032), "late is what is behind the least of them");
        time.event(0, OUTSIDE, 200, 1040);
        time.event(1, A, 150, 1040);
        assert_eq!(time.current(), Some(150));
        assert!(time.pass(1071, &[false, true]));
        assert_eq!(time.current(), Some(200), "the other one is idle");
        time.event(1, A, 160, 1072);
        time.event(0, OUTSIDE, 300, 1072);
        assert_eq!(time.current(), Some(200), "it is back");
        // What is kept is enough to go on, and knows of the time that has passed.
        assert!(time.pass(1103, &[false, true]));
        let mut kept = time.take_changed();
        let mut other = EventTime::of(&Arc::new(policy), &[8, 9], time.current(), &kept);
        assert_eq!(other.current(), Some(300));
        for time in [&mut time, &mut other] {
            time.event(0, OUTSIDE, 310, 1104);
            assert_eq!(time.current(), Some(310));
        }
        kept.retain(|seen| (seen.topic, seen.writer) == (9, NOBODY));
        assert_eq!(kept.iter().map(|seen| seen.at).collect::<Vec<_>>(), [1103]);
    }

    #[test]
    fn what_is_too_far_ahead_counts_for_nothing() {
        let mut marks = marks(TimePolicy { max_ahead: 60, ..TimePolicy::default() });
        marks.event(0, OUTSIDE, 1060, 1000);
        assert_eq!(marks.current(), Some(1060));
        assert!(!marks.event(0, OUTSIDE, 9_000_000, 1000));
        assert_eq!(marks.current(), Some(1060));
    }

    #[test]
    fn what_is_kept_of_the_writers_is_enough_to_go_on() {
        let policy =
            Arc::new(TimePolicy { idle_after: 50, lateness: 5, writers: vec![vec![A, B]], ..TimePolicy::default() });
        let (mut marks, mut kept) = (EventTime::of(&policy, &[1], None, &[]), Vec::<WriterSeen>::new());
        let mut random = 7_u64;
        for step in 0..500 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            let below = |n: u64, shift: u32| ((random >> shift) % n).cast_signed();
            let writer = [A, B, (2, 7)][below(3, 40).unsigned_abs() as usize];
            let (timestamp, appended) = (step * 3 - below(30, 20), step * 2 + below(2, 50));
            marks.event(0, writer, timestamp, appended);
            for seen in marks.take_changed() {
                kept.retain(|old| old.writer != seen.writer);
                kept.push(seen);
            }
            // As after a restart.
            let mut other = EventTime::of(&policy, &[1], marks.current(), &kept);
            let mut one = marks.clone();
            for writer in [A, B, A] {
                assert_eq!(
                    one.event(0, writer, timestamp + 9, appended + 4),
                    other.event(0, writer, timestamp + 9, appended + 4)
                );
                assert_eq!(one.current(), other.current(), "step {step}");
            }
        }
    }
}
