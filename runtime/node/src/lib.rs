//! Puts it together: opens the log, loads definitions and plugins, runs pipelines on threads, reports.
//!
//! [`Node`] is a running node. [`definitions`] reads pipeline files, [`topics`] is what producers and readers do, with a
//! node or without. Guest calls run on the scheduler's own threads, never on those of an async runtime.

mod backup;
pub mod checkpoint;
pub mod dead;
pub mod definitions;
pub mod fixture;
pub mod generations;
mod history;
mod keeper;
mod lanes;
mod lines;
mod node;
pub mod operate;
mod redrive;
mod reload;
pub mod replay;
mod scheduler;
pub mod state;
mod status;
pub mod text;
pub mod topics;
mod watch;
mod witness;

pub use backup::{Backup, backup_of};
pub use history::{EVERY as HISTORY_EVERY, History, Rates};
pub use lanes::Existing;
pub use lines::Line;
pub use node::{LaneWork, Node, NodeError, NodeOptions, Outcome, check, open_log};
pub use reload::{ProbationStatus, ReloadStatus, roll_back_in};
pub use sluice_engine::{CallErrorKind, DeadLetter, Halt, HaltKind, Retrying, Work, brief, legible};
pub use sluice_host::{Compiler, compile_if_asked};
pub use status::{ErrorStatus, HoldStatus, LaneStatus, PipelineState, PipelineStatus, Status, of as status_of};
pub use watch::Watch;
