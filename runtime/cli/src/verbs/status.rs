//! `sluice status`

use std::process::ExitCode;

use sluice_node::Status;

use crate::access::Access;
use crate::args::Global;
use crate::exit::Failure;
use crate::show;

pub(crate) fn status(global: &Global) -> Result<ExitCode, Failure> {
    let status = Access::open_existing(global)?.status()?;
    show::answer(global, &status, || render(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn render(status: &Status) -> String {
    let mut out = match status.pid {
        Some(pid) => format!("node: running, process {pid}\n"),
        None => "node: not running\n".to_owned(),
    };
    let rows: Vec<_> = status
        .pipelines
        .iter()
        .map(|p| {
            let numbers = [p.lag, p.read, p.filtered, p.generation].map(|number| number.to_string());
            [vec![p.name.clone(), p.state.to_string()], numbers.to_vec(), vec![p.digest.chars().take(12).collect()]]
                .concat()
        })
        .collect();
    if rows.is_empty() {
        out.push_str("no pipelines yet: `sluice run` starts those in pipelines/\n");
        return out;
    }
    out.push_str(&show::table(&["PIPELINE", "STATE", "LAG", "READ", "FILTERED", "GENERATION", "PLUGIN"], &rows));
    for pipeline in &status.pipelines {
        for lane in &pipeline.partitions {
            let at = format!("{} on {}/{}", pipeline.name, lane.topic, lane.partition);
            if let Some(halted) = &lane.halted {
                out.push_str(&format!("\n{at} is halted at offset {}: {}\n", halted.offset, halted.reason));
                out.push_str(&format!(
                    "help: look at the event with `sluice consume {} --partition {} --from {} --max 1 --json`; mend the plugin, build it and start the node again\n",
                    lane.topic, lane.partition, halted.offset
                ));
            }
            if let Some(reason) = &lane.waits_for {
                out.push_str(&format!("\n{at} waits and goes on by itself: {reason}\n"));
            }
        }
    }
    for file in &status.damaged {
        out.push_str(&format!("\ndamaged, its partition is stopped: {file}\n"));
    }
    out
}
