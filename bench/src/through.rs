//! The job through everything: log, engine, sandboxed guest, one commit per batch, log.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use sluice_config::Pipeline;
use sluice_engine::PartitionBy;
use sluice_event::Batch;
use sluice_log::{Commit, Desired, Durability, NewTopic, TopicPartition};
use sluice_node::{Compiler, Node, NodeOptions, Outcome};

use crate::events::Job;

pub(crate) struct Through {
    node: Node,
    job: Job,
    data: tempfile::TempDir,
}

/// How a pipeline runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) delivery: &'static str,
    /// Events of a call at most.
    pub(crate) max_events: u32,
    /// How the sink spreads what it gets.
    pub(crate) partition_by: &'static str,
}

impl Default for How {
    fn default() -> Self {
        Self { delivery: "exactly-once", max_events: 4096, partition_by: "key" }
    }
}

impl Through {
    /// A node with the input in its log, spread over so many partitions.
    pub(crate) fn new(job: Job, partitions: u32, input: &[Batch]) -> Result<Self> {
        Self::with(job, partitions, Durability::Os, input)
    }

    /// The same with another durability.
    pub(crate) fn with(job: Job, partitions: u32, durability: Durability, input: &[Batch]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let (folder, compiler) = (data.path().to_owned(), Compiler::Here);
        let node = Node::open(&NodeOptions { data: folder, durability, compiler })?;
        let through = Self { node, job, data };
        for topic in ["warm-up", "in"] {
            sluice_node::topics::create(through.node.log(), NewTopic::new(topic, partitions))?;
        }
        // Compiling the plugin is none of the costs that are measured.
        through.append_to("warm-up", &input[..1])?;
        through.start(&[pipeline("warm-up", How::default(), "warm-up", job, job.plugins())?])?;
        through.append(input)?;
        Ok(through)
    }

    /// The same with a pipeline that has run and stands still before the input: its topics' files and its first instances are there, with memory for calls
    /// as large as they become.
    pub(crate) fn standing(job: Job, how: How, partitions: u32, input: &[Batch]) -> Result<Self> {
        let before = u64::from(how.max_events * partitions);
        let through = Self::new(job, partitions, &job.events_from(0, before, 500))?;
        through.run_as(how, 0)?;
        through.node.want(&name_of(how, 0), Desired::Pause)?;
        through.append(input)?;
        Ok(through)
    }

    /// Appends events to the topic that all runs read.
    pub(crate) fn append(&self, input: &[Batch]) -> Result<()> {
        self.append_to("in", input)
    }

    /// Events with keys by these, as producers do it, and whole batches without keys in turn.
    fn append_to(&self, topic: &str, input: &[Batch]) -> Result<()> {
        let topic = self.node.log().topic(topic)?;
        let append = |partition, batch| {
            let to = TopicPartition { topic: topic.id, partition };
            self.node.log().commit(Commit::append(to, batch)).map(drop)
        };
        if topic.partitions == 1 {
            return Ok(input.iter().try_for_each(|batch| append(0, batch.clone()))?);
        }
        let mut gathered = vec![Batch::default(); topic.partitions as usize];
        for (batch, in_turn) in input.iter().zip((0..topic.partitions).cycle()) {
            for event in batch.region().events() {
                let event = event?;
                let partition = PartitionBy::Key.partition(event.key(), in_turn, 0, 0, topic.partitions);
                let gathering = &mut gathered[partition as usize];
                gathering.push_event(&event);
                if gathering.count() == batch.count() {
                    append(partition, std::mem::take(gathering))?;
                }
            }
        }
        let rest = (0..).zip(gathered).filter(|(_, batch)| !batch.is_empty());
        rest.into_iter().try_for_each(|(partition, batch)| append(partition, batch))?;
        Ok(())
    }

    /// Waits until the pipelines that run have dealt with everything.
    pub(crate) fn settle(&self) -> Result<()> {
        match self.node.wait_until_idle(&|| false) {
            Outcome::Idle => Ok(()),
            other => bail!("the run ended otherwise: {other:?}"),
        }
    }

