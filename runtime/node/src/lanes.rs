//! From a checked definition to lanes.

use std::sync::Arc;
use std::time::Duration;

use sluice_config::{At, Diagnostic, OnError, PartitionBy, Pipeline, Start, Topic, changelog_topic};
use sluice_engine::{
    BatchSize, Breaker, Delivery, ErrorPolicy, Generation, LaneConfig, LaneRunner, RedriveConfig, Retry, Sink, Source,
    SourceConfig, StageConfig, TimePolicy, Witness, Writer,
};
use sluice_env::Clock;
use sluice_log::{
    Commit, Compression, Desired, Error, Log, NewTopic, Order, PipelineInfo, PipelineStart, TopicInfo, TopicPartition,
    TopicSettings,
};

use crate::scheduler::Scheduler;
use crate::state::States;

/// Attempts of one lane whose commits are not answered, at most.
const MAX_IN_FLIGHT: usize = 8;

/// One pipeline that runs.
pub(crate) struct Running {
    pub(crate) name: String,
    /// The pipeline's id.
    pub(crate) id: u32,
    /// Each partition it reads, with the scheduler's number of its lane, which several may share.
    pub(crate) lanes: Vec<(TopicPartition, usize)>,
    /// Is told of each call.
    pub(crate) witness: Arc<dyn Witness>,
    /// The definition in force, and SHA-256 of each of its plugins.
    pub(crate) definition: Pipeline,
    pub(crate) digest: Vec<u8>,
    /// What deals with its events.
    pub(crate) generation: Generation,
}

impl Running {
    /// Topics it writes to.
    pub(crate) fn writes(&self, topic: &str) -> bool {
        let own = self.definition.has_state() && changelog_topic(&self.name) == topic;
        own || self.definition.written().any(|(_, written)| written == topic)
    }

    /// Opens when too many of its events fail.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.generation.errors.breaker
    }

    /// What sends its dead letters through again; `None` when it writes none.
    pub(crate) fn redrive(&self) -> Option<RedriveConfig> {
        let Generation { stages, sinks, errors, .. } = &self.generation;
        (self.definition.errors.on_error == OnError::DeadLetter).then(|| RedriveConfig {
            pipeline_name: self.name.clone(),
            pipeline: self.id,
            witness: self.witness.clone(),
            stages: stages.clone(),
            sinks: sinks.clone(),
            errors: errors.clone(),
        })
    }

    /// Its lanes, each once.
    pub(crate) fn each_lane(&self) -> Vec<usize> {
        let mut lanes: Vec<_> = self.lanes.iter().map(|(_, lane)| *lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }
}

/// What a data directory holds, as far as definitions depend on it.
#[derive(Debug, Clone, Default)]
pub struct Existing {
    /// Topics with their partition counts.
    pub topics: Vec<(String, u32)>,
    /// Pipelines with the topics they have cursors on.
    pub reads: Vec<(String, String)>,
}

impl Existing {
    /// Of an open log.
    pub fn of(log: &Log) -> Self {
        let topics = log.topics();
        let name = |id| topics.iter().find(|topic| topic.id == id).map(|topic| topic.name.clone());
        let reads = log.pipelines().into_iter().flat_map(|pipeline| {
            let mut read: Vec<_> = pipeline.cursors.keys().filter_map(|tp| name(tp.topic)).collect();
            read.dedup();
            read.into_iter().map(move |topic| (pipeline.name.clone(), topic)).collect::<Vec<_>>()
        });
        Self { reads: reads.collect(), topics: topics.iter().map(|t| (t.name.clone(), t.partitions)).collect() }
    }

    fn partitions(&self, topic: &str) -> Option<u32> {
        self.topics.iter().find(|(name, _)| name == topic).map(|(_, partitions)| *partitions)
    }
}

/// The topics that definitions need.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Those that are not there.
    pub(crate) missing: Vec<NewTopic>,
    /// How those are to be kept that definitions declare and that are there.
    pub(crate) settings: Vec<(String, TopicSettings)>,
}

impl Needed {
    /// Makes those that are missing, and has the others kept as is wanted.
    pub(crate) fn make(self, log: &Log) -> Result<(), Error> {
        if !self.missing.is_empty() {
            log.commit(Commit { topics: self.missing, ..Commit::default() })?;
        }
        if !self.settings.is_empty() {
            log.commit(Commit::order(Order::SetTopics(self.settings)))?;
        }
        Ok(())
    }
}

fn settings(topic: &Topic) -> TopicSettings {
    TopicSettings {
        retention_age_ms: topic.retention.age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        retention_bytes: topic.retention.size,
        past_cursors: topic.retention.past_cursors,
        // Checked with the definition.
        compression: topic.compression.parse::<Compression>().unwrap_or_default(),
    }
}

