//! Reads pipeline files and the plugins they name.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_config::{At, Diagnostic, Pipeline, check_together};
use sluice_engine::{Plugin, StageConfig, StateGrant, UnderWay, Witness};
use sluice_host::{Code, Error, Host, Limits, Stage};
use sluice_log::PipelineInfo;

/// Outputs of one event, where a definition says nothing else.
const MAX_OUTPUTS_PER_EVENT: u32 = 1000;
/// Bytes of a stage's state in each partition, where a definition says nothing else.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// Reads and checks all definitions in these files and folders. A folder means the `.toml` files in it.
///
/// # Errors
/// Everything that is wrong.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Pipeline>, Vec<Diagnostic>> {
    let (mut pipelines, mut found) = (Vec::new(), Vec::new());
    for path in files(paths)? {
        match read_file(&path) {
            Ok(pipeline) => pipelines.push(pipeline),
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    if let Err(diagnostics) = check_together(&pipelines) {
        found.extend(diagnostics);
    }
    if found.is_empty() { Ok(pipelines) } else { Err(found) }
}

/// The definition of a pipeline that is in force.
pub(crate) fn in_force(info: &PipelineInfo) -> Result<Pipeline, Vec<Diagnostic>> {
    Pipeline::parse(Path::new(""), &info.definition)
}

/// Reads and checks one definition.
pub(crate) fn read_file(path: &Path) -> Result<Pipeline, Vec<Diagnostic>> {
    let cannot = |error| vec![Diagnostic::of_file(path, format!("cannot read: {error}"), None)];
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    Pipeline::parse(path, &text)
}

/// The files with definitions that these paths mean.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let cannot = |error: std::io::Error| vec![Diagnostic::of_file(path, format!("cannot read: {error}"), None)];
        let before = files.len();
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            // Fixtures of `sluice test` lie beside the definitions.
            let is_fixture = file.to_string_lossy().ends_with(".test.toml");
            if file.extension().is_some_and(|extension| extension == "toml") && !is_fixture {
                files.push(file);
            }
        }
        if files.len() == before {
            let help = "name a file, or put a definition here; the README shows one".to_owned();
            return Err(vec![Diagnostic::of_file(path, "no pipeline files (*.toml) in this folder", Some(help))]);
        }
        files[before..].sort();
    }
    Ok(files)
}

/// The .wasm file that a plugin's path means: itself, or in a plugin's folder what `sluice plugin build` made.
pub fn wasm_file(plugin: &Path) -> PathBuf {
    let folder = std::fs::canonicalize(plugin).ok().filter(|path| path.is_dir());
    match folder.as_ref().and_then(|path| path.file_name()) {
        Some(name) => plugin.join("build").join(name).with_added_extension("wasm"),
        None => plugin.to_owned(),
    }
}

