//! What an instance holds under keys.

use std::hint::black_box;

use sluice_event::{append, append_words};

/// Values under keys that are numbered as they come, from 0, and found again. Keys come from events, so that somebody might choose them to collide: that
/// slows down their own partition, whose calls have a time limit.
///
/// The standard table was a tenth of what a consumer with state costs in a sandbox: it compares keys by a call for each byte, and looks at four of its
/// entries at a time by instructions that WebAssembly does not have.
#[derive(Debug)]
pub(crate) struct Numbered<V> {
    /// The keys, one behind the other.
    bytes: Vec<u8>,
    /// By number. What is held of a key is in one place: fetching another from memory takes as long as a hundred instructions.
    entries: Vec<Entry<V>>,
    /// By the uppermost bits of the hash: its upper half, then a number and one; 0 where there is none. Their number is a power of two. At most half full;
    /// who finds a place taken looks at the next.
    places: Vec<u64>,
}

/// Begins where a line of a core's cache does: what is held of a key is mostly no longer than one.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Entry<V> {
    mark: Mark,
    value: V,
}

/// What a key is known by: all of a key of up to sixteen bytes.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The first eight bytes and the last eight, which may overlap, the first byte the lowest; where there are fewer, what there is.
    head: u64,
    tail: u64,
    len: u32,
    /// Where it begins among the bytes of all; of a key that is looked for, anything.
    begin: u32,
}

/// So many keys are looked for together.
pub(crate) const BLOCK: usize = 16;

/// The bits of a place that hold a number.
const NUMBER: u64 = u32::MAX as u64;

/// Bytes of a key that its mark holds.
const MARKED: usize = 16;

impl Mark {
    #[inline]
    fn of(key: &[u8]) -> Self {
        let (len, begin) = (key.len() as u32, 0);
        let (head, tail) = match (key.first_chunk(), key.last_chunk()) {
            (Some(head), Some(tail)) => (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)),
            _ => (key.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)), 0),
        };
        Self { head, tail, len, begin }
    }

    #[inline]
    fn is_alike(self, other: Self) -> bool {
        (self.head, self.tail, self.len) == (other.head, other.tail, other.len)
    }

    /// Hashes eight bytes at a time by a multiplication, as compilers do for their own tables. What changes in a word shows in the product's bits above it
    /// alone, and keys mostly differ in their last bytes, the uppermost of a word: only the product's uppermost bits depend on all of it.
    #[inline]
    fn hash(self, key: &[u8]) -> u64 {
        let add = |hash: u64, word: u64| (hash.rotate_left(26) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5);
        let hash = add(add(u64::from(self.len), self.head), self.tail);
        if key.len() <= MARKED {
            return hash;
        }
        between(key).iter().fold(hash, |hash, word| add(hash, u64::from_le_bytes(*word)))
    }
}

/// What a mark does not hold of a longer key, in words.
fn between(key: &[u8]) -> &[[u8; 8]] {
    key[8..].as_chunks().0
}

impl<V> Default for Numbered<V> {
    fn default() -> Self {
        Self { bytes: Vec::new(), entries: Vec::new(), places: Vec::new() }
    }
}

