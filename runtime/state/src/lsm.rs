//! A store on disk: an LSM tree, whose files never change once they are written.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard};

use crate::key::end_of;
use crate::store::{Error, Store, Writes};

/// Table files are about this large: what a checkpoint keeps alive beside the live store is whole tables.
const TABLE_BYTES: u64 = 16 << 20;
/// Cached blocks of all stores of a node together.
const CACHE_BYTES: u64 = 64 << 20;
/// Files that all stores of a node keep open together.
const OPEN_FILES: usize = 512;
/// Reads see everything that was written.
const NEWEST: u64 = u64::MAX >> 1;

/// Memory and files that all stores of a node share.
#[derive(Clone)]
pub struct StoreCache {
    blocks: Arc<Cache>,
    files: Arc<DescriptorTable>,
}

impl Default for StoreCache {
    fn default() -> Self {
        let blocks = Arc::new(Cache::with_capacity_bytes(CACHE_BYTES));
        Self { blocks, files: Arc::new(DescriptorTable::new(OPEN_FILES)) }
    }
}

/// A store in a folder.
pub struct LsmStore {
    path: PathBuf,
    tree: AnyTree,
    /// Held while files come and go; the number of the next write.
    writing: Mutex<u64>,
}

impl LsmStore {
    /// Opens the store in a folder, or makes one there.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn open(path: &Path, cache: &StoreCache) -> Result<Self, Error> {
        let config =
            Config::new(path, lsm_tree::SequenceNumberCounter::default(), lsm_tree::SequenceNumberCounter::default())
                .use_cache(cache.blocks.clone())
                .use_descriptor_table(Some(cache.files.clone()));
        let tree = config.open().map_err(|error| failed(path, &error))?;
        let writing = Mutex::new(tree.get_highest_seqno().map_or(1, |number| number + 1));
        Ok(Self { path: path.to_owned(), tree, writing })
    }

    /// Makes a store of its own of a snapshot, in a folder that is not there.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
        link_files_whole(from, to).map_err(|error| failed(to, &error))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        failed(&self.path, error)
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Store { path: path.to_owned(), reason: error.to_string() }
}

impl Store for LsmStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.tree.get(key, NEWEST).map_err(|error| self.failed(&error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], end: Option<&[u8]>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        let end = end.map_or_else(|| end_of(&[u8::MAX - 1]).unwrap_or_default(), <[u8]>::to_vec);
        for entry in self.tree.range(from.to_vec()..end, NEWEST, None) {
            let (key, value) = entry.into_inner().map_err(|error| self.failed(&error))?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, writes: Writes<'_>) -> Result<(), Error> {
        let mut number = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => self.tree.insert(key, value, *number),
                None => self.tree.remove(key, *number),
            };
        }
        *number += 1;
        // One memtable is one flush: its tables are there, all of them, once the manifest names them.
        self.tree.rotate_memtable();
        self.tree.flush(&self.tree.get_flush_lock(), *number).map_err(|error| self.failed(&error))?;
        let strategy = Leveled::default().with_table_target_size(TABLE_BYTES);
        self.tree.compact(Arc::new(strategy), *number).map_err(|error| self.failed(&error))
    }

    fn snapshot(&self, to: &Path) -> Result<(), Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        link_files_whole(&self.path, to).map_err(|error| failed(to, &error))
    }
}

/// The same as [`link_files`], under another name first: a folder that is there is whole.
#[expect(clippy::disallowed_methods, reason = "a store's folder, no part of the log")]
fn link_files_whole(from: &Path, to: &Path) -> std::io::Result<()> {
    let partial = to.with_added_extension("partial");
    let made = link_files(from, &partial)
        .and_then(|()| if to.exists() { std::fs::remove_dir_all(to) } else { Ok(()) })
        .and_then(|()| std::fs::rename(&partial, to))
        .and_then(|()| sync_folder(to.parent().unwrap_or(to)));
    made.inspect_err(|_| drop(std::fs::remove_dir_all(&partial)))
}

/// Links every file of a folder, and of those in it, into a new one.
fn link_files(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_files(&entry.path(), &to)?;
        } else {
            std::fs::hard_link(entry.path(), to)?;
        }
    }
    sync_folder(to)
}

#[expect(clippy::disallowed_methods, reason = "a store's folder, no part of the log")]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}
