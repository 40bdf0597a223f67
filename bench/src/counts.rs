//! Bytes copied and pieces of memory allocated for an event, counted by valgrind's DHAT, which sees every call of `memcpy` and its like and of `malloc` in the host,
//! and none of what the kernel copies.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::Settings;
use crate::events::Job;
use crate::report::Table;
use crate::through::Through;

/// What a run comes to, and one of more events: the difference is that of events alone.
const FEW: u64 = 40_960;
const MANY: u64 = 122_880;

/// What `--once` does: a job over so many events. With `--fill-only` just their way into the log.
pub(crate) fn once(job: &str, events: u64, run: bool) -> Result<()> {
    let job = Job::named(job)?;
    let through = Through::new(job, 1, &job.events(events))?;
    if run { through.run(0) } else { Ok(()) }
}

/// Blocks and bytes that DHAT has counted in a mode.
fn dhat(mode: &str, job: Job, events: u64, run: bool) -> Result<[u64; 2]> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=dhat", &format!("--mode={mode}")]);
    command.arg(format!("--dhat-out-file={}", dir.path().join("out").display()));
    let flag = if run { "--once" } else { "--fill-only" };
    let ran = command.arg(std::env::current_exe()?).args([flag, job.name(), &events.to_string()]).output();
    let Ok(ran) = ran else { bail!("valgrind is not installed: leave `counts` out, or install it") };
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(ran.status.success(), "{told}");
    let line = told.lines().find_map(|line| line.split_once("Total:")).with_context(|| told.clone())?.1;
    let number = |text: &str| text.trim().split(' ').next().unwrap_or_default().replace(',', "").parse::<u64>();
    let (bytes, blocks) = line.split_once("bytes in ").with_context(|| told.clone())?;
    Ok([number(blocks)?, number(bytes)?])
}

/// Of an event: blocks and bytes of its way through a pipeline, in a mode.
fn each(mode: &str, job: Job) -> Result<[f64; 2]> {
    let of = |events| -> Result<[i64; 2]> {
        let (with, without) = (dhat(mode, job, events, true)?, dhat(mode, job, events, false)?);
        Ok([0, 1].map(|at| with[at].cast_signed() - without[at].cast_signed()))
    };
    let (few, many) = (of(FEW)?, of(MANY)?);
    Ok([0, 1].map(|at| (many[at] - few[at]) as f64 / (MANY - FEW) as f64))
}

pub(crate) fn run(_: &Settings) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "counts",
        "for an event, from log to log, exactly-once, os; by valgrind's DHAT",
        &["bytes of the event", "bytes copied in the host", "copies", "allocations", "bytes allocated"],
    );
    for job in [Job::J1, Job::J2 { evenly: true }, Job::J3] {
        let input = job.events(FEW);
        let size = input.iter().map(|batch| batch.bytes().len()).sum::<usize>() as f64 / FEW as f64;
        let ([copies, copied], [blocks, allocated]) = (each("copy", job)?, each("heap", job)?);
        table.row(job.name(), [size, copied, copies, blocks, allocated].map(Into::into));
    }
    table.note("Not counted: what the kernel copies on reading and writing, and what happens in the guest's own code.");
    Ok(vec![table])
}
