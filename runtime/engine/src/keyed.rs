//! A lane's keyed state: what its attempts change, and how that is committed with them.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_event::{Clock, NewEvent, Outcome, Source as EventSource};
use sluice_log::{Append, Committed, Error, ReadBatch, TopicPartition, batch_for};
use sluice_state::{
    Applied, FLUSH_BYTES, Flush, Head, Layer, MAX_KEY_BYTES, PartitionState, Quiet, SharedState, Timer,
};

use crate::port::{CallError, CallErrorKind};
use crate::timers::{Due, MOST_DUE};
use crate::watermark::{EventTime, Mark, Marks, OUTSIDE, TimePolicy, mark};

/// A lane waits for the store when so much is not there yet.
const MOST_UNFLUSHED_BYTES: usize = 64 << 20;
/// So many times of day are remembered of one commit, at most.
const MOST_CLOCKS: usize = 1024;
/// The largest value.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// Writes to stores what is committed, aside from lanes.
pub trait Flusher: Send + Sync {
    /// Has the flush run, with [`SharedState::run`]. It must not block.
    fn flush(&self, state: SharedState, flush: Flush);
}

/// The state of a lane.
#[derive(Clone)]
pub struct StateConfig {
    /// The state of its partition.
    pub shared: SharedState,
    /// Where its changes are appended.
    pub changelog: TopicPartition,
    /// Writes to its store.
    pub flusher: Arc<dyn Flusher>,
    /// Brings the state up again from what is committed: somebody has moved the cursor, and the state with it.
    pub reopen: Reopen,
    /// How event time goes on.
    pub time: Arc<TimePolicy>,
}

/// At once: for what is kept in memory only.
impl Flusher for () {
    fn flush(&self, state: SharedState, flush: Flush) {
        // A failure is the state's to tell.
        let _ = state.run(&flush);
    }
}

/// Brings a state up from what is committed.
pub type Reopen = Arc<dyn Fn() -> Result<PartitionState, Error> + Send + Sync>;

/// What a stage may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateGrant {
    /// Bytes of keys, values and timers in each partition.
    pub max_bytes: u64,
    /// It may keep values under keys.
    pub values: bool,
    /// It may set timers.
    pub timers: bool,
}

/// Has the first events of a batch of a source topic pass by: `each` is told of each its index, whether it is late, and the watermark behind it.
fn pass_by(
    time: &mut EventTime,
    (topic, batch): (usize, &ReadBatch),
    events: u32,
    mut each: impl FnMut(u32, bool, Option<i64>),
) {
    let mut appended = batch.append_times.iter().peekable();
    let mut appended_at = 0;
    for (index, (timestamp, writer)) in (0..events).zip(batch.region().times()) {
        while let Some((_, next)) = appended.next_if(|(from, _)| *from <= index) {
            appended_at = *next;
        }
        let is_late = time.event(topic, writer.unwrap_or(OUTSIDE), timestamp, appended_at);
        each(index, is_late, time.current());
    }
}

/// Reads what an outcome changes of a stage's values; `has_failed` says which of its inputs and timers may change nothing.
pub(crate) fn changes(
    outcome: &Outcome<'_>,
    has_failed: impl Fn((EventSource, u32)) -> bool,
    prefix: &[u8],
    changes: &mut Layer,
) -> Result<(), CallError> {
    for write in outcome.state_writes() {
        let write = write?;
        let at = |error: CallError| if write.of.0 == EventSource::Input { error.at(write.of.1) } else { error };
        if has_failed(write.of) {
            let message = "a state write comes of an event that failed";
            return Err(at(CallError::new(CallErrorKind::BadOutcome, message)));
        }
        check_entry(write.key, write.value).map_err(at)?;
        changes.push(prefix, write.key, write.value, write.expires);
    }
    Ok(())
}

/// Checks that a key and its value are not too large.
pub(crate) fn check_entry(key: &[u8], value: Option<&[u8]>) -> Result<(), CallError> {
    let (key, value) = (key.len(), value.map_or(0, <[u8]>::len));
    let (what, len, most) = match () {
        () if key > MAX_KEY_BYTES => ("key", key, MAX_KEY_BYTES),
        () if value > MAX_VALUE_BYTES => ("value", value, MAX_VALUE_BYTES),
        () => return Ok(()),
    };
    let message = format!("a {what} of {len} bytes for the state; it has at most {most}, which cannot be changed");
    Err(CallError::new(CallErrorKind::Limit, message))
}

