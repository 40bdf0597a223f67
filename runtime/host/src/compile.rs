//! Compiles in a process of its own: that is where a hostile module bites, with memory and time that the input's size does not bound.
//!
//! The process is this program again, told to compile and nothing else. It limits itself before it reads a byte of the plugin.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, nice, set_parent_process_death_signal, setrlimit};
use wasmparser::{ElementItems, Parser, Payload};

use crate::code::{Error, is_core_module};
use crate::componentize::componentize;
use crate::host::engine;
use crate::interrupt::{Interruption, checks};
use crate::limits::{Limits, humantime};

/// Where plugins are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits: for plugins that are trusted, and for tests.
    Here,
    /// In a process of its own with limits. This program must call [`compile_if_asked`] before anything else.
    Apart,
}

/// The first argument of a process that compiles; memory in bytes and seconds of processor time follow.
const FLAG: &str = "--compile-a-plugin";
/// How much it gives way to others: a tenth of the processor's time where these want all of it.
const NICENESS: i32 = 10;
/// Compiled code is not larger than this.
const MAX_COMPILED: u64 = 256 << 20;
/// What is said of a plugin that does not compile is not longer than this.
const MAX_TOLD: usize = 64 << 10;
/// Globals of all modules of a plugin: each takes 16 bytes of the host's memory in every instance.
const MAX_GLOBALS: u64 = 100_000;
/// Elements that modules copy to tables, likewise.
const MAX_ELEMENTS: u64 = 1_000_000;

/// Compiles and exits, if this process was started for that.
pub fn compile_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|flag| flag != FLAG) {
        return;
    }
    let mut limit = || arguments.next()?.to_str()?.parse().ok();
    let (memory, seconds) = (limit(), limit());
    let interruption = arguments.next().and_then(|name| Interruption::named(name.to_str()?));
    let result = match (memory, seconds, interruption) {
        (Some(memory), Some(seconds), Some(interruption)) => compile_within(memory, seconds, interruption),
        _ => Err(Error::Host { what: "compile", reason: "not told how much it may use".to_owned() }),
    };
    let mut out = std::io::stdout().lock();
    let (tag, bytes) = encode(result);
    let written = out.write_all(&[tag]).and_then(|()| out.write_all(&bytes)).and_then(|()| out.flush());
    std::process::exit(i32::from(written.is_err()));
}

fn compile_within(memory: u64, seconds: u64, interruption: Interruption) -> Result<Vec<u8>, Error> {
    let failed = |reason: &dyn std::fmt::Display| Error::Host { what: "compile", reason: reason.to_string() };
    let at_most = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    for (resource, most) in [(Resource::As, memory), (Resource::Cpu, seconds), (Resource::Core, 0)] {
        setrlimit(resource, at_most(most)).map_err(|error| failed(&error))?;
    }
    // Pipelines that run go first.
    nice(NICENESS).map_err(|error| failed(&error))?;
    // Nobody waits for it once the node is gone.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    compile_here(&bytes, interruption)
}

/// Compiles in this process: a component, or a core module that is made one.
pub(crate) fn compile_here(bytes: &[u8], interruption: Interruption) -> Result<Vec<u8>, Error> {
    let engine = engine(interruption)?;
    let invalid = |error: &dyn std::fmt::Display| Error::Invalid(format!("{error:#}"));
    let component = if is_core_module(bytes)? { Some(componentize(bytes)?) } else { None };
    let component = component.as_deref().unwrap_or(bytes);
    check_parts(component).map_err(|error| invalid(&error))??;
    let checked = match interruption {
        Interruption::Page => Some(checks::add(component).map_err(Error::Invalid)?),
        Interruption::Epochs | Interruption::Never => None,
    };
    let component = checked.as_deref().unwrap_or(component);
    engine.precompile_component(component).map_err(|error| invalid(&error))
}

/// Refuses what would take memory of the host that no limit of an instance counts.
fn check_parts(component: &[u8]) -> wasmparser::Result<Result<(), Error>> {
    let (mut globals, mut elements) = (0_u64, 0_u64);
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::GlobalSection(section) => globals += u64::from(section.count()),
            Payload::ElementSection(section) => {
                for element in section {
                    elements += match element?.items {
                        ElementItems::Functions(items) => u64::from(items.count()),
                        ElementItems::Expressions(_, items) => u64::from(items.count()),
                    };
                }
            }
            _ => {}
        }
        if globals > MAX_GLOBALS || elements > MAX_ELEMENTS {
            let what = format!("more than {MAX_GLOBALS} globals or {MAX_ELEMENTS} elements, which cannot be changed");
            return Ok(Err(Error::Compile(what)));
        }
    }
    Ok(Ok(()))
}

