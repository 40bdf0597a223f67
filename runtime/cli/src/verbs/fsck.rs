//! `sluice fsck`

use std::process::ExitCode;
use std::sync::Arc;

use sluice_env::{Disk, RealDisk, SystemClock};
use sluice_log::{Error, Fsck, fsck as check};

use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn fsck(global: &Global, verb: &args::Fsck) -> Result<ExitCode, Failure> {
    if !global.data.join("FORMAT").exists() {
        return Err(Failure::usage(format!("no data directory: {}", global.data.display())));
    }
    if sluice_api::is_answering(&global.data) {
        return Err(Failure::from(Error::InUse(global.data.clone())));
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let told = check(&disk, Arc::new(SystemClock), &global.data, verb.repair);
    let told = told.map_err(|error| {
        let is_damage = matches!(error, Error::Damaged { .. });
        let failure = Failure::from(error);
        if !is_damage {
            return failure;
        }
        failure.help(
            "this is the part of the directory that tells what is true; there is no repair for it, and nothing was changed.\n\
             Restore the directory from a copy. Until then its segments (topics/) still hold the events",
        )
    })?;
    show::answer(global, &to_json(&told), || describe(&told))?;
    Ok(if (told.findings.is_empty() && told.headers.is_empty()) || told.repaired {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    })
}

fn describe(told: &Fsck) -> String {
    let Fsck { batches, events, .. } = told;
    let mut out = format!("read {}: {batches} batches with {events} events are intact\n", show::size(told.bytes));
    if told.redone > 0 {
        out.push_str(&format!(
            "{} newest batches were written again first, from the commit log, as at every start\n",
            told.redone
        ));
    }
    for snapshot in &told.snapshots {
        out.push_str(&format!(
            "\na snapshot cannot be read; an older one tells the same, nothing is lost: {snapshot}\n"
        ));
    }
    for file in &told.headers {
        let what = if told.repaired { "was written again" } else { "is damaged; a repair writes it again" };
        out.push_str(&format!("\nthe file header of {} {what}, no events are lost\n", file.display()));
    }
    for (topic, partition, hole) in &told.holes {
        out.push_str(&format!(
            "\n{topic}/{partition}: offsets {} to {} were given up by an earlier repair\n",
            hole.from,
            hole.to - 1
        ));
    }
    for finding in &told.findings {
        let (from, to) = (finding.hole.from, finding.hole.to - 1);
        let at = format!("{}/{}", finding.topic, finding.tp.partition);
        out.push_str(&format!("\ndamaged: {}: {}\n", finding.file.display(), finding.what));
        out.push_str(&match told.repaired {
            true => format!("  given up: offsets {from} to {to} of {at}; readers are told that they are gone\n"),
            false => format!(
                "  a repair would give up offsets {from} to {to} of {at}; everything else would be read again\n"
            ),
        });
    }
    match (told.findings.is_empty() && told.headers.is_empty(), told.repaired) {
        (true, _) => out.push_str("nothing is damaged\n"),
        (false, true) => {}
        (false, false) => out.push_str(
            "\nnothing was changed. Restore these files from a copy; or `sluice fsck --repair` gives up what is damaged, for good\n",
        ),
    }
    out
}

fn to_json(told: &Fsck) -> serde_json::Value {
    let findings = told.findings.iter().map(|finding| {
        serde_json::json!({
            "topic": finding.topic, "partition": finding.tp.partition, "file": finding.file, "what": finding.what,
            "from": finding.hole.from, "to": finding.hole.to,
        })
    });
    let holes = told.holes.iter().map(|(topic, partition, hole)| {
        serde_json::json!({ "topic": topic, "partition": partition, "from": hole.from, "to": hole.to })
    });
    serde_json::json!({
        "bytes": told.bytes, "batches": told.batches, "events": told.events, "redone": told.redone, "snapshots": told.snapshots, "headers": told.headers,
        "damaged": findings.collect::<Vec<_>>(), "holes": holes.collect::<Vec<_>>(), "repaired": told.repaired,
    })
}
