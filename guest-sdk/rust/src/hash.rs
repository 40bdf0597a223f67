//! A hasher for keys in an instance.

use std::hash::{BuildHasher, Hasher};

/// Hashes eight bytes at a time by a multiplication, as compilers do for their own tables. Keys come from events, so that somebody might choose
/// them to collide: that slows down their own partition, whose calls have a time limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FastHasher;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash(u64);

impl BuildHasher for FastHasher {
    type Hasher = Hash;

    fn build_hasher(&self) -> Hash {
        Hash(0)
    }
}

impl Hash {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5);
    }
}

impl Hasher for Hash {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn finish(&self) -> u64 {
        // The table takes its bits from both ends.
        self.0 ^ (self.0 >> 32)
    }
}
