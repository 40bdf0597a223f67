//! Keyed state of a pipeline's partitions.
//!
//! What counts is a *changelog*: a partition of the log to which every commit of a stateful pipeline appends one [`Delta`], in the same
//! commit that moves the cursor. The state is a view of it. [`PartitionState`] keeps that view: what was committed since the last
//! flush in memory, what is in flight as layers above that, and everything older in a [`Store`], which remembers up to where in the
//! changelog it has come. A store that is lost, damaged or ahead of its time is made again from the changelog.

mod delta;
mod key;
mod layer;
mod lsm;
mod memory;
mod partition;
mod stage;
mod store;
mod table;
mod timer;
mod writer;

#[cfg(test)]
mod tests;

pub use delta::{Cursors, Delta, Head, Line, Malformed, Quiet, Record, Turn, ended, missing};
pub use key::{MAX_KEY_BYTES, MAX_STAGE_NAME, full_key, prefix_of, space_and_key, space_of, stage_and_version};
pub use layer::{Change, Layer};
pub use lsm::{LsmStore, StoreCache};
pub use memory::MemoryStore;
pub use partition::{Applied, FLUSH_BYTES, Flush, PartitionState, Slot, Usage};
pub use stage::{Entries, SharedState, StageState};
pub use store::{Error, Store, Writes};
pub use timer::{MAX_TIMER_KEY_BYTES, Timer, set_timer};
pub use writer::WriterSeen;
