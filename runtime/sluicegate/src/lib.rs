//! A node in a program of your own, or in its tests: the same log, pipelines and guarantees as `sluice run`.
//!
//! ```no_run
//! use sluicegate::{Event, Sluicegate};
//!
//! # fn main() -> Result<(), sluicegate::Error> {
//! let node = Sluicegate::open("data")?;
//! node.create_topic("words", 1)?;
//! node.produce("words", &[Event::value("hello")])?;
//! node.run_until_idle(&["pipelines/shout.toml"])?;
//! let shouted = node.read("shouted")?;
//! # Ok(()) }
//! ```
//!
//! In a test, [`Sluicegate::temporary`] opens a data directory that goes with it. [`node`](Sluicegate::node) is the way to everything else: status, rewinds,
//! checkpoints, replays.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use sluice_env::{Clock, SystemClock};
use sluice_event::{Batch, NewEvent};
use sluice_node::topics::{self, Production};
use sluice_node::{Compiler, Node, NodeError, NodeOptions, Outcome, definitions};

pub use sluice_log::Durability;
pub use sluice_node::{PipelineStatus, compile_if_asked};

/// Bytes of events that are read at once.
const READ: usize = 4 << 20;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Pipeline files or plugins are wrong; nothing was changed. Each is told with its place.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// A pipeline stands still, and somebody has to act: which, and why.
    #[error("{0}")]
    Halted(String),
    /// It took longer than it was given.
    #[error("not idle after {0:?}")]
    TimedOut(Duration),
    /// The log.
    #[error(transparent)]
    Log(#[from] sluice_log::Error),
    /// The node.
    #[error("{0}")]
    Node(String),
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Refused(diagnostics) => Self::refused(&diagnostics),
            NodeError::Log(error) => Self::Log(error),
            error => Self::Node(error.to_string()),
        }
    }
}

impl Error {
    fn refused(diagnostics: &[sluice_config::Diagnostic]) -> Self {
        Self::Refused(diagnostics.iter().map(|diagnostic| diagnostic.render(false)).collect())
    }
}

/// An event, as it is sent and read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Ms since the epoch; when it is sent without one, now.
    pub timestamp: Option<i64>,
    /// What is kept together; none, and empty, differ.
    pub key: Option<Vec<u8>>,
    /// What it says.
    pub value: Vec<u8>,
    /// In their order; a name may be there twice.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Event {
    /// An event of this value.
    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }

    /// With this key.
    #[must_use]
    pub fn key(self, key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// With this timestamp, in ms since the epoch.
    #[must_use]
    pub fn timestamp(self, timestamp: i64) -> Self {
        Self { timestamp: Some(timestamp), ..self }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The value as text, with what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

/// How a node is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Compile plugins in processes of their own, whose memory and time are limited: for plugins of strangers. The program must call
    /// [`compile_if_asked`] before anything else in its `main`.
    pub compile_apart: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { durability: Durability::Fsync, compile_apart: false }
    }
}

/// A running node. When it is dropped, what is in hand falls, as if it had been killed: nothing of it is committed. [`close`](Self::close) finishes it.
pub struct Sluicegate {
    node: Node,
    /// Goes with it.
    _temporary: Option<tempfile::TempDir>,
}

