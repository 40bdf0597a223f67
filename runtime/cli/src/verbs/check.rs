//! `sluice check`

use std::process::ExitCode;

use sluice_config::{Delivery, Errors, OnError, Pipeline};
use sluice_host::Code;
use sluice_node::{Compiler, Existing, definitions};

use crate::access::Access;
use crate::args::{Check, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn check(global: &Global, verb: &Check) -> Result<ExitCode, Failure> {
    let pipelines = definitions::read(&verb.paths).map_err(Failure::refused)?;
    let codes = sluice_node::check(&pipelines, &existing(global)?, Compiler::Apart)?;
    let told: Vec<_> = pipelines.iter().zip(&codes).map(|(pipeline, codes)| tell(pipeline, codes)).collect();
    show::answer(global, &told, || {
        pipelines.iter().zip(&codes).map(|(pipeline, codes)| describe(pipeline, codes)).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn describe(pipeline: &Pipeline, codes: &[Code]) -> String {
    let sinks: Vec<_> = pipeline.sinks.iter().map(|sink| sink.topic.as_str()).collect();
    let sinks = if sinks.is_empty() { "nowhere".to_owned() } else { sinks.join(", ") };
    let stages: Vec<_> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
    let Pipeline { name, sources, delivery, .. } = pipeline;
    let mut out = format!("{name}: good; {} → {} → {sinks}\n", sources.join(", "), stages.join(" → "));
    out.push_str(&format!("  guarantee  {delivery}: {}\n", promise(*delivery)));
    out.push_str(&format!("  on error   {}\n", on_error(&pipeline.errors)));
    for (stage, code) in pipeline.stages.iter().zip(codes) {
        let digest = code.digest.to_string();
        let kind = if code.core_module { ", a core module" } else { "" };
        let (size, world) = (code.size, code.world);
        out.push_str(&format!("  plugin     {}: {}, {size} bytes, world {world}{kind}\n", stage.name, &digest[..12]));
    }
    out
}

/// What becomes of events that fail.
fn on_error(errors: &Errors) -> String {
    let Errors { attempts, on_error, dead_letter_topic, window, max_failures, .. } = errors;
    let what = match on_error {
        OnError::DeadLetter => {
            format!("goes to {dead_letter_topic}; more than {max_failures} of {window} in a row hold the pipeline")
        }
        OnError::Halt => "stops its partition, and `sluice status` says so".to_owned(),
        OnError::Skip => "is skipped, and counted".to_owned(),
    };
    format!("a transient failure is tried {attempts} times; an event that will not go through {what}")
}

/// What a delivery promises to readers of the log.
fn promise(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::ExactlyOnce => "readers of the log see each event's effects once, also after a crash",
        Delivery::AtLeastOnce => {
            "no event is lost; after a crash, effects since the last commit of the cursor come again"
        }
        Delivery::AtMostOnce => {
            "no effect comes twice; after a crash, events in hand are lost, and `sluice audit` lists them"
        }
    }
}

/// What the data directory holds; nothing when there is none yet.
fn existing(global: &Global) -> Result<Existing, Failure> {
    if global.node.is_none() && !global.data.exists() {
        return Ok(Existing::default());
    }
    let mut access = Access::open(global)?;
    let topics = access.topics()?.into_iter().map(|topic| (topic.name, topic.partitions.len() as u32));
    let topics = topics.collect();
    let reads = access.status()?.pipelines.into_iter().flat_map(|pipeline| {
        let name = pipeline.name;
        pipeline.partitions.into_iter().map(move |partition| (name.clone(), partition.topic))
    });
    Ok(Existing { topics, reads: reads.collect() })
}

fn tell(pipeline: &Pipeline, codes: &[Code]) -> serde_json::Value {
    let stages = pipeline.stages.iter().zip(codes).map(|(stage, code)| {
        serde_json::json!({
            "name": stage.name, "plugin": code.digest.to_string(), "world": code.world.to_string(),
            "core-module": code.core_module,
        })
    });
    serde_json::json!({
        "pipeline": pipeline.name, "file": pipeline.file, "delivery": pipeline.delivery.to_string(), "on-error": on_error(&pipeline.errors),
        "sources": pipeline.sources, "sinks": pipeline.sinks.iter().map(|sink| &sink.topic).collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
    })
}
