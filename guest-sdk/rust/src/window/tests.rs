//! Windows, ids and joins against what they are defined as, however events are batched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::testing::{Given, Tester, assert_same_however_batched};
use crate::{Config, Consumer, Event, Outputs, json};

/// All that windows can come to, of numbers.
type All = (Count, Sum<i64>, Min<i64>, (Max<i64>, Distinct<i64>));

struct Sums(Windows<All>);

const SIZE: i64 = 100;
const STEP: i64 = 30;

impl Consumer for Sums {
    fn init(config: &Config) -> Result<Self> {
        let millis = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        Ok(Self(match &*config.parse::<String>()? {
            "tumbling" => Windows::tumbling("all", millis(SIZE)),
            "sliding" => Windows::sliding("all", millis(SIZE), millis(STEP)),
            _ => Windows::session("all", millis(STEP)),
        }))
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        match self.0.add(event.key(), event.timestamp(), &event.json::<i64>()?)? {
            Added::InTime => Ok(()),
            Added::Late => out.output().sink("late").send(event.value()),
        }
    }

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
        for window in self.0.close(timer)? {
            out.output().key(timer.key()).timestamp(window.end - 1).send(json(window))?;
        }
        Ok(())
    }
}

/// Events of three keys, some of them out of order: key, time, number.
fn events(seed: u64) -> Vec<(char, i64, i64)> {
    let mut random = seed * 2 + 1;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) % n).cast_signed()
    };
    let mut time = -200;
    let mut event = || {
        time += below(25);
        (['a', 'b', 'c'][below(3).unsigned_abs() as usize], time - below(40), below(5))
    };
    (0..120).map(|_| event()).collect()
}

fn given(events: &[(char, i64, i64)]) -> Vec<Given> {
    let event =
        |(key, time, number): &(char, i64, i64)| Given::value(number.to_string()).key(key.to_string()).timestamp(*time);
    events.iter().map(event).collect()
}

type Expected = BTreeMap<(char, i64, i64), Vec<i64>>;

/// What falls into which window, and how much is late, by their definition.
fn expected(kind: &str, events: &[(char, i64, i64)]) -> (Expected, usize) {
    let (mut windows, mut late, mut watermark) = (Expected::new(), 0, i64::MIN);
    for (key, time, number) in events {
        let mut starts: Vec<(i64, i64)> = Vec::new();
        match kind {
            "tumbling" => starts.push((time.div_euclid(SIZE) * SIZE, SIZE)),
            "sliding" => starts.extend(
                (-20..100).map(|n| (n * STEP, SIZE)).filter(|(start, size)| (*start..start + size).contains(time)),
            ),
            _ => starts.push((*time, STEP)),
        }
        let mut in_time = false;
        for (start, size) in starts {
            let (mut from, mut to, mut numbers) = (start, start + size, vec![*number]);
            let same = |(other, start, end): &(char, i64, i64), from: i64, to: i64| {
                let meets = if kind == "session" { *start <= to && from <= *end } else { *start == from };
                // What is closed does not grow.
                other == key && meets && *end > watermark
            };
            let joins = kind == "session" && windows.keys().any(|window| same(window, from, to));
            if to <= watermark && !joins {
                continue;
            }
            in_time = true;
            while let Some(met) = windows.keys().find(|window| same(window, from, to)).copied() {
                numbers.extend(windows.remove(&met).unwrap());
                (from, to) = (from.min(met.1), to.max(met.2));
            }
            windows.insert((*key, from, to), numbers);
        }
        late += usize::from(!in_time);
        watermark = watermark.max(*time);
    }
    (windows, late)
}

