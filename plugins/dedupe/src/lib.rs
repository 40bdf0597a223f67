//! Lets each key through once within some time. One of the consumers that every language has: see `tests/verbs/languages.rs`.

use std::time::Duration;

use serde::Deserialize;
use sluice_sdk::{Config, Consumer, Event, Failure, Outputs, Result, State, consumer};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Settings {
    #[serde(default = "an_hour")]
    for_seconds: u64,
}

fn an_hour() -> u64 {
    3600
}

/// Remembers keys.
pub struct Dedupe {
    seen: State<u8>,
    time: Duration,
}

impl Consumer for Dedupe {
    fn init(config: &Config) -> Result<Self> {
        let settings: Settings = config.parse()?;
        Ok(Self { seen: State::named("seen"), time: Duration::from_secs(settings.for_seconds) })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let Some(key) = event.key() else { return Err(Failure::permanent("the event has no key")) };
        if self.seen.get(key)?.is_some() {
            return Ok(());
        }
        self.seen.set_for(key, 1, self.time)?;
        out.forward(event)
    }
}

consumer!(type Dedupe);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::Dedupe;

    #[test]
    fn what_comes_again_within_the_time_is_dropped() {
        let mut tester = Tester::new::<Dedupe>(r#"{"for-seconds": 10}"#).unwrap();
        let at = |time: i64| Given::value("x").key("a").timestamp(time);
        assert_eq!(tester.process(&[at(0), at(9_999)]).texts(), ["x"]);
        assert_eq!(tester.process(&[at(20_000), at(20_001)]).texts(), ["x"]);
        assert_eq!(tester.process(&[Given::value("x")]).failures.len(), 1);
    }
}
