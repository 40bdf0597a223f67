//! Producers that count what they send, so that what is sent again adds nothing.

use std::collections::BTreeMap;

use super::ProducerInfo;
use crate::options::{ONCE_AGE_MS, PRODUCER_AGE_MS};

/// What the names of those begin with that send once only: a request with a key of its own.
pub(crate) const ONCE: &str = "idempotency-key:";

/// The producer's name and the topic's id.
pub(crate) type Key = (String, u32);
type Kept = BTreeMap<Key, ProducerInfo>;

/// Those who come again and again, and those who send once, which are many more and are forgotten sooner: they must not push the others out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    lasting: Kept,
    once: Kept,
}

impl Producers {
    /// Those of a producer's kind.
    pub(crate) fn like(&self, name: &str) -> &Kept {
        if name.starts_with(ONCE) { &self.once } else { &self.lasting }
    }

    fn like_mut(&mut self, name: &str) -> &mut Kept {
        if name.starts_with(ONCE) { &mut self.once } else { &mut self.lasting }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&ProducerInfo> {
        self.like(&key.0).get(key)
    }

    /// What is known of a producer from now on, if anything; what was before.
    pub(crate) fn set(&mut self, key: Key, info: Option<ProducerInfo>) -> Option<ProducerInfo> {
        let kept = self.like_mut(&key.0);
        match info {
            Some(info) => kept.insert(key, info),
            None => kept.remove(&key),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &ProducerInfo)> {
        self.lasting.iter().chain(&self.once)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lasting.is_empty() && self.once.is_empty()
    }

    /// Those to forget by now.
    pub(crate) fn silent(&self, now: i64) -> impl Iterator<Item = &Key> {
        let of = |kept, age| {
            let silent = move |(_, info): &(&Key, &ProducerInfo)| now.saturating_sub(info.time) > age;
            Kept::iter(kept).filter(silent).map(|(key, _)| key)
        };
        of(&self.lasting, PRODUCER_AGE_MS).chain(of(&self.once, ONCE_AGE_MS))
    }

    /// Forgets all of a topic, and returns them.
    pub(crate) fn forget_topic(&mut self, id: u32) -> Vec<(Key, ProducerInfo)> {
        let gone = self.lasting.extract_if(.., |(_, topic), _| *topic == id);
        let mut gone: Vec<_> = gone.collect();
        gone.extend(self.once.extract_if(.., |(_, topic), _| *topic == id));
        gone
    }
}
