//! Memories of guests, and among them their interrupt pages.
#![expect(unsafe_code, reason = "maps memory, and takes pages away")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::checks::MARK;
use super::watch::Watch;

/// Bytes of a page of the machine, or several: checks read the first four.
const PAGE: usize = 64 << 10;

thread_local! {
    /// Whose instance is being made on this thread.
    static MADE: RefCell<Option<Arc<Watch>>> = const { RefCell::new(None) };
}

/// Pages of what `make` instantiates on this thread are taken away by this watch.
pub(crate) fn pages_of<T>(watch: &Arc<Watch>, make: impl FnOnce() -> T) -> T {
    let before = MADE.replace(Some(watch.clone()));
    let made = make();
    MADE.set(before);
    made
}

/// Makes memories.
///
/// Those of instances that are gone are for the ones that begin next: where there are more lanes than instances, one begins and goes with each turn, and its
/// pages would be the kernel's to take back and to clear each time. They are cleared when somebody takes them.
#[derive(Default)]
pub(crate) struct Memories {
    spare: Arc<Mutex<VecDeque<Space>>>,
}

/// So many are kept, at most, an interrupt page for each memory, and none larger than this.
const MOST_SPARE: usize = 16;
const MOST_SPARE_BYTES: usize = 4 << 20;

struct Memory {
    space: Space,
    /// Whose interrupt page it is, if it is one.
    watch: Option<Arc<Watch>>,
    /// Where it goes.
    spare: Arc<Mutex<VecDeque<Space>>>,
}

/// A reservation of address space, of which a part at its beginning can be used.
struct Space {
    mapped: Mapped,
    shape: Shape,
    size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Bytes before the memory, and behind the reservation, that nobody can access.
    guard: usize,
    reserved: usize,
    /// Whether it is an interrupt page: its size is zero, and a page can be used nevertheless.
    is_page: bool,
}

struct Mapped {
    base: *mut c_void,
    bytes: usize,
}

