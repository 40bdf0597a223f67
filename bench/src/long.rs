//! What does not change with the number of events: J1 through one pipeline from the first million to the hundredth.

use anyhow::Result;

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

pub(crate) fn run(&Settings { quick, .. }: &Settings) -> Result<Vec<Table>> {
    let step = if quick { STEP / 100 } else { STEP };
    let input = Job::J1.events(step);
    let through = Through::new(Job::J1, 1, &input[..1])?;
    through.node().start(&[through.pipeline("long", How::default())?])?;
    through.settle()?;
    let (mut rates, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        // The pipeline runs while it is appended to: both are counted.
        rates.push(Cost::of(|| through.append(&input).and_then(|()| through.settle()))?.per_core(step));
        resident.push(measure::resident_mib()? as f64);
    }
    let mut table = Table::new(
        "long",
        "J1, exactly-once, os, one pipeline over a log that grows; producer included",
        &["M/s per core", "of the first five", "MiB resident"],
    );
    let first = Spread::of(rates[TOLD[0].clone()].to_vec());
    for told in TOLD {
        let rates = Spread::of(rates[told.clone()].to_vec());
        let name = format!("steps {} to {} of {step} events", told.start + 1, told.end);
        let memory = Spread::of(resident[told].to_vec());
        table.row(name, [rates.into(), (rates.median / first.median).into(), memory.into()]);
    }
    Ok(vec![table])
}

/// MiB of a node in which ten pipelines with ten plugins in Rust have dealt with events. In a process of its own, which has done nothing else.
pub(crate) fn ten_plugins(_: &Settings) -> Result<Vec<Table>> {
    let output = std::process::Command::new(std::env::current_exe()?).arg("--ten").output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout)?;
    let mut table =
        Table::new("ten plugins", "a node with ten pipelines, a Rust plugin in each", &["MiB resident", "asked"]);
    let mib: f64 = told.trim().parse()?;
    table.row("when all have dealt with 20,000 events", [mib.into(), "less than 150".into()]);
    Ok(vec![table])
}

/// What `--ten` does: prints MiB.
#[expect(clippy::print_stdout, reason = "that is how it tells")]
pub(crate) fn ten() -> Result<()> {
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
    println!("{}", measure::resident_mib()?);
    Ok(())
}
