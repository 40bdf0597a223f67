//! A well-behaved pipeline beside a hostile one, in one node.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use sluice_config::Pipeline;
use sluice_event::Batch;
use sluice_log::{Commit, NewTopic, TopicPartition};

use crate::events::Job;
use crate::measure::{Cost, Spread};
use crate::through::Through;

const ZOO: &str = "tests/zoo";
const SKELETON: &str = include_str!("../../tests/zoo/skeleton.txt");

/// What the well-behaved pipeline does alone, and beside each animal of the zoo that can be started, in million events a second by the
/// clock; alone comes first, then the animal that costs it most.
pub(crate) fn run(events: u64, runs: usize) -> Result<Vec<(String, Spread)>> {
    let input = Job::J3.events(events);
    let mut animals = Vec::new();
    for file in std::fs::read_dir(ZOO).context("run it in the project's folder")? {
        let name = file?.file_name().to_string_lossy().into_owned();
        animals.extend(name.strip_suffix(".wat").map(str::to_owned));
    }
    animals.sort();
    let (mut alone, mut beside) = (Vec::new(), vec![Vec::new(); animals.len()]);
    for run in 0..runs {
        for (animal, rates) in animals.iter().zip(&mut beside) {
            // A node of its own for each, as for chains.
            let through = Through::new(Job::J3, 2, &input)?;
            if cage(&through, animal, &input)? {
                rates.push(Cost::of(|| through.run_until_read(run))?.by_clock(events));
            }
        }
        for _ in 0..3 {
            let through = Through::new(Job::J3, 2, &input)?;
            alone.push(Cost::of(|| through.run_until_read(run))?.by_clock(events));
        }
    }
    let started = animals.into_iter().zip(beside).filter(|(_, rates)| !rates.is_empty());
    let mut rates: Vec<_> = started.map(|(animal, rates)| (animal, Spread::of(rates))).collect();
    rates.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
    rates.insert(0, ("alone".to_owned(), Spread::of(alone)));
    Ok(rates)
}

/// Starts an animal that has more events before it than it can deal with meanwhile; whether it could be started.
fn cage(through: &Through, animal: &str, input: &[Batch]) -> Result<bool> {
    let text = std::fs::read_to_string(Path::new(ZOO).join(animal).with_extension("wat"))?;
    let whole = text.contains("(module") || text.contains("(component");
    let wasm = wat::parse_str(if whole { text } else { SKELETON.replace("FIELDS", &text) })?;
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
    Ok(through.node().start(&[pipeline]).is_ok())
}
