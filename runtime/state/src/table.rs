//! What is committed and not in the store yet: found by key, and in the order of keys.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::ops::Bound;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::layer::Change;

/// Entries by key. What is changed again and again is found by its hash, which takes a fraction of what going down a tree does; the tree is for those
/// who look at keys in their order, and grows with new keys only.
///
/// An entry's key and value lie in one record, the records in one buffer, so that a core's cache holds as many as can be: fetching one from memory takes
/// as long as a hundred instructions. A value that its record has no room for gets a new one, half as large again, and the old one is left: all of it goes
/// when it is in the store.
#[derive(Default)]
pub(crate) struct Table {
    index: HashTable<Place>,
    hasher: RandomState,
    /// By the numbers of entries, where their records begin, in eights of bytes.
    records: Vec<u32>,
    bytes: Vec<u8>,
    order: BTreeMap<Box<[u8]>, u32>,
    /// Bytes of the keys in `order`.
    key_bytes: usize,
}

/// An entry, and some bits of its key's hash: mostly its record need not be looked at to tell that it is another one's.
struct Place {
    hash: u32,
    number: u32,
}

/// What stands before key and value.
#[derive(Clone, Copy)]
struct Head {
    key_len: u32,
    /// [`DELETED`] where there is none.
    value_len: u32,
    /// Bytes that a value may have here.
    room: u32,
    expires: Option<i64>,
}

const DELETED: u32 = u32::MAX;

impl Head {
    /// ```text
    ///  0  u32  key length                      12  u32  1 where it expires
    ///  4  u32  value length                    16  i64  then, when, ms since the epoch
    ///  8  u32  room for the value              24  key, value; up to a multiple of 8 behind the room
    /// ```
    const BYTES: usize = 24;

    fn of(record: &[u8]) -> Self {
        let (words, _) = record.as_chunks::<4>();
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let time = (u64::from(word(5)) << 32 | u64::from(word(4))).cast_signed();
        Self { key_len: word(0), value_len: word(1), room: word(2), expires: (word(3) == 1).then_some(time) }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.value_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.room.to_le_bytes());
        bytes[12] = u8::from(self.expires.is_some());
        bytes[16..24].copy_from_slice(&self.expires.unwrap_or(0).to_le_bytes());
        bytes
    }
}

/// What a record says.
fn change(record: &[u8]) -> Change<'_> {
    let head = Head::of(record);
    let (key, rest) = record[Head::BYTES..].split_at(head.key_len as usize);
    let value = (head.value_len != DELETED).then(|| &rest[..head.value_len as usize]);
    Change { key, value, expires: head.expires }
}

impl Table {
    /// So many keys are looked up together by [`find_all`](Self::find_all).
    pub(crate) const BLOCK: usize = 16;
    /// What an entry takes up besides its record and its key in the tree, about.
    const ENTRY_BYTES: usize = 64;
    const ALIGN: usize = 8;

