//! The node's numbers, as Prometheus reads them.
//!
//! Nothing is counted here: what lanes, the log and topics know of themselves is read when somebody asks. Labels are names of pipelines, topics and
//! partitions, and kinds that are known beforehand, so that what a guest says makes no series.

use std::fmt::{self, Debug};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use sluice_log::{BOUNDS_US, Histogram};
use sluice_node::topics::{self, TopicDescription};
use sluice_node::{LaneStatus, LaneWork, Node, PipelineState, PipelineStatus, Status, Work, checkpoint};

use crate::problem::Problem;

/// The media type of what is told.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All numbers of a node.
///
/// # Errors
/// When the log cannot tell.
pub(crate) fn of(node: &Node) -> Result<String, Problem> {
    let log = node.log();
    let found = Found {
        status: node.status(),
        lanes: node.work(),
        topics: topics::list(log)?,
        log: log.work(),
        checkpoints: checkpoint::list(log.root())?,
    };
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Arc::new(found)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(|error| Problem::new(500, error.to_string()))?;
    Ok(text)
}

/// What is told, as it was at one time.
#[derive(Debug)]
struct Found {
    status: Status,
    lanes: Vec<LaneWork>,
    topics: Vec<TopicDescription>,
    log: sluice_log::Work,
    checkpoints: Vec<checkpoint::Checkpoint>,
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Writes families of numbers.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn family<const N: usize, V>(
        &mut self,
        (name, help, unit, kind): (&str, &str, Option<&Unit>, MetricType),
        rows: impl IntoIterator<Item = ([(&'static str, String); N], V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in rows {
            let labels: Labels<'_, N> = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
            write(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    fn counter<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'static str, String); N], u64)>,
    ) -> fmt::Result {
        self.family((name, help, None, MetricType::Counter), rows, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = ([(&'static str, String); N], f64)>,
    ) -> fmt::Result {
        self.family((name, help, unit, MetricType::Gauge), rows, |encoder, value| encoder.encode_gauge(&value))
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'static str, String); N], Histogram)>,
    ) -> fmt::Result {
        self.family((name, help, Some(&Unit::Seconds), MetricType::Histogram), rows, |encoder, value| {
            let bound = |step: usize| BOUNDS_US.get(step).map_or(f64::MAX, |us| *us as f64 / 1e6);
            let buckets: Vec<_> = value.counts.iter().enumerate().map(|(step, count)| (bound(step), *count)).collect();
            encoder.encode_histogram::<NoLabelSet>(value.sum_us as f64 / 1e6, value.count(), &buckets, None)
        })
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

impl Collector for Found {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        self.pipelines(&mut families)?;
        self.lanes(&mut families)?;
        self.topics(&mut families)?;
        self.log(&mut families)
    }
}

impl Found {
    fn pipelines(&self, families: &mut Families<'_>) -> fmt::Result {
        let all = &self.status.pipelines;
        let own = |p: &PipelineStatus| [("pipeline", p.name.clone())];
        let count = |of: fn(&PipelineStatus) -> u64| all.iter().map(move |p| (own(p), of(p)));
        families.counter("events_read", "Events read since the pipeline's first commit", count(|p| p.read))?;
        let fates = all.iter().flat_map(|p| {
            let all = [
                ("committed", p.committed),
                ("filtered", p.filtered),
                ("dead-lettered", p.dead),
                ("skipped", p.skipped),
            ];
            all.map(|(fate, count)| ([("pipeline", p.name.clone()), ("fate", fate.to_owned())], count))
        });
        families.counter("events_settled", "What became of events that were read, by its commits", fates)?;
        let states = all.iter().flat_map(|p| {
            PipelineState::ALL.map(|state| {
                ([("pipeline", p.name.clone()), ("state", state.to_string())], f64::from(u8::from(p.state == state)))
            })
        });
        families.gauge("pipeline_state", "1 for the state that the pipeline is in", None, states)?;
        let gauge = |of: fn(&PipelineStatus) -> f64| all.iter().map(move |p| (own(p), of(p)));
        let generation = "Counts definitions and plugins that were in force";
        families.gauge("generation", generation, None, gauge(|p| p.generation as f64))?;
        families.gauge("epoch", "Counts how often cursors were set anew", None, gauge(|p| p.epoch as f64))?;
        let (now, checkpoints) = (sluice_env::Clock::now(&sluice_env::SystemClock), &self.checkpoints);
        let ages = all.iter().filter_map(|p| {
            let own_ones = checkpoints.iter().filter(|one| one.pipelines.iter().any(|stood| stood.pipeline == p.name));
            Some((own(p), seconds(now - own_ones.map(|one| one.time).max()?)))
        });
        families.gauge("checkpoint_age", "Since the newest checkpoint was made", Some(&Unit::Seconds), ages)?;
        let places = || all.iter().flat_map(|p| p.partitions.iter().map(move |lane| (p, lane)));
        let place = |(p, lane): (&PipelineStatus, &LaneStatus)| {
            [("pipeline", p.name.clone()), ("topic", lane.topic.clone()), ("partition", lane.partition.to_string())]
        };
        let of_place = |of: fn(&LaneStatus) -> f64| places().map(move |at| (place(at), of(at.1)));
        families.gauge("cursor", "The next offset it reads", None, of_place(|lane| lane.cursor as f64))?;
        families.gauge("lag_events", "Events it has not read yet", None, of_place(|lane| lane.lag as f64))?;
        let age = "How long the next event waits since it was appended; 0 when there is none";
        let lag = of_place(|lane| seconds(lane.lag_ms.unwrap_or(0)));
        families.gauge("lag", age, Some(&Unit::Seconds), lag)?;
        let blocked = "1 while a partition stands still until somebody acts";
        families.gauge("blocked", blocked, None, of_place(|lane| f64::from(u8::from(lane.halted.is_some()))))
    }

    fn lanes(&self, families: &mut Families<'_>) -> fmt::Result {
        let place = |lane: &LaneWork| {
            [
                ("pipeline", lane.pipeline.clone()),
                ("topic", lane.topic.clone()),
                ("partition", lane.partition.to_string()),
            ]
        };
        let count = |of: fn(&Work) -> u64| self.lanes.iter().map(move |lane| (place(lane), of(&lane.work)));
        families.counter("calls", "Attempts: calls of a pipeline's plugins with a batch", count(|work| work.calls))?;
        families.counter("bytes_in", "Bytes of events given to plugins", count(|work| work.bytes_in))?;
        families.counter("events_written", "Events written to sinks", count(|work| work.outputs))?;
        families.counter("bytes_out", "Bytes of events written to sinks", count(|work| work.bytes_out))?;
        families.counter("retries", "Events and timers that were to be tried again", count(|work| work.retries))?;
        let memory = self.lanes.iter().map(|lane| (place(lane), lane.memory as f64));
        families.gauge("guest_memory", "Memory of a lane's instances", Some(&Unit::Bytes), memory)?;
        // Of whole pipelines: a kind and a step for each partition would be many.
        let mut pipelines: Vec<(&str, Work)> = Vec::new();
        for lane in &self.lanes {
            match pipelines.iter_mut().find(|(name, _)| *name == lane.pipeline) {
                Some((_, work)) => work.add(&lane.work),
                None => pipelines.push((&lane.pipeline, lane.work)),
            }
        }
        let failed = pipelines.iter().flat_map(|(name, work)| {
            let row = |(kind, count): (sluice_node::CallErrorKind, u64)| {
                ([("pipeline", (*name).to_owned()), ("kind", kind.name().to_owned())], count)
            };
            work.failures().map(row).collect::<Vec<_>>()
        });
        families.counter("failures", "Calls that did not return, and events that plugins failed", failed)?;
        let took = pipelines.iter().map(|(name, work)| ([("pipeline", (*name).to_owned())], work.took));
        families.histogram("call", "How long calls took", took)
    }

    fn topics(&self, families: &mut Families<'_>) -> fmt::Result {
        let own = |topic: &TopicDescription| [("topic", topic.name.clone())];
        let sum = |of: fn(&topics::PartitionDescription) -> u64| {
            self.topics.iter().map(move |topic| (own(topic), topic.partitions.iter().map(of).sum::<u64>()))
        };
        let as_gauge = |(labels, count): ([(&'static str, String); 1], u64)| (labels, count as f64);
        families.counter("topic_events_appended", "Events ever appended", sum(|one| one.high_watermark))?;
        let kept = sum(|one| one.high_watermark - one.low_mark).map(as_gauge);
        families.gauge("topic_events", "Events that are kept", None, kept)?;
        families.gauge("topic_size", "On disk", Some(&Unit::Bytes), sum(|one| one.bytes).map(as_gauge))?;
        let damaged = sum(|one| u64::from(one.damage.is_some())).map(as_gauge);
        families.gauge("topic_damaged_partitions", "Partitions that are stopped", None, damaged)?;
        let ages = self.topics.iter().filter_map(|topic| Some((own(topic), seconds(topic.retention_age_ms?))));
        families.gauge("topic_retention", "How long events are kept, if not for ever", Some(&Unit::Seconds), ages)?;
        let sizes = self.topics.iter().filter_map(|topic| Some((own(topic), topic.retention_bytes? as f64)));
        let help = "How much of each partition is kept, if not all";
        families.gauge("topic_retention_size", help, Some(&Unit::Bytes), sizes)
    }

    fn log(&self, families: &mut Families<'_>) -> fmt::Result {
        let sluice_log::Work { groups, commits, bytes, group, sync } = self.log;
        families.counter("commits", "Commits made durable", [([], commits)])?;
        families.counter("commit_groups", "Groups in which they were", [([], groups)])?;
        families.counter("commit_bytes", "Bytes of events in them", [([], bytes)])?;
        families.histogram("commit", "From when a group is taken in hand until it is visible", [([], group)])?;
        families.histogram("sync", "How long the disk took to make a group durable", [([], sync)])?;
        let version = [([("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)];
        families.gauge("build", "The version that runs", None, version)
    }
}
