//! Flights by the pair of airports that they connect, those there and those back to a topic each: what belongs together comes to the same partition.

use serde::{Deserialize, Serialize};
use sluice_sdk::{Event, Outputs, Result, consumer, json};

#[derive(Deserialize, Serialize)]
struct Flight<'a> {
    delay: i64,
    origin: &'a str,
    destination: &'a str,
}

/// Keys a flight by its airports, the lesser one first, from which it goes there.
pub fn by_pair(event: &Event, out: &mut Outputs) -> Result {
    let flight: Flight = event.json()?;
    let (a, b) = (flight.origin.min(flight.destination), flight.origin.max(flight.destination));
    let sink = if flight.origin == a { "there" } else { "back" };
    out.output().sink(sink).key(&format!("{a}-{b}")).send(json(flight))
}

consumer!(by_pair);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    #[test]
    fn both_ways_have_one_key_and_a_sink_each() {
        let flight = |from: &str, to: &str| {
            Given::value(format!(r#"{{"date":"2001","delay":5,"origin":"{from}","destination":"{to}"}}"#)).key(from)
        };
        let tested = Tester::function(super::by_pair).process(&[flight("LAX", "DTW"), flight("DTW", "LAX")]);
        assert!(tested.sent.iter().all(|sent| sent.key.as_deref() == Some(b"DTW-LAX")));
        assert!(tested.sent.iter().map(|sent| sent.sink.as_deref()).eq([Some("back"), Some("there")]));
        assert_eq!(tested.texts()[0], r#"{"delay":5,"origin":"LAX","destination":"DTW"}"#);
    }
}
