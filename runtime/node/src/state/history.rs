//! What a changelog says of how a partition came to where it is: which commits there were, and in which order.

use sluice_log::{Error, Log};
use sluice_state::{Cursors, Head, Line, missing};

use super::changelog::Changelog;
use crate::checkpoint::IMPORTED;

/// Something that made timers fire, and does not follow from events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// No more events were to come.
    Closed,
    /// It was this time of day, ms since the epoch.
    Clock(i64),
}

/// Events of one topic that were dealt with in a row: the topic, the first offset, and that behind the last.
pub(crate) type Run = (u32, u64, u64);

/// The commits of a line.
pub(super) struct History<'a> {
    pub(super) changelog: Changelog<'a>,
    pub(super) line: Line,
}

/// The cursor in a topic.
pub(crate) fn cursor_of(cursors: &Cursors, topic: u32) -> Option<u64> {
    cursors.iter().find(|(of, _)| *of == topic).map(|(_, offset)| *offset)
}

/// Whether no cursor is past those.
pub(crate) fn within(cursors: &Cursors, those: &Cursors) -> bool {
    cursors.iter().all(|(topic, offset)| cursor_of(those, *topic).is_none_or(|most| *offset <= most))
}

/// How many events are before these cursors.
pub(crate) fn place(cursors: &Cursors) -> u64 {
    cursors.iter().map(|(_, offset)| offset).sum()
}

/// Cursors, as an operator reads of them.
fn told(log: &Log, cursors: &Cursors) -> String {
    if let [(_, offset)] = &cursors[..] {
        return format!("offset {offset}");
    }
    let topics = log.topics();
    let name = |id: u32| topics.iter().find(|topic| topic.id == id).map_or("", |topic| &topic.name);
    cursors.iter().map(|(topic, offset)| format!("{}:{offset}", name(*topic))).collect::<Vec<_>>().join(", ")
}

/// What a stretch of a line dealt with, and when.
struct Stretch {
    begin: Cursors,
    end: Cursors,
    /// Before these it wrote nothing: what it dealt with there was for the state only.
    quiet: Cursors,
    since: i64,
    until: i64,
}

/// Which outputs a line has written. Others of the same events are of histories that were left by rewinds.
pub(crate) struct Written(Vec<Stretch>);

impl Written {
    /// Whether outputs count that come of an event, or a timer behind it; with when they were appended, where they were.
    pub(crate) fn counts(&self, topic: u32, offset: u64, appended: Option<i64>) -> bool {
        let at = |cursors: &Cursors| cursor_of(cursors, topic).unwrap_or(0);
        let stretch = self.0.iter().rev().find(|stretch| (at(&stretch.begin)..at(&stretch.end)).contains(&offset));
        stretch.is_none_or(|stretch| {
            let in_time = appended.is_none_or(|appended| (stretch.since..=stretch.until).contains(&appended));
            offset >= at(&stretch.quiet) && in_time
        })
    }
}

