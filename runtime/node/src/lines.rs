//! What plugins have written to the log lately, for those who watch a pipeline.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_engine::brief;
use sluice_env::{Clock, SystemClock};

/// Lines that are kept of a pipeline.
const LINES: usize = 500;
/// Characters of a line that are kept.
const CHARS: usize = 2000;
/// Pipelines of which some are kept.
const PIPELINES: usize = 1000;

/// A line that a plugin wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    /// Counts the pipeline's lines since the node started.
    pub number: u64,
    /// When it was written, ms since the epoch.
    pub time: i64,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The stage whose plugin wrote it.
    pub stage: String,
    /// What it says.
    pub text: String,
}

#[derive(Default)]
struct Kept {
    next: u64,
    lines: VecDeque<Line>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

/// The last lines of each pipeline.
#[derive(Default)]
pub(crate) struct Lines {
    kept: Mutex<HashMap<String, Kept>>,
    listener: OnceLock<Listener>,
}

impl Lines {
    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has somebody told whenever there is a line more.
    pub(crate) fn on_line(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    /// A plugin, by the names of its pipeline and stage, wrote a line.
    pub(crate) fn add(&self, plugin: &str, level: &str, text: &str) {
        let (pipeline, stage) = plugin.split_once('/').unwrap_or((plugin, ""));
        let mut kept = self.kept();
        if !kept.contains_key(pipeline) && kept.len() >= PIPELINES {
            return;
        }
        let own = kept.entry(pipeline.to_owned()).or_default();
        if own.lines.len() == LINES {
            own.lines.pop_front();
        }
        own.lines.push_back(Line {
            number: own.next,
            time: SystemClock.now(),
            level: level.to_owned(),
            stage: stage.to_owned(),
            text: brief(text, CHARS),
        });
        own.next += 1;
        drop(kept);
        self.listener.get().into_iter().for_each(|listener| listener());
    }

    /// The lines of a pipeline that are kept, from a number on.
    pub(crate) fn from(&self, pipeline: &str, number: u64) -> Vec<Line> {
        let kept = self.kept();
        let lines = kept.get(pipeline).into_iter().flat_map(|kept| &kept.lines);
        lines.filter(|line| line.number >= number).cloned().collect()
    }
}
