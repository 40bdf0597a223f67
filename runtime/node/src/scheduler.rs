//! Runs lanes on threads.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_engine::{LaneRunner, LaneState, Step};
use sluice_log::{Error, TopicPartition};

/// Guest calls under way at once, at most. More than there are cores, so that a slow plugin takes time, not the pool.
const MAX_THREADS: usize = 64;
/// Attempts a lane may make before others that are ready get their turn.
const TURN: usize = 8;
/// How long a lane waits before it asks storage again.
const BACKOFF: Duration = Duration::from_secs(1);

/// Asleep until woken.
const PARKED: u8 = 0;
/// In the queue.
const QUEUED: u8 = 1;
/// On a thread.
const RUNNING: u8 = 2;
/// On a thread, and woken meanwhile: it must look again.
const WOKEN: u8 = 3;

struct Slot {
    runner: Mutex<LaneRunner>,
    state: AtomicU8,
    /// What can be seen from outside without waiting for a guest call.
    seen: Mutex<LaneState>,
}

#[derive(Default)]
struct Ready {
    queue: VecDeque<usize>,
    /// Lanes that wait for a time.
    delayed: Vec<(Instant, usize)>,
}

#[derive(Default)]
struct Shared {
    slots: Mutex<Vec<Arc<Slot>>>,
    readers: Mutex<HashMap<TopicPartition, Vec<usize>>>,
    ready: Mutex<Ready>,
    ready_changed: Condvar,
    /// Told whenever a lane has come to rest.
    rested: Condvar,
    draining: AtomicBool,
    ended: AtomicBool,
    failure: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes one lane, from any thread.
#[derive(Clone)]
pub(crate) struct Waker {
    shared: Arc<Shared>,
    lane: usize,
}

impl Waker {
    pub(crate) fn wake(&self) {
        self.shared.wake(self.lane);
    }
}

impl Shared {
    fn slot(&self, lane: usize) -> Option<Arc<Slot>> {
        lock(&self.slots).get(lane).cloned()
    }

