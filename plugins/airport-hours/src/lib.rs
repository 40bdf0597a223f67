//! How late flights leave an airport, hour by hour.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_sdk::window::{Added, Average, Max, Windows};
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, Timer, consumer, json};

#[derive(Deserialize)]
struct Flight {
    delay: f64,
}

#[derive(Serialize)]
struct Hour {
    /// Its first millisecond, since the epoch.
    start: i64,
    flights: u64,
    /// In minutes; tenths are enough.
    average: f64,
    worst: f64,
}

/// Keeps the hours that are not over yet.
pub struct AirportHours {
    hours: Windows<(Average, Max<f64>)>,
}

impl Consumer for AirportHours {
    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { hours: Windows::tumbling("hours", Duration::from_secs(3600)) })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let flight: Flight = event.json()?;
        match self.hours.add(event.key(), event.timestamp(), &flight.delay)? {
            Added::InTime => Ok(()),
            // Its hour was told already.
            Added::Late => out.output().sink("too-late").key(event.key()).send(event.value()),
        }
    }

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
        for hour in self.hours.close(timer)? {
            let (average, worst) = hour.value;
            let mean = (average.mean().unwrap_or_default() * 10.0).round() / 10.0;
            let told =
                Hour { start: hour.start, flights: average.count, average: mean, worst: worst.0.unwrap_or_default() };
            out.output().key(timer.key()).timestamp(hour.end - 1).send(json(told))?;
        }
        Ok(())
    }
}

consumer!(type AirportHours);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester, assert_same_however_batched};

    use super::AirportHours;

    fn flight(airport: &str, minute: i64, delay: i64) -> Given {
        Given::value(format!(r#"{{"delay":{delay}}}"#)).key(airport).timestamp(minute * 60_000)
    }

    #[test]
    fn an_hour_is_told_when_it_is_over() {
        let flights = [
            flight("DTW", 10, 66),
            flight("LAX", 20, 0),
            flight("DTW", 50, 15),
            flight("LAX", 61, 5),
            // Late: the first hour was told.
            flight("DTW", 59, 1),
        ];
        let tested = assert_same_however_batched(|| Tester::new::<AirportHours>("{}").unwrap(), &flights);
        let told: Vec<_> = tested.sent.iter().map(|sent| (sent.key.as_deref().unwrap(), sent.timestamp)).collect();
        assert_eq!(told, [(&b"DTW"[..], 3_599_999), (b"LAX", 3_599_999), (b"DTW", 59 * 60_000), (b"LAX", 7_199_999)]);
        assert_eq!(tested.texts()[0], r#"{"start":0,"flights":2,"average":40.5,"worst":66.0}"#);
        assert_eq!(tested.sent[2].sink.as_deref(), Some("too-late"));
    }
}
