//! The job through everything: log, engine, sandboxed guest, one commit per batch, log.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use sluice_config::Pipeline;
use sluice_event::Batch;
use sluice_log::{Commit, Durability, NewTopic, TopicPartition};
use sluice_node::{Compiler, Node, NodeOptions, Outcome};

use crate::events::Job;

pub(crate) struct Through {
    node: Node,
    job: Job,
    data: tempfile::TempDir,
}

impl Through {
    /// A node with the input in its log, spread over so many partitions.
    pub(crate) fn new(job: Job, partitions: u32, input: &[Batch]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let node = Node::open(&NodeOptions {
            data: data.path().to_owned(),
            durability: Durability::Os,
            compiler: Compiler::Here,
        })?;
        let through = Self { node, job, data };
        for topic in ["warm-up", "in"] {
            sluice_node::topics::create(through.node.log(), NewTopic::new(topic, partitions))?;
        }
        // Compiling the plugin is none of the costs that are measured.
        through.append_to("warm-up", &input[..1])?;
        through.start(&[pipeline("warm-up", "exactly-once", "warm-up", &[job.plugin()])?])?;
        through.append(input)?;
        Ok(through)
    }

    /// Appends events to the topic that all runs read.
    pub(crate) fn append(&self, input: &[Batch]) -> Result<()> {
        self.append_to("in", input)
    }

    fn append_to(&self, topic: &str, input: &[Batch]) -> Result<()> {
        let topic = self.node.log().topic(topic)?;
        for (batch, partition) in input.iter().zip((0..topic.partitions).cycle()) {
            let to = TopicPartition { topic: topic.id, partition };
            self.node.log().commit(Commit::append(to, batch.clone()))?;
        }
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
        self.node.start(&[pipeline(&name, "exactly-once", "in", &[self.job.plugin()])?])?;
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
        self.run_as("exactly-once", run)
    }

    /// The same with a delivery.
    pub(crate) fn run_as(&self, delivery: &str, run: usize) -> Result<()> {
        self.start(&[pipeline(&format!("{delivery}-{run}"), delivery, "in", &[self.job.plugin()])?])
    }

    /// Runs the job's plugin twice, one behind the other: as a chain, or as two pipelines with a topic between them.
    pub(crate) fn run_twice(&self, chained: bool, run: usize) -> Result<()> {
        let plugin = self.job.plugin();
        if chained {
            return self.start(&[pipeline(&format!("chain-{run}"), "exactly-once", "in", &[plugin, plugin])?]);
        }
        let (first, second) = (format!("first-{run}"), format!("second-{run}"));
        let first = pipeline(&first, "exactly-once", "in", &[plugin])?;
        let second = pipeline(&second, "exactly-once", &first.sinks[0].topic, &[plugin])?;
        self.start(&[first, second])
    }

    fn start(&self, pipelines: &[Pipeline]) -> Result<()> {
        self.node.start(pipelines)?;
        self.settle()
    }
}

/// A pipeline of these plugins from a topic into one of its own.
fn pipeline(name: &str, delivery: &str, source: &str, plugins: &[&str]) -> Result<Pipeline> {
    let stages: String = plugins
        .iter()
        .enumerate()
        .map(|(at, plugin)| {
            let state = if *plugin == "plugins/totals" { "capabilities = [\"state\"]\n" } else { "" };
            format!("[[stage]]\nplugin = {plugin:?}\nname = \"stage-{at}\"\n{state}")
        })
        .collect();
    let text = format!(
        "name = {name:?}\ndelivery = {delivery:?}\n[source]\ntopics = [{source:?}]\n{stages}[[sink]]\ntopic = \"out-{name}\"\n"
    );
    Pipeline::parse(Path::new("bench.toml"), &text).map_err(|_| anyhow!("not a pipeline: {text}"))
}