    fn wake(&self, lane: usize) {
        let Some(slot) = self.slot(lane) else { return };
        let mut state = slot.state.load(Ordering::SeqCst);
        loop {
            let next = match state {
                PARKED => QUEUED,
                RUNNING => WOKEN,
                _ => return,
            };
            match slot.state.compare_exchange(state, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) if next == QUEUED => return self.enqueue(lane),
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    fn enqueue(&self, lane: usize) {
        lock(&self.ready).queue.push_back(lane);
        self.ready_changed.notify_one();
    }

    /// The next lane that is ready; `None` when the scheduler ends.
    fn next(&self) -> Option<usize> {
        let mut ready = lock(&self.ready);
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            let now = Instant::now();
            let due: Vec<_> = ready.delayed.extract_if(.., |(at, _)| *at <= now).map(|(_, lane)| lane).collect();
            for lane in due {
                if let Some(slot) = self.slot(lane) {
                    slot.state.store(QUEUED, Ordering::SeqCst);
                    lock(&slot.runner).retry();
                    ready.queue.push_back(lane);
                }
            }
            if let Some(lane) = ready.queue.pop_front() {
                return Some(lane);
            }
            let wait = ready.delayed.iter().map(|(at, _)| at.saturating_duration_since(now)).min();
            ready = match wait {
                Some(wait) => self.ready_changed.wait_timeout(ready, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.ready_changed.wait(ready).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn work(&self) {
        while let Some(lane) = self.next() {
            let Some(slot) = self.slot(lane) else { continue };
            slot.state.store(RUNNING, Ordering::SeqCst);
            let step = {
                let mut runner = lock(&slot.runner);
                let mut step = Step::Worked;
                for _ in 0..TURN {
                    step = runner.step(self.draining.load(Ordering::SeqCst));
                    if !matches!(step, Step::Worked) || self.ended.load(Ordering::SeqCst) {
                        break;
                    }
                }
                *lock(&slot.seen) = runner.state().clone();
                step
            };
            match step {
                Step::Worked => {
                    slot.state.store(QUEUED, Ordering::SeqCst);
                    self.enqueue(lane);
                }
                Step::Backoff(_) => {
                    // Left as running: only its time wakes it.
                    lock(&self.ready).delayed.push((Instant::now() + BACKOFF, lane));
                    self.ready_changed.notify_one();
                }
                Step::StopNode(error) => {
                    lock(&self.failure).get_or_insert(error);
                }
                Step::Waiting | Step::Idle | Step::Halted(_) => {
                    let parked = slot.state.compare_exchange(RUNNING, PARKED, Ordering::SeqCst, Ordering::SeqCst);
                    if parked.is_err() {
                        slot.state.store(QUEUED, Ordering::SeqCst);
                        self.enqueue(lane);
                    }
                }
            }
            let _ready = lock(&self.ready);
            self.rested.notify_all();
        }
    }
}

/// Threads and the lanes they run.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How a lane stands.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) state: LaneState,
    pub(crate) at_rest: bool,
}

impl Scheduler {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default(), threads: Mutex::default() }
    }

    /// Adds a lane that reads `source`, made by `make` from its waker, and lets it run.
    pub(crate) fn add(&self, source: TopicPartition, make: impl FnOnce(Waker) -> LaneRunner) -> std::io::Result<usize> {
        let lane = {
            let mut slots = lock(&self.shared.slots);
            let lane = slots.len();
            let runner = make(Waker { shared: self.shared.clone(), lane });
            let seen = Mutex::new(runner.state().clone());
            slots.push(Arc::new(Slot { runner: Mutex::new(runner), state: AtomicU8::new(PARKED), seen }));
            lane
        };
        lock(&self.shared.readers).entry(source).or_default().push(lane);
        let mut threads = lock(&self.threads);
        if threads.len() < MAX_THREADS {
            let (shared, name) = (self.shared.clone(), format!("sluice-guest-{}", threads.len()));
            threads.push(sluice_env::spawn(&name, move || shared.work())?);
        }
        self.shared.wake(lane);
        Ok(lane)
    }

    /// Something that wakes the lanes which read any of these partitions.
    pub(crate) fn on_append(&self) -> impl Fn(&[TopicPartition]) + Send + Sync + 'static {
        // Weak, for the log that calls this is owned by lanes that the scheduler owns.
        let shared = Arc::downgrade(&self.shared);
        move |touched: &[TopicPartition]| {
            let Some(shared) = shared.upgrade() else { return };
            let readers = lock(&shared.readers);
            let lanes: Vec<usize> = touched.iter().filter_map(|tp| readers.get(tp)).flatten().copied().collect();
            drop(readers);
            lanes.into_iter().for_each(|lane| shared.wake(lane));
        }
    }

    /// How a lane stood when it last came off its thread.
    pub(crate) fn seen(&self, lane: usize) -> Option<Seen> {
        let slot = self.shared.slot(lane)?;
        let at_rest = slot.state.load(Ordering::SeqCst) == PARKED;
        let state = lock(&slot.seen).clone();
        Some(Seen { state, at_rest })
    }

    /// Why the node must stop, if it must.
    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.shared.failure).clone()
    }

    /// Waits until a lane comes to rest, or some time has passed.
    pub(crate) fn wait_for_rest(&self, at_most: Duration) {
        let ready = lock(&self.shared.ready);
        drop(self.shared.rested.wait_timeout(ready, at_most));
    }

    /// Lets lanes finish what is in flight and begin nothing new.
    pub(crate) fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        let lanes = lock(&self.shared.slots).len();
        (0..lanes).for_each(|lane| self.shared.wake(lane));
    }

    /// Ends the threads; what is in flight is left to the log.
    pub(crate) fn end(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        {
            let _ready = lock(&self.shared.ready);
            self.shared.ready_changed.notify_all();
        }
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
        lock(&self.shared.slots).clear();
    }
}
