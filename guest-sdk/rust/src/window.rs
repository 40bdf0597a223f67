//! Windows over the time of events, and what can be made of what falls into them.
//!
//! ```
//! use std::time::Duration;
//! use sluice_sdk::window::{Count, Windows};
//! use sluice_sdk::{Config, Consumer, Event, Outputs, Result, Timer, consumer, json};
//!
//! /// Counts the events of each key in each minute.
//! struct PerMinute {
//!     minutes: Windows<Count>,
//! }
//!
//! impl Consumer for PerMinute {
//!     fn init(config: &Config) -> Result<Self> {
//!         config.must_be_empty()?;
//!         Ok(Self { minutes: Windows::tumbling("minutes", Duration::from_secs(60)) })
//!     }
//!
//!     fn process(&mut self, event: &Event, _: &mut Outputs) -> Result {
//!         self.minutes.add(event.key(), event.timestamp(), &())?;
//!         Ok(())
//!     }
//!
//!     fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
//!         for window in self.minutes.close(timer)? {
//!             out.output().key(timer.key()).timestamp(window.end - 1).send(json(window.value.0))?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! consumer!(type PerMinute);
//! ```
//!
//! A window closes when the partition's watermark comes to its end: then nothing that belongs into it is expected any more. What comes all the same is
//! late, and left out. The pipeline grants `state` and `timers`; `lateness` in its `[time]` says how long it waits for what is out of order.

mod aggregate;
mod dedupe;
mod join;

pub use aggregate::{Aggregate, Average, Count, Distinct, Max, Min, Sum};
pub use dedupe::Seen;
pub use join::Join;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::now;
use crate::{Key, Result, State, Timer, Timers};

/// A window of time, and what it has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window<A> {
    /// Its first millisecond, since the epoch.
    pub start: i64,
    /// Behind its last.
    pub end: i64,
    /// What it has come to.
    pub value: A,
}

impl<A> Window<A> {
    fn touches(&self, start: i64, end: i64) -> bool {
        self.start <= end && start <= self.end
    }
}

/// How time is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// A window of this size begins with every step.
    Every { size: i64, step: i64 },
    /// A window ends so long after the last event in it.
    Gap(i64),
}

/// What came to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is late is in no window"]
pub enum Added {
    /// It is in at least one.
    InTime,
    /// All its windows are closed: it is in none.
    Late,
}

/// Windows over keys; see the [module](self).
pub struct Windows<A> {
    cut: Cut,
    open: State<Vec<Window<A>>>,
    closes: Timers,
}

fn millis(duration: Duration) -> i64 {
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    assert!(millis > 0, "a window of no time");
    millis
}

