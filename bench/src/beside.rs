//! A well-behaved pipeline beside a hostile one, in one node.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use sluice_config::Pipeline;
use sluice_event::Batch;
use sluice_log::{Commit, NewTopic, TopicPartition};

use crate::events::Job;
use crate::measure::{Cost, Spread};
use crate::through::Through;

const SKELETON: &str = include_str!("../../tests/zoo/skeleton.txt");
/// Animals that use what they can get.
const ANIMALS: [&str; 5] = ["loop-in-process", "memory-bomb", "log-flood", "traps-always", "many-outputs"];

/// What the well-behaved pipeline does alone, and beside each animal, in million events a second by the clock.
pub(crate) fn run(events: u64, runs: usize) -> Result<Vec<(String, Spread)>> {
    let input = Job::J3.events(events);
    let mut rates = vec![("alone".to_owned(), Vec::new())];
    rates.extend(ANIMALS.iter().map(|animal| ((*animal).to_owned(), Vec::new())));
    for run in 0..runs {
        for (animal, rates) in &mut rates {
            // A node of its own for each, as for chains.
            let through = Through::new(Job::J3, 2, &input)?;
            if animal != "alone" {
                cage(&through, animal, &input)?;
            }
            rates.push(Cost::of(|| through.run_until_read(run))?.by_clock(events));
        }
    }
    Ok(rates.into_iter().map(|(name, rates)| (name, Spread::of(rates))).collect())
}

/// Starts an animal that has more events before it than it can deal with meanwhile.
fn cage(through: &Through, animal: &str, input: &[Batch]) -> Result<()> {
    let fields = std::fs::read_to_string(Path::new("tests/zoo").join(animal).with_extension("wat"));
    let wasm = wat::parse_str(SKELETON.replace("FIELDS", &fields.context("run it in the project's folder")?))?;
    let dir = through.data();
    std::fs::write(dir.join("wild.wasm"), wasm)?;
    let log = through.node().log();
    sluice_node::topics::create(log, NewTopic::new("wild-in", 2))?;
    let topic = log.topic("wild-in")?.id;
    for (batch, partition) in input.iter().zip([0, 1].into_iter().cycle()) {
        log.commit(Commit::append(TopicPartition { topic, partition }, batch.clone()))?;
    }
    let text = "name = \"wild\"\n[source]\ntopics = [\"wild-in\"]\n[[stage]]\nplugin = \"wild.wasm\"\n\
        [errors]\nbreaker = { window = 1000000, max-failures = 1000000 }\n";
    let pipeline = Pipeline::parse(&dir.join("wild.toml"), text).map_err(|_| anyhow!("not a pipeline: {text}"))?;
    Ok(through.node().start(&[pipeline])?)
}
