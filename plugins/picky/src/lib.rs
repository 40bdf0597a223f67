//! Fails in every way a consumer can: what tests and trials of error handling are made with.

use std::collections::BTreeMap;

use sluice_sdk::{Config, Consumer, Event, Failure, Level, Outputs, Result, consumer, log};

/// Writes an event's text with ASCII letters in capitals, but for these: `bad` fails for good, `down` fails and may go through later but never does,
/// `flaky N` goes through the N-th time, `panic` panics, `loop` does not come back, `say LINE` writes a line to the node's log.
#[derive(Default)]
pub struct Picky {
    /// How often each flaky event was tried. An instance may be dropped at any time; then it begins anew.
    tries: BTreeMap<u64, u32>,
}

impl Consumer for Picky {
    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self::default())
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let text = event.text()?;
        match text.split_once(' ').unwrap_or((text, "")) {
            ("bad", _) => return Err(Failure::permanent(format!("event {} is bad", event.offset()))),
            ("down", _) => return Err(Failure::transient("what it needs is down")),
            ("flaky", times) => {
                let tries = self.tries.entry(event.offset()).or_default();
                *tries += 1;
                if *tries < times.parse()? {
                    return Err(Failure::transient(format!("try {tries} of {times}")));
                }
            }
            ("say", line) => log(Level::Info, line),
            ("panic", _) => panic!("event {} makes it panic", event.offset()),
            ("loop", _) => loop {
                std::hint::black_box(());
            },
            _ => {}
        }
        out.send(event.key(), text.to_ascii_uppercase())
    }
}

consumer!(type Picky);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::Picky;

    #[test]
    fn it_fails_as_it_is_told_to() {
        let mut tester = Tester::new::<Picky>("{}").unwrap();
        let outcome = tester.process(&[Given::value("fine"), Given::value("bad"), Given::value("flaky 2")]);
        assert_eq!(outcome.texts(), ["FINE"]);
        assert_eq!(outcome.failures.iter().map(|failure| failure.transient).collect::<Vec<_>>(), [false, true]);
        assert_eq!(tester.process(&[Given::value("fine")]).texts(), ["FINE"]);
    }
}
