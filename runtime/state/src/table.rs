//! What is committed and not in the store yet: found by key, and in the order of keys.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use crate::partition::Slot;

/// Entries by key. What is changed again and again is found by its hash, which takes a fraction of what going down a tree does; the tree is for those
/// who look at keys in their order, and grows with new keys only.
#[derive(Default)]
pub(crate) struct Table {
    index: HashMap<Arc<[u8]>, u32, RandomState>,
    order: BTreeMap<Arc<[u8]>, u32>,
    slots: Vec<Slot>,
}

impl Table {
    /// What an entry takes up besides the bytes of key and value, about.
    pub(crate) const ENTRY_BYTES: usize = 160;

    /// What stands under a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.index.get(key).map(|at| &self.slots[*at as usize])
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Slot> {
        self.index.get(key).map(|at| &mut self.slots[*at as usize])
    }

    /// Puts something under a key; what stood there.
    pub(crate) fn insert(&mut self, key: &[u8], slot: Slot) -> Option<Slot> {
        if let Some(there) = self.get_mut(key) {
            return Some(std::mem::replace(there, slot));
        }
        let (key, at): (Arc<[u8]>, _) = (key.into(), self.slots.len() as u32);
        self.slots.push(slot);
        self.order.insert(key.clone(), at);
        self.index.insert(key, at);
        None
    }

    /// Entries in the order of keys.
    pub(crate) fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = (&[u8], &Slot)> {
        self.order.range::<[u8], _>(range).map(|(key, at)| (&**key, &self.slots[*at as usize]))
    }

    /// All of them, in the order of keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Slot)> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }
}
