//! Flights between two airports that meet: one there and one back, no more than six hours apart.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_sdk::window::Join;
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, consumer, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The topic of the flights back; those of all others go there.
    back: String,
}

#[derive(Deserialize)]
struct Flight {
    delay: i64,
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

/// Keeps flights for as long as one that goes the other way may come.
pub struct RoundTrips {
    settings: Settings,
    join: Join<Way, Way>,
}

impl Consumer for RoundTrips {
    fn init(config: &Config) -> Result<Self> {
        Ok(Self { settings: config.parse()?, join: Join::within("ways", Duration::from_secs(6 * 3600)) })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let Flight { delay } = event.json()?;
        let (key, time) = (event.key(), event.timestamp());
        let way = Way { time, delay };
        if event.topic() == self.settings.back {
            for (_, there) in self.join.right(key, time, way.clone())? {
                out.send(key, json(RoundTrip { there: &there, back: &way }))?;
            }
        } else {
            for (_, back) in self.join.left(key, time, way.clone())? {
                out.send(key, json(RoundTrip { there: &way, back: &back }))?;
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

    fn flight(topic: &str, pair: &str, hour: i64) -> Given {
        Given::value(format!(r#"{{"delay":{hour}}}"#)).key(pair).timestamp(hour * HOUR).topic(topic)
    }

    #[test]
    fn flights_meet_that_go_there_and_back_within_six_hours() {
        let flights = [
            flight("there", "DTW-LAX", 1),
            flight("there", "BOS-DTW", 2),
            flight("back", "DTW-LAX", 7),
            // Too late for the first one, in time for the next.
            flight("back", "DTW-LAX", 8),
            flight("there", "DTW-LAX", 9),
        ];
        let tester = || Tester::new::<RoundTrips>(r#"{"back":"back"}"#).unwrap().reading(&["there", "back"]);
        let tested = assert_same_however_batched(tester, &flights);
        let met: Vec<_> = tested.sent.iter().map(|sent| sent.input).collect();
        assert_eq!(met, [2, 4, 4]);
        assert_eq!(tested.texts()[0], r#"{"there":{"time":3600000,"delay":1},"back":{"time":25200000,"delay":7}}"#);
    }
}
