//! HTTP over the Unix socket in the data directory: how the command line talks to a running node.
//!
//! Control is JSON; events travel in their flat format, as they are on disk. Errors are JSON too ([`Problem`]). TCP, metrics
//! and the dashboard come later.

mod client;
mod problem;
mod server;
mod socket;
mod wire;

pub use client::Client;
pub use problem::{Problem, help};
pub use server::serve;
pub use socket::{bind, is_answering};
pub use wire::{NewTopic, Produced, Want};
