//! Timers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use sluice_event::{Clock, DueTimer, FiringOrder, OutcomeWriter, Source, TimerChange, append};

use crate::numbers::Numbered;
use crate::state::{bytes_of, check_name, now};
use crate::{Key, Result};

/// Timers of one purpose, one for each key: when one is due, [`Consumer::fire`](crate::Consumer::fire) is called. What is set or cleared is committed together
/// with outputs and state, and undone with them. The pipeline must grant it (`capabilities = ["timers"]`).
///
/// ```
/// use sluice_sdk::{Config, Consumer, Event, Outputs, Result, Timer, Timers, consumer};
///
/// /// Says when nothing was heard of a key for ten seconds.
/// struct Silence {
///     silent: Timers,
/// }
///
/// impl Consumer for Silence {
///     fn init(config: &Config) -> Result<Self> {
///         config.must_be_empty()?;
///         Ok(Self { silent: Timers::named("silent") })
///     }
///
///     fn process(&mut self, event: &Event, _: &mut Outputs) -> Result {
///         self.silent.set(event.key(), event.timestamp() + 10_000)
///     }
///
///     fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
///         out.send(timer.key(), "silent")
///     }
/// }
///
/// consumer!(type Silence);
/// ```
///
/// Timers go by the time of events: one is due when the partition's watermark has come to its time, and fires between events, before the first that
/// has a later watermark; so a replay gives the same. Those made by [`by_wall_clock`](Self::by_wall_clock) go by the time of day.
#[derive(Debug, Clone)]
pub struct Timers {
    name: Rc<str>,
    clock: Clock,
}

impl Timers {
    /// Timers of this name, which go by the time of events; to be called in [`Consumer::init`](crate::Consumer::init).
    ///
    /// # Panics
    /// When the name is not 1 to 100 letters, digits, `-`, `_` and `.`.
    pub fn named(name: &str) -> Self {
        Self::of(name, Clock::EventTime)
    }

    /// Timers of this name, which go by the time of day.
    ///
    /// # Panics
    /// As [`named`](Self::named).
    pub fn by_wall_clock(name: &str) -> Self {
        Self::of(name, Clock::WallClock)
    }

    fn of(name: &str, clock: Clock) -> Self {
        check_name("timers", name);
        USED.set(true);
        Self { name: name.into(), clock }
    }

    /// Sets the timer of a key, to a time in milliseconds since the epoch; in place of the one that was set before.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn set<'k>(&self, key: impl Key<'k>, time: i64) -> Result {
        self.set_tagged(key, "", time)
    }

    /// Clears the timer of a key.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn clear<'k>(&self, key: impl Key<'k>) -> Result {
        self.clear_tagged(key, "")
    }

    /// Sets one of several timers of a key, which are told apart by their tags.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn set_tagged<'k>(&self, key: impl Key<'k>, tag: &str, time: i64) -> Result {
        self.change(bytes_of(key)?, tag, Some(time), false);
        Ok(())
    }

    /// The same of one that is not set: whoever calls it knows that from what is kept with it. That it has gone again by the end of the call is told to
    /// nobody then.
    pub(crate) fn set_new<'k>(&self, key: impl Key<'k>, tag: &str, time: i64) -> Result {
        self.change(bytes_of(key)?, tag, Some(time), true);
        Ok(())
    }

    /// Clears one of several timers of a key.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn clear_tagged<'k>(&self, key: impl Key<'k>, tag: &str) -> Result {
        self.change(bytes_of(key)?, tag, None, false);
        Ok(())
    }

    fn change(&self, key: &[u8], tag: &str, time: Option<i64>, is_new: bool) {
        TABLE.with_borrow_mut(|table| {
            table.call(key, &[self.name.as_bytes(), b"/", tag.as_bytes()]);
            let entry = Entry { key_len: key.len() as u32, is_new, said: None };
            let number = table.entries.number(&table.name, entry).0;
            table.change(number, Said { of: now().of, clock: self.clock, time });
        });
    }
}

/// A timer that is due.
#[derive(Debug, Clone, Copy)]
pub struct Timer<'a> {
    pub(crate) due: DueTimer<'a>,
}

impl<'a> Timer<'a> {
    /// Whether it is one of these.
    pub fn is(&self, timers: &Timers) -> bool {
        self.name() == &*timers.name
    }

