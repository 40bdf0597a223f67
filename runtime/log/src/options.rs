//! How a log is opened.

use std::str::FromStr;
use std::time::Duration;

/// What a batch may add up to, on disk; the engine and the API cut theirs far smaller.
pub(crate) const MAX_BATCH_BYTES: usize = 64 << 20;
/// The largest event that producers may send, and pipelines may write.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// Partitions one topic may have.
pub const MAX_PARTITIONS: u32 = 10_000;

/// Producers whose counts are kept; beyond that, those that have been silent for longest are forgotten.
/// The same number holds for those who come again and again, and for those who send once.
pub(crate) const MAX_PRODUCERS: usize = 100_000;
/// A producer that has been silent for longer is forgotten.
pub(crate) const PRODUCER_AGE_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// The same for those who send once.
pub(crate) const ONCE_AGE_MS: i64 = 24 * 60 * 60 * 1000;

/// When a commit counts as durable. It is a choice for the whole data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After `fdatasync`: what was acknowledged survives a power cut.
    #[default]
    Fsync,
    /// Once the operating system has it, which is told to write everything down this often: a power cut may lose what was
    /// acknowledged since, and leaves a prefix.
    Interval(Duration),
    /// Once the operating system has it: survives the death of the process; a power cut may lose what was acknowledged since
    /// the last snapshot, and leaves a prefix.
    Os,
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fsync" => Ok(Self::Fsync),
            "os" => Ok(Self::Os),
            _ => match text.strip_prefix("interval:").map(millis) {
                Some(Some(every)) => Ok(Self::Interval(every)),
                Some(None) => Err("an interval is 1ms to 60s, such as interval:100ms".into()),
                None => Err(format!("unknown durability {text:?}: use fsync, interval:100ms or os")),
            },
        }
    }
}

/// Reads `100ms` or `2s`, up to a minute.
fn millis(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=60_000).contains(&millis).then(|| Duration::from_millis(millis))
}

/// A defect that tests plant, to see that they would notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    SkipSync,
    AnswerBeforeSync,
    OverlapGroups,
    ForgetDirectorySync,
    NoCrcCheck,
    TrustCacheAfterFailedSync,
    ForgetTruncation,
    RemoveTooEarly,
    SnapshotBeforeSync,
    RenameBeforeHeader,
}

/// How a log is opened. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct Options {
    /// When a commit counts as durable.
    pub durability: Durability,
    /// A segment that reaches this is followed by a new one.
    pub segment_bytes: u64,
    /// A snapshot is taken when the commit log has grown by this.
    pub snapshot_bytes: u64,
    /// A snapshot, and with it a sync of everything, is taken when segments have this much that is not synced.
    pub unsynced_bytes: u64,
    /// A snapshot is taken when the last one is this old, in milliseconds, and something was committed since.
    pub snapshot_age_ms: i64,
    /// Bytes kept for what an operator does on a full disk, and for retention. 0 keeps none.
    pub reserve_bytes: u64,
    /// Groups below this go whole into the commit log: one file to sync instead of two or more.
    pub whole_group_bytes: u64,
    /// Only tests set it.
    pub(crate) planted: Option<Planted>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            segment_bytes: 256 << 20,
            snapshot_bytes: 64 << 20,
            unsynced_bytes: 1 << 30,
            snapshot_age_ms: 10 * 60 * 1000,
            reserve_bytes: 1 << 20,
            whole_group_bytes: 1 << 20,
            planted: None,
        }
    }
}

impl Options {
    /// The usual, with this durability.
    pub fn with(durability: Durability) -> Self {
        Self { durability, ..Self::default() }
    }

    pub(crate) fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }
}
