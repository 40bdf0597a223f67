//! `cargo xtask bench`: what a job costs through log, engine and guest, beside the same consumer code in a plain native
//! loop, in the same run.
#![allow(clippy::print_stdout)]

mod events;
mod measure;
mod native;
mod through;

use anyhow::Result;

use crate::events::Job;
use crate::measure::{Cost, Spread};

/// Events of a job.
const EVENTS: u64 = 2_000_000;
/// Times each side runs, one after the other in turn, for the machine is noisy.
const RUNS: usize = 5;

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (events, runs) = if quick { (EVENTS / 20, 2) } else { (EVENTS, RUNS) };
    println!("{events} events a job, {runs} runs of each side in turn; exactly-once, durability os, one partition");
    println!("M/s per core: million events per second of CPU time, all threads; min / median / max\n");
    println!("| job | native loop | through the log and Wasm | ratio of medians | M/s by the clock |");
    println!("|---|---|---|---|---|");
    for job in [Job::J1, Job::J3] {
        let input = job.events(events);
        let framed = native::prepare(&input)?;
        let through = through::Through::new(job, &input)?;
        // Memory is to be that of the node alone.
        drop(input);
        let (mut native, mut wasm, mut clock) = (vec![], vec![], vec![]);
        for run in 0..runs {
            native.push(Cost::of(|| native::run(job, &framed))?.per_core(events));
            let cost = Cost::of(|| through.run(run))?;
            wasm.push(cost.per_core(events));
            clock.push(cost.by_clock(events));
        }
        let (native, wasm) = (Spread::of(native), Spread::of(wasm));
        let ratio = wasm.median / native.median;
        println!("| {job} | {native} | {wasm} | {ratio:.2} | {} |", Spread::of(clock));
    }
    memory(events)
}

/// Memory of a node while one pipeline deals with the same number of events again and again.
fn memory(events: u64) -> Result<()> {
    let input = Job::J3.events(events / 10);
    let through = through::Through::new(Job::J3, &input)?;
    through.run(0)?;
    let mut resident = vec![measure::resident_mib()?];
    for _ in 0..10 {
        through.append(&input)?;
        through.settle()?;
        resident.push(measure::resident_mib()?);
    }
    println!("\nMiB resident after each {} events of J3 through one pipeline: {resident:?}", events / 10);
    Ok(())
}