    /// The name of the [`Timers`] that set it.
    pub fn name(&self) -> &'a str {
        self.parts().0
    }

    /// What tells it apart from others of its key.
    pub fn tag(&self) -> &'a str {
        self.parts().1
    }

    fn parts(&self) -> (&'a str, &'a str) {
        std::str::from_utf8(self.due.tag).ok().and_then(|tag| tag.split_once('/')).unwrap_or_default()
    }

    /// The key it was set under.
    pub fn key(&self) -> &'a [u8] {
        self.due.key
    }

    /// The time it was set to, in milliseconds since the epoch.
    pub fn time(&self) -> i64 {
        self.due.time
    }
}

/// What the call says of a timer.
#[derive(Clone, Copy)]
struct Said {
    of: (Source, u32),
    clock: Clock,
    /// `None`: it is cleared, or has fired.
    time: Option<i64>,
}

/// One timer.
struct Entry {
    /// Bytes of its key, behind which its tag stands.
    key_len: u32,
    /// It was not set when the call began.
    is_new: bool,
    said: Option<Said>,
}

/// What this call has set and cleared.
#[derive(Default)]
struct Table {
    /// By length of the key (u32), key and tag.
    entries: Numbered<Entry>,
    /// Those that are set for a time of events, by that; of one time, in the order in which they fire.
    pending: BTreeMap<i64, Vec<u32>>,
    /// What the event or timer in hand has changed, as it was before.
    journal: Vec<(u32, Option<Said>)>,
    /// A timer's name in `entries`, for its memory.
    name: Vec<u8>,
}

impl Table {
    /// Puts together what a timer is called here; its tag may come in parts.
    fn call(&mut self, key: &[u8], tag: &[&[u8]]) {
        self.name.clear();
        append(&mut self.name, &(key.len() as u32).to_le_bytes());
        append(&mut self.name, key);
        tag.iter().for_each(|part| append(&mut self.name, part));
    }

    /// The key and the tag of a number.
    fn parts(&self, number: u32) -> (&[u8], &[u8]) {
        let key_len = self.entries.held(number as usize).key_len as usize;
        self.entries.key(number as usize)[4..].split_at(key_len)
    }

    fn order(&self, number: u32, time: i64) -> FiringOrder<'_> {
        let (key, tag) = self.parts(number);
        (time, key.len(), key, tag)
    }

    /// Where a timer stands, or belongs, among those of its time.
    fn place(&self, number: u32, time: i64) -> usize {
        let Some(same) = self.pending.get(&time) else { return 0 };
        if same[..] == [number] {
            return 0;
        }
        same.partition_point(|other| *other != number && self.order(*other, time) < self.order(number, time))
    }

    /// Says something else of a timer.
    fn say(&mut self, number: u32, said: Option<Said>) {
        let entry = self.entries.value(number as usize);
        let before = std::mem::replace(&mut entry.said, said);
        let time = |said: Option<Said>| said.filter(|said| said.clock == Clock::EventTime).and_then(|said| said.time);
        let (old, new) = (time(before), time(said));
        if old == new {
            return;
        }
        if let Some(time) = old {
            let place = self.place(number, time);
            if let Some(same) = self.pending.get_mut(&time) {
                same.remove(place);
                if same.is_empty() {
                    self.pending.remove(&time);
                }
            }
        }
        if let Some(time) = new {
            let place = self.place(number, time);
            self.pending.entry(time).or_default().insert(place, number);
        }
    }

    /// Notes that the event or timer in hand says this of a timer.
    fn change(&mut self, number: usize, said: Said) {
        let entry = self.entries.value(number);
        self.journal.push((number as u32, entry.said));
        // That it was set and has gone again in the same call is nobody's business.
        let said = Some(said).filter(|said| said.time.is_some() || !entry.is_new);
        self.say(number as u32, said);
    }

    /// The first to fire of those that are set.
    fn first(&self) -> Option<(i64, u32)> {
        let (time, same) = self.pending.first_key_value()?;
        Some((*time, *same.first()?))
    }
}

/// What a timer fires before.
pub(crate) enum Before<'a> {
    /// A timer that is due, of the time of events.
    Due(FiringOrder<'a>),
    /// An event with this watermark.
    Event(Option<i64>),
}

/// A timer that the call has set, as it fires.
pub(crate) struct Own {
    number: u32,
    time: i64,
    key: Vec<u8>,
    tag: Vec<u8>,
}

impl Own {
    /// As it fires before the event of this index.
    pub(crate) fn due(&self, before: u32) -> DueTimer<'_> {
        DueTimer { before, time: self.time, clock: Clock::EventTime, key: &self.key, tag: &self.tag }
    }

    /// It is set no more: it fires, and is the one in hand.
    pub(crate) fn fire(&self) {
        let said = Said { of: now().of, clock: Clock::EventTime, time: None };
        TABLE.with_borrow_mut(|table| table.change(self.number as usize, said));
    }
}

