//! Runs lanes on threads.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_engine::{Generation, Halt, LaneRunner, LaneState, Step};
use sluice_env::Clock;
use sluice_log::{Desired, Error, TopicPartition};

/// Guest calls under way at once, at most. More than there are cores, so that a slow plugin takes time, not the pool.
const MAX_THREADS: usize = 64;
/// Attempts a lane may make before others that are ready get their turn.
const TURN: usize = 8;
/// How long a lane waits before it asks storage again.
const BACKOFF: Duration = Duration::from_secs(1);
/// Lanes that keep their instances and memory; beyond that, those that rested longest give them up.
const MAX_WARM: usize = 256;

/// Asleep until woken.
const PARKED: u8 = 0;
/// In the queue.
const QUEUED: u8 = 1;
/// On a thread.
const RUNNING: u8 = 2;
/// On a thread, and woken meanwhile: it must look again.
const WOKEN: u8 = 3;

/// Told to a lane: the cursor was set anew by somebody else.
const MOVED: u8 = 1;
/// Told to a lane: try again what it stands still at.
const RESUME: u8 = 2;
/// Told to a lane: pass over the event that blocks it.
const SKIP: u8 = 4;
/// No more events are to come: its timers fire.
const CLOSE: u8 = 8;
/// Another generation deals with its events.
const GO_OVER: u8 = 16;

struct Slot {
    pipeline: usize,
    runner: Mutex<LaneRunner>,
    state: AtomicU8,
    desired: AtomicU8,
    /// What it was told and has not heard yet, as bits.
    told: AtomicU8,
    /// The generation that it is to go over to.
    next: Mutex<Option<Generation>>,
    /// What can be seen from outside without waiting for a guest call.
    seen: Mutex<LaneState>,
}

impl Slot {
    fn stands_still(&self) -> bool {
        self.desired.load(Ordering::SeqCst) == Desired::Pause as u8
    }

    /// Whether it is on no thread, and has heard all it was told.
    fn is_parked(&self) -> bool {
        self.state.load(Ordering::SeqCst) == PARKED && self.told.load(Ordering::SeqCst) == 0
    }
}

/// The lanes of one pipeline that are ready, and how many are on threads.
#[derive(Default)]
struct Turns {
    queue: VecDeque<usize>,
    running: usize,
    /// Whether the pipeline waits for a thread.
    waits: bool,
}

#[derive(Default)]
struct Ready {
    /// Pipelines with a lane that is ready and may run, in turn.
    pipelines: VecDeque<usize>,
    turns: Vec<Turns>,
    /// Lanes that wait for a time, and whether because storage refused.
    delayed: BTreeMap<usize, (Duration, bool)>,
    /// How often no lane was left that was ready or on a thread.
    quiets: u64,
    /// Lanes with instances, by when they last ran.
    warm: BTreeSet<(u64, usize)>,
    ran: HashMap<usize, u64>,
    turn: u64,
}

impl Ready {
    /// Puts a lane in its pipeline's queue. Whether there is something for one more thread.
    fn enqueue(&mut self, pipeline: usize, lane: usize, at_once: usize) -> bool {
        self.turns[pipeline].queue.push_back(lane);
        self.offer(pipeline, at_once)
    }

    /// Notes that a lane of a pipeline is on a thread no more. Whether none is left that is ready or on one.
    fn leave(&mut self, pipeline: usize, at_once: usize) -> bool {
        self.turns[pipeline].running -= 1;
        self.offer(pipeline, at_once);
        let quiet = self.turns.iter().all(|turns| turns.running == 0 && turns.queue.is_empty());
        self.quiets += u64::from(quiet);
        quiet
    }

    /// Puts a pipeline in the row for a thread, if it has something to do and may have one.
    fn offer(&mut self, pipeline: usize, at_once: usize) -> bool {
        let turns = &mut self.turns[pipeline];
        let offers = !turns.waits && !turns.queue.is_empty() && turns.running < at_once;
        if offers {
            turns.waits = true;
            self.pipelines.push_back(pipeline);
        }
        offers
    }

    fn pop(&mut self, at_once: usize) -> Option<(usize, usize)> {
        let pipeline = self.pipelines.pop_front()?;
        let turns = &mut self.turns[pipeline];
        turns.waits = false;
        let lane = turns.queue.pop_front()?;
        turns.running += 1;
        self.offer(pipeline, at_once);
        Some((pipeline, lane))
    }