/// Reads a .wasm file, but not more of it than the host would take: it may be anything.
///
/// # Errors
/// As the operating system says.
pub fn read_wasm(file: &Path, limits: &Limits) -> std::io::Result<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "a plugin, no part of the log")]
    let file = std::fs::File::open(file)?;
    let mut bytes = Vec::new();
    file.take(limits.wasm_bytes as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the plugin of a stage, by its position.
///
/// # Errors
/// That it cannot be read, at its place in the definition.
pub fn read_plugin(pipeline: &Pipeline, at: usize) -> Result<Vec<u8>, Diagnostic> {
    let plugin = &pipeline.stages[at].plugin;
    let file = wasm_file(plugin);
    read_wasm(&file, &limits(&pipeline.stages[at])).map_err(|error| {
        let message = format!("cannot read the plugin: {}: {error}", tidy(&file).display());
        let folder = if plugin.is_dir() { plugin.as_path() } else { Path::new("DIR") };
        let help = format!("a .wasm file, or a plugin's folder after `sluice plugin build {}`", tidy(folder).display());
        pipeline.diagnose(At::Plugin(at), message, Some(help))
    })
}

/// Compiles and checks the plugin of a stage, by its position.
fn load_plugin(host: &Host, pipeline: &Pipeline, at: usize, bytes: &[u8]) -> Result<Code, Diagnostic> {
    let file = wasm_file(&pipeline.stages[at].plugin);
    host.load(bytes, &limits(&pipeline.stages[at])).map_err(|error| {
        let help = match &error {
            Error::NotWasm => Some("name a .wasm file, or a plugin's folder".to_owned()),
            Error::World { .. } => Some("export a consumer: with the Rust SDK, `consumer!(my_function);`".to_owned()),
            _ => None,
        };
        // Names in it are the plugin's.
        let what = sluice_engine::legible(&error.to_string());
        pipeline.diagnose(At::Plugin(at), format!("{}: {what}", tidy(&file).display()), help)
    })
}

/// Whether to make an instance of a plugin, to see that it starts.
pub enum Trial<'a> {
    /// Told to a witness, for the guest already runs while it is started.
    By(&'a dyn Witness, UnderWay),
    /// Not now: its pipeline is held, maybe because of that.
    Spared,
}

/// What a stage's plugin may use.
fn limits(stage: &sluice_config::Stage) -> Limits {
    let (defaults, limits) = (Limits::default(), &stage.limits);
    let size = |limit: Option<u64>, default: usize| limit.map_or(default, |bytes| bytes as usize);
    Limits {
        memory: size(limits.memory, defaults.memory),
        call_timeout: limits.call_timeout.unwrap_or(defaults.call_timeout),
        output_bytes: size(limits.output_bytes, defaults.output_bytes),
        log_bytes: limits.log_bytes.unwrap_or(defaults.log_bytes),
        table_elements: limits.table_elements.map_or(defaults.table_elements, |elements| elements as usize),
        wasm_bytes: size(limits.wasm_size, defaults.wasm_bytes),
        compile_time: limits.compile_time.unwrap_or(defaults.compile_time),
        compile_memory: limits.compile_memory.unwrap_or(defaults.compile_memory),
    }
}

/// Links a plugin with its stage's limits and configuration and, by a trial, sees that an instance of it starts: then it is known of which version its
/// state is.
///
/// # Errors
/// What is wrong with it, at its place in the definition.
pub fn link(
    host: &Arc<Host>,
    code: &Code,
    pipeline: &Pipeline,
    at: usize,
    trial: &Trial<'_>,
) -> Result<(Stage, Option<u32>), Diagnostic> {
    let stage = &pipeline.stages[at];
    let limits = limits(stage);
    let name = format!("{}/{}", pipeline.name, stage.name);
    let capabilities: Vec<_> = [("state", stage.state), ("timers", stage.timers)]
        .into_iter()
        .filter_map(|(name, has)| has.then_some(name))
        .collect();
    let linked = Stage::new(host, code, &name, limits, stage.config.clone(), &capabilities);
    let linked = linked.map_err(|error| pipeline.diagnose(At::Plugin(at), error.to_string(), None))?;
    let Trial::By(witness, call) = trial else { return Ok((linked, None)) };
    witness.enter(call);
    let tried = sluice_engine::Plugin::instantiate(&linked, None);
    witness.leave();
    let tried = tried.map_err(|error| pipeline.diagnose(At::Config(at), error.message, None))?;
    let version = tried.state_version();
    Ok((linked, Some(version)))
}

/// A stage that is ready to run.
pub struct Loaded {
    /// What its plugin is.
    pub code: Code,
    /// As the engine takes it.
    pub config: StageConfig,
    /// The plugin's file.
    pub wasm: Vec<u8>,
}

/// All stages of a pipeline, loaded and linked.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load_stages(host: &Arc<Host>, pipeline: &Pipeline, trial: &Trial<'_>) -> Result<Vec<Loaded>, Vec<Diagnostic>> {
    load_stages_of(host, pipeline, trial, |at| read_plugin(pipeline, at))
}

/// The same, with plugins read in another way, each by its stage's position.
pub(crate) fn load_stages_of(
    host: &Arc<Host>,
    pipeline: &Pipeline,
    trial: &Trial<'_>,
    read: impl Fn(usize) -> Result<Vec<u8>, Diagnostic>,
) -> Result<Vec<Loaded>, Vec<Diagnostic>> {
    let (mut stages, mut found) = (Vec::new(), Vec::new());
    for (at, stage) in pipeline.stages.iter().enumerate() {
        let load = |wasm: Vec<u8>| {
            let code = load_plugin(host, pipeline, at, &wasm)?;
            Ok((link(host, &code, pipeline, at, trial)?, code, wasm))
        };
        match read(at).and_then(load) {
            Ok(((linked, state_version), code, wasm)) => {
                let plugin: Arc<dyn Plugin> = Arc::new(linked);
                let (name, keys_unchanged) = (stage.name.clone(), stage.keys_unchanged);
                let digest = code.digest.to_string().into();
                let max_outputs_per_event = stage.limits.outputs_per_event.unwrap_or(MAX_OUTPUTS_PER_EVENT);
                let max_bytes = stage.limits.state.unwrap_or(MAX_STATE_BYTES);
                let grant = StateGrant { max_bytes, values: stage.state, timers: stage.timers };
                let state = stage.keeps().then_some(grant);
                let config =
                    StageConfig { name, plugin, keys_unchanged, max_outputs_per_event, digest, state, state_version };
                stages.push(Loaded { code, config, wasm });
            }
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    if found.is_empty() { Ok(stages) } else { Err(found) }
}

/// A path without `a/../`, for messages.
pub fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        let goes_back = part == std::path::Component::ParentDir;
        if !(goes_back && matches!(tidy.components().next_back(), Some(std::path::Component::Normal(_))) && tidy.pop())
        {
            tidy.push(part);
        }
    }
    tidy
}
