//! Which partition of a sink an event goes to.

/// How a sink spreads its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionBy {
    /// By the hash of the key, as Kafka's default partitioner does it; without a key, by the source partition.
    Key,
    /// One after the other, by source offset, so that a replay chooses the same.
    RoundRobin,
    /// The source partition's number, modulo the sink's partitions.
    Source,
}

impl PartitionBy {
    /// The partition for an event, of `partitions` there are.
    #[inline]
    pub fn partition(
        self,
        key: Option<&[u8]>,
        source_partition: u32,
        offset: u64,
        ordinal: u32,
        partitions: u32,
    ) -> u32 {
        if partitions == 1 {
            return 0;
        }
        match (self, key) {
            (Self::Key, Some(key)) => (murmur2(key) & 0x7fff_ffff) % partitions,
            (Self::Key, None) | (Self::Source, _) => source_partition % partitions,
            (Self::RoundRobin, _) => ((offset + u64::from(ordinal)) % u64::from(partitions)) as u32,
        }
    }
}

/// MurmurHash2 (Austin Appleby, public domain) with the seed and the tail order of Kafka's `Utils.murmur2`, so that the
/// same key has the same partition on Kafka.
#[inline]
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !tail.is_empty() {
        let mut word = [0; 4];
        word[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(word)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafka() {
        // From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn keyless_events_follow_their_source() {
        assert_eq!(PartitionBy::Key.partition(None, 6, 9, 0, 4), 2);
        assert_eq!(PartitionBy::RoundRobin.partition(Some(b"k"), 6, 9, 1, 4), 2);
    }
}