/// The topics that pipelines need, given those that exist. Diagnostics where one cannot be made, or would not do.
pub(crate) fn needed_topics(existing: &Existing, pipelines: &[Pipeline]) -> Result<Needed, Vec<Diagnostic>> {
    let (mut needed, mut found) = (Needed::default(), Vec::new());
    let partitions = |needed: &Needed, name: &str| {
        let planned = needed.missing.iter().find(|topic| topic.name == name).map(|topic| topic.partitions);
        planned.or_else(|| existing.partitions(name))
    };
    // A topic is made with the partition count it is declared with or, for a sink, that of the pipeline's sources, which may
    // themselves be such sinks.
    let declared = || pipelines.iter().flat_map(|pipeline| (0..).zip(&pipeline.topics).map(move |t| (pipeline, t)));
    // Makes one that is not there, kept as it is declared.
    let make = |needed: &mut Needed, name: &str, count: u32| {
        if partitions(needed, name).is_none() {
            let declared = declared().find(|(_, (_, topic))| topic.name == name);
            let settings = declared.map(|(_, (_, topic))| settings(topic)).unwrap_or_default();
            needed.missing.push(NewTopic { name: name.to_owned(), partitions: count, settings });
        }
    };
    for (pipeline, (at, topic)) in declared() {
        match (partitions(&needed, &topic.name), topic.partitions) {
            (None, Some(count)) => make(&mut needed, &topic.name, count),
            (Some(there), Some(count)) if there != count => {
                let message = format!("topic {:?} exists with {there} partitions", topic.name);
                let help = "a topic's partition count is fixed when it is made: say the same here".to_owned();
                found.push(pipeline.diagnose(At::Topic(at), message, Some(help)));
            }
            _ => {}
        }
    }
    for pipeline in pipelines.iter().filter(|pipeline| pipeline.errors.on_error == OnError::DeadLetter) {
        // Dead letters are few, and are looked at together.
        make(&mut needed, &pipeline.errors.dead_letter_topic, 1);
    }
    // One that nobody writes to but producers has nothing to take its count from.
    for (_, (_, topic)) in declared() {
        if !pipelines.iter().any(|pipeline| pipeline.written().any(|(_, written)| written == topic.name)) {
            make(&mut needed, &topic.name, 1);
        }
    }
    for _ in pipelines {
        for pipeline in pipelines {
            let counts = pipeline.sources.iter().filter_map(|source| partitions(&needed, source));
            let Some(count) = counts.max() else { continue };
            pipeline.sinks.iter().for_each(|sink| make(&mut needed, &sink.topic, count));
        }
    }
    for (_, (_, topic)) in declared() {
        make(&mut needed, &topic.name, 1);
        if existing.partitions(&topic.name).is_some() {
            needed.settings.push((topic.name.clone(), settings(topic)));
        }
    }
    for pipeline in pipelines {
        let changelog = changelog_topic(&pipeline.name);
        let is_known = existing.reads.iter().any(|(name, _)| *name == pipeline.name);
        let has_been = existing.partitions(&changelog).is_some();
        if pipeline.has_state() && has_been && !is_known {
            let message = format!("topic {changelog:?} is there already, which is to hold the pipeline's state");
            let help = format!("delete it: `sluice topic delete {changelog}`; or give the pipeline another name");
            found.push(pipeline.diagnose(At::Name, message, Some(help)));
        }
        if !pipeline.has_state() && has_been && is_known {
            let message = "the definition in force keeps state, this one does not".to_owned();
            let help = format!(
                "its state would go stale: give the pipeline another name, or forget it with `sluice pipeline delete {}`",
                pipeline.name
            );
            found.push(pipeline.diagnose(At::Name, message, Some(help)));
        }
        let counts: Vec<_> = pipeline.sources.iter().map(|source| partitions(&needed, source)).collect();
        if let Some(count) = counts[0].filter(|_| pipeline.has_state()) {
            make(&mut needed, &changelog, count);
            let other = counts.iter().position(|other| other.is_some_and(|other| other != count));
            if let Some((at, other)) = other.and_then(|at| Some((at, counts[at]?))) {
                let (first, second) = (&pipeline.sources[0], &pipeline.sources[at]);
                let message = format!("topic {second:?} has {other} partitions, and {first:?} has {count}");
                let help = "what is kept of a key is kept by partition: with the same count, a key has the same one in each topic";
                found.push(pipeline.diagnose(At::Source(at), message, Some(help.to_owned())));
            }
        }
    }
    for pipeline in pipelines {
        for (at, source) in pipeline.sources.iter().enumerate() {
            if partitions(&needed, source).is_none() {
                let message = format!("unknown topic: {source:?}");
                let help =
                    format!("make it: `sluice topic create {source} --partitions 1`; or declare it in a [[topic]]");
                found.push(pipeline.diagnose(At::Source(at), message, Some(help)));
            }
        }
        let forsaken =
            existing.reads.iter().find(|(name, topic)| *name == pipeline.name && !pipeline.sources.contains(topic));
        if let Some((name, topic)) = forsaken {
            let message = format!("the definition in force reads topic {topic:?}, this one does not");
            let help = format!(
                "its cursor there would be lost: give the pipeline another name, or forget all its cursors with `sluice pipeline delete {name}`"
            );
            found.push(pipeline.diagnose(At::Source(0), message, Some(help)));
        }
    }
    if found.is_empty() { Ok(needed) } else { Err(found) }
}