#[test]
fn windows_are_what_they_are_defined_as_however_events_are_batched() {
    for kind in ["tumbling", "sliding", "session"] {
        let mut some_late = false;
        for seed in 0..30 {
            let events = events(seed);
            let make = || Tester::new::<Sums>(&format!("{kind:?}")).unwrap();
            let tested = assert_same_however_batched(make, &given(&events));
            assert_eq!(tested.failures, []);
            let (late, closed): (Vec<_>, Vec<_>) = tested.sent.into_iter().partition(|sent| sent.sink.is_some());
            let (expected, expected_late) = expected(kind, &events);
            assert_eq!(late.len(), expected_late, "{kind}, seed {seed}");
            some_late |= expected_late > 0;
            let mut found = Expected::new();
            for sent in closed {
                let window: Window<All> = serde_json::from_slice(&sent.value).unwrap();
                let key = (char::from(sent.key.unwrap()[0]), window.start, window.end);
                let mut numbers = expected.get(&key).cloned().unwrap_or_default();
                assert_eq!(sent.timestamp, window.end - 1);
                let (count, sum, min, (max, distinct)) = window.value;
                assert_eq!(count.0, numbers.len() as u64, "{kind}, seed {seed}: {key:?}");
                assert_eq!(sum.0, numbers.iter().sum::<i64>());
                assert_eq!((min.0, max.0), (numbers.iter().min().copied(), numbers.iter().max().copied()));
                assert_eq!(distinct.0, numbers.iter().copied().collect::<BTreeSet<_>>());
                numbers.sort_unstable();
                assert_eq!(found.insert(key, numbers), None, "{kind}, seed {seed}: {key:?} closes twice");
            }
            let missing: Vec<_> = expected.keys().filter(|key| !found.contains_key(key)).collect();
            assert!(missing.is_empty(), "{kind}, seed {seed}: {missing:?} never close");
        }
        assert!(some_late || kind == "sliding", "{kind}: no event was late");
    }
}

struct Once(Seen);

impl Consumer for Once {
    fn init(_: &Config) -> Result<Self> {
        Ok(Self(Seen::within("seen", Duration::from_millis(SIZE.unsigned_abs()))))
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        if self.0.is_new(event.value())? { out.send(event.key(), event.value()) } else { Ok(()) }
    }
}

#[test]
fn an_id_comes_through_once_within_the_horizon() {
    for seed in 0..30 {
        let events = events(seed);
        let make = || Tester::new::<Once>("{}").unwrap();
        let tested = assert_same_however_batched(make, &given(&events));
        let (mut until, mut expected, mut watermark) = (BTreeMap::new(), Vec::new(), i64::MIN);
        for (input, (_, time, id)) in (0..).zip(&events) {
            if until.get(id).is_none_or(|until| *until <= watermark) {
                // The very beginning of the epoch is a millisecond later.
                until.insert(*id, if time + SIZE == 0 { 1 } else { time + SIZE });
                expected.push(input);
            }
            watermark = watermark.max(*time);
        }
        assert_eq!(tested.sent.iter().map(|sent| sent.input).collect::<Vec<u32>>(), expected, "seed {seed}");
    }
}

struct Pairs(Join<i64, i64>);

impl Consumer for Pairs {
    fn init(_: &Config) -> Result<Self> {
        Ok(Self(Join::within("pairs", Duration::from_millis(SIZE.unsigned_abs()))))
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let (key, time, number) = (event.key(), event.timestamp(), event.json::<i64>()?);
        // Even numbers are the left side.
        let met = if number % 2 == 0 { self.0.left(key, time, number)? } else { self.0.right(key, time, number)? };
        met.into_iter().try_for_each(|(other_time, other)| out.send(key, json((time, number, other_time, other))))
    }
}

#[test]
fn a_join_finds_every_pair_that_is_close_enough() {
    for seed in 0..30 {
        let events = events(seed);
        let make = || Tester::new::<Pairs>("{}").unwrap();
        let tested = assert_same_however_batched(make, &given(&events));
        let mut found: Vec<(i64, i64, i64, i64)> =
            tested.sent.iter().map(|sent| serde_json::from_slice(&sent.value).unwrap()).collect();
        let (mut expected, mut watermark) = (Vec::new(), i64::MIN);
        for (at, (key, time, number)) in events.iter().enumerate() {
            let others = events[..at].iter().filter(|(other_key, other_time, other)| {
                let close = (time - other_time).abs() <= SIZE && other_time + SIZE >= watermark;
                other_key == key && other % 2 != number % 2 && close
            });
            expected.extend(others.map(|(_, other_time, other)| (*time, *number, *other_time, *other)));
            watermark = watermark.max(*time);
        }
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "seed {seed}");
    }
}
