use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use crate::*;

#[derive(Debug, Clone)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    origin: Option<Origin>,
}

fn owned() -> impl Strategy<Value = Owned> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let origin = prop::option::of((any::<u32>(), any::<u32>(), any::<u64>(), any::<u32>(), any::<bool>()).prop_map(
        |(topic, partition, offset, ordinal, timer)| Origin {
            topic,
            partition,
            offset,
            ordinal,
            source: if timer { Source::Timer } else { Source::Input },
        },
    ));
    let headers = prop::collection::vec(("[a-zé]{0,9}", bytes()), 0..4);
    (any::<i64>(), prop::option::of(bytes()), bytes(), headers, origin)
        .prop_map(|(timestamp, key, value, headers, origin)| Owned { timestamp, key, value, headers, origin })
}

fn batch_of(events: &[Owned]) -> Batch {
    let mut batch = Batch::default();
    for event in events {
        let headers: Vec<(&str, &[u8])> = event.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let new = NewEvent {
            timestamp: event.timestamp,
            key: event.key.as_deref(),
            value: &event.value,
            headers: &headers,
            origin: event.origin,
        };
        let before = batch.bytes().len();
        batch.push(&new).unwrap();
        assert_eq!(batch.bytes().len() - before, new.size());
    }
    batch
}

proptest! {
    #[test]
    fn what_is_written_is_read(events in prop::collection::vec(owned(), 0..8)) {
        let batch = batch_of(&events);
        let read: Vec<_> = batch.region().events().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.len(), events.len());
        for (read, event) in read.iter().zip(&events) {
            prop_assert_eq!(read.timestamp(), event.timestamp);
            prop_assert_eq!(read.key(), event.key.as_deref());
            prop_assert_eq!(read.value(), &event.value[..]);
            prop_assert_eq!(read.origin(), event.origin);
            let headers: Vec<_> = read.headers().map(|(n, v)| (String::from(n), v.to_vec())).collect();
            prop_assert_eq!(&headers, &event.headers);
        }
        if let Some(min) = events.iter().map(|e| e.timestamp).min() {
            prop_assert_eq!(batch.timestamps().0, min);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_never_a_panic(
        events in prop::collection::vec(owned(), 1..5),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let batch = batch_of(&events);
        let mut bytes = batch.bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let region = Region::new(&bytes, batch.count());
        let _ = region.check();
        let _ = region.skip(1);
        let _ = region.prefix(2, 50);
        let _ = View::parse(&bytes);
    }

    #[test]
    fn skip_and_prefix_cut_between_events(events in prop::collection::vec(owned(), 1..8), at in 0u32..8) {
        let batch = batch_of(&events);
        let at = at.min(batch.count());
        let (front, back) = (batch.region().prefix(at, usize::MAX).unwrap(), batch.region().skip(at).unwrap());
        prop_assert_eq!(front.count() + back.count(), batch.count());
        prop_assert_eq!([front.bytes(), back.bytes()].concat(), batch.bytes());
        prop_assert!(front.check().is_ok() && back.check().is_ok());
    }

    #[test]
    fn a_damaged_outcome_is_refused_or_read_never_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        own in any::<bool>(),
    ) {
        let mut bytes = if own { with_firings(&[(Source::Timer, 3), (Source::Timer, 4)], 2, &[(1, 1), (3, 2)]) } else { outcome() };
        let items = Items { fires: own, ..GIVEN };
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(outcome) = Outcome::parse(&bytes, items) {
            outcome.outputs().for_each(|output| { let _ = output.map(|output| outcome.sink(output.sink)); });
            outcome.failures().for_each(drop);
            outcome.state_writes().for_each(drop);
            outcome.timer_changes().for_each(drop);
            outcome.firings().for_each(drop);
        }
    }
}

/// Three events, with two timers before the second and the third, and one behind them.
const GIVEN: Items<'_> = Items { inputs: 3, timers: &[1, 2, 3], fires: false };

const SET: TimerChange<'_> =
    TimerChange { of: (Source::Timer, 1), clock: Clock::EventTime, time: Some(-7), key: b"k", tag: b"close" };

