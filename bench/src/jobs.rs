//! Each job as a native loop, through log and engine with its consumers compiled natively, and with them in the sandbox; all of them in turn, so that what
//! one makes of another can be told round by round.

use anyhow::{Result, ensure};
use sluice_engine::Delivery;

use crate::Settings;
use crate::events::{JOBS, Job};
use crate::measure::{Cost, Spread};
use crate::report::Table;
use crate::through::Through;
use crate::{native, native_lane};

/// What a job's sides took, a run each.
#[derive(Default)]
struct Sides {
    native: Vec<f64>,
    engine: Vec<f64>,
    wasm: Vec<f64>,
    clock: Vec<f64>,
}

pub(crate) fn run(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    let mut jobs = JOBS.map(|job| (job, Sides::default()));
    for _ in 0..runs {
        for (job, sides) in &mut jobs {
            let events = job.count(events);
            // A directory of its own for each round: what runs leave behind fills the page cache, and what comes then pays for that.
            let input = job.events(events);
            let (framed, through) = (native::prepare(&input)?, Through::new(*job, 1, &input)?);
            drop(input);
            let mut outputs = 0;
            let cost = Cost::of(|| {
                outputs = native::run(*job, &framed)?;
                Ok(())
            })?;
            sides.native.push(cost.per_core(events));
            // Windows are not begun natively: their timers are the engine's.
            if *job != Job::J4 {
                let cost = Cost::of(|| native_lane::run(*job, through.node().log(), Delivery::ExactlyOnce, "native"))?;
                sides.engine.push(cost.per_core(events));
            }
            let cost = Cost::of(|| through.run(0))?;
            sides.wasm.push(cost.per_core(events));
            sides.clock.push(cost.by_clock(events));
            let found = through.outputs(0)?;
            ensure!(found == outputs, "{job}: {found} outputs, and {outputs} of the native loop");
        }
    }
    let mut table = Table::new(
        "jobs",
        "exactly-once, durability os, one partition; M/s per core",
        &[
            "native loop",
            "log and engine, native consumer",
            "log, engine, sandbox",
            "of the native loop",
            "of J1 in the same round",
            "M/s by the clock",
        ],
    );
    let of_j1 = jobs[0].1.wasm.clone();
    for (job, Sides { native, engine, wasm, clock }) in jobs {
        let rounds = Spread::of_ratios(&wasm, &of_j1);
        let ratios = Spread::of_ratios(&wasm, &native);
        let engine = if engine.is_empty() { "–".into() } else { Spread::of(engine).into() };
        let (native, wasm, clock) = (Spread::of(native), Spread::of(wasm), Spread::of(clock));
        table.row(job.to_string(), [native.into(), engine, wasm.into(), ratios.into(), rounds.into(), clock.into()]);
    }
    Ok(vec![table])
}