impl History<'_> {
    /// Which outputs the line has written, as far as it can be told.
    pub(super) fn written(&self) -> Result<Written, Error> {
        let (low, mut stretches) = (self.changelog.partition.low_mark(), Vec::new());
        for (index, (from, to)) in self.line.iter().enumerate() {
            let first = low.max(*from);
            if *from >= IMPORTED || first >= *to {
                continue;
            }
            let (mut since, mut quiet) = (i64::MIN, Cursors::new());
            if let Some(before) = from.checked_sub(1).filter(|before| *before >= low)
                && let (time, Some(turn)) = self.changelog.appended(before)?
            {
                since = time;
                for (topic, _, end) in turn.quiet.into_iter().flat_map(|quiet| quiet.runs) {
                    match quiet.iter_mut().find(|(of, _)| *of == topic) {
                        Some((_, last)) => *last = end.max(*last),
                        None => quiet.push((topic, end)),
                    }
                }
            }
            let is_last = index + 1 == self.line.len();
            let until = if is_last { i64::MAX } else { self.changelog.appended(to - 1)?.0 };
            let (begin, end) = (self.changelog.head(first)?.began(), self.changelog.head(to - 1)?.stood());
            stretches.push(Stretch { begin, end, quiet, since, until });
        }
        Ok(Written(stretches))
    }

    /// The part of the line that leads up to cursors, to the last commit at which none was past them; and the cursors there.
    pub(super) fn up_to(&self, to: &Cursors) -> Result<(Line, Cursors), Error> {
        let Self { changelog, line } = self;
        let total: u64 = line.iter().map(|(from, to)| to - from).sum();
        let offset = |index: u64| {
            let mut index = index;
            for (from, to) in line {
                if index < to - from {
                    return from + index;
                }
                index -= to - from;
            }
            u64::MAX
        };
        // Of the oldest part of the changelog nothing may be left, and an imported state was never in it.
        let left = changelog.partition.low_mark();
        let gone_of =
            |(from, to): &(u64, u64)| if *from >= IMPORTED { to - from } else { (*to).min(left).saturating_sub(*from) };
        let gone: u64 = line.iter().map(gone_of).sum();
        // Cursors only grow along a line.
        let (mut low, mut high) = (gone, total);
        while low < high {
            let middle = low.midpoint(high);
            if within(&changelog.head(offset(middle))?.stood(), to) { low = middle + 1 } else { high = middle }
        }
        if low == gone && gone > 0 {
            let what = format!("the state at {} cannot be made any more", told(changelog.log, to));
            let earliest = match gone < total {
                true => format!("{}, or ", told(changelog.log, &changelog.head(offset(gone))?.stood())),
                false => String::new(),
            };
            let what = format!("{what}: the earliest possible target is {earliest}a checkpoint");
            return Err(Error::Invalid(format!("{what}; --state reset begins with an empty state")));
        }
        let mut left = low;
        let mut up_to = Line::new();
        for (from, to) in line {
            let taken = left.min(to - from);
            up_to.extend((taken > 0).then_some((*from, from + taken)));
            left -= taken;
        }
        let stood = match low.checked_sub(1) {
            Some(last) => changelog.head(offset(last))?.stood(),
            // The first commit begins where the pipeline began: before that there is no state.
            None if total > 0 => changelog.head(offset(0))?.began(),
            None => to.clone(),
        };
        let mut cursors = Cursors::new();
        for (topic, most) in to {
            let cursor = match cursor_of(&stood, *topic) {
                Some(cursor) => Some(cursor),
                // It was not read yet.
                None => self.begin_of(&up_to, *topic)?,
            };
            cursors.push((*topic, cursor.map_or(*most, |cursor| cursor.min(*most))));
        }
        Ok((up_to, cursors))
    }

    /// Visits the commits behind the first part of the line, as far as there are any left, until there was enough.
    fn after(&self, part: &Line, each: &mut dyn FnMut(Head) -> bool) -> Result<(), Error> {
        let low = self.changelog.partition.low_mark();
        let mut rest = missing(part, &self.line).unwrap_or_default();
        rest.iter_mut().for_each(|(from, _)| *from = low.max(*from));
        rest.retain(|(from, to)| *from < IMPORTED && from < to);
        self.changelog.heads(&rest, each)
    }

    /// Where a topic's cursor stood when it was first read.
    fn begin_of(&self, part: &Line, topic: u32) -> Result<Option<u64>, Error> {
        let mut begin = None;
        self.after(part, &mut |head| {
            begin = cursor_of(&head.began(), topic);
            begin.is_none()
        })?;
        Ok(begin)
    }

    /// In which order events of several topics were dealt with behind the first part of the line, as far as cursors are not past `to`.
    pub(super) fn runs(&self, part: &Line, to: &Cursors) -> Result<Vec<Run>, Error> {
        let mut runs: Vec<Run> = Vec::new();
        if to.len() == 1 {
            // The order is that of its events.
            return Ok(runs);
        }
        self.after(part, &mut |head| {
            let end = cursor_of(to, head.topic).map_or(0, |most| head.to.min(most));
            if head.from < end {
                match runs.last_mut().filter(|(topic, _, end)| (*topic, *end) == (head.topic, head.from)) {
                    Some(last) => last.2 = end,
                    None => runs.push((head.topic, head.from, end)),
                }
            }
            // There is more as long as a cursor is not there.
            !to.iter().all(|(topic, most)| cursor_of(&head.stood(), *topic).is_none_or(|cursor| cursor >= *most))
        })?;
        Ok(runs)
    }

    /// What made timers fire behind the first part of the line and up to these cursors: where cursors stood, and what it was.
    pub(super) fn moments(&self, part: &Line, to: &Cursors) -> Result<Vec<(Cursors, Moment)>, Error> {
        let mut moments = Vec::new();
        self.after(part, &mut |head| {
            let began = head.began();
            for (at, time) in &head.clocks {
                let dealt = at.saturating_sub(place(&began)).min(head.to - head.from);
                let step =
                    |(topic, offset): &(u32, u64)| (*topic, offset + if *topic == head.topic { dealt } else { 0 });
                moments.push((began.iter().map(step).collect(), Moment::Clock(*time)));
            }
            if head.closed && moments.last() != Some(&(head.stood(), Moment::Closed)) {
                moments.push((head.stood(), Moment::Closed));
            }
            // What happens at the very end belongs to it.
            within(&began, to)
        })?;
        moments.retain(|(cursors, _)| within(cursors, to));
        Ok(moments)
    }
}
