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

use sluice_event::{Batch, FailureKind, NewEvent, View};

use crate::{Config, Consumer, Event, Outputs, Result, Runner, runner};

/// A consumer under test.
pub struct Tester {
    runner: Box<dyn Runner>,
    next_offset: u64,
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
        let mut consumer = C::init(&Config::from_json(config))?;
        Ok(Self::function(move |event: &Event, out: &mut Outputs| consumer.process(event, out)))
    }

    /// Tests a function.
    pub fn function(handler: impl FnMut(&Event, &mut Outputs) -> Result + 'static) -> Self {
        Self { runner: runner(handler), next_offset: 0 }
    }

    /// Gives events as one batch.
    ///
    /// # Panics
    /// When the SDK breaks its own format.
    pub fn process(&mut self, events: &[Given]) -> Tested {
        let mut batch = Batch::default();
        for given in events {
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
        };
        let mut header = Vec::new();
        view.write(&mut header);
        let bytes = self.runner.run(&header, batch.bytes(), &|_| {}).expect("the batch is well formed");
        let outcome = sluice_event::Outcome::parse(&bytes, batch.count()).expect("the outcome is well formed");
        self.next_offset += u64::from(outcome.processed());
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
