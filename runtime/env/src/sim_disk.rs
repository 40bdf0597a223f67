//! A file system in memory that can crash, tear, lose, fail and fill up, the same way for the same seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::disk::{Disk, File, Open, Wait, Work, do_once};
use crate::rng::Rng;

/// Bytes that a device writes whole or not at all.
const SECTOR: usize = 512;

/// What is left after the machine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process died; what it had written is still cached.
    Process,
    /// The power went: of what was not synced, anything may be there, torn within a write and within a sector's bytes.
    Power,
}

/// A simulated disk. Clones are the same disk.
///
/// Every operation that changes something is a *step*; [`crash_at`](Self::crash_at) stops the world at one of them, and
/// [`after_crash`](Self::after_crash) gives a disk as it would be found then.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    inodes: Vec<Inode>,
    /// Names as the running system sees them; the values index `inodes`.
    names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    /// Names as a power cut is sure to leave them.
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since their directory was synced.
    renames: Vec<NameChange>,
    steps: u64,
    crash_at: Option<u64>,
    crashed: bool,
    fail_sync_at: Option<u64>,
    dies_of_failed_sync: bool,
    syncs: u64,
    capacity: Option<usize>,
    refuses_cuts: bool,
    /// Work that is done aside begins so many steps after it was given.
    aside_after: u64,
    /// What was given, with the step from which on it is done. It goes with those who wait for it, as threads go with their process.
    aside: VecDeque<(u64, Weak<Mutex<Option<Work>>>)>,
}

#[derive(Clone)]
struct NameChange {
    remove: Option<PathBuf>,
    add: Option<(PathBuf, usize)>,
}

#[derive(Default, Clone)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }

    /// What a power cut may leave of this change: nothing, all, a prefix, or some of its sectors.
    fn apply_torn(&self, content: &mut Vec<u8>, rng: &mut Rng) {
        let Self::Write { offset, bytes } = self else {
            if rng.one_in(2) {
                self.apply(content);
            }
            return;
        };
        match rng.below(4) {
            0 => {}
            1 => self.apply(content),
            2 => {
                let kept = rng.below(bytes.len() as u64 + 1) as usize;
                Self::Write { offset: *offset, bytes: bytes[..kept].to_vec() }.apply(content);
            }
            _ => {
                for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                    if rng.one_in(2) {
                        let part = Self::Write { offset: offset + index * SECTOR, bytes: sector.to_vec() };
                        part.apply(content);
                    }
                }
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

impl World {
    /// Counts one change; at the step set for it, everything stops.
    fn step(&mut self) -> io::Result<()> {
        if self.crashed {
            return Err(gone());
        }
        self.steps += 1;
        if self.crash_at == Some(self.steps) {
            self.crashed = true;
        }
        Ok(())
    }

    /// After the change of a crashing step was noted (it may happen or not), nobody learns of it.
    fn answer(&self) -> io::Result<()> {
        if self.crashed { Err(gone()) } else { Ok(()) }
    }

    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].cached.len()).sum()
    }

    fn sync(&mut self, inode: usize) -> io::Result<()> {
        self.step()?;
        self.answer()?;
        self.syncs += 1;
        let failing = self.fail_sync_at == Some(self.syncs);
        let unsynced = std::mem::take(&mut self.inodes[inode].unsynced);
        if failing {
            // As measured on ext4: the pages count as clean although the disk never got them, and later syncs say all is well.
            self.crashed = self.dies_of_failed_sync;
            return Err(io::Error::from_raw_os_error(5));
        }
        let durable = &mut self.inodes[inode].durable;
        unsynced.iter().for_each(|change| change.apply(durable));
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl SimDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world as it is to be changed, after what is done aside had its turn.
    fn changing(&self) -> MutexGuard<'_, World> {
        let is_due = |world: &World| world.aside.front().is_some_and(|(due, _)| *due <= world.steps);
        let mut world = self.world();
        while is_due(&world)
            && let Some((_, work)) = world.aside.pop_front()
        {
            drop(world);
            work.upgrade().into_iter().for_each(|work| do_once(&work));
            world = self.world();
        }
        world
    }

    /// Lets what is done aside begin so many steps after it was given.
    pub fn set_aside_after(&self, steps: u64) {
        self.world().aside_after = steps;
    }

    /// How many changes have been made.
    pub fn steps(&self) -> u64 {
        self.world().steps
    }

    /// Stops the world at the given step: it may or may not happen, and every later operation fails.
    pub fn crash_at(&self, step: u64) {
        self.world().crash_at = Some(step);
    }

    /// How many syncs of files have been asked for.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// Lets the given sync (counted from 1) fail with EIO: its data is lost but stays in the cache, seemingly clean.
    pub fn fail_sync_at(&self, sync: u64) {
        self.world().fail_sync_at = Some(sync);
    }

    /// Has the process die of the sync that fails, before it can do anything about it.
    pub fn die_of_failed_sync(&self) {
        self.world().dies_of_failed_sync = true;
    }

    /// Room for this many bytes in all files together; writes beyond it fail half done with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.world().capacity = bytes;
    }

    /// Lets no file become another length, except by writing.
    pub fn refuse_cuts(&self) {
        self.world().refuses_cuts = true;
    }

    /// The disk that is found after a crash at this moment. The original stays as it is, so that one crash can be looked at
    /// in many ways.
    #[must_use]
    pub fn after_crash(&self, crash: Crash, rng: &mut Rng) -> Self {
        let world = self.world();
        let mut next = World { dirs: world.dirs.clone(), capacity: world.capacity, ..World::default() };
        if crash == Crash::Process {
            next.inodes = world.inodes.clone();
            next.names = world.names.clone();
            next.durable_names = world.durable_names.clone();
            next.renames = world.renames.clone();
            return Self(Arc::new(Mutex::new(next)));
        }
        for inode in &world.inodes {
            let mut content = inode.durable.clone();
            for change in &inode.unsynced {
                change.apply_torn(&mut content, rng);
            }
            next.inodes.push(Inode { cached: content.clone(), durable: content, unsynced: Vec::new() });
        }
        next.durable_names = world.durable_names.clone();
        for change in &world.renames {
            if rng.one_in(2) {
                apply_names(&mut next.durable_names, change);
            }
        }
        next.names = next.durable_names.clone();
        Self(Arc::new(Mutex::new(next)))
    }

    /// Flips one bit of a file, on the device and in the cache.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u8) {
        let mut world = self.world();
        let inode = world.names[path];
        let inode = &mut world.inodes[inode];
        inode.cached[byte] ^= 1 << bit;
        inode.durable[byte] ^= 1 << bit;
    }

    /// All files and their lengths.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let world = self.world();
        world.names.iter().map(|(path, inode)| (path.clone(), world.inodes[*inode].cached.len())).collect()
    }

    fn change_name(&self, change: NameChange) -> io::Result<()> {
        let mut world = self.changing();
        world.step()?;
        apply_names(&mut world.names, &change);
        world.renames.push(change);
        world.answer()
    }
}

