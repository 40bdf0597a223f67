//! Pipeline definitions: from TOML to checked data, or to diagnostics with file, line, caret and help.
//!
//! [`Pipeline::parse`] checks what a file by itself can tell; [`check_together`] what several say of each other. What only
//! the data directory or the plugin can tell (a missing topic, a forbidden import) is found elsewhere and reported at the
//! right line through [`Pipeline::diagnose`].

mod checker;
mod definition;
mod diagnostic;
mod json;
mod pipeline;
mod together;
mod units;

#[cfg(test)]
mod tests;

pub use diagnostic::Diagnostic;
pub use json::json;
pub use pipeline::{
    Allow, At, Batch, Checkpoints, Delivery, Diff, Errors, Limits, OnError, PartitionBy, Pipeline, Reload, Retention,
    Sink, Stage, Start, Time, Topic, changelog_topic,
};
pub use together::check_together;
pub use units::{parse_duration, parse_size};
