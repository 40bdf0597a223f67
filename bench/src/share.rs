//! What each part adds to the cost of an event: the consumer natively, the sandbox, stopping, the engine, the log.

use std::path::PathBuf;

use anyhow::Result;
use sluice_engine::Delivery;
use sluice_host::Interruption;

use crate::Settings;
use crate::engine::{self, Memory};
use crate::events::Job;
use crate::measure::{Cost, Spread};
use crate::report::Table;
use crate::through::Through;
use crate::{guest, native, native_lane};

pub(crate) fn run(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    [Job::J1, Job::J3].into_iter().map(|job| of(job, events, runs)).collect()
}

fn of(job: Job, events: u64, runs: usize) -> Result<Table> {
    let input = job.events(events);
    let memory = Memory::of(&input);
    // Nanoseconds of processor time, of all threads.
    let each = |cost: Cost| 1e3 / cost.per_core(events);
    let [mut floor, mut alone, mut lane, mut logged, mut whole] = [const { Vec::new() }; 5];
    for _ in 0..runs {
        // A directory of its own for each round, as for jobs.
        let through = Through::new(job, 1, &input)?;
        floor.push(each(Cost::of(|| native::copy_and_write(&input))?));
        alone.push(each(Cost::of(|| native::alone(job, &input))?));
        lane.push(each(Cost::of(|| engine::run_lane(job, &memory))?));
        logged.push(each(Cost::of(|| native_lane::run(job, through.node().log(), Delivery::ExactlyOnce, "native"))?));
        whole.push(each(Cost::of(|| through.run(0))?));
    }
    drop((memory, input));
    let plugin = job.plugins()[0];
    let name = plugin.rsplit('/').next().unwrap_or_default();
    let file = PathBuf::from(plugin).join("build").join(format!("{name}.wasm"));
    let ways = [Interruption::Never, Interruption::Page, Interruption::Epochs].map(|way| (file.clone(), way));
    let guests = guest::run(job, events / 10, &ways)?;
    let of_floor = Spread::of_ratios(&floor, &whole);
    let floor = Spread::of(floor);
    let [alone, lane, logged, whole] = [alone, lane, logged, whole].map(Spread::of);
    let title = format!("{}, one partition, os, exactly-once; ns an event", job.name());
    let mut table =
        Table::new(&format!("share {}", job.name()), &title, &["of all up to here", "this part", "share of the whole"]);
    let share = |part: f64| format!("{:.0} %", 100.0 * part / whole.median);
    let mut part = |name: &str, taken: Spread, adds: f64| {
        table.row(name, [taken.into(), adds.into(), share(adds).into()]);
    };
    let sandbox = guests[0].median - alone.median;
    let stopping = guests[1].median - guests[0].median;
    let (engine, log) = (lane.median - alone.median, logged.median - lane.median);
    part("the consumer, natively", alone, alone.median);
    part("the same in the sandbox, never stopped: compiled by Cranelift, bytes copied in and out", guests[0], sandbox);
    part("the same, stopped by a page", guests[1], stopping);
    part("engine and native consumer, in memory: routing, checks, commits", lane, engine);
    part("log, engine and native consumer: reading, CRC, writing", logged, log);
    part("all, in the sandbox", whole, whole.median - (alone.median + sandbox + stopping + engine + log));
    table.note(format!("Stopped by Wasmtime's epochs, the guest alone takes {} ns. The last line's part is what the others do not explain.", guests[2]));
    if job == Job::J3 {
        table.note(format!(
            "To copy the same bytes once, take their CRC and write them to a file takes {floor} ns an event: the byte rate of all is {of_floor} of that, round by round; asked: 0.5."
        ));
    }
    Ok(table)
}
