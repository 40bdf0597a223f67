//! The guest's way to its state and timers: the imports of `sluicegate:plugin/state` and `sluicegate:plugin/timers`.

use std::collections::BTreeMap;

use sluice_engine::CallErrorKind;
use sluice_event::{OutcomeWriter, Source, TimerChange, View, has_expired};
use sluice_state::{Entries, MAX_KEY_BYTES, Slot, StageState};
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use crate::contract::interface;
use crate::instance::Data;
use crate::typed::{Clock, Origin};

/// Entries that one scan returns, at most.
const MOST_ENTRIES: u32 = 10_000;

/// Why a call for the state fails, and with it the call to the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// No way to go on.
    #[error("{0}")]
    Store(#[from] sluice_state::Error),
    /// More than may be handed over at once.
    #[error("more than {0} bytes of state asked for or written in one call; see `limits.output-bytes`")]
    TooMuch(usize),
    /// The guest broke the contract.
    #[error("{0}")]
    Contract(String),
}

impl Refused {
    pub(crate) fn kind(&self) -> CallErrorKind {
        match self {
            Self::Store(_) => CallErrorKind::State,
            Self::TooMuch(_) => CallErrorKind::Limit,
            Self::Contract(_) => CallErrorKind::Trap,
        }
    }
}

/// A timer that a guest sets, or clears.
struct Timer {
    origin: Origin,
    to: Option<(Clock, i64)>,
    key: Vec<u8>,
    tag: Vec<u8>,
}

/// What a guest reads, and what guests of typed records write.
pub(crate) struct Access {
    state: StageState,
    /// Written in this call, through `set` and `delete`: what stands now, and by which origin.
    writes: BTreeMap<Vec<u8>, (Slot, Origin)>,
    /// Timers set and cleared in this call, in order.
    timers: Vec<Timer>,
    written_bytes: usize,
    /// Before the event in hand, as far as it is known which that is.
    watermark: Option<i64>,
    /// Before each event of the call.
    watermarks: Vec<Option<i64>>,
    /// The times of the call's events, and of its timers: values expire so long after them.
    timestamps: Vec<i64>,
    timer_times: Vec<i64>,
    /// Bytes that a call may be given.
    max_bytes: usize,
}

impl Access {
    pub(crate) fn new(state: StageState, max_bytes: usize) -> Self {
        Self {
            state,
            writes: BTreeMap::new(),
            timers: Vec::new(),
            written_bytes: 0,
            watermark: None,
            watermarks: Vec::new(),
            timestamps: Vec::new(),
            timer_times: Vec::new(),
            max_bytes,
        }
    }

    /// Its values are of this version.
    pub(crate) fn set_version(&mut self, version: u32) {
        self.state = self.state.of_version(version);
    }

    /// A call with events and timers of these times begins.
    pub(crate) fn begin(&mut self, events: impl Iterator<Item = i64>, timers: impl Iterator<Item = i64>) {
        self.writes.clear();
        self.timers.clear();
        self.written_bytes = 0;
        self.timestamps.clear();
        self.timestamps.extend(events);
        self.timer_times.clear();
        self.timer_times.extend(timers);
    }

    /// Hands over what the call has written, but for what comes of events that failed or were not dealt with: then the engine uses nothing of
    /// a call with more events than that one.
    pub(crate) fn finish(&mut self, writer: &mut OutcomeWriter, stands: impl Fn(Origin) -> bool) {
        for (key, (slot, origin)) in std::mem::take(&mut self.writes) {
            if stands(origin) {
                writer.state(origin.flat(), &key, slot.value.as_deref(), slot.expires);
            }
        }
        for timer in self.timers.drain(..).filter(|timer| stands(timer.origin)) {
            let clock = timer.to.map_or(Clock::EventTime, |(clock, _)| clock).into();
            let (key, tag) = (&timer.key, &timer.tag);
            writer.timer(&TimerChange {
                of: timer.origin.flat(),
                clock,
                time: timer.to.map(|(_, time)| time),
                key,
                tag,
            });
        }
    }

    /// A call begins, with these watermarks. That before each event is noted for guests that tell which of them is in hand.
    pub(crate) fn set_watermarks(&mut self, view: Option<&View<'_>>, of_each: bool) {
        self.watermarks.clear();
        self.watermark = view.and_then(|view| view.watermark);
        if let Some(view) = view.filter(|view| of_each && !view.watermarks.is_empty()) {
            self.watermarks.extend((0..=view.count).map(|index| view.watermark_before(index)));
        }
    }

