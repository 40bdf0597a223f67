//! What delivery needs of the outside.

use sluice_log::{Again, Commit, Done, Error, ReadBatch, TopicPartition};
use sluice_state::{Entries, StageState};

/// A consumer that can be called: one instance of a plugin.
pub trait Consumer: Send {
    /// Calls the consumer with a batch: `header` is a [`sluice_event::View`], `events` the region. What it returns is given
    /// to `receive`, which must not believe it.
    ///
    /// # Errors
    /// When the call did not return. The instance must not be used again then.
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError>;

    /// Bytes of memory that the instance has.
    fn memory(&self) -> usize {
        0
    }

    /// Whether a new instance should take its place before the next call: it has grown so much that it may soon have more memory than it may.
    fn is_worn(&self) -> bool {
        false
    }

    /// The version of the shape that its values have in the state. It sees no others.
    fn state_version(&self) -> u32 {
        0
    }

    /// Brings values of an older version into the shape of its own: what it returns stands in place of these.
    ///
    /// # Errors
    /// When it cannot, or the call did not return. The instance must not be used again then.
    fn migrate(&mut self, from: u32, _entries: &Entries) -> Result<Entries, CallError> {
        Err(CallError::no_migration(from))
    }

    /// Whether what a failed event did to the state is undone in the outcome. Otherwise nothing of a call with a failure can be used.
    fn undoes_failures(&self) -> bool {
        true
    }
}

/// A plugin from which instances can be made.
pub trait Plugin: Send + Sync {
    /// Makes an instance and initialises it. It reads `state`, where it is granted any.
    ///
    /// # Errors
    /// When it cannot be made, or refuses its configuration.
    fn instantiate(&self, state: Option<StageState>) -> Result<Box<dyn Consumer>, CallError>;

    /// Whether consumers may be given events with timers between them, and stop where a timer that they set is due before the next event.
    fn takes_timers_between(&self) -> bool {
        true
    }
}

/// Why a call did not return, or what it returned cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct CallError {
    /// What happened.
    pub kind: CallErrorKind,
    /// In full, with the guest's own words where it left some.
    pub message: String,
    /// Index of the event in hand, where the guest says; of a timer, with the highest bit set.
    pub in_hand: Option<u32>,
    /// The guest's functions on the stack, innermost first, by name where the plugin has names.
    pub backtrace: Vec<String>,
}

impl CallError {
    /// One of no event in particular.
    pub fn new(kind: CallErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), in_hand: None, backtrace: Vec::new() }
    }

    /// That of a plugin which does not know how values of this version are brought over.
    pub fn no_migration(from: u32) -> Self {
        let what = format!("its state is of version {from}, and the plugin has no `migrate`");
        Self::new(CallErrorKind::Permanent, what)
    }

    /// The same, of this event.
    #[must_use]
    pub fn at(self, index: u32) -> Self {
        Self { in_hand: Some(index), ..self }
    }
}

/// What happened to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The guest trapped; a panic is one.
    Trap,
    /// The guest did not return in time.
    Timeout,
    /// The guest wanted more than it may have.
    Limit,
    /// What it returned is malformed.
    BadOutcome,
    /// The consumer says that an event will never go through.
    Permanent,
    /// The consumer says that trying again may help, and it did not.
    Transient,
    /// No instance could be made.
    Instantiate,
    /// The state cannot be read: no event is to blame.
    State,
}

impl CallErrorKind {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Trap,
        Self::Timeout,
        Self::Limit,
        Self::BadOutcome,
        Self::Permanent,
        Self::Transient,
        Self::Instantiate,
        Self::State,
    ];

    /// As dead letters call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::BadOutcome => "bad-outcome",
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Instantiate => "instantiate",
            Self::State => "state",
        }
    }
}

impl std::fmt::Display for CallErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trap => "trap",
            Self::Timeout => "call-timeout exceeded",
            Self::Limit => "limit exceeded",
            Self::BadOutcome => "malformed outcome",
            Self::Permanent => "permanent failure",
            Self::Transient => "transient failure",
            Self::Instantiate => "cannot be instantiated",
            Self::State => "state cannot be read",
        })
    }
}

/// A guest call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// The pipeline's id.
    pub pipeline: u32,
    /// The source partition.
    pub source: TopicPartition,
    /// The first event.
    pub from: u64,
    /// How many events.
    pub events: u32,
}

/// Is told of guest calls, so that it is known what was under way should the process die.
pub trait Witness: Send + Sync {
    /// This thread is about to call a guest.
    fn enter(&self, call: &UnderWay);

    /// It is back.
    fn leave(&self);
}

/// Nobody is told.
impl Witness for () {
    fn enter(&self, _: &UnderWay) {}

    fn leave(&self) {}
}

/// Reads one source partition, from an offset that may be set anew.
pub trait Source: Send {
    /// The first offset that cannot be read yet.
    fn high_watermark(&self) -> u64;

    /// Puts events from `from` on into `out`: at most `max_events` and `max_bytes`, but for a single larger event.
    ///
    /// # Errors
    /// When the partition is damaged.
    fn read(&mut self, from: u64, max_events: u32, max_bytes: usize, out: &mut ReadBatch) -> Result<(), Error>;

    /// Whether there is nothing to read at an offset, nor was at this time of day, ms since the epoch.
    fn is_silent(&mut self, at: u64, _now: i64) -> bool {
        at >= self.high_watermark()
    }

    /// Gives back the memory it reads into.
    fn rest(&mut self) {}

    /// Nothing is left to read for now: gives back the memory it reads into, and stays where it is.
    fn caught_up(&mut self) {}
}

/// Commits.
///
/// An implementation refuses a commit whose input does not start at the committed cursor: that is what makes a failed
/// attempt take all those planned on it along.
pub trait Storage: Send + Sync {
    /// Hands a commit over; may block while too many wait. `done` learns, once, what became of it.
    fn submit(&self, commit: Commit, done: Done);

    /// The epoch of a pipeline and its cursor on a partition; `None` when it has none there any more.
    fn position(&self, pipeline: u32, source: TopicPartition) -> Option<(u64, u64)>;

    /// Where outputs go of what a pipeline reads again of a partition, if not to its sinks.
    fn again(&self, _pipeline: u32, _source: TopicPartition) -> Option<Again> {
        None
    }
}

impl Storage for sluice_log::Log {
    fn submit(&self, commit: Commit, done: Done) {
        Self::submit(self, commit, done);
    }

    fn position(&self, pipeline: u32, source: TopicPartition) -> Option<(u64, u64)> {
        self.cursor(pipeline, source)
    }

    fn again(&self, pipeline: u32, source: TopicPartition) -> Option<Again> {
        Self::again(self, pipeline, source)
    }
}

impl Source for sluice_log::Reader {
    fn high_watermark(&self) -> u64 {
        self.partition().high_watermark()
    }

    fn read(&mut self, from: u64, max_events: u32, max_bytes: usize, out: &mut ReadBatch) -> Result<(), Error> {
        self.seek(from);
        Self::read(self, max_events, max_bytes, out)
    }

    fn rest(&mut self) {
        Self::rest(self);
    }

    fn caught_up(&mut self) {
        Self::caught_up(self);
    }
}