thread_local! {
    static USED: Cell<bool> = const { Cell::new(false) };
    static TABLE: RefCell<Table> = RefCell::default();
}

/// Whether the consumer that was just made uses timers.
pub(crate) fn take_used() -> bool {
    USED.take()
}

/// The event or timer in hand was dealt with.
pub(crate) fn keep() {
    TABLE.with_borrow_mut(|table| table.journal.clear());
}

/// The event or timer in hand has failed.
pub(crate) fn undo() {
    TABLE.with_borrow_mut(|table| {
        while let Some((number, before)) = table.journal.pop() {
            table.say(number, before);
        }
    });
}

/// Whether a timer that this call has set fires before something.
pub(crate) fn comes_first(before: &Before<'_>) -> bool {
    TABLE.with_borrow(|table| {
        let Some((time, number)) = table.first() else { return false };
        match before {
            Before::Due(order) => table.order(number, time) <= *order,
            Before::Event(watermark) => watermark.is_some_and(|watermark| time <= watermark),
        }
    })
}

/// The first to fire of the timers that this call has set.
pub(crate) fn first() -> Option<Own> {
    TABLE.with_borrow(|table| {
        let (time, number) = table.first()?;
        let (key, tag) = table.parts(number);
        Some(Own { number, time, key: key.to_vec(), tag: tag.to_vec() })
    })
}

/// Whether this call has set or cleared a timer that is due in it.
pub(crate) fn is_changed(timer: &DueTimer<'_>) -> bool {
    TABLE.with_borrow_mut(|table| {
        if table.entries.len() == 0 {
            return false;
        }
        table.call(timer.key, &[timer.tag]);
        let number = table.entries.find([0; 2], &table.name);
        number.is_some_and(|number| table.entries.held(number).said.is_some())
    })
}

/// Writes what this call has set and cleared.
pub(crate) fn write(writer: &mut OutcomeWriter) {
    let table = TABLE.take();
    for number in 0..table.entries.len() {
        if let Some(Said { of, clock, time }) = table.entries.held(number).said {
            let (key, tag) = table.parts(number as u32);
            writer.timer(&TimerChange { of, clock, time, key, tag });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;
    use crate::testing::{Given, Tester, assert_same_however_batched};
    use crate::{Config, Consumer, Event, Failure, Outputs, Result, Timer};

    /// Sets a timer for ten milliseconds after each event, and one for long ago. What fires sets one more; some keys' timers fail.
    struct Alarms {
        soon: Timers,
        past: Timers,
    }

    impl Consumer for Alarms {
        fn init(config: &Config) -> Result<Self> {
            config.must_be_empty()?;
            Ok(Self { soon: Timers::named("soon"), past: Timers::named("past") })
        }

        fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
            out.send(event.key(), "event")?;
            self.soon.set(event.key(), event.timestamp() + 10)?;
            self.past.set(event.key(), 1)
        }

        fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
            out.send(timer.key(), format!("{}{}", timer.name(), timer.time()))?;
            // In place of it, and of another one that may be set: both are undone where it fails.
            self.soon.set(timer.key(), timer.time() + 100)?;
            self.past.clear(timer.key())?;
            if timer.is(&self.soon) && timer.key() == b"b" { Err(Failure::permanent("not this one")) } else { Ok(()) }
        }
    }

    #[test]
    fn timers_fire_in_the_call_that_sets_them_as_they_would_in_later_ones() {
        let event = |key: &str, time: i64| Given::value("").key(key).timestamp(time);
        let events = [
            event("a", 1000),
            event("b", 1000),
            event("a", 1005),
            event("c", 1009),
            event("c", 1110),
            event("a", 1111),
        ];
        let tested = assert_same_however_batched(|| Tester::new::<Alarms>("{}").unwrap(), &events);
        let told: Vec<_> =
            tested.sent.iter().map(|sent| format!("{}:{}", sent.input, String::from_utf8_lossy(&sent.value))).collect();
        // Each event's timer for long ago fires at once and moves the other to 101, which fires before the next event but fails for b.
        assert_eq!(told[..4], ["0:event", "1:past1", "1:soon101", "1:soon201"]);
        let failed: Vec<_> = tested.failures.iter().map(|failed| (failed.input, failed.reason.as_str())).collect();
        assert_eq!(failed, [(2, "not this one")]);
    }
}
