//! Wakes those who wait for events of a topic, and nobody else: there may be thousands who follow something else.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_log::{Log, TopicPartition};
use tokio::sync::watch;

/// Whom to tell of appends, by the topic's id.
#[derive(Clone, Default)]
pub(crate) struct Appended(Arc<Mutex<HashMap<u32, watch::Sender<u64>>>>);

impl Appended {
    /// Has a log tell of what is appended.
    pub(crate) fn of(log: &Log) -> Self {
        let own = Self::default();
        let told = own.clone();
        log.on_append(move |touched| told.tell(touched));
        own
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<u32, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, touched: &[TopicPartition]) {
        let mut topics = self.topics();
        if touched.is_empty() {
            // An order: a topic may be gone. Topics that nobody waits for any more need no entry.
            topics.retain(|_, changed| changed.receiver_count() > 0);
            return topics.values().for_each(|changed| changed.send_modify(|count| *count += 1));
        }
        let ids: BTreeSet<u32> = touched.iter().map(|tp| tp.topic).collect();
        for changed in ids.iter().filter_map(|id| topics.get(id)) {
            changed.send_modify(|count| *count += 1);
        }
    }

    /// Changes whenever something was appended to a topic, or an order was given.
    pub(crate) fn to(&self, topic: u32) -> watch::Receiver<u64> {
        self.topics().entry(topic).or_insert_with(|| watch::channel(0).0).subscribe()
    }
}
