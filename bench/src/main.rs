//! `cargo xtask bench`: what a job costs through log, engine and guest, beside the same consumer code in a plain native
//! loop, in the same run.
#![allow(clippy::print_stdout)]

mod beside;
mod by_hand;
mod checkpoints;
mod counts;
mod engine;
mod events;
mod guest;
mod http;
mod jobs;
mod languages;
mod latency;
mod long;
mod many;
mod measure;
mod modes;
mod native;
mod native_lane;
mod peers;
mod plot;
mod profile;
mod recovery;
mod reloads;
mod report;
mod scaling;
mod share;
mod small_commits;
mod through;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use sluice_host::Interruption;

use crate::events::Job;
use crate::measure::{Cost, Spread, WarmMemory};
use crate::report::{Cell, Machine, Report, Table};

/// Events of a job.
const EVENTS: u64 = 2_000_000;
/// Times each side runs, one after the other in turn, for the machine is noisy.
const RUNS: usize = 5;
/// Where a run's report goes.
const REPORTS: &str = "target/bench";

/// How much is measured.
struct Settings {
    /// A look whether all of it runs: the numbers mean little.
    quick: bool,
    events: u64,
    runs: usize,
}

impl Settings {
    fn new(quick: bool) -> Self {
        if quick { Self { quick, events: EVENTS / 20, runs: 2 } } else { Self { quick, events: EVENTS, runs: RUNS } }
    }
}

/// What there is to measure, and how.
type Part = (&'static str, fn(&Settings) -> Result<Vec<Table>>, Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its runs are compared with each other, or with a clock: so they have this many bytes of [`WarmMemory`], unless it is a quick look.
    Warm(usize),
    /// In the memory that there is.
    Plain,
    /// Likewise, and only when it is named.
    Named,
}
use Kind::{Named, Plain};

const WARM: Kind = Kind::Warm(12 << 30);
/// A hundred million events, and what comes of them.
const WARM_FOR_LONG: Kind = Kind::Warm(20 << 30);

const PARTS: [Part; 23] = [
    ("jobs", jobs::run, WARM),
    ("share", share::run, WARM),
    ("modes", modes::run, WARM),
    ("cores", scaling::cores, WARM),
    ("partitions", scaling::partitions, WARM),
    ("calls", scaling::calls, WARM),
    ("latency", latency::run, WARM),
    ("counts", counts::run, Plain),
    ("long", long::run, WARM_FOR_LONG),
    ("ten-plugins", long::ten_plugins, Plain),
    ("chain", chain, Plain),
    ("commits", commits, Plain),
    ("many", many, Plain),
    ("recovery", recovery, Plain),
    ("checkpoints", checkpoints, Plain),
    ("reloads", reloads, Plain),
    ("languages", languages::run, Plain),
    ("peers", peers::run, WARM),
    ("profile", profile::run, Named),
    ("beside", beside, Named),
    ("instructions", instructions, Named),
    ("memory", memory, Named),
    ("http", over_http, Named),
];

const USAGE: &str = "cargo xtask bench [PART…] [--quick] [--json FILE] [--compare OLD.json] [--plots DIR]

  PART          what to measure; all that does not stand in brackets where none is named
  --quick       whether it all runs; the numbers mean little
  --json        where the report goes; by default target/bench/SECONDS.json
  --compare     puts what an earlier report says beside it; without a PART and with --json NEW.json, nothing is measured
  --plots       draws what is measured, or what stands in --json NEW.json, as SVG";

/// What the program does when it starts itself, or tries plugins; nothing when it is to measure.
fn apart(arguments: &[String]) -> Option<Result<()>> {
    let number = |text: &str| text.parse::<u64>().context("a number of events");
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--fill", dir, commits] => Some(number(commits).and_then(|commits| recovery::fill(Path::new(dir), commits))),
        ["--serve", dir] => Some(http::serve(Path::new(dir))),
        [flag @ ("--engine" | "--make"), events] => {
            Some(number(events).and_then(|events| engine::run(events, *flag == "--make")))
        }
        [flag @ ("--once" | "--fill-only"), job, events] => {
            Some(number(events).and_then(|events| counts::once(job, events, *flag == "--once")))
        }
        ["--when-told", job, events, partitions] => {
            Some(number(events).and_then(|events| profile::when_told(job, events, u32::try_from(number(partitions)?)?)))
        }
        ["--part", name, file, rest @ ..] => Some(leave_part(name, Path::new(file), rest == ["--quick"])),
        ["--guests", job, files @ ..] => Some(guests(job, &files.iter().map(PathBuf::from).collect::<Vec<_>>())),
        _ => None,
    }
}

