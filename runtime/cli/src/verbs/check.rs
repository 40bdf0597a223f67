//! `sluice check`

use std::process::ExitCode;

use sluice_config::Pipeline;
use sluice_host::Code;
use sluice_node::definitions;

use crate::access::Access;
use crate::args::{Check, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn check(global: &Global, verb: &Check) -> Result<ExitCode, Failure> {
    let pipelines = definitions::read(&verb.paths).map_err(Failure::refused)?;
    let topics = topics(global)?;
    let existing = |name: &str| topics.iter().find(|(found, _)| found == name).map(|(_, partitions)| *partitions);
    let codes = sluice_node::check(&pipelines, &existing)?;
    let told: Vec<_> = pipelines.iter().zip(&codes).map(|(pipeline, code)| tell(pipeline, code)).collect();
    show::answer(global, &told, || {
        pipelines.iter().zip(&codes).map(|(pipeline, code)| describe(pipeline, code)).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn describe(pipeline: &Pipeline, code: &Code) -> String {
    let sinks: Vec<_> = pipeline.sinks.iter().map(|sink| sink.topic.as_str()).collect();
    let sinks = if sinks.is_empty() { "nowhere".to_owned() } else { sinks.join(", ") };
    let Pipeline { name, source, stage, .. } = pipeline;
    let digest = code.digest.to_string();
    format!(
        "{name}: good; {source} → {} → {sinks}\n\
        \x20 guarantee  exactly-once: readers of the log see each event's effects once, also after a crash\n\
        \x20 on error   halt: an event that fails stops its partition, and says so in `sluice status`\n\
        \x20 plugin     {}, {} bytes, world {}\n",
        stage.name,
        &digest[..12],
        code.size,
        code.world
    )
}

/// The topics of the data directory with their partition counts; none when there is no directory yet.
fn topics(global: &Global) -> Result<Vec<(String, u32)>, Failure> {
    if !global.data.exists() {
        return Ok(Vec::new());
    }
    let topics = Access::open(global)?.topics()?;
    Ok(topics.into_iter().map(|topic| (topic.name, topic.partitions.len() as u32)).collect())
}

fn tell(pipeline: &Pipeline, code: &Code) -> serde_json::Value {
    serde_json::json!({
        "pipeline": pipeline.name, "file": pipeline.file, "delivery": "exactly-once", "source": pipeline.source,
        "sinks": pipeline.sinks.iter().map(|sink| &sink.topic).collect::<Vec<_>>(),
        "plugin": code.digest.to_string(), "world": code.world.to_string(),
    })
}