fn outcome() -> Vec<u8> {
    let mut writer = OutcomeWriter::default();
    let send = |writer: &mut OutcomeWriter, input, sink, value: &[u8]| {
        let sink = writer.sink(sink);
        let of = if value == b"t" { Source::Timer } else { Source::Input };
        writer
            .output((of, input), sink, NewEvent { timestamp: 7, ..NewEvent::default() }, |out| {
                out.extend_from_slice(value);
                Ok::<_, TooLarge>(())
            })
            .unwrap();
    };
    send(&mut writer, 0, None, b"a");
    send(&mut writer, 0, Some("alerts"), b"b");
    let mark = writer.mark();
    send(&mut writer, 1, Some("other"), b"undone");
    writer.undo(mark);
    writer.fail((Source::Input, 1), FailureKind::Permanent, "no such airport");
    send(&mut writer, 1, None, b"t");
    send(&mut writer, 2, Some("alerts"), b"c");
    writer.state((Source::Timer, 1), b"k", None, None);
    writer.timer(&SET);
    writer.timer(&TimerChange { of: (Source::Input, 2), time: None, ..SET });
    writer.finish(3, 2)
}

#[test]
fn an_outcome_tells_outputs_sinks_and_failures() {
    let bytes = outcome();
    let outcome = Outcome::parse(&bytes, GIVEN).unwrap();
    let outputs: Vec<_> = outcome
        .outputs()
        .map(|output| {
            let output = output.unwrap();
            (output.of, output.ordinal, outcome.sink(output.sink).unwrap(), output.event.value())
        })
        .collect();
    let (input, timer) = (|index| (Source::Input, index), |index| (Source::Timer, index));
    assert_eq!(
        outputs,
        vec![
            (input(0), 0, None, &b"a"[..]),
            (input(0), 1, Some("alerts"), b"b"),
            (timer(1), 0, None, b"t"),
            (input(2), 0, Some("alerts"), b"c"),
        ]
    );
    let failures: Vec<_> = outcome.failures().collect::<Result<_, _>>().unwrap();
    assert_eq!(failures, [Failure { of: input(1), kind: FailureKind::Permanent, reason: "no such airport" }]);
    let changes: Vec<_> = outcome.timer_changes().collect::<Result<_, _>>().unwrap();
    assert_eq!(changes, [SET, TimerChange { of: input(2), time: None, ..SET }]);
    assert_eq!((outcome.processed(), outcome.fired()), (3, 2));
}

#[test]
fn an_outcome_that_deals_with_more_than_it_got_is_refused() {
    for items in [Items { inputs: 2, ..GIVEN }, Items { timers: &[1], ..GIVEN }] {
        assert!(Outcome::parse(&outcome(), items).is_err());
    }
    // The third timer fires before the third event, which was dealt with, and it was not.
    assert!(Outcome::parse(&outcome(), Items { timers: &[1, 2, 2], ..GIVEN }).is_err());
}

/// An outcome with one output of each of these, of three events and the due timers of [`GIVEN`], the first `fired` of which were dealt with; and with
/// timers that the call has set, by the event before which each fired, and how many due ones before it.
fn with_firings(of: &[(Source, u32)], fired: u32, firings: &[(u32, u32)]) -> Vec<u8> {
    let mut writer = OutcomeWriter::default();
    for (number, (before, behind)) in (0..).zip(firings) {
        let timer = DueTimer { before: *before, time: 5, clock: Clock::EventTime, key: b"own", tag: b"" };
        assert_eq!(writer.firing(&timer, *behind), number);
    }
    for of in of {
        writer.output(*of, 0, NewEvent::default(), |_| Ok::<_, TooLarge>(())).unwrap();
    }
    writer.finish(3, fired)
}

