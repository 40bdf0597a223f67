//! `sluice status`

mod watch;

use std::process::ExitCode;

use sluice_log::Desired;
use sluice_node::{HaltKind, HoldStatus, PipelineState, ProbationStatus, Rates, ReloadStatus, Retrying, Status};

use crate::access::Access;
use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn status(global: &Global, verb: &args::Status) -> Result<ExitCode, Failure> {
    if verb.watch {
        return watch::watch(global, verb.every);
    }
    let status = Access::open_existing(global)?.status()?;
    show::answer(global, &status, || render(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn render(status: &Status) -> String {
    let mut out = match status.pid {
        Some(pid) => {
            let url = status.url.as_ref().map(|url| format!(", {url}"));
            format!("node: running, process {pid}{}\n", url.unwrap_or_default())
        }
        None => "node: not running\n".to_owned(),
    };
    if status.pipelines.is_empty() {
        out.push_str("no pipelines yet: `sluice run` starts those in pipelines/\n");
        return out;
    }
    out.push_str(&table(status));
    for pipeline in &status.pipelines {
        if let Some(reason) = &pipeline.held {
            let name = &pipeline.name;
            out.push_str(&format!("\n{name} is held: {reason}\nhelp: "));
            if pipeline.dead_letter_topic.is_some() {
                out.push_str(&format!("`sluice dead list {name}` groups what failed by cause; "));
            }
            out.push_str(&format!("`sluice pipeline resume {name}` lets it go on\n"));
        }
        if let Some(reload) = &pipeline.reload {
            out.push_str(&reloads(&pipeline.name, pipeline.generation, reload));
        }
        if pipeline.state == PipelineState::Paused {
            let name = &pipeline.name;
            out.push_str(&format!("\n{name} is paused: `sluice pipeline resume {name}` lets it run\n"));
        }
        if pipeline.state == PipelineState::Stopped && pipeline.desired != Desired::Run {
            let (name, desired) = (&pipeline.name, &pipeline.desired);
            out.push_str(&format!("\n{name} is told to {desired}: `sluice pipeline resume {name}` lets it run\n"));
        }
        if pipeline.state == PipelineState::Stopped && pipeline.unsettled > 0 {
            let (name, lost) = (&pipeline.name, pipeline.unsettled);
            out.push_str(&format!(
                "\n{name} has lost {lost} events (at-most-once): `sluice audit {name}` lists them\n"
            ));
        }
        let late: u64 = pipeline.partitions.iter().filter_map(|lane| lane.late).sum();
        if late > 0 {
            let name = &pipeline.name;
            out.push_str(&format!("\n{name} had {late} late events: `lateness` in its [time] says how long it waits, `late-sink` where they go\n"));
        }
        for lane in &pipeline.partitions {
            let at = format!("{} on {}/{}", pipeline.name, lane.topic, lane.partition);
            // What a held pipeline stands still for is told above.
            let held = pipeline.held.is_some();
            if let Some(halted) = lane.halted.as_ref().filter(|halted| !(held && halted.kind == HaltKind::Breaker)) {
                out.push_str(&format!("\n{at} is halted at offset {}: {}\n", halted.offset, halted.reason));
                let name = &pipeline.name;
                match halted.kind {
                    HaltKind::Damage => {
                        out.push_str("help: stop the node, and run `sluice fsck`: it explains what is damaged\n");
                    }
                    HaltKind::Event => out.push_str(&format!(
                        "help: look at the event with `sluice consume {} --partition {} --from {} --max 1 --json`; `sluice pipeline resume {name}` tries it again,\n\
                         `sluice pipeline resume {name} --skip` passes over it; a mended plugin is taken by itself\n",
                        lane.topic, lane.partition, halted.offset
                    )),
                    HaltKind::Timer => out.push_str(&format!(
                        "help: `sluice pipeline resume {name}` tries the timer again, `sluice pipeline resume {name} --skip` lets go of it; a mended plugin is taken by itself\n"
                    )),
                    HaltKind::Breaker | HaltKind::Other => out.push_str(&format!(
                        "help: `sluice pipeline resume {name}` lets it go on, once what is wrong is mended\n"
                    )),
                }
            }
            if let Some(Retrying { offset, attempts, reason, .. }) = &lane.retrying {
                out.push_str(&format!(
                    "\n{at} tries offset {offset} again, which has failed {attempts} times: {reason}\n"
                ));
            }
            if let Some(reason) = &lane.waits_for {
                out.push_str(&format!("\n{at} waits and goes on by itself: {reason}\n"));
            }
        }
    }
    for hold in &status.holds {
        let HoldStatus { topic, partition, pipeline, cursor, wanted, bytes } = hold;
        let size = show::size(*bytes);
        out.push_str(&format!(
            "\nretention of {topic}/{partition} is held at offset {cursor} by pipeline {pipeline}: events before {wanted} would go, {size}\n"
        ));
        out.push_str(&format!(
            "help: let it read them, `sluice rewind {pipeline} --to latest` passes over them, `sluice pipeline delete {pipeline}` gives them up\n"
        ));
    }
    for problem in &status.refused {
        out.push_str(&format!("\na definition is not taken:\n{problem}\n"));
    }
    for file in &status.damaged {
        out.push_str(&format!("\ndamaged, its partition is stopped: {file}\n"));
    }
    out
}

/// How reloads of a pipeline stand.
fn reloads(name: &str, generation: u64, reload: &ReloadStatus) -> String {
    let mut out = String::new();
    if let Some(ProbationStatus { batches, of, holds_outputs }) = &reload.probation {
        let held = if *holds_outputs { "; nothing is committed before it has passed" } else { "" };
        out.push_str(&format!(
            "\ngeneration {generation} of {name} is on probation: {batches} of {of} batches{held}\n"
        ));
    }
    if let Some(problem) = &reload.problem {
        out.push_str(&format!("\n{name} goes on as it was: {problem}\n"));
        out.push_str(&format!(
            "help: `sluice plugin history {name}` shows what was in force; a changed file is tried anew\n"
        ));
    }
    out
}

/// A line for each pipeline.
fn table(status: &Status) -> String {
    let rows: Vec<_> = status
        .pipelines
        .iter()
        .map(|p| {
            let rate = |of: fn(&Rates) -> f64| p.rates.as_ref().map_or_else(|| "-".to_owned(), |r| show::rate(of(r)));
            let late = p.lag_ms.map_or_else(|| "-".to_owned(), show::span);
            let numbers = [p.filtered, p.dead, p.skipped, p.generation].map(|number| number.to_string());
            let speed = [p.lag.to_string(), late, p.read.to_string(), rate(|r| r.read), rate(|r| r.written)];
            let digests: Vec<String> = p.digests.iter().map(|digest| digest.chars().take(12).collect()).collect();
            let name = vec![p.name.clone(), p.state.to_string()];
            [name, speed.to_vec(), numbers.to_vec(), vec![digests.join(" ")]].concat()
        })
        .collect();
    show::table(
        &[
            "PIPELINE",
            "STATE",
            "LAG",
            "BEHIND",
            "READ",
            "READ/S",
            "WRITTEN/S",
            "FILTERED",
            "DEAD",
            "SKIPPED",
            "GENERATION",
            "PLUGIN",
        ],
        &rows,
    )
}
