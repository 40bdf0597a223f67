//! The state of one partition of a pipeline, all its stages together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluice_event::Clock;

use crate::delta::{Cursors, Delta, Head, Line, Quiet, Turn, encode_delta, ended, missing};
use crate::key::{
    META, STATE, TIMER, WRITER, end_of, expiries_until, expiry_key, key_of_expiry, prefix_of, space_and_key, space_of,
    stage_and_version,
};
use crate::layer::{Change, Layer};
use crate::store::{Closed, Error, Store};
use crate::table::{Old, Record, Table};
use crate::timer::{self, Timer, index_from, index_key};
use crate::writer::WriterSeen;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// `None`: it was deleted.
    pub value: Option<Vec<u8>>,
    /// When it expires, ms since the epoch.
    pub expires: Option<i64>,
}

impl Slot {
    /// What a change has put there; `None` where it deleted it.
    fn of(change: &Change<'_>) -> Option<Self> {
        change.value.map(|value| Self { value: Some(value.to_vec()), expires: change.expires })
    }

    fn from_stored(bytes: &[u8]) -> Self {
        let (expires, value) = from_stored(bytes);
        Self { value: Some(value.to_vec()), expires }
    }
}

/// What stands in a store: i64 expiry (0 never), the value.
fn stored(change: &Change<'_>) -> Option<Vec<u8>> {
    change.value.map(|value| [&change.expires.unwrap_or(0).to_le_bytes()[..], value].concat())
}

/// Expiry and value, as they stand in a store.
fn from_stored(bytes: &[u8]) -> (Option<i64>, &[u8]) {
    let (expires, value) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let expires = i64::from_le_bytes(*expires);
    ((expires != 0).then_some(expires), value)
}

/// What a stage's state comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Up to where a state has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Applied {
    /// The next offset of the changelog.
    pub offset: u64,
    /// Where the pipeline began to keep it: before that there is no state. Empty where there is none yet.
    pub origin: Cursors,
    /// The source topic of the event that was dealt with last.
    pub topic: Option<u32>,
    /// Event time up to which the source is complete, ms since the epoch.
    pub watermark: Option<i64>,
    /// How many outputs there are of timers that fired before the event at the cursor.
    pub fired_outputs: u32,
    /// How many events were late.
    pub late: u64,
    /// What each stage's state comes to: its timers, with its values of version 0, under its name; those of other versions under that of their space.
    pub usage: BTreeMap<String, Usage>,
    /// When the next value expires; there may be none then.
    next_expiry: Option<i64>,
    /// The stretches of the changelog that made it, but for the last.
    line: Line,
    /// Where the last one begins; it ends at `offset`.
    start: u64,
    /// What is dealt with again only for what it does to the state.
    pub quiet: Option<Quiet>,
    /// What made the state before it was last rewound, and what `quiet` was then.
    pub before: Option<(Line, Option<Quiet>)>,
}

impl Applied {
    /// The stretches of the changelog that made the state.
    pub fn line(&self) -> Line {
        let last = (self.start < self.offset).then_some((self.start, self.offset));
        self.line.iter().copied().chain(last).collect()
    }

    /// The same, the last stretch ending wherever the changelog will end.
    pub fn open_line(&self) -> Line {
        self.line.iter().copied().chain([(self.start, 0)]).collect()
    }

    /// What is missing for the state that a line makes; `None` when this one is not on its way there.
    pub fn missing(&self, line: &Line) -> Option<Line> {
        missing(&self.line(), line)
    }
}

/// What is committed goes to the store when it comes to so much.
pub const FLUSH_BYTES: usize = 16 << 20;

/// What an attempt has changed whose commit is not answered.
struct Attempted {
    id: u64,
    changes: Layer,
    /// What follows from it for the index of timers.
    index: Layer,
}