impl<V> Numbered<V> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The key of a number.
    pub(crate) fn key(&self, number: usize) -> &[u8] {
        let Mark { len, begin, .. } = self.entries[number].mark;
        &self.bytes[begin as usize..(begin + len) as usize]
    }

    /// Appends the key of a number. A short one stands beside what is held there: its bytes need not come from memory.
    #[inline]
    pub(crate) fn append_key(&self, number: usize, out: &mut Vec<u8>) {
        let Mark { head, tail, len, .. } = self.entries[number].mark;
        let Some(before_tail) = MARKED.checked_sub(len as usize) else { return append(out, self.key(number)) };
        // Of the tail, what is not in the head.
        let words = [head, tail.checked_shr(8 * before_tail as u32).unwrap_or(0)];
        let len = out.len() + len as usize;
        append_words(out, words);
        out.truncate(len);
    }

    /// What is held under the key of a number.
    #[inline]
    pub(crate) fn value(&mut self, number: usize) -> &mut V {
        &mut self.entries[number].value
    }

    /// The same, to look at.
    #[inline]
    pub(crate) fn held(&self, number: usize) -> &V {
        &self.entries[number].value
    }

    #[inline]
    fn has(&self, number: usize, mark: Mark, key: &[u8]) -> bool {
        self.entries.get(number).is_some_and(|entry| entry.mark.is_alike(mark))
            && (key.len() <= MARKED || between(self.key(number)) == between(key))
    }

    /// From a place on, the first that is taken by a key of this hash, as far as it tells, or by none.
    #[inline(always)]
    fn alike(&self, mut at: usize, hash: u64) -> usize {
        let mask = self.places.len() - 1;
        // Hardly ever are two keys alike by half of their hashes.
        while self.places[at] != 0 && (self.places[at] ^ hash) > NUMBER {
            at = (at + 1) & mask;
        }
        at
    }

    /// The number of a key, or the place where it is to stand, and what belongs there besides its number.
    fn place(&self, mark: Mark, key: &[u8]) -> Result<usize, (usize, u64)> {
        let hash = mark.hash(key);
        let mut at = self.home(hash);
        loop {
            at = self.alike(at, hash);
            if self.places[at] == 0 {
                return Err((at, hash & !NUMBER));
            }
            let number = (self.places[at] & NUMBER) as usize - 1;
            if self.has(number, mark, key) {
                return Ok(number);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    /// The number of a key, if it has one; first it is looked whether it is one of `likely`.
    #[inline]
    pub(crate) fn find(&self, likely: [u32; 2], key: &[u8]) -> Option<usize> {
        let mark = Mark::of(key);
        for number in likely {
            if self.has(number as usize, mark, key) {
                return Some(number as usize);
            }
        }
        if self.places.is_empty() { None } else { self.place(mark, key).ok() }
    }

    /// Brings near what is held under some numbers: fetching it from memory takes as long as a hundred instructions, and here none waits for the one before.
    #[inline]
    pub(crate) fn bring(&self, numbers: &[u32]) {
        let entries = numbers.iter().filter_map(|number| self.entries.get(*number as usize));
        black_box(entries.fold(0, |all, entry| all ^ entry.mark.len));
    }

    /// The likely numbers of several keys, and what is held there brought near.
    pub(crate) fn expect(&self, keys: &[&[u8]; BLOCK]) -> [u32; BLOCK] {
        if self.places.is_empty() {
            return [0; BLOCK];
        }
        let hashes = keys.map(|key| Mark::of(key).hash(key));
        // Before any of them is looked at: what comes next depends on what stands there, and who waits for that waits for each alone.
        let places = hashes.iter().filter_map(|hash| self.places.get(self.home(*hash)));
        black_box(places.fold(0, |all, place| all ^ place));
        let numbers = hashes.map(|hash| (self.places[self.alike(self.home(hash), hash)] as u32).wrapping_sub(1));
        self.bring(&numbers);
        numbers
    }

    /// The number of a key, and whether it is new: then this value is held there.
    pub(crate) fn number(&mut self, key: &[u8], value: V) -> (usize, bool) {
        if 2 * (self.entries.len() + 1) > self.places.len() {
            self.grow();
        }
        let mark = Mark::of(key);
        match self.place(mark, key) {
            Ok(number) => (number, false),
            Err((place, hash)) => {
                let number = self.entries.len();
                self.entries.push(Entry { mark: Mark { begin: self.bytes.len() as u32, ..mark }, value });
                self.bytes.extend_from_slice(key);
                self.places[place] = hash | (number as u64 + 1);
                (number, true)
            }
        }
    }

    /// Where a key of this hash stands, if nothing else does.
    fn home(&self, hash: u64) -> usize {
        (hash >> (u64::BITS - self.places.len().trailing_zeros())) as usize
    }

    fn grow(&mut self) {
        self.places = vec![0; (4 * self.entries.len()).next_power_of_two().max(64)];
        for (number, entry) in self.entries.iter().enumerate() {
            if let Err((place, hash)) = self.place(entry.mark, self.key(number)) {
                self.places[place] = hash | (number as u64 + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_alike_stand_apart() {
        let kinds: [fn(u64) -> Vec<u8>; 4] = [
            |n| format!("user-{n:05}").into_bytes(),
            |n| n.to_be_bytes().to_vec(),
            |n| n.to_string().into_bytes(),
            |n| format!("customers/of/the/north/{n:07}/orders").into_bytes(),
        ];
        for (kind, key) in kinds.into_iter().enumerate() {
            let mut numbers = Numbered::default();
            for n in 0..10_000 {
                numbers.number(&key(n), ());
            }
            let steps = |(at, place): (usize, &u64)| {
                let found = (place & u64::from(u32::MAX)) as usize;
                let key = (found > 0).then(|| numbers.key(found - 1))?;
                Some(at.wrapping_sub(numbers.home(Mark::of(key).hash(key))) & (numbers.places.len() - 1))
            };
            let steps: Vec<usize> = numbers.places.iter().enumerate().filter_map(steps).collect();
            let all: usize = steps.iter().sum();
            assert_eq!(steps.len(), 10_000);
            // By chance alone, a third of a step each.
            assert!(all < 10_000, "kind {kind}: {all} steps beyond the first for 10,000 keys");
        }
    }

    #[test]
    fn each_key_has_a_number_and_keeps_it() {
        let keys: Vec<Vec<u8>> = (0..3000_u32).map(|n| n.to_string().repeat(n as usize % 4).into_bytes()).collect();
        let (mut numbers, mut known) = (Numbered::default(), Vec::<Vec<u8>>::new());
        for key in keys.iter().chain([b"user-00001".to_vec(), b"user-00002".to_vec(), b"vser-00001".to_vec()].iter()) {
            let expected = known.iter().position(|other| other == key);
            assert_eq!(numbers.find([0; 2], key), expected);
            let (number, is_new) = numbers.number(key, ());
            assert_eq!((number, is_new), (expected.unwrap_or(known.len()), expected.is_none()));
            known.extend(is_new.then(|| key.clone()));
        }
        for (number, key) in known.iter().enumerate() {
            for likely in [[3, number], [number, 3], [known.len(); 2]] {
                assert_eq!(
                    (numbers.find(likely.map(|number| number as u32), key), numbers.key(number)),
                    (Some(number), &key[..])
                );
                let mut appended = b"before".to_vec();
                numbers.append_key(number, &mut appended);
                assert_eq!(appended, [b"before", &key[..]].concat());
            }
        }
    }
}
