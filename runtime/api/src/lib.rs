//! A node over HTTP: on the Unix socket in its data directory, where the command line finds it, and on TCP.
//!
//! Control is JSON; between a node and the command line, events travel in their flat format, as they are on disk. Errors are problem documents
//! ([`Problem`]). Metrics and the dashboard come later.

mod admission;
pub mod as_json;
mod client;
mod cloud_event;
mod connections;
mod events;
mod intake;
mod lines;
mod problem;
mod server;
mod socket;
mod tcp;
mod wire;

pub use client::Client;
pub use lines::{LineFormat, LineParts};
pub use problem::{Problem, help};
pub use server::{Listeners, serve};
pub use socket::{bind, is_answering};
pub use tcp::{Listen, listen};
pub use wire::{NewTopic, Produced, Want};
