//! Timers of a lane: which are due in a call, and whether one that is set in it should have fired in it.

use std::collections::HashMap;

use sluice_event::{Clock, Outcome, Source};
use sluice_log::TopicPartition;
use sluice_state::{Layer, MAX_TIMER_KEY_BYTES, Timer, set_timer};

use crate::port::{CallError, CallErrorKind};
use crate::watermark::Marks;

/// Timers that come with one call, at most.
pub(crate) const MOST_DUE: usize = 1024;

/// Timers that are due in a call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Due {
    /// What outputs of timers that fire before the first event are laid to: the source and the offset behind the event before.
    pub(crate) behind: (TopicPartition, u64),
    /// The stage that has set them, by its position.
    pub(crate) stage: usize,
    /// In the order in which they fire.
    pub(crate) timers: Vec<Timer>,
    /// For each, the index of the event before which it fires.
    pub(crate) before: Vec<u32>,
    /// Outputs so far of timers that fired before the first event.
    pub(crate) fired_outputs: u32,
}

impl Due {
    pub(crate) fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.timers.len()
    }

    /// Leaves only the first ones.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.timers.truncate(len);
        self.before.truncate(len);
    }
}

/// A key and a tag.
type Id<'a> = (&'a [u8], &'a [u8]);

/// How much of a call may be made, for what comes behind that was not known to come; the least of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cut {
    /// So many of its events,
    pub(crate) events: u32,
    /// and, where that is none, so many of its timers.
    pub(crate) timers: u32,
}

