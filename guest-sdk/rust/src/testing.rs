//! Tests of a consumer, natively, through the same batches and outcomes as in the host.
//!
//! ```
//! use sluice_sdk::testing::{Given, Tester};
//! use sluice_sdk::{Event, Outputs, Result};
//!
//! fn shout(event: &Event, out: &mut Outputs) -> Result {
//!     out.send(event.key(), event.text()?.to_uppercase())
//! }
//!
//! let outcome = Tester::function(shout).process(&[Given::value("hello").key("k")]);
//! assert_eq!(outcome.texts(), ["HELLO"]);
//! assert!(outcome.failures.is_empty());
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use sluice_event::{Batch, Clock, DueTimer, FailureKind, Items, NewEvent, Outcome, Source, View, has_expired};

use crate::{Config, Consumer, Entry, Event, Outputs, Result, Runner, consumer_runner, runner};

/// A consumer under test. Its state and its timers are kept from one batch to the next; timers fire as in the host.
pub struct Tester {
    runner: Box<dyn Runner>,
    /// Of what is kept.
    version: u32,
    next_offset: u64,
    state: Kept,
    /// When each timer fires, by its key and tag.
    timers: BTreeMap<(Vec<u8>, Vec<u8>), (Clock, i64)>,
    /// The newest timestamp of each topic so far.
    newest: BTreeMap<String, Option<i64>>,
    /// The least of them.
    watermark: Option<i64>,
    /// The time of day.
    now: i64,
    /// Whether timers may fire in the call that sets them.
    fires: bool,
}

/// What a consumer under test keeps: values with their expiries.
type Kept = BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>;

/// A key, what stands under it, and when that expires.
pub type Stored = (Vec<u8>, Vec<u8>, Option<i64>);

/// Plays the host to [`State`](crate::State) where consumers run natively: has what they keep, by full keys.
pub trait Store {
    /// What stands under a key, and when it expires.
    fn get(&self, key: &[u8]) -> Option<(Vec<u8>, Option<i64>)>;

    /// Up to `limit` of what begins with `prefix`, behind `after`, in the order of keys.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Stored>;
}

impl Store for Kept {
    fn get(&self, key: &[u8]) -> Option<(Vec<u8>, Option<i64>)> {
        self.get(key).cloned()
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Stored> {
        let behind = |key: &&Vec<u8>| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after);
        let found = self.iter().filter(|(key, _)| behind(key)).take(limit);
        found.map(|(key, (value, expires))| (key.clone(), value.clone(), *expires)).collect()
    }
}

thread_local! {
    /// That of the consumer which is running.
    static STORE: RefCell<Rc<dyn Store>> = RefCell::new(Rc::new(Kept::new()));
}

/// Has the consumers that this thread runs from now on find in this store what they keep: for who runs them with a [`Runner`] of its own. Of what they
/// change, it is told nothing: that stands in their outcomes.
pub fn keep_in(store: Rc<dyn Store>) {
    STORE.set(store);
}

/// What [`State`](crate::State) calls.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod host {
    use super::{STORE, Stored};

    pub(crate) fn get(mut keys: &[u8]) -> Vec<u8> {
        let mut values = Vec::new();
        while let Some((len, rest)) = keys.split_first_chunk() {
            let (key, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
            keys = rest;
            match STORE.with_borrow(|store| store.get(key)) {
                Some((value, expires)) => {
                    values.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    values.extend_from_slice(&expires.unwrap_or(0).to_le_bytes());
                    values.extend_from_slice(&value);
                }
                None => values.extend_from_slice(&u32::MAX.to_le_bytes()),
            }
        }
        values
    }

    pub(crate) fn scan(prefix: &[u8], after: Option<&[u8]>, limit: u32, _max_bytes: u32) -> Vec<Stored> {
        STORE.with_borrow(|store| store.scan(prefix, after, limit as usize))
    }
}

