//! What a lane reads: a partition of one topic, or the partitions of the same number of several topics.
//!
//! A lane counts by *places*: how many events of all its topics are before one. Of one topic, places are offsets. Of several, the events come in
//! *runs*, each of one topic: that whose next event is the oldest. **What a run is, is decided once**: what is discarded comes again in the same
//! order, as long as the lane does not go on from elsewhere. History says it by its commits, each of which moves the cursor of one topic.

use std::collections::VecDeque;

use sluice_log::{Again, Error, ReadBatch, TopicPartition};
use sluice_state::Cursors;

use crate::port::Source;

/// A source partition of a lane.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// What is read.
    pub source: TopicPartition,
    /// Its topic's name.
    pub topic_name: String,
    /// Where it starts.
    pub cursor: u64,
    /// The event that is to be tried again, and how often it was tried before the start.
    pub tried: Option<(u64, u32)>,
}

struct Feed {
    config: SourceConfig,
    reader: Box<dyn Source>,
    /// It is read up to here only.
    bound: Option<u64>,
    /// Where outputs go of what is read again.
    again: Option<Again>,
    /// What was read to see how old it is, of several topics; and from where.
    ahead: ReadBatch,
    ahead_of: Option<u64>,
}

impl Feed {
    fn readable(&self) -> u64 {
        self.reader.high_watermark().min(self.bound.unwrap_or(u64::MAX))
    }

    /// The timestamp of the next event, and how many events can be taken at once with those before it that are gone. `None` when there is nothing.
    fn look_ahead(&mut self, at: u64, max_events: u32, max_bytes: usize) -> Result<Option<(i64, u64)>, Error> {
        let readable = self.readable();
        if at >= readable {
            return Ok(None);
        }
        if self.ahead_of != Some(at) {
            self.ahead_of = None;
            self.reader.read(at, max_events, max_bytes, &mut self.ahead)?;
            self.ahead_of = Some(at);
        }
        let end = (self.ahead.base_offset + u64::from(self.ahead.count)).min(readable);
        // What is gone is passed over first.
        let timestamp = self.ahead.region().events().flatten().next().map_or(i64::MIN, |event| event.timestamp());
        Ok((end > at).then_some((timestamp, end - at)))
    }

    /// Of so many events, those that are all read again, or none of which is.
    fn up_to_new(&self, at: u64, events: u32) -> u32 {
        let left = self.again.map(|again| again.until.saturating_sub(at)).filter(|left| *left > 0);
        left.map_or(events, |left| events.min(u32::try_from(left).unwrap_or(u32::MAX)))
    }

    fn read(&mut self, at: u64, max_events: u32, max_bytes: usize, out: &mut ReadBatch) -> Result<(), Error> {
        if self.ahead_of.take() != Some(at) {
            return self.reader.read(at, max_events, max_bytes, out);
        }
        std::mem::swap(out, &mut self.ahead);
        out.truncate(max_events)
    }
}

/// Events of one topic that come together.
#[derive(Debug, Clone, Copy)]
struct Run {
    feed: usize,
    len: u64,
}

/// What a lane reads.
pub(crate) struct Sources {
    feeds: Vec<Feed>,
    /// Of several topics: where the first run begins, in each; and whose event was the one before.
    begin: Vec<u64>,
    last: Option<usize>,
    runs: VecDeque<Run>,
}

/// Where a place is, of several topics.
struct Spot {
    offsets: Vec<u64>,
    /// Whose event is before it.
    last: Option<usize>,
    /// The run that it is in, and how much of that is left; `None` where that is not decided.
    run: Option<Run>,
}

impl Sources {
    /// At least one. Where an event is to be tried again, that comes first: the same, as a place.
    pub(crate) fn new(sources: Vec<(SourceConfig, Box<dyn Source>)>) -> (Self, Option<(u64, u32)>) {
        let feed = |(config, reader)| Feed {
            config,
            reader,
            bound: None,
            again: None,
            ahead: ReadBatch::default(),
            ahead_of: None,
        };
        let feeds: Vec<Feed> = sources.into_iter().map(feed).collect();
        let begin = feeds.iter().map(|feed| feed.config.cursor).collect();
        let mut own = Self { feeds, begin, last: None, runs: VecDeque::new() };
        let place = own.begins();
        let tried = own.feeds.iter().enumerate().find_map(|(index, feed)| {
            let (offset, attempts) = feed.config.tried?;
            Some((index, offset.checked_sub(feed.config.cursor)?, attempts))
        });
        if !own.is_one() {
            own.runs.extend(tried.map(|(feed, before, _)| Run { feed, len: before + 1 }));
        }
        (own, tried.map(|(_, before, attempts)| (place + before, attempts)))
    }

