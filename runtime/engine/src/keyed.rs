//! A lane's keyed state: what its attempts change, and how that is committed with them.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_event::{Batch, NewEvent, Outcome, Region};
use sluice_log::{Append, Committed, Error, TopicPartition};
use sluice_state::{FLUSH_BYTES, Flush, Head, Layer, MAX_KEY_BYTES, PartitionState, SharedState};

use crate::port::{CallError, CallErrorKind};

/// A lane waits for the store when so much is not there yet.
const MOST_UNFLUSHED_BYTES: usize = 64 << 20;
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
    /// Bytes of keys and values in each partition.
    pub max_bytes: u64,
}

/// Reads what an outcome changes of a stage's state; `has_failed` says which of its inputs may change nothing.
pub(crate) fn changes(
    outcome: &Outcome<'_>,
    has_failed: impl Fn(u32) -> bool,
    prefix: &[u8],
    changes: &mut Layer,
) -> Result<(), CallError> {
    for write in outcome.state_writes() {
        let write = write?;
        if has_failed(write.input) {
            let message = "a state write comes of an event that failed";
            return Err(CallError::new(CallErrorKind::BadOutcome, message).at(write.input));
        }
        let too_large = if write.key.len() > MAX_KEY_BYTES {
            Some(format!("a key of {} bytes for the state; it has at most {MAX_KEY_BYTES}", write.key.len()))
        } else {
            let len = write.value.map_or(0, <[u8]>::len);
            (len > MAX_VALUE_BYTES)
                .then(|| format!("a value of {len} bytes for the state; it has at most {MAX_VALUE_BYTES}"))
        };
        if let Some(message) = too_large {
            let message = format!("{message}, which cannot be changed");
            return Err(CallError::new(CallErrorKind::Limit, message).at(write.input));
        }
        changes.push(prefix, write.key, write.value, write.expires);
    }
    Ok(())
}

/// Checks that a stage keeps no more than it may, once these changes are made.
pub(crate) fn check_size(
    state: &SharedState,
    stage: &str,
    grant: StateGrant,
    changes: &Layer,
) -> Result<(), CallError> {
    let size = state.lock().size_with(stage, changes, grant.max_bytes);
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
#[derive(Debug, Clone, Copy)]
struct Attempt {
    id: u64,
    /// The watermark behind its events.
    watermark: Option<i64>,
}

/// A commit with changes that is not answered.
#[derive(Debug, Clone, Copy)]
struct Submitted {
    id: u64,
    /// The last attempt whose changes it holds.
    through: Attempt,
    /// The first event that it deals with.
    from: u64,
}

/// The state of a lane, and what is in flight of it.
pub(crate) struct Keyed {
    config: StateConfig,
    attempts: VecDeque<Attempt>,
    submitted: VecDeque<Submitted>,
    /// Behind all events that were given to the consumer.
    watermark: Option<i64>,
    /// Before each event of the batch in hand, and behind the last.
    marks: Vec<Option<i64>>,
    /// The same but the last, as the guest gets them.
    bytes: Vec<u8>,
    /// Why the state cannot be relied on any more.
    failure: Option<sluice_state::Error>,
}

impl Keyed {
    /// The state of a lane that is woken with `wake`.
    pub(crate) fn new(config: StateConfig, wake: &Arc<dyn Fn() + Send + Sync>) -> Self {
        config.shared.wake_with(wake.clone());
        let watermark = config.shared.lock().applied().watermark;
        Self {
            config,
            attempts: VecDeque::new(),
            submitted: VecDeque::new(),
            watermark,
            marks: Vec::new(),
            bytes: Vec::new(),
            failure: None,
        }
    }

    /// Notes the watermark before each event of a batch, as the guest gets it.
    pub(crate) fn begin(&mut self, events: Region<'_>) -> &[u8] {
        self.marks.clear();
        self.bytes.clear();
        let mut watermark = self.watermark;
        self.marks.push(watermark);
        for event in events.events().flatten() {
            self.bytes.extend_from_slice(&watermark.unwrap_or(i64::MIN).to_le_bytes());
            watermark = watermark.max(Some(event.timestamp()));
            self.marks.push(watermark);
        }
        &self.bytes
    }

    /// An attempt over the first events of the batch in hand has made these changes.
    pub(crate) fn attempted(&mut self, id: u64, processed: usize, layer: Layer) {
        if processed > 0 {
            self.watermark = self.marks.get(processed).copied().flatten().or(self.watermark);
        }
        self.attempts.push_back(Attempt { id, watermark: self.watermark });
        self.config.shared.lock().push(id, layer);
    }

    /// What is to be appended in the commit of this number, which holds the changes of all attempts up to `through`, so that the state goes
    /// where the cursor goes.
    pub(crate) fn append(&mut self, id: u64, through: u64, head: Head) -> Append {
        let last = self.attempts.iter().rev().find(|attempt| attempt.id <= through).copied();
        let through = last.unwrap_or(Attempt { id: through, watermark: self.watermark });
        let state = self.config.shared.lock();
        let at = state.applied().offset + self.submitted.len() as u64;
        let bytes = state.delta_through(through.id, Head { watermark: through.watermark, ..head });
        drop(state);
        self.submitted.push_back(Submitted { id, through, from: head.from });
        let mut batch = Batch::default();
        let timestamp = through.watermark.unwrap_or(0);
        let pushed = batch.push(&NewEvent { timestamp, value: &bytes, ..NewEvent::default() });
        debug_assert!(pushed.is_ok(), "a call's changes are far smaller than what an event can hold");
        Append::new(self.config.changelog, batch).at(at)
    }

    /// A commit was made.
    pub(crate) fn committed(&mut self, id: u64, committed: &Committed) {
        let Some(at) = self.submitted.iter().position(|submitted| submitted.id == id) else { return };
        let Some(Submitted { through, from, .. }) = self.submitted.remove(at) else { return };
        while self.attempts.pop_front_if(|attempt| attempt.id <= through.id).is_some() {}
        let mut state = self.config.shared.lock();
        let appended = committed.appended.iter().find(|appended| appended.to == self.config.changelog);
        let offset = appended.map_or(state.applied().offset, |appended| appended.base_offset);
        if let Err(error) = state.committed_through(through.id, offset, (from, through.watermark)) {
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
        self.submitted.retain(|submitted| submitted.through.id < id);
        let mut state = self.config.shared.lock();
        state.discard_from(id);
        self.watermark = self.attempts.back().map_or(state.applied().watermark, |attempt| attempt.watermark);
    }

    /// Takes the state that is committed in place of what it has; not while its store is in use.
    pub(crate) fn reopen(&mut self) -> Result<bool, Error> {
        self.discard_from(0);
        // The store is one process's and one owner's: it goes before it is opened again.
        if !self.config.shared.close() {
            return Ok(false);
        }
        let state = (self.config.reopen)()?;
        self.watermark = state.applied().watermark;
        self.config.shared.replace(state);
        self.config.shared.moved();
        Ok(true)
    }

    /// Events before this offset are dealt with again only for what they do to the state.
    pub(crate) fn quiet_until(&self) -> u64 {
        self.config.shared.lock().applied().quiet_until.unwrap_or(0)
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
