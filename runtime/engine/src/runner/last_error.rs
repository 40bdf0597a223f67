//! What went wrong lately, for those who look at a pipeline.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_log::TopicPartition;

use super::LaneRunner;
use crate::errors::{Failed, OnError};
use crate::legible::brief;

/// Failures that are kept of a lane.
const KEPT: usize = 10;
/// Characters of what one says.
const CHARS: usize = 1000;

/// What becomes of an event that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is tried again.
    TriedAgain,
    /// It goes to the dead letters.
    DeadLettered,
    /// It is passed over.
    Skipped,
    /// The partition stands still at it.
    Halted,
}

/// An event that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When, ms since the epoch.
    pub time: i64,
    /// Where it stands.
    pub source: TopicPartition,
    /// Its offset.
    pub offset: u64,
    /// Why it failed.
    pub reason: String,
    /// What becomes of it.
    pub fate: Fate,
}

impl LaneRunner {
    /// Notes failures of events of the batch whose first is at a place. Of many, the last will do.
    pub(super) fn note_failures(&mut self, from: u64, failed: &[Failed], fate: Fate) {
        for failed in &failed[failed.len().saturating_sub(KEPT)..] {
            let at = self.sources.at(from + u64::from(failed.index));
            self.note_failure(at, &self.explain(failed), fate);
        }
    }

    /// Notes that an event failed, or a timer behind it.
    pub(super) fn note_failure(&mut self, (source, offset): (TopicPartition, u64), reason: &str, fate: Fate) {
        let error = LastError { time: self.clock.now(), source, offset, reason: brief(reason, CHARS), fate };
        // Who looks at what is kept now keeps it as it is.
        let kept = Arc::make_mut(&mut self.state.last_errors);
        kept.drain(..(kept.len() + 1).saturating_sub(KEPT));
        kept.push(error);
    }
}

impl Fate {
    pub(super) fn by(on_error: OnError) -> Self {
        match on_error {
            OnError::DeadLetter { .. } => Self::DeadLettered,
            OnError::Halt => Self::Halted,
            OnError::Skip => Self::Skipped,
        }
    }
}
