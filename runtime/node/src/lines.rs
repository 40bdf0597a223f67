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
/// Bytes of all of these, about.
const BYTES: usize = 64 << 10;
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
    bytes: usize,
}

impl Kept {
    fn push(&mut self, line: Line) {
        self.next = line.number + 1;
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len();
        }
    }
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
        own.push(Line {
            number: own.next,
            time: SystemClock.now(),
            level: level.to_owned(),
            stage: stage.to_owned(),
            text: brief(text, CHARS),
        });
        drop(kept);
        self.listener.get().into_iter().for_each(|listener| listener());
    }

    /// A pipeline is gone: one of the same name has lines of its own.
    pub(crate) fn forget(&self, pipeline: &str) {
        self.kept().remove(pipeline);
    }

    /// The lines of a pipeline that are kept, from a number on.
    pub(crate) fn from(&self, pipeline: &str, number: u64) -> Vec<Line> {
        let kept = self.kept();
        let lines = kept.get(pipeline).into_iter().flat_map(|kept| &kept.lines);
        lines.filter(|line| line.number >= number).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_of_each_pipeline_and_no_more_than_that() {
        let lines = Lines::default();
        for n in 0..2 * LINES {
            lines.add("p/stage", "info", &n.to_string());
        }
        lines.add("q/other", "warn", "once");
        let kept = lines.from("p", 0);
        assert_eq!((kept.len(), kept[0].number, &*kept[LINES - 1].text), (LINES, LINES as u64, "999"));
        assert_eq!(lines.from("p", 998).len(), 2);
        assert_eq!(lines.from("q", 0).len(), 1);
        for _ in 0..LINES {
            lines.add("p/stage", "info", &"long".repeat(10_000));
        }
        let bytes: usize = lines.from("p", 0).iter().map(|line| line.text.len()).sum();
        assert!(bytes <= BYTES && bytes > BYTES / 2, "{bytes}");
    }
}
