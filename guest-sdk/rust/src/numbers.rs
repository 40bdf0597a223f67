//! Numbers for keys, in an instance.

/// Numbers keys as they come, from 0, and finds them again. Keys come from events, so that somebody might choose them to collide: that slows down
/// their own partition, whose calls have a time limit.
///
/// The standard table was a tenth of what a consumer with state costs in a sandbox: it compares keys by a call for each byte, and looks at four of its
/// entries at a time by instructions that WebAssembly does not have.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The keys, one behind the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// By hash, modulo the length, which is a power of two: the upper half of the hash, then a number and one; 0 where there is none. At most half full;
    /// who finds a place taken looks at the next.
    places: Vec<u64>,
}

/// Hashes eight bytes at a time by a multiplication, as compilers do for their own tables.
fn hash(key: &[u8]) -> u64 {
    let add = |hash: u64, word: u64| (hash.rotate_left(26) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5);
    let last = |hash| add(hash, tail(key) ^ ((key.len() as u64) << 56));
    let hash = last(key.as_chunks::<8>().0.iter().fold(0, |hash, word| add(hash, u64::from_le_bytes(*word))));
    // Its upper bits are the best.
    hash ^ (hash >> 32)
}

/// The last eight bytes or, where there are fewer, what there is.
fn tail(bytes: &[u8]) -> u64 {
    match bytes.last_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => bytes.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
    }
}

/// Whether two keys are the same.
fn same(a: &[u8], b: &[u8]) -> bool {
    let words = || a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    // Keys that are alike mostly differ in the end.
    a.len() == b.len() && tail(a) == tail(b) && words().all(|(a, b)| u64::from_le_bytes(*a) == u64::from_le_bytes(*b))
}

impl Numbers {
    /// The key of a number.
    pub(crate) fn get(&self, number: usize) -> &[u8] {
        let begin = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.bytes[begin as usize..self.ends[number] as usize]
    }

    /// Whether a number is that of a key.
    pub(crate) fn is(&self, number: usize, key: &[u8]) -> bool {
        number < self.ends.len() && same(self.get(number), key)
    }

    /// The number of a key, or the place where it is to stand, and what belongs there besides its number.
    fn place(&self, key: &[u8]) -> Result<usize, (usize, u64)> {
        const NUMBER: u64 = u32::MAX as u64;
        let (mask, hash) = (self.places.len() - 1, hash(key));
        let mut at = hash as usize & mask;
        loop {
            let place = self.places[at];
            if place == 0 {
                return Err((at, hash & !NUMBER));
            }
            // Hardly ever are two keys alike by half of their hashes.
            let number = (place & NUMBER) as usize;
            if (place ^ hash) <= NUMBER && self.is(number - 1, key) {
                return Ok(number - 1);
            }
            at = (at + 1) & mask;
        }
    }

    /// The number of a key, if it has one.
    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        if self.places.is_empty() { None } else { self.place(key).ok() }
    }

    /// The number of a key, and whether it is new.
    pub(crate) fn number(&mut self, key: &[u8]) -> (u32, bool) {
        if 2 * (self.ends.len() + 1) > self.places.len() {
            self.grow();
        }
        match self.place(key) {
            Ok(number) => (number as u32, false),
            Err((place, hash)) => {
                let number = self.ends.len() as u32;
                self.bytes.extend_from_slice(key);
                self.ends.push(self.bytes.len() as u32);
                self.places[place] = hash | u64::from(number + 1);
                (number, true)
            }
        }
    }

    fn grow(&mut self) {
        self.places = vec![0; (4 * self.ends.len()).next_power_of_two().max(64)];
        for number in 0..self.ends.len() {
            if let Err((place, hash)) = self.place(self.get(number)) {
                self.places[place] = hash | (number as u64 + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_number_and_keeps_it() {
        let keys: Vec<Vec<u8>> = (0..3000_u32).map(|n| n.to_string().repeat(n as usize % 4).into_bytes()).collect();
        let (mut numbers, mut known) = (Numbers::default(), Vec::<Vec<u8>>::new());
        for key in keys.iter().chain([b"user-00001".to_vec(), b"user-00002".to_vec(), b"vser-00001".to_vec()].iter()) {
            let expected = known.iter().position(|other| other == key);
            assert_eq!(numbers.find(key), expected);
            let (number, is_new) = numbers.number(key);
            assert_eq!((number as usize, is_new), (expected.unwrap_or(known.len()), expected.is_none()));
            known.extend(is_new.then(|| key.clone()));
        }
        for (number, key) in known.iter().enumerate() {
            assert_eq!(
                (numbers.find(key), numbers.get(number), numbers.is(number, key)),
                (Some(number), &key[..], true)
            );
        }
        assert!(!numbers.is(known.len(), b"x"));
    }
}