    /// Notes whether a lane that just ran is warm. A lane that should give its instances up, if there are too many.
    fn note_warm(&mut self, lane: usize, warm: bool) -> Option<usize> {
        self.turn += 1;
        if let Some(before) = self.ran.remove(&lane) {
            self.warm.remove(&(before, lane));
        }
        if warm {
            self.ran.insert(lane, self.turn);
            self.warm.insert((self.turn, lane));
        }
        if self.warm.len() <= MAX_WARM {
            return None;
        }
        let (_, oldest) = self.warm.pop_first()?;
        self.ran.remove(&oldest);
        Some(oldest)
    }
}

struct Shared {
    clock: Arc<dyn Clock>,
    /// Lanes of one pipeline on threads, at most: as many as there are cores, so that others get theirs.
    at_once: usize,
    slots: Mutex<Vec<Option<Arc<Slot>>>>,
    readers: Mutex<HashMap<TopicPartition, Vec<usize>>>,
    ready: Mutex<Ready>,
    ready_changed: Condvar,
    /// Told whenever a lane has come off its thread.
    rested: Condvar,
    /// Told whenever none is ready or on a thread any more.
    quiet: Condvar,
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
    shared: std::sync::Weak<Shared>,
    lane: usize,
}

impl Waker {
    pub(crate) fn wake(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.wake(self.lane);
        }
    }
}

