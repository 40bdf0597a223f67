//! What keeps state beyond memory.

use std::path::{Path, PathBuf};

/// Why a store does not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// What the disk or the store says. Start again: the state is made anew from the changelog, where that reaches back.
    #[error("state store {}: {reason}", path.display())]
    Store {
        /// The store's folder.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
    /// The pipeline was rewound, and its state is not there yet: ask again. `status` tells when it cannot be made.
    #[error("the state is being brought up: ask again")]
    Closed,
    /// The changelog holds what is no delta.
    #[error("changelog offset {offset}: {reason}")]
    Changelog {
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// The store of a state that is being brought up: nothing can be had of it.
pub(crate) struct Closed;

impl Closed {
    fn refuse<T>() -> Result<T, Error> {
        Err(Error::Closed)
    }
}

impl Store for Closed {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Self::refuse()
    }

    fn scan(&self, _: &[u8], _: Option<&[u8]>, _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        Self::refuse()
    }

    fn write(&self, _: Writes<'_>) -> Result<(), Error> {
        Self::refuse()
    }

    fn snapshot(&self, _: &Path) -> Result<(), Error> {
        Self::refuse()
    }
}

/// Keys in their order, each with its value or, where it is deleted, none.
pub type Writes<'a> = &'a mut dyn Iterator<Item = (&'a [u8], Option<Vec<u8>>)>;

/// An ordered map that survives a crash.
///
/// What an implementer owes: [`write`](Self::write) makes all or nothing of it true, durably, before it returns, and readers go on meanwhile. A
/// [`snapshot`](Self::snapshot) takes time by the number of files, not by their size, and is a store of its own: nothing that happens to either
/// is seen by the other.
pub trait Store: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Visits entries from `from` on, in the order of keys, until `visit` says false or `end` is reached.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(&self, from: &[u8], end: Option<&[u8]>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error>;

    /// Writes, in the order of keys.
    ///
    /// # Errors
    /// When the store cannot be written; it must not be used any more.
    fn write(&self, writes: Writes<'_>) -> Result<(), Error>;

    /// Makes a store of its own of what was written so far, in a folder that is not there yet.
    ///
    /// # Errors
    /// When that cannot be made.
    fn snapshot(&self, to: &Path) -> Result<(), Error>;
}