/// A job's plugin, built in several ways.
fn guests(job: &str, files: &[PathBuf]) -> Result<()> {
    let tried: Vec<_> = files.iter().map(|file| (file.clone(), Interruption::default())).collect();
    for (file, taken) in files.iter().zip(guest::run(Job::named(job)?, EVENTS / 10, &tried)?) {
        println!("{}: {taken} ns an event", file.display());
    }
    Ok(())
}

/// What is asked for.
#[derive(Default)]
struct Asked {
    parts: Vec<&'static Part>,
    quick: bool,
    json: Option<PathBuf>,
    compare: Option<PathBuf>,
    plots: Option<PathBuf>,
}

impl Asked {
    fn read(arguments: &[String]) -> Result<Self> {
        let mut asked = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut file = || arguments.next().map(PathBuf::from).with_context(|| format!("{argument} takes a path"));
            match argument.as_str() {
                "--quick" => asked.quick = true,
                "--json" => asked.json = Some(file()?),
                "--compare" => asked.compare = Some(file()?),
                "--plots" => asked.plots = Some(file()?),
                name => match PARTS.iter().find(|part| part.0 == name) {
                    Some(part) => asked.parts.push(part),
                    None => {
                        let names = PARTS
                            .map(|(name, _, kind)| if kind == Named { format!("[{name}]") } else { name.to_owned() });
                        bail!("unknown: {name}\n\n{USAGE}\n\nparts: {}", names.join(", "))
                    }
                },
            }
        }
        Ok(asked)
    }

    /// A report that is there already, if nothing is to be measured.
    fn found(&self) -> Result<Option<Report>> {
        let looks = self.compare.is_some() || self.plots.is_some();
        match &self.json {
            Some(file) if looks && self.parts.is_empty() && file.is_file() => Report::read(file).map(Some),
            _ => Ok(None),
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    if let Some(done) = apart(&arguments) {
        return done;
    }
    let asked = Asked::read(&arguments)?;
    // Before anything is measured: it is known then whether it can be compared.
    let old = asked.compare.as_deref().map(Report::read).transpose()?;
    let report = match asked.found()? {
        Some(report) => {
            eprintln!("the report is there already, so nothing is measured; name parts, or another file, to measure");
            report
        }
        None => measure(&asked)?,
    };
    if let Some(old) = old {
        println!("{}", report.compare(&old));
    }
    if let Some(folder) = &asked.plots {
        plot::draw(&report, folder)?;
    }
    Ok(())
}

/// What `--part` does: leaves a part's tables in a file.
fn leave_part(name: &str, file: &Path, quick: bool) -> Result<()> {
    let (_, part, kind) = PARTS.iter().find(|part| part.0 == name).with_context(|| format!("no part {name}"))?;
    let _warm = match kind {
        Kind::Warm(bytes) if !quick => Some(WarmMemory::new(*bytes)),
        _ => None,
    };
    Ok(std::fs::write(file, serde_json::to_vec(&part(&Settings::new(quick))?)?)?)
}

/// A part in a process of its own: what one has left in memory is not counted for the next, and one that dies does not take along what others have found.
fn part_apart(name: &str, quick: bool) -> Result<Vec<Table>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tables.json");
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["--part", name]).arg(&file).args(quick.then_some("--quick"));
    anyhow::ensure!(command.status()?.success(), "it has not come to its end");
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

fn measure(asked: &Asked) -> Result<Report> {
    let Settings { events, runs, .. } = Settings::new(asked.quick);
    let mut report = Report { machine: Machine::here(), events, runs, tables: Vec::new() };
    let file = asked.json.clone().unwrap_or_else(|| Path::new(REPORTS).join(format!("{}.json", report.machine.at)));
    println!("{}", report.machine);
    println!(
        "{events} events a job, {runs} runs of each side in turn; M/s: million events a second; per core: of processor time of all threads; min / **median** / max\n"
    );
    let usual = PARTS.iter().filter(|(.., kind)| *kind != Named);
    let parts: Vec<_> = if asked.parts.is_empty() { usual.collect() } else { asked.parts.clone() };
    for (name, ..) in parts {
        let begin = std::time::Instant::now();
        match part_apart(name, asked.quick) {
            Ok(tables) => {
                tables.iter().for_each(|table| println!("{table}"));
                report.tables.extend(tables);
            }
            Err(error) => println!("{name} failed: {error:#}\n"),
        }
        eprintln!("{name}: {:.0} s", begin.elapsed().as_secs_f64());
        report.write(&file)?;
    }
    println!("report: {}", file.display());
    Ok(report)
}

