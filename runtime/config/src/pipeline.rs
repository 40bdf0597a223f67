//! A checked pipeline definition.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checker;
use crate::diagnostic::Diagnostic;

/// How often an event's effects can come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Neither lost nor repeated, as seen by readers of the log.
    #[default]
    ExactlyOnce,
    /// Never lost; repeated after a crash.
    AtLeastOnce,
    /// Never repeated; lost after a crash.
    AtMostOnce,
}

impl std::fmt::Display for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
            Self::AtMostOnce => "at-most-once",
        })
    }
}

/// Where a pipeline begins when it starts for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At the oldest event.
    #[default]
    Earliest,
    /// At the next one.
    Latest,
    /// At the first one appended at this time or later; milliseconds since the epoch.
    Time(i64),
}

/// How a sink spreads its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionBy {
    /// By the hash of the key.
    #[default]
    Key,
    /// One after the other.
    RoundRobin,
    /// As the source.
    Source,
}

/// What an instance may use, where the definition says something else than the default. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// All its memories together.
    pub memory: Option<u64>,
    /// Time for one call.
    pub call_timeout: Option<Duration>,
    /// What one call may return.
    pub output_bytes: Option<u64>,
    /// How many outputs one event may have.
    pub outputs_per_event: Option<u32>,
    /// What it may write to the log in a second.
    pub log_bytes: Option<u64>,
    /// Elements of all its tables.
    pub table_elements: Option<u32>,
    /// Size of the .wasm file.
    pub wasm_size: Option<u64>,
    /// Processor time to compile it.
    pub compile_time: Option<Duration>,
    /// Memory to compile it in.
    pub compile_memory: Option<u64>,
    /// Its state in each partition.
    pub state: Option<u64>,
}

/// One consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Unique in the pipeline.
    pub name: String,
    /// A .wasm file or a plugin's folder, relative to the working directory.
    pub plugin: PathBuf,
    /// JSON.
    pub config: String,
    /// What it may use.
    pub limits: Limits,
    /// Whether its outputs keep the keys of their events.
    pub keys_unchanged: bool,
    /// Whether it may keep state.
    pub state: bool,
    /// Whether it may set timers.
    pub timers: bool,
}

impl Stage {
    /// Whether it keeps anything from one event to another.
    pub fn keeps(&self) -> bool {
        self.state || self.timers
    }
}

/// How the time of events goes on, for pipelines with state or timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// How long after a timestamp earlier ones are still in time.
    pub lateness: Duration,
    /// A writer that has written nothing for so long holds up nobody.
    pub idle_after: Duration,
    /// A timestamp that is further ahead of the time it was appended does not advance the watermark.
    pub max_ahead: Duration,
    /// The sink, by its position, to which late events go in place of the first stage.
    pub late_sink: Option<usize>,
}

impl Default for Time {
    fn default() -> Self {
        let (idle_after, max_ahead) = (Duration::from_secs(30), Duration::from_secs(3600));
        Self { lateness: Duration::ZERO, idle_after, max_ahead, late_sink: None }
    }
}

/// Checkpoints that a pipeline with state makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoints {
    /// How often, unless nothing has changed.
    pub every: Duration,
    /// All are kept for so long,
    pub all: Duration,
    /// then one for each hour for so long,
    pub hourly: Duration,
    /// then one for each day for so long.
    pub daily: Duration,
}

impl Default for Checkpoints {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { every: Duration::from_secs(60), all: hours(1), hourly: hours(24), daily: hours(7 * 24) }
    }
}

/// How a newer definition or plugin takes a pipeline over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Whether its file and plugins are watched.
    pub watch: bool,
    /// A new generation is on probation for so many batches; 0: it is not.
    pub batches: u32,
    /// It has passed after so long, too, if it has dealt with anything.
    pub time: Duration,
    /// Whether nothing is committed before it has passed.
    pub hold_outputs: bool,
    /// What it is compared with before it goes live.
    pub diff: Option<Diff>,
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, batches: 100, time: Duration::from_secs(30), hold_outputs: false, diff: None }
    }
}

/// A replay that a new generation has to stand before it goes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diff {
    /// Over the events of so long.
    pub last: Duration,
    /// The differences that are no reason against it.
    pub allow: Allow,
}

/// Differences of outputs that are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// None.
    None,
    /// Outputs where there were none.
    Added,
    /// All: they are only told.
    All,
}

/// The topic that holds what a pipeline's state went through.
pub fn changelog_topic(pipeline: &str) -> String {
    format!("{pipeline}{CHANGELOG}")
}

/// What names of changelogs end with; no pipeline writes or reads one.
pub(crate) const CHANGELOG: &str = ".changelog";

