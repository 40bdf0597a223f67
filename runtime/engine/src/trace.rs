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
    /// Bytes that outputs have got so far, and those of the input in hand.
    carried: usize,
    by_input: usize,
}

/// Bytes that the outputs of one call may get. Events with long headers, and many outputs of each, would otherwise become more than a commit can hold.
const MOST_CARRIED: usize = 16 << 20;

impl<'a> Traces<'a> {
    /// Of these events; `None` when none of them has headers.
    pub(crate) fn of(events: Region<'a>) -> Option<Self> {
        let all =
            || Self { events: events.events(), next: 0, input: None, made: Batch::default(), carried: 0, by_input: 0 };
        events.has_headers().then(all)
    }

    /// An output with what its event carries, when that is more than it has; at most so many bytes. Outputs come in the order of their inputs.
    pub(crate) fn carry(&mut self, output: &Output<'_>, most: usize) -> Option<Event<'_>> {
        let (Source::Input, index) = output.of else { return None };
        while self.next <= index {
            self.input = self.events.next()?.ok();
            (self.next, self.by_input) = (self.next + 1, 0);
        }
        let has = |event: &Event<'_>| event.headers().any(|(name, _)| name == CARRIED[0].0);
        let input = self.input.filter(|input| has(input) && !has(&output.event))?;
        // Of each the first, for there should be one.
        let first = |(carried, most): &(&str, usize)| {
            input.headers().find(|(name, _)| name == carried).filter(|(_, value)| value.len() <= *most)
        };
        let own = output.event.headers().filter(|(name, _)| *name != CARRIED[1].0);
        let headers: Vec<(&str, &[u8])> = own.chain(CARRIED.iter().filter_map(first)).collect();
        let event = &output.event;
        let (timestamp, key, origin) = (event.timestamp(), event.key(), event.origin());
        self.made.clear();
        self.made.push(&NewEvent { timestamp, key, value: event.value(), headers: &headers, origin }).ok()?;
        let made = self.made.region().events().next()?.ok()?;
        let more = made.bytes().len().saturating_sub(event.bytes().len());
        // By the event alone, so that it does not depend on what else is in the call.
        if made.bytes().len() > most || self.by_input + more > MOST_CARRIED {
            return None;
        }
        (self.carried, self.by_input) = (self.carried + more, self.by_input + more);
        Some(made)
    }

    /// Whether all that was carried is more than a call may come to, which no event is by itself: they are to be dealt with in smaller calls.
    pub(crate) fn is_too_much(&self) -> bool {
        self.carried > MOST_CARRIED
    }
}

#[cfg(test)]
mod tests {
    use sluice_event::{Items, Outcome, OutcomeWriter};

    use super::*;

    type Headers<'a> = &'a [(&'a str, &'a [u8])];

    const PARENT: (&str, &[u8]) = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");

    /// The headers that the outputs of these inputs have in the end: an input by its headers, an output by its input and its own.
    fn carried(inputs: &[Headers<'_>], outputs: &[(u32, Headers<'_>)]) -> Vec<Vec<(String, Vec<u8>)>> {
        let mut batch = Batch::default();
        for headers in inputs {
            batch.push(&NewEvent { headers, ..NewEvent::default() }).unwrap();
        }
        let mut writer = OutcomeWriter::default();
        for (of, headers) in outputs {
            let event = NewEvent { headers, timestamp: 7, key: Some(b"k"), ..NewEvent::default() };
            let value = |out: &mut Vec<u8>| -> Result<(), sluice_event::TooLarge> {
                out.extend_from_slice(b"v");
                Ok(())
            };
            writer.output((Source::Input, *of), 0, event, value).unwrap();
        }
        let bytes = writer.finish(inputs.len() as u32, 0);
        let outcome = Outcome::parse(&bytes, Items { inputs: inputs.len() as u32, ..Items::default() }).unwrap();
        let mut traces = Traces::of(batch.region());
        let told = |event: &Event<'_>| {
            assert_eq!((event.timestamp(), event.key(), event.value()), (7, Some(&b"k"[..]), &b"v"[..]));
            event.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
        };
        let mut all = Vec::new();
        for output in outcome.outputs().map(Result::unwrap) {
            let carried = traces.as_mut().and_then(|traces| traces.carry(&output, 1 << 20));
            all.push(told(carried.as_ref().unwrap_or(&output.event)));
        }
        all
    }

    fn headers(all: Headers<'_>) -> Vec<(String, Vec<u8>)> {
        all.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
    }

    #[test]
    fn outputs_have_the_trace_of_their_own_input_unless_they_say_another() {
        let (state, other, own) = (("tracestate", &b"a=1"[..]), ("other", &b"x"[..]), ("traceparent", &b"own"[..]));
        let long = ("tracestate", &[b'x'; 600][..]);
        let inputs: [Headers<'_>; 5] = [&[], &[PARENT, state, other, PARENT], &[state], &[PARENT, long], &[PARENT]];
        let outputs: [(u32, Headers<'_>); 7] =
            [(0, &[]), (1, &[]), (1, &[other]), (1, &[own]), (2, &[]), (3, &[]), (4, &[state])];
        let expected: [Headers<'_>; 7] =
            [&[], &[PARENT, state], &[other, PARENT, state], &[own], &[], &[PARENT], &[PARENT]];
        assert_eq!(carried(&inputs, &outputs), expected.map(headers));
        // Where no event has headers, nothing is looked at.
        assert!(Traces::of(Batch::default().region()).is_none());
    }
}
