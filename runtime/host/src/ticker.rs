//! The clock that stops guests: it ticks only while one runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// Time between two ticks: a call is stopped up to two of these after its deadline.
const TICK: Duration = Duration::from_millis(10);

/// Ticks the engine's epoch while at least one call is under way; an idle node has no thread that wakes up.
pub(crate) struct Ticker {
    running: AtomicUsize,
    ticking: AtomicBool,
    ended: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
}

/// A call is under way as long as this lives.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            running: AtomicUsize::new(0),
            ticking: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let own = ticker.clone();
        sluice_env::spawn("sluice-ticker", move || own.run(&engine))?;
        Ok(ticker)
    }

    fn run(&self, engine: &Engine) {
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.ended.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) == 0 {
                self.ticking.store(false, Ordering::SeqCst);
                // Looked at again after saying that it sleeps: a call that began in between sees one or the other.
                if self.running.load(Ordering::SeqCst) == 0 {
                    asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
                }
                self.ticking.store(true, Ordering::SeqCst);
            }
            let due = Instant::now() + TICK;
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if self.ended.load(Ordering::SeqCst) {
                    return;
                }
                asleep = self.wake.wait_timeout(asleep, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            engine.increment_epoch();
        }
    }

    /// Notes that a call begins.
    pub(crate) fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if !self.ticking.load(Ordering::SeqCst) {
            let _asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
        Running(self)
    }

    /// Ticks until a deadline this far away has surely not passed early.
    pub(crate) fn ticks(timeout: Duration) -> u64 {
        let ticks = timeout.as_nanos().div_ceil(TICK.as_nanos());
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let _asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
