//! What an instance may use.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Table elements of all tables of an instance; each takes eight bytes outside the guest's memory.
const MAX_TABLE_ELEMENTS: usize = 100_000;
/// Core instances, memories and tables that one component may consist of.
const MAX_PARTS: usize = 32;

/// What one instance of a plugin may use. Limits are always on; a pipeline's `limits` changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all its memories together.
    pub memory: usize,
    /// Time for one call, and for `init`.
    pub call_timeout: Duration,
    /// Bytes that one call may return.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 64 << 20, call_timeout: Duration::from_secs(2), output_bytes: 16 << 20 }
    }
}

/// Why an instance could not get more; the call ends with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OverLimit(pub(crate) String);

/// Counts what an instance has.
pub(crate) struct Limiter {
    memory_limit: usize,
    memory: usize,
    table_elements: usize,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { memory_limit: limits.memory, memory: 0, table_elements: 0 }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            let limit = self.memory_limit;
            let what = format!("the plugin wants {wanted} bytes of memory; `limits.memory` is {limit}");
            return Err(wasmtime::Error::new(OverLimit(what)));
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.table_elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        if self.table_elements > MAX_TABLE_ELEMENTS {
            let what = format!("the plugin wants more than {MAX_TABLE_ELEMENTS} table elements");
            return Err(wasmtime::Error::new(OverLimit(what)));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_PARTS
    }

    fn tables(&self) -> usize {
        MAX_PARTS
    }

    fn memories(&self) -> usize {
        MAX_PARTS
    }
}