/// Where outputs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// What outputs call it.
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// How events are spread over its partitions.
    pub partition_by: PartitionBy,
}

/// A topic that is made where it is missing, and kept as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many it gets when it is made; without it 1 or, for a sink, as many as the source has.
    pub partitions: Option<u32>,
    /// How long events are kept.
    pub retention: Retention,
    /// `none`, `lz4` or `zstd`.
    pub compression: String,
}

/// How long a topic's events are kept; without age and size, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Events appended longer ago may go.
    pub age: Option<Duration>,
    /// The oldest events of a partition may go while it has more bytes than this.
    pub size: Option<u64>,
    /// Whether they go even when a pipeline has not read them.
    pub past_cursors: bool,
}

/// How much a call gets, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Events.
    pub max_events: u32,
    /// Bytes, but for a single larger event.
    pub max_bytes: u64,
    /// How long a batch that is not full waits for more events.
    pub linger: Duration,
    /// At-least-once: how often the cursor is committed.
    pub commit_every: Duration,
}

/// What becomes of an event that will not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It goes to the dead-letter topic.
    #[default]
    DeadLetter,
    /// It blocks its partition until somebody acts.
    Halt,
    /// It is counted and passed over.
    Skip,
}

/// What to do about events that fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// How often an event is tried in all whose failure may pass.
    pub attempts: u32,
    /// How long to wait before the second attempt; twice as long before each one after that.
    pub initial_backoff: Duration,
    /// No wait is longer.
    pub max_backoff: Duration,
    /// What becomes of an event that will not go through.
    pub on_error: OnError,
    /// Where dead letters go.
    pub dead_letter_topic: String,
    /// The pipeline halts before it dead-letters more than `max_failures` of the last so many events.
    pub window: u32,
    /// See `window`.
    pub max_failures: u32,
}

/// A checked pipeline definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// The file it stands in, as the user named it.
    pub file: PathBuf,
    /// The file's text.
    pub text: String,
    /// Unique among pipelines.
    pub name: String,
    /// How often an event's effects can come about.
    pub delivery: Delivery,
    /// The topics it reads.
    pub sources: Vec<String>,
    /// Where it begins the first time.
    pub start: Start,
    /// The consumers: the first one's outputs are the second one's events, and so on.
    pub stages: Vec<Stage>,
    /// The first is the default; none: outputs go nowhere.
    pub sinks: Vec<Sink>,
    /// Topics that are made where they are missing.
    pub topics: Vec<Topic>,
    /// How much a call gets.
    pub batch: Batch,
    /// What to do about events that fail.
    pub errors: Errors,
    /// How the time of its events goes on.
    pub time: Time,
    /// What it keeps of its state, to come back to.
    pub checkpoints: Checkpoints,
    /// How a newer one takes it over.
    pub reload: Reload,
    pub(crate) places: Vec<(At, Range<usize>)>,
}

/// A place in a definition that others have something to say about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The pipeline's name.
    Name,
    /// A source topic, by its position.
    Source(usize),
    /// The plugin of a stage, by its position.
    Plugin(usize),
    /// A stage's configuration, or its plugin where there is none.
    Config(usize),
    /// The topic of a sink, by its position.
    Sink(usize),
    /// A `[[topic]]`, by its position.
    Topic(usize),
    /// The topic of dead letters, or the pipeline's name where none is named.
    DeadLetters,
}

impl Pipeline {
    /// Whether a stage of it keeps state, or sets timers.
    pub fn has_state(&self) -> bool {
        self.stages.iter().any(Stage::keeps)
    }

    /// Reads a definition. Paths in it are relative to `file`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Diagnostic>> {
        checker::check(file, text)
    }

    /// Every topic it writes to, with its place in the definition.
    pub fn written(&self) -> impl Iterator<Item = (At, &str)> {
        let sinks = self.sinks.iter().enumerate().map(|(at, sink)| (At::Sink(at), sink.topic.as_str()));
        let dead = (self.errors.on_error == OnError::DeadLetter)
            .then_some((At::DeadLetters, self.errors.dead_letter_topic.as_str()));
        sinks.chain(dead)
    }

    /// A diagnostic about a place in this definition.
    pub fn diagnose(&self, at: At, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        let at = match at {
            At::Config(stage) if !self.places.iter().any(|(place, _)| *place == at) => At::Plugin(stage),
            At::DeadLetters if !self.places.iter().any(|(place, _)| *place == at) => At::Name,
            at => at,
        };
        let span = self.places.iter().find(|(place, _)| *place == at).map(|(_, span)| span.clone());
        Diagnostic { file: self.file.clone(), source: self.text.clone(), span, message: message.into(), help }
    }
}
