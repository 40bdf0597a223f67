//! From a checked definition to lanes.

use std::sync::Arc;

use sluice_config::{At, Diagnostic, PartitionBy, Pipeline, Start};
use sluice_engine::{LaneConfig, LaneRunner, Plugin, Sink};
use sluice_env::Clock;
use sluice_host::Digest;
use sluice_log::{Commit, Error, Log, NewTopic, PipelineInfo, PipelineStart, TopicInfo, TopicPartition};

use crate::scheduler::Scheduler;

/// Attempts of one lane whose commits are not answered, at most.
const MAX_IN_FLIGHT: usize = 8;

/// One pipeline that runs.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) source: TopicInfo,
    /// The scheduler's number of each partition's lane.
    pub(crate) lanes: Vec<usize>,
}

/// The topics that pipelines need and that are not there, with their partition counts. Diagnostics where one cannot be made.
/// `existing` tells the partition count of a topic that is there.
pub(crate) fn missing_topics(
    existing: &dyn Fn(&str) -> Option<u32>,
    pipelines: &[Pipeline],
) -> Result<Vec<NewTopic>, Vec<Diagnostic>> {
    let (mut missing, mut found) = (Vec::<NewTopic>::new(), Vec::new());
    let exists = |missing: &[NewTopic], name: &str| {
        let planned = missing.iter().find(|topic| topic.name == name).map(|topic| topic.partitions);
        planned.or_else(|| existing(name))
    };
    for pipeline in pipelines {
        for (at, topic) in pipeline.topics.iter().enumerate() {
            match exists(&missing, &topic.name) {
                None => missing.push(NewTopic { name: topic.name.clone(), partitions: topic.partitions }),
                Some(partitions) if partitions != topic.partitions => {
                    let message = format!("topic {:?} exists with {partitions} partitions", topic.name);
                    let help = "a topic's partition count is fixed when it is made: say the same here".to_owned();
                    found.push(pipeline.diagnose(At::Topic(at), message, Some(help)));
                }
                Some(_) => {}
            }
        }
    }
    // A sink's topic is made with the partition count of its pipeline's source, which may itself be such a sink.
    for _ in pipelines {
        for pipeline in pipelines {
            let Some(partitions) = exists(&missing, &pipeline.source) else { continue };
            for sink in &pipeline.sinks {
                if exists(&missing, &sink.topic).is_none() {
                    missing.push(NewTopic { name: sink.topic.clone(), partitions });
                }
            }
        }
    }
    for pipeline in pipelines.iter().filter(|pipeline| exists(&missing, &pipeline.source).is_none()) {
        let message = format!("unknown topic: {:?}", pipeline.source);
        let help =
            format!("make it: `sluice topic create {} --partitions 1`; or declare it in a [[topic]]", pipeline.source);
        found.push(pipeline.diagnose(At::Source, message, Some(help)));
    }
    if found.is_empty() { Ok(missing) } else { Err(found) }
}

/// Says in the log that a pipeline starts, and where.
pub(crate) fn start(log: &Log, pipeline: &Pipeline, digest: Digest) -> Result<(PipelineInfo, TopicInfo), Error> {
    let source = log.topic(&pipeline.source)?;
    let first = |partition| {
        let found = log.partition(&source, partition)?;
        let offset = match pipeline.start {
            Start::Earliest => found.low_mark(),
            Start::Latest => found.high_watermark(),
        };
        Ok((TopicPartition { topic: source.id, partition }, offset))
    };
    let start = PipelineStart {
        name: pipeline.name.clone(),
        digest: digest.0.to_vec(),
        definition: pipeline.text.clone(),
        start: (0..source.partitions).map(first).collect::<Result<_, Error>>()?,
    };
    log.commit(Commit { pipeline: Some(start), ..Commit::default() })?;
    let info = log.pipeline(&pipeline.name).ok_or(Error::Closed)?;
    Ok((info, source))
}

/// Makes a pipeline's lanes and lets them run.
pub(crate) fn run(
    log: &Arc<Log>,
    clock: &Arc<dyn Clock>,
    scheduler: &Scheduler,
    pipeline: &Pipeline,
    (info, source): (PipelineInfo, TopicInfo),
    plugin: &Arc<dyn Plugin>,
) -> Result<Running, Error> {
    let sink = |sink: &sluice_config::Sink| {
        let topic = log.topic(&sink.topic)?;
        let partition_by = match sink.partition_by {
            PartitionBy::Key => sluice_engine::PartitionBy::Key,
            PartitionBy::RoundRobin => sluice_engine::PartitionBy::RoundRobin,
            PartitionBy::Source => sluice_engine::PartitionBy::Source,
        };
        Ok(Sink { name: sink.name.clone(), topic: topic.id, partitions: topic.partitions, partition_by })
    };
    let sinks = pipeline.sinks.iter().map(sink).collect::<Result<Vec<_>, Error>>()?;
    let mut lanes = Vec::new();
    for partition in 0..source.partitions {
        let tp = TopicPartition { topic: source.id, partition };
        let cursor = info.cursors.get(&tp).map_or(0, |cursor| cursor.next);
        let config = LaneConfig {
            pipeline: info.id,
            epoch: info.epoch,
            generation: info.generation,
            source: tp,
            topic_name: source.name.clone(),
            cursor,
            sinks: sinks.clone(),
            max_events: pipeline.batch.max_events,
            max_bytes: pipeline.batch.max_bytes as usize,
            max_in_flight: MAX_IN_FLIGHT,
        };
        let reader = Box::new(log.reader(log.partition(&source, partition)?, cursor));
        let lane = scheduler.add(tp, |waker| {
            let wake = Arc::new(move || waker.wake());
            LaneRunner::new(config, plugin.clone(), reader, log.clone(), clock.clone(), wake)
        });
        lanes.push(lane.map_err(|error| Error::Invalid(format!("cannot start a thread: {error}")))?);
    }
    Ok(Running { name: pipeline.name.clone(), source, lanes })
}
