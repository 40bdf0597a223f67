//! The running average of how late flights leave, for each route.

use serde::{Deserialize, Serialize};
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, State, Wanted, consumer, json};

#[derive(Deserialize)]
struct Flight<'a> {
    delay: i64,
    origin: &'a str,
    destination: &'a str,
}

impl Flight<'_> {
    /// What the state of a route is kept under. Flights of a route leave from one airport, by which the topic is keyed: so they are in one
    /// partition.
    fn route(&self) -> String {
        format!("{}-{}", self.origin, self.destination)
    }
}

/// What was seen of a route so far.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
struct Seen {
    flights: i64,
    minutes: i64,
}

#[derive(Serialize)]
struct Average<'a> {
    route: [&'a str; 2],
    flights: i64,
    /// Tenths of a minute are enough.
    average: f64,
}

/// Keeps flights and minutes of each route.
pub struct RouteDelays {
    routes: State<Seen>,
}

impl Consumer for RouteDelays {
    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { routes: State::named("route") })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let flight: Flight = event.json()?;
        let route = flight.route();
        let mut seen = self.routes.get(&route)?.unwrap_or_default();
        seen.flights += 1;
        seen.minutes += flight.delay;
        self.routes.set(&route, seen)?;
        let average = (seen.minutes as f64 * 10.0 / seen.flights as f64).round() / 10.0;
        out.send(&route, json(Average { route: [flight.origin, flight.destination], flights: seen.flights, average }))
    }

    fn wants(event: &Event, wanted: &mut Wanted) {
        // What is no flight fails in `process`.
        if let Ok(flight) = event.json::<Flight>() {
            wanted.key(&flight.route());
        }
    }
}

consumer!(type RouteDelays);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::RouteDelays;

    fn flight(destination: &str, delay: i64) -> Given {
        Given::value(format!(r#"{{"delay":{delay},"origin":"DTW","destination":"{destination}"}}"#)).key("DTW")
    }

    #[test]
    fn each_route_has_its_own_average() {
        let mut tester = Tester::new::<RouteDelays>("{}").unwrap();
        let first = tester.process(&[flight("LAS", 66), flight("BOS", -5), flight("LAS", 15)]);
        assert_eq!(
            first.texts(),
            [
                r#"{"route":["DTW","LAS"],"flights":1,"average":66.0}"#,
                r#"{"route":["DTW","BOS"],"flights":1,"average":-5.0}"#,
                r#"{"route":["DTW","LAS"],"flights":2,"average":40.5}"#,
            ]
        );
        tester.process(&[flight("LAS", 0)]);
        assert_eq!(tester.state("route", "DTW-LAS"), Some(r#"{"flights":3,"minutes":81}"#));
    }
}
