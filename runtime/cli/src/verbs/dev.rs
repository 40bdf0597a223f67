//! `sluice dev`: the loop in which a plugin is written. It is a client of a node, which it starts where none runs.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sluice_config::Pipeline;
use sluice_node::Watch;
use sluice_node::definitions::{self, tidy};

use crate::access::Access;
use crate::args::{Dev, Global};
use crate::exit::Failure;
use crate::languages;
use crate::show;

/// How often the source is looked at, and what has come out.
const EVERY: Duration = Duration::from_millis(100);
/// How long a node may take to start: it compiles plugins.
const PATIENCE: Duration = Duration::from_secs(120);
/// Events that are shown after each change.
const SHOWN: u32 = 10;
/// Characters of each.
const CHARS: usize = 200;
/// Files of a plugin's source that are looked at, at most.
const MOST_FILES: usize = 10_000;

pub(crate) fn dev(global: &Global, verb: &Dev) -> Result<ExitCode, Failure> {
    let pipelines = definitions::read(&verb.paths).map_err(Failure::refused)?;
    let mut sources = Sources::of(&pipelines)?;
    for folder in sources.folders() {
        sources.build(&folder)?;
    }
    let mut node = Started(None);
    if !sluice_api::is_answering(&global.data) {
        node = start(global, &verb.paths)?;
    }
    let mut outputs = Outputs::of(&pipelines);
    outputs.skip(global)?;
    say("saved changes are taken over; Ctrl-C ends it")?;
    let stopped = stopped()?;
    while !stopped.load(Ordering::SeqCst) {
        if let Some(status) = node.0.as_mut().and_then(|node| node.try_wait().ok().flatten()) {
            return Err(Failure::failed(format!("the node has ended ({status}); what it said is above")));
        }
        for folder in sources.changed() {
            if let Err(failure) = take_over(global, &mut sources, &folder, &mut outputs) {
                failure.report(global.json);
                say("what runs goes on; mend it, and save")?;
            }
        }
        outputs.show(global)?;
        pause();
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds a plugin whose source has changed, and has its pipelines go over to it.
fn take_over(global: &Global, sources: &mut Sources, folder: &Path, outputs: &mut Outputs) -> Result<(), Failure> {
    let before = Instant::now();
    say(&format!("{} has changed", tidy(folder).display()))?;
    sources.build(folder)?;
    let built = before.elapsed();
    // What comes out from here on is new, but for what is in hand.
    outputs.skip(global)?;
    let mut access = Access::open_existing(global)?;
    for pipeline in sources.pipelines(folder) {
        let generation = access.reload(&pipeline)?;
        let (built, all) = (built.as_secs_f64(), before.elapsed().as_secs_f64());
        say(&format!(
            "{pipeline}: generation {generation} is in force, {all:.1} s after it was saved ({built:.1} s to build)"
        ))?;
    }
    Ok(())
}

/// Plugins' folders with their source, and the pipelines that use them.
struct Sources {
    folders: BTreeMap<PathBuf, (Watch, Vec<String>)>,
}

impl Sources {
    fn of(pipelines: &[Pipeline]) -> Result<Self, Failure> {
        let mut folders: BTreeMap<PathBuf, (Watch, Vec<String>)> = BTreeMap::new();
        for pipeline in pipelines {
            for stage in pipeline.stages.iter().filter(|stage| languages::is_source(&stage.plugin)) {
                let (_, names) = folders.entry(stage.plugin.clone()).or_default();
                names.push(pipeline.name.clone());
                names.dedup();
            }
        }
        if folders.is_empty() {
            let failure = Failure::usage("no plugin of these pipelines is a folder with source");
            return Err(failure.help("name a plugin's folder in the definition, in place of its .wasm file: `plugin = \"../plugins/NAME\"`; `sluice run` takes over .wasm files that change"));
        }
        Ok(Self { folders })
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.folders.keys().cloned().collect()
    }

    fn pipelines(&self, folder: &Path) -> Vec<String> {
        self.folders.get(folder).map(|(_, names)| names.clone()).unwrap_or_default()
    }

    /// Builds a plugin; what it looks like then is what was built.
    fn build(&mut self, folder: &Path) -> Result<(), Failure> {
        let files = source_files(folder);
        if let Some((watch, _)) = self.folders.get_mut(folder) {
            watch.has_changed(files.clone());
            watch.has_changed(files);
        }
        languages::build(folder, false).map(drop)
    }

    /// Folders whose files are others than when they were built.
    fn changed(&mut self) -> Vec<PathBuf> {
        let changed = |(folder, (watch, _)): (&PathBuf, &mut (Watch, Vec<String>))| {
            watch.has_changed(source_files(folder)).then(|| folder.clone())
        };
        self.folders.iter_mut().filter_map(changed).collect()
    }
}

/// The files that a plugin is built from.
fn source_files(folder: &Path) -> Vec<PathBuf> {
    const NOT_SOURCE: [&str; 3] = ["target", "build", "node_modules"];
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if name.starts_with('.') || name == "Cargo.lock" || (is_folder && NOT_SOURCE.contains(&name.as_str())) {
                continue;
            }
            if is_folder { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
        files.truncate(MOST_FILES);
    }
    files
}

/// What comes out of pipelines, and of dead letters.
struct Outputs {
    topics: Vec<String>,
    /// Where each partition goes on.
    next: BTreeMap<(String, u32), u64>,
    left: u32,
}

impl Outputs {
    fn of(pipelines: &[Pipeline]) -> Self {
        let mut topics: Vec<_> =
            pipelines.iter().flat_map(Pipeline::written).map(|(_, topic)| topic.to_owned()).collect();
        topics.sort();
        topics.dedup();
        Self { topics, next: BTreeMap::new(), left: SHOWN }
    }

    /// Leaves out what is there by now.
    fn skip(&mut self, global: &Global) -> Result<(), Failure> {
        let mut access = Access::open_existing(global)?;
        for topic in &self.topics {
            for partition in access.describe(topic)?.partitions {
                self.next.insert((topic.clone(), partition.partition), partition.high_watermark);
            }
        }
        self.left = SHOWN;
        Ok(())
    }

    fn show(&mut self, global: &Global) -> Result<(), Failure> {
        const BYTES: usize = 64 << 10;
        if self.left == 0 {
            return Ok(());
        }
        let mut access = Access::open_existing(global)?;
        let mut out = String::new();
        for ((topic, partition), next) in &mut self.next {
            let batch = access.read(topic, *partition, *next, BYTES, 0)?;
            for (offset, event) in (batch.base_offset..).zip(batch.region().events().flatten()) {
                if self.left == 0 {
                    break;
                }
                self.left -= 1;
                *next = offset + 1;
                let text = |bytes: &[u8]| sluice_node::brief(&String::from_utf8_lossy(bytes), CHARS);
                let key = event.key().map(|key| format!("{}  ", text(key))).unwrap_or_default();
                out.push_str(&format!("  {topic}/{partition}:{offset}  {key}{}\n", text(event.value())));
            }
        }
        if self.left == 0 {
            out.push_str("  … more is not shown before the next change\n");
        }
        show::print(&out)
    }
}

/// A node that is stopped with this program.
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(node) = &mut self.0 {
            let pid = rustix::process::Pid::from_child(node);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = node.wait();
        }
    }
}

