//! `sluice plugin`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sluice_env::SystemClock;
use sluice_host::{Code, Compiler, Host, Limits};
use sluice_node::definitions::{read_wasm, wasm_file};

use crate::access::Access;
use crate::args::{Global, Plugin};
use crate::exit::Failure;
use crate::languages;
use crate::show;

pub(crate) fn plugin(global: &Global, verb: &Plugin) -> Result<ExitCode, Failure> {
    match verb {
        Plugin::New { name, lang } => languages::new(global, name, *lang),
        Plugin::Build { dir, setup } => {
            let file = languages::build(dir, *setup)?;
            inspect(global, &file)
        }
        Plugin::Run(verb) => super::plugin_run::run(global, verb),
        Plugin::Inspect { plugin } => inspect(global, &wasm_file(plugin)),
        Plugin::History { pipeline } => history(global, pipeline),
        Plugin::Reload { pipeline } => {
            let generation = Access::open_existing(global)?.reload(pipeline)?;
            show::answer(global, &serde_json::json!({ "generation": generation }), || {
                format!("pipeline {pipeline}: generation {generation} is in force\n")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Plugin::Rollback { pipeline } => roll_back(global, pipeline),
    }
}

fn history(global: &Global, pipeline: &str) -> Result<ExitCode, Failure> {
    let generations = Access::open_existing(global)?.generations(pipeline)?;
    show::answer(global, &generations, || {
        let rows: Vec<_> = generations
            .iter()
            .rev()
            .map(|generation| {
                let plugins: Vec<String> =
                    generation.plugins.iter().map(|digest| digest.chars().take(12).collect()).collect();
                // One line each: the whole reason is in the JSON.
                let reason = generation.reason.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
                let kept: Vec<_> =
                    generation.state_versions.iter().map(|(stage, version)| format!("{stage} {version}")).collect();
                vec![
                    generation.number.to_string(),
                    show::time(generation.time),
                    generation.standing.to_string(),
                    plugins.join(" "),
                    kept.join(", "),
                    sluice_node::brief(reason, 100),
                ]
            })
            .collect();
        show::table(&["GENERATION", "SINCE", "STANDING", "PLUGIN", "STATE VERSION", "REASON"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn roll_back(global: &Global, pipeline: &str) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    let generation = access.roll_back(pipeline)?;
    let how = if access.is_node() { "is in force" } else { "is what it will start with" };
    show::answer(global, &serde_json::json!({ "generation": generation }), || {
        format!(
            "pipeline {pipeline}: generation {generation} {how}; what stands in the files is not taken again before it changes\n"
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(global: &Global, file: &Path) -> Result<ExitCode, Failure> {
    let limits = Limits::default();
    let bytes = read_wasm(file, &limits).map_err(|error| {
        let failure = Failure::usage(format!("cannot read {}: {error}", file.display()));
        failure.help("name a .wasm file, or a plugin's folder after `sluice plugin build DIR`")
    })?;
    let host =
        Host::new(None, Arc::new(SystemClock), Compiler::Apart).map_err(|error| Failure::failed(error.to_string()))?;
    let code = host.load(&bytes, &limits);
    let code = code.map_err(|error| {
        // Names in it are the plugin's.
        Failure::usage(format!("{}: {}", file.display(), sluice_node::legible(&error.to_string())))
    })?;
    show::answer(global, &to_json(file, &code), || describe(file, &code))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(file: &Path, code: &Code) -> String {
    let names = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let keeps = code.imports().iter().any(|import| import.starts_with("sluicegate:plugin/state@"));
    let needs = if keeps { "capabilities = [\"state\"]" } else { "nothing to be granted" };
    let rows = [
        ("kind", format!("{}, {} bytes", kind(code), code.size)),
        ("world", code.world.to_string()),
        ("exports", names(code.exports())),
        ("imports", names(code.imports())),
        ("needs", needs.to_owned()),
        ("sha-256", code.digest.to_string()),
    ];
    let lines: String = rows.iter().map(|(name, value)| format!("  {name:<8} {value}\n")).collect();
    format!("{}\n{lines}", file.display())
}

fn to_json(file: &Path, code: &Code) -> serde_json::Value {
    serde_json::json!({
        "file": file, "kind": kind(code), "bytes": code.size, "world": code.world.to_string(),
        "exports": code.exports(), "imports": code.imports(), "sha-256": code.digest.to_string(),
    })
}

/// What the file is.
fn kind(code: &Code) -> &'static str {
    if code.core_module { "core module" } else { "component" }
}
