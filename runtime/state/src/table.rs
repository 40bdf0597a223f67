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
/// as long as a hundred instructions. A value that its record has no room for gets a new one, half as large again, and the old one is left, and says where
/// that is: all of it goes when it is in the store.
#[derive(Default)]
pub(crate) struct Table {
    index: HashTable<Place>,
    hasher: RandomState,
    bytes: Vec<u8>,
    order: BTreeMap<Box<[u8]>, Record>,
    /// Bytes of the keys in `order`.
    key_bytes: usize,
}

/// Where an entry's record begins, or began before it was moved, in eights of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record(u32);

impl Record {
    const ALIGN: usize = 8;

    fn start(self) -> usize {
        self.0 as usize * Self::ALIGN
    }
}

/// An entry, and some bits of its key's hash: mostly its record need not be looked at to tell that it is another one's.
struct Place {
    hash: u32,
    record: Record,
}

/// What stood in an entry that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Old {
    /// Bytes of the value; `None` where there was none.
    pub(crate) len: Option<usize>,
    pub(crate) expires: Option<i64>,
}

/// What stands before key and value.
#[derive(Clone, Copy)]
struct Head {
    key_len: u32,
    /// [`DELETED`] where there is none; [`MOVED`] in a record that was left.
    value_len: u32,
    /// Bytes that a value may have here; the record in its place, where it was left.
    room: u32,
    expires: Option<i64>,
}

const DELETED: u32 = u32::MAX;
const MOVED: u32 = u32::MAX - 1;

impl Head {
    /// ```text
    ///  0  u32  key length                      12  u32  1 where it expires
    ///  4  u32  value length                    16  i64  then, when, ms since the epoch
    ///  8  u32  room for the value              24  key, value; up to a multiple of 8 behind the room
    /// ```
    const BYTES: usize = 24;

    #[inline]
    fn of(record: &[u8]) -> Self {
        let (words, _) = record.as_chunks::<8>();
        let word = |at: usize| u64::from_le_bytes(words[at]);
        let (lens, room, time) = (word(0), word(1), word(2).cast_signed());
        let expires = (room >> 32 == 1).then_some(time);
        Self { key_len: lens as u32, value_len: (lens >> 32) as u32, room: room as u32, expires }
    }

    /// Its bytes, by whole words: those that are put together of smaller pieces are read back only once they have come to the cache.
    #[inline]
    fn words(self) -> [[u8; 8]; 3] {
        let pair = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
        let does_expire = u32::from(self.expires.is_some());
        let time = self.expires.unwrap_or(0).to_le_bytes();
        [pair(self.key_len, self.value_len), pair(self.room, does_expire), time]
    }
}

