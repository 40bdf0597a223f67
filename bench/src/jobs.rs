//! Each job as native loops, through log and engine with its consumers compiled natively, and with them in the sandbox; all of them in turn, so that what
//! one makes of another can be told round by round.

use std::fs::File;

use anyhow::{Result, ensure};
use sluice_engine::Delivery;

use crate::Settings;
use crate::events::{JOBS, Job};
use crate::measure::{Cost, Spread};
use crate::report::{Cell, Table};
use crate::through::Through;
use crate::{by_hand, native, native_lane};

/// What a job's sides took, a run each.
#[derive(Default)]
struct Sides {
    native: Vec<f64>,
    by_hand: Vec<f64>,
    engine: Vec<f64>,
    wasm: Vec<f64>,
    clock: Vec<f64>,
}

pub(crate) fn run(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    // The sides of a round take turns at a processor that others use too: more runs than elsewhere, and the median ratio holds still.
    let runs = 2 * runs - 1;
    let mut jobs = JOBS.map(|job| (job, Sides::default()));
    for _ in 0..runs {
        for (job, sides) in &mut jobs {
            let events = job.count(events);
            // A directory of its own for each round: what runs leave behind fills the page cache, and what comes then pays for that.
            let input = job.events(events);
            let (framed, through) = (native::prepare(&input)?, Through::new(*job, 1, &input)?);
            drop(input);
            let mut outputs = Vec::new();
            let mut looped = |run: fn(Job, &File) -> Result<u64>, rates: &mut Vec<f64>| -> Result<()> {
                let cost = Cost::of(|| {
                    outputs.push(run(*job, &framed)?);
                    Ok(())
                })?;
                rates.push(cost.per_core(events));
                Ok(())
            };
            // Its timers are the engine's.
            if *job != Job::J4 {
                looped(native::run, &mut sides.native)?;
            }
            if by_hand::JOBS.contains(job) {
                looped(by_hand::run, &mut sides.by_hand)?;
            }
            let cost = Cost::of(|| native_lane::run(*job, through.node().log(), Delivery::ExactlyOnce, "native"))?;
            sides.engine.push(cost.per_core(events));
            let cost = Cost::of(|| through.run(0))?;
            sides.wasm.push(cost.per_core(events));
            sides.clock.push(cost.by_clock(events));
            let found = through.outputs(0)?;
            ensure!(
                outputs.iter().all(|outputs| *outputs == found),
                "{job}: {found} outputs, and {outputs:?} of the native loops"
            );
        }
    }
    let mut table = Table::new(
        "jobs",
        &format!("exactly-once, durability os, one partition; {runs} runs; M/s per core"),
        &[
            "native loop",
            "loop by hand",
            "log and engine, native consumer",
            "log, engine, sandbox",
            "of the native loop",
            "of the loop by hand",
            "of J1 in the same round",
            "M/s by the clock",
        ],
    );
    let of_j1 = jobs[0].1.wasm.clone();
    // A side that a job does not have has no runs.
    let cell = |runs: &[f64]| if runs.is_empty() { "–".into() } else { Cell::from(Spread::of(runs.to_vec())) };
    let ratio =
        |one: &[f64], other: &[f64]| if other.is_empty() { "–".into() } else { Spread::of_ratios(one, other).into() };
    for (job, Sides { native, by_hand, engine, wasm, clock }) in &jobs {
        let sides = [native, by_hand, engine, wasm].map(|runs| cell(runs));
        let ratios = [native, by_hand, &of_j1].map(|other| ratio(wasm, other));
        table.row(job.to_string(), sides.into_iter().chain(ratios).chain([cell(clock)]));
    }
    Ok(vec![table])
}
