//! What is committed and not in the store yet: found by key, and in the order of keys.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::partition::Slot;

/// Entries by key. What is changed again and again is found by its hash, which takes a fraction of what going down a tree does; the tree is for those
/// who look at keys in their order, and grows with new keys only.
#[derive(Default)]
pub(crate) struct Table {
    /// By hash, where the entry stands. It is small, so that it stays in a core's cache while a guest works.
    index: HashTable<u32>,
    hasher: RandomState,
    entries: Vec<Entry>,
    order: BTreeMap<Arc<[u8]>, u32>,
}

struct Entry {
    hash: u64,
    key: Arc<[u8]>,
    slot: Slot,
}

impl Table {
    /// What an entry takes up besides the bytes of key and value, about.
    pub(crate) const ENTRY_BYTES: usize = 160;
    /// So many keys are looked up together by [`find_all`](Self::find_all).
    pub(crate) const BLOCK: usize = 16;

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_own = |at: &u32| {
            let entry = &self.entries[*at as usize];
            entry.hash == hash && *entry.key == *key
        };
        self.index.find(hash, is_own).copied()
    }

    /// What stands under a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.place(key).map(|at| &self.entries[at as usize].slot)
    }

    /// Where a key stands, if it is there.
    pub(crate) fn place(&self, key: &[u8]) -> Option<u32> {
        self.find(self.hasher.hash_one(key), key)
    }

    /// The same of several keys. Entries are spread over more memory than a core's cache holds, and fetching one takes as long as a hundred
    /// instructions: here none waits for the one before. It may miss a key; none that it finds is wrong.
    pub(crate) fn find_all(&self, keys: [&[u8]; Self::BLOCK]) -> [Option<u32>; Self::BLOCK] {
        let hashes = keys.map(|key| self.hasher.hash_one(key));
        let found = hashes.map(|hash| self.index.find(hash, |at| self.entries[*at as usize].hash == hash).copied());
        for at in found.into_iter().flatten() {
            let Entry { key, slot, .. } = &self.entries[at as usize];
            black_box((key.first(), slot.value.as_ref().and_then(|value| value.first())));
        }
        std::array::from_fn(|n| found[n].filter(|at| *self.entries[*at as usize].key == *keys[n]))
    }

    /// What stands at a place.
    pub(crate) fn at_mut(&mut self, place: u32) -> &mut Slot {
        &mut self.entries[place as usize].slot
    }

    /// Puts something under a key; what stood there.
    pub(crate) fn insert(&mut self, key: &[u8], slot: Slot) -> Option<Slot> {
        let hash = self.hasher.hash_one(key);
        if let Some(at) = self.find(hash, key) {
            return Some(std::mem::replace(self.at_mut(at), slot));
        }
        let (key, at): (Arc<[u8]>, _) = (key.into(), self.entries.len() as u32);
        self.order.insert(key.clone(), at);
        self.entries.push(Entry { hash, key, slot });
        self.index.insert_unique(hash, at, |at| self.entries[*at as usize].hash);
        None
    }

    /// Entries in the order of keys.
    pub(crate) fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = (&[u8], &Slot)> {
        self.order.range::<[u8], _>(range).map(|(key, at)| (&**key, &self.entries[*at as usize].slot))
    }

    /// All of them, in the order of keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Slot)> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }
}