    fn is_one(&self) -> bool {
        self.feeds.len() == 1
    }

    /// The first place that is not forgotten; in the beginning, where the lane stands.
    pub(crate) fn begins(&self) -> u64 {
        self.begin.iter().sum()
    }

    /// The source partitions.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.feeds.iter().map(|feed| feed.config.source)
    }

    /// The first of them.
    pub(crate) fn first(&self) -> TopicPartition {
        self.feeds[0].config.source
    }

    /// The name of a source's topic.
    pub(crate) fn name(&self, source: TopicPartition) -> &str {
        let found = self.feeds.iter().find(|feed| feed.config.source == source);
        found.map_or("", |feed| &feed.config.topic_name)
    }

    /// The position of a source.
    pub(crate) fn position(&self, source: TopicPartition) -> usize {
        self.feeds.iter().position(|feed| feed.config.source == source).unwrap_or_default()
    }

    /// Has it end at what there is now, or go on as new events come.
    pub(crate) fn stop_here(&mut self, stop: bool) {
        for feed in &mut self.feeds {
            let here = feed.bound.unwrap_or_else(|| feed.reader.high_watermark());
            feed.bound = stop.then_some(here);
        }
    }

    /// Whether it ends at what there was.
    pub(crate) fn is_bounded(&self) -> bool {
        self.feeds[0].bound.is_some()
    }

    /// The first place that cannot be read yet.
    pub(crate) fn readable(&self) -> u64 {
        if self.is_one() {
            return self.feeds[0].readable();
        }
        self.feeds.iter().zip(&self.begin).map(|(feed, begin)| feed.readable().max(*begin)).sum()
    }

    /// Of each source, whether there is nothing to read at a place, nor was at this time of day.
    pub(crate) fn are_silent(&mut self, place: u64, now: i64) -> Vec<bool> {
        let offsets = if self.is_one() { vec![place] } else { self.spot(place).offsets };
        self.feeds.iter_mut().zip(offsets).map(|(feed, at)| feed.reader.is_silent(at, now)).collect()
    }

    fn spot(&self, place: u64) -> Spot {
        let mut spot = Spot { offsets: self.begin.clone(), last: self.last, run: None };
        let mut left = place.saturating_sub(self.begins());
        for run in &self.runs {
            let taken = run.len.min(left);
            left -= taken;
            spot.offsets[run.feed] += taken;
            if taken > 0 {
                spot.last = Some(run.feed);
            }
            if taken < run.len {
                spot.run = Some(Run { len: run.len - taken, ..*run });
                break;
            }
        }
        spot
    }

    /// Decides whose events come at a place, if that is not decided. Behind the last of them; the place itself when there are none.
    pub(crate) fn decide(&mut self, place: u64, max_events: u32, max_bytes: usize) -> Result<u64, Error> {
        if self.is_one() {
            return Ok(self.readable());
        }
        let spot = self.spot(place);
        if let Some(run) = spot.run {
            return Ok(place + run.len);
        }
        let mut first: Option<(i64, Run)> = None;
        for ((feed, at), index) in self.feeds.iter_mut().zip(spot.offsets).zip(0..) {
            if let Some((timestamp, len)) = feed.look_ahead(at, max_events, max_bytes)?
                && first.is_none_or(|(oldest, _)| timestamp < oldest)
            {
                first = Some((timestamp, Run { feed: index, len }));
            }
        }
        let Some((_, run)) = first else { return Ok(place) };
        match self.runs.back_mut().filter(|last| last.feed == run.feed) {
            Some(last) => last.len += run.len,
            None => self.runs.push_back(run),
        }
        Ok(place + run.len)
    }

    /// Puts events from a place on into `out`, all of one source: that, and the offset there. It may begin behind that, where events are gone; then
    /// only where it begins counts.
    pub(crate) fn read(
        &mut self,
        place: u64,
        max_events: u32,
        max_bytes: usize,
        out: &mut ReadBatch,
    ) -> Result<(TopicPartition, u64), Error> {
        if self.is_one() {
            let max_events = self.feeds[0].up_to_new(place, max_events);
            self.feeds[0].reader.read(place, max_events, max_bytes, out)?;
            if out.base_offset > place {
                out.count = 0;
            }
            return Ok((self.first(), place));
        }
        self.decide(place, max_events, max_bytes)?;
        let Spot { offsets, run: Some(run), .. } = self.spot(place) else {
            let (source, at) = self.behind(place);
            (out.base_offset, out.count) = (at, 0);
            return Ok((source, at));
        };
        let (feed, at) = (&mut self.feeds[run.feed], offsets[run.feed]);
        let max_events = feed.up_to_new(at, max_events.min(u32::try_from(run.len).unwrap_or(u32::MAX)));
        feed.read(at, max_events, max_bytes, out)?;
        if out.base_offset > at {
            // No further than was decided.
            (out.base_offset, out.count) = (out.base_offset.min(at + run.len), 0);
        }
        Ok((feed.config.source, at))
    }

    /// The source and the offset of the event at a place, as far as that is decided; otherwise behind the event before it.
    pub(crate) fn at(&self, place: u64) -> (TopicPartition, u64) {
        if self.is_one() {
            return (self.first(), place);
        }
        let spot = self.spot(place);
        match spot.run {
            Some(run) => (self.feeds[run.feed].config.source, spot.offsets[run.feed]),
            None => self.behind_spot(&spot),
        }
    }

    /// Behind the event before a place. No two places have the same, so timers that fire there are named by it.
    pub(crate) fn behind(&self, place: u64) -> (TopicPartition, u64) {
        if self.is_one() { (self.first(), place) } else { self.behind_spot(&self.spot(place)) }
    }

    fn behind_spot(&self, spot: &Spot) -> (TopicPartition, u64) {
        let last = spot.last.unwrap_or_default();
        (self.feeds[last].config.source, spot.offsets[last])
    }

    /// Whether the event at a place is of another topic than the one before, as far as that is known.
    pub(crate) fn changes_at(&self, place: u64) -> bool {
        if self.is_one() {
            return false;
        }
        let spot = self.spot(place);
        spot.run.is_none_or(|run| Some(run.feed) != spot.last)
    }

    /// Where the cursors are at a place; nothing where there is one topic only.
    pub(crate) fn cursors(&self, place: u64) -> Cursors {
        if self.is_one() {
            return Cursors::new();
        }
        self.partitions().map(|source| source.topic).zip(self.spot(place).offsets).collect()
    }

    /// Nobody goes back behind this place.
    pub(crate) fn forget_before(&mut self, place: u64) {
        if self.is_one() {
            return;
        }
        while let Some(run) = self.runs.front_mut() {
            let taken = run.len.min(place.saturating_sub(self.begin.iter().sum()));
            if taken == 0 {
                return;
            }
            self.begin[run.feed] += taken;
            self.last = Some(run.feed);
            run.len -= taken;
            if run.len == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Goes on from these offsets, whatever was decided; see [`begin_with`](Self::begin_with).
    pub(crate) fn go_on_from(&mut self, offsets: Vec<u64>, last: Option<u32>, first: &[(u32, u64, u64)]) {
        self.begin = offsets;
        self.runs.clear();
        self.feeds.iter_mut().for_each(|feed| feed.ahead_of = None);
        self.begin_with(last, first);
    }

    /// Says whose event was the one before, by its topic, and what comes first: runs, each of a topic, from an offset up to another.
    /// Whether there are any.
    pub(crate) fn begin_with(&mut self, last: Option<u32>, first: &[(u32, u64, u64)]) -> bool {
        if self.is_one() {
            return false;
        }
        let topic = |topic: u32| self.feeds.iter().position(|feed| feed.config.source.topic == topic);
        self.last = last.and_then(topic);
        let mut at = self.begin.clone();
        let run = |(of, _, to): &(u32, u64, u64)| {
            let feed = topic(*of)?;
            let len = to.saturating_sub(at[feed]);
            at[feed] += len;
            (len > 0).then_some(Run { feed, len })
        };
        let planned: VecDeque<Run> = first.iter().filter_map(run).collect();
        let is_planned = !planned.is_empty();
        if is_planned {
            self.runs = planned;
        }
        is_planned
    }

    /// Says where outputs go of what is read again of each source.
    pub(crate) fn write_again(&mut self, again: impl Fn(TopicPartition) -> Option<Again>) {
        self.feeds.iter_mut().for_each(|feed| feed.again = again(feed.config.source));
    }

    /// Where outputs go of the events from a place on, or of timers that fire there, if not to the sinks; and up to which offset.
    pub(crate) fn again(&self, source: TopicPartition, offset: u64, of_timers: bool) -> Option<Again> {
        let again = self.feeds[self.position(source)].again?;
        // Timers that fire before the event there, because of those before it, did so the first time.
        (offset < again.until || (of_timers && offset == again.until)).then_some(again)
    }

    /// Whether timers at a place may belong elsewhere than the events there: what is read again ends there or, of several topics, has not ended in all.
    pub(crate) fn is_where_again_ends(&self, place: u64) -> bool {
        let until = |feed: &Feed| feed.again.map(|again| again.until);
        if self.is_one() {
            return until(&self.feeds[0]) == Some(place);
        }
        self.feeds.iter().any(|feed| feed.again.is_some())
            && self
                .feeds
                .iter()
                .zip(self.spot(place).offsets)
                .any(|(feed, at)| until(feed).is_some_and(|until| at <= until))
    }

    /// Nothing is left to read for now.
    pub(crate) fn caught_up(&mut self) {
        self.feeds.iter_mut().for_each(|feed| feed.reader.caught_up());
    }

    /// Gives back the memory it reads into.
    pub(crate) fn rest(&mut self) {
        for feed in &mut self.feeds {
            feed.reader.rest();
            (feed.ahead, feed.ahead_of) = (ReadBatch::default(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_event::{Batch, NewEvent};

    use super::*;

    /// Events with these timestamps, of which the first are gone.
    struct Left(Vec<i64>, u64);

    impl Source for Left {
        fn high_watermark(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&mut self, from: u64, max_events: u32, _: usize, out: &mut ReadBatch) -> Result<(), Error> {
            let (mut batch, base_offset) = (Batch::default(), from.max(self.1));
            for timestamp in self.0.iter().skip(base_offset as usize).take(max_events as usize) {
                let pushed = batch.push(&NewEvent { timestamp: *timestamp, ..NewEvent::default() });
                pushed.map_err(|error| Error::Invalid(error.to_string()))?;
            }
            *out =
                ReadBatch { base_offset, count: batch.count(), bytes: batch.bytes().to_vec(), ..ReadBatch::default() };
            Ok(())
        }
    }

    fn sources(topics: &[(&[i64], u64)]) -> Sources {
        let source = |(topic, (timestamps, gone)): (u32, &(&[i64], u64))| {
            let source = TopicPartition { topic, partition: 0 };
            let config = SourceConfig { source, topic_name: String::new(), cursor: 0, tried: None };
            (config, Box::new(Left(timestamps.to_vec(), *gone)) as Box<dyn Source>)
        };
        Sources::new((1..).zip(topics).map(source).collect()).0
    }

    /// The topic, the offset, where the batch begins, and how many there are.
    fn read(sources: &mut Sources, place: u64, most: u32) -> (u32, u64, u64, u32) {
        let mut out = ReadBatch::default();
        let (source, offset) = sources.read(place, most, 1 << 20, &mut out).unwrap();
        (source.topic, offset, out.base_offset, out.count)
    }

    #[test]
    fn where_events_are_gone_only_where_others_begin_counts() {
        let mut one = sources(&[(&[5; 10], 4)]);
        assert_eq!(read(&mut one, 0, 3), (1, 0, 4, 0));
        assert_eq!(read(&mut one, 4, 3), (1, 4, 4, 3));
        let mut two = sources(&[(&[5; 10], 4), (&[7, 7], 0)]);
        assert_eq!(read(&mut two, 0, 3), (1, 0, 4, 0));
        assert_eq!(read(&mut two, 4, 3), (1, 4, 4, 3));
    }

    #[test]
    fn the_older_head_comes_first_and_what_was_decided_stays_until_it_goes_on_elsewhere() {
        let mut two = sources(&[(&[1, 2, 9, 10], 0), (&[3, 4], 0)]);
        assert_eq!((two.readable(), read(&mut two, 0, 2)), (6, (1, 0, 0, 2)));
        assert_eq!(read(&mut two, 2, 2), (2, 0, 0, 2));
        assert_eq!(read(&mut two, 4, 1), (1, 2, 2, 1));
        assert_eq!(two.cursors(4), [(1, 2), (2, 2)]);
        let of = |topic| TopicPartition { topic, partition: 0 };
        assert_eq!((two.behind(2), two.at(2), two.behind(3)), ((of(1), 2), (of(2), 0), (of(2), 1)));
        // Once more, with other bounds: the same order.
        assert_eq!([0, 1, 2, 3].map(|place| read(&mut two, place, 1).0), [1, 1, 2, 2]);
        two.forget_before(3);
        assert_eq!((two.begins(), two.cursors(3), two.behind(3)), (3, vec![(1, 2), (2, 1)], (of(2), 1)));
        // What is told comes first, as far as it is not dealt with.
        two.go_on_from(vec![1, 0], Some(1), &[(2, 0, 1), (1, 0, 3), (2, 1, 1)]);
        assert_eq!((1..6).map(|place| read(&mut two, place, 1).0).collect::<Vec<_>>(), [2, 1, 1, 2, 1]);
    }
}
