//! What a consumer sees of the state: that of its own stage and partition.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::key::{full_key, prefix_of};
use crate::layer::Change;
use crate::partition::{PartitionState, Slot};
use crate::store::Error;

/// A partition's state, shared by the lane that changes it, consumers that read it, and queries.
#[derive(Clone)]
pub struct SharedState(Arc<(Mutex<PartitionState>, Condvar)>);

impl SharedState {
    /// Shares a state.
    pub fn new(state: PartitionState) -> Self {
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    /// The state itself, while nobody else has it.
    pub fn lock(&self) -> MutexGuard<'_, PartitionState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state while nothing of it is being written to its store.
    pub fn lock_unflushing(&self) -> MutexGuard<'_, PartitionState> {
        let flushing = |state: &mut PartitionState| state.is_flushing() && state.failure().is_none();
        self.0.1.wait_while(self.lock(), flushing).unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the store; the state must be replaced before it is used again.
    pub fn close(&self) {
        self.lock().close();
    }

    /// Takes another state in its place.
    pub fn replace(&self, state: PartitionState) {
        *self.lock() = state;
    }

    /// Says that it has come further.
    pub fn moved(&self) {
        self.0.1.notify_all();
    }

    /// The state once it has come to this offset of its changelog, or as it is after so long.
    pub fn lock_at(&self, offset: u64, patience: Duration) -> MutexGuard<'_, PartitionState> {
        let behind = |state: &mut PartitionState| state.applied().offset < offset;
        self.0.1.wait_timeout_while(self.lock(), patience, behind).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The part that belongs to a stage.
    pub fn stage(&self, name: &str) -> StageState {
        StageState { shared: self.clone(), prefix: prefix_of(name) }
    }
}

/// The part of a partition's state that belongs to one stage, as its consumer reads it: attempts in flight included.
#[derive(Clone)]
pub struct StageState {
    shared: SharedState,
    prefix: Vec<u8>,
}

impl StageState {
    /// What stands under a key. What has expired is not there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, Error> {
        self.shared.lock().get(&full_key(&self.prefix, key))
    }

    /// Entries whose keys begin with `prefix`, behind `after`, in the order of keys: at most `limit` of them, and `max_bytes` of keys and
    /// values but for a single larger entry.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Vec<u8>, Slot)>, Error> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        if limit == 0 {
            return Ok(found);
        }
        // Behind a key is what begins with it and goes on.
        let from = after.map_or_else(Vec::new, |after| [&self.prefix[..], after, &[0]].concat());
        let whole = full_key(&self.prefix, prefix);
        self.shared.lock().scan(&whole, &from, true, &mut |Change { key, value, expires }| {
            let own = &key[self.prefix.len()..];
            bytes += own.len() + value.map_or(0, <[u8]>::len);
            let fits = found.is_empty() || bytes <= max_bytes;
            if fits {
                found.push((own.to_vec(), Slot { value: value.map(<[u8]>::to_vec), expires }));
            }
            fits && found.len() < limit
        })?;
        Ok(found)
    }
}
