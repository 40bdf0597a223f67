//! What can go wrong, and what the caller should do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::change::TopicPartition;

/// Why the log refused or failed. Clones share their cause, for one failed group has many waiters.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such topic.
    #[error("unknown topic: {0}")]
    UnknownTopic(String),
    /// There is no such pipeline.
    #[error("unknown pipeline: {0}")]
    UnknownPipeline(String),
    /// There is no such partition.
    #[error("unknown partition: {topic}/{partition}; it has {partitions}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// A topic of that name exists.
    #[error("topic exists already: {0}")]
    TopicExists(String),
    /// A name or number that is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// An event or batch over its limit.
    #[error("too large: {what} is {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The cursor of a commit is not where the committed one is: somebody else moved it, or an earlier attempt failed.
    #[error("fenced: the cursor of pipeline {pipeline} on {input} is at {committed}, the commit starts at {from}")]
    Fenced {
        /// The pipeline's id.
        pipeline: u32,
        /// The partition read.
        input: TopicPartition,
        /// Where the commit starts.
        from: u64,
        /// Where the committed cursor is.
        committed: u64,
    },
    /// A producer skipped sequence numbers.
    #[error(
        "producer {producer} sent sequence {found}, the next one is {expected} (a producer that is silent for 7 days is forgotten, and begins at 0)"
    )]
    SequenceGap {
        /// The producer's id.
        producer: String,
        /// The sequence number that would have been right.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// The file system is full. Nothing was written; it can be tried again.
    #[error("no space left for {}: {}", path.display(), source)]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A write or sync failed in a way that leaves the files unknown; only a restart, which recovers, helps.
    #[error("the log has stopped, restart to recover: {0}")]
    Poisoned(Arc<str>),
    /// Bytes that were durable are not what was written.
    #[error("damaged: {} at byte {position}: {what}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it the damage begins.
        position: u64,
        /// What is wrong.
        what: String,
    },
    /// A newer version wrote this.
    #[error("{} was written by a newer version of sluice (format {found}, this one reads up to {known})", file.display())]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The format's version found.
        found: u32,
        /// The newest this build knows.
        known: u32,
    },
    /// Another process has the directory.
    #[error("data directory in use by another process: {}", .0.display())]
    InUse(PathBuf),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Ask for something else: the request itself is wrong.
    Fix,
    /// Try again later; nothing was changed.
    Retry,
    /// Start again from the committed cursor.
    Resync,
    /// Stop using this partition, and go on with the others.
    StopPartition,
    /// Stop the node.
    StopNode,
}

/// Whether a device cannot read some of its bytes (EIO), as with a bad sector.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO)
}

impl Error {
    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self {
            Self::UnknownTopic(_)
            | Self::UnknownPipeline(_)
            | Self::UnknownPartition { .. }
            | Self::TopicExists(_)
            | Self::Invalid(_)
            | Self::TooLarge { .. }
            | Self::SequenceGap { .. }
            | Self::InUse(_) => Advice::Fix,
            Self::NoSpace { .. } => Advice::Retry,
            Self::Fenced { .. } => Advice::Resync,
            Self::Damaged { .. } => Advice::StopPartition,
            Self::Io { .. } | Self::Poisoned(_) | Self::NewerFormat { .. } | Self::Closed => Advice::StopNode,
        }
    }

    /// Whether storage is at fault (exit code 3), rather than the request.
    pub fn is_storage_fault(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. }
                | Self::Io { .. }
                | Self::Poisoned(_)
                | Self::Damaged { .. }
                | Self::NewerFormat { .. }
        )
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (path, source) = (path.to_owned(), Arc::new(source));
        if full { Self::NoSpace { path, source } } else { Self::Io { action, path, source } }
    }

    pub(crate) fn damaged(file: &Path, position: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), position, what: what.into() }
    }
}