    /// The node.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Runs a pipeline of its own, and waits until that has read everything, whatever others do.
    pub(crate) fn run_until_read(&self, run: usize) -> Result<()> {
        let name = format!("tame-{run}");
        self.node.start(&[self.pipeline(&name, How::default())?])?;
        loop {
            let status = self.node.status();
            if status.pipelines.iter().any(|pipeline| pipeline.name == name && pipeline.lag == 0) {
                return Ok(());
            }
            #[expect(clippy::disallowed_methods, reason = "looks again after a while")]
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Runs a pipeline of its own over all of it.
    pub(crate) fn run(&self, run: usize) -> Result<()> {
        self.run_as(How::default(), run)
    }

    /// The same in a certain way.
    pub(crate) fn run_as(&self, how: How, run: usize) -> Result<()> {
        self.start(&[self.pipeline(&name_of(how, run), how)?])
    }

    /// Has the pipeline of a run go on, and waits until it has dealt with everything.
    pub(crate) fn resume(&self, how: How, run: usize) -> Result<()> {
        self.node.want(&name_of(how, run), Desired::Run)?;
        self.settle()
    }

    /// The definition of such a pipeline.
    pub(crate) fn pipeline(&self, name: &str, how: How) -> Result<Pipeline> {
        pipeline(name, how, "in", self.job, self.job.plugins())
    }

    /// Events in all partitions of the topic that a run has written to.
    pub(crate) fn outputs(&self, run: usize) -> Result<u64> {
        let topic = self.node.log().topic(&format!("out-{}", name_of(How::default(), run)))?;
        let partition = |partition| Ok(self.node.log().partition(&topic, partition)?.high_watermark());
        (0..topic.partitions).map(partition).sum()
    }

    /// Runs the job's plugin twice, one behind the other: as a chain, or as two pipelines with a topic between them.
    pub(crate) fn run_twice(&self, chained: bool, run: usize) -> Result<()> {
        let (job, plugins, how) = (self.job, self.job.plugins(), How::default());
        if chained {
            return self.start(&[pipeline(&format!("chain-{run}"), how, "in", job, &[plugins, plugins].concat())?]);
        }
        let (first, second) = (format!("first-{run}"), format!("second-{run}"));
        let first = pipeline(&first, how, "in", job, plugins)?;
        let second = pipeline(&second, how, &first.sinks[0].topic, job, plugins)?;
        self.start(&[first, second])
    }

    fn start(&self, pipelines: &[Pipeline]) -> Result<()> {
        self.node.start(pipelines)?;
        self.settle()
    }
}

/// The name of the pipeline of a run.
fn name_of(How { delivery, max_events, partition_by }: How, run: usize) -> String {
    format!("{delivery}-{max_events}-{partition_by}-{run}")
}

/// A pipeline of these plugins from a topic into one of its own.
pub(crate) fn pipeline(name: &str, how: How, source: &str, job: Job, plugins: &[&str]) -> Result<Pipeline> {
    let capabilities = job.capabilities();
    let stage = |(at, plugin)| {
        format!("[[stage]]\nplugin = {plugin:?}\nname = \"stage-{at}\"\ncapabilities = {capabilities:?}\n")
    };
    let stages: String = plugins.iter().enumerate().map(stage).collect();
    let late = if job == Job::J4 { "[[sink]]\ntopic = \"late\"\nname = \"too-late\"\n" } else { "" };
    let How { delivery, max_events, partition_by } = how;
    let text = format!(
        "name = {name:?}\ndelivery = {delivery:?}\n[source]\ntopics = [{source:?}]\n[batch]\nmax-events = {max_events}\n{stages}[[sink]]\ntopic = \"out-{name}\"\npartition-by = {partition_by:?}\n{late}"
    );
    Pipeline::parse(Path::new("bench.toml"), &text).map_err(|_| anyhow!("not a pipeline: {text}"))
}