impl Sluicegate {
    /// Opens a data directory, making it where there is none. No pipeline runs yet.
    ///
    /// # Errors
    /// When it cannot be opened, or another process has it.
    pub fn open(data: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_with(data, &Options::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// When it cannot be opened, or another process has it.
    pub fn open_with(data: impl Into<PathBuf>, options: &Options) -> Result<Self, Error> {
        let compiler = if options.compile_apart { Compiler::Apart } else { Compiler::Here };
        let node = Node::open(&NodeOptions { data: data.into(), durability: options.durability, compiler })?;
        Ok(Self { node, _temporary: None })
    }

    /// Opens a data directory that goes when this is dropped: for tests. It outlives the process only, no power cut.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn temporary() -> Result<Self, Error> {
        let folder =
            tempfile::tempdir().map_err(|error| Error::Node(format!("no place for a data directory: {error}")))?;
        let options = Options { durability: Durability::Os, ..Options::default() };
        let opened = Self::open_with(folder.path().join("data"), &options)?;
        Ok(Self { _temporary: Some(folder), ..opened })
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// When there is one of this name, or the name is none.
    pub fn create_topic(&self, name: &str, partitions: u32) -> Result<(), Error> {
        topics::create(self.node.log(), sluice_log::NewTopic::new(name, partitions))?;
        Ok(())
    }

    /// Appends events to a topic in one commit, spread by their keys; they are as durable as was chosen when this returns.
    ///
    /// # Errors
    /// When there is no such topic, an event is too large, or storage refuses: then none of them is there.
    pub fn produce(&self, topic: &str, events: &[Event]) -> Result<(), Error> {
        let mut batch = Batch::default();
        let now = SystemClock.now();
        for event in events {
            let headers: Vec<(&str, &[u8])> = event.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
            let event = NewEvent {
                timestamp: event.timestamp.unwrap_or(now),
                key: event.key.as_deref(),
                value: &event.value,
                headers: &headers,
                ..NewEvent::default()
            };
            batch.push(&event).map_err(|error| Error::Node(error.to_string()))?;
        }
        let production = Production { topic, partition: None, events: batch.region(), sequence: None, once: None };
        let (answer, answered) = sync_channel(1);
        topics::produce(self.node.log(), production, Box::new(move |result| drop(answer.send(result))))?;
        answered.recv().unwrap_or(Err(sluice_log::Error::Closed))?;
        Ok(())
    }

    /// All events of a topic that are committed: partition by partition, each in its order.
    ///
    /// # Errors
    /// When there is no such topic, or it is damaged.
    pub fn read(&self, topic: &str) -> Result<Vec<Event>, Error> {
        let log = self.node.log();
        let found = log.topic(topic)?;
        let mut events = Vec::new();
        for number in 0..found.partitions {
            let partition = log.partition(&found, number)?;
            let mut next = partition.low_mark();
            loop {
                let batch = topics::read_partition(log, partition.clone(), next, READ)?;
                if batch.count == 0 {
                    break;
                }
                for event in batch.region().events() {
                    let event = event.map_err(|malformed| Error::Node(malformed.to_string()))?;
                    events.push(Event {
                        timestamp: Some(event.timestamp()),
                        key: event.key().map(<[u8]>::to_vec),
                        value: event.value().to_vec(),
                        headers: event.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
                    });
                }
                next = batch.base_offset + u64::from(batch.count);
            }
        }
        Ok(events)
    }

    /// Starts the pipelines of these files and folders: all of them or, when anything is wrong, none. They run on, beside the program.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn run(&self, paths: &[impl AsRef<Path>]) -> Result<(), Error> {
        let paths: Vec<_> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        let pipelines = definitions::read(&paths).map_err(|diagnostics| Error::refused(&diagnostics))?;
        Ok(self.node.start(&pipelines)?)
    }

    /// Waits until all there is has been dealt with and committed.
    ///
    /// # Errors
    /// When a pipeline stands still, storage refuses or fails, or it takes longer than this.
    pub fn wait_until_idle(&self, at_most: Duration) -> Result<(), Error> {
        let until = Instant::now() + at_most;
        match self.node.wait_until_idle(&|| Instant::now() >= until) {
            Outcome::Idle => Ok(()),
            Outcome::Halted(pipelines) => Err(Error::Halted(halted(&pipelines))),
            Outcome::Refused(reason) => Err(Error::Halted(reason)),
            Outcome::Failed(error) => Err(Error::Log(error)),
            Outcome::Interrupted => Err(Error::TimedOut(at_most)),
        }
    }

    /// Starts pipelines, and waits until they have dealt with all there is: a minute at most.
    ///
    /// # Errors
    /// Those of [`run`](Self::run) and [`wait_until_idle`](Self::wait_until_idle).
    pub fn run_until_idle(&self, paths: &[impl AsRef<Path>]) -> Result<(), Error> {
        self.run(paths)?;
        self.wait_until_idle(Duration::from_secs(60))
    }

    /// How pipelines stand.
    pub fn pipelines(&self) -> Vec<PipelineStatus> {
        self.node.status().pipelines
    }

    /// The node itself.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Finishes and commits what is in hand, begins nothing new, and closes.
    ///
    /// # Errors
    /// When storage refuses or fails.
    pub fn close(self) -> Result<(), Error> {
        match self.node.drain(&|| false) {
            Outcome::Failed(error) => Err(Error::Log(error)),
            Outcome::Refused(reason) => Err(Error::Halted(reason)),
            _ => Ok(()),
        }
    }
}

/// Which pipelines stand still, and why.
fn halted(pipelines: &[PipelineStatus]) -> String {
    let told = pipelines.iter().flat_map(|pipeline| {
        let at = pipeline.partitions.iter().filter_map(|lane| {
            let halt = lane.halted.as_ref()?;
            let place = format!("{}/{} at offset {}", lane.topic, lane.partition, halt.offset);
            Some(format!("pipeline {} is halted on {place}: {}", pipeline.name, halt.reason))
        });
        let held = pipeline.held.as_ref().map(|reason| format!("pipeline {} is held: {reason}", pipeline.name));
        at.chain(held).collect::<Vec<_>>()
    });
    told.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(folder: &Path, plugin: &str, more: &str) -> PathBuf {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins").join(plugin);
        let file = folder.join(format!("{plugin}.toml"));
        let text = format!(
            "name = \"p\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = {plugins:?}\n[[sink]]\ntopic = \"out\"\n{more}"
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn a_program_runs_a_pipeline_in_five_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = pipeline(folder.path(), "picky", "");
        let node = Sluicegate::temporary().unwrap();
        node.create_topic("in", 2).unwrap();
        let sent = [
            Event::value("a").key("x").timestamp(7).header("h", "1"),
            Event::value("bad").key("x"),
            Event::value("b").key("y"),
        ];
        node.produce("in", &sent).unwrap();
        node.run_until_idle(&[&file]).unwrap();
        let mut told: Vec<_> = node.read("out").unwrap().into_iter().map(|e| (e.text(), e.key.unwrap())).collect();
        told.sort();
        assert_eq!(told, [("A".to_owned(), b"x".to_vec()), ("B".to_owned(), b"y".to_vec())]);
        assert_eq!(node.read("in").unwrap().iter().find(|event| event.value == b"a"), Some(&sent[0]));
        assert_eq!((node.pipelines()[0].read, node.pipelines()[0].dead), (3, 1));
        // It runs on.
        node.produce("in", &[Event::value("later")]).unwrap();
        node.wait_until_idle(Duration::from_secs(60)).unwrap();
        assert_eq!(node.read("out").unwrap().len(), 3);
        node.close().unwrap();
    }

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let node = Sluicegate::open(folder.path().join("data")).unwrap();
        let file = pipeline(folder.path(), "picky", "[errors]\non-error = \"halt\"\n");
        let missing = node.run(&[&file]).unwrap_err().to_string();
        assert!(missing.contains("unknown topic") && missing.contains("picky.toml"), "{missing}");
        node.create_topic("in", 1).unwrap();
        assert!(node.create_topic("in", 1).unwrap_err().to_string().contains("in"));
        assert!(node.produce("none", &[Event::value("x")]).is_err() && node.read("none").is_err());
        node.produce("in", &[Event::value("bad")]).unwrap();
        let halted = node.run_until_idle(&[&file]).unwrap_err().to_string();
        assert!(halted.contains("in/0 at offset 0") && halted.contains("is bad"), "{halted}");
        let other = Sluicegate::open(folder.path().join("data"));
        assert!(matches!(other, Err(Error::Log(sluice_log::Error::InUse(_)))), "one directory, one node");
    }
}