/// A table of one row.
fn single(name: &str, title: &str, columns: &[&str], cells: impl IntoIterator<Item = Cell>) -> Vec<Table> {
    let mut table = Table::new(name, title, columns);
    table.row("", cells);
    vec![table]
}

fn commits(&Settings { runs, .. }: &Settings) -> Result<Vec<Table>> {
    let (commits, plain) = small_commits::run(runs)?;
    let columns = ["a commit", "as many bytes appended to one file and synced", "ratio of medians"];
    let cells = [commits.into(), plain.into(), (commits.median / plain.median).into()];
    Ok(single("commits", "keyed output for 64 partitions under fsync; ms", &columns, cells))
}

fn many(_: &Settings) -> Result<Vec<Table>> {
    let many::Taken { start, idle, memory } = many::run()?;
    let columns = ["started, s", "again, s", "at rest, % of a core", "MiB resident"];
    let cells = [start[0].into(), start[1].into(), idle.into(), (memory as f64).into()];
    Ok(single("many", "200 pipelines over 1,000 partitions", &columns, cells))
}

fn recovery(settings: &Settings) -> Result<Vec<Table>> {
    let (seconds, segments, commits) = recovery::run(settings.quick)?;
    let columns = ["s", "GiB of events", "MiB of commit log"];
    let cells = [seconds.into(), (segments as f64 / f64::from(1 << 30)).into(), ((commits >> 20) as f64).into()];
    Ok(single("recovery", "start after SIGKILL, with ten million commits in the log", &columns, cells))
}

fn checkpoints(settings: &Settings) -> Result<Vec<Table>> {
    let checkpoints::Taken { keys, filled, memory, bytes, alone, during, took, each, together } =
        checkpoints::run(settings.quick)?;
    let title = format!("state of {keys} keys, then 50,000 updates a second, durability fsync");
    let mut table = Table::new("checkpoints", &title, &["min / median / max"]);
    table.row("filled in, s", [filled.into()]);
    table.row("MiB resident", [(memory as f64).into()]);
    table.row("MiB on disk", [((bytes >> 20) as f64).into()]);
    table.row("longest time without a step of the cursor, ms", [alone.into()]);
    table.row("the same, while a checkpoint is made", [during.into()]);
    table.row("to make a checkpoint, ms", [took.into()]);
    table.row("more on disk for each of 24 that are kept, 1 % of the keys changing between, MiB", [each.into()]);
    table.row("the same, all of them", [together.into()]);
    Ok(vec![table])
}

fn reloads(settings: &Settings) -> Result<Vec<Table>> {
    let reloads::Taken { without, with, took } = reloads::run(settings.quick)?;
    let title = "a plugin of 80 KB whose code is cached, 50,000 events a second, durability fsync; ms";
    let mut table = Table::new("reloads", title, &["half / 99 % / all within"]);
    table.row("longest time without a step of the cursor in 100 ms", [without.to_string().into()]);
    table.row("the same, with a reload in them", [with.to_string().into()]);
    table.row("from the order until it is in force", [took.to_string().into()]);
    table.row("the pause that a reload causes, 99 %", [(with.at(99.0) - without.at(99.0)).into()]);
    Ok(vec![table])
}

fn beside(&Settings { events, .. }: &Settings) -> Result<Vec<Table>> {
    let rates = beside::run(events, 3)?;
    let alone = rates[0].1.median;
    let mut table = Table::new("beside", "J3, two partitions, beside", &["M/s by the clock", "share of alone"]);
    for (name, rate) in rates {
        table.row(name, [rate.into(), (rate.median / alone).into()]);
    }
    Ok(vec![table])
}

