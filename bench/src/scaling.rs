//! One factor at a time: cores, partitions, events of a call.

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Settings;
use crate::events::Job;
use crate::measure::{Cost, Spread};
use crate::report::Table;
use crate::through::{How, Through};

const PARTITIONS: [u32; 4] = [1, 8, 64, 1000];
const CALLS: [u32; 7] = [1, 16, 64, 256, 1024, 4096, 16_384];

/// Has this thread, and those it starts from now on, run on so many cores.
fn on_cores(all: &CpuSet, cores: usize) -> Result<()> {
    let mut some = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).filter(|&core| all.is_set(core)).take(cores);
    first.for_each(|core| some.set(core));
    Ok(sched_setaffinity(None, &some)?)
}

/// One core and two, with eight partitions. A node stays on the cores it was begun on.
pub(crate) fn cores(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    let all = sched_getaffinity(None)?;
    let mut table = Table::new(
        "cores",
        "exactly-once, os, 8 partitions; M/s by the clock",
        &["one core", "two cores", "two of one, round by round", "M/s per core: one", "two"],
    );
    // So that how a run begins and ends is a small part of it.
    let (events, how) = (2 * events, How::default());
    for job in [Job::J1, Job::J2 { evenly: true }] {
        let input = job.events(events);
        let mut taken = [(vec![], vec![]), (vec![], vec![])];
        for _ in 0..runs {
            for (cores, (clock, core)) in (1..).zip(&mut taken) {
                on_cores(&all, cores)?;
                let through = Through::standing(job, how, 8, &input)?;
                let cost = Cost::of(|| through.resume(how, 0))?;
                drop(through);
                sched_setaffinity(None, &all)?;
                clock.push(cost.by_clock(events));
                core.push(cost.per_core(events));
            }
        }
        let ratio = Spread::of_ratios(&taken[1].0, &taken[0].0);
        let [(one, one_core), (two, two_core)] = taken.map(|(clock, core)| (Spread::of(clock), Spread::of(core)));
        table.row(job.name(), [one, two, ratio, one_core, two_core].map(Into::into));
    }
    Ok(vec![table])
}

/// From one partition to a thousand.
pub(crate) fn partitions(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "partitions",
        "exactly-once, os; as many partitions of outputs",
        &["M/s by the clock", "of 8 partitions, round by round", "M/s per core", "of 8, per core"],
    );
    // So that each of a thousand has some thousands.
    let events = 4 * events;
    let (source, key) = (How { partition_by: "source", ..How::default() }, How::default());
    for (job, how) in [(Job::J1, source), (Job::J2 { evenly: true }, key), (Job::J1, key)] {
        // In batches small enough that each of a thousand partitions gets several.
        let input = job.events_from(0, events, 500);
        let mut taken = vec![(vec![], vec![]); PARTITIONS.len()];
        for _ in 0..runs {
            for (&partitions, (clock, core)) in PARTITIONS.iter().zip(&mut taken) {
                let node = Through::standing(job, how, partitions, &input)?;
                let cost = Cost::of(|| node.resume(how, 0))?;
                clock.push(cost.by_clock(events));
                core.push(cost.per_core(events));
            }
        }
        let eight = taken[PARTITIONS.iter().position(|partitions| *partitions == 8).unwrap_or(0)].clone();
        let spread = if how.partition_by == "key" && job == Job::J1 { ", outputs by other keys" } else { "" };
        for (partitions, (clock, core)) in PARTITIONS.iter().zip(taken) {
            let (by_clock, by_core) = (Spread::of_ratios(&clock, &eight.0), Spread::of_ratios(&core, &eight.1));
            let cells = [Spread::of(clock), by_clock, Spread::of(core), by_core];
            table.row(format!("{}{spread}, {partitions} partitions", job.name()), cells.map(Into::into));
        }
    }
    table.note("J1's outputs stay in the partition of their event; with other keys, each call's outputs go to as many partitions as there are outputs.");
    Ok(vec![table])
}

/// From one event a call to many.
pub(crate) fn calls(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    let columns = ["M/s per core", "M/s by the clock", "µs of processor time a call"];
    let mut table = Table::new("calls", "exactly-once, os, one partition", &columns);
    for job in [Job::J1, Job::J2 { evenly: true }, Job::J3] {
        let mut taken = vec![(vec![], vec![]); CALLS.len()];
        for run in 0..runs {
            for (&max_events, (core, clock)) in CALLS.iter().zip(&mut taken) {
                // Single events are slow: fewer of them.
                let count = if max_events < 64 { events / 20 } else { events };
                let node = Through::new(job, 1, &job.events(count))?;
                let cost = Cost::of(|| node.run_as(How { max_events, ..How::default() }, run))?;
                core.push(cost.per_core(count));
                clock.push(cost.by_clock(count));
            }
        }
        for (max_events, (core, clock)) in CALLS.iter().zip(taken) {
            let (core, events) = (Spread::of(core), f64::from(*max_events));
            let call = Spread { min: events / core.max, median: events / core.median, max: events / core.min };
            let cells = [core.into(), Spread::of(clock).into(), call.into()];
            table.row(format!("{}, `max-events = {max_events}`", job.name()), cells);
        }
    }
    Ok(vec![table])
}