fn apply_names(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    if let Some(path) = &change.remove {
        names.remove(path);
    }
    if let Some((path, inode)) = &change.add {
        names.insert(path.clone(), *inode);
    }
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let path = self.add.as_ref().map(|(path, _)| path).or(self.remove.as_ref());
        path.and_then(|path| path.parent()) == Some(dir)
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // Directories count as durable at once; what matters here are the names of files.
        let mut world = self.changing();
        world.step()?;
        world.dirs.extend(path.ancestors().map(Path::to_owned));
        world.answer()
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let found = {
            let world = self.world();
            if world.crashed {
                return Err(gone());
            }
            world.names.get(path).copied()
        };
        let inode = match (found, how) {
            (Some(_), Open::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), _) => inode,
            (None, Open::Create) => {
                let inode = {
                    let mut world = self.world();
                    world.inodes.push(Inode::default());
                    world.inodes.len() - 1
                };
                self.change_name(NameChange { remove: None, add: Some((path.to_owned(), inode)) })?;
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let inside = world.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = *self.world().names.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.change_name(NameChange { remove: Some(from.to_owned()), add: Some((to.to_owned(), inode)) })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.world().names.contains_key(path) {
            return Ok(());
        }
        self.change_name(NameChange { remove: Some(path.to_owned()), add: None })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.changing();
        world.step()?;
        if world.names.keys().any(|name| name.starts_with(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        world.dirs.remove(path);
        world.answer()
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.changing();
        world.step()?;
        world.answer()?;
        let (synced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut world.renames).into_iter().partition(|c| c.is_in(dir));
        for change in &synced {
            apply_names(&mut world.durable_names, change);
        }
        world.renames = rest;
        Ok(())
    }

    fn sync_files(&self, files: &[Arc<dyn File>]) -> io::Result<()> {
        // One after the other: a crash between them is a crash while they were synced in parallel.
        files.iter().try_for_each(|file| file.sync())
    }

    fn aside(&self, _: &str, work: Work) -> Wait {
        let work = Arc::new(Mutex::new(Some(work)));
        let mut world = self.world();
        let due = world.steps + world.aside_after;
        world.aside.push_back((due, Arc::downgrade(&work)));
        drop(world);
        // It may be due at once.
        drop(self.changing());
        Box::new(move || do_once(&work))
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.world().inodes[self.inode].cached.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.world();
        if world.crashed {
            return Err(gone());
        }
        let content = &world.inodes[self.inode].cached;
        let from = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn read_device_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // As on a file system without direct reads: only `forget_cache` protects from a cache that lies.
        self.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut world = self.disk.changing();
        world.step()?;
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let grows = (offset + bytes.len()).saturating_sub(world.inodes[self.inode].cached.len());
        let room = world.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(world.used()));
        let full = grows > room;
        if full {
            bytes.truncate((bytes.len() + room).saturating_sub(grows));
        }
        let change = Change::Write { offset, bytes };
        let inode = &mut world.inodes[self.inode];
        change.apply(&mut inode.cached);
        inode.unsynced.push(change);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { world.answer() }
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.changing().sync(self.inode)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.changing();
        world.step()?;
        if world.refuses_cuts {
            return Err(io::Error::from_raw_os_error(5));
        }
        let change = Change::SetLen(usize::try_from(len).unwrap_or(usize::MAX));
        let inode = &mut world.inodes[self.inode];
        change.apply(&mut inode.cached);
        inode.unsynced.push(change);
        world.answer()
    }

    fn forget_cache(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let inode = &mut world.inodes[self.inode];
        let mut content = inode.durable.clone();
        for change in &inode.unsynced {
            change.apply(&mut content);
        }
        inode.cached = content;
        Ok(())
    }
}