impl<A: Serialize + serde::de::DeserializeOwned + Clone + Default + 'static> Windows<A> {
    fn of(name: &str, cut: Cut) -> Self {
        Self { cut, open: State::named(name), closes: Timers::named(name) }
    }

    /// One behind the other: each event is in one. To be called in [`Consumer::init`](crate::Consumer::init).
    ///
    /// # Panics
    /// When the name is not one for [`State`], or the size is none.
    pub fn tumbling(name: &str, size: Duration) -> Self {
        Self::sliding(name, size, size)
    }

    /// One begins with every step: where steps are shorter than windows, each event is in several.
    ///
    /// # Panics
    /// As [`tumbling`](Self::tumbling); and when an event would be in more than 1000.
    pub fn sliding(name: &str, size: Duration, step: Duration) -> Self {
        let (size, step) = (millis(size), millis(step));
        assert!(size / step <= 1000, "an event would be in {} windows; 1000 are the most", size / step);
        Self::of(name, Cut::Every { size, step })
    }

    /// A window goes on while its key has an event at least this often.
    ///
    /// # Panics
    /// As [`tumbling`](Self::tumbling).
    pub fn session(name: &str, gap: Duration) -> Self {
        Self::of(name, Cut::Gap(millis(gap)))
    }

    /// Adds something of a time to the windows of a key.
    ///
    /// # Errors
    /// When the event in hand has no key, or what is kept is not of this type.
    pub fn add<'k, I>(&self, key: impl Key<'k> + Copy, time: i64, item: &I) -> Result<Added>
    where
        A: Aggregate<I>,
    {
        let mut open = self.open.get(key)?.unwrap_or_default();
        let mut watermark = now().watermark.unwrap_or(i64::MIN);
        if now().of_timer {
            // What an earlier stage sends when its window closes is never late, however far the watermark had come: it was on its way.
            watermark = watermark.min(time);
        }
        let mut added = Added::Late;
        match self.cut {
            Cut::Gap(gap) => {
                let end = time.saturating_add(gap);
                // What is open takes in what belongs to it.
                if end > watermark || open.iter().any(|other| other.touches(time, end)) {
                    self.join(&mut open, key, Window { start: time, end, value: of(item) })?;
                    added = Added::InTime;
                }
            }
            Cut::Every { size, step } => {
                let mut start = time.saturating_sub(time.rem_euclid(step));
                while start > time.saturating_sub(size) {
                    let end = start.saturating_add(size);
                    if end > watermark {
                        self.put(&mut open, key, start, end, item)?;
                        added = Added::InTime;
                    }
                    start = start.saturating_sub(step);
                }
            }
        }
        if added == Added::InTime {
            self.open.set(key, open)?;
        }
        Ok(added)
    }

    /// Adds something to the window that stands there, which may be new.
    fn put<'k, I>(&self, open: &mut Vec<Window<A>>, key: impl Key<'k>, start: i64, end: i64, item: &I) -> Result
    where
        A: Aggregate<I>,
    {
        match open.binary_search_by_key(&(end, start), |window| (window.end, window.start)) {
            Ok(at) => {
                open[at].value.add(item);
                Ok(())
            }
            Err(at) => {
                open.insert(at, Window { start, end, value: of(item) });
                self.closes.set_new(key, &end.to_string(), end)
            }
        }
    }

    /// Adds a window that grows together with those that it touches.
    fn join<'k, I>(&self, open: &mut Vec<Window<A>>, key: impl Key<'k> + Copy, mut window: Window<A>) -> Result
    where
        A: Aggregate<I>,
    {
        let mut before = Vec::new();
        while let Some(at) = open.iter().position(|other| other.touches(window.start, window.end)) {
            let Window { start, end, mut value } = open.remove(at);
            before.push(end);
            value.merge(window.value);
            window = Window { start: window.start.min(start), end: window.end.max(end), value };
        }
        for gone in before.iter().filter(|end| **end != window.end) {
            self.closes.clear_tagged(key, &gone.to_string())?;
        }
        if !before.contains(&window.end) {
            self.closes.set_new(key, &window.end.to_string(), window.end)?;
        }
        let at = open.partition_point(|other| (other.end, other.start) < (window.end, window.start));
        open.insert(at, window);
        Ok(())
    }

    /// The windows that a timer closes, in the order of their ends; none when it is not one of these.
    ///
    /// # Errors
    /// When what is kept is not of this type.
    pub fn close(&self, timer: &Timer) -> Result<Vec<Window<A>>> {
        if !timer.is(&self.closes) {
            return Ok(Vec::new());
        }
        let mut closed = self.open.get(timer.key())?.unwrap_or_default();
        let open = closed.split_off(closed.partition_point(|window| window.end <= timer.time()));
        match open.is_empty() {
            true => self.open.delete(timer.key())?,
            false => self.open.set(timer.key(), open)?,
        }
        Ok(closed)
    }

    /// The windows of a key that are open, in the order of their ends.
    ///
    /// # Errors
    /// When what is kept is not of this type.
    pub fn open<'k>(&self, key: impl Key<'k>) -> Result<Vec<Window<A>>> {
        Ok(self.open.get(key)?.unwrap_or_default())
    }
}

/// What one item comes to.
fn of<A: Aggregate<I>, I>(item: &I) -> A {
    let mut value = A::default();
    value.add(item);
    value
}

#[cfg(test)]
mod tests;
