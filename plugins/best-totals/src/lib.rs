//! What `totals` does, and the largest payment under each key: the next version of it, which brings over what that one has kept.

use serde::{Deserialize, Serialize};
use sluice_sdk::{Config, Consumer, Entry, Event, Outputs, Result, State, consumer, json};

#[derive(Deserialize)]
struct Payment {
    cents: u64,
}

/// What `totals` keeps: version 0.
#[derive(Deserialize)]
struct Before {
    count: u64,
    cents: u64,
}

/// What was paid under a key so far.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
struct Total {
    count: u64,
    cents: u64,
    /// Of those that this version has seen.
    largest: u64,
}

/// Adds up what is paid under each key.
pub struct BestTotals {
    totals: State<Total>,
}

impl Consumer for BestTotals {
    const STATE_VERSION: u32 = 1;

    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { totals: State::named("total") })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let mut total = self.totals.get(event.key())?.unwrap_or_default();
        let payment: Payment = event.json()?;
        total.count += 1;
        total.cents += payment.cents;
        total.largest = total.largest.max(payment.cents);
        self.totals.set(event.key(), total)?;
        out.send(event.key(), json(total))
    }

    fn migrate(&mut self, _from: u32, entry: Entry, out: &mut Vec<Entry>) -> Result {
        let Before { count, cents } = entry.json()?;
        out.push(entry.with(&Total { count, cents, largest: 0 })?);
        Ok(())
    }
}

consumer!(type BestTotals);

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use sluice_sdk::testing::{Given, Tester};
    use sluice_sdk::{Config, Consumer, Event, Outputs, Result, State};

    use super::BestTotals;

    /// Keeps each event's value as it is.
    struct Before<T>(State<T>);

    impl<T: Serialize + DeserializeOwned + Clone + 'static> Consumer for Before<T> {
        fn init(_: &Config) -> Result<Self> {
            Ok(Self(State::named("total")))
        }

        fn process(&mut self, event: &Event, _: &mut Outputs) -> Result {
            self.0.set(event.key(), event.json()?)
        }
    }

    /// What `totals` keeps.
    #[derive(serde::Serialize, serde::Deserialize, Clone)]
    struct Total {
        count: u64,
        cents: u64,
    }

    #[test]
    fn what_the_version_before_has_kept_goes_on() {
        let mut before = Tester::new::<Before<Total>>("{}").unwrap();
        before.process(&[Given::value(r#"{"count":2,"cents":7}"#).key("a")]);
        let mut tester = before.upgrade::<BestTotals>("{}").unwrap();
        assert_eq!(tester.state("total", "a"), Some(r#"{"count":2,"cents":7,"largest":0}"#));
        let paid = tester.process(&[Given::value(r#"{"cents":5}"#).key("a")]);
        assert_eq!(paid.texts(), [r#"{"count":3,"cents":12,"largest":5}"#]);
    }

    #[test]
    fn what_is_of_another_shape_is_told() {
        let mut before = Tester::new::<Before<String>>("{}").unwrap();
        before.process(&[Given::value(r#""some""#).key("a")]);
        let told = before.upgrade::<BestTotals>("{}").err().unwrap();
        assert!(told.reason().starts_with("total \"a\": "), "{}", told.reason());
    }
}
