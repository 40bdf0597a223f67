//! Delivery: from a batch of events through a consumer to one commit.
//!
//! A *lane* is one pipeline on one source partition, or on the partitions of the same number of several topics. [`Lane`] decides, as plain data: what to call next, what to do with
//! an answer, what falls with a failed commit. [`LaneRunner`] performs the decisions through the ports: [`Storage`] and
//! [`Source`] for the log, [`Plugin`] and [`Consumer`] for guests. It knows no threads, no wasmtime and no HTTP, so it runs
//! in simulation as it runs in a node.

mod batch_size;
mod chain;
mod dead_letter;
mod delivery;
mod errors;
mod keyed;
mod lane;
mod legible;
mod partitioner;
mod port;
mod probation;
mod redrive;
mod router;
mod runner;
mod sources;
mod timers;
mod trace;
mod watermark;
mod work;

#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod timer_sim_tests;

pub use batch_size::BatchSize;
pub use chain::{StageConfig, StageError};
pub use dead_letter::{DeadLetter, DeadTimer};
pub use delivery::Delivery;
pub use errors::{Breaker, ErrorPolicy, Failed, OnError, Retry};
pub use keyed::{Flusher, Reopen, StateConfig, StateGrant};
pub use lane::{Halt, HaltKind, Lane, Next};
pub use legible::{brief, legible};
pub use partitioner::{PartitionBy, murmur2};
pub use port::{CallError, CallErrorKind, Consumer, Plugin, Source, Storage, UnderWay, Witness};
pub use probation::{Before, Probation, Verdict};
pub use redrive::{RedriveConfig, Redriver, Sent};
pub use router::Sink;
pub use runner::{Fate, Generation, LaneConfig, LaneRunner, LaneState, LastError, Retrying, Step};
pub use sources::SourceConfig;
pub use watermark::{TimePolicy, Writer};
pub use work::Work;