/// Starts a node in a process of its own, and waits until it answers.
fn start(global: &Global, paths: &[PathBuf]) -> Result<Started, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data").arg(&global.data).arg("run").args(paths).stdin(Stdio::null()).stdout(Stdio::null());
    // A Ctrl-C is for this program, which stops the node in its turn: two signals would stop it without draining.
    command.process_group(0);
    let mut node = Started(Some(command.spawn()?));
    let until = Instant::now() + PATIENCE;
    while !sluice_api::is_answering(&global.data) {
        if let Some(status) = node.0.as_mut().and_then(|node| node.try_wait().ok().flatten()) {
            return Err(Failure::failed(format!("the node does not start ({status}); why is above")));
        }
        if Instant::now() > until {
            return Err(Failure::failed(format!("the node does not answer within {PATIENCE:?}")));
        }
        pause();
    }
    Ok(node)
}

/// Whether somebody has pressed Ctrl-C, or asked this process to end.
fn stopped() -> Result<Arc<AtomicBool>, Failure> {
    let stopped = Arc::new(AtomicBool::new(false));
    let told = stopped.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    sluice_env::spawn("sluice-signals", move || {
        runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
            let terminated = async {
                match &mut terminate {
                    Some(signal) => drop(signal.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = terminated => {}
            }
            told.store(true, Ordering::SeqCst);
        });
    })?;
    Ok(stopped)
}

/// Waits a little: files tell nobody that they change.
fn pause() {
    let (waits, never) = channel::<()>();
    let _ = never.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout);
    drop(waits);
}

fn say(what: &str) -> Result<(), Failure> {
    show::print(&format!("dev: {what}\n"))?;
    Ok(std::io::stdout().flush()?)
}