/// Reads which timers an outcome sets and clears. `source` tells the source event of an input; `marks` are the watermarks before each source
/// event, and behind the last.
///
/// A timer that is set in a call may be due before an event that is dealt with in the same call. Consumers built with an SDK fire it themselves where they
/// may, which clears it, or stop before that event. For others, the call is made again with less: results must not depend on how events are batched.
pub(crate) fn changes(
    outcome: &Outcome<'_>,
    stage: &str,
    due: &Due,
    source: impl Fn(u32) -> u32,
    marks: Marks<'_>,
    changes: &mut Layer,
) -> Result<Option<Cut>, CallError> {
    // Of those set here, the event before which each fires, and who set it.
    let mut pending: HashMap<Id<'_>, (u32, Option<u32>, i64)> = HashMap::new();
    let mut cut: Option<Cut> = None;
    let mut missed = |events: u32, by: Option<u32>| {
        let earlier = due.before.iter().take_while(|before| **before < events).count() as u32;
        let found = Cut { events, timers: by.map_or(0, |by| by + 1).max(earlier) };
        cut = cut.into_iter().chain([found]).min();
    };
    // Those that the call has fired itself: the event before which each fired, and the due timer behind which.
    let own: Vec<(u32, Option<u32>)> = outcome
        .firings()
        .map(|firing| firing.map(|firing| (firing.timer.before, firing.behind.checked_sub(1))))
        .collect::<Result<_, _>>()?;
    for change in outcome.timer_changes() {
        let change = change?;
        let (next, by) = match change.of {
            (Source::Input, input) => (source(input) + 1, None),
            (Source::Timer, timer) => match due.before.get(timer as usize) {
                Some(before) => (*before, Some(timer)),
                None => own[timer as usize - due.len()],
            },
        };
        if change.key.len() > MAX_TIMER_KEY_BYTES || change.tag.len() > MAX_TIMER_KEY_BYTES {
            let what = format!("a timer with a key of {} and a tag of {} bytes", change.key.len(), change.tag.len());
            let message = format!("{what}; each has at most {MAX_TIMER_KEY_BYTES}, which cannot be changed");
            let error = CallError::new(CallErrorKind::Limit, message);
            return Err(if by.is_none() { error.at(change.of.1) } else { error });
        }
        if let Some((before, by, _)) = pending.remove(&(change.key, change.tag))
            && before < next
        {
            missed(before, by);
        }
        if let (Some(time), Clock::EventTime) = (change.time, change.clock) {
            let reached = marks.reach(time).max(next);
            if (reached as usize) < marks.0.len() {
                pending.insert((change.key, change.tag), (reached, by, time));
            }
        }
        set_timer(stage, change.key, change.tag, change.time.map(|time| (change.clock, time)), changes);
    }
    let last = outcome.processed();
    let last = if last == 0 { 0 } else { source(last - 1) + 1 };
    for ((key, tag), (before, by, time)) in pending {
        let order = (time, key.len(), key, tag);
        // Those that fire behind it at the same place, and were fired.
        let behind = |timer: u32| {
            let other = &due.timers[timer as usize];
            by.is_none_or(|by| by < timer) && other.clock == Clock::EventTime && order < other.due(before).order()
        };
        let first = due.before.partition_point(|other| *other < before) as u32;
        let end = due.before.partition_point(|other| *other <= before) as u32;
        if before < last || (first..end.min(outcome.fired())).any(behind) {
            missed(before, by);
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use sluice_event::{Items, OutcomeWriter, TimerChange};

    use super::*;
    use crate::watermark::mark;

    /// Where a call must be cut whose marks are 0, 10, 20, 30, 40, in which these timers are set (or cleared) by events, and by timers.
    fn cut(set: &[((Source, u32), &str, Option<i64>)], due: &[(u32, i64)]) -> Option<Cut> {
        let timer = |(_, time): &(u32, i64)| Timer {
            stage: "s".into(),
            clock: Clock::EventTime,
            time: *time,
            key: b"m".to_vec(),
            tag: Vec::new(),
        };
        let due = Due {
            timers: due.iter().map(timer).collect(),
            before: due.iter().map(|(before, _)| *before).collect(),
            ..Due::default()
        };
        let mut writer = OutcomeWriter::default();
        for (of, key, time) in set {
            let key = key.as_bytes();
            writer.timer(&TimerChange { of: *of, clock: Clock::EventTime, time: *time, key, tag: &[] });
        }
        let bytes = writer.finish(4, due.len() as u32);
        let outcome = Outcome::parse(&bytes, Items { inputs: 4, timers: &due.before, fires: false }).unwrap();
        let marks: Vec<_> = (0..5).map(|n| mark(Some(n * 10))).collect();
        changes(&outcome, "s", &due, |input| input, Marks(&marks), &mut Layer::default()).unwrap()
    }

    #[test]
    fn a_call_is_cut_where_a_timer_that_it_set_should_have_fired() {
        let (event, timer) = (|index| (Source::Input, index), |index| (Source::Timer, index));
        let at = |events, timers| Some(Cut { events, timers });
        assert_eq!(cut(&[(event(0), "a", Some(41))], &[]), None);
        assert_eq!(cut(&[(event(0), "a", Some(40))], &[]), None, "behind the last event nothing is missed");
        assert_eq!(cut(&[(event(0), "a", Some(30))], &[]), at(3, 0));
        assert_eq!(cut(&[(event(2), "a", Some(-5))], &[]), at(3, 0), "one that is due at once fires before the next");
        assert_eq!(cut(&[(event(3), "a", Some(-5))], &[]), None);
        // Set anew or cleared before it was due.
        assert_eq!(cut(&[(event(0), "a", Some(30)), (event(1), "a", Some(50))], &[]), None);
        assert_eq!(cut(&[(event(0), "a", Some(30)), (event(2), "a", None)], &[]), None);
        assert_eq!(cut(&[(event(0), "a", Some(30)), (event(3), "a", None)], &[]), at(3, 0), "cleared too late");
        assert_eq!(cut(&[(event(0), "a", Some(30)), (event(0), "b", Some(5))], &[]), at(1, 0), "the first counts");
        // Set by a timer: due before an event, and before another timer.
        assert_eq!(cut(&[(timer(0), "a", Some(20))], &[(1, 9)]), at(2, 1));
        assert_eq!(cut(&[(timer(0), "a", Some(3))], &[(0, -5)]), at(1, 1));
        assert_eq!(cut(&[(timer(0), "a", Some(-3))], &[(0, -5), (0, -4)]), at(0, 1));
        assert_eq!(cut(&[(timer(0), "a", Some(33))], &[(4, 32), (4, 34)]), at(4, 1));
        assert_eq!(cut(&[(timer(0), "a", Some(35))], &[(4, 32), (4, 34)]), None);
    }
}
