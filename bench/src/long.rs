//! What does not change with the number of events: J1 through one pipeline from the first million to the hundredth.

use anyhow::Result;
use sluice_config::{Retention, Topic};
use sluice_event::Batch;

use crate::Settings;
use crate::events::Job;
use crate::measure::{self, Cost, Spread};
use crate::report::Table;
use crate::through::{How, Through};

/// Events appended at once; the pipeline then deals with them.
const STEP: u64 = 1_000_000;
const STEPS: u64 = 100;
/// Steps that are told together.
const TOLD: [std::ops::Range<usize>; 4] = [0..5, 5..10, 45..55, 95..100];

/// What is kept of each topic, in bytes of a partition, and what that is called.
const KEPT: [(Option<u64>, &str); 2] = [(None, "all is kept"), (Some(1 << 30), "1 GiB of each topic is kept")];

pub(crate) fn run(&Settings { quick, .. }: &Settings) -> Result<Vec<Table>> {
    let step = if quick { STEP / 100 } else { STEP };
    let input = Job::J1.events(step);
    let columns = ["M/s per core", "of the first five", "M/s by the clock", "of the first five", "MiB resident"];
    let title = "J1, exactly-once, os, one pipeline over a log that grows; producer included";
    let mut table = Table::new("long", title, &columns);
    for (size, kept) in KEPT {
        let steps = steps(&input, step, size)?;
        let spread = |told: &std::ops::Range<usize>, each: fn(&Step) -> f64| {
            Spread::of(steps[told.clone()].iter().map(each).collect())
        };
        let rates: [fn(&Step) -> f64; 2] = [|step| step.per_core, |step| step.by_clock];
        for told in TOLD {
            let mut cells = Vec::new();
            for rate in rates {
                let (now, first) = (spread(&told, rate), spread(&TOLD[0], rate));
                cells.extend([now.into(), (now.median / first.median).into()]);
            }
            cells.push(spread(&told, |step| step.mib as f64).into());
            table.row(format!("{kept}; steps {} to {} of {step} events", told.start + 1, told.end), cells);
        }
    }
    Ok(vec![table])
}

/// What each step of so many events takes in a log of its own, of which so many bytes are kept.
fn steps(input: &[Batch], events: u64, kept: Option<u64>) -> Result<Vec<Step>> {
    let through = Through::new(Job::J1, 1, &input[..1])?;
    let mut pipeline = through.pipeline("long", How::default())?;
    let retention = Retention { size: kept, ..Retention::default() };
    pipeline.topics = ["in", "out-long"]
        .map(|name| Topic { name: name.into(), partitions: None, retention, compression: "none".into() })
        .into();
    through.node().start(&[pipeline])?;
    through.settle()?;
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        // The pipeline runs while it is appended to: both are counted.
        let cost = Cost::of(|| through.append(input).and_then(|()| through.settle()))?;
        let (per_core, by_clock) = (cost.per_core(events), cost.by_clock(events));
        steps.push(Step { per_core, by_clock, mib: measure::resident_mib()? });
    }
    Ok(steps)
}

/// One step: million events per second, and memory.
struct Step {
    per_core: f64,
    by_clock: f64,
    mib: u64,
}

/// MiB of a node in which ten pipelines with ten plugins in Rust have dealt with events.
pub(crate) fn ten_plugins(_: &Settings) -> Result<Vec<Table>> {
    use sluice_config::Pipeline;
    const PLUGINS: [(&str, &str); 10] = [
        ("late-flights", ""),
        ("dedupe", "config = { for-seconds = 10 }"),
        ("orders", ""),
        ("pass-through", ""),
        ("picky", ""),
        ("route-averages", ""),
        ("totals", ""),
        ("best-totals", ""),
        ("visits", ""),
        ("airport-hours", ""),
    ];
    let through = Through::new(Job::J4, 1, &Job::J4.events(20_000))?;
    let pipelines = PLUGINS.map(|(plugin, config)| {
        let late = if plugin == "airport-hours" { "[[sink]]\ntopic = \"late\"\nname = \"too-late\"\n" } else { "" };
        let text = format!(
            "name = \"of-{plugin}\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = \"plugins/{plugin}\"\ncapabilities = [\"state\", \"timers\"]\n{config}\n[[sink]]\ntopic = \"out-{plugin}\"\n{late}[errors]\non-error = \"dead-letter\"\nbreaker = {{ window = 1000000, max-failures = 1000000 }}\n"
        );
        Pipeline::parse(std::path::Path::new("bench.toml"), &text).map_err(|found| anyhow::anyhow!("not a pipeline: {text}{found:?}"))
    });
    through.node().start(&pipelines.into_iter().collect::<Result<Vec<_>>>()?)?;
    through.settle()?;
    let mut table =
        Table::new("ten plugins", "a node with ten pipelines, a Rust plugin in each", &["MiB resident", "asked"]);
    let mib = measure::resident_mib()? as f64;
    table.row("when all have dealt with 20,000 events", [mib.into(), "less than 150".into()]);
    Ok(vec![table])
}