// SAFETY: an address that nobody else has; what it points to is changed only by who has it, and by Wasmtime.
unsafe impl Send for Mapped {}
// SAFETY: as above: through a shared reference it is only read.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(bytes: usize) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping, wherever there is room: it is nobody's memory yet.
        let base =
            unsafe { mmap_anonymous(null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
        Ok(Self { base, bytes })
    }

    /// None, in place of one that is handed on.
    const fn none() -> Self {
        Self { base: null_mut(), bytes: 0 }
    }

    /// Makes a part of it usable, which stays as it was. What was never usable before is full of zeros.
    fn open(&self, from: usize, bytes: usize) -> rustix::io::Result<()> {
        self.protect(from, bytes, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    fn protect(&self, from: usize, bytes: usize, flags: MprotectFlags) -> rustix::io::Result<()> {
        debug_assert!(from + bytes <= self.bytes);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: within the mapping, which is this one's own.
        unsafe { mprotect(self.base.byte_add(from), bytes, flags) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: whoever had this memory is gone: Wasmtime drops it with the store that it belongs to.
        let _ = unsafe { munmap(self.base, self.bytes) };
    }
}

// SAFETY: what is returned is zeroed, has the size asked for, and never moves; the reservation, and a guard behind it and before it, are there and cannot be
// accessed. An interrupt page has a size of zero, and 64 KiB that can be read: only the checks do, for no guest can name it.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let told = |error: rustix::io::Errno| format!("cannot have address space: {error}");
        // All that it may ever have, where that is more than what was asked for: it does not move.
        let reserved =
            reserved.unwrap_or(0).max(maximum.unwrap_or(minimum).min(4 << 30)).max(minimum).next_multiple_of(PAGE);
        let is_page = ty.minimum() == 0 && ty.maximum() == Some(MARK);
        let shape = Shape { guard, reserved, is_page };
        let space = match self.spare(shape, minimum) {
            Some(space) => space,
            None => Space::new(shape, minimum).map_err(told)?,
        };
        let watch = if is_page { MADE.with_borrow(Clone::clone) } else { None };
        watch.iter().for_each(|watch| watch.add(space.page()));
        Ok(Box::new(Memory { space, watch, spare: self.spare.clone() }))
    }
}

impl Memories {
    /// One that somebody had, as if it were new.
    fn spare(&self, shape: Shape, size: usize) -> Option<Space> {
        let mut space = {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            let at = spare.iter().rposition(|space| space.shape == shape)?;
            spare.remove(at)?
        };
        // If that fails, it is unmapped.
        space.renew(size).ok()?;
        Some(space)
    }
}

impl Space {
    fn new(shape: Shape, size: usize) -> rustix::io::Result<Self> {
        let mapped = Mapped::new(shape.guard + shape.reserved + shape.guard)?;
        let mut space = Self { mapped, shape, size: 0 };
        space.renew(size)?;
        Ok(space)
    }

    fn start(&self) -> *mut u8 {
        self.mapped.base.cast::<u8>().wrapping_add(self.shape.guard)
    }

    /// Its address, for the watch.
    fn page(&self) -> Page {
        Page(self.start().expose_provenance())
    }

    fn grow_to(&mut self, size: usize) -> rustix::io::Result<()> {
        self.mapped.open(self.shape.guard + self.size, size - self.size)?;
        self.size = size;
        Ok(())
    }

    /// Clears it, and leaves so much of it.
    fn renew(&mut self, size: usize) -> rustix::io::Result<()> {
        let guard = self.shape.guard;
        if self.shape.is_page {
            // Nobody writes there; it may have been taken away.
            return self.mapped.open(guard, PAGE);
        }
        for (from, bytes) in written(self.start().expose_provenance(), self.size) {
            // SAFETY: within the bytes that can be used, and nobody else has them.
            unsafe { self.start().add(from).write_bytes(0, bytes) };
        }
        let kept = self.size.min(size);
        self.mapped.protect(guard + kept, self.size - kept, MprotectFlags::empty())?;
        self.size = kept;
        self.grow_to(size)
    }
}

/// The parts of a memory in which anybody has written, as the kernel knows; from where on, and how many bytes. All of it where it does not tell. A guest's stack and
/// what it has reserved are mostly never touched, and whoever clears that as well has made it resident.
fn written(start: usize, size: usize) -> Vec<(usize, usize)> {
    static PAGEMAP: LazyLock<Option<Pagemap>> = LazyLock::new(Pagemap::open);
    let Some(pages) = PAGEMAP.as_ref().and_then(|pagemap| pagemap.are_there(start, size)) else {
        return vec![(0, size)];
    };
    let page = rustix::param::page_size();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for (number, is_there) in pages.into_iter().enumerate() {
        let (from, bytes) = (number * page, page.min(size - number * page));
        if is_there {
            match parts.last_mut().filter(|(start, length)| start + length == from) {
                Some((_, length)) => *length += bytes,
                None => parts.push((from, bytes)),
            }
        }
    }
    parts
}

/// What the kernel tells of this process's pages (Linux, admin-guide/mm/pagemap).
struct Pagemap(File);

impl Pagemap {
    /// `None` where there is no such file, or it does not know a page that is there: then it is no kernel's whose word counts between guests.
    #[expect(clippy::disallowed_methods, reason = "what the kernel tells of this process is no file of the log")]
    fn open() -> Option<Self> {
        let pagemap = Self(File::open("/proc/self/pagemap").ok()?);
        let known = Box::new(1_u64);
        let address = std::ptr::from_ref(&*known).expose_provenance();
        pagemap.are_there(address, 1).filter(|pages| pages[..] == [true]).map(|_| pagemap)
    }

    /// For each page of a part of memory, whether it is in memory or in swap.
    fn are_there(&self, start: usize, size: usize) -> Option<Vec<bool>> {
        // Eight bytes a page; the two highest bits say it.
        const THERE: u64 = 3 << 62;
        let page = rustix::param::page_size();
        let mut entries = vec![0; size.div_ceil(page) * 8];
        self.0.read_exact_at(&mut entries, (start / page * 8) as u64).ok()?;
        Some(entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry) & THERE != 0).collect())
    }
}

