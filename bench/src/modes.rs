//! Deliveries and durabilities, in turn.

use std::time::Duration;

use anyhow::Result;
use sluice_engine::Delivery;
use sluice_log::Durability;

use crate::Settings;
use crate::events::Job;
use crate::measure::{Cost, Spread};
use crate::native_lane;
use crate::report::Table;
use crate::through::{How, Through};

const DELIVERIES: [&str; 3] = ["at-least-once", "exactly-once", "at-most-once"];
const DURABILITIES: [(Durability, &str); 3] = [
    (Durability::Os, "os"),
    (Durability::Interval(Duration::from_millis(100)), "interval:100ms"),
    (Durability::Fsync, "fsync"),
];
const JOBS: [Job; 5] = [Job::J1, Job::J2 { evenly: true }, Job::J3, Job::J4, Job::J5];

/// The jobs in each; what the sandboxed side makes is compared with at-least-once and with `os` round by round.
pub(crate) fn run(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for job in JOBS {
        let events = job.count(events);
        let input = job.events(events);
        // By delivery and durability: native, sandboxed, and the latter by the clock.
        let mut taken = vec![vec![[vec![], vec![], vec![]]; DURABILITIES.len()]; DELIVERIES.len()];
        for run in 0..runs {
            for (at, (durability, _)) in DURABILITIES.iter().enumerate() {
                for (delivery, taken) in DELIVERIES.iter().zip(&mut taken) {
                    // A directory of its own for each, as for jobs.
                    let node = Through::with(job, 1, *durability, &input)?;
                    let [native, wasm, clock] = &mut taken[at];
                    let own = match *delivery {
                        "at-least-once" => Delivery::AtLeastOnce { every: Duration::from_secs(1) },
                        "at-most-once" => Delivery::AtMostOnce,
                        _ => Delivery::ExactlyOnce,
                    };
                    let cost = Cost::of(|| native_lane::run(job, node.node().log(), own, "native"))?;
                    native.push(cost.per_core(events));
                    let cost = Cost::of(|| node.run_as(How { delivery, ..How::default() }, run))?;
                    wasm.push(cost.per_core(events));
                    clock.push(cost.by_clock(events));
                }
            }
        }
        let mut table = Table::new(
            &format!("modes {}", job.name()),
            &format!("{}; M/s per core", job.name()),
            &["native consumer", "sandbox", "of at-least-once", "of os", "M/s by the clock", "of os, by the clock"],
        );
        for (delivery, kept) in DELIVERIES.iter().zip(&taken) {
            for (at, (_, name)) in DURABILITIES.iter().enumerate() {
                let [native, wasm, clock] = &kept[at];
                let cells = [
                    Spread::of(native.clone()),
                    Spread::of(wasm.clone()),
                    Spread::of_ratios(wasm, &taken[0][at][1]),
                    Spread::of_ratios(wasm, &kept[0][1]),
                    Spread::of(clock.clone()),
                    Spread::of_ratios(clock, &kept[0][2]),
                ];
                table.row(format!("{delivery}, {name}"), cells.map(Into::into));
            }
        }
        table.note("By the clock, at-least-once waits for its last `commit-every` (1 s) in each run.");
        tables.push(table);
    }
    Ok(tables)
}
