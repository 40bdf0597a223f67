//! Memories of guests, and among them their interrupt pages.
#![expect(unsafe_code, reason = "maps memory, and takes pages away")]

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

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
pub(crate) struct Memories;

/// A reservation of address space, of which a part at its beginning can be used.
struct Memory {
    mapped: Mapped,
    /// Bytes before the memory, and behind the reservation, that nobody can access.
    guard: usize,
    size: usize,
    reserved: usize,
    /// Whose interrupt page it is, if it is one.
    watch: Option<Arc<Watch>>,
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

    /// Makes a part of it usable. What was never usable before is full of zeros.
    fn open(&self, from: usize, bytes: usize) -> rustix::io::Result<()> {
        debug_assert!(from + bytes <= self.bytes);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: within the mapping, which is this one's own.
        unsafe { mprotect(self.base.byte_add(from), bytes, MprotectFlags::READ | MprotectFlags::WRITE) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
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
        let mapped = Mapped::new(guard + reserved + guard).map_err(told)?;
        let is_page = ty.minimum() == 0 && ty.maximum() == Some(MARK);
        let watch = if is_page { MADE.with_borrow(Clone::clone) } else { None };
        mapped.open(guard, if is_page { PAGE } else { minimum }).map_err(told)?;
        let memory = Memory { mapped, guard, size: minimum, reserved, watch };
        memory.watch.iter().for_each(|watch| watch.add(memory.page()));
        Ok(Box::new(memory))
    }
}

impl Memory {
    /// Its address, for the watch.
    fn page(&self) -> Page {
        Page(self.as_ptr().expose_provenance())
    }
}

// SAFETY: what it says of itself is so: see `Memories`.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.reserved
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        if size > self.reserved {
            return Err(wasmtime::format_err!("more memory than was reserved"));
        }
        if size > self.size {
            self.mapped
                .open(self.guard + self.size, size - self.size)
                .map_err(|error| wasmtime::format_err!("no memory: {error}"))?;
            self.size = size;
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.mapped.base.cast::<u8>().wrapping_add(self.guard)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Before it is unmapped: what is there then is somebody else's.
        self.watch.iter().for_each(|watch| watch.remove(self.page()));
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