/// Checks that a stage keeps no more than it may in these spaces, once these changes are made.
pub(crate) fn check_size(
    state: &SharedState,
    spaces: &[&str],
    grant: StateGrant,
    changes: &Layer,
) -> Result<(), CallError> {
    let size = state.lock().size_with(spaces, changes, grant.max_bytes);
    let size = size.map_err(|error| CallError::new(CallErrorKind::State, error.to_string()))?;
    let limit = grant.max_bytes;
    if size <= limit {
        return Ok(());
    }
    let message =
        format!("the state would come to {size} bytes, over its limit of {limit}; `limits.state` changes that");
    Err(CallError::new(CallErrorKind::Limit, message))
}

/// An attempt that is not committed.
#[derive(Debug, Clone)]
struct Attempt {
    id: u64,
    /// How many of its events were late.
    late: u32,
    /// Timers fired wherever the watermark was.
    closed: bool,
    /// Where the time of day mattered, and what it was.
    clock: Option<(u64, i64)>,
    stands: Stands,
}

/// How a lane stands between two attempts.
#[derive(Debug, Clone)]
struct Stands {
    /// Behind all events that were given to the consumer.
    time: EventTime,
    /// Outputs so far of timers that fired before the next event.
    fired_outputs: u32,
}

/// A commit with changes that is not answered.
#[derive(Debug, Clone)]
struct Submitted {
    id: u64,
    /// The last attempt whose changes it holds.
    through: u64,
    head: Head,
}

/// The state of a lane, and what is in flight of it.
pub(crate) struct Keyed {
    config: StateConfig,
    /// The source topics.
    topics: Vec<u32>,
    attempts: VecDeque<Attempt>,
    submitted: VecDeque<Submitted>,
    /// Bytes that a delta is likely to have.
    delta_bytes: usize,
    stands: Stands,
    /// All timers up to this time fire, wherever the watermark is.
    closing: Option<i64>,
    /// Since the last attempt this time of day has mattered: a writer is idle by it, or a timer is due.
    clock: Option<i64>,
    /// Before each event of the batch in hand, and behind the last.
    marks: Vec<Mark>,
    /// Events of the batch in hand that are late, by their index.
    late: Vec<u32>,
    /// How time stands behind all of it.
    ahead: EventTime,
    /// Why the state cannot be relied on any more.
    failure: Option<sluice_state::Error>,
}

impl Stands {
    /// By what is committed.
    fn of(config: &StateConfig, topics: &[u32]) -> Result<Self, sluice_state::Error> {
        let state = config.shared.lock();
        let Applied { watermark, fired_outputs, .. } = *state.applied();
        let time = EventTime::of(&config.time, topics, watermark, &state.writers()?);
        Ok(Self { time, fired_outputs })
    }

    /// By nothing.
    fn new(config: &StateConfig, topics: &[u32]) -> Self {
        Self { time: EventTime::of(&config.time, topics, None, &[]), fired_outputs: 0 }
    }
}

impl Keyed {
    /// The state of a lane that reads these topics and is woken with `wake`.
    pub(crate) fn new(config: StateConfig, topics: Vec<u32>, wake: &Arc<dyn Fn() + Send + Sync>) -> Self {
        config.shared.wake_with(wake.clone());
        let (stands, failure) = match Stands::of(&config, &topics) {
            Ok(stands) => (stands, None),
            Err(error) => (Stands::new(&config, &topics), Some(error)),
        };
        Self {
            config,
            topics,
            attempts: VecDeque::new(),
            submitted: VecDeque::new(),
            delta_bytes: 0,
            ahead: stands.time.clone(),
            stands,
            closing: None,
            clock: None,
            marks: Vec::new(),
            late: Vec::new(),
            failure,
        }
    }

    /// Notes the watermark before each event of a batch of a source topic, by its position.
    pub(crate) fn begin(&mut self, (topic, batch): (usize, &ReadBatch)) {
        if batch.count > 0 {
            // What was closed is open again.
            self.closing = None;
        }
        self.marks.clear();
        self.marks.reserve(batch.count as usize + 1);
        self.late.clear();
        self.marks.push(mark(self.watermark()));
        self.ahead = self.stands.time.clone();
        pass_by(&mut self.ahead, (topic, batch), batch.count, |index, is_late, watermark| {
            self.late.extend(is_late.then_some(index));
            self.marks.push(mark(watermark));
        });
    }

