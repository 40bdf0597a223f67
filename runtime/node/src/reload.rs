//! How newer definitions and plugins take pipelines over, while they run; and how one that fails is taken out again.
//!
//! In steps: read and check it, compile and try its plugins aside, run their fixtures, replay history through it where that is wanted; then one commit says
//! that it is in force, and each lane goes over to it between two calls. For a while it is on probation. **Until the commit nothing of the
//! pipeline that runs is touched**, and whatever is wrong is told in the status.

mod candidate;
mod rollback;
mod versions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{Diagnostic, Pipeline, check_together};
use sluice_engine::{Probation, Verdict};
use sluice_log::Error;

pub(crate) use self::candidate::{Candidate, check_state};
pub use self::rollback::roll_back_in;
use crate::definitions;
use crate::node::{Node, NodeError};
use crate::watch::Watch;

/// How often files are looked at. What has changed is taken when it is as it was the time before: then nobody is writing it.
const EVERY: Duration = Duration::from_millis(150);

/// Why what stands in a file is not in force, and how a new generation does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ReloadStatus {
    /// Why the newest definition or plugin is not in force.
    pub problem: Option<String>,
    /// The probation of the generation in force.
    pub probation: Option<ProbationStatus>,
}

/// How far a probation has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProbationStatus {
    /// Batches dealt with.
    pub batches: u64,
    /// Batches after which it is passed.
    pub of: u64,
    /// Whether nothing is committed meanwhile.
    pub holds_outputs: bool,
}

/// What is known of a pipeline's reloads.
#[derive(Default)]
struct Noted {
    problem: Option<String>,
    /// What was refused last, or taken out: text and digest. It is not tried again.
    refused: Option<(String, Vec<u8>)>,
    probation: Option<OnProbation>,
}

impl Noted {
    fn all_is_well(&mut self) {
        (self.problem, self.refused) = (None, None);
    }
}

struct OnProbation {
    probation: Arc<Probation>,
    generation: u64,
    /// When it has passed if it has dealt with anything, of the clock's elapsed time.
    until: Duration,
}

/// Watches files and probations.
#[derive(Default)]
pub(crate) struct Reloads {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    noted: Mutex<BTreeMap<String, Noted>>,
    /// Problems of files that no running pipeline stands in, by file.
    strays: Mutex<BTreeMap<PathBuf, String>>,
    signal: Mutex<Signal>,
    changed: Condvar,
}

