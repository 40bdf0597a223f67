//! Memory that is handed on, from whoever is done with it to who needs some next: the kernel need not clear it and hand it out again, page by page, which
//! costs as much as all else that is done with an event of a hundred bytes, and in a virtual machine many times that.

use std::sync::{Mutex, PoisonError};

use sluice_event::Batch;

/// Buffers that are kept, at most, and how large each may be. Smaller ones the allocator keeps by itself.
const MOST: usize = 16;
const BYTES: std::ops::RangeInclusive<usize> = (64 << 10)..=(2 << 20);

/// What readers read into.
pub(crate) static BUFFERS: Spare = Spare::none();
/// What holds the events of a batch: those that were read, and those that are to be written.
pub(crate) static BATCHES: Spare = Spare::none();

/// Some buffers that nobody has.
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    const fn none() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// One of them, with whatever somebody wrote there; an empty one if there is none.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps one, unless there are enough.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if BYTES.contains(&buffer.capacity()) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MOST {
                kept.push(buffer);
            }
        }
    }
}

/// An empty batch with room for about so many bytes: where that is much, in memory that a batch had which is written. Once it is committed, the next one has it.
pub fn batch_for(bytes: usize) -> Batch {
    let mut batch = if bytes < *BYTES.start() { Batch::default() } else { Batch::within(BATCHES.take()) };
    batch.reserve(bytes);
    batch
}