/// An event to give to a consumer.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// The topic it was read from; `test` unless told otherwise.
    pub topic: Option<String>,
    /// Names and values; names may repeat.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// An event that a consumer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Index of the event it was sent for; for a timer, of the one before which it fired.
    pub input: u32,
    /// The name of the timer it was sent for, if it was one.
    pub timer: Option<String>,
    /// The sink named, if any.
    pub sink: Option<String>,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Names and values, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// An event or timer that a consumer could not deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Index of the event; for a timer, of the one before which it fired.
    pub input: u32,
    /// The name of the timer, if it was one.
    pub timer: Option<String>,
    /// Whether trying again may help.
    pub transient: bool,
    /// What the consumer said.
    pub reason: String,
}

/// What became of the events given, and of the timers that were due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tested {
    /// How many events were dealt with.
    pub processed: u32,
    /// What was sent, in order.
    pub sent: Vec<Sent>,
    /// What failed, in order.
    pub failures: Vec<Failed>,
}

impl Tested {
    /// The values sent, as text; bytes that are not UTF-8 are replaced.
    pub fn texts(&self) -> Vec<String> {
        self.sent.iter().map(|sent| String::from_utf8_lossy(&sent.value).into_owned()).collect()
    }
}

impl Given {
    /// An event with this value.
    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn key(self, key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same with a timestamp.
    #[must_use]
    pub fn timestamp(self, timestamp: i64) -> Self {
        Self { timestamp, ..self }
    }

    /// The same, of a topic.
    #[must_use]
    pub fn topic(self, topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..self }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn topic_name(&self) -> &str {
        self.topic.as_deref().unwrap_or("test")
    }
}

impl Tester {
    /// Tests a consumer with this configuration, as JSON.
    ///
    /// # Errors
    /// What `init` says of the configuration.
    pub fn new<C: Consumer>(config: &str) -> Result<Self> {
        Ok(Self { version: C::STATE_VERSION, ..Self::of(consumer_runner(|| C::init(&Config::from_json(config)))?) })
    }

    /// Puts a newer version of the consumer in its place, which brings over what is kept.
    ///
    /// # Errors
    /// What its `init` or its `migrate` says.
    pub fn upgrade<C: Consumer>(self, config: &str) -> Result<Self> {
        let mut new = Self::new::<C>(config)?;
        let entry = |(full_key, (value, expires))| Entry { full_key, value, expires };
        let old: Vec<_> = self.state.into_iter().map(entry).collect();
        let migrated = if self.version == new.version { old } else { new.runner.migrate(self.version, old)? };
        new.state = migrated.into_iter().map(|entry| (entry.full_key, (entry.value, entry.expires))).collect();
        let Self { next_offset, timers, newest, watermark, now, fires, .. } = self;
        Ok(Self { next_offset, timers, newest, watermark, now, fires, ..new })
    }

    fn of(runner: Box<dyn Runner>) -> Self {
        Self {
            runner,
            version: 0,
            next_offset: 0,
            state: Kept::new(),
            timers: BTreeMap::new(),
            newest: BTreeMap::new(),
            watermark: None,
            now: 0,
            fires: true,
        }
    }

    /// The same, with events of these topics: there is no watermark before each has had one.
    #[must_use]
    pub fn reading(mut self, topics: &[&str]) -> Self {
        self.newest = topics.iter().map(|topic| ((*topic).to_owned(), None)).collect();
        self
    }

