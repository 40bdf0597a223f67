//! `cargo xtask bench`: what a job costs through log, engine and guest, beside the same consumer code in a plain native
//! loop, in the same run.
#![allow(clippy::print_stdout)]

mod beside;
mod checkpoints;
mod engine;
mod events;
mod guest;
mod http;
mod languages;
mod many;
mod measure;
mod native;
mod recovery;
mod reloads;
mod small_commits;
mod through;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use crate::events::Job;
use crate::measure::{Cost, Spread};

/// Events of a job.
const EVENTS: u64 = 2_000_000;
/// What there is to measure.
const PARTS: [&str; 13] = [
    "jobs",
    "deliveries",
    "chain",
    "commits",
    "many",
    "recovery",
    "checkpoints",
    "reloads",
    "languages",
    "beside",
    "instructions",
    "memory",
    "http",
];
/// Times each side runs, one after the other in turn, for the machine is noisy.
const RUNS: usize = 5;

/// What the program does when it starts itself, or tries plugins; nothing when it is to measure.
fn apart(arguments: &[String]) -> Option<Result<()>> {
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--fill", dir, commits] => {
            Some(commits.parse().map_err(Into::into).and_then(|commits| recovery::fill(Path::new(dir), commits)))
        }
        ["--serve", dir] => Some(http::serve(Path::new(dir))),
        [flag @ ("--engine" | "--make"), events] => {
            Some(events.parse().map_err(Into::into).and_then(|events| engine::run(events, *flag == "--make")))
        }
        ["--guests", files @ ..] => Some(guests(&files.iter().map(PathBuf::from).collect::<Vec<_>>())),
        _ => None,
    }
}

