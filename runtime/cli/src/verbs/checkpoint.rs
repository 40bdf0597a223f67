//! `sluice checkpoint`

use std::process::ExitCode;

use sluice_node::checkpoint::{Checkpoint, Kept, Part, Stood};
use sluice_node::operate::{Request, Target};
use sluice_node::state::StateChoice;

use crate::access::Access;
use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;
use crate::verbs::rewind::describe;

fn find(access: &mut Access, name: &str) -> Result<Checkpoint, Failure> {
    access.checkpoints()?.into_iter().find(|checkpoint| checkpoint.name == *name).ok_or_else(|| {
        let failure = Failure::usage(format!("unknown checkpoint: {name}"));
        failure.help("`sluice checkpoint list` shows those there are")
    })
}

pub(crate) fn checkpoint(global: &Global, verb: &args::Checkpoint) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    match verb {
        args::Checkpoint::Create { name, pipeline } => {
            let made = access.make_checkpoint(name, pipeline.as_deref())?;
            show::answer(global, &made, || {
                format!("checkpoint {name} made at commit {}: {}\n", made.seq, names(&made))
            })?;
        }
        args::Checkpoint::List => {
            let found = access.checkpoints()?;
            show::answer(global, &found, || {
                let row = |checkpoint: &Checkpoint| {
                    let kept = || kept(checkpoint);
                    let (keys, bytes) =
                        (kept().map(|kept| kept.keys).sum::<u64>(), kept().map(|kept| kept.bytes).sum());
                    let (name, time) = (checkpoint.name.clone(), show::time(checkpoint.time));
                    vec![name, time, checkpoint.seq.to_string(), names(checkpoint), keys.to_string(), show::size(bytes)]
                };
                let rows: Vec<_> = found.iter().map(row).collect();
                show::table(&["CHECKPOINT", "TIME", "COMMIT", "PIPELINES", "KEYS", "STATE"], &rows)
            })?;
        }
        args::Checkpoint::Show { name } => {
            let found = find(&mut access, name)?;
            show::answer(global, &found, || {
                let row = |stood: &Stood, part: &Part| {
                    let kept = |of: fn(&Kept) -> String| part.state.as_ref().map(of).unwrap_or_default();
                    let (source, cursor) = (format!("{}/{}", part.topic, part.partition), part.cursor.to_string());
                    let (keys, bytes) = (kept(|kept| kept.keys.to_string()), kept(|kept| show::size(kept.bytes)));
                    vec![stood.pipeline.clone(), source, cursor, keys, bytes]
                };
                let rows =
                    found.pipelines.iter().flat_map(|stood| stood.partitions.iter().map(|part| row(stood, part)));
                let made = format!("made {} at commit {}\n\n", show::time(found.time), found.seq);
                made + &show::table(&["PIPELINE", "PARTITION", "CURSOR", "KEYS", "STATE"], &rows.collect::<Vec<_>>())
            })?;
        }
        args::Checkpoint::Restore { name, pipeline, yes } => {
            let pipelines: Vec<String> = match pipeline {
                Some(only) => vec![only.clone()],
                None => find(&mut access, name)?.pipelines.into_iter().map(|stood| stood.pipeline).collect(),
            };
            let target = Target::Checkpoint(name.clone());
            let request = |really| Request { target: target.clone(), state: StateChoice::Restore, into: None, really };
            // All of them can be done before one is.
            if *yes {
                for pipeline in &pipelines {
                    access.rewind(pipeline, &request(false))?;
                }
            }
            for pipeline in &pipelines {
                let rewind = access.rewind(pipeline, &request(*yes))?;
                show::answer(global, &rewind, || describe(&rewind))?;
            }
        }
        args::Checkpoint::Export { name, file } => {
            let made = access.export_checkpoint(name, &std::path::absolute(file)?)?;
            show::answer(global, &made, || format!("checkpoint {name} written to {}\n", file.display()))?;
        }
        args::Checkpoint::Import { file, name } => {
            let made = access.import_checkpoint(&std::path::absolute(file)?, name.as_deref())?;
            show::answer(global, &made, || {
                let Checkpoint { name, .. } = &made;
                format!(
                    "checkpoint {name} is here: {}; `sluice checkpoint restore {name}` shows what going there would do\n",
                    names(&made)
                )
            })?;
        }
        args::Checkpoint::Delete { name } => {
            access.delete_checkpoint(name)?;
            show::answer(global, &serde_json::json!({ "deleted": name }), || format!("checkpoint {name} deleted\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn names(checkpoint: &Checkpoint) -> String {
    checkpoint.pipelines.iter().map(|stood| stood.pipeline.as_str()).collect::<Vec<_>>().join(", ")
}

fn kept(checkpoint: &Checkpoint) -> impl Iterator<Item = &Kept> {
    checkpoint.pipelines.iter().flat_map(|stood| &stood.partitions).filter_map(|part| part.state.as_ref())
}
