//! `sluice plugin`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sluice_engine::Plugin as _;
use sluice_env::SystemClock;
use sluice_host::{Code, Compiler, Host, Limits, Stage};
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
    let inspected = Inspected::of(&host, code);
    show::answer(global, &inspected.to_json(file), || inspected.describe(file))?;
    Ok(ExitCode::SUCCESS)
}

/// What a plugin is told to be.
struct Inspected {
    code: Code,
    /// The contract that it was built for.
    contract: Option<String>,
    /// What a stage has to grant it.
    capabilities: Vec<&'static str>,
    /// Of an instance: bytes of memory when it has started, and the version of its state; or why it does not start without a configuration.
    started: Result<(usize, u32), String>,
}

impl Inspected {
    fn of(host: &Arc<Host>, code: Code) -> Self {
        let contract = code.exports().iter().find_map(|export| {
            let (_, version) = export.strip_prefix("sluicegate:plugin/")?.split_once('@')?;
            Some(version.to_owned())
        });
        let imports = |name: &&str| {
            let interface = format!("sluicegate:plugin/{name}@");
            code.imports().iter().any(|import| import.starts_with(&interface))
        };
        let capabilities: Vec<_> = ["state", "timers"].into_iter().filter(imports).collect();
        let stage = Stage::new(host, &code, "inspected", Limits::default(), "{}".to_owned(), &capabilities);
        let started = stage.map_err(|error| error.to_string()).and_then(|stage| {
            let instance = stage.instantiate(None).map_err(|error| error.message)?;
            Ok((instance.memory(), instance.state_version()))
        });
        Self { code, contract, capabilities, started }
    }

    fn describe(&self, file: &Path) -> String {
        let Self { code, contract, capabilities, started } = self;
        let names = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let needs = match capabilities.is_empty() {
            true => "nothing to be granted".to_owned(),
            false => format!("capabilities = {capabilities:?}"),
        };
        let rows = [
            ("kind", format!("{}, {} bytes", kind(code), code.size)),
            ("world", format!("{} {}", code.world, contract.as_deref().unwrap_or_default())),
            ("exports", names(code.exports())),
            ("imports", names(code.imports())),
            ("needs", needs),
            (
                "memory",
                match started {
                    Ok((bytes, _)) => format!("{} KiB when it has started", bytes >> 10),
                    Err(reason) => {
                        format!("does not start without a configuration: {}", sluice_node::brief(reason, 200))
                    }
                },
            ),
            ("state", started.as_ref().map_or_else(|_| "-".to_owned(), |(_, version)| format!("version {version}"))),
            ("sha-256", code.digest.to_string()),
        ];
        let lines: String = rows.iter().map(|(name, value)| format!("  {name:<8} {value}\n")).collect();
        format!("{}\n{lines}", file.display())
    }

    fn to_json(&self, file: &Path) -> serde_json::Value {
        let Self { code, contract, capabilities, started } = self;
        let started = started.as_ref().ok();
        serde_json::json!({
            "file": file, "kind": kind(code), "bytes": code.size, "world": code.world.to_string(), "contract": contract,
            "exports": code.exports(), "imports": code.imports(), "capabilities": capabilities,
            "memory": started.map(|started| started.0), "state-version": started.map(|started| started.1),
            "sha-256": code.digest.to_string(),
        })
    }
}

/// What the file is.
fn kind(code: &Code) -> &'static str {
    if code.core_module { "core module" } else { "component" }
}