/// A plugin of J2, tried in several ways.
fn guests(files: &[PathBuf]) -> Result<()> {
    for (file, taken) in files.iter().zip(guest::run(Job::J2 { evenly: true }, EVENTS / 10, files)?) {
        println!("{}: {taken} ns an event", file.display());
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(done) = apart(&arguments) {
        return done;
    }
    let known = |argument: &&String| *argument == "--quick" || PARTS.contains(&argument.as_str());
    if let Some(unknown) = arguments.iter().find(|argument| !known(argument)) {
        bail!("unknown: {unknown}; there are {}, --quick, and --guests FILE…", PARTS.join(", "));
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let wanted = |part: &str| {
        let named: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
        named.is_empty() || named.iter().any(|name| *name == part)
    };
    let (events, runs) = if quick { (EVENTS / 20, 2) } else { (EVENTS, RUNS) };
    println!(
        "{events} events a job, {runs} runs of each side in turn; durability os, one partition, where not said otherwise"
    );
    println!("M/s per core: million events per second of CPU time, all threads; min / median / max");
    if wanted("jobs") {
        if !quick {
            measure::touch_memory();
        }
        jobs(events, runs)?;
    }
    if wanted("deliveries") {
        deliveries(events, runs)?;
    }
    if wanted("chain") {
        // The two take turns at two shared cores: more runs than elsewhere.
        chain(events, 2 * runs - 1)?;
    }
    if wanted("commits") {
        let (commits, plain) = small_commits::run(runs)?;
        println!("\nA commit of keyed output for 64 partitions under fsync, ms: {commits}");
        println!(
            "As many bytes appended to one file and synced, ms: {plain}; ratio of medians {:.2}",
            commits.median / plain.median
        );
    }
    if wanted("many") {
        let many::Taken { start, idle, memory } = many::run()?;
        println!(
            "\n200 pipelines over 1,000 partitions: started in {:.2} s, again in {:.2} s; at rest {idle:.2} % of a core; {memory} MiB",
            start[0], start[1]
        );
    }
    if wanted("recovery") {
        let (seconds, segments, commits) = recovery::run(quick)?;
        println!(
            "\nStart after SIGKILL, {:.1} GiB of events in 10 million commits, {} MiB of commit log, s: {seconds}",
            segments as f64 / f64::from(1 << 30),
            commits >> 20
        );
    }
    if wanted("checkpoints") {
        let checkpoints::Taken { keys, filled, memory, bytes, alone, during, took, each, together } =
            checkpoints::run(quick)?;
        println!(
            "\nState of {keys} keys: filled in {filled:.0} s, {memory} MiB resident, {} MiB on disk; 50,000 updates a second, durability fsync",
            bytes >> 20
        );
        println!("| | min / median / max |\n|---|---|");
        println!("| longest time without a step of the cursor, ms | {alone} |");
        println!("| the same, while a checkpoint is made | {during} |");
        println!("| to make a checkpoint, ms | {took} |");
        println!("| more on disk for each of 24 that are kept, 1 % of the keys changing between, MiB | {each} |");
        println!("| the same, all of them | {together:.0} |");
    }
    if wanted("languages") {
        languages::tell()?;
    }
    if wanted("reloads") {
        let reloads::Taken { without, with, took } = reloads::run(quick)?;
        println!("\nReloads of an 80 KB plugin whose code is cached, 50,000 events a second, durability fsync");
        println!("| ms | half / 99 % / all within |\n|---|---|");
        println!("| longest time without a step of the cursor in 100 ms | {without} |");
        println!("| the same, with a reload in them | {with} |");
        println!("| from the order until it is in force | {took} |");
        println!("The pause that a reload causes, 99 %: {:.2} ms", with.at(99) - without.at(99));
    }
    if wanted("beside") {
        println!("\n| J3, two partitions, beside | M/s by the clock | share of alone |\n|---|---|---|");
        let rates = beside::run(events, 3)?;
        let alone = rates[0].1.median;
        for (name, rate) in rates {
            println!("| {name} | {rate} | {:.2} |", rate.median / alone);
        }
    }
    if wanted("instructions") {
        instructions()?;
    }
    if wanted("memory") {
        memory(events)?;
    }
    if wanted("http") {
        over_http(runs)?;
    }
    Ok(())
}

/// Each job beside its native loop, all of them in turn: what one makes of another is told round by round.
fn jobs(events: u64, runs: usize) -> Result<()> {
    println!(
        "\n| job, exactly-once | native loop | through the log and Wasm | ratio of medians | of J1 in the same round | M/s by the clock |"
    );
    println!("|---|---|---|---|---|---|");
    let mut sides = Vec::new();
    for job in [Job::J1, Job::J2 { evenly: true }, Job::J2 { evenly: false }, Job::J3] {
        // Memory is to be that of the nodes alone.
        let input = job.events(events);
        sides.push((job, native::prepare(&input)?, through::Through::new(job, 1, &input)?, [vec![], vec![], vec![]]));
    }
    for run in 0..runs {
        for (job, framed, through, [native, wasm, clock]) in &mut sides {
            native.push(Cost::of(|| native::run(*job, framed))?.per_core(events));
            let cost = Cost::of(|| through.run(run))?;
            wasm.push(cost.per_core(events));
            clock.push(cost.by_clock(events));
        }
    }
    let of_j1 = sides[0].3[1].clone();
    for (job, _, _, [native, wasm, clock]) in sides {
        let rounds = Spread::of(wasm.iter().zip(&of_j1).map(|(rate, j1)| rate / j1).collect());
        let (native, wasm) = (Spread::of(native), Spread::of(wasm));
        let ratio = wasm.median / native.median;
        println!("| {job} | {native} | {wasm} | {ratio:.2} | {rounds} | {} |", Spread::of(clock));
    }
    Ok(())
}

/// J1 with each delivery, in turn.
fn deliveries(events: u64, runs: usize) -> Result<()> {
    const DELIVERIES: [&str; 3] = ["at-least-once", "exactly-once", "at-most-once"];
    let through = through::Through::new(Job::J1, 1, &Job::J1.events(events))?;
    let mut costs = vec![(vec![], vec![]); 3];
    for run in 0..runs {
        for (delivery, (core, clock)) in DELIVERIES.iter().zip(&mut costs) {
            let cost = Cost::of(|| through.run_as(delivery, run))?;
            core.push(cost.per_core(events));
            clock.push(cost.by_clock(events));
        }
    }
    println!("\n| J1 | M/s per core | ratio to at-least-once | M/s by the clock |\n|---|---|---|---|");
    let first = Spread::of(costs[0].0.clone()).median;
    for (delivery, (core, clock)) in DELIVERIES.iter().zip(costs) {
        let core = Spread::of(core);
        println!("| {delivery} | {core} | {:.2} | {} |", core.median / first, Spread::of(clock));
    }
    Ok(())
}

/// Two stages as a chain, and as two pipelines with a topic between them: with a partition for each core, so that both sides use the
/// whole machine, and with one, where the two pipelines use two cores and the chain hardly more than one.
fn chain(events: u64, runs: usize) -> Result<()> {
    println!("\n| two stages of J3 | two pipelines through a topic | a chain | ratio of medians |\n|---|---|---|---|");
    let input = Job::J3.events(events);
    for partitions in [2, 1] {
        let mut costs = [(vec![], vec![]), (vec![], vec![])];
        for run in 0..runs {
            for (chained, (core, clock)) in [false, true].into_iter().zip(&mut costs) {
                // A directory of its own for each: memory that a virtual machine has not touched before is slow to come by, and a
                // page cache that only grows takes more and more of it.
                let through = through::Through::new(Job::J3, partitions, &input)?;
                let cost = Cost::of(|| through.run_twice(chained, run))?;
                core.push(cost.per_core(events));
                clock.push(cost.by_clock(events));
            }
        }
        let [(two, two_clock), (one, one_clock)] = costs.map(|(core, clock)| (Spread::of(core), Spread::of(clock)));
        let (core, clock) = (one.median / two.median, one_clock.median / two_clock.median);
        println!("| partitions: {partitions}; M/s by the clock | {two_clock} | {one_clock} | {clock:.2} |");
        println!("| the same, M/s per core | {two} | {one} | {core:.2} |");
    }
    Ok(())
}

/// Instructions that J1 takes in the engine alone with a native consumer, by callgrind: what every change can be compared by, for they
/// hardly vary.
fn instructions() -> Result<()> {
    let count = |flag: &str, events: u64| -> Result<u64> {
        let dir = tempfile::tempdir()?;
        let mut command = std::process::Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=out"]).arg(std::env::current_exe()?);
        let ran = command.args([flag, &events.to_string()]).current_dir(dir.path()).output();
        let Ok(ran) = ran else { bail!("valgrind is not installed: leave `instructions` out, or install it") };
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        let line = told.lines().find_map(|line| line.split_once("Collected : "));
        let (_, collected) = line.ok_or_else(|| anyhow!("callgrind did not count: {told}"))?;
        Ok(collected.trim().parse()?)
    };
    // What the start costs goes out in the difference, and what making events costs is counted by itself.
    let each = |flag: &str| -> Result<u64> { Ok((count(flag, 60_000)? - count(flag, 20_000)?) / 40_000) };
    let cost = each("--engine")? - each("--make")?;
    println!("\nInstructions for an event of J1 in the engine with a native consumer: {cost}");
    Ok(())
}

/// Producers and followers at a node.
fn over_http(runs: usize) -> Result<()> {
    let http::Found { events, p50, p99, sync, followers, memory, beside, killed } = http::run(runs)?;
    println!("\n| over HTTP, 64 connections, 100 events of 100 bytes a request, durability fsync | |\n|---|---|");
    println!("| events acknowledged a second, thousands | {} |", events.scaled(1e-3));
    println!("| a request is answered after, ms: half of them | {p50} |");
    println!("| 99 in 100 | {p99} |");
    println!("| appending and syncing as much as all connections send at once, ms | {sync} |");
    println!("| idle followers at once | {followers} |");
    println!("| MiB of the node without them, with them | {}, {} |", memory.0, memory.1);
    println!("| events acknowledged a second beside them, thousands | {:.0} |", beside / 1e3);
    println!("| acknowledged before a SIGKILL, and there afterwards | {}, {} |", killed.0, killed.1);
    Ok(())
}

/// Memory of a node while one pipeline deals with the same number of events again and again.
fn memory(events: u64) -> Result<()> {
    let input = Job::J3.events(events / 10);
    let through = through::Through::new(Job::J3, 1, &input)?;
    through.run(0)?;
    let mut resident = vec![measure::resident_mib()?];
    for _ in 0..10 {
        for _ in 0..5 {
            through.append(&input)?;
            through.settle()?;
        }
        resident.push(measure::resident_mib()?);
    }
    println!("\nMiB resident after each {} events of J3 through one instance: {resident:?}", events / 2);
    Ok(())
}
