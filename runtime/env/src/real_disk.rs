//! The operating system's file system.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{Advice, Mode, OFlags};

use crate::disk::{Disk, File, Open, Wait, Work, do_once};

/// Alignment that every device of today accepts for direct reads.
const DIRECT: usize = 4096;
/// Bytes read from the device at once.
const DIRECT_CHUNK: usize = 1 << 20;

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(how != Open::Read).create_new(how == Open::Create);
        Ok(Arc::new(RealFile { file: options.open(path)?, path: path.to_owned() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn remove_aside(&self, path: &Path) -> io::Result<()> {
        // Its space is given back by whoever closes it last.
        let open = fs::File::open(path);
        self.remove(path)?;
        if let Ok(file) = open {
            drop(self.aside("sluice-remove", Box::new(move || drop(file))));
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = fs::File::options().create(true).truncate(false).write(true).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn sync_files(&self, files: &[Arc<dyn File>]) -> io::Result<()> {
        let Some((last, others)) = files.split_last() else { return Ok(()) };
        // Files on one journal gain little from more than a few syncs at once.
        const AT_ONCE: usize = 8;
        std::thread::scope(|scope| {
            let share = others.len().div_ceil(AT_ONCE).max(1);
            let helpers: Vec<_> = others
                .chunks(share)
                .map(|files| scope.spawn(move || files.iter().try_for_each(|file| file.sync())))
                .collect();
            let own = last.sync();
            let died = || Err(io::Error::other("a thread that synced a file died"));
            helpers.into_iter().fold(own, |result, helper| result.and(helper.join().unwrap_or_else(|_| died())))
        })
    }

    fn aside(&self, name: &str, work: Work) -> Wait {
        let work = Arc::new(Mutex::new(Some(work)));
        let own = work.clone();
        match crate::spawn(name, move || do_once(&own)) {
            Ok(thread) => Box::new(move || drop(thread.join())),
            // Without a thread it is done here.
            Err(_) => {
                do_once(&work);
                Box::new(|| {})
            }
        }
    }
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(self.file.as_fd(), buffer, offset)
    }

    fn read_device_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // File systems without direct reads (tmpfs, some overlays) refuse the open or the read: their cache is all there is.
        match rustix::fs::open(&self.path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()) {
            Ok(direct) => match read_direct(direct.as_fd(), buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.read_at(buffer, offset),
                // A direct read may end early for other reasons than the end of the file: the cache has the last word on that.
                Ok(done) if done < buffer.len() => Ok(done + self.read_at(&mut buffer[done..], offset + done as u64)?),
                result => result,
            },
            Err(_) => self.read_at(buffer, offset),
        }
    }

    fn write_at(&self, parts: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut parts = parts.to_vec();
        let mut left = &mut parts[..];
        // Empty parts at the front would look like a write that gets nowhere.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let batch = &left[..left.len().min(1024)]; // IOV_MAX
            match rustix::io::pwritev(&self.file, batch, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut left, written);
                    offset += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    #[expect(unsafe_code, reason = "a system call that no safe crate has")]
    fn begin_sync(&self) {
        // SAFETY: it takes an open file and numbers, and no memory. What it answers says nothing that the next sync does not say.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn forget_cache(&self) -> io::Result<()> {
        match rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            // A file system without a cache of its own has nothing to forget.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Reads through an aligned buffer, for direct reads want offset, length and memory aligned.
fn read_direct(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut bounce = vec![0; DIRECT_CHUNK + DIRECT];
    let aligned = bounce.as_ptr().align_offset(DIRECT);
    let bounce = &mut bounce[aligned..aligned + DIRECT_CHUNK];
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let skip = (at % DIRECT as u64) as usize;
        let want = (skip + buffer.len() - done).next_multiple_of(DIRECT).min(DIRECT_CHUNK);
        let read = read_full_direct(file, &mut bounce[..want], at - skip as u64)?;
        let usable = read.saturating_sub(skip).min(buffer.len() - done);
        buffer[done..done + usable].copy_from_slice(&bounce[skip..skip + usable]);
        done += usable;
        if read < want {
            break;
        }
    }
    Ok(done)
}

/// One direct read; after a short one it cannot go on, for that would be unaligned.
fn read_full_direct(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pread(file, &mut *buffer, offset) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
