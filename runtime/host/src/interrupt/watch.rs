//! The clock that stops guests: it ticks only while one runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::page::Page;

/// Time between two ticks: a call is stopped up to two of these after its deadline.
const TICK: Duration = Duration::from_millis(10);

/// Looks at the calls under way, while there are any; an idle node has no thread that wakes up.
pub(crate) struct Ticker {
    running: AtomicUsize,
    ticking: AtomicBool,
    ended: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
    watches: Mutex<Vec<Weak<Watch>>>,
}

/// Watches one instance.
pub(crate) struct Watch {
    ticker: Arc<Ticker>,
    call: Mutex<Call>,
}

#[derive(Default)]
struct Call {
    /// When the call under way has to be back.
    deadline: Option<Instant>,
    pages: Vec<Page>,
    /// Its pages were taken away.
    stopped: bool,
}

/// A call is under way as long as this lives.
pub(crate) struct Running<'a>(&'a Watch);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            running: AtomicUsize::new(0),
            ticking: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
            watches: Mutex::default(),
        });
        let own = ticker.clone();
        sluice_env::spawn("sluice-ticker", move || own.run(&engine))?;
        Ok(ticker)
    }

    fn run(&self, engine: &Engine) {
        let mut asleep = lock(&self.asleep);
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
            let now = Instant::now();
            lock(&self.watches).retain(|watch| watch.upgrade().map(|watch| watch.look(now)).is_some());
        }
    }

    /// Begins to watch an instance.
    pub(crate) fn watch(self: &Arc<Self>) -> Arc<Watch> {
        let watch = Arc::new(Watch { ticker: self.clone(), call: Mutex::default() });
        lock(&self.watches).push(Arc::downgrade(&watch));
        watch
    }

    /// Ticks until a deadline this far away has surely not passed early.
    pub(crate) fn ticks(timeout: Duration) -> u64 {
        let ticks = timeout.as_nanos().div_ceil(TICK.as_nanos());
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let _asleep = lock(&self.asleep);
        self.wake.notify_all();
    }
}

impl Watch {
    /// Notes that a call begins, which has to be back in time.
    pub(crate) fn enter(&self, timeout: Duration) -> Running<'_> {
        {
            let mut call = lock(&self.call);
            if std::mem::take(&mut call.stopped) {
                // It was stopped, and came back all the same: between its last check and its end.
                call.pages.iter().for_each(|page| page.set(true));
            }
            call.deadline = Instant::now().checked_add(timeout);
        }
        let ticker = &self.ticker;
        ticker.running.fetch_add(1, Ordering::SeqCst);
        if !ticker.ticking.load(Ordering::SeqCst) {
            let _asleep = lock(&ticker.asleep);
            ticker.wake.notify_all();
        }
        Running(self)
    }

    /// Whether the last call was stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        lock(&self.call).stopped
    }

    /// Takes its pages away when its time is up.
    fn look(&self, now: Instant) {
        let mut call = lock(&self.call);
        if call.deadline.is_some_and(|deadline| now >= deadline) {
            // Again at each tick, should it have failed.
            call.pages.iter().for_each(|page| page.set(false));
            call.stopped = true;
        }
    }

    /// An instance's page more.
    pub(crate) fn add(&self, page: Page) {
        let mut call = lock(&self.call);
        if call.stopped {
            page.set(false);
        }
        call.pages.push(page);
    }

    /// It is about to be unmapped.
    pub(crate) fn remove(&self, page: Page) {
        lock(&self.call).pages.retain(|other| *other != page);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.call).deadline = None;
        self.0.ticker.running.fetch_sub(1, Ordering::SeqCst);
    }
}
