//! What does not change with the number of events: J1 through one pipeline from the first million to the hundredth.

use std::fs::File;
use std::io::{Seek, Write};

use anyhow::{Context, Result};
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
    let mut table = Table::new(
        "long",
        "J1, exactly-once, os, one pipeline over a log that grows; producer included",
        &[
            "M/s per core",
            "of the first five",
            "µs of processor time for a page of 4 KiB that is written to another file",
            "M/s per core, if a page took what it took first",
            "of the first five",
            "MiB resident",
        ],
    );
    for (size, kept) in KEPT {
        let steps = steps(&input, step, size)?;
        let spread = |told: &std::ops::Range<usize>, each: &dyn Fn(&Step) -> f64| {
            Spread::of(steps[told.clone()].iter().map(each).collect())
        };
        let first_page = spread(&TOLD[0], &|step| step.page).median;
        let rate = |step: &Step| 1.0 / step.event;
        let rate_besides = |step: &Step| 1.0 / (step.event - step.pages * (step.page - first_page));
        let [first, first_besides] = [&rate as &dyn Fn(&Step) -> f64, &rate_besides].map(|each| spread(&TOLD[0], each));
        for told in TOLD {
            let (rates, besides) = (spread(&told, &rate), spread(&told, &rate_besides));
            let name = format!("{kept}; steps {} to {} of {step} events", told.start + 1, told.end);
            let (ratio, ratio_besides) = (rates.median / first.median, besides.median / first_besides.median);
            let (page, mib) = (spread(&told, &|step| step.page), spread(&told, &|step| step.mib as f64));
            let cells = [rates.into(), ratio.into(), page.into(), besides.into(), ratio_besides.into(), mib.into()];
            table.row(name, cells);
        }
    }
    table.note("A page is written to the page cache, where the machine has to find memory for it: that is no part of what is measured here, and may cost ten times as much where a virtual machine gets its memory only when it is first used. Where all is kept, the other file grows as the log does, and nothing is deleted; where not, it is emptied after each step.");
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
    let mut floor = tempfile::tempfile()?;
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        let before = written()?;
        // The pipeline runs while it is appended to: both are counted.
        let cost = Cost::of(|| through.append(input).and_then(|()| through.settle()))?;
        steps.push(Step {
            event: 1.0 / cost.per_core(events),
            pages: (written()? - before) as f64 / PAGE as f64 / events as f64,
            page: page(&mut floor)?,
            mib: measure::resident_mib()?,
        });
        if kept.is_some() {
            floor.set_len(0)?;
            floor.rewind()?;
        }
    }
    Ok(steps)
}

/// Of one step: µs of processor time for an event, pages written for it, µs for a page of the floor, memory.
struct Step {
    event: f64,
    pages: f64,
    page: f64,
    mib: u64,
}

const PAGE: u64 = 4096;

/// Bytes that this process has handed to the kernel to write.
fn written() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).context("no wchar in /proc/self/io")?;
    Ok(line.parse()?)
}

/// µs of processor time for each page that is written behind the end of a file: what the machine takes for memory.
fn page(file: &mut File) -> Result<f64> {
    const PIECES: u64 = 32;
    let bytes = vec![1; 1 << 20];
    let cost = Cost::of(|| Ok((0..PIECES).try_for_each(|_| file.write_all(&bytes))?))?;
    Ok(1.0 / cost.per_core(PIECES * bytes.len() as u64 / PAGE))
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
