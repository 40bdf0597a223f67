//! Many pipelines over many partitions: start, rest, memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use sluice_config::Pipeline;
use sluice_event::{Batch, NewEvent};
use sluice_log::{Commit, Durability, TopicPartition};
use sluice_node::{Compiler, Node, NodeOptions, Outcome};

use crate::measure::{Cost, resident_mib};

const PIPELINES: u32 = 200;
/// Partitions of each pipeline's source.
const PARTITIONS: u32 = 5;
/// How long it is watched at rest.
const REST: Duration = Duration::from_secs(5);

/// What many pipelines take.
pub(crate) struct Taken {
    /// Seconds from opening the directory until all run, for the first time and the second.
    pub(crate) start: [f64; 2],
    /// Share of a core at rest, in percent.
    pub(crate) idle: f64,
    /// MiB resident after each lane has dealt with some events.
    pub(crate) memory: u64,
}

fn pipelines() -> Result<Vec<Pipeline>> {
    let pipeline = |number: u32| {
        let text = format!(
            "name = \"p{number}\"\n[source]\ntopics = [\"in{number}\"]\n[[stage]]\nplugin = \"plugins/orders\"\n[[sink]]\ntopic = \"out{number}\"\n[[topic]]\nname = \"in{number}\"\npartitions = {PARTITIONS}\n"
        );
        Pipeline::parse(Path::new("bench.toml"), &text).map_err(|_| anyhow!("not a pipeline: {text}"))
    };
    (0..PIPELINES).map(pipeline).collect()
}

pub(crate) fn run() -> Result<Taken> {
    let data = tempfile::tempdir()?;
    let options = NodeOptions { data: data.path().to_owned(), durability: Durability::Fsync, compiler: Compiler::Here };
    let pipelines = pipelines()?;
    let mut start = [0.0; 2];
    for (round, seconds) in start.iter_mut().enumerate() {
        let begun = Instant::now();
        let node = Node::open(&options)?;
        node.start(&pipelines)?;
        *seconds = begun.elapsed().as_secs_f64();
        if round == 0 {
            continue;
        }
        let mut batch = Batch::default();
        let value = br#"{"id":7,"kind":"order","user":"user-1","amount":1.5,"page":"/shop","agent":"x"}"#;
        for _ in 0..100 {
            batch.push(&NewEvent { value, ..NewEvent::default() }).expect("it fits");
        }
        for topic in node.log().topics().iter().filter(|topic| topic.name.starts_with("in")) {
            for partition in 0..topic.partitions {
                node.log().commit(Commit::append(TopicPartition { topic: topic.id, partition }, batch.clone()))?;
            }
        }
        let Outcome::Idle = node.wait_until_idle(&|| false) else { bail!("it does not come to rest") };
        let cost = Cost::of(|| {
            let until = Instant::now() + REST;
            match node.wait(&|| Instant::now() >= until) {
                Outcome::Interrupted => Ok(()),
                other => bail!("it ended otherwise: {other:?}"),
            }
        })?;
        return Ok(Taken { start, idle: cost.cpu_share() * 100.0, memory: resident_mib()? });
    }
    bail!("it was not started twice")
}
