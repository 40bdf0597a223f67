//! What a consumer sees of the state: that of its own stage and partition.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::key::{full_key, prefix_of, space_of};
use crate::layer::Change;
use crate::partition::{Flush, PartitionState, Slot};
use crate::store::Error;

/// A partition's state, shared by the lane that changes it, consumers that read it, and queries.
#[derive(Clone)]
pub struct SharedState(Arc<Inner>);

struct Inner {
    state: Mutex<PartitionState>,
    moved: Condvar,
    /// Wakes the lane, which may wait for a flush.
    waker: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl SharedState {
    /// Shares a state.
    pub fn new(state: PartitionState) -> Self {
        Self(Arc::new(Inner { state: Mutex::new(state), moved: Condvar::new(), waker: Mutex::default() }))
    }

    /// Has this called, from any thread, when a flush is done.
    pub fn wake_with(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// Writes to the store what was taken out of memory for it, and tells whoever waits for that.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn run(&self, flush: &Flush) -> Result<(), Error> {
        let result = flush.run();
        self.lock().flushed(flush, result.clone());
        self.moved();
        self.wake();
        result
    }

    /// The state itself, while nobody else has it.
    pub fn lock(&self) -> MutexGuard<'_, PartitionState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state while its store is not in use.
    fn lock_unflushing(&self) -> MutexGuard<'_, PartitionState> {
        let flushing =
            |state: &mut PartitionState| (state.is_flushing() && state.failure().is_none()) || state.is_copied();
        self.0.moved.wait_while(self.lock(), flushing).unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the store, unless that is in use; the state must be replaced before it is used again.
    pub fn close(&self) -> bool {
        let mut state = self.lock();
        let free = !state.is_flushing() && !state.is_copied();
        if free {
            state.close();
        }
        free
    }

    /// Makes a snapshot of the store, with all that is committed by now.
    ///
    /// # Errors
    /// When the store cannot be written, or the snapshot not be made.
    pub fn snapshot(&self, to: &Path) -> Result<(), Error> {
        let (flush, store) = {
            let mut state = self.lock_unflushing();
            state.set_copied(true);
            (state.start_flush(), state.store())
        };
        let made = flush.map_or(Ok(()), |flush| self.run(&flush)).and_then(|()| store.snapshot(to));
        self.lock().set_copied(false);
        drop(store);
        self.moved();
        self.wake();
        made
    }

    fn wake(&self) {
        let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waker.into_iter().for_each(|wake| wake());
    }

    /// Takes another state in its place.
    pub fn replace(&self, state: PartitionState) {
        *self.lock() = state;
    }

    /// Says that it has come further.
    pub fn moved(&self) {
        self.0.moved.notify_all();
    }

    /// The state once it has come to this offset of its changelog, or as it is after so long.
    pub fn lock_at(&self, offset: u64, patience: Duration) -> MutexGuard<'_, PartitionState> {
        let behind = |state: &mut PartitionState| state.applied().offset < offset;
        self.0.moved.wait_timeout_while(self.lock(), patience, behind).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The part that belongs to a stage, in version 0.
    pub fn stage(&self, name: &str) -> StageState {
        StageState { shared: self.clone(), name: name.into(), prefix: prefix_of(name) }
    }
}

/// Keys, in their order, with what stands under them.
pub type Entries = Vec<(Vec<u8>, Slot)>;

/// The part of a partition's state that belongs to one stage, as its consumer reads it: attempts in flight included.
#[derive(Clone)]
pub struct StageState {
    shared: SharedState,
    name: Arc<str>,
    prefix: Vec<u8>,
}

impl StageState {
    /// The same stage's, of this version.
    #[must_use]
    pub fn of_version(&self, version: u32) -> Self {
        let (shared, name) = (self.shared.clone(), self.name.clone());
        Self { prefix: prefix_of(&space_of(&name, version)), shared, name }
    }

    /// What stands under a key. What has expired is not there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, Error> {
        self.shared.lock().get(&full_key(&self.prefix, key))
    }

    /// Entries whose keys begin with `prefix`, behind `after`, in the order of keys: at most `limit` of them, and `max_bytes` of keys and
    /// values but for a single larger entry. Whether these are all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Entries, bool), Error> {
        let (mut found, mut bytes, mut all) = (Vec::new(), 0, true);
        if limit == 0 {
            return Ok((found, false));
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
            all = fits && found.len() < limit;
            all
        })?;
        Ok((found, all))
    }
}