    /// The watermarks before each of the first events of the batch in hand, and behind the last of them.
    pub(crate) fn marks(&self, events: u32) -> Marks<'_> {
        Marks(&self.marks[..=events as usize])
    }

    /// The watermark that timers fire by.
    fn watermark(&self) -> Option<i64> {
        self.stands.time.current().max(self.closing)
    }

    /// The sink to which late events go, and those among the first of the batch in hand, by their index, if there are any.
    pub(crate) fn diverted(&self, events: u32) -> Option<(usize, &[u32])> {
        let late = &self.late[..self.late.partition_point(|index| *index < events)];
        self.config.time.late_sink.filter(|_| !late.is_empty()).map(|sink| (sink, late))
    }

    /// It is this time of day, and nothing more was appended before it to the source topics that are silent.
    pub(crate) fn pass(&mut self, now: i64, silent: &[bool]) {
        if self.stands.time.pass(now, silent) {
            self.clock = Some(now);
        }
    }

    /// Whether timers fire now for something else than events.
    pub(crate) fn fires_besides(&self) -> bool {
        self.clock.is_some() || self.closing.is_some()
    }

    /// When time goes on by itself, for a writer is idle then; `None` when no timer waits for it.
    pub(crate) fn next_idle(&mut self) -> Result<Option<i64>, sluice_state::Error> {
        let Some(next) = self.stands.time.next_idle() else { return Ok(None) };
        let waits = self.config.shared.lock().next_timer(Clock::EventTime)? < i64::MAX;
        Ok(waits.then_some(next))
    }

    /// Timers that are due before the next event, by the time of day and by the watermark; at most so many.
    pub(crate) fn due_now(&mut self, now: i64, most: usize) -> Result<Vec<Timer>, sluice_state::Error> {
        let watermark = self.watermark();
        let mut state = self.config.shared.lock();
        let mut due = state.due_timers(Clock::WallClock, now, most)?;
        if !due.is_empty() {
            self.clock = Some(now);
        }
        if let Some(watermark) = watermark.filter(|_| due.len() < most) {
            due.extend(state.due_timers(Clock::EventTime, watermark, most - due.len())?);
        }
        Ok(due)
    }

    /// When the next timer fires that goes by the time of day.
    pub(crate) fn next_by_wall_clock(&mut self) -> Result<Option<i64>, sluice_state::Error> {
        let next = self.config.shared.lock().next_timer(Clock::WallClock)?;
        Ok((next < i64::MAX).then_some(next))
    }

    /// Has the timers fire that are set by now for any time.
    pub(crate) fn close(&mut self) -> Result<(), sluice_state::Error> {
        let last = self.config.shared.lock().last_timer(Clock::EventTime)?;
        self.closing = self.closing.max(last);
        Ok(())
    }

    /// Timers that are due before one of the batch's events or behind the last, and how many of the events may be given with them. Where they are to
    /// be called apart, none, and the events before the first.
    pub(crate) fn due_between(
        &self,
        now: &[Timer],
        apart: bool,
        stage: &str,
        behind: (TopicPartition, u64),
    ) -> Result<(Due, u32), sluice_state::Error> {
        let events = (self.marks.len() - 1) as u32;
        let apart = apart || self.diverted(events).is_some();
        let behind_first = |place: u32| if now.is_empty() { place } else { 0 };
        let mut due = Due { fired_outputs: self.stands.fired_outputs, behind, ..Due::default() };
        let marks = Marks(&self.marks);
        let Some(last) = marks.last() else { return Ok((due, events)) };
        let timers = self.config.shared.lock().due_timers(Clock::EventTime, last, MOST_DUE + 1)?;
        let place = |timer: &Timer| marks.reach(timer.time);
        // Those of a stage that is not there any more are not given to another.
        let is_foreign = |timer: &Timer| timer.stage != stage;
        if apart || timers.iter().any(is_foreign) || now.iter().any(is_foreign) {
            return Ok((due, behind_first(timers.first().map_or(events, place))));
        }
        // What does not come along any more fires in the next call.
        let most = timers.get(MOST_DUE).map_or(events, place);
        let by_wall_clock = now.iter().filter(|timer| timer.clock == Clock::WallClock).cloned();
        for timer in by_wall_clock.chain(timers.into_iter().take(MOST_DUE)) {
            due.before.push(if timer.clock == Clock::WallClock { 0 } else { place(&timer) });
            due.timers.push(timer);
        }
        Ok((due, most))
    }

    /// Outputs so far of timers that fired before the next event.
    pub(crate) fn fired_outputs(&self) -> u32 {
        self.stands.fired_outputs
    }

    /// An attempt at a place, over the first events of a batch of a source topic, has made these changes; with how many outputs of timers that fired
    /// before the next event.
    pub(crate) fn attempted(
        &mut self,
        (id, place): (u64, u64),
        (topic, batch, processed): (usize, &ReadBatch, u32),
        fired_outputs: u32,
        mut layer: Layer,
    ) {
        let mut late = 0;
        if processed > 0 && processed as usize == self.marks.len() - 1 {
            (self.stands.time, late) = (self.ahead.clone(), self.late.len() as u32);
        } else {
            let late = |_, is_late, _| late += u32::from(is_late);
            pass_by(&mut self.stands.time, (topic, batch), processed, late);
        }
        self.stands.time.take_changed().iter().for_each(|seen| seen.keep(&mut layer));
        self.stands.fired_outputs = fired_outputs;
        let (closed, clock) = (self.closing.is_some(), self.clock.take().map(|now| (place, now)));
        self.attempts.push_back(Attempt { id, late, closed, clock, stands: self.stands.clone() });
        if let Err(error) = self.config.shared.lock().push(id, layer) {
            self.failure.get_or_insert(error);
        }
    }

    /// What is to be appended in the commit of this number, which holds the changes of all attempts up to `through`, so that the state goes
    /// where the cursor goes.
    pub(crate) fn append(&mut self, id: u64, through: u64, head: Head) -> Append {
        // Those before are in commits that are under way.
        let behind = self.submitted.back().map(|submitted| submitted.through);
        let own = |attempt: &&Attempt| attempt.id <= through && behind.is_none_or(|behind| attempt.id > behind);
        let late = self.attempts.iter().filter(own).map(|attempt| attempt.late).sum();
        let closed = self.attempts.iter().filter(own).any(|attempt| attempt.closed);
        // Their number is bounded where they are written.
        let clocks = self.attempts.iter().filter(own).filter_map(|attempt| attempt.clock).take(MOST_CLOCKS).collect();
        let last = self.attempts.iter().rev().find(|attempt| attempt.id <= through);
        let (through, stands) = last.map_or((through, &self.stands), |last| (last.id, &last.stands));
        let (watermark, fired_outputs) = (stands.time.current(), stands.fired_outputs);
        let head = Head { watermark, fired_outputs, late, closed, clocks, ..head };
        let state = self.config.shared.lock();
        let at = state.applied().offset + self.submitted.len() as u64;
        let mut batch = batch_for(self.delta_bytes);
        let event = NewEvent { timestamp: watermark.unwrap_or(0), ..NewEvent::default() };
        let pushed = batch.push_with(&event, |out| state.delta_through(behind, through, &head, out));
        debug_assert!(pushed.is_ok(), "a call's changes are far smaller than what an event can hold");
        drop(state);
        self.delta_bytes = batch.bytes().len() + batch.bytes().len() / 8;
        self.submitted.push_back(Submitted { id, through, head });
        Append::new(self.config.changelog, batch).at(at)
    }

    /// A commit was made.
    pub(crate) fn committed(&mut self, id: u64, committed: &Committed) {
        let Some(at) = self.submitted.iter().position(|submitted| submitted.id == id) else { return };
        let Some(Submitted { through, head, .. }) = self.submitted.remove(at) else { return };
        while self.attempts.pop_front_if(|attempt| attempt.id <= through).is_some() {}
        let mut state = self.config.shared.lock();
        let appended = committed.appended.iter().find(|appended| appended.to == self.config.changelog);
        let offset = appended.map_or(state.applied().offset, |appended| appended.base_offset);
        if let Err(error) = state.committed_through(through, offset, &head) {
            self.failure.get_or_insert(error);
        }
        self.config.shared.moved();
        if state.unflushed_bytes() >= FLUSH_BYTES
            && let Some(flush) = state.start_flush()
        {
            drop(state);
            self.config.flusher.flush(self.config.shared.clone(), flush);
        }
    }

    /// A commit was refused that holds the changes of attempts which stand: they will be in another.
    pub(crate) fn refused(&mut self, id: u64) {
        self.submitted.retain(|submitted| submitted.id != id);
    }

    /// The attempt of this number, and all after it, never happened.
    pub(crate) fn discard_from(&mut self, id: u64) {
        self.attempts.retain(|attempt| attempt.id < id);
        self.clock = None;
        self.submitted.retain(|submitted| submitted.through < id);
        self.config.shared.lock().discard_from(id);
        match self.attempts.back() {
            Some(last) => self.stands = last.stands.clone(),
            None => self.stand_as_committed(),
        }
    }

    /// Goes back to what is committed.
    fn stand_as_committed(&mut self) {
        match Stands::of(&self.config, &self.topics) {
            Ok(stands) => self.stands = stands,
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }

    /// Takes the state that is committed in place of what it has; not while its store is in use.
    pub(crate) fn reopen(&mut self) -> Result<bool, Error> {
        self.discard_from(0);
        // The store is one process's and one owner's: it goes before it is opened again.
        if !self.config.shared.close() {
            return Ok(false);
        }
        self.config.shared.replace((self.config.reopen)()?);
        self.closing = None;
        self.stand_as_committed();
        self.config.shared.moved();
        Ok(true)
    }

    /// Events before this place are dealt with again only for what they do to the state.
    pub(crate) fn quiet_until(&self) -> u64 {
        self.config.shared.lock().applied().quiet.as_ref().map_or(0, |quiet| quiet.until)
    }

    /// The source topic of the event that was dealt with last, and what is to come first, by what is committed.
    pub(crate) fn begins(&self) -> (Option<u32>, Vec<(u32, u64, u64)>) {
        let state = self.config.shared.lock();
        let Applied { topic, quiet, .. } = state.applied();
        (*topic, quiet.iter().flat_map(|Quiet { runs, .. }| runs).copied().collect())
    }

    /// Whether the store is so far behind that the lane has to wait for it.
    pub(crate) fn must_wait(&self) -> bool {
        let state = self.config.shared.lock();
        state.is_flushing() && state.unflushed_bytes() >= MOST_UNFLUSHED_BYTES
    }

    /// Why the state cannot be relied on any more, if that is so.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed = self.config.shared.lock().failure().cloned();
        self.failure.clone().or(failed).map(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use sluice_state::{Delta, MemoryStore, PartitionState, SharedState};

    use super::*;

    #[test]
    fn a_delta_holds_its_own_changes_alone_while_those_before_are_under_way() {
        let changelog = TopicPartition { topic: 2, partition: 0 };
        let open = || PartitionState::open(Arc::new(MemoryStore::default())).unwrap();
        let (shared, reopen) = (SharedState::new(open()), Arc::new(move || Ok(open())));
        let config = StateConfig { shared, changelog, flusher: Arc::new(()), reopen, time: Arc::default() };
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
        let mut keyed = Keyed::new(config, vec![1], &wake);
        let attempt = |keyed: &mut Keyed, id: u64| {
            let mut changes = Layer::default();
            changes.push(b"prefix", &id.to_be_bytes(), Some(b"value"), None);
            keyed.attempted((id, id), (1, &ReadBatch::default(), 0), 0, changes.clone());
            changes
        };
        let told = |append: Append| {
            let event = append.batch.region().events().next().unwrap().unwrap();
            Delta::decode(event.value()).unwrap().layer
        };
        let first = attempt(&mut keyed, 0);
        assert_eq!(told(keyed.append(0, 0, Head::default())), first);
        // At-least-once, one delta holds what several attempts have changed.
        let (second, third) = (attempt(&mut keyed, 1), attempt(&mut keyed, 2));
        let both: Vec<_> = second.changes().chain(third.changes()).collect();
        assert_eq!(told(keyed.append(9, 2, Head::default())).changes().collect::<Vec<_>>(), both);
    }
}
