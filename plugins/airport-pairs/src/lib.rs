//! Flights by the pair of airports that they connect, whichever way they go: what belongs together comes to one partition.

use serde::{Deserialize, Serialize};
use sluice_sdk::{Event, Outputs, Result, consumer, json};

#[derive(Deserialize, Serialize)]
struct Flight<'a> {
    delay: i64,
    origin: &'a str,
    destination: &'a str,
}

/// Keys a flight by its airports, the lesser one first.
pub fn by_pair(event: &Event, out: &mut Outputs) -> Result {
    let flight: Flight = event.json()?;
    let (a, b) = (flight.origin.min(flight.destination), flight.origin.max(flight.destination));
    out.send(&format!("{a}-{b}"), json(flight))
}

consumer!(by_pair);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    #[test]
    fn both_ways_have_one_key() {
        let flight = |from: &str, to: &str| {
            Given::value(format!(r#"{{"date":"2001","delay":5,"origin":"{from}","destination":"{to}"}}"#)).key(from)
        };
        let tested = Tester::function(super::by_pair).process(&[flight("LAX", "DTW"), flight("DTW", "LAX")]);
        assert!(tested.sent.iter().all(|sent| sent.key.as_deref() == Some(b"DTW-LAX")));
        assert_eq!(tested.texts()[0], r#"{"delay":5,"origin":"LAX","destination":"DTW"}"#);
    }
}
