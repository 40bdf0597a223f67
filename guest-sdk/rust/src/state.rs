//! Keyed state, as typed values.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_event::{OutcomeWriter, Region, Source, View, has_expired};

use crate::numbers::{BLOCK, Entry, Numbered};
use crate::runner::Shared;
use crate::{Event, Failure, Key, Result, json};

/// Values under keys, which outlive instances, crashes and restarts: what an event changes is committed together with its outputs, and
/// undone with them. The pipeline must grant it (`capabilities = ["state"]`).
///
/// ```
/// use sluice_sdk::{Config, Consumer, Event, Outputs, Result, State, consumer, json};
///
/// struct Totals {
///     total: State<u64>,
/// }
///
/// impl Consumer for Totals {
///     fn init(config: &Config) -> Result<Self> {
///         config.must_be_empty()?;
///         Ok(Self { total: State::named("total") })
///     }
///
///     fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
///         let total = self.total.get(event.key())?.unwrap_or(0) + event.text()?.parse::<u64>()?;
///         self.total.set(event.key(), total)?;
///         out.send(event.key(), json(total))
///     }
/// }
///
/// consumer!(type Totals);
/// ```
///
/// A consumer sees the state of its own stage and partition only, so everything that belongs together needs the same key in the source
/// topic. Values are kept as JSON, which `sluice state get` shows; a field that is added later needs `#[serde(default)]`. Values that were
/// used lately stay in the instance; when one is not there, those for the rest of the batch are fetched with it: see
/// [`Consumer::wants`](crate::Consumer::wants) for consumers that use other keys than their events'.
pub struct State<T>(Rc<Shelf<T>>);

/// Checks a name that a consumer gives to something it keeps.
pub(crate) fn check_name(what: &str, name: &str) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    assert!((1..=100).contains(&name.len()) && name.chars().all(good), "not a name for {what}: {name:?}");
}

/// The bytes of what must be a key.
pub(crate) fn bytes_of<'k>(key: impl Key<'k>) -> Result<&'k [u8]> {
    key.bytes().ok_or_else(|| Failure::permanent("the event has no key, and its state is kept by key"))
}

impl<T: Serialize + DeserializeOwned + Clone + 'static> State<T> {
    /// The values of this name; to be called in [`Consumer::init`](crate::Consumer::init). A stage may have several.
    ///
    /// # Panics
    /// When the name is not 1 to 100 letters, digits, `-`, `_` and `.`.
    pub fn named(name: &str) -> Self {
        check_name("state", name);
        let prefix = format!("{name}/").into_bytes();
        let shelf = Rc::new(Shelf { prefix, inner: RefCell::default() });
        SHELVES.with_borrow_mut(|shelves| shelves.push(shelf.clone()));
        Self(shelf)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When what is kept there is not of this type.
    pub fn get<'k>(&self, key: impl Key<'k>) -> Result<Option<T>> {
        self.0.get(bytes_of(key)?)
    }

    /// Sets the value of a key, for ever.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn set<'k>(&self, key: impl Key<'k>, value: T) -> Result {
        self.0.put(bytes_of(key)?, Value::There(value), None);
        Ok(())
    }

    /// Sets the value of a key until so long after the time of the event or timer in hand. The partition's watermark tells when that has come.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn set_for<'k>(&self, key: impl Key<'k>, value: T, time_to_live: Duration) -> Result {
        let millis = i64::try_from(time_to_live.as_millis()).unwrap_or(i64::MAX);
        self.set_until(key, value, NOW.get().timestamp.saturating_add(millis))
    }

    /// Sets the value of a key until the partition's watermark comes to a time, in milliseconds since the epoch.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn set_until<'k>(&self, key: impl Key<'k>, value: T, time: i64) -> Result {
        self.0.put(bytes_of(key)?, Value::There(value), Some(time));
        Ok(())
    }

    /// Deletes a key and its value.
    ///
    /// # Errors
    /// When the event in hand has no key.
    pub fn delete<'k>(&self, key: impl Key<'k>) -> Result {
        self.0.put(bytes_of(key)?, Value::None, None);
        Ok(())
    }

    /// All keys that begin with `prefix`, in their order, with their values. It is slower than [`get`](Self::get), which keeps what was
    /// fetched, and holds all of them in the instance's memory.
    ///
    /// # Errors
    /// When what is kept there is not of this type.
    pub fn scan<'k>(&self, prefix: impl Key<'k>) -> Result<Vec<(Vec<u8>, T)>> {
        self.0.scan(bytes_of(prefix)?)
    }
}