/// Compiles in a process of its own.
pub(crate) fn compile_apart(bytes: &[u8], limits: &Limits, interruption: Interruption) -> Result<Vec<u8>, Error> {
    let failed =
        |error: std::io::Error| Error::Host { what: "start a process that compiles", reason: error.to_string() };
    // The limit of processor time knows whole seconds only.
    let time = Duration::from_secs(limits.compile_time.as_secs().max(1));
    // This very program, also when its file was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .args([FLAG, &limits.compile_memory.to_string(), &time.as_secs().to_string(), interruption.name()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    // Its limit of processor time stops one that works; this one that does not.
    let patience = time.saturating_mul(4) + Duration::from_secs(10);
    let watch = Watch::over(&child, patience).map_err(failed)?;
    let answer = converse(&mut child, bytes);
    let status = child.wait();
    let overdue = watch.end();
    let (status, (tag, told)) = (status.map_err(failed)?, answer.map_err(failed)?);
    match tag {
        _ if overdue => Err(Error::Compile(format!("compiling it does not end, after {}", humantime(patience)))),
        Some(tag) if status.code() == Some(0) => decode(tag, told),
        Some(_) if told.len() as u64 >= MAX_COMPILED => {
            let most = MAX_COMPILED >> 20;
            Err(Error::Compile(format!("it compiles to more than {most} MiB of code, which cannot be changed")))
        }
        _ => Err(died(status, time, limits.compile_memory)),
    }
}

/// Kills a process that takes too long.
struct Watch {
    done: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watch {
    fn over(child: &Child, patience: Duration) -> std::io::Result<Self> {
        let (pid, (done, ended)) = (Pid::from_child(child), channel());
        let thread = sluice_env::spawn("sluice-compile", move || {
            let overdue = ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            overdue && kill_process(pid, Signal::KILL).is_ok()
        })?;
        Ok(Self { done, thread })
    }

    /// Whether it had to be killed.
    fn end(self) -> bool {
        drop(self.done);
        self.thread.join().unwrap_or(false)
    }
}

/// Gives it the plugin, and takes what it says until it ends.
fn converse(child: &mut Child, bytes: &[u8]) -> std::io::Result<(Option<u8>, Vec<u8>)> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut tag, mut answer) = (None, Vec::new());
    // It reads everything before it says anything; one that dies meanwhile does not take it, and its status says why.
    let _ = stdin.map(|mut stdin| stdin.write_all(bytes));
    if let Some(mut stdout) = stdout {
        let mut first = [0];
        if stdout.read(&mut first)? == 1 {
            tag = Some(first[0]);
            stdout.take(MAX_COMPILED).read_to_end(&mut answer)?;
        }
    }
    Ok((tag, answer))
}

/// Why it gave no answer.
fn died(status: ExitStatus, time: Duration, memory: u64) -> Error {
    let (time, memory) = (humantime(time), memory >> 20);
    let reason = match status.signal().and_then(Signal::from_named_raw) {
        // The hard limit kills where the soft one was not told apart.
        Some(Signal::XCPU | Signal::KILL) => {
            format!("compiling it takes more than {time} of processor time; `limits.compile-time` changes that")
        }
        Some(Signal::ABORT | Signal::BUS) => {
            format!(
                "compiling it takes more than {memory} MiB of memory (`limits.compile-memory` changes that), or it is nested too deeply"
            )
        }
        _ => format!("the compiler died of it ({status}); simplify the plugin"),
    };
    Error::Compile(reason)
}

/// What came of it as a tag and bytes.
fn encode(result: Result<Vec<u8>, Error>) -> (u8, Vec<u8>) {
    match result {
        Ok(code) => (0, code),
        Err(Error::Invalid(reason)) => (1, reason.into_bytes()),
        Err(Error::Module { reason }) => (2, reason.into_bytes()),
        Err(Error::World { exports }) => (3, exports.join("\n").into_bytes()),
        Err(Error::NotWasm) => (4, Vec::new()),
        Err(Error::Compile(reason)) => (6, reason.into_bytes()),
        Err(error) => (5, error.to_string().into_bytes()),
    }
}

fn decode(tag: u8, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if tag == 0 {
        return Ok(bytes);
    }
    let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TOLD)]).into_owned();
    Err(match tag {
        1 => Error::Invalid(text()),
        2 => Error::Module { reason: text() },
        3 => Error::World { exports: text().lines().map(str::to_owned).collect() },
        4 => Error::NotWasm,
        6 => Error::Compile(text()),
        _ => Error::Host { what: "compile", reason: text() },
    })
}
