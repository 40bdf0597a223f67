//! A store that is gone with its process: for fixtures and simulations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use crate::store::{Error, Store, Writes};

/// A map in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], end: Option<&[u8]>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let range = (Bound::Included(from), end.map_or(Bound::Unbounded, Bound::Excluded));
        let _ = map.range::<[u8], _>(range).all(|(key, value)| visit(key, value));
        Ok(())
    }

    fn write(&self, writes: Writes<'_>) -> Result<(), Error> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key.to_vec(), value),
                None => map.remove(key),
            };
        }
        Ok(())
    }

    fn snapshot(&self, to: &Path) -> Result<(), Error> {
        Err(Error::Store { path: to.to_owned(), reason: "a store in memory has no snapshots".into() })
    }
}