/// Where the event or timer in hand stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// By its index.
    pub(crate) of: (Source, u32),
    /// The event in hand, or the one before which the timer fires.
    pub(crate) event: u32,
    pub(crate) timestamp: i64,
    /// It is an event that a timer of an earlier stage has sent.
    pub(crate) of_timer: bool,
    pub(crate) watermark: Option<i64>,
}

thread_local! {
    static NOW: Cell<Now> = const { Cell::new(Now { of: (Source::Input, 0), event: 0, timestamp: 0, of_timer: false, watermark: None }) };
    static SHELVES: RefCell<Vec<Rc<dyn AnyShelf>>> = const { RefCell::new(Vec::new()) };
}

/// The event or timer in hand is another one.
#[inline]
pub(crate) fn set_now(now: Now) {
    NOW.set(now);
}

/// Where the event or timer in hand stands.
#[inline]
pub(crate) fn now() -> Now {
    NOW.get()
}

/// The shelves that a consumer has made, which go with it. A consumer without state has none, and its plugin imports nothing for it.
pub(crate) fn take_shelves() -> Vec<Rc<dyn AnyShelf>> {
    SHELVES.take()
}

/// What names the keys that an event wants.
pub(crate) type Wants = fn(&Event, &mut Wanted);

/// The batch in hand: when a value is not here, those of all the keys that its events want are fetched with it.
pub(crate) struct Batch {
    pub(crate) header: Shared,
    pub(crate) events: Shared,
    pub(crate) shelves: Rc<[Rc<dyn AnyShelf>]>,
    pub(crate) wants: Wants,
}

thread_local! {
    static BATCH: RefCell<Option<Batch>> = const { RefCell::new(None) };
}

/// The batch in hand is another one, or none.
pub(crate) fn set_batch(batch: Option<Batch>) {
    BATCH.set(batch);
}

/// Fetches the values that events and timers from the one in hand on want, once for a batch.
fn fetch_wanted() {
    let Some(batch) = BATCH.take() else { return };
    let Ok(view) = View::parse(&batch.header) else { return };
    let mut wanted = Wanted { shelves: &batch.shelves, keys: Vec::new(), of: Vec::new() };
    let events = (0..).zip(Region::new(&batch.events, view.count).events());
    for (input, flat) in events.skip(NOW.get().event as usize) {
        let Ok(flat) = flat else { return };
        (batch.wants)(&Event::of(&view, input, flat), &mut wanted);
    }
    let due = view.due_timers().flatten().skip_while(|timer| timer.before < NOW.get().event);
    due.for_each(|timer| wanted.key(timer.key));
    wanted.fetch();
}

/// Keys whose values are fetched together.
pub struct Wanted<'a> {
    shelves: &'a [Rc<dyn AnyShelf>],
    keys: Vec<u8>,
    of: Vec<usize>,
}

impl Wanted<'_> {
    /// The event will want the value of this key in all of the consumer's state.
    pub fn key<'k>(&mut self, key: impl Key<'k>) {
        let Some(key) = key.bytes() else { return };
        for (at, shelf) in self.shelves.iter().enumerate() {
            if shelf.want(key, &mut self.keys) {
                self.of.push(at);
            }
        }
    }

    /// Fetches what is not there.
    fn fetch(&mut self) {
        if let Some(shelf) = self.of.first().map(|at| &self.shelves[*at]) {
            let values = shelf.fetch(&self.keys);
            let (mut keys, mut values) = (&self.keys[..], &values[..]);
            for at in &self.of {
                self.shelves[*at].receive(take_key(&mut keys), take_value(&mut values));
            }
        }
    }
}