impl Shared {
    fn slot(&self, lane: usize) -> Option<Arc<Slot>> {
        lock(&self.slots).get(lane).cloned().flatten()
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
                Ok(_) if next == QUEUED => return self.enqueue(slot.pipeline, lane),
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    fn enqueue(&self, pipeline: usize, lane: usize) {
        let offers = lock(&self.ready).enqueue(pipeline, lane, self.at_once);
        // Otherwise one of the threads that the pipeline has sees to it.
        if offers {
            self.ready_changed.notify_one();
        }
    }

    /// Notes that a lane of a pipeline is on a thread no more.
    fn leave(&self, ready: &mut Ready, pipeline: usize) {
        if ready.leave(pipeline, self.at_once) {
            self.quiet.notify_all();
        }
    }

    /// The next lane that is ready; `None` when the scheduler ends.
    fn next(&self) -> Option<(usize, Arc<Slot>)> {
        let mut ready = lock(&self.ready);
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            let now = self.clock.elapsed();
            let due: Vec<_> = ready.delayed.extract_if(.., |_, (at, _)| *at <= now).collect();
            for (lane, (_, refused)) in due {
                let Some(slot) = self.slot(lane) else { continue };
                if refused {
                    // It was left as running: only its time wakes it.
                    slot.state.store(QUEUED, Ordering::SeqCst);
                    lock(&slot.runner).retry();
                    ready.enqueue(slot.pipeline, lane, self.at_once);
                } else if slot.state.compare_exchange(PARKED, QUEUED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    ready.enqueue(slot.pipeline, lane, self.at_once);
                }
            }
            while let Some((pipeline, lane)) = ready.pop(self.at_once) {
                match self.slot(lane) {
                    Some(slot) => {
                        if !ready.pipelines.is_empty() {
                            self.ready_changed.notify_one();
                        }
                        return Some((lane, slot));
                    }
                    // Removed while it was in the row.
                    None => self.leave(&mut ready, pipeline),
                }
            }
            let wait = ready.delayed.values().map(|(at, _)| at.saturating_sub(now)).min();
            ready = match wait {
                Some(wait) => self.ready_changed.wait_timeout(ready, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.ready_changed.wait(ready).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn work(&self) {
        while let Some((lane, slot)) = self.next() {
            slot.state.store(RUNNING, Ordering::SeqCst);
            let (step, warm) = self.turn(&slot);
            let (mut delay, mut again) = (None, false);
            match step {
                Step::Worked => again = true,
                Step::Backoff(_) => delay = Some((self.clock.elapsed() + BACKOFF, true)),
                Step::StopNode(error) => {
                    lock(&self.failure).get_or_insert(error);
                }
                Step::WaitingUntil(_) | Step::Waiting | Step::Idle | Step::Halted(_) => {
                    let parked = slot.state.compare_exchange(RUNNING, PARKED, Ordering::SeqCst, Ordering::SeqCst);
                    again = parked.is_err();
                    if let (Ok(_), Step::WaitingUntil(until)) = (parked, step) {
                        delay = Some((until, false));
                    }
                }
            }
            let cold = {
                let mut ready = lock(&self.ready);
                if again {
                    slot.state.store(QUEUED, Ordering::SeqCst);
                    ready.enqueue(slot.pipeline, lane, self.at_once);
                }
                // What is ready now is for this thread, which tells others of the rest.
                self.leave(&mut ready, slot.pipeline);
                if let Some((at, refused)) = delay {
                    // Another thread may have run the lane meanwhile: what it was told by storage counts more.
                    let entry = ready.delayed.entry(lane).or_insert((at, refused));
                    if refused {
                        *entry = (at, true);
                    } else if !entry.1 {
                        entry.0 = entry.0.min(at);
                    }
                    // This thread may be at work by then.
                    self.ready_changed.notify_one();
                }
                self.rested.notify_all();
                ready.note_warm(lane, warm)
            };
            self.cool(cold);
        }
    }

    /// Lets a lane make some attempts.
    fn turn(&self, slot: &Slot) -> (Step, bool) {
        let mut runner = lock(&slot.runner);
        let told = slot.told.swap(0, Ordering::SeqCst);
        if told & MOVED != 0 {
            runner.resync();
        }
        if told & GO_OVER != 0 {
            lock(&slot.next).take().into_iter().for_each(|next| runner.go_over(next));
        }
        if told & CLOSE != 0 {
            runner.close();
        }
        if told & RESUME != 0 {
            runner.resume(told & SKIP != 0);
        }
        runner.stop_here(slot.desired.load(Ordering::SeqCst) == Desired::Drain as u8);
        let mut step = Step::Worked;
        for _ in 0..TURN {
            step = runner.step(self.draining.load(Ordering::SeqCst) || slot.stands_still());
            if !matches!(step, Step::Worked) || self.ended.load(Ordering::SeqCst) {
                break;
            }
        }
        if matches!(step, Step::Idle) && runner.state().settled {
            // Drained: it stands still from here on.
            let (drain, pause) = (Desired::Drain as u8, Desired::Pause as u8);
            let _ = slot.desired.compare_exchange(drain, pause, Ordering::SeqCst, Ordering::SeqCst);
        }
        let state = runner.state().clone();
        let before = std::mem::replace(&mut *lock(&slot.seen), state.clone());
        if let Some(Halt { offset, reason, .. }) = state.halt.filter(|halt| before.halt.as_ref() != Some(halt)) {
            let (pipeline, source) = (runner.pipeline_name(), state.at.map(|at| at.to_string()).unwrap_or_default());
            tracing::error!(pipeline, source, offset, reason, "has halted");
        }
        (step, runner.state().warm)
    }

    /// Has a lane give up its instances, unless it is at work.
    fn cool(&self, lane: Option<usize>) {
        let Some(slot) = lane.and_then(|lane| self.slot(lane)) else { return };
        if let Ok(mut runner) = slot.runner.try_lock() {
            runner.rest();
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
    /// It was told to stand still, or is drained.
    pub(crate) paused: bool,
}

impl Scheduler {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            clock,
            at_once: std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            slots: Mutex::default(),
            readers: Mutex::default(),
            ready: Mutex::default(),
            ready_changed: Condvar::new(),
            rested: Condvar::new(),
            quiet: Condvar::new(),
            draining: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
        };
        Self { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Makes room for a pipeline's lanes; its number.
    pub(crate) fn add_pipeline(&self) -> std::io::Result<usize> {
        let pipeline = {
            let mut ready = lock(&self.shared.ready);
            ready.turns.push(Turns::default());
            ready.turns.len() - 1
        };
        let mut threads = lock(&self.threads);
        for _ in 0..self.shared.at_once {
            if threads.len() < MAX_THREADS {
                let (shared, name) = (self.shared.clone(), format!("sluice-guest-{}", threads.len()));
                threads.push(sluice_env::spawn(&name, move || shared.work())?);
            }
        }
        Ok(pipeline)
    }

    /// Adds a lane of a pipeline that reads `sources`, made by `make` from its waker, and lets it run.
    pub(crate) fn add(
        &self,
        pipeline: usize,
        sources: &[TopicPartition],
        desired: Desired,
        make: impl FnOnce(Waker) -> LaneRunner,
    ) -> usize {
        let lane = {
            let mut slots = lock(&self.shared.slots);
            let lane = slots.len();
            let runner = make(Waker { shared: Arc::downgrade(&self.shared), lane });
            let seen = Mutex::new(runner.state().clone());
            slots.push(Some(Arc::new(Slot {
                pipeline,
                runner: Mutex::new(runner),
                state: AtomicU8::new(PARKED),
                desired: AtomicU8::new(desired as u8),
                told: AtomicU8::new(0),
                next: Mutex::default(),
                seen,
            })));
            lane
        };
        let mut readers = lock(&self.shared.readers);
        sources.iter().for_each(|source| readers.entry(*source).or_default().push(lane));
        drop(readers);
        self.shared.wake(lane);
        lane
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

    /// Whether a lane is on no thread and has no attempt in flight, or is gone: asked of all lanes whenever one has had its turn.
    pub(crate) fn rests(&self, lane: usize) -> bool {
        self.shared.slot(lane).is_none_or(|slot| slot.is_parked() && lock(&slot.seen).settled)
    }

    /// Why a lane waits that storage has refused so many times; asked as often.
    pub(crate) fn refused(&self, lane: usize, times: u32) -> Option<String> {
        let slot = self.shared.slot(lane)?;
        let seen = lock(&slot.seen);
        seen.waits_for.clone().filter(|_| seen.refusals >= times)
    }

    /// How a lane stood when it last came off its thread.
    pub(crate) fn seen(&self, lane: usize) -> Option<Seen> {
        let slot = self.shared.slot(lane)?;
        let at_rest = slot.is_parked();
        let state = lock(&slot.seen).clone();
        Some(Seen { state, at_rest, paused: slot.stands_still() })
    }

    /// Has a lane run, stand still or drain.
    pub(crate) fn want(&self, lane: usize, desired: Desired) {
        if let Some(slot) = self.shared.slot(lane) {
            slot.desired.store(desired as u8, Ordering::SeqCst);
            self.shared.wake(lane);
        }
    }

    /// Has a lane try again what it stands still at, or pass over it.
    pub(crate) fn resume(&self, lane: usize, skip: bool) {
        self.tell(lane, if skip { RESUME | SKIP } else { RESUME });
    }

    /// Has a lane fire its timers, for no more events are to come.
    pub(crate) fn close(&self, lane: usize) {
        self.tell(lane, CLOSE);
    }

    /// Has a lane go over to another generation, between two calls.
    pub(crate) fn go_over(&self, lane: usize, generation: Generation) {
        if let Some(slot) = self.shared.slot(lane) {
            *lock(&slot.next) = Some(generation);
        }
        self.tell(lane, GO_OVER);
    }

    /// Has a lane look whether there is something to do.
    pub(crate) fn wake(&self, lane: usize) {
        self.shared.wake(lane);
    }

    /// Tells a lane that its cursor was set anew.
    pub(crate) fn moved(&self, lane: usize) {
        self.tell(lane, MOVED);
    }

    fn tell(&self, lane: usize, what: u8) {
        if let Some(slot) = self.shared.slot(lane) {
            slot.told.fetch_or(what, Ordering::SeqCst);
            self.shared.wake(lane);
        }
    }

    /// Takes lanes away; what they have in hand is fenced by whoever asked for this.
    pub(crate) fn remove(&self, lanes: &[usize]) {
        for readers in lock(&self.shared.readers).values_mut() {
            readers.retain(|lane| !lanes.contains(lane));
        }
        let mut slots = lock(&self.shared.slots);
        let gone: Vec<_> = lanes.iter().filter_map(|lane| slots.get_mut(*lane)?.take()).collect();
        drop(slots);
        let mut ready = lock(&self.shared.ready);
        for lane in lanes {
            ready.delayed.remove(lane);
            if let Some(ran) = ready.ran.remove(lane) {
                ready.warm.remove(&(ran, *lane));
            }
            for turns in &mut ready.turns {
                turns.queue.retain(|queued| queued != lane);
            }
        }
        drop(ready);
        drop(gone);
    }

    /// Why the node must stop, if it must.
    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.shared.failure).clone()
    }

    /// Waits until a lane comes off its thread, or some time has passed.
    pub(crate) fn wait_for_rest(&self, at_most: Duration) {
        let ready = lock(&self.shared.ready);
        drop(self.shared.rested.wait_timeout(ready, at_most));
    }

    /// How often no lane was left that was ready or on a thread.
    pub(crate) fn quiets(&self) -> u64 {
        lock(&self.shared.ready).quiets
    }

    /// Waits until that has happened again since it was so many times, or some time has passed: a thousand lanes are not looked
    /// at whenever one of them comes to rest.
    pub(crate) fn wait_for_quiet(&self, since: u64, at_most: Duration) {
        let ready = lock(&self.shared.ready);
        drop(self.shared.quiet.wait_timeout_while(ready, at_most, |ready| ready.quiets == since));
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
