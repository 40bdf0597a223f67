//! Puts it together: opens the log, loads definitions and plugins, runs pipelines on threads, reports.
//!
//! [`Node`] is a running node. [`definitions`] reads pipeline files, [`topics`] is what producers and readers do, with a
//! node or without. Guest calls run on the scheduler's own threads, never on those of an async runtime.

pub mod definitions;
mod lanes;
mod node;
mod scheduler;
mod status;
pub mod topics;

pub use node::{Node, NodeError, NodeOptions, Outcome, check, open_log, status_of};
pub use status::{Halted, LaneStatus, PipelineState, PipelineStatus, Status};
