//! What a lane has done since the node started, in numbers.

use sluice_log::Histogram;

use crate::port::CallErrorKind;

/// Counts that only grow. They say nothing of what is committed: of an attempt that fell, the next counts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Calls of all stages together: attempts.
    pub calls: u64,
    /// Events that calls dealt with.
    pub events: u64,
    /// Bytes of events given to calls.
    pub bytes_in: u64,
    /// Events written to sinks.
    pub outputs: u64,
    /// Bytes of these.
    pub bytes_out: u64,
    /// Events and timers that were to be tried again.
    pub retries: u64,
    /// How long calls took.
    pub took: Histogram,
    failed: [u64; CallErrorKind::ALL.len()],
}

impl Work {
    pub(crate) fn failed(&mut self, kind: CallErrorKind) {
        self.failed[kind as usize] += 1;
    }

    /// Calls that did not return, or returned nonsense, and failures that consumers told, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (CallErrorKind, u64)> {
        CallErrorKind::ALL.into_iter().zip(self.failed)
    }

    /// All of them.
    pub fn failed_calls(&self) -> u64 {
        self.failed.iter().sum()
    }

    /// Counts what another lane has done, too.
    pub fn add(&mut self, other: &Self) {
        let Self { calls, events, bytes_in, outputs, bytes_out, retries, took, failed } = other;
        let own = [
            &mut self.calls,
            &mut self.events,
            &mut self.bytes_in,
            &mut self.outputs,
            &mut self.bytes_out,
            &mut self.retries,
        ];
        let counts = [calls, events, bytes_in, outputs, bytes_out, retries];
        own.into_iter().zip(counts).chain(self.failed.iter_mut().zip(failed)).for_each(|(own, count)| *own += count);
        self.took.add(took);
    }
}