/// Says in the log that a pipeline starts, and where. `digest` is that of its plugins.
pub(crate) fn start(log: &Log, pipeline: &Pipeline, digest: Vec<u8>) -> Result<(PipelineInfo, Vec<TopicInfo>), Error> {
    let sources = pipeline.sources.iter().map(|name| log.topic(name)).collect::<Result<Vec<_>, _>>()?;
    let before = log.pipeline(&pipeline.name);
    let mut first = Vec::new();
    for source in &sources {
        for partition in 0..source.partitions {
            let tp = TopicPartition { topic: source.id, partition };
            if before.as_ref().is_some_and(|before| before.cursors.contains_key(&tp)) {
                continue;
            }
            let found = log.partition(source, partition)?;
            let offset = match pipeline.start {
                Start::Earliest => found.low_mark(),
                Start::Latest => found.high_watermark(),
                Start::Time(time) => found.offset_at(time)?,
            };
            first.push((tp, offset));
        }
    }
    let start = PipelineStart { name: pipeline.name.clone(), digest, definition: pipeline.text.clone(), start: first };
    log.commit(Commit { pipeline: Some(start), ..Commit::default() })?;
    let info = log.pipeline(&pipeline.name).ok_or(Error::Closed)?;
    if let Some(before) = before.filter(|before| before.generation != info.generation) {
        let what = match (before.definition != info.definition, before.digest != info.digest) {
            (true, true) => "definition and plugins",
            (true, false) => "definition",
            _ => "plugins",
        };
        tracing::info!(pipeline = info.name, generation = info.generation, "other {what} than before are in force now");
    }
    Ok((info, sources))
}

/// What lanes run on.
pub(crate) struct Ground<'a> {
    pub(crate) log: &'a Arc<Log>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) witness: &'a Arc<dyn Witness>,
    pub(crate) scheduler: &'a Scheduler,
    pub(crate) states: &'a States,
    /// All definitions.
    pub(crate) all: &'a [Pipeline],
}

/// Makes a pipeline's lanes and lets them run.
pub(crate) fn run(
    &Ground { log, clock, witness, scheduler, states, all }: &Ground<'_>,
    pipeline: &Pipeline,
    (info, sources): (PipelineInfo, Vec<TopicInfo>),
    generation: Generation,
) -> Result<Running, Error> {
    let number = scheduler.add_pipeline();
    let number = number.map_err(|error| Error::Invalid(format!("cannot start a thread: {error}")))?;
    let mut lanes = Vec::new();
    let of_all = |partition| sources.iter().map(|source| (source.clone(), partition)).collect();
    let each = |source: &TopicInfo| {
        let source = source.clone();
        (0..source.partitions).map(move |partition| vec![(source.clone(), partition)])
    };
    let groups: Vec<Vec<(TopicInfo, u32)>> = match pipeline.has_state() {
        // What is kept of a partition number comes of all topics.
        true => (0..sources[0].partitions).map(of_all).collect(),
        false => sources.iter().flat_map(each).collect(),
    };
    for group in groups {
        let (mut read, mut writers) = (Vec::new(), Vec::new());
        for (source, partition) in &group {
            let tp = TopicPartition { topic: source.id, partition: *partition };
            let cursor = info.cursors.get(&tp).copied().unwrap_or_default();
            let reader: Box<dyn Source> = Box::new(log.reader(log.partition(source, *partition)?, cursor.next));
            let (topic_name, tried) = (source.name.clone(), cursor.tried);
            read.push((SourceConfig { source: tp, topic_name, cursor: cursor.next, tried }, reader));
            writers.push(self::writers(log, all, tp, &source.name)?);
        }
        let config = LaneConfig {
            pipeline_name: info.name.clone(),
            pipeline: info.id,
            epoch: info.epoch,
            delivery: match pipeline.delivery {
                sluice_config::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
                sluice_config::Delivery::AtLeastOnce => Delivery::AtLeastOnce { every: pipeline.batch.commit_every },
                sluice_config::Delivery::AtMostOnce => Delivery::AtMostOnce,
            },
            witness: witness.clone(),
            generation: generation.clone(),
            max_in_flight: MAX_IN_FLIGHT,
            state: match pipeline.has_state() {
                true => {
                    let time = time(&pipeline.time, writers);
                    Some(states.config(log, (info.id, &info.name), group[0].1, time)?)
                }
                false => None,
            },
        };
        // What is held stands still until somebody resumes it.
        let desired = if info.held.is_empty() { info.desired } else { Desired::Pause };
        let tps: Vec<_> = read.iter().map(|(config, _)| config.source).collect();
        let lane = scheduler.add(number, &tps, desired, |waker| {
            let wake = Arc::new(move || waker.wake());
            LaneRunner::new(config, read, log.clone(), clock.clone(), wake)
        });
        lanes.extend(tps.into_iter().map(|tp| (tp, lane)));
    }
    if !info.held.is_empty() {
        tracing::warn!(
            pipeline = info.name,
            reason = info.held,
            "is held: `sluice pipeline resume {}` lets it run",
            info.name
        );
    } else if info.desired != Desired::Run {
        tracing::warn!(pipeline = info.name, "stands still: `sluice pipeline resume {}` lets it run", info.name);
    }
    // As the log lists cursors.
    lanes.sort_unstable();
    Ok(Running {
        name: pipeline.name.clone(),
        id: info.id,
        lanes,
        witness: witness.clone(),
        definition: pipeline.clone(),
        digest: info.digest,
        generation,
    })
}

