//! W3C trace context (<https://www.w3.org/TR/trace-context/>): what comes of an event belongs to its trace.

use sluice_event::{Batch, Event, Events, NewEvent, Output, Region, Source};

/// Headers that go on with outputs which do not say themselves where they belong, and bytes that are no more.
const CARRIED: [(&str, usize); 2] = [("traceparent", 256), ("tracestate", 512)];

/// Gives the trace of inputs to their outputs. Events without headers cost a glance.
pub(crate) struct Traces<'a> {
    events: Events<'a>,
    /// The index of the next of them, and the one before.
    next: u32,
    input: Option<Event<'a>>,
    /// The output that was made last.
    made: Batch,
}

impl<'a> Traces<'a> {
    /// Of these events; `None` when none of them has headers.
    pub(crate) fn of(events: Region<'a>) -> Option<Self> {
        let all = || Self { events: events.events(), next: 0, input: None, made: Batch::default() };
        events.has_headers().then(all)
    }

    /// An output with what its event carries, when that is more than it has; at most so many bytes. Outputs come in the order of their inputs.
    pub(crate) fn carry(&mut self, output: &Output<'_>, most: usize) -> Option<Event<'_>> {
        let (Source::Input, index) = output.of else { return None };
        while self.next <= index {
            self.input = self.events.next()?.ok();
            self.next += 1;
        }
        let has = |event: &Event<'_>| event.headers().any(|(name, _)| name == CARRIED[0].0);
        let input = self.input.filter(|input| has(input) && !has(&output.event))?;
        let carried = |(name, value): &(&str, &[u8])| {
            CARRIED.iter().any(|(carried, most)| carried == name && value.len() <= *most)
        };
        let own = output.event.headers().filter(|(name, _)| *name != CARRIED[1].0);
        let headers: Vec<(&str, &[u8])> = own.chain(input.headers().filter(carried)).collect();
        let event = &output.event;
        let (timestamp, key, origin) = (event.timestamp(), event.key(), event.origin());
        self.made.clear();
        self.made.push(&NewEvent { timestamp, key, value: event.value(), headers: &headers, origin }).ok()?;
        let made = self.made.region().events().next()?.ok()?;
        (made.bytes().len() <= most).then_some(made)
    }
}