/// The key of a record.
#[inline]
fn key(record: &[u8]) -> &[u8] {
    let head = Head::of(record);
    &record[Head::BYTES..][..head.key_len as usize]
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

    /// Bytes of memory that it takes up, about.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.key_bytes + Self::ENTRY_BYTES * self.index.len()
    }

    /// Of a hash, bits that the index does not compare by itself.
    fn bits(hash: u64) -> u32 {
        (hash >> 25) as u32
    }

    /// The key of a record.
    #[inline]
    fn key(&self, record: Record) -> &[u8] {
        key(&self.bytes[record.start()..])
    }

    /// What a record says.
    fn at(&self, record: Record) -> Change<'_> {
        change(&self.bytes[record.start()..])
    }

    /// What stands under a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Change<'_>> {
        self.find(key).map(|record| self.at(record))
    }

    /// The record of a key, if it is there.
    pub(crate) fn find(&self, key: &[u8]) -> Option<Record> {
        self.find_hashed(self.hasher.hash_one(key), key)
    }

    fn find_hashed(&self, hash: u64, key: &[u8]) -> Option<Record> {
        let is_own = |place: &Place| place.hash == Self::bits(hash) && self.key(place.record) == key;
        self.index.find(hash, is_own).map(|place| place.record)
    }

    /// The same of several keys: none waits for the one before to come from memory. It may miss a key; none that it finds is wrong.
    pub(crate) fn find_all(&self, keys: [&[u8]; Self::BLOCK]) -> [Option<Record>; Self::BLOCK] {
        let hashes: [u64; Self::BLOCK] = std::array::from_fn(|n| self.hasher.hash_one(keys[n]));
        let found: [Option<Record>; Self::BLOCK] = std::array::from_fn(|n| {
            let place = self.index.find(hashes[n], |place| place.hash == Self::bits(hashes[n]))?;
            Some(place.record)
        });
        // Where each record begins and, mostly, ends; so briefly that a core looks at all of them at once.
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or_default();
        let touch =
            |record: Option<Record>| record.map_or(0, |record| byte(record.start()) | byte(record.start() + 64));
        black_box(found.into_iter().fold(0, |touched, record| touched | touch(record)));
        std::array::from_fn(|n| found[n].filter(|record| self.key(*record) == keys[n]))
    }

    /// Puts something in a key's record. What stood there is told.
    pub(crate) fn replace(&mut self, record: Record, value: Option<&[u8]>, expires: Option<i64>) -> Old {
        let at = &mut self.bytes[record.start()..];
        let (head, value_bytes) = (Head::of(at), value.unwrap_or_default());
        if head.value_len == MOVED {
            return self.replace(Record(head.room), value, expires);
        }
        let (key_len, len) = (head.key_len as usize, value_bytes.len());
        let old = Old { len: (head.value_len != DELETED).then_some(head.value_len as usize), expires: head.expires };
        if len > head.room as usize {
            let key = at[Head::BYTES..][..key_len].to_vec();
            let larger = self.move_to_larger(record, &key, value, expires);
            let left = Head { value_len: MOVED, room: larger.0, ..head }.words();
            self.bytes[record.start()..][..Head::BYTES].copy_from_slice(left.as_flattened());
            return old;
        }
        let value_len = value.map_or(DELETED, |value| value.len() as u32);
        at[..Head::BYTES].copy_from_slice(Head { value_len, expires, ..head }.words().as_flattened());
        at[Head::BYTES + key_len..][..len].copy_from_slice(value_bytes);
        old
    }

    /// Gives a key another record, for its value has no room in this one.
    fn move_to_larger(&mut self, from: Record, key: &[u8], value: Option<&[u8]>, expires: Option<i64>) -> Record {
        let len = value.map_or(0, <[u8]>::len);
        // Half as large again: what is left behind stays within what there is.
        let to = self.write(key, value, expires, len + len / 2);
        let of_index = self.index.find_mut(self.hasher.hash_one(key), |place| place.record == from);
        let of_index = of_index.map(|place| &mut place.record);
        of_index.into_iter().chain(self.order.get_mut(key)).for_each(|record| *record = to);
        to
    }

    /// Puts something under a key.
    pub(crate) fn insert(&mut self, key: &[u8], value: Option<&[u8]>, expires: Option<i64>) {
        let hash = self.hasher.hash_one(key);
        if let Some(record) = self.find_hashed(hash, key) {
            self.replace(record, value, expires);
            return;
        }
        // Numbers become longer by and by.
        let record = self.write(key, value, expires, value.map_or(0, <[u8]>::len) + Record::ALIGN);
        self.order.insert(key.into(), record);
        self.key_bytes += key.len();
        let Self { index, hasher, bytes, .. } = self;
        let hash_of = |place: &Place| hasher.hash_one(self::key(&bytes[place.record.start()..]));
        index.insert_unique(hash, Place { hash: Self::bits(hash), record }, hash_of);
    }

    /// Appends a record with room for so many bytes of a value, or some more.
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, expires: Option<i64>, room: usize) -> Record {
        let start = self.bytes.len();
        let end = (start + Head::BYTES + key.len() + room).next_multiple_of(Record::ALIGN);
        let room = (end - start - Head::BYTES - key.len()) as u32;
        let value_len = value.map_or(DELETED, |value| value.len() as u32);
        let head = Head { key_len: key.len() as u32, value_len, room, expires };
        self.bytes.extend_from_slice(head.words().as_flattened());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.bytes.resize(end, 0);
        Record((start / Record::ALIGN) as u32)
    }

    /// Entries in the order of keys.
    pub(crate) fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = Change<'_>> {
        self.order.range::<[u8], _>(range).map(|(_, record)| self.at(*record))
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
        // Records as they were found at first.
        let mut found = BTreeMap::new();
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("key-{}", (random >> 33) % 300).into_bytes();
            let value = (random & 16 == 0).then(|| vec![(random >> 40) as u8; (random >> 50) as usize % 70]);
            let expires = (random & 32 == 0).then_some((random >> 20).cast_signed());
            let record = found.get(&key).copied().filter(|_| random & 64 == 0);
            let told = record.map(|record| table.replace(record, value.as_deref(), expires));
            if told.is_none() {
                table.insert(&key, value.as_deref(), expires);
                found.entry(key.clone()).or_insert(table.find(&key).unwrap());
            }
            let old = plain.insert(key, (value, expires));
            let old = old.map(|(value, expires)| Old { len: value.map(|value: Vec<_>| value.len()), expires });
            assert!(told.is_none() || told == old);
        }
        let as_plain =
            |Change { key, value, expires }: Change<'_>| (key.to_vec(), (value.map(<[u8]>::to_vec), expires));
        assert!(table.iter().map(as_plain).eq(plain.clone()));
        let keys: Vec<_> = plain.keys().collect();
        for block in keys.chunks_exact(Table::BLOCK) {
            let found = table.find_all(std::array::from_fn(|n| &block[n][..]));
            for (key, record) in block.iter().zip(found) {
                let record = record.or_else(|| table.find(key)).unwrap();
                assert_eq!(as_plain(table.at(record)), ((*key).clone(), plain[*key].clone()));
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
