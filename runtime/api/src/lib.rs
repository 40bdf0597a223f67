//! A node over HTTP: on the Unix socket in its data directory, where the command line finds it, and on TCP.
//!
//! Control is JSON; between a node and the command line, events travel in their flat format, as they are on disk. Errors are problem documents
//! ([`Problem`]). Metrics and the dashboard come later.

mod admission;
mod appended;
pub mod as_json;
mod auth;
mod client;
mod cloud_event;
mod connections;
mod dashboard;
mod events;
mod handlers;
mod intake;
mod lines;
mod logs;
mod metrics;
mod openapi;
mod problem;
mod routes;
mod server;
mod socket;
mod tcp;
mod tls;
mod unread;
mod wire;

pub use auth::{MadeToken, NewToken, Pattern, Scope, TokenInfo, Tokens};
pub use client::{Client, Credentials};
pub use lines::{LineFormat, LineParts};
pub use problem::{Problem, help};
pub use server::{Listeners, Remote, serve};
pub use socket::{bind, is_answering};
pub use tcp::{Listen, listen};
pub use tls::Tls;
pub use wire::{NewTopic, Produced, Want};
