//! Keeps the flights that left late, and says by how much, keyed by the airport they left from.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, consumer, json};

#[derive(Deserialize)]
struct Flight<'a> {
    delay: i32,
    #[serde(borrow)]
    origin: Cow<'a, str>,
    #[serde(borrow)]
    destination: Cow<'a, str>,
}

#[derive(Serialize)]
struct Late<'a> {
    route: [&'a str; 2],
    minutes: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LateFlights {
    #[serde(default = "half_an_hour")]
    threshold_minutes: i32,
}

fn half_an_hour() -> i32 {
    30
}

impl Consumer for LateFlights {
    fn init(config: &Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let flight: Flight = event.json()?;
        if flight.delay >= self.threshold_minutes {
            let late = Late { route: [&flight.origin, &flight.destination], minutes: flight.delay };
            out.send(&*flight.origin, json(late))?;
        }
        Ok(())
    }
}

consumer!(type LateFlights);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::LateFlights;

    fn flight(delay: i32) -> Given {
        Given::value(format!(
            r#"{{"date":"2001/01/01 00:47","delay":{delay},"distance":1750,"origin":"DTW","destination":"LAS"}}"#
        ))
    }

    #[test]
    fn late_flights_are_kept_by_airport() {
        let mut tester = Tester::new::<LateFlights>(r#"{"threshold-minutes": 60}"#).unwrap();
        let outcome = tester.process(&[flight(59), flight(60)]);
        assert_eq!(outcome.texts(), [r#"{"route":["DTW","LAS"],"minutes":60}"#]);
        assert_eq!(outcome.sent[0].key.as_deref(), Some(&b"DTW"[..]));
    }

    #[test]
    fn what_is_no_flight_fails_alone() {
        let mut tester = Tester::new::<LateFlights>("{}").unwrap();
        let outcome = tester.process(&[flight(90), Given::value("not JSON"), flight(31)]);
        assert_eq!((outcome.sent.len(), outcome.failures.len(), outcome.failures[0].input), (2, 1, 1));
    }

    #[test]
    fn a_misspelt_configuration_is_refused() {
        let refused = Tester::new::<LateFlights>(r#"{"treshold-minutes": 60}"#).err().unwrap();
        assert!(refused.reason().contains("treshold-minutes"), "{}", refused.reason());
    }
}
