//! What the runtime needs of a file system, and what it may rely on.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It must be there; it is only read.
    Read,
    /// It must be there; it is read and written.
    Write,
    /// It must not be there; it is made, empty, to be read and written.
    Create,
}

/// Something that is done beside other things.
pub type Work = Box<dyn FnOnce() + Send>;

/// Does some work, unless that was done.
pub(crate) fn do_once(work: &Mutex<Option<Work>>) {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    work.into_iter().for_each(|work| work());
}

/// Waits until some [`Work`] is done. Who drops it does not wait.
pub type Wait = Box<dyn FnOnce() + Send>;

/// A file system.
///
/// An implementation owes its callers what POSIX and no more than POSIX promises: what was written is there after a power
/// cut only if the file was synced since; a name that was made, renamed or removed is so after a power cut only if its
/// directory was synced since; until then each may or may not have happened, whole or torn.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory and those above it; no error when it is there. Not durable before its parent is synced.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Opens or makes a file. A file made is not durable before its directory is synced.
    ///
    /// # Errors
    /// As the operating system says; `AlreadyExists` and `NotFound` where [`Open`] asks otherwise.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// The names in a directory, sorted; empty when there is no such directory.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Gives a file a new name in one step, replacing what had it.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; no error when it is gone already.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The same of a large file, whose space is given back in a while: that takes long, and nobody waits for it.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove_aside(&self, path: &Path) -> io::Result<()> {
        self.remove(path)
    }

    /// Removes an empty directory; no error when it is gone already.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes the lock that the file at `path` stands for, making it where it is missing; dropping the result, or the end
    /// of the process, gives it back.
    ///
    /// # Errors
    /// `WouldBlock` while another process has it; otherwise as the operating system says.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system says; never retry, the names may be lost.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Syncs several files at once; returns when all are durable.
    ///
    /// # Errors
    /// When any of them could not be synced; never retry, its data may be lost.
    fn sync_files(&self, files: &[Arc<dyn File>]) -> io::Result<()>;

    /// Has work on files done beside what its caller does, who goes on at once.
    fn aside(&self, name: &str, work: Work) -> Wait;
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "a file's length is asked of the disk, and may fail")]
pub trait File: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buffer` from the bytes at `offset` and returns how many there were; fewer only at the end of the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Like [`read_at`](Self::read_at), but from the device where that can be had, past what is cached of it.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_device_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all parts, one behind the other, from `offset` on. After an error any prefix may have been written.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes what was written durable (`fdatasync`).
    ///
    /// # Errors
    /// As the operating system says; never retry, the data may be lost.
    fn sync(&self) -> io::Result<()>;

    /// Has the device begin to write what was written, and does not wait. Nothing is durable by that, and a failure is told by the next
    /// [`sync`](Self::sync), which has less to do.
    fn begin_sync(&self) {}

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Drops what the operating system has cached of the file and need not write any more. After a failed sync the cache
    /// may hold bytes that the disk does not, and no later sync will say so.
    ///
    /// # Errors
    /// As the operating system says.
    fn forget_cache(&self) -> io::Result<()>;
}