#[test]
fn timers_that_a_call_has_set_and_fired_stand_between_events_and_due_timers() {
    let fires = Items { fires: true, ..GIVEN };
    let (input, timer) = (|index| (Source::Input, index), |index| (Source::Timer, index));
    // Before the second event one behind the due timer and one before it; behind the last one.
    let (of, firings) = ([timer(3), timer(0), timer(4), input(1), timer(5)], [(1, 0), (1, 1), (3, 2)]);
    let bytes = with_firings(&of, 2, &firings);
    let outcome = Outcome::parse(&bytes, fires).unwrap();
    let outputs: Vec<_> =
        outcome.outputs().map(|output| output.map(|output| (output.of, output.before, output.own_key))).collect();
    let own = Some(&b"own"[..]);
    assert_eq!(
        outputs.into_iter().collect::<Result<Vec<_>, _>>().unwrap(),
        [(of[0], 1, own), (of[1], 1, None), (of[2], 1, own), (of[3], 1, None), (of[4], 3, own)]
    );
    assert_eq!(outcome.firings().map(|firing| firing.unwrap().behind).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(Outcome::parse(&bytes, GIVEN).is_err(), "a call that may not fire timers itself");
    // Behind what was not dealt with; not in order; behind a due timer of later, before one of earlier.
    for (fired, firings) in [(2, &[(4, 2)][..]), (1, &[(3, 2)]), (2, &[(2, 1), (1, 1)]), (2, &[(1, 2)]), (2, &[(3, 1)])]
    {
        assert!(Outcome::parse(&with_firings(&[], fired, firings), fires).is_err(), "{firings:?} behind {fired}");
    }
    for of in [[timer(0), timer(3)], [timer(4), timer(3)], [input(1), timer(4)], [timer(5), timer(6)]] {
        let bytes = with_firings(&of, 2, &firings);
        let outputs = Outcome::parse(&bytes, fires).unwrap().outputs().collect::<Result<Vec<_>, _>>();
        assert!(outputs.is_err(), "{of:?}");
    }
}

#[test]
fn outputs_out_of_order_are_refused() {
    let mut writer = OutcomeWriter::default();
    for input in [1, 0] {
        let nothing = |_: &mut Vec<u8>| Ok::<_, TooLarge>(());
        writer.output((Source::Input, input), 0, NewEvent::default(), nothing).unwrap();
    }
    let bytes = writer.finish(2, 0);
    let last = Outcome::parse(&bytes, Items { inputs: 2, ..Items::default() }).unwrap().outputs().last();
    assert_eq!(last.unwrap().unwrap_err(), Malformed("outputs are not in the order of their inputs"));
}

#[test]
fn a_view_is_read_as_written() {
    let timer = DueTimer { before: 1, time: -3, clock: Clock::WallClock, key: b"key", tag: b"" };
    let mut due = Vec::new();
    timer.write(&mut due);
    let view = View {
        count: 3,
        base_offset: 40,
        watermark: Some(-1),
        seed: 9,
        topic: 2,
        partition: 1,
        topic_name: "flights",
        chained: true,
        fires: true,
        watermarks: &[],
        due: (&due, 1),
    };
    let mut bytes = Vec::new();
    view.write(&mut bytes);
    assert_eq!(view.due_timers().collect::<Result<Vec<_>, _>>(), Ok(vec![timer]));
    assert_eq!(View::parse(&bytes), Ok(view));
    assert!((0..bytes.len() - 8).all(|cut| View::parse(&bytes[..cut]).is_err()));
}

#[test]
fn an_event_is_copied_with_another_origin_whether_it_has_one_or_not() {
    let (mut batch, mut once, mut twice) = (Batch::default(), Batch::default(), Batch::default());
    let event = NewEvent { timestamp: 7, key: Some(b"k"), value: b"value", headers: &[("h", b"1")], origin: None };
    batch.push(&event).unwrap();
    let origin = |offset| Origin { topic: 1, partition: 2, offset, ordinal: 3, source: Source::Timer };
    let copied = |from: &Batch, to: &mut Batch, origin| {
        from.region().events().for_each(|event| to.push_output(&event.unwrap(), origin));
        to.region().check().unwrap();
        let event = to.region().events().next().unwrap().unwrap();
        assert_eq!((event.timestamp(), event.key(), event.value()), (7, Some(&b"k"[..]), &b"value"[..]));
        assert_eq!(event.headers().collect::<Vec<_>>(), [("h", &b"1"[..])]);
        assert_eq!(event.origin(), Some(origin));
    };
    copied(&batch, &mut once, origin(4));
    copied(&once, &mut twice, origin(5));
}
