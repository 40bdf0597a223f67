//! Timers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use sluice_event::{Clock, DueTimer, FiringOrder, OutcomeWriter, Source, TimerChange};

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
        self.change(bytes_of(key)?, tag, Some(time));
        Ok(())
    }

    /// Clears one of several timers of a key.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn clear_tagged<'k>(&self, key: impl Key<'k>, tag: &str) -> Result {
        self.change(bytes_of(key)?, tag, None);
        Ok(())
    }

    fn change(&self, key: &[u8], tag: &str, time: Option<i64>) {
        let id = (Rc::from(key), format!("{}/{tag}", self.name).into_bytes().into());
        TABLE.with_borrow_mut(|table| table.change(Change { of: now().of, clock: self.clock, time, id }));
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

/// A key and a tag.
type Id = (Rc<[u8]>, Rc<[u8]>);
/// As [`FiringOrder`].
type Order = (i64, usize, Rc<[u8]>, Rc<[u8]>);

struct Change {
    of: (Source, u32),
    clock: Clock,
    time: Option<i64>,
    id: Id,
}

/// What this call has set and cleared.
#[derive(Default)]
struct Table {
    changes: Vec<Change>,
    /// Those of the event or timer in hand begin here.
    kept: usize,
    /// The last change of each timer.
    last: HashMap<Id, usize>,
    /// Those that are set for a time of events, in the order in which they fire.
    pending: BTreeSet<Order>,
}

impl Table {
    fn change(&mut self, change: Change) {
        let (key, tag) = change.id.clone();
        let pending = |time: i64| (time, key.len(), key.clone(), tag.clone());
        if let Some(Some(time)) = self.last.get(&change.id).map(|at| self.changes[*at].time) {
            self.pending.remove(&pending(time));
        }
        if let (Some(time), Clock::EventTime) = (change.time, change.clock) {
            self.pending.insert(pending(time));
        }
        self.last.insert(change.id.clone(), self.changes.len());
        self.changes.push(change);
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
    TABLE.with_borrow_mut(|table| table.kept = table.changes.len());
}

/// The event or timer in hand has failed.
pub(crate) fn undo() {
    TABLE.with_borrow_mut(|table| {
        if table.kept == table.changes.len() {
            return;
        }
        let Table { changes, kept: count, .. } = std::mem::take(table);
        changes.into_iter().take(count).for_each(|change| table.change(change));
        table.kept = count;
    });
}

/// Whether a timer that this call has set fires before one that is due, or before an event with this watermark.
pub(crate) fn comes_first(before: std::result::Result<FiringOrder<'_>, Option<i64>>) -> bool {
    TABLE.with_borrow(|table| {
        let Some((time, len, key, tag)) = table.pending.first() else { return false };
        match before {
            Ok(order) => (*time, *len, &**key, &**tag) <= order,
            Err(watermark) => watermark.is_some_and(|watermark| *time <= watermark),
        }
    })
}

/// Whether this call has set or cleared a timer that is due in it.
pub(crate) fn is_changed(timer: &DueTimer<'_>) -> bool {
    TABLE.with_borrow(|table| {
        !table.last.is_empty() && table.last.contains_key(&(Rc::from(timer.key), Rc::from(timer.tag)))
    })
}

/// Writes what this call has set and cleared.
pub(crate) fn write(writer: &mut OutcomeWriter) {
    let table = TABLE.take();
    for (at, Change { of, clock, time, id }) in table.changes.iter().enumerate() {
        if table.last.get(id) == Some(&at) {
            writer.timer(&TimerChange { of: *of, clock: *clock, time: *time, key: &id.0, tag: &id.1 });
        }
    }
}
