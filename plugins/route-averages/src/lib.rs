//! The average delay of each route so far, in whole minutes towards zero. One of the consumers that every language has: see `tests/verbs/languages.rs`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, State, consumer, json};

#[derive(Deserialize)]
struct Flight<'a> {
    delay: i64,
    #[serde(borrow)]
    origin: Cow<'a, str>,
    #[serde(borrow)]
    destination: Cow<'a, str>,
}

/// What is kept under a route.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
struct Sum {
    count: i64,
    sum: i64,
}

#[derive(Serialize)]
struct Average<'a> {
    route: &'a str,
    count: i64,
    mean: i64,
}

/// Adds up delays.
pub struct RouteAverages {
    sums: State<Sum>,
}

impl Consumer for RouteAverages {
    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { sums: State::named("average") })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let flight: Flight = event.json()?;
        let route = format!("{}-{}", flight.origin, flight.destination);
        let Sum { count, sum } = self.sums.get(&*route)?.unwrap_or_default();
        let (count, sum) = (count + 1, sum + flight.delay);
        self.sums.set(&*route, Sum { count, sum })?;
        out.send(&*route, json(Average { route: &route, count, mean: sum / count }))
    }
}

consumer!(type RouteAverages);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::RouteAverages;

    #[test]
    fn each_route_has_its_own_average() {
        let mut tester = Tester::new::<RouteAverages>("{}").unwrap();
        let flight =
            |delay: i64, to: &str| Given::value(format!(r#"{{"delay":{delay},"origin":"DTW","destination":"{to}"}}"#));
        let came = tester.process(&[flight(-3, "LAS"), flight(5, "SFO"), flight(-4, "LAS")]);
        assert_eq!(came.texts()[2], r#"{"route":"DTW-LAS","count":2,"mean":-3}"#);
        assert_eq!(tester.state("average", "DTW-LAS"), Some(r#"{"count":2,"sum":-7}"#));
    }
}
