//! What an instance may use.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Core instances and tables that one component may consist of; of memories twice as many, for an interrupt page may stand beside each.
pub(crate) const MAX_PARTS: usize = 128;
/// Handles of resources that an instance may hold.
pub(crate) const MAX_HANDLES: usize = 1024;
/// Bytes of the call stack.
pub(crate) const STACK: usize = 512 << 10;

/// What a plugin may use: compiling it, and each of its instances. Limits are always on; a stage's `limits` changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all its memories together.
    pub memory: usize,
    /// Time for one call, and for `init`.
    pub call_timeout: Duration,
    /// Bytes that one call may return.
    pub output_bytes: usize,
    /// Bytes that all instances of a stage together may write to the log in a second.
    pub log_bytes: u64,
    /// Elements of all its tables; each takes eight bytes outside the guest's memory.
    pub table_elements: usize,
    /// Bytes of the .wasm file.
    pub wasm_bytes: usize,
    /// Processor time to compile it; whole seconds.
    pub compile_time: Duration,
    /// Address space to compile it in, in bytes.
    pub compile_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            call_timeout: Duration::from_secs(2),
            output_bytes: 16 << 20,
            log_bytes: 64 << 10,
            table_elements: 100_000,
            wasm_bytes: 32 << 20,
            compile_time: Duration::from_secs(180),
            compile_memory: 2 << 30,
        }
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
    table_limit: usize,
    table_elements: usize,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { memory_limit: limits.memory, memory: 0, table_limit: limits.table_elements, table_elements: 0 }
    }
}

impl Limiter {
    /// Bytes that all memories of the instance have together.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Whether little is left of what it may have, for one that began with little: runtimes of some languages do not free all that a call takes, and
    /// a new instance is better than a call that fails.
    pub(crate) fn is_worn(&self, at_first: usize) -> bool {
        self.memory > self.memory_limit / 4 * 3 && at_first <= self.memory_limit / 4
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
        if self.table_elements > self.table_limit {
            let (wanted, limit) = (self.table_elements, self.table_limit);
            let what = format!("the plugin wants {wanted} table elements; `limits.table-elements` is {limit}");
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
        2 * MAX_PARTS
    }
}

/// A time as limits are written.
pub(crate) fn humantime(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}