/// The state of one partition.
///
/// What a consumer reads is all of it: layers in flight over what is committed. Everybody else sees what is committed.
pub struct PartitionState {
    store: Arc<dyn Store>,
    /// Committed, and not in the store.
    memory: Table,
    /// The same, being written to the store.
    frozen: Option<Arc<Table>>,
    /// Attempts whose commits are not answered, oldest first.
    layers: VecDeque<Attempted>,
    applied: Applied,
    /// No timer of a clock is set for a time before this one.
    no_timer_before: [i64; 2],
    /// The next offset of the changelog that the store does not have.
    flushed: u64,
    /// Why the store cannot be written any more.
    failure: Option<Error>,
    /// Somebody makes a snapshot of the store.
    copied: bool,
}

/// Something to be written to the store.
pub struct Flush {
    store: Arc<dyn Store>,
    memory: Arc<Table>,
    meta: Vec<u8>,
    offset: u64,
}

impl Flush {
    /// Writes it. It is told to the state with [`PartitionState::flushed`].
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn run(&self) -> Result<(), Error> {
        let meta = std::iter::once((META, Some(self.meta.clone())));
        self.store.write(&mut meta.chain(self.memory.iter().map(|change| (change.key, stored(&change)))))
    }
}

impl PartitionState {
    /// The state that a store holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, Error> {
        let meta = store.get(META)?;
        let unreadable =
            |error: serde_json::Error| Error::Changelog { offset: 0, reason: format!("the store: {error}") };
        let applied: Applied =
            meta.map(|meta| serde_json::from_slice(&meta).map_err(unreadable)).transpose()?.unwrap_or_default();
        let (memory, flushed) = (Table::default(), applied.offset);
        Ok(Self {
            store,
            memory,
            frozen: None,
            layers: VecDeque::new(),
            applied,
            no_timer_before: [i64::MIN; 2],
            flushed,
            failure: None,
            copied: false,
        })
    }

    /// Lets go of the store.
    pub(crate) fn close(&mut self) {
        self.store = Arc::new(Closed);
        (self.memory, self.flushed) = (Table::default(), 0);
        // It has come to nothing: whoever waits for it goes on waiting.
        self.applied = Applied::default();
        self.no_timer_before = [i64::MIN; 2];
    }

    /// Whether somebody makes a snapshot of the store.
    pub(crate) fn is_copied(&self) -> bool {
        self.copied
    }

    pub(crate) fn set_copied(&mut self, copied: bool) {
        self.copied = copied;
    }

    /// Its store.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Up to where it has come.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The next offset of the changelog that its store does not have.
    pub fn flushed_offset(&self) -> u64 {
        self.flushed
    }

    /// Bytes in memory that the store does not have.
    pub fn unflushed_bytes(&self) -> usize {
        self.memory.memory()
    }

    /// Applies a commit's changes, the changelog's event at `offset`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply(&mut self, offset: u64, delta: &Delta) -> Result<(), Error> {
        self.take_in(offset, &delta.head, [&delta.layer])
    }

    /// Goes on with the changelog at `offset`, wherever it has come to.
    pub fn go_on_at(&mut self, offset: u64) {
        let Applied { line, start, offset: at, .. } = &mut self.applied;
        if *at != offset {
            line.extend((*start < *at).then_some((*start, *at)));
            (*start, *at) = (offset, offset);
        }
    }

    /// Goes on behind a turn, the changelog's event at `offset`; it is in the state that this wants.
    pub fn turn(&mut self, offset: u64, turn: Turn) {
        self.go_on_at(offset + 1);
        self.applied.quiet = turn.quiet;
        self.applied.before = Some((ended(turn.before, offset), turn.quiet_before));
    }

    /// Stands as another one did: where that began, whose event it dealt with last, how many were late.
    pub fn stand(&mut self, origin: Cursors, topic: Option<u32>, late: u64) {
        (self.applied.origin, self.applied.topic, self.applied.late) = (origin, topic, late);
    }

    /// Has events dealt with only for what they do to the state.
    pub fn quiet(&mut self, quiet: Quiet) {
        self.applied.quiet = Some(quiet);
    }

    /// Visits all values and timers of all stages, by what is committed, in the order of full keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn each(&self, visit: &mut dyn FnMut(Change<'_>)) -> Result<(), Error> {
        self.each_of(&[STATE, TIMER], visit)
    }

    /// Visits all that deltas have put there: values, timers, and what is known of writers.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn every(&self, visit: &mut dyn FnMut(Change<'_>)) -> Result<(), Error> {
        self.each_of(&[STATE, TIMER, WRITER], visit)
    }

    fn each_of(&self, kinds: &[u8], visit: &mut dyn FnMut(Change<'_>)) -> Result<(), Error> {
        for prefix in kinds.iter().copied() {
            self.scan(&[prefix], &[prefix], false, &mut |change| {
                visit(change);
                true
            })?;
        }
        Ok(())
    }

    /// The attempt of this number has made these changes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn push(&mut self, id: u64, changes: Layer) -> Result<(), Error> {
        let mut index = Layer::default();
        if changes.has_timers() {
            let timers = changes.from(&[TIMER]).take_while(|change| change.key.first() == Some(&TIMER));
            for Change { key, value, .. } in timers {
                let old = self.get(key)?.and_then(|slot| index_key(key, &slot.value?));
                old.iter().for_each(|key| index.push(&[], key, None, None));
                let new = value.and_then(|value| index_key(key, value));
                new.iter().for_each(|key| index.push(&[], key, Some(&[]), None));
            }
        }
        let set = index.changes().filter(|change| change.value.is_some());
        for timer in set.filter_map(|change| Timer::of_index(change.key)).collect::<Vec<_>>() {
            self.timer_is_set(timer.clock, timer.time);
        }
        self.layers.push_back(Attempted { id, changes, index });
        Ok(())
    }

    fn timer_is_set(&mut self, clock: Clock, time: i64) {
        let first = &mut self.no_timer_before[clock as usize];
        *first = time.min(*first);
    }

    /// Appends a delta with what attempts up to this number have changed, together; not those up to `behind`, whose changes are in deltas that are under way.
    pub fn delta_through(&self, behind: Option<u64>, id: u64, head: &Head, out: &mut Vec<u8>) {
        let own = self.layers.partition_point(|layer| behind.is_some_and(|behind| layer.id <= behind));
        let layers = self.layers.range(own..).take_while(|layer| layer.id <= id).map(|layer| &layer.changes);
        encode_delta(head, layers, out);
    }

    /// The commit that holds the changes of attempts up to this number was made, its delta being at `offset` of the changelog.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn committed_through(&mut self, id: u64, offset: u64, head: &Head) -> Result<(), Error> {
        let layers: Vec<_> = std::iter::from_fn(|| self.layers.pop_front_if(|layer| layer.id <= id)).collect();
        self.take_in(offset, head, layers.iter().map(|layer| &layer.changes))
    }

    /// Takes in what a commit changed.
    fn take_in<'a>(
        &mut self,
        offset: u64,
        head: &Head,
        layers: impl IntoIterator<Item = &'a Layer>,
    ) -> Result<(), Error> {
        self.applied.offset = offset + 1;
        if self.applied.origin.is_empty() {
            self.applied.origin = head.began();
        }
        if head.to > head.from {
            self.applied.topic = Some(head.topic);
        }
        for block in layers.into_iter().flat_map(|layer| layer.blocks(Table::BLOCK)) {
            let mut keys = [&[][..]; Table::BLOCK];
            keys.iter_mut().zip(block.clone()).for_each(|(key, change)| *key = change.key);
            for (change, record) in block.zip(self.memory.find_all(keys)) {
                self.set(change, record)?;
            }
        }
        self.applied.watermark = self.applied.watermark.max(head.watermark);
        self.applied.fired_outputs = head.fired_outputs;
        self.applied.late += u64::from(head.late);
        self.expire()
    }

    /// The attempt of this number, and all after it, never happened.
    pub fn discard_from(&mut self, id: u64) {
        self.layers.retain(|layer| layer.id < id);
        // Timers that have fired in them are set again.
        self.no_timer_before = [i64::MIN; 2];
    }

    /// Timers of a clock that are set for `until` or before, attempts in flight included: at most `limit`, in the order in which they fire,
    /// those of one stage together where times are equal.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn due_timers(&mut self, clock: Clock, until: i64, limit: usize) -> Result<Vec<Timer>, Error> {
        let (mut due, mut first) = (Vec::new(), i64::MAX);
        if self.no_timer_before[clock as usize] > until {
            return Ok(due);
        }
        self.scan_timers(clock, &mut |timer| {
            first = first.min(timer.time);
            let go_on = timer.time <= until && due.len() < limit;
            due.extend(go_on.then_some(timer));
            go_on
        })?;
        self.no_timer_before[clock as usize] = first;
        Ok(due)
    }

    /// When the next timer of a clock fires, attempts in flight included; the end of time when there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn next_timer(&mut self, clock: Clock) -> Result<i64, Error> {
        let mut first = i64::MAX;
        self.scan_timers(clock, &mut |timer| {
            first = timer.time;
            false
        })?;
        self.no_timer_before[clock as usize] = first;
        Ok(first)
    }

    /// What is known of those who write to the source, by what is committed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn writers(&self) -> Result<Vec<WriterSeen>, Error> {
        let mut writers = Vec::new();
        self.scan(&[WRITER], &[WRITER], false, &mut |change| {
            writers.extend(WriterSeen::of(&change));
            true
        })?;
        Ok(writers)
    }

    /// The time of the last timer of a clock, attempts in flight included. It looks at all of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn last_timer(&self, clock: Clock) -> Result<Option<i64>, Error> {
        let mut last = None;
        self.scan_timers(clock, &mut |timer| {
            last = Some(timer.time);
            true
        })?;
        Ok(last)
    }

    fn scan_timers(&self, clock: Clock, visit: &mut dyn FnMut(Timer) -> bool) -> Result<(), Error> {
        let (prefix, from) = index_from(clock, self.no_timer_before[clock as usize]);
        self.scan(&prefix, &from, true, &mut |change| Timer::of_index(change.key).is_none_or(&mut *visit))
    }

    /// Takes what is committed out of memory, to be written to the store; `None` while that is under way, or there is nothing.
    pub fn start_flush(&mut self) -> Option<Flush> {
        if self.frozen.is_some() || self.applied.offset == self.flushed {
            return None;
        }
        let memory = Arc::new(std::mem::take(&mut self.memory));
        self.frozen = Some(memory.clone());
        let meta = serde_json::to_vec(&self.applied).unwrap_or_default();
        Some(Flush { store: self.store.clone(), memory, meta, offset: self.applied.offset })
    }

    /// A flush is done, or failed: then nothing is written to the store any more.
    pub fn flushed(&mut self, flush: &Flush, result: Result<(), Error>) {
        if !self.frozen.as_ref().is_some_and(|frozen| Arc::ptr_eq(frozen, &flush.memory)) {
            // The state was replaced meanwhile.
            return;
        }
        match result {
            Ok(()) => (self.flushed, self.frozen) = (flush.offset, None),
            Err(error) => self.failure = Some(error),
        }
    }

    /// Why the store cannot be written any more, if that is so.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether something is being written to the store.
    pub fn is_flushing(&self) -> bool {
        self.frozen.is_some()
    }

    /// What stands under a full key, attempts in flight included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, Error> {
        let in_flight = self.layers.iter().rev().find_map(|layer| layer.changes.get(key));
        match in_flight {
            Some(change) => Ok(Slot::of(&change)),
            None => self.get_committed(key),
        }
    }

    /// What stands under a full key by what is committed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get_committed(&self, key: &[u8]) -> Result<Option<Slot>, Error> {
        match self.memory.get(key) {
            Some(change) => Ok(Slot::of(&change)),
            None => self.get_below(key),
        }
    }

    /// The same of a key that is not in memory, but for what is being written.
    fn get_below(&self, key: &[u8]) -> Result<Option<Slot>, Error> {
        match self.frozen.as_ref().and_then(|frozen| frozen.get(key)) {
            Some(change) => Ok(Slot::of(&change)),
            None => Ok(self.store.get(key)?.map(|bytes| Slot::from_stored(&bytes))),
        }
    }

    /// Entries whose full keys begin with `prefix`, from `from` on, in the order of keys; with attempts in flight, or only what is
    /// committed. `visit` is given full keys and says whether to go on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        in_flight: bool,
        visit: &mut dyn FnMut(Change<'_>) -> bool,
    ) -> Result<(), Error> {
        let (from, end) = (from.max(prefix), end_of(prefix));
        if end.as_deref().is_some_and(|end| from >= end) {
            return Ok(());
        }
        let range = (Bound::Included(from), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        let before_end = |key: &[u8]| end.as_deref().is_none_or(|end| key < end);
        // Later ones hide what earlier ones say of the same key.
        let mut over: Vec<Peekable<Changes<'_>>> = Vec::new();
        for memory in self.frozen.iter().map(|frozen| &**frozen).chain([&self.memory]) {
            let changes: Changes<'_> = Box::new(memory.range(range));
            over.push(changes.peekable());
        }
        let in_flight = self.layers.iter().filter(|_| in_flight);
        for layer in in_flight.flat_map(|layer| [&layer.changes, &layer.index]) {
            let changes: Changes<'_> = Box::new(layer.from(from).take_while(|change| before_end(change.key)));
            over.push(changes.peekable());
        }
        let mut go_on = true;
        self.store.scan(from, end.as_deref(), &mut |key, bytes| {
            while let Some(change) = next_up_to(&mut over, Some(key)) {
                if change.value.is_some() {
                    go_on = visit(change);
                }
                if change.key == key || !go_on {
                    return go_on;
                }
            }
            let (expires, value) = from_stored(bytes);
            go_on = visit(Change { key, value: Some(value), expires });
            go_on
        })?;
        while go_on && let Some(change) = next_up_to(&mut over, None) {
            go_on = change.value.is_none() || visit(change);
        }
        Ok(())
    }

    /// The versions of which a stage has values, attempts in flight included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn versions(&self, stage: &str) -> Result<Vec<u32>, Error> {
        let in_flight = self.layers.iter().flat_map(|layer| layer.changes.changes());
        let in_flight = in_flight.filter_map(|change| space_and_key(change.key).map(|(space, _)| space));
        let spaces = self.applied.usage.keys().map(String::as_str).chain(in_flight).map(stage_and_version);
        let known: BTreeSet<u32> = spaces.filter(|(of, _)| *of == stage).map(|(_, version)| version).collect();
        let mut versions = Vec::new();
        for version in known {
            let (prefix, mut has_any) = (prefix_of(&space_of(stage, version)), false);
            self.scan(&prefix, &prefix, true, &mut |_| {
                has_any = true;
                false
            })?;
            versions.extend(has_any.then_some(version));
        }
        Ok(versions)
    }

    /// What the keys and values of some spaces, and timers of their names, would come to, in bytes, with attempts in flight and these changes: exactly,
    /// where that is more than `enough`, and otherwise not less than it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn size_with(&self, spaces: &[&str], changes: &Layer, enough: u64) -> Result<u64, Error> {
        let usage = |space: &&str| self.applied.usage.get(*space).map_or(0, |usage| usage.bytes);
        let committed = spaces.iter().map(usage).sum::<u64>();
        let layers = || self.layers.iter().map(|layer| &layer.changes).chain([changes]);
        let at_most = committed + layers().map(|layer| layer.bytes() as u64).sum::<u64>();
        if at_most <= enough {
            return Ok(at_most);
        }
        let prefixes: Vec<_> = spaces.iter().flat_map(|space| [prefix_of(space), timer::prefix(space)]).collect();
        let size = |key: &[u8], value: Option<&[u8]>| {
            let own = space_and_key(key).map_or(0, |(_, own)| own.len());
            value.map_or(0, |value| (own + value.len()) as u64)
        };
        let is_own = |change: &Change<'_>| prefixes.iter().any(|prefix| change.key.starts_with(prefix));
        let own = layers().flat_map(Layer::changes).filter(is_own);
        let last: BTreeMap<_, _> = own.map(|change| (change.key, change.value)).collect();
        let mut exactly = committed;
        for (key, value) in last {
            let old = self.get_committed(key)?;
            exactly = exactly + size(key, value) - old.map_or(0, |old| size(key, old.value.as_deref()));
        }
        Ok(exactly)
    }

    /// Changes one key for good; its record in memory, if that was found.
    fn set(&mut self, change: Change<'_>, record: Option<Record>) -> Result<(), Error> {
        let Change { key, value, expires } = change;
        let expires = expires.filter(|_| value.is_some());
        if key.first() == Some(&TIMER) {
            self.index(key, value)?;
        }
        // What changes often is there already, and takes the new value in the old one's place.
        let old = match record.or_else(|| self.memory.find(key)) {
            Some(record) => self.memory.replace(record, value, expires),
            None => {
                let old = self.get_below(key)?.unwrap_or_default();
                self.memory.insert(key, value, expires);
                Old { len: old.value.map(|value| value.len()), expires: old.expires }
            }
        };
        // Mostly a value makes room for one of its length.
        if old.len != value.map(<[u8]>::len)
            && let Some((stage, own)) = space_and_key(key)
        {
            let usage = match self.applied.usage.get_mut(stage) {
                Some(usage) => usage,
                None => self.applied.usage.entry(stage.to_owned()).or_default(),
            };
            if let Some(len) = old.len {
                usage.keys -= 1;
                usage.bytes -= (own.len() + len) as u64;
            }
            if let Some(value) = value {
                usage.keys += 1;
                usage.bytes += (own.len() + value.len()) as u64;
            }
        }
        if old.expires != expires {
            if let Some(before) = old.expires {
                self.memory.insert(&expiry_key(before, key), None, None);
            }
            if let Some(after) = expires {
                self.applied.next_expiry = Some(self.applied.next_expiry.map_or(after, |next| next.min(after)));
                self.memory.insert(&expiry_key(after, key), Some(&[]), None);
            }
        }
        Ok(())
    }

    /// A timer is about to be set or cleared for good.
    fn index(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let old = self.get_committed(key)?.and_then(|slot| index_key(key, &slot.value?));
        old.into_iter().for_each(|key| self.memory.insert(&key, None, None));
        if let Some(key) = value.and_then(|value| index_key(key, value)) {
            if let Some(timer) = Timer::of_index(&key) {
                self.timer_is_set(timer.clock, timer.time);
            }
            self.memory.insert(&key, Some(&[]), None);
        }
        Ok(())
    }

    /// Removes what has expired by the watermark. It follows from the changelog, and so stands nowhere in it.
    fn expire(&mut self) -> Result<(), Error> {
        let Some(watermark) = self.applied.watermark else { return Ok(()) };
        if self.applied.next_expiry.is_none_or(|next| next > watermark) {
            return Ok(());
        }
        let (prefix, end) = expiries_until(watermark);
        let (mut expired, mut next) = (Vec::new(), None);
        self.scan(&prefix, &prefix, false, &mut |Change { key, .. }| {
            let past = key < &*end;
            if past {
                expired.extend(key_of_expiry(key).map(|(_, full)| full.to_vec()));
            } else {
                next = key_of_expiry(key).map(|(time, _)| time);
            }
            past
        })?;
        for key in expired {
            self.set(Change { key: &key, value: None, expires: None }, None)?;
        }
        self.applied.next_expiry = next;
        Ok(())
    }
}

type Changes<'a> = Box<dyn Iterator<Item = Change<'a>> + 'a>;

/// The first change of all, what later ones say of its key hiding what earlier ones do; none when it is behind `up_to`.
fn next_up_to<'a>(over: &mut [Peekable<Changes<'a>>], up_to: Option<&[u8]>) -> Option<Change<'a>> {
    let first = over.iter_mut().filter_map(|changes| changes.peek().map(|change| change.key)).min()?;
    if up_to.is_some_and(|up_to| first > up_to) {
        return None;
    }
    let mut found = None;
    for changes in over {
        found = changes.next_if(|change| change.key == first).or(found);
    }
    found
}