// SAFETY: what it says of itself is so: see `Memories`.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.space.size
    }

    fn byte_capacity(&self) -> usize {
        self.space.shape.reserved
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        if size > self.space.shape.reserved {
            return Err(wasmtime::format_err!("more memory than was reserved"));
        }
        if size > self.space.size {
            self.space.grow_to(size).map_err(|error| wasmtime::format_err!("no memory: {error}"))?;
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.space.start()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Before it is unmapped: what is there then is somebody else's.
        self.watch.iter().for_each(|watch| watch.remove(self.space.page()));
        if self.space.size <= MOST_SPARE_BYTES {
            let Space { shape, size, .. } = self.space;
            let mapped = std::mem::replace(&mut self.space.mapped, Mapped::none());
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            spare.push_back(Space { mapped, shape, size });
            let oldest = if spare.len() > MOST_SPARE { spare.pop_front() } else { None };
            // Unmapped when others can have theirs.
            drop(spare);
            drop(oldest);
        }
    }
}

/// The address of an interrupt page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page(usize);

impl Page {
    /// Takes it away, or gives it back.
    pub(crate) fn set(self, readable: bool) {
        let flags = if readable { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::empty() };
        // SAFETY: a page of a memory that lives, for it leaves its watch before it is unmapped; nobody but the checks reads there, and they may fault.
        let result = unsafe { mprotect(std::ptr::with_exposed_provenance_mut(self.0), PAGE, flags) };
        // It is mapped, so there is no reason to refuse, but for the number of mappings that a process may have.
        if let Err(error) = result {
            tracing::error!(%error, "a guest could not be stopped; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_that_somebody_had_is_as_a_new_one() {
        const WASM_PAGE: usize = 64 << 10;
        let (memories, reserved) = (Memories::default(), 9 * WASM_PAGE);
        let make = |minimum| {
            let ty = MemoryType::new(1, Some(9));
            memories.new_memory(ty, minimum, Some(reserved), Some(reserved), 2 * WASM_PAGE).unwrap()
        };
        let bytes = |memory: &dyn LinearMemory| {
            // SAFETY: so many bytes can be used, and nobody else has them.
            unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) }
        };
        let mut first = make(2 * WASM_PAGE);
        first.grow_to(5 * WASM_PAGE).unwrap();
        bytes(&*first).fill(1);
        let address = first.as_ptr();
        drop(first);
        let page = |memories: &Memories| {
            memories.new_memory(MemoryType::new(0, Some(MARK as u32)), 0, None, Some(reserved), 2 * WASM_PAGE).unwrap()
        };
        let taken = page(&memories);
        Page(taken.as_ptr().expose_provenance()).set(false);
        let at = taken.as_ptr();
        drop(taken);
        let given = page(&memories);
        assert_eq!(given.as_ptr(), at);
        // SAFETY: it can be read, or the test ends here.
        assert_eq!(unsafe { given.as_ptr().read_volatile() }, 0);
        for minimum in [WASM_PAGE, 7 * WASM_PAGE] {
            let mut next = make(minimum);
            assert_eq!((next.as_ptr(), next.byte_size()), (address, minimum), "it is handed on");
            assert!(bytes(&*next).iter().all(|byte| *byte == 0));
            next.grow_to(reserved).unwrap();
            assert!(bytes(&*next).iter().all(|byte| *byte == 0));
            bytes(&*next).fill(2);
        }
    }

    #[test]
    fn only_what_was_written_is_cleared() {
        let page = rustix::param::page_size();
        let shape = Shape { guard: 0, reserved: 8 * page, is_page: false };
        let space = Space::new(shape, 8 * page).unwrap();
        for number in [1, 2, 6] {
            // SAFETY: within the bytes that can be used, and nobody else has them.
            unsafe { space.start().add(number * page).write(1) };
        }
        let parts = written(space.start().expose_provenance(), 8 * page - 1);
        assert_eq!(parts, [(page, 2 * page), (6 * page, page)]);
    }
}
