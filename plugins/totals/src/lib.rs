//! A running total per key: the job J2 of the bench.

use serde::{Deserialize, Serialize};
use sluice_sdk::{Config, Consumer, Event, Outputs, Result, State, consumer, json};

#[derive(Deserialize)]
struct Payment {
    cents: u64,
}

/// What was paid under a key so far.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
pub struct Total {
    count: u64,
    cents: u64,
}

/// Adds up what is paid under each key.
pub struct Totals {
    totals: State<Total>,
}

impl Consumer for Totals {
    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { totals: State::named("total") })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let mut total = self.totals.get(event.key())?.unwrap_or_default();
        let payment: Payment = event.json()?;
        total.count += 1;
        total.cents += payment.cents;
        self.totals.set(event.key(), total)?;
        out.send(event.key(), json(total))
    }
}

consumer!(type Totals);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::Totals;

    #[test]
    fn each_key_has_its_own_total_over_batches_and_what_fails_adds_nothing() {
        let mut tester = Tester::new::<Totals>("{}").unwrap();
        let paid = |key: &str, cents: u64| Given::value(format!(r#"{{"cents":{cents}}}"#)).key(key);
        let first = tester.process(&[paid("a", 3), paid("b", 5), Given::value("{}").key("a"), paid("a", 4)]);
        assert_eq!(first.texts(), [r#"{"count":1,"cents":3}"#, r#"{"count":1,"cents":5}"#, r#"{"count":2,"cents":7}"#]);
        assert_eq!(first.failures[0].input, 2);
        assert_eq!(tester.process(&[paid("a", 1)]).texts(), [r#"{"count":3,"cents":8}"#]);
        assert_eq!(tester.state("total", "a"), Some(r#"{"count":3,"cents":8}"#));
    }
}
