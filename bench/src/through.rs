//! The job through everything: log, engine, sandboxed guest, one commit per batch, log.

use std::path::Path;

use anyhow::{Result, bail};
use sluice_config::Pipeline;
use sluice_event::Batch;
use sluice_log::{Commit, Durability, NewTopic, TopicPartition};
use sluice_node::{Node, NodeOptions, Outcome};

use crate::events::Job;

pub(crate) struct Through {
    node: Node,
    job: Job,
    _data: tempfile::TempDir,
}

impl Through {
    /// A node with the input in its log.
    pub(crate) fn new(job: Job, input: &[Batch]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let node = Node::open(&NodeOptions { data: data.path().to_owned(), durability: Durability::Os })?;
        sluice_node::topics::create(node.log(), NewTopic::new("in", 1))?;
        let through = Self { node, job, _data: data };
        through.append(input)?;
        Ok(through)
    }

    /// Appends events to the topic that all runs read.
    pub(crate) fn append(&self, input: &[Batch]) -> Result<()> {
        let to = TopicPartition { topic: self.node.log().topic("in")?.id, partition: 0 };
        for batch in input {
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

    /// Runs a pipeline of its own over all of it.
    pub(crate) fn run(&self, run: usize) -> Result<()> {
        let text = format!(
            "name = \"run-{run}\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = {:?}\n[[sink]]\ntopic = \"out-{run}\"\n",
            self.job.plugin()
        );
        let Ok(pipeline) = Pipeline::parse(Path::new("bench.toml"), &text) else { bail!("not a pipeline: {text}") };
        self.node.start(&[pipeline])?;
        self.settle()
    }
}
