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

use sluice_event::{Batch, FailureKind, NewEvent, View, has_expired};

use crate::{Config, Consumer, Event, Outputs, Result, Runner, consumer_runner, runner};

/// A consumer under test. Its state is kept from one batch to the next.
pub struct Tester {
    runner: Box<dyn Runner>,
    next_offset: u64,
    state: Kept,
    /// The newest timestamp so far, which is the watermark.
    watermark: Option<i64>,
}

/// What a consumer under test keeps: values with their expiries.
type Kept = BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>;

thread_local! {
    /// That of the tester which is running.
    static STATE: RefCell<Kept> = const { RefCell::new(BTreeMap::new()) };
}

/// Plays the host to [`State`](crate::State).
pub(crate) mod host {
    use super::STATE;

    pub(crate) fn get(mut keys: &[u8]) -> Vec<u8> {
        let mut values = Vec::new();
        while let Some((len, rest)) = keys.split_first_chunk() {
            let (key, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
            keys = rest;
            STATE.with_borrow(|state| match state.get(key) {
                Some((value, expires)) => {
                    values.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    values.extend_from_slice(&expires.unwrap_or(0).to_le_bytes());
                    values.extend_from_slice(value);
                }
                None => values.extend_from_slice(&u32::MAX.to_le_bytes()),
            });
        }
        values
    }

    type Found = (Vec<u8>, Vec<u8>, Option<i64>);

    pub(crate) fn scan(prefix: &[u8], after: Option<&[u8]>, limit: u32, _max_bytes: u32) -> Vec<Found> {
        STATE.with_borrow(|state| {
            let behind = |key: &&Vec<u8>| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after);
            let found = state.iter().filter(|(key, _)| behind(key)).take(limit as usize);
            found.map(|(key, (value, expires))| (key.clone(), value.clone(), *expires)).collect()
        })
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
}

/// An event that a consumer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Index of the event it was sent for.
    pub input: u32,
    /// The sink named, if any.
    pub sink: Option<String>,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
}

/// An event that a consumer could not deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Index of the event.
    pub input: u32,
    /// Whether trying again may help.
    pub transient: bool,
    /// What the consumer said.
    pub reason: String,
}

/// What became of the events given.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl Tester {
    /// Tests a consumer with this configuration, as JSON.
    ///
    /// # Errors
    /// What `init` says of the configuration.
    pub fn new<C: Consumer>(config: &str) -> Result<Self> {
        Ok(Self::of(consumer_runner(|| C::init(&Config::from_json(config)))?))
    }

    fn of(runner: Box<dyn Runner>) -> Self {
        Self { runner, next_offset: 0, state: Kept::new(), watermark: None }
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

    /// Gives events as one batch.
    ///
    /// # Panics
    /// When the SDK breaks its own format.
    pub fn process(&mut self, events: &[Given]) -> Tested {
        let mut batch = Batch::default();
        let mut watermarks = Vec::new();
        for given in events {
            watermarks.extend_from_slice(&self.watermark.unwrap_or(i64::MIN).to_le_bytes());
            self.watermark = self.watermark.max(Some(given.timestamp));
            let event = NewEvent {
                timestamp: given.timestamp,
                key: given.key.as_deref(),
                value: &given.value,
                ..NewEvent::default()
            };
            batch.push(&event).expect("an event fits its format");
        }
        let view = View {
            count: batch.count(),
            base_offset: self.next_offset,
            watermark: None,
            seed: 0,
            topic: 1,
            partition: 0,
            topic_name: "test",
            chained: false,
            watermarks: &watermarks,
        };
        let mut header = Vec::new();
        view.write(&mut header);
        STATE.set(std::mem::take(&mut self.state));
        let bytes = self.runner.run(&header, batch.bytes(), &|_| {}).expect("the batch is well formed");
        self.state = STATE.take();
        let outcome = sluice_event::Outcome::parse(&bytes, batch.count()).expect("the outcome is well formed");
        self.next_offset += u64::from(outcome.processed());
        for write in outcome.state_writes() {
            let write = write.expect("a state write is well formed");
            match write.value {
                Some(value) => self.state.insert(write.key.to_vec(), (value.to_vec(), write.expires)),
                None => self.state.remove(write.key),
            };
        }
        self.state.retain(|_, (_, expires)| !has_expired(*expires, self.watermark));
        let sent = |output: sluice_event::Output<'_>| Sent {
            input: output.input,
            sink: outcome.sink(output.sink).expect("the sink is in the table").map(str::to_owned),
            key: output.event.key().map(<[u8]>::to_vec),
            value: output.event.value().to_vec(),
            timestamp: output.event.timestamp(),
        };
        let failed = |failure: sluice_event::Failure<'_>| Failed {
            input: failure.input,
            transient: failure.kind == FailureKind::Transient,
            reason: failure.reason.to_owned(),
        };
        Tested {
            processed: outcome.processed(),
            sent: outcome.outputs().map(|output| sent(output.expect("an output is well formed"))).collect(),
            failures: outcome.failures().map(|failure| failed(failure.expect("a failure is well formed"))).collect(),
        }
    }
}