    /// The consumer's state: the value under a key of a [`State`](crate::State) of this name, as JSON.
    pub fn state(&self, name: &str, key: &str) -> Option<&str> {
        let (value, _) = self.state.get(format!("{name}/{key}").as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// Tests a function.
    pub fn function(handler: impl FnMut(&Event, &mut Outputs) -> Result + 'static) -> Self {
        Self::of(runner(handler))
    }

    /// Gives events as one batch, and fires the timers that are due then.
    ///
    /// # Panics
    /// When the SDK breaks its own format, or the consumer sets timers that are due at once without end.
    pub fn process(&mut self, events: &[Given]) -> Tested {
        let mut tested = Tested::default();
        for _ in 0..=MOST_CALLS {
            let at = tested.processed as usize;
            if !self.call(&events[at..], &mut tested) {
                return tested;
            }
        }
        panic!("more than {MOST_CALLS} calls: does a timer set itself again for a time that has come?");
    }

    /// Fires what is set for a time of events, up to the last of them: no more events are to come.
    ///
    /// # Panics
    /// As [`process`](Self::process).
    pub fn close(&mut self) -> Tested {
        let last = self.timers.values().filter(|(clock, _)| *clock == Clock::EventTime).map(|(_, time)| *time).max();
        let watermark = self.watermark;
        self.watermark = watermark.max(last);
        let tested = self.process(&[]);
        self.watermark = watermark;
        tested
    }

    /// It is this time of day now, in milliseconds since the epoch: fires what is due by that.
    ///
    /// # Panics
    /// As [`process`](Self::process).
    pub fn wall_clock(&mut self, now: i64) -> Tested {
        self.now = now;
        self.process(&[])
    }

    /// Makes one call with what is left, up to the next event of another topic. Whether there may be more to do.
    fn call(&mut self, events: &[Given], tested: &mut Tested) -> bool {
        let mut batch = Batch::default();
        let (mut marks, mut newest) = (vec![self.watermark], self.newest.clone());
        let topic = events.first().map_or("test", Given::topic_name);
        let mut states = Vec::new();
        for given in events.iter().take_while(|given| given.topic_name() == topic) {
            let of_topic = newest.entry(topic.to_owned()).or_default();
            *of_topic = (*of_topic).max(Some(given.timestamp));
            states.push(*of_topic);
            marks.push(marks[marks.len() - 1].max(newest.values().copied().min().flatten()));
            let headers: Vec<_> = given.headers.iter().map(|(name, value)| (&**name, &value[..])).collect();
            let event = NewEvent {
                timestamp: given.timestamp,
                key: given.key.as_deref(),
                value: &given.value,
                headers: &headers,
                ..NewEvent::default()
            };
            batch.push(&event).expect("an event fits its format");
        }
        let place = |clock, time| match clock {
            Clock::WallClock => (time <= self.now).then_some(0),
            Clock::EventTime => marks.iter().position(|mark| mark.is_some_and(|mark| mark >= time)),
        };
        let timers = self.timers.clone();
        let due = timers.iter().filter_map(|((key, tag), (clock, time))| {
            Some(DueTimer { before: place(*clock, *time)? as u32, time: *time, clock: *clock, key, tag })
        });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|timer| (timer.before, timer.clock == Clock::EventTime, timer.order()));
        if events.is_empty() && due.is_empty() {
            return false;
        }
        let (mut due_bytes, mut header) = (Vec::new(), Vec::new());
        due.iter().for_each(|timer| timer.write(&mut due_bytes));
        let before: Vec<u32> = due.iter().map(|timer| timer.before).collect();
        let watermarks: Vec<u8> = marks.iter().flat_map(|mark| mark.unwrap_or(i64::MIN).to_le_bytes()).collect();
        let view = View {
            count: batch.count(),
            base_offset: self.next_offset,
            watermark: self.watermark,
            seed: 0,
            topic: 1,
            partition: 0,
            topic_name: topic,
            chained: false,
            fires: batch.count() > 0 && self.fires,
            watermarks: &watermarks,
            due: (&due_bytes, due.len() as u32),
        };
        view.write(&mut header);
        let kept = Rc::new(std::mem::take(&mut self.state));
        keep_in(kept.clone());
        let bytes = self
            .runner
            .run(&header.into(), &batch.bytes().to_vec().into(), &AtomicU32::new(0))
            .expect("the batch is well formed");
        keep_in(Rc::new(Kept::new()));
        self.state = Rc::unwrap_or_clone(kept);
        let items = Items { inputs: batch.count(), timers: &before, fires: view.fires };
        let outcome = Outcome::parse(&bytes, items).expect("the outcome is well formed");
        self.take_in(&outcome, &due, tested);
        let processed = outcome.processed();
        self.next_offset += u64::from(processed);
        self.watermark = marks[processed as usize];
        if let Some(last) = states.get((processed as usize).wrapping_sub(1)) {
            self.newest.insert(topic.to_owned(), *last);
        }
        let watermark = self.watermark;
        self.state.retain(|_, (_, expires)| !has_expired(*expires, watermark));
        tested.processed += processed;
        let stopped = tested.failures.last().is_some_and(|failed| failed.transient);
        assert!(stopped || processed + outcome.fired() > 0, "the consumer dealt with nothing");
        !stopped
    }

    /// Takes in what a call came to.
    fn take_in(&mut self, outcome: &Outcome<'_>, due: &[DueTimer<'_>], tested: &mut Tested) {
        for fired in &due[..outcome.fired() as usize] {
            self.timers.remove(&(fired.key.to_vec(), fired.tag.to_vec()));
        }
        for change in outcome.timer_changes() {
            let change = change.expect("a timer change is well formed");
            let id = (change.key.to_vec(), change.tag.to_vec());
            match change.time {
                Some(time) => self.timers.insert(id, (change.clock, time)),
                None => self.timers.remove(&id),
            };
        }
        for write in outcome.state_writes() {
            let write = write.expect("a state write is well formed");
            match write.value {
                Some(value) => self.state.insert(write.key.to_vec(), (value.to_vec(), write.expires)),
                None => self.state.remove(write.key),
            };
        }
        let first = tested.processed;
        let own = outcome.firings().map(|firing| firing.expect("a fired timer is well formed").timer);
        let fired: Vec<_> = due.iter().copied().chain(own).collect();
        let place = |(source, index): (Source, u32)| match source {
            Source::Input => (first + index, None),
            Source::Timer => {
                let due = fired[index as usize];
                (first + due.before, Some(crate::Timer { due }.name().to_owned()))
            }
        };
        for output in outcome.outputs() {
            let output = output.expect("an output is well formed");
            let (input, timer) = place(output.of);
            tested.sent.push(Sent {
                input,
                timer,
                sink: outcome.sink(output.sink).expect("the sink is in the table").map(str::to_owned),
                key: output.event.key().map(<[u8]>::to_vec),
                value: output.event.value().to_vec(),
                timestamp: output.event.timestamp(),
                headers: output.event.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
            });
        }
        for failure in outcome.failures() {
            let failure = failure.expect("a failure is well formed");
            let (input, timer) = place(failure.of);
            let transient = failure.kind == FailureKind::Transient;
            tested.failures.push(Failed { input, timer, transient, reason: failure.reason.to_owned() });
        }
    }
}

/// Checks that a consumer does the same however events are batched: all at once, one by one, and cut at random. What it did.
///
/// # Panics
/// When it does not.
pub fn assert_same_however_batched(make: impl Fn() -> Tester, events: &[Given]) -> Tested {
    let run = |fires: bool, cuts: &mut dyn FnMut() -> usize| {
        let (mut tester, mut all) = (Tester { fires, ..make() }, Tested::default());
        let mut left = events;
        while !left.is_empty() {
            let (batch, rest) = left.split_at(cuts().clamp(1, left.len()));
            let mut tested = tester.process(batch);
            let first = all.processed;
            tested.sent.iter_mut().for_each(|sent| sent.input += first);
            tested.failures.iter_mut().for_each(|failed| failed.input += first);
            all.processed += tested.processed;
            all.sent.extend(tested.sent);
            all.failures.extend(tested.failures);
            left = rest;
        }
        let mut closed = tester.close();
        closed.sent.iter_mut().for_each(|sent| sent.input += all.processed);
        closed.failures.iter_mut().for_each(|failed| failed.input += all.processed);
        all.sent.extend(closed.sent);
        all.failures.extend(closed.failures);
        (all, tester.state)
    };
    let whole = run(true, &mut || usize::MAX);
    assert_eq!(run(true, &mut || 1), whole, "one by one is not what it is all at once");
    // As by a host in which timers fire in later calls only, as they do behind late events.
    assert_eq!(
        run(false, &mut || usize::MAX),
        whole,
        "with timers in later calls it is not what it is with them in the same"
    );
    for seed in 1..=20_u64 {
        let mut random = seed;
        let cut = run(seed % 2 == 0, &mut || {
            // Xorshift; good enough to cut batches.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % 7) as usize + 1
        });
        assert_eq!(cut, whole, "cut at random with seed {seed} is not what it is all at once");
    }
    whole.0
}

/// Calls for one batch, at most.
const MOST_CALLS: usize = 10_000;