/// What is kept of one [`State`].
pub(crate) trait AnyShelf {
    /// The next events, from one of an index that divides by [`BLOCK`] on, have these keys, under which it may be that something is held.
    fn expect(&self, keys: &[&[u8]; BLOCK]);
    /// Adds a key to those that are asked for, unless its value is here or asked for already.
    fn want(&self, key: &[u8], keys: &mut Vec<u8>) -> bool;
    /// Asks the host for the values of keys.
    fn fetch(&self, keys: &[u8]) -> Vec<u8>;
    /// Takes a value that was asked for.
    fn receive(&self, full: &[u8], found: Option<(Vec<u8>, Option<i64>)>);
    /// The event in hand has failed: what it changed is as before.
    fn undo(&self);
    /// The event in hand was dealt with.
    fn keep(&self);
    /// Writes what has changed in this call, and lets go of what is too much.
    fn write(&self, writer: &mut OutcomeWriter);
}

enum Value<T> {
    /// As it is kept, not looked at yet.
    Raw(Vec<u8>),
    There(T),
    None,
    /// It was asked for, and has not come.
    Awaited,
}

struct Held<T> {
    value: Value<T>,
    /// 0 for never.
    expires: i64,
    /// Whether an event or a timer changed it last, in this call, and its index.
    changed_by: Option<Source>,
    index: u32,
    /// Whether the host has a value.
    is_kept: bool,
}

// With its key, a value of two words fills a line of a core's cache. One number more, and each key would touch two of them.
const _: () = assert!(size_of::<Entry<Held<[u64; 2]>>>() == align_of::<Entry<Held<[u64; 2]>>>());

impl<T: DeserializeOwned + Clone> Held<T> {
    /// What the host has of it.
    fn kept(value: Option<(Vec<u8>, Option<i64>)>) -> Self {
        let is_kept = value.is_some();
        let (value, expires) = value.map_or((Value::None, None), |(value, expires)| (Value::Raw(value), expires));
        Self { value, expires: stored(expires), changed_by: None, index: 0, is_kept }
    }

    fn expires(&self) -> Option<i64> {
        (self.expires != 0).then_some(self.expires)
    }

    fn has_expired(&self) -> bool {
        has_expired(self.expires(), NOW.get().watermark)
    }

    fn value(&mut self) -> Result<Option<T>> {
        if let Value::Raw(bytes) = &self.value {
            self.value = Value::There(parse(bytes)?);
        }
        Ok(if let Value::There(value) = &self.value { Some(value.clone()) } else { None })
    }
}

/// An expiry as it is kept, where 0 means never: for the very beginning of the epoch stands the millisecond behind it.
fn stored(expires: Option<i64>) -> i64 {
    expires.map_or(0, |time| if time == 0 { 1 } else { time })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    json::read(bytes).map_err(|error| Failure::permanent(format!("state: {error}")))
}

struct Shelf<T> {
    /// What its keys begin with: its name and a `/`.
    prefix: Vec<u8>,
    inner: RefCell<Inner<T>>,
}

struct Inner<T> {
    /// A key is hashed once for an event.
    held: Numbered<Held<T>>,
    /// The number that was used last: what is read is mostly written then.
    last: usize,
    /// What the keys of some events are likely to have, by the lowest bits of their indices.
    expected: [u32; BLOCK],
    /// What the event in hand has changed, as it was before.
    journal: Vec<(u32, Held<T>)>,
    /// What this call has changed; some may be there twice, or be undone.
    changed: Vec<u32>,
}

impl<T> Default for Inner<T> {
    fn default() -> Self {
        Self { held: Numbered::default(), last: 0, expected: [0; BLOCK], journal: Vec::new(), changed: Vec::new() }
    }
}

impl<T> Inner<T> {
    /// The number of a key, if it is known.
    fn find(&mut self, key: &[u8]) -> Option<usize> {
        let expected = self.expected[NOW.get().event as usize % BLOCK];
        self.last = self.held.find([self.last as u32, expected], key)?;
        Some(self.last)
    }

