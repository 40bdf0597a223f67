//! Fixtures: given these events, are these the outputs and failures? Run through the real host, without a data directory.
//!
//! A fixture is a file `NAME.test.toml` beside a pipeline or a plugin. The README tells its keys.

mod definition;
mod outcomes;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sluice_config::{Diagnostic, Pipeline};
use sluice_env::SystemClock;
use sluice_host::{Compiler, Host};

use self::definition::Fixture;
pub use self::outcomes::{Asked, Before, Outcomes, outcomes};
use crate::definitions::{self, Trial};
use crate::node::NodeError;

/// How deep folders are searched for fixtures.
const MAX_DEPTH: usize = 8;

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// The fixture.
    pub file: PathBuf,
    /// The case's name.
    pub case: String,
    /// What differs, a line each: `-` what was expected, `+` what came, with a heading for each sink. Empty when all is well.
    pub differences: Vec<String>,
}

/// The fixtures in these files and folders, sorted.
///
/// # Errors
/// When a folder cannot be read.
pub fn find(paths: &[PathBuf]) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() { find_in(path, 0, &mut found)? } else { found.push(path.clone()) }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn find_in(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    const NOT_OURS: [&str; 2] = ["target", "node_modules"];
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < MAX_DEPTH && !name.starts_with('.') && !NOT_OURS.contains(&name.as_str()) {
            find_in(&path, depth + 1, found)?;
        } else if kind.is_file() && name.ends_with(".test.toml") {
            found.push(path);
        }
    }
    Ok(())
}

/// Runs all cases of these fixtures.
///
/// # Errors
/// What is wrong with a fixture, or with the pipeline or plugin that it tests.
pub fn run(files: &[PathBuf], compiler: Compiler) -> Result<Vec<CaseResult>, NodeError> {
    run_with(&Host::new(None, Arc::new(SystemClock), compiler)?, files)
}

/// The same, by a host.
pub(crate) fn run_with(host: &Arc<Host>, files: &[PathBuf]) -> Result<Vec<CaseResult>, NodeError> {
    let (mut results, mut found) = (Vec::new(), Vec::new());
    for file in files {
        match run_file(host, file) {
            Ok(cases) => results.extend(cases),
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    if found.is_empty() { Ok(results) } else { Err(NodeError::Refused(found)) }
}

fn run_file(host: &Arc<Host>, file: &Path) -> Result<Vec<CaseResult>, Vec<Diagnostic>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| vec![Diagnostic::of_file(file, format!("cannot read: {error}"), None)])?;
    let fixture = Fixture::parse(file, &text).map_err(|diagnostic| vec![diagnostic])?;
    let pipeline = tested(file, &fixture)?;
    let stages = definitions::load_stages(host, &pipeline, &Trial::By(&(), crate::witness::starting(0)))?;
    let stages: Vec<_> = stages.into_iter().map(|stage| stage.config).collect();
    let case = |case: &definition::Case| {
        let ran = run::run(case, &pipeline, &stages);
        let ran = ran.map_err(|what| vec![Diagnostic::of_file(file, format!("case {:?}: {what}", case.name), None)])?;
        let differences = ran.differences(case, &pipeline);
        Ok(CaseResult { file: file.to_owned(), case: case.name.clone(), differences })
    };
    fixture.case.iter().map(case).collect()
}

/// The pipeline that a fixture tests; for a plugin by itself, the least that calls it.
fn tested(file: &Path, fixture: &Fixture) -> Result<Pipeline, Vec<Diagnostic>> {
    let beside = file.parent().unwrap_or_else(|| Path::new(""));
    match (&fixture.pipeline, &fixture.plugin) {
        (Some(pipeline), None) => {
            let pipeline = beside.join(pipeline);
            definitions::read(std::slice::from_ref(&pipeline)).map(|mut read| read.remove(0))
        }
        (None, Some(plugin)) => {
            let mut text = toml::Table::new();
            let table = |pairs: Vec<(&str, toml::Value)>| {
                toml::Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            };
            text.insert("name".into(), "test".into());
            text.insert("source".into(), table(vec![("topics", vec!["in"].into())]));
            let mut stage = vec![("plugin", plugin.clone().into()), ("name", "plugin".into())];
            stage.push(("capabilities", vec!["state", "timers"].into()));
            stage.extend(fixture.config.clone().map(|config| ("config", toml::Value::Table(config))));
            text.insert("stage".into(), vec![table(stage)].into());
            // The default sink, and those that the cases name.
            let mut names = vec!["out".to_owned()];
            let named = fixture.case.iter().flat_map(|case| &case.expect).filter_map(|expect| expect.sink.clone());
            names.extend(named.filter(|name| name != "out"));
            names.sort_by_key(|name| name != "out");
            names.dedup();
            let sinks: Vec<_> = names.into_iter().map(|name| table(vec![("topic", name.into())])).collect();
            text.insert("sink".into(), sinks.into());
            Pipeline::parse(file, &text.to_string())
        }
        _ => {
            let help = "write `pipeline = \"FILE.toml\"`, or `plugin = \".\"` with an optional `config`".to_owned();
            Err(vec![Diagnostic::of_file(file, "a fixture names a pipeline or a plugin, one of them", Some(help))])
        }
    }
}
