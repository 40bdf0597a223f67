//! The thread that writes to stores what is committed.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use sluice_engine::Flusher;
use sluice_state::{Flush, SharedState};

/// The thread that writes to stores what is committed.
pub(super) struct Writer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Job {
    state: SharedState,
    flush: Flush,
}

impl Writer {
    pub(super) fn start() -> std::io::Result<Self> {
        // Bounded by the number of partitions: each has one flush under way at most.
        let (jobs, waiting) = channel::<Job>();
        let thread = sluice_env::spawn("sluice-state", move || {
            for Job { state, flush } in waiting {
                if let Err(error) = state.run(&flush) {
                    tracing::error!(%error, "a state cannot be kept");
                }
            }
        })?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }
}

impl Flusher for Writer {
    fn flush(&self, state: SharedState, flush: Flush) {
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.send(Job { state, flush });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A job that is told of may hold the last reference.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}
