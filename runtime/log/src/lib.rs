//! The durable log: topics, partitions, segments, and the commit log that makes everything in them true.
//!
//! Everything that is written is part of a [`Commit`]: events for any number of partitions, a pipeline's cursor, a new
//! topic. A commit becomes visible whole, after it is durable, or not at all. [`Log`] is the handle: [`Log::submit`] for
//! commits, [`Log::reader`] for events up to the high watermark. The bytes are told in `FORMAT.md`, the threads and
//! invariants in `ARCHITECTURE.md`.
//!
//! The crate knows no async runtime: one thread commits, callers read on theirs.

mod audit;
mod backup;
mod catalog;
mod change;
mod codec;
mod commit;
mod commit_log;
mod committer;
mod compression;
mod directory;
mod error;
mod file_header;
mod frame;
mod fsck;
mod histogram;
mod index;
mod log;
mod options;
mod partition;
mod reader;
mod recovery;
mod retention;
mod segment;
mod snapshot;
mod spare;
mod stored_batch;
mod upkeep;

#[cfg(test)]
mod sim_tests;

pub use audit::{Account, Audit};
pub use backup::{Backup, Cut};
pub use catalog::{Again, Cursor, Desired, Hole, PipelineInfo, TopicInfo, TopicSettings};
pub use change::{Input, Step, TopicPartition};
pub use commit::{Append, Appended, Commit, Committed, NewTopic, Order, PipelineStart, Sequence, Tried};
pub use compression::Compression;
pub use error::{Advice, Error};
pub use fsck::{Finding, Fsck, fsck};
pub use histogram::{BOUNDS_US, Histogram};
pub use log::{Done, Log, Work};
pub use options::{Durability, MAX_EVENT_BYTES, MAX_PARTITIONS, Options};
pub use partition::{Damage, Partition};
pub use reader::{ReadBatch, Reader};
pub use recovery::Report;
pub use retention::Hold;
pub use spare::batch_for;
