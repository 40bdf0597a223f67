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
    /// The changelog holds what is no delta.
    #[error("changelog offset {offset}: {reason}")]
    Changelog {
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
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
