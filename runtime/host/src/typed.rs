//! The typed world: events as records, for guests whose tools speak WIT. What a guest returns becomes an outcome in the flat
//! format, so that everything behind it knows one format only.

use std::collections::{BTreeSet, HashMap};

use sluice_event::{DueTimer, FailureKind, NewEvent, OutcomeWriter, Region, Source, TooLarge, View};
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::state::Access;

/// The types are those of `guest-sdk/wit`; wasmtime compares them with the component's.
#[derive(ComponentType, Lower, Debug, Clone, Copy)]
#[component(record)]
pub(crate) struct Header<'a> {
    name: &'a str,
    value: &'a [u8],
}

#[derive(ComponentType, Lower, Debug, Clone)]
#[component(record)]
pub(crate) struct Event<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: &'a [u8],
    headers: Vec<Header<'a>>,
}

#[derive(ComponentType, Lift, Lower, Debug, Clone, Copy, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Clock {
    #[component(name = "event-time")]
    EventTime,
    #[component(name = "wall-clock")]
    WallClock,
}

impl From<Clock> for sluice_event::Clock {
    fn from(clock: Clock) -> Self {
        match clock {
            Clock::EventTime => Self::EventTime,
            Clock::WallClock => Self::WallClock,
        }
    }
}

#[derive(ComponentType, Lower, Debug, Clone, Copy)]
#[component(record)]
pub(crate) struct Timer<'a> {
    before: u32,
    time: i64,
    clock: Clock,
    key: &'a [u8],
    tag: &'a [u8],
}

#[derive(ComponentType, Lift, Debug, Clone, Copy)]
#[component(variant)]
pub(crate) enum Origin {
    #[component(name = "input")]
    Input(u32),
    #[component(name = "timer")]
    Timer(u32),
}

impl Origin {
    pub(crate) fn flat(self) -> (Source, u32) {
        match self {
            Self::Input(index) => (Source::Input, index),
            Self::Timer(index) => (Source::Timer, index),
        }
    }
}

#[derive(ComponentType, Lift, Debug, Clone)]
#[component(record)]
pub(crate) struct OwnedHeader {
    name: String,
    value: Vec<u8>,
}

#[derive(ComponentType, Lift, Debug, Clone)]
#[component(record)]
pub(crate) struct Output {
    origin: Origin,
    sink: Option<String>,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Vec<OwnedHeader>,
}

#[derive(ComponentType, Lift, Debug, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "lifted from what guests say, never constructed here")]
pub(crate) enum Kind {
    #[component(name = "transient")]
    Transient,
    #[component(name = "permanent")]
    Permanent,
}

#[derive(ComponentType, Lift, Debug, Clone)]
#[component(record)]
pub(crate) struct Failure {
    origin: Origin,
    kind: Kind,
    reason: String,
}

#[derive(ComponentType, Lift, Debug, Clone)]
#[component(record)]
pub(crate) struct Outcome {
    processed: u32,
    fired: u32,
    outputs: Vec<Output>,
    failures: Vec<Failure>,
}

/// What a call gets and returns.
pub(crate) type Parameters<'a> = (&'a [Event<'a>], &'a [Timer<'a>]);

/// The events of a batch as records.
pub(crate) fn events<'a>(header: &'a [u8], events: &'a [u8]) -> Result<Vec<Event<'a>>, sluice_event::Malformed> {
    let view = View::parse(header)?;
    let record = |(index, event): (u64, Result<sluice_event::Event<'a>, _>)| {
        let event = event?;
        let origin = event.origin().filter(|_| view.chained);
        Ok(Event {
            topic: view.topic_name,
            partition: view.partition,
            offset: origin.map_or(view.base_offset + index, |origin| origin.offset),
            timestamp: event.timestamp(),
            key: event.key(),
            value: event.value(),
            headers: event.headers().map(|(name, value)| Header { name, value }).collect(),
        })
    };
    (0..).zip(Region::new(events, view.count).events()).map(record).collect()
}

/// The due timers of a batch as records.
pub(crate) fn timers(header: &[u8]) -> Result<Vec<Timer<'_>>, sluice_event::Malformed> {
    View::parse(header)?.due_timers().map(|timer| timer.map(Timer::from)).collect()
}

impl<'a> From<DueTimer<'a>> for Timer<'a> {
    fn from(DueTimer { before, time, clock, key, tag }: DueTimer<'a>) -> Self {
        let clock = match clock {
            sluice_event::Clock::EventTime => Clock::EventTime,
            sluice_event::Clock::WallClock => Clock::WallClock,
        };
        Self { before, time, clock, key, tag }
    }
}

/// What a guest returned, in the flat format.
pub(crate) fn flat(
    outcome: &Outcome,
    events: &[Event<'_>],
    timers: &[Timer<'_>],
    access: Option<&mut Access>,
) -> Result<Vec<u8>, String> {
    // The table of sinks is searched for every output: it is bounded before that costs more than the call did.
    const MOST_SINKS: u32 = 1000;
    let bytes = outcome.outputs.iter().map(|output| output.value.len() + 64).sum();
    let mut writer = OutcomeWriter::with_capacity(bytes, 0);
    let mut sinks = HashMap::new();
    for output in &outcome.outputs {
        let (source, index) = output.origin.flat();
        let own = || match source {
            Source::Input => events.get(index as usize).map_or(0, |event| event.timestamp),
            Source::Timer => timers.get(index as usize).map_or(0, |timer| timer.time),
        };
        let headers: Vec<_> = output.headers.iter().map(|h| (h.name.as_str(), &h.value[..])).collect();
        let sink = match output.sink.as_deref() {
            None => 0,
            // Looked up here, for the writer looks through all of them.
            Some(name) => *sinks.entry(name).or_insert_with(|| writer.sink(Some(name))),
        };
        if sink > MOST_SINKS {
            return Err(format!("it names more than {MOST_SINKS} sinks"));
        }
        let event = NewEvent {
            timestamp: output.timestamp.unwrap_or_else(own),
            key: output.key.as_deref(),
            headers: &headers,
            ..NewEvent::default()
        };
        let written = writer.output((source, index), sink, event, |out| {
            out.extend_from_slice(&output.value);
            Ok::<_, TooLarge>(())
        });
        written.map_err(|error| error.to_string())?;
    }
    for failure in &outcome.failures {
        let kind = match failure.kind {
            Kind::Transient => FailureKind::Transient,
            Kind::Permanent => FailureKind::Permanent,
        };
        writer.fail(failure.origin.flat(), kind, &failure.reason);
    }
    if let Some(access) = access {
        let failed: BTreeSet<_> = outcome.failures.iter().map(|failure| failure.origin.flat()).collect();
        access.finish(&mut writer, |origin| {
            let dealt_with = match origin {
                Origin::Input(index) => index < outcome.processed,
                Origin::Timer(index) => index < outcome.fired,
            };
            dealt_with && !failed.contains(&origin.flat())
        });
    }
    Ok(writer.finish(outcome.processed, outcome.fired))
}

/// When each event happened.
pub(crate) fn timestamps(events: &[Event<'_>]) -> impl Iterator<Item = i64> {
    events.iter().map(|event| event.timestamp)
}

/// When each timer was to fire.
pub(crate) fn times(timers: &[Timer<'_>]) -> impl Iterator<Item = i64> {
    timers.iter().map(|timer| timer.time)
}
