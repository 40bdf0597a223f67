//! JSON, read and written as `serde_json` would, and faster in a sandbox.

mod read;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;