/// What deals with a pipeline's events by a definition and its plugins.
pub(crate) fn generation(
    log: &Log,
    pipeline: &Pipeline,
    number: u64,
    stages: Vec<StageConfig>,
) -> Result<Generation, Error> {
    Ok(Generation {
        number,
        stages,
        sinks: pipeline.sinks.iter().map(|sink| self::sink(log, sink)).collect::<Result<_, _>>()?,
        errors: errors(log, &pipeline.errors)?,
        batch_size: BatchSize::new(pipeline.batch.max_events),
        max_bytes: pipeline.batch.max_bytes as usize,
        linger: pipeline.batch.linger,
        probation: None,
    })
}

/// Pipelines that write to a source partition, on each of their own source partitions that may come there.
pub(crate) fn writers(log: &Log, all: &[Pipeline], to: TopicPartition, name: &str) -> Result<Vec<Writer>, Error> {
    let mut writers = Vec::new();
    let count = log.topic(name)?.partitions;
    for pipeline in all {
        let Some(sink) = pipeline.sinks.iter().find(|sink| sink.topic == name) else { continue };
        for source in &pipeline.sources {
            let source = log.topic(source)?;
            let comes = |partition: &u32| sink.partition_by != PartitionBy::Source || partition % count == to.partition;
            writers.extend((0..source.partitions).filter(comes).map(|partition| (source.id, partition)));
        }
    }
    writers.sort_unstable();
    writers.dedup();
    Ok(writers)
}

/// As the engine takes it.
pub(crate) fn time(time: &sluice_config::Time, writers: Vec<Vec<Writer>>) -> TimePolicy {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    TimePolicy {
        lateness: millis(time.lateness),
        idle_after: millis(time.idle_after),
        max_ahead: millis(time.max_ahead),
        late_sink: time.late_sink,
        writers,
    }
}

fn errors(log: &Log, errors: &sluice_config::Errors) -> Result<ErrorPolicy, Error> {
    Ok(ErrorPolicy {
        retry: Retry {
            attempts: errors.attempts,
            initial_backoff: errors.initial_backoff,
            max_backoff: errors.max_backoff,
        },
        on_error: match errors.on_error {
            OnError::DeadLetter => {
                let topic = log.topic(&errors.dead_letter_topic)?;
                sluice_engine::OnError::DeadLetter { topic: topic.id, partitions: topic.partitions }
            }
            OnError::Halt => sluice_engine::OnError::Halt,
            OnError::Skip => sluice_engine::OnError::Skip,
        },
        breaker: Arc::new(Breaker::new(errors.window, errors.max_failures)),
    })
}

fn sink(log: &Log, sink: &sluice_config::Sink) -> Result<Sink, Error> {
    let topic = log.topic(&sink.topic)?;
    Ok(Sink {
        name: sink.name.clone(),
        topic: topic.id,
        partitions: topic.partitions,
        partition_by: partition_by(sink.partition_by),
    })
}

/// The engine's word for how a sink spreads its events.
pub(crate) fn partition_by(by: PartitionBy) -> sluice_engine::PartitionBy {
    match by {
        PartitionBy::Key => sluice_engine::PartitionBy::Key,
        PartitionBy::RoundRobin => sluice_engine::PartitionBy::RoundRobin,
        PartitionBy::Source => sluice_engine::PartitionBy::Source,
    }
}
