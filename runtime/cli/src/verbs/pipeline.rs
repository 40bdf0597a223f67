//! `sluice pipeline`

use std::process::ExitCode;
use std::time::Duration;

use sluice_api::Want;
use sluice_node::PipelineState;

use crate::access::Access;
use crate::args::{Global, Pipeline};
use crate::exit::Failure;
use crate::show;

/// How often to look whether a pipeline has come to a stand.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn pipeline(global: &Global, verb: &Pipeline) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    let (name, done) = match verb {
        Pipeline::Pause { name } => (name, want(&mut access, name, Want::Pause, "paused")?),
        Pipeline::Resume { name, skip: false } => (name, want(&mut access, name, Want::Resume, "resumed")?),
        Pipeline::Resume { name, skip: true } => {
            let done = "resumed: the events that blocked it are passed over";
            (name, want(&mut access, name, Want::ResumePast, done)?)
        }
        Pipeline::Drain { name } => (name, want(&mut access, name, Want::Drain, "drained and paused")?),
        Pipeline::Delete { name } => {
            access.delete_pipeline(name)?;
            (name, "deleted: its cursors are forgotten".to_owned())
        }
    };
    let told = serde_json::json!({ "pipeline": name, "done": done });
    show::answer(global, &told, || format!("pipeline {name} {done}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Says what a pipeline is to do and, beside a node, waits until it has come to a stand.
fn want(access: &mut Access, name: &str, want: Want, done: &str) -> Result<String, Failure> {
    access.want(name, want)?;
    if matches!(want, Want::Resume | Want::ResumePast) {
        return Ok(done.to_owned());
    }
    loop {
        let status = access.status()?;
        let Some(pipeline) = status.pipelines.iter().find(|pipeline| pipeline.name == name) else {
            return Err(Failure::failed(format!("pipeline {name} was deleted meanwhile")));
        };
        match pipeline.state {
            PipelineState::Paused => return Ok(done.to_owned()),
            PipelineState::Stopped => return Ok(format!("will be {done} when a node runs it")),
            PipelineState::Halted | PipelineState::Held if want == Want::Pause => {
                return Ok("paused; it is halted as well: `sluice status` says at which event and why".to_owned());
            }
            PipelineState::Halted | PipelineState::Held => {
                let message =
                    format!("pipeline {name} is halted: it stands still once that is mended and it is drained");
                return Err(Failure::failed(message).help("`sluice status` says at which event and why"));
            }
            PipelineState::Running | PipelineState::Idle => {
                return Err(Failure::failed(format!("pipeline {name} was resumed meanwhile")));
            }
            _ => {}
        }
        #[expect(clippy::disallowed_methods, reason = "asks again after a while")]
        std::thread::sleep(LOOK);
    }
}