    /// The number of a key, which is new if it is not known.
    fn number(&mut self, key: &[u8]) -> (usize, bool) {
        self.held.number(key, Held { value: Value::Awaited, expires: 0, changed_by: None, index: 0, is_kept: false })
    }

    fn is_awaited(&mut self, number: usize) -> bool {
        matches!(self.held.value(number).value, Value::Awaited)
    }
}

/// Values that stay in the instance, at most; with more, all go.
const MOST_HELD: usize = 65_536;
/// Of a scan, what is fetched at once.
const PAGE_ENTRIES: u32 = 1000;
const PAGE_BYTES: u32 = 1 << 20;

impl<T: Serialize + DeserializeOwned + Clone + 'static> Shelf<T> {
    /// The number of a key, whose value is here then.
    fn load(&self, key: &[u8]) -> usize {
        let mut inner = self.inner.borrow_mut();
        if let Some(number) = inner.find(key).filter(|number| !inner.is_awaited(*number)) {
            return number;
        }
        drop(inner);
        fetch_wanted();
        let mut inner = self.inner.borrow_mut();
        let number = inner.number(key).0;
        inner.last = number;
        if !inner.is_awaited(number) {
            return number;
        }
        drop(inner);
        let mut keys = Vec::new();
        add_key(&self.prefix, key, &mut keys);
        let values = self.fetch(&keys);
        self.receive(take_key(&mut &keys[..]), take_value(&mut &values[..]));
        number
    }

    fn get(&self, key: &[u8]) -> Result<Option<T>> {
        let number = self.load(key);
        let inner = &mut *self.inner.borrow_mut();
        let held = inner.held.value(number);
        if held.has_expired() { Ok(None) } else { held.value() }
    }

    fn put(&self, key: &[u8], value: Value<T>, expires: Option<i64>) {
        // What was there before must be known, so that it can be there again.
        let number = self.load(key);
        let inner = &mut *self.inner.borrow_mut();
        let held = inner.held.value(number);
        if held.changed_by.is_none() {
            inner.changed.push(number as u32);
        }
        let (source, index) = NOW.get().of;
        let new = Held { value, expires: stored(expires), changed_by: Some(source), index, is_kept: held.is_kept };
        inner.journal.push((number as u32, std::mem::replace(held, new)));
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, T)>> {
        let full = [&self.prefix[..], prefix].concat();
        let watermark = NOW.get().watermark;
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = host::scan(&full, after.as_deref(), PAGE_ENTRIES, PAGE_BYTES);
            let Some((last, _, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value, expires) in page {
                if !has_expired(expires, watermark) {
                    found.insert(key[self.prefix.len()..].to_vec(), parse(&value)?);
                }
            }
        }
        // What this call has changed is not with the host yet. What was undone is what it was.
        let Inner { held, changed, .. } = &mut *self.inner.borrow_mut();
        for number in changed.iter().map(|number| *number as usize) {
            if !held.key(number).starts_with(prefix) {
                continue;
            }
            let one = held.value(number);
            match one.value()?.filter(|_| !one.has_expired()) {
                Some(value) => found.insert(held.key(number).to_vec(), value),
                None => found.remove(held.key(number)),
            };
        }
        Ok(found.into_iter().collect())
    }
}

