//! Sums of numbers, by key, in windows that the pipeline's `config` says the size of. What it sends are numbers again: one behind the other, they make
//! minutes and of these hours.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_sdk::window::{Added, Sum, Windows};
use sluice_sdk::{Config, Consumer, Event, Failure, Outputs, Result, Timer, consumer, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    seconds: u32,
}

/// What comes, and what is sent.
#[derive(Serialize, Deserialize)]
struct Number {
    n: i64,
}

/// Keeps the windows that are open.
pub struct WindowSums {
    windows: Windows<Sum<i64>>,
}

impl Consumer for WindowSums {
    fn init(config: &Config) -> Result<Self> {
        let Size { seconds } = config.parse()?;
        if seconds == 0 {
            return Err(Failure::permanent("config: a window has at least one second"));
        }
        Ok(Self { windows: Windows::tumbling("window", Duration::from_secs(seconds.into())) })
    }

    fn process(&mut self, event: &Event, _: &mut Outputs) -> Result {
        match self.windows.add(event.key(), event.timestamp(), &event.json::<Number>()?.n)? {
            Added::InTime => Ok(()),
            Added::Late => Err(Failure::permanent("too late: its window is closed")),
        }
    }

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
        for window in self.windows.close(timer)? {
            out.output().key(timer.key()).timestamp(window.end - 1).send(json(Number { n: window.value.0 }))?;
        }
        Ok(())
    }
}

consumer!(type WindowSums);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester, assert_same_however_batched};

    use super::WindowSums;

    #[test]
    fn numbers_are_summed_window_by_window() {
        let number = |n: i64, second: i64| Given::value(format!("{{\"n\":{n}}}")).key("k").timestamp(second * 1000);
        let make = || Tester::new::<WindowSums>(r#"{"seconds":60}"#).unwrap();
        let numbers = [number(1, 0), number(2, 59), number(4, 60), number(8, 30)];
        let tested = assert_same_however_batched(make, &numbers);
        assert_eq!(tested.texts(), [r#"{"n":3}"#, r#"{"n":4}"#]);
        assert_eq!(tested.failures[0].reason, "too late: its window is closed");
    }
}