#[derive(Default)]
struct Signal {
    /// Somebody watches: generations can be on probation.
    watches: bool,
    ends: bool,
    /// There is a verdict.
    poked: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reloads {
    /// Whether there is somebody to act on a probation.
    pub(crate) fn watches(&self) -> bool {
        lock(&self.shared.signal).watches
    }

    /// A probation that calls for attention when it ends.
    fn probation(&self, batches: u32, hold_outputs: bool) -> Arc<Probation> {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(Probation::new(u64::from(batches), hold_outputs, move || {
            if let Some(shared) = shared.upgrade() {
                lock(&shared.signal).poked = true;
                shared.changed.notify_all();
            }
        }))
    }

    fn note<T>(&self, pipeline: &str, change: impl FnOnce(&mut Noted) -> T) -> T {
        change(lock(&self.shared.noted).entry(pipeline.to_owned()).or_default())
    }

    /// How reloads of a pipeline stand, if there is anything to tell.
    pub(crate) fn status(&self, pipeline: &str) -> Option<ReloadStatus> {
        let noted = lock(&self.shared.noted);
        let Noted { problem, probation, .. } = noted.get(pipeline)?;
        let probation = probation.as_ref().map(|OnProbation { probation, .. }| ProbationStatus {
            batches: probation.dealt(),
            of: probation.batches(),
            holds_outputs: probation.holds_outputs(),
        });
        let status = ReloadStatus { problem: problem.clone(), probation };
        (status != ReloadStatus::default()).then_some(status)
    }

    /// What is wrong with files that are of no running pipeline.
    pub(crate) fn strays(&self) -> Vec<String> {
        lock(&self.shared.strays).values().cloned().collect()
    }

    pub(crate) fn forget(&self, pipeline: &str) {
        lock(&self.shared.noted).remove(pipeline);
    }

    pub(crate) fn end(&self) {
        lock(&self.shared.signal).ends = true;
        self.shared.changed.notify_all();
        let thread = lock(&self.thread).take();
        // The last owner of the node may be that very thread.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Node {
    /// Watches these files and folders with definitions, and the plugins that these name: what is newer takes over, as the definitions' `[reload]` says. To
    /// be called once, before the pipelines are started.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(self: &Arc<Self>, paths: &[PathBuf]) -> Result<(), NodeError> {
        lock(&self.reloads.shared.signal).watches = true;
        let (node, shared) = (Arc::downgrade(self), self.reloads.shared.clone());
        let (mut watch, paths) = (Watch::default(), paths.to_vec());
        let run = move || {
            while let Some(node) = next(&shared, &node) {
                node.act_on_probations();
                // A folder that is not there is about to come back, or nobody can tell.
                let Some(files) = listed(&paths) else { continue };
                if watch.has_changed(files.iter().cloned().chain(node.watched_plugins())) {
                    node.look_at_files(&files);
                }
            }
        };
        let thread = sluice_env::spawn("sluice-reload", run);
        let thread = thread.map_err(|error| NodeError::Failed(format!("cannot start a thread: {error}")))?;
        *lock(&self.reloads.thread) = Some(thread);
        Ok(())
    }

    /// The plugins of pipelines that run, as far as they are watched.
    fn watched_plugins(&self) -> Vec<PathBuf> {
        let running = self.running();
        let watched = running.iter().map(|running| &running.definition).filter(|pipeline| pipeline.reload.watch);
        watched.flat_map(|pipeline| &pipeline.stages).map(|stage| definitions::wasm_file(&stage.plugin)).collect()
    }

    /// Goes through all definitions, and takes over what is new.
    fn look_at_files(&self, files: &[PathBuf]) {
        let _operating = self.operating();
        let in_force: Vec<Pipeline> = self.running().iter().map(|running| running.definition.clone()).collect();
        let (mut wanted, mut strays, mut kept) = (Vec::new(), BTreeMap::new(), Vec::new());
        for file in files {
            let own = in_force.iter().find(|pipeline| pipeline.file == *file);
            match definitions::read_file(file) {
                Ok(pipeline) if own.is_none_or(|own| own.reload.watch) => wanted.push(pipeline),
                Ok(_) => {
                    kept.extend(own.map(|own| own.name.clone()));
                    wanted.extend(own.cloned());
                }
                Err(found) => match own {
                    Some(own) => {
                        self.refuse(&own.name, None, NodeError::Refused(found));
                        kept.push(own.name.clone());
                        wanted.push(own.clone());
                    }
                    None => drop(strays.insert(file.clone(), told(&found))),
                },
            }
        }
        if let Err(found) = check_together(&wanted) {
            // Together they do not do: those that are new are to blame.
            for pipeline in wanted.iter().filter(|pipeline| !in_force.contains(pipeline)) {
                if in_force.iter().any(|own| own.name == pipeline.name) {
                    self.refuse(&pipeline.name, None, NodeError::Refused(found.clone()));
                } else {
                    strays.insert(pipeline.file.clone(), told(&found));
                }
            }
            self.note_strays(strays);
            return;
        }
        for pipeline in &in_force {
            if !wanted.iter().any(|other| other.name == pipeline.name) {
                tracing::info!(pipeline = pipeline.name, file = %pipeline.file.display(), "no file holds it any more: it is stopped; its cursors stay");
                if let Err(error) = self.stop(&pipeline.name) {
                    tracing::warn!(%error, pipeline = pipeline.name, "cannot be stopped");
                }
            }
        }
        for pipeline in wanted.iter().filter(|pipeline| !kept.contains(&pipeline.name)) {
            if in_force.iter().any(|own| own.name == pipeline.name) {
                // What is wrong is noted there.
                drop(self.take_over(pipeline, &wanted, false));
            } else if let Err(error) = self.start_among(std::slice::from_ref(pipeline), &wanted) {
                strays.insert(pipeline.file.clone(), told_error(&error));
            } else {
                tracing::info!(pipeline = pipeline.name, file = %pipeline.file.display(), "runs");
            }
        }
        self.note_strays(strays);
    }

    fn note_strays(&self, strays: BTreeMap<PathBuf, String>) {
        let mut noted = lock(&self.reloads.shared.strays);
        for (file, problem) in strays.iter().filter(|(file, problem)| noted.get(*file) != Some(problem)) {
            tracing::error!(file = %file.display(), "{problem}");
        }
        *noted = strays;
    }

    /// Notes why something is not in force, and that it is not to be tried again as it is.
    fn refuse(&self, pipeline: &str, what: Option<(String, Vec<u8>)>, error: NodeError) -> NodeError {
        let problem = told_error(&error);
        let is_new = self.reloads.note(pipeline, |noted| {
            let is_new = noted.problem.as_ref() != Some(&problem);
            if what.is_some() {
                noted.refused = what;
            }
            noted.problem = Some(problem.clone());
            is_new
        });
        if is_new {
            tracing::error!(pipeline, "a reload is refused, what runs goes on: {problem}");
        }
        error
    }

    /// Looks at a pipeline's file and plugins now, whether they are watched or not, and takes over what is new; also what was refused before. The number of the
    /// generation in force then.
    ///
    /// # Errors
    /// When the pipeline does not run, or what stands in its file is refused: then what runs goes on.
    pub fn reload(&self, pipeline: &str) -> Result<u64, NodeError> {
        let _operating = self.operating();
        let mut all: Vec<Pipeline> = self.running().iter().map(|running| running.definition.clone()).collect();
        let Some(own) = all.iter_mut().find(|own| own.name == pipeline) else {
            self.log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
            return Err(Error::Invalid(format!(
                "pipeline {pipeline} does not run: `sluice run` takes what stands in its file"
            ))
            .into());
        };
        let read = definitions::read_file(&own.file).map_err(NodeError::Refused);
        let new = read.map_err(|error| self.refuse(pipeline, None, error))?;
        if new.name != pipeline {
            let what = format!("{} holds pipeline {} now", own.file.display(), new.name);
            return Err(self.refuse(pipeline, None, Error::Invalid(what).into()));
        }
        own.clone_from(&new);
        check_together(&all).map_err(|found| self.refuse(pipeline, None, NodeError::Refused(found)))?;
        self.take_over(&new, &all, true)
    }

    /// Acts on probations that have ended, or are to end by now.
    fn act_on_probations(&self) {
        if !lock(&self.reloads.shared.noted).values().any(|noted| noted.probation.is_some()) {
            return;
        }
        // What is looked at stays as it is while it is acted on.
        let _operating = self.operating();
        let now = self.clock.elapsed();
        let on_probation: Vec<_> = lock(&self.reloads.shared.noted)
            .iter()
            .filter_map(|(name, noted)| {
                let OnProbation { probation, generation, until } = noted.probation.as_ref()?;
                Some((name.clone(), probation.clone(), *generation, *until))
            })
            .collect();
        for (pipeline, probation, generation, until) in on_probation {
            if now >= until && probation.dealt() > 0 {
                probation.end(Verdict::Passed);
            }
            match probation.verdict() {
                Verdict::Open => {}
                Verdict::Passed => self.pass(&pipeline, generation),
                Verdict::Failed(reason) => self.fail(&pipeline, generation, &reason),
            }
        }
    }
}

/// Waits until files are to be looked at, or there is a verdict. `None` when the node ends.
fn next(shared: &Shared, node: &Weak<Node>) -> Option<Arc<Node>> {
    let mut signal = lock(&shared.signal);
    if !signal.ends && !signal.poked {
        signal = shared.changed.wait_timeout(signal, EVERY).unwrap_or_else(PoisonError::into_inner).0;
    }
    signal.poked = false;
    if signal.ends { None } else { node.upgrade() }
}

/// The files with definitions that these paths mean; `None` while one of these is not there.
fn listed(paths: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        match definitions::files(std::slice::from_ref(path)) {
            // A folder may have none left; but it has to be there to say so.
            Err(_) if std::fs::read_dir(path).is_ok() => {}
            Err(_) => return None,
            Ok(_) if !path.exists() => return None,
            Ok(found) => files.extend(found),
        }
    }
    Some(files)
}

/// What is wrong, as the status tells it.
fn told(found: &[Diagnostic]) -> String {
    found.iter().map(|diagnostic| diagnostic.render(false)).collect::<Vec<_>>().join("\n\n")
}

fn told_error(error: &NodeError) -> String {
    match error {
        NodeError::Refused(found) => told(found),
        error => error.to_string(),
    }
}
