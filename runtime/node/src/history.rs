//! What pipelines did in the last hour, in points of some seconds each.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_engine::Work;

/// Points that are kept of a pipeline: an hour of them.
const POINTS: usize = 720;
/// How far apart they are.
pub const EVERY: Duration = Duration::from_secs(5);
/// Pipelines of which something is kept.
const PIPELINES: usize = 1000;

/// How fast a pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rates {
    /// Events read a second.
    pub read: f64,
    /// Events written a second.
    pub written: f64,
}

/// What a pipeline did: each list has one entry for each time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct History {
    /// Ms since the epoch: when each point ends.
    pub times: Vec<i64>,
    /// Events read a second.
    pub read: Vec<f64>,
    /// Events written to sinks a second.
    pub written: Vec<f64>,
    /// Events that were not read yet.
    pub lag: Vec<u64>,
    /// The age of the next event, in ms; 0 when there was none.
    pub lag_ms: Vec<i64>,
    /// The time that half of the calls did not exceed, in ms; none when there were no calls.
    pub p50_ms: Vec<Option<f64>>,
    /// The same of 99 in 100.
    pub p99_ms: Vec<Option<f64>>,
    /// Calls and events that failed.
    pub failed: Vec<u64>,
}

struct Point {
    time: i64,
    rates: Rates,
    lag: u64,
    lag_ms: i64,
    quantiles: [Option<f64>; 2],
    failed: u64,
}

/// How a pipeline stands now.
pub(crate) struct Now {
    pub(crate) name: String,
    pub(crate) work: Work,
    pub(crate) lag: u64,
    pub(crate) lag_ms: i64,
}

#[derive(Default)]
struct Series {
    last: Work,
    points: VecDeque<Point>,
}

/// The last hour of all pipelines.
#[derive(Default)]
pub(crate) struct Histories {
    /// When it was noted last, of a clock that only goes on.
    noted: Option<Duration>,
    series: BTreeMap<String, Series>,
}

impl Histories {
    /// Notes how pipelines stand; those that are not there any more are forgotten.
    pub(crate) fn note(&mut self, (time, elapsed): (i64, Duration), all: Vec<Now>) {
        self.series.retain(|name, _| all.iter().any(|now| now.name == *name));
        let since = self.noted.replace(elapsed).map(|before| elapsed.saturating_sub(before).as_secs_f64());
        for Now { name, work, lag, lag_ms } in all {
            let is_known = self.series.contains_key(&name);
            if !is_known && self.series.len() >= PIPELINES {
                continue;
            }
            let series = self.series.entry(name).or_default();
            let before = std::mem::replace(&mut series.last, work);
            // What it did before anybody looked belongs to no time.
            let Some(seconds) = since.filter(|seconds| is_known && *seconds > 0.0) else { continue };
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let took = work.took.since(&before.took);
            if series.points.len() == POINTS {
                series.points.pop_front();
            }
            series.points.push_back(Point {
                time,
                rates: Rates { read: rate(work.events, before.events), written: rate(work.outputs, before.outputs) },
                lag,
                lag_ms,
                quantiles: [0.5, 0.99].map(|share| took.quantile_ms(share)),
                failed: work.failed_calls().saturating_sub(before.failed_calls()),
            });
        }
    }

    pub(crate) fn rates(&self, pipeline: &str) -> Option<Rates> {
        Some(self.series.get(pipeline)?.points.back()?.rates)
    }

    pub(crate) fn of(&self, pipeline: &str) -> History {
        let mut history = History::default();
        for point in self.series.get(pipeline).iter().flat_map(|series| &series.points) {
            history.times.push(point.time);
            history.read.push(point.rates.read);
            history.written.push(point.rates.written);
            history.lag.push(point.lag);
            history.lag_ms.push(point.lag_ms);
            history.p50_ms.push(point.quantiles[0]);
            history.p99_ms.push(point.quantiles[1]);
            history.failed.push(point.failed);
        }
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_of_what_is_there() {
        let mut histories = Histories::default();
        let secs = Duration::from_secs;
        let now = |name: &str, events| {
            let mut work = Work::default();
            (work.events, work.outputs) = (events, events / 2);
            Now { name: name.to_owned(), work, lag: 7, lag_ms: 9 }
        };
        histories.note((0, secs(0)), vec![now("a", 1000), now("b", 1)]);
        assert!(histories.of("a").times.is_empty(), "what was before is of no time");
        histories.note((5000, secs(5)), vec![now("a", 2000)]);
        let a = histories.of("a");
        assert_eq!(
            (a.times, a.read, a.written, a.lag, a.lag_ms),
            (vec![5000], vec![200.0], vec![100.0], vec![7], vec![9])
        );
        assert_eq!(histories.rates("a"), Some(Rates { read: 200.0, written: 100.0 }));
        assert_eq!(histories.of("b"), History::default());
        for n in 2..2000 {
            histories.note((n * 5000, secs(5 * n.unsigned_abs())), vec![now("a", 2000)]);
        }
        let a = histories.of("a");
        assert_eq!((a.times.len(), a.times[0], a.read[719]), (720, 1280 * 5000, 0.0));
    }
}