    /// The guest has come to this event, or to a timer, which fires before the first.
    pub(crate) fn at(&mut self, source: Source, index: u32) {
        if source == Source::Input
            && let Some(watermark) = self.watermarks.get(index as usize)
        {
            self.watermark = *watermark;
        }
    }

    /// Commits in flight have not expired it yet, where it is kept.
    fn has_expired(&self, slot: &Slot) -> bool {
        has_expired(slot.expires, self.watermark)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Slot>, Refused> {
        match self.writes.get(key) {
            Some((slot, _)) => Ok(slot.value.is_some().then(|| slot.clone()).filter(|slot| !self.has_expired(slot))),
            None => Ok(self.state.get(key)?.filter(|slot| !self.has_expired(slot))),
        }
    }

    fn get_all(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, Refused> {
        let mut bytes = 0;
        let value = |key: &Vec<u8>| {
            let value = self.get(key)?.and_then(|slot| slot.value);
            bytes += value.as_ref().map_or(0, Vec::len) + 8;
            if bytes <= self.max_bytes { Ok(value) } else { Err(Refused::TooMuch(self.max_bytes)) }
        };
        keys.iter().map(value).collect()
    }

    fn get_flat(&self, mut keys: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut values = Vec::with_capacity(keys.len());
        while !keys.is_empty() {
            let key = keys
                .split_first_chunk()
                .and_then(|(len, rest)| rest.split_at_checked(u32::from_le_bytes(*len) as usize));
            let (key, rest) = key.ok_or_else(|| Refused::Contract("the keys for `get-flat` are cut short".into()))?;
            keys = rest;
            match self.get(key)? {
                Some(Slot { value: Some(value), expires }) => {
                    values.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    values.extend_from_slice(&expires.unwrap_or(0).to_le_bytes());
                    values.extend_from_slice(&value);
                }
                _ => values.extend_from_slice(&u32::MAX.to_le_bytes()),
            }
            if values.len() > self.max_bytes {
                return Err(Refused::TooMuch(self.max_bytes));
            }
        }
        Ok(values)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32, max_bytes: u32) -> Result<Vec<Entry>, Refused> {
        let (limit, max_bytes) = (limit.min(MOST_ENTRIES) as usize, (max_bytes as usize).min(self.max_bytes));
        let mut after = after.map(<[u8]>::to_vec);
        loop {
            match self.page(prefix, after.as_deref(), limit, max_bytes)? {
                // All of it was deleted or has expired: an empty page would say that there is no more.
                (entries, Some(up_to)) if entries.is_empty() && limit > 0 => after = Some(up_to),
                (entries, _) => return Ok(entries),
            }
        }
    }

    /// Some entries, and up to where they were looked for, where that is not all.
    fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Entry>, Option<Vec<u8>>), Refused> {
        /// What has expired is passed over in no smaller pages.
        const LEAST: usize = 256;
        let behind = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let written: BTreeMap<_, _> = self.writes.iter().filter(|(key, _)| behind(key)).collect();
        // What is deleted here takes up room there.
        let (mut kept, is_all) = self.state.scan(prefix, after, limit.max(LEAST) + written.len(), max_bytes)?;
        // Beyond the last entry that was found there may be more, which come before what was written behind it.
        let up_to = kept.last().filter(|_| !is_all).map(|(key, _)| key.clone());
        kept.retain(|(_, slot)| !self.has_expired(slot));
        let mut all: BTreeMap<Vec<u8>, Slot> = kept.into_iter().collect();
        for (key, (slot, _)) in written {
            let slot = if self.has_expired(slot) { &Slot::default() } else { slot };
            if up_to.as_ref().is_none_or(|up_to| key <= up_to) {
                all.insert(key.clone(), slot.clone());
            }
        }
        let entry = |(key, slot): (Vec<u8>, Slot)| Some(Entry { key, value: slot.value?, expires: slot.expires });
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in all.into_iter().filter_map(entry).take(limit) {
            bytes += entry.key.len() + entry.value.len();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok((entries, up_to))
    }

    fn write(
        &mut self,
        origin: Origin,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        time_to_live: Option<u64>,
    ) -> Result<(), Refused> {
        let timestamp = self.time_of("a state write", origin)?;
        if key.len() > MAX_KEY_BYTES {
            return Err(Refused::Contract(format!(
                "a key of {} bytes for the state; it has at most {MAX_KEY_BYTES}",
                key.len()
            )));
        }
        self.takes_up(key.len() + value.as_ref().map_or(0, Vec::len))?;
        let expires = time_to_live.map(|millis| timestamp.saturating_add_unsigned(millis));
        let expires = expires.map(as_kept);
        self.writes.insert(key, (Slot { value, expires }, origin));
        Ok(())
    }

    fn set_timer(&mut self, timer: Timer) -> Result<(), Refused> {
        self.time_of("a timer change", timer.origin)?;
        self.takes_up(timer.key.len() + timer.tag.len())?;
        self.timers.push(timer);
        Ok(())
    }

    /// The time of an event or timer of the call.
    fn time_of(&self, what: &str, origin: Origin) -> Result<i64, Refused> {
        let time = match origin.flat() {
            (Source::Input, index) => self.timestamps.get(index as usize),
            (Source::Timer, index) => self.timer_times.get(index as usize),
        };
        let not_given = || Refused::Contract(format!("{what} names an input or timer that was not given"));
        time.copied().ok_or_else(not_given)
    }

    fn takes_up(&mut self, bytes: usize) -> Result<(), Refused> {
        /// What a write takes up besides its bytes, about.
        const WRITE_BYTES: usize = 96;
        self.written_bytes += WRITE_BYTES + bytes;
        if self.written_bytes > self.max_bytes { Err(Refused::TooMuch(self.max_bytes)) } else { Ok(()) }
    }
}

#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    expires: Option<i64>,
}

/// An expiry as it is kept, where the very beginning of the epoch means never.
fn as_kept(expires: i64) -> i64 {
    if expires == 0 { 1 } else { expires }
}

/// Entries as guests get them.
pub(crate) fn given(entries: &Entries) -> Vec<Entry> {
    let entry = |(key, slot): &(Vec<u8>, Slot)| {
        Some(Entry { key: key.clone(), value: slot.value.clone()?, expires: slot.expires })
    };
    entries.iter().filter_map(entry).collect()
}

/// Entries that guests return.
pub(crate) fn returned(entries: Vec<Entry>) -> Entries {
    let entry = |entry: Entry| (entry.key, Slot { value: Some(entry.value), expires: entry.expires.map(as_kept) });
    entries.into_iter().map(entry).collect()
}

type Scan = (Vec<u8>, Option<Vec<u8>>, u32, u32);

/// Links the imports. Who may use them is checked before, by their names.
pub(crate) fn link(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    let mut state = linker.instance(&interface("state"))?;
    state.func_wrap("get", |store: StoreContextMut<'_, Data>, (keys,): (Vec<Vec<u8>>,)| {
        Ok((store.data().state()?.get_all(&keys)?,))
    })?;
    state.func_wrap("get-flat", |store: StoreContextMut<'_, Data>, (keys,): (Vec<u8>,)| {
        Ok((store.data().state()?.get_flat(&keys)?,))
    })?;
    state.func_wrap("scan", |store: StoreContextMut<'_, Data>, (prefix, after, limit, max_bytes): Scan| {
        Ok((store.data().state()?.scan(&prefix, after.as_deref(), limit, max_bytes)?,))
    })?;
    type Set = (Origin, Vec<u8>, Vec<u8>, Option<u64>);
    state.func_wrap("set", |mut store: StoreContextMut<'_, Data>, (origin, key, value, time_to_live): Set| {
        Ok(store.data_mut().state_mut()?.write(origin, key, Some(value), time_to_live)?)
    })?;
    state.func_wrap("delete", |mut store: StoreContextMut<'_, Data>, (origin, key): (Origin, Vec<u8>)| {
        Ok(store.data_mut().state_mut()?.write(origin, key, None, None)?)
    })?;
    let mut timers = linker.instance(&interface("timers"))?;
    type SetTimer = (Origin, Clock, i64, Vec<u8>, Vec<u8>);
    timers.func_wrap("set", |mut store: StoreContextMut<'_, Data>, (origin, clock, time, key, tag): SetTimer| {
        let timer = Timer { origin, to: Some((clock, time)), key, tag };
        Ok(store.data_mut().state_mut()?.set_timer(timer)?)
    })?;
    type ClearTimer = (Origin, Vec<u8>, Vec<u8>);
    timers.func_wrap("clear", |mut store: StoreContextMut<'_, Data>, (origin, key, tag): ClearTimer| {
        Ok(store.data_mut().state_mut()?.set_timer(Timer { origin, to: None, key, tag })?)
    })?;
    Ok(())
}

impl Data {
    fn state(&self) -> Result<&Access, Refused> {
        self.access.as_ref().ok_or_else(not_granted)
    }

    fn state_mut(&mut self) -> Result<&mut Access, Refused> {
        self.access.as_mut().ok_or_else(not_granted)
    }
}

fn not_granted() -> Refused {
    Refused::Contract(
        "there are no state and no timers here: they are granted to calls of a running pipeline only".into(),
    )
}
