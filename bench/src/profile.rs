//! Where the processor time of each job goes, by perf: a short text for each, kept in `bench/profiles`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Settings;
use crate::events::{JOBS, Job};
use crate::measure::Cost;
use crate::report::{Machine, Table};
use crate::through::{How, Through};

const FOLDER: &str = "bench/profiles";
/// Symbols with a lesser share are left out.
const LEAST: f64 = 0.8;

/// What `--when-told` does: a job over so many events, spread over so many partitions, which begins when a line is read.
pub(crate) fn when_told(job: &str, events: u64, partitions: u32) -> Result<()> {
    let (job, how) = (Job::named(job)?, How { partition_by: "source", ..How::default() });
    let through = Through::standing(job, how, partitions, &job.events_from(0, events, 500))?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let cost = Cost::of(|| through.resume(how, 0))?;
    eprintln!("{}: {:.2} M/s by the clock, {:.2} per core", job.name(), cost.by_clock(events), cost.per_core(events));
    Ok(())
}

/// Samples of a run: thread, symbol and share, the largest first.
fn samples(job: Job, events: u64) -> Result<Vec<(String, String, f64)>> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("perf.data");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--when-told", job.name(), &events.to_string(), "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (mut say, hear) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
    BufReader::new(hear).read_line(&mut String::new())?;
    let perf = Command::new("perf")
        .args(["record", "--freq", "2000", "--pid", &child.id().to_string(), "--output"])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("perf is not installed: leave `profile` out, or install it (Debian: linux-perf)")?;
    // It says nothing when it has begun; threads that begin later are seen, too.
    #[expect(clippy::disallowed_methods, reason = "perf needs a moment")]
    std::thread::sleep(std::time::Duration::from_millis(500));
    say.write_all(b"\n")?;
    ensure!(child.wait()?.success(), "the job failed");
    let recorded = perf.wait_with_output()?;
    let report = Command::new("perf")
        .args([
            "report",
            "--stdio",
            "--no-children",
            "--call-graph",
            "none",
            "--sort",
            "comm,dso,symbol",
            "--field-separator",
            "\t",
            "--input",
        ])
        .arg(&data)
        .output()?;
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    let mut found: Vec<(String, String, f64)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [share, thread, program, symbol, ..] = line.split('\t').map(str::trim).collect::<Vec<_>>()[..] else {
            continue;
        };
        let Ok(share) = share.trim_end_matches('%').parse::<f64>() else { continue };
        let thread = thread.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        let is_compiled = program.contains("JIT") || program.contains("anon") || program.contains("[unknown]");
        let symbol =
            if is_compiled { "the guest's code" } else { symbol.trim_start_matches(['[', '.', 'k', ']', ' ']) };
        match found.iter_mut().find(|(before, name, _)| before == thread && name == symbol) {
            Some((.., sum)) => *sum += share,
            None => found.push((thread.to_owned(), symbol.to_owned(), share)),
        }
    }
    found.sort_by(|a, b| b.2.total_cmp(&a.2));
    let told = [recorded.stderr, report.stderr].concat();
    ensure!(!found.is_empty(), "perf has told nothing: {}", String::from_utf8_lossy(&told));
    Ok(found)
}

pub(crate) fn run(&Settings { events, .. }: &Settings) -> Result<Vec<Table>> {
    std::fs::create_dir_all(FOLDER)?;
    let mut table = Table::new(
        "profile",
        "share of processor time, %; by perf",
        &["the guest's code", "kernel and C library", "host"],
    );
    for job in JOBS {
        let events = job.count(2 * events);
        let found = samples(job, events)?;
        let mut text = format!("{job}\n{events} events, exactly-once, os, one partition\n{}\n\n", Machine::here());
        for (thread, symbol, share) in found.iter().filter(|(.., share)| *share >= LEAST) {
            let _ = writeln!(text, "{share:>6.1} %  {thread:<16} {symbol}");
        }
        let rest: f64 = found.iter().map(|(.., share)| share).filter(|share| **share < LEAST).sum();
        let _ = writeln!(text, "{rest:>6.1} %  {:<16} less than {LEAST} % each", "");
        let name = job.name().replace([' ', '\''], "-");
        let file = Path::new(FOLDER).join(format!("{name}.txt"));
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let sum = |wanted: fn(&str) -> bool| {
            found.iter().filter(|(_, symbol, _)| wanted(symbol)).map(|(.., share)| share).sum::<f64>()
        };
        let guest = sum(|symbol| symbol == "the guest's code");
        let ours = sum(|symbol| symbol.contains("::"));
        table.row(job.name(), [guest.into(), (100.0 - guest - ours).into(), ours.into()]);
    }
    table.note(format!("By thread and symbol: {FOLDER}."));
    Ok(vec![table])
}
