//! Counts visits under each key until nothing has come for a second. One of the consumers that every language has: see `tests/verbs/languages.rs`.

use sluice_sdk::{Config, Consumer, Entry, Event, Failure, Outputs, Result, State, Timer, Timers, consumer};

/// Counts visits.
pub struct Visits {
    visits: State<u64>,
    idle: Timers,
    third: Timers,
}

impl Consumer for Visits {
    const STATE_VERSION: u32 = 1;

    fn init(config: &Config) -> Result<Self> {
        config.must_be_empty()?;
        Ok(Self { visits: State::named("visits"), idle: Timers::named("idle"), third: Timers::named("third") })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
        let Some(key) = event.key() else { return Err(Failure::permanent("the event has no key")) };
        let before = self.visits.get(key)?.unwrap_or(0);
        if let Some(prefix) = event.value().strip_prefix(b"who ") {
            for (key, count) in self.visits.scan(prefix)? {
                out.send(&key[..], count.to_string())?;
            }
            return Ok(());
        }
        if event.value() == b"bye" {
            self.visits.delete(key)?;
            self.idle.clear(key)?;
            self.third.clear(key)?;
            return out.send(key, format!("bye {before}"));
        }
        self.visits.set(key, before + 1)?;
        self.idle.set(key, event.timestamp() + 1000)?;
        if (before + 1) % 3 == 0 {
            self.third.set(key, event.timestamp() + 500)?;
        }
        // All of it is undone.
        if event.value() == b"bad" { Err(Failure::permanent("a bad visit")) } else { Ok(()) }
    }

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
        let count = self.visits.get(timer.key())?.unwrap_or(0);
        if timer.is(&self.idle) {
            self.visits.delete(timer.key())?;
        }
        out.send(timer.key(), format!("{} {count} at {}", timer.name(), timer.time()))
    }

    /// Version 0 kept them under another name, and those that had left as 0.
    fn migrate(&mut self, _from: u32, entry: Entry, out: &mut Vec<Entry>) -> Result {
        let count: u64 = entry.json()?;
        if count > 0 {
            out.push(entry.under("visits", entry.key()));
        }
        Ok(())
    }
}

consumer!(type Visits);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::Visits;

    #[test]
    fn visits_are_counted_until_nothing_comes() {
        let mut tester = Tester::new::<Visits>("{}").unwrap();
        let at = |key: &'static str, time: i64| Given::value("x").key(key).timestamp(time);
        assert_eq!(tester.process(&[at("a", 0), at("a", 900)]).texts(), [""; 0]);
        assert_eq!(tester.process(&[at("b", 2000)]).texts(), ["idle 2 at 1900"]);
        assert_eq!(tester.process(&[Given::value("who b").key("a").timestamp(2000)]).texts(), ["1"]);
    }
}