    /// Bytes of memory that it takes up, about.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.key_bytes + Self::ENTRY_BYTES * self.records.len()
    }

    /// Of a hash, bits that the index does not compare by itself.
    fn bits(hash: u64) -> u32 {
        (hash >> 25) as u32
    }

    fn start(&self, number: u32) -> usize {
        self.records[number as usize] as usize * Self::ALIGN
    }

    /// What stands under the key of a number.
    pub(crate) fn at(&self, number: u32) -> Change<'_> {
        change(&self.bytes[self.start(number)..])
    }

    /// What stands under a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Change<'_>> {
        self.number(key).map(|number| self.at(number))
    }

    /// The number of a key, if it is there.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u32> {
        self.find(self.hasher.hash_one(key), key)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_own = |place: &Place| place.hash == Self::bits(hash) && self.at(place.number).key == key;
        self.index.find(hash, is_own).map(|place| place.number)
    }

    /// The same of several keys: none waits for the one before to come from memory. It may miss a key; none that it finds is wrong.
    pub(crate) fn find_all(&self, keys: [&[u8]; Self::BLOCK]) -> [Option<u32>; Self::BLOCK] {
        let hashes = keys.map(|key| self.hasher.hash_one(key));
        let find = |hash| self.index.find(hash, |place| place.hash == Self::bits(hash)).map(|place| place.number);
        let found = hashes.map(find);
        for number in found.into_iter().flatten() {
            // Where it begins and, mostly, ends.
            let start = self.start(number);
            black_box((self.bytes.get(start).copied(), self.bytes.get(start + 64).copied()));
        }
        std::array::from_fn(|n| found[n].filter(|number| self.at(*number).key == keys[n]))
    }

    /// Puts something under the key of a number.
    pub(crate) fn replace(&mut self, number: u32, value: Option<&[u8]>, expires: Option<i64>) {
        let start = self.start(number);
        let head = Head::of(&self.bytes[start..]);
        let (key_start, len) = (start + Head::BYTES, value.map_or(0, <[u8]>::len));
        let key_end = key_start + head.key_len as usize;
        if len > head.room as usize {
            // Half as large again: what is left behind stays within what there is.
            let key = self.bytes[key_start..key_end].to_vec();
            self.records[number as usize] = self.write(&key, value, expires, len + len / 2);
            return;
        }
        let value_len = value.map_or(DELETED, |value| value.len() as u32);
        self.bytes[start..key_start].copy_from_slice(&Head { value_len, expires, ..head }.to_bytes());
        self.bytes[key_end..key_end + len].copy_from_slice(value.unwrap_or_default());
    }

    /// Puts something under a key.
    pub(crate) fn insert(&mut self, key: &[u8], value: Option<&[u8]>, expires: Option<i64>) {
        let hash = self.hasher.hash_one(key);
        if let Some(number) = self.find(hash, key) {
            return self.replace(number, value, expires);
        }
        let (number, len) = (self.records.len() as u32, value.map_or(0, <[u8]>::len));
        // Numbers become longer by and by.
        let record = self.write(key, value, expires, len + Self::ALIGN);
        self.records.push(record);
        self.order.insert(key.into(), number);
        self.key_bytes += key.len();
        let Self { index, hasher, records, bytes, .. } = self;
        let hash_of = |place: &Place| {
            hasher.hash_one(change(&bytes[records[place.number as usize] as usize * Self::ALIGN..]).key)
        };
        index.insert_unique(hash, Place { hash: Self::bits(hash), number }, hash_of);
    }

    /// Appends a record with room for so many bytes of a value, or some more; where it begins, in eights.
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, expires: Option<i64>, room: usize) -> u32 {
        let start = self.bytes.len();
        let end = (start + Head::BYTES + key.len() + room).next_multiple_of(Self::ALIGN);
        let room = (end - start - Head::BYTES - key.len()) as u32;
        let value_len = value.map_or(DELETED, |value| value.len() as u32);
        let head = Head { key_len: key.len() as u32, value_len, room, expires };
        self.bytes.extend_from_slice(&head.to_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.bytes.resize(end, 0);
        (start / Self::ALIGN) as u32
    }

    /// Entries in the order of keys.
    pub(crate) fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = Change<'_>> {
        self.order.range::<[u8], _>(range).map(|(_, number)| self.at(*number))
    }

    /// All of them, in the order of keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_a_plain_map_of_values_that_grow_shrink_and_go() {
        let (mut table, mut plain) = (Table::default(), BTreeMap::new());
        let mut random = 7_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("key-{}", (random >> 33) % 300).into_bytes();
            let value = (random & 16 == 0).then(|| vec![(random >> 40) as u8; (random >> 50) as usize % 70]);
            let expires = (random & 32 == 0).then_some((random >> 20).cast_signed());
            match table.number(&key).filter(|_| random & 64 == 0) {
                Some(number) => table.replace(number, value.as_deref(), expires),
                None => table.insert(&key, value.as_deref(), expires),
            }
            plain.insert(key, (value, expires));
        }
        let as_plain =
            |Change { key, value, expires }: Change<'_>| (key.to_vec(), (value.map(<[u8]>::to_vec), expires));
        assert!(table.iter().map(as_plain).eq(plain.clone()));
        let keys: Vec<_> = plain.keys().collect();
        for block in keys.chunks_exact(Table::BLOCK) {
            let found = table.find_all(std::array::from_fn(|n| &block[n][..]));
            for (key, number) in block.iter().zip(found) {
                let number = number.or_else(|| table.number(key)).unwrap();
                assert_eq!(as_plain(table.at(number)), ((*key).clone(), plain[*key].clone()));
            }
        }
        assert_eq!(table.find_all([b"other"; Table::BLOCK]), [None; Table::BLOCK]);
    }

    #[test]
    fn memory_that_large_values_had_counts_though_small_ones_stand_there() {
        let mut table = Table::default();
        for number in 0..100_u8 {
            table.insert(&[number], Some(&[0; 10_000]), None);
            table.insert(&[number], Some(&[0; 10]), None);
        }
        assert!(table.memory() > 1_000_000);
        let before = table.memory();
        (0..10_000).for_each(|len| table.insert(&[0], Some(&vec![0; len]), None));
        assert_eq!(table.memory(), before, "where there is room it is used");
    }
}
