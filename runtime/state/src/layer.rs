//! Some changes of a state, in one buffer.

use std::cell::OnceCell;

use crate::key::TIMER;

/// What stands under a key, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change<'a> {
    /// The full key.
    pub key: &'a [u8],
    /// `None`: it is deleted.
    pub value: Option<&'a [u8]>,
    /// When it expires, ms since the epoch.
    pub expires: Option<i64>,
}

/// Where a change stands in the buffer.
#[derive(Debug, Clone, Copy)]
struct Item {
    start: usize,
    key_len: u32,
    /// [`DELETED`] where there is none.
    value_len: u32,
    expires: Option<i64>,
}

const DELETED: u32 = u32::MAX;

/// Some changes, in the order in which they were made: what is said last of a key stands.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Whether timers are among them.
    has_timers: bool,
    /// The numbers of those that stand, by their keys; made when somebody looks for one.
    sorted: OnceCell<Vec<u32>>,
}

impl Layer {
    /// Changes one key more; what it is made of comes one after the other.
    pub fn push(&mut self, prefix: &[u8], key: &[u8], value: Option<&[u8]>, expires: Option<i64>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(prefix);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let key_len = (prefix.len() + key.len()) as u32;
        let value_len = value.map_or(DELETED, |value| value.len() as u32);
        self.has_timers |= self.bytes.get(start) == Some(&TIMER);
        self.items.push(Item { start, key_len, value_len, expires });
        if self.sorted.get().is_some() {
            self.sorted.take();
        }
    }

    /// An empty one, with room for as much as there is in this one, and some more.
    #[must_use]
    pub fn with_room(&self) -> Self {
        let more = |len: usize| len + len / 8;
        let (bytes, items) = (more(self.bytes.len()), more(self.items.len()));
        Self { bytes: Vec::with_capacity(bytes), items: Vec::with_capacity(items), ..Self::default() }
    }

    /// Removes all changes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
        self.has_timers = false;
        self.sorted.take();
    }

    /// Whether it sets or clears timers.
    pub(crate) fn has_timers(&self) -> bool {
        self.has_timers
    }

    /// How many changes there are.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The changes, in the order in which they were made.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.items.iter().map(|item| self.change(*item))
    }

    /// The same, so many at a time.
    pub(crate) fn blocks(&self, len: usize) -> impl Iterator<Item = impl Iterator<Item = Change<'_>> + Clone> {
        self.items.chunks(len).map(|items| items.iter().map(|item| self.change(*item)))
    }

    fn change(&self, item: Item) -> Change<'_> {
        let (key, rest) = self.bytes[item.start..].split_at(item.key_len as usize);
        let value = (item.value_len != DELETED).then(|| &rest[..item.value_len as usize]);
        Change { key, value, expires: item.expires }
    }

    fn key(&self, number: u32) -> &[u8] {
        self.change(self.items[number as usize]).key
    }

    fn sorted(&self) -> &[u32] {
        self.sorted.get_or_init(|| {
            let mut sorted: Vec<u32> = (0..self.items.len() as u32).rev().collect();
            // Stable: of those of one key, the last one comes first.
            sorted.sort_by(|a, b| self.key(*a).cmp(self.key(*b)));
            sorted.dedup_by(|later, first| self.key(*later) == self.key(*first));
            sorted
        })
    }

    /// What it says of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Change<'_>> {
        let sorted = self.sorted();
        let at = sorted.binary_search_by(|number| self.key(*number).cmp(key)).ok()?;
        Some(self.change(self.items[sorted[at] as usize]))
    }

    /// What stands, from a key on, in the order of keys.
    pub(crate) fn from(&self, key: &[u8]) -> impl Iterator<Item = Change<'_>> {
        let sorted = self.sorted();
        let start = sorted.partition_point(|number| self.key(*number) < key);
        sorted[start..].iter().map(|number| self.change(self.items[*number as usize]))
    }
}

impl PartialEq for Layer {
    fn eq(&self, other: &Self) -> bool {
        self.changes().eq(other.changes())
    }
}

impl Eq for Layer {}