/// Two stages as a chain, and as two pipelines with a topic between them: with a partition for each core, so that both sides use the
/// whole machine, and with one, where the two pipelines use two cores and the chain hardly more than one.
fn chain(&Settings { events, runs, .. }: &Settings) -> Result<Vec<Table>> {
    // The two take turns at two shared cores: more runs than elsewhere.
    let runs = 2 * runs - 1;
    let mut table =
        Table::new("chain", "two stages of J3", &["two pipelines through a topic", "a chain", "ratio of medians"]);
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
        let by_clock = [two_clock.into(), one_clock.into(), clock.into()];
        table.row(format!("partitions: {partitions}; M/s by the clock"), by_clock);
        table.row(format!("partitions: {partitions}; M/s per core"), [two.into(), one.into(), core.into()]);
    }
    Ok(vec![table])
}

/// Instructions that an event takes, by callgrind: what every change can be compared by, for they hardly vary.
fn instructions(_: &Settings) -> Result<Vec<Table>> {
    let count = |flag: &str, job: Option<Job>, events: u64| -> Result<i64> {
        let dir = tempfile::tempdir()?;
        let mut command = std::process::Command::new("valgrind");
        command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", dir.path().join("out").display()));
        let command = command.arg(std::env::current_exe()?).arg(flag).args(job.map(Job::name)).arg(events.to_string());
        let Ok(ran) = command.output() else {
            bail!("valgrind is not installed: leave `instructions` out, or install it")
        };
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        let line = told.lines().find_map(|line| line.split_once("Collected : ")).filter(|_| ran.status.success());
        let (_, collected) = line.ok_or_else(|| anyhow!("callgrind did not count: {told}"))?;
        Ok(collected.trim().parse()?)
    };
    // What the start costs goes out in the difference, and what making events costs is counted by itself.
    let each = |(with, without): (&str, &str), job, few: i64| -> Result<f64> {
        let of = |flag, events: i64| count(flag, job, events.unsigned_abs());
        let cost = |events| Ok::<_, anyhow::Error>(of(with, events)? - of(without, events)?);
        Ok((cost(3 * few)? - cost(few)?) as f64 / (2 * few) as f64)
    };
    let mut table = Table::new("instructions", "of an event, counted by callgrind", &["instructions"]);
    table.row("J1 in the engine alone, native consumer", [each(("--engine", "--make"), None, 20_000)?.into()]);
    for job in [Job::J1, Job::J2 { evenly: true }, Job::J3] {
        // Enough for each user to have come by, whose value is new then.
        let cost = each(("--once", "--fill-only"), Some(job), 100_000)?;
        table.row(format!("{} from log to log, in the sandbox", job.name()), [cost.into()]);
    }
    Ok(vec![table])
}

/// Producers and followers at a node.
fn over_http(&Settings { runs, .. }: &Settings) -> Result<Vec<Table>> {
    let http::Found { events, p50, p99, sync, followers, memory, beside, killed } = http::run(runs)?;
    let title = "over HTTP, 64 connections, 100 events of 100 bytes a request, durability fsync";
    let mut table = Table::new("http", title, &["found"]);
    table.row("events acknowledged a second, thousands", [events.scaled(1e-3).into()]);
    table.row("a request is answered after, ms: half of them", [p50.into()]);
    table.row("99 in 100", [p99.into()]);
    table.row("appending and syncing as much as all connections send at once, ms", [sync.into()]);
    table.row("idle followers at once", [(followers as f64).into()]);
    table.row("MiB of the node without them", [(memory.0 as f64).into()]);
    table.row("with them", [(memory.1 as f64).into()]);
    table.row("events acknowledged a second beside them, thousands", [(beside / 1e3).into()]);
    table.row("acknowledged before a SIGKILL", [(killed.0 as f64).into()]);
    table.row("and there afterwards", [(killed.1 as f64).into()]);
    Ok(vec![table])
}

/// Memory of a node while one pipeline deals with the same number of events again and again.
fn memory(&Settings { events, .. }: &Settings) -> Result<Vec<Table>> {
    let input = Job::J3.events(events / 10);
    let through = through::Through::new(Job::J3, 1, &input)?;
    through.run(0)?;
    let mut resident = vec![measure::resident_mib()? as f64];
    for _ in 0..10 {
        for _ in 0..5 {
            through.append(&input)?;
            through.settle()?;
        }
        resident.push(measure::resident_mib()? as f64);
    }
    let title = format!("J3 through one instance, after each {} events", events / 2);
    Ok(single("memory", &title, &["MiB resident", "at first", "in the end"], {
        let (first, last) = (resident[0], resident[resident.len() - 1]);
        [Spread::of(resident).into(), first.into(), last.into()]
    }))
}
