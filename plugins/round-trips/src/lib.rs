//! Flights between two airports that meet: one there and one back, no more than six hours apart.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_sdk::window::Join;
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, consumer, json};

#[derive(Deserialize)]
struct Flight<'a> {
    delay: i64,
    origin: &'a str,
    destination: &'a str,
}

/// What a flight is to one that goes the other way.
#[derive(Serialize, Deserialize, Clone)]
struct Way {
    time: i64,
    delay: i64,
}

#[derive(Serialize)]
struct RoundTrip<'a> {
    /// From the first airport to the second.
    there: &'a Way,
    back: &'a Way,
}

/// Keeps flights for as long as one back may come.
pub struct RoundTrips {
    join: Join<Way, Way>,
}

impl Consumer for RoundTrips {
    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { join: Join::within("ways", Duration::from_secs(6 * 3600)) })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let flight: Flight = event.json()?;
        let (key, time) = (event.key(), event.timestamp());
        let way = Way { time, delay: flight.delay };
        // Flights of a pair have one key; which way they go tells the two sides apart.
        if flight.origin < flight.destination {
            for (_, back) in self.join.left(key, time, way.clone())? {
                out.send(key, json(RoundTrip { there: &way, back: &back }))?;
            }
        } else {
            for (_, there) in self.join.right(key, time, way.clone())? {
                out.send(key, json(RoundTrip { there: &there, back: &way }))?;
            }
        }
        Ok(())
    }
}

consumer!(type RoundTrips);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester, assert_same_however_batched};

    use super::RoundTrips;

    const HOUR: i64 = 3_600_000;

    fn flight(from: &str, to: &str, hour: i64) -> Given {
        let pair = if from < to { format!("{from}-{to}") } else { format!("{to}-{from}") };
        let value = format!(r#"{{"delay":{hour},"origin":"{from}","destination":"{to}"}}"#);
        Given::value(value).key(pair).timestamp(hour * HOUR)
    }

    #[test]
    fn flights_meet_that_go_there_and_back_within_six_hours() {
        let flights = [
            flight("DTW", "LAX", 1),
            flight("DTW", "BOS", 2),
            flight("LAX", "DTW", 7),
            // Too late for the first one, in time for the next.
            flight("LAX", "DTW", 8),
            flight("DTW", "LAX", 9),
        ];
        let tested = assert_same_however_batched(|| Tester::new::<RoundTrips>("{}").unwrap(), &flights);
        let met: Vec<_> = tested.sent.iter().map(|sent| sent.input).collect();
        assert_eq!(met, [2, 4, 4]);
        assert_eq!(tested.texts()[0], r#"{"there":{"time":3600000,"delay":1},"back":{"time":25200000,"delay":7}}"#);
    }
}