impl<T: Serialize + DeserializeOwned + Clone + 'static> AnyShelf for Shelf<T> {
    fn expect(&self, keys: &[&[u8]; BLOCK]) {
        let inner = &mut *self.inner.borrow_mut();
        inner.expected = inner.held.expect(keys);
    }

    fn want(&self, key: &[u8], keys: &mut Vec<u8>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let is_new = inner.number(key).1;
        if is_new {
            add_key(&self.prefix, key, keys);
        }
        is_new
    }

    fn fetch(&self, keys: &[u8]) -> Vec<u8> {
        host::get(keys)
    }

    fn receive(&self, full: &[u8], found: Option<(Vec<u8>, Option<i64>)>) {
        let mut inner = self.inner.borrow_mut();
        let number = inner.number(&full[self.prefix.len()..]).0;
        *inner.held.value(number) = Held::kept(found);
    }

    fn undo(&self) {
        let Inner { held, journal, .. } = &mut *self.inner.borrow_mut();
        for (number, before) in journal.drain(..).rev() {
            *held.value(number as usize) = before;
        }
    }

    fn keep(&self) {
        self.inner.borrow_mut().journal.clear();
    }

    fn write(&self, writer: &mut OutcomeWriter) {
        let inner = &mut *self.inner.borrow_mut();
        let mut json = Vec::new();
        let mut key = self.prefix.clone();
        let changed = std::mem::take(&mut inner.changed);
        for (at, number) in changed.iter().map(|number| *number as usize).enumerate() {
            if at % BLOCK == 0 {
                inner.held.bring(&changed[at..(at + BLOCK).min(changed.len())]);
            }
            let held = inner.held.value(number);
            let Some(source) = held.changed_by.take() else { continue };
            let of = (source, held.index);
            let was_kept = std::mem::replace(&mut held.is_kept, !matches!(held.value, Value::None));
            if !was_kept && !held.is_kept {
                // It came and went in this call.
                continue;
            }
            key.truncate(self.prefix.len());
            inner.held.append_key(number, &mut key);
            let held = inner.held.value(number);
            json.clear();
            let value = match &held.value {
                // A value that cannot be written is no JSON: maps whose keys are no text. It was a mistake from the beginning.
                Value::There(value) => json::write(&mut json, value).map(|()| Some(&json[..])),
                Value::Raw(raw) => Ok(Some(&raw[..])),
                Value::None | Value::Awaited => Ok(None),
            };
            let value = value.unwrap_or_else(|error| panic!("a value of the state is no JSON: {error}"));
            writer.state(of, &key, value, held.expires());
        }
        inner.changed = changed;
        inner.changed.clear();
        if inner.held.len() > MOST_HELD {
            *inner = Inner::default();
        }
    }
}

/// Adds a key to a request: u32 length, bytes.
fn add_key(prefix: &[u8], key: &[u8], keys: &mut Vec<u8>) {
    let len = u32::try_from(prefix.len() + key.len()).unwrap_or(u32::MAX);
    keys.extend_from_slice(&len.to_le_bytes());
    keys.extend_from_slice(prefix);
    keys.extend_from_slice(key);
}

fn take_u32(bytes: &mut &[u8]) -> u32 {
    let (word, rest) = bytes.split_first_chunk().expect("the host answers every key");
    *bytes = rest;
    u32::from_le_bytes(*word)
}

fn take_key<'a>(keys: &mut &'a [u8]) -> &'a [u8] {
    let len = take_u32(keys) as usize;
    let (key, rest) = keys.split_at(len);
    *keys = rest;
    key
}

/// The answer to one key: u32 length (0xffffffff for none), then i64 expiry, bytes.
fn take_value(values: &mut &[u8]) -> Option<(Vec<u8>, Option<i64>)> {
    let len = take_u32(values);
    if len == u32::MAX {
        return None;
    }
    let (expires, rest) = values.split_first_chunk().expect("the host answers every key");
    let (value, rest) = rest.split_at(len as usize);
    *values = rest;
    let expires = i64::from_le_bytes(*expires);
    Some((value.to_vec(), (expires != 0).then_some(expires)))
}

#[cfg(target_family = "wasm")]
mod host {
    use crate::guest::bindings::sluicegate::plugin::state;

    pub(super) fn get(keys: &[u8]) -> Vec<u8> {
        state::get_flat(keys)
    }

    pub(super) type Found = (Vec<u8>, Vec<u8>, Option<i64>);

    pub(super) fn scan(prefix: &[u8], after: Option<&[u8]>, limit: u32, max_bytes: u32) -> Vec<Found> {
        let page = state::scan(prefix, after, limit, max_bytes);
        page.into_iter().map(|entry| (entry.key, entry.value, entry.expires)).collect()
    }
}

#[cfg(not(target_family = "wasm"))]
use crate::testing::host;
