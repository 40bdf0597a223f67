//! The generations of pipelines that were in force: what they were made of, and how they did. Here is all that it takes to bring one back.
//!
//! `generations/PIPELINE.json` has the last ones, `plugins/DIGEST.wasm` their plugins. What is in force is what the log says: a generation that it does
//! not know was not put in force before a crash, and is taken for none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{At, Diagnostic, Pipeline};
use sluice_env::write_whole;
use sluice_log::{Error, Log};

use crate::checkpoint::{self, cannot};

/// Generations of a pipeline that are kept.
const KEPT: usize = 20;

/// How a generation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is on probation.
    Probation,
    /// It has passed, or had none.
    Good,
    /// It failed where the one before does not, and was taken out.
    Failed,
    /// Somebody took it out.
    RolledBack,
    /// Another came before its probation had ended.
    Replaced,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Probation => "probation",
            Self::Good => "good",
            Self::Failed => "failed",
            Self::RolledBack => "rolled back",
            Self::Replaced => "replaced",
        })
    }
}

/// A definition with its plugins that was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GenerationInfo {
    /// Its number.
    pub number: u64,
    /// When it came in force, ms since the epoch.
    pub time: i64,
    /// How it did.
    pub standing: Standing,
    /// Why it was taken out, if it was.
    pub reason: Option<String>,
    /// SHA-256 of each stage's plugin, in hexadecimal.
    pub plugins: Vec<String>,
    /// The version of each stage's state, as far as it is known.
    #[serde(default)]
    pub state_versions: BTreeMap<String, u32>,
    /// The checkpoint that was made before it brought the state into another shape, if it did.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// The definition's file.
    pub file: PathBuf,
    /// Its text.
    pub definition: String,
}

impl GenerationInfo {
    /// Whether it is made of this.
    pub(crate) fn is_of(&self, pipeline: &Pipeline, digest: &[u8]) -> bool {
        self.definition == pipeline.text && self.plugins == hex(digest)
    }
}

/// The generations of one pipeline, the oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    /// The pipeline's id: one of the same name that was made later is another.
    pipeline: u32,
    generations: Vec<GenerationInfo>,
}

/// Each plugin's digest, in hexadecimal.
pub(crate) fn hex(digest: &[u8]) -> Vec<String> {
    digest.chunks(32).map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}

fn folder(data: &Path) -> PathBuf {
    data.join("generations")
}

fn file(data: &Path, pipeline: &str) -> PathBuf {
    folder(data).join(pipeline).with_added_extension("json")
}

fn plugin_file(data: &Path, digest: &str) -> PathBuf {
    data.join("plugins").join(digest).with_added_extension("wasm")
}

/// The generations of a pipeline that are known, the oldest first; the last is in force.
///
/// # Errors
/// When there is no such pipeline, or the file cannot be read.
pub fn of(log: &Log, pipeline: &str) -> Result<Vec<GenerationInfo>, Error> {
    let info = log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
    let path = file(log.root(), pipeline);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(cannot("read", &path))?,
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| {
        Error::Invalid(format!("{}: {error}; remove it, and only the generations before are forgotten", path.display()))
    })?;
    let mut generations = if kept.pipeline == info.id { kept.generations } else { Vec::new() };
    generations.retain(|generation| generation.number <= info.generation);
    Ok(generations)
}

/// Changes what is known of a pipeline's generations.
pub(crate) fn note(log: &Log, pipeline: &str, change: impl FnOnce(&mut Vec<GenerationInfo>)) -> Result<(), Error> {
    let Some(info) = log.pipeline(pipeline) else { return Ok(()) };
    let mut generations = of(log, pipeline)?;
    let checkpoints = |generations: &[GenerationInfo]| -> BTreeSet<String> {
        generations.iter().filter_map(|generation| generation.checkpoint.clone()).collect()
    };
    let before = checkpoints(&generations);
    change(&mut generations);
    let too_many = trim(&mut generations);
    let unneeded: Vec<_> = before.difference(&checkpoints(&generations)).cloned().collect();
    let kept = Kept { pipeline: info.id, generations };
    let bytes = serde_json::to_vec_pretty(&kept).map_err(|error| Error::Invalid(error.to_string()))?;
    let path = file(log.root(), pipeline);
    write_whole(&path, &bytes).map_err(cannot("write", &path))?;
    for name in unneeded {
        // Somebody may have deleted it.
        if let Err(error) = checkpoint::delete(log.root(), &name) {
            tracing::debug!(%error, name, "a checkpoint is gone");
        }
    }
    if too_many { sweep(log.root()) } else { Ok(()) }
}

/// Forgets the oldest that are too many; whether there were any. What one would go back to stays, however many came since.
fn trim(generations: &mut Vec<GenerationInfo>) -> bool {
    let too_many = generations.len().saturating_sub(KEPT);
    for _ in 0..too_many {
        let good = generations.iter().rposition(|generation| generation.standing == Standing::Good);
        generations.remove(usize::from(good == Some(0)));
    }
    too_many > 0
}

/// Keeps a plugin.
pub(crate) fn keep_plugin(data: &Path, digest: &str, wasm: &[u8]) -> Result<(), Error> {
    let path = plugin_file(data, digest);
    if path.exists() { Ok(()) } else { write_whole(&path, wasm).map_err(cannot("write", &path)) }
}

/// The plugin that was kept of a stage, by its position; `digests` are those of all stages, `help` is for whoever misses it.
pub(crate) fn plugin(
    data: &Path,
    pipeline: &Pipeline,
    at: usize,
    digests: &[String],
    help: Option<String>,
) -> Result<Vec<u8>, Diagnostic> {
    let path = plugin_file(data, digests.get(at).map(String::as_str).unwrap_or_default());
    let missing = |error| pipeline.diagnose(At::Plugin(at), cannot("read", &path)(error).to_string(), help);
    fs::read(&path).map_err(missing)
}

/// Forgets the generations of a pipeline.
pub(crate) fn forget(data: &Path, pipeline: &str) -> Result<(), Error> {
    let path = file(data, pipeline);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot("remove", &path)(error)),
        _ => {}
    }
    sweep(data)
}

/// Removes plugins that no generation needs which is known.
fn sweep(data: &Path) -> Result<(), Error> {
    let mut needed = BTreeSet::new();
    for entry in fs::read_dir(folder(data)).into_iter().flatten().flatten() {
        let Ok(bytes) = fs::read(entry.path()) else { return Ok(()) };
        // What cannot be read may need any of them.
        let Ok(kept) = serde_json::from_slice::<Kept>(&bytes) else { return Ok(()) };
        needed.extend(kept.generations.into_iter().flat_map(|generation| generation.plugins));
    }
    for entry in fs::read_dir(data.join("plugins")).into_iter().flatten().flatten() {
        let path = entry.path();
        let digest = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if !needed.contains(&digest) {
            fs::remove_file(&path).map_err(cannot("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_would_go_back_to_is_kept_however_many_came_since() {
        let of = |number, standing| GenerationInfo {
            number,
            time: 0,
            standing,
            reason: None,
            plugins: Vec::new(),
            state_versions: BTreeMap::new(),
            checkpoint: None,
            file: PathBuf::new(),
            definition: String::new(),
        };
        let mut known = vec![of(1, Standing::Good), of(2, Standing::Good)];
        for number in 3..100 {
            known.push(of(number, Standing::Failed));
            trim(&mut known);
        }
        assert_eq!((known.len(), known[0].number, known[1].number), (KEPT, 2, 81));
    }
}
