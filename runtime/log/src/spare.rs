//! Buffers of readers that rest or have read all there is, for those that read next: memory that the kernel need not clear and hand out again.

use std::sync::{Mutex, PoisonError};

/// Buffers that are kept, at most, and how large each may be.
const MOST: usize = 16;
const MOST_BYTES: usize = 2 << 20;

/// Some buffers that nobody has.
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    pub(crate) const fn none() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// One of them, with whatever somebody wrote there; an empty one if there is none.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps one, unless there are enough.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if (1..=MOST_BYTES).contains(&buffer.capacity()) && kept.len() < MOST {
            kept.push(buffer);
        }
    }
}
