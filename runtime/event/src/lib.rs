//! Events and batches: one flat format on disk, in memory and inside a guest.
//!
//! An *events region* is a row of events, each a multiple of eight bytes long with fixed-width little-endian lengths
//! (see [`Event`] for the bytes). Reading one neither copies nor allocates, and every length is checked before it is
//! used, for the bytes may come from a hostile guest.
//!
//! * [`Batch`] owns a region while it is built; [`Region`] borrows one to read it.
//! * [`View`] is the header a guest is given beside a region.
//! * [`OutcomeWriter`] is what a guest fills, [`Outcome`] what the host reads and checks.
//!
//! The crate is `no_std` + `alloc`: the Rust guest SDK uses this very code.
#![no_std]

extern crate alloc;

mod batch;
mod bytes;
mod event;
mod new_event;
mod outcome;
mod outcome_writer;
mod records;
mod region;
mod timer;
mod view;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use bytes::{Malformed, append, append_words, copy};
pub use event::{Event, Headers, Origin, Source};
pub use new_event::{NewEvent, TooLarge};
pub use outcome::{Failure, Failures, Items, Outcome, Output, Outputs, StateWrite, StateWrites, TimerChanges};
pub use outcome_writer::{FailureKind, Mark, OutcomeWriter};
pub use region::{Events, Region};
pub use timer::{Clock, DueTimer, DueTimers, Firing, FiringOrder, Firings, TIMER_IN_HAND, TimerChange};
pub use view::{View, has_expired};

/// Every event, and so every region, is a multiple of this many bytes long.
pub const ALIGN: usize = 8;
