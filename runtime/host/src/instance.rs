//! One instance: called, watched, stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_engine::{CallError, CallErrorKind, Consumer, legible};
use sluice_env::Clock;
use sluice_event::{Source, TIMER_IN_HAND, View};
use sluice_state::{Entries, StageState};
use wasmtime::component::{ComponentType, Func, InstancePre, Lift, Linker, WasmList};
use wasmtime::{Engine, Store, StoreContextMut, Trap, WasmBacktrace};

use crate::contract::interface;
use crate::host::Host;
use crate::interrupt::page::pages_of;
use crate::interrupt::watch::{Ticker, Watch};
use crate::limits::{Limiter, Limits, MAX_HANDLES, MAX_PARTS, OverLimit, STACK, humantime};
use crate::state::{self, Access, Entry};
use crate::typed;
use crate::wasi::Nothing;

/// Functions of a guest's stack that are told of, innermost first.
const MAX_FRAMES: usize = 16;
/// Bytes of a function's name that are told.
const MAX_NAME: usize = 512;

/// Bytes that are kept of what a call prints, and of one line of it.
const MAX_PRINTED: usize = 16 << 10;

/// What a line costs besides its text: level, time and name stand in the log too.
const LINE_OVERHEAD: u64 = 128;

/// How much a stage has written to the log in this second, all its instances together.
#[derive(Debug, Default)]
pub(crate) struct LogBudget {
    second: Duration,
    bytes: u64,
    dropped: u64,
}

impl LogBudget {
    /// Whether a line of this length may be written now.
    fn allows(&mut self, plugin: &str, limit: u64, now: Duration, bytes: usize) -> bool {
        if now.saturating_sub(self.second) >= Duration::from_secs(1) {
            if self.dropped > 0 {
                let lines = self.dropped;
                tracing::warn!(
                    plugin,
                    lines,
                    "lines over {limit} bytes a second were left out; `limits.log-bytes` changes that"
                );
            }
            *self = Self { second: now, ..Self::default() };
        }
        self.bytes += bytes as u64 + LINE_OVERHEAD;
        let allowed = self.bytes <= limit;
        self.dropped += u64::from(!allowed);
        allowed
    }
}

/// The host's side of an instance.
pub(crate) struct Data {
    host: Arc<Host>,
    watch: Arc<Watch>,
    pub(crate) limiter: Limiter,
    pub(crate) plugin: Arc<str>,
    pub(crate) clock: Arc<dyn Clock>,
    log_budget: Arc<Mutex<LogBudget>>,
    log_bytes: u64,
    /// Text of the panic that is about to end the instance.
    panic: Option<String>,
    /// What was printed in the call in hand, as far as it is kept; and what is not a whole line yet.
    printed: String,
    line: Vec<u8>,
    /// The guest's four bytes that say which event is in hand.
    progress: Option<WasmList<u8>>,
    /// The event in hand, as the guest has said.
    in_hand: Option<u32>,
    /// Its state, where it is granted any.
    pub(crate) access: Option<Access>,
    pub(crate) wasi: Nothing,
}

impl Data {
    fn log(&self, level: Level, message: &str) {
        if self.may_log(message.len()) {
            // On one line, so that a guest cannot write what looks like a line of the node's.
            let line = legible(message).replace('\n', "\\n");
            write_line(level, &self.plugin, &line);
            self.host.on_line.get().into_iter().for_each(|told| told(&self.plugin, level.name(), &line));
        }
    }

    /// Takes in what is printed: lines go to the log, and the first of it is the reason should the call trap.
    pub(crate) fn print(&mut self, text: &[u8]) {
        let room = MAX_PRINTED.saturating_sub(self.printed.len());
        self.printed.push_str(&String::from_utf8_lossy(&text[..text.len().min(room)]));
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&part[..part.len().min(MAX_PRINTED.saturating_sub(self.line.len()))]);
            if part.ends_with(b"\n") || self.line.len() >= MAX_PRINTED {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                if !line.trim_end().is_empty() {
                    self.log(Level::Info, line.trim_end());
                }
            }
        }
    }

    /// Whether the plugin may write a line of this length now.
    fn may_log(&self, bytes: usize) -> bool {
        let mut budget = self.log_budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.allows(&self.plugin, self.log_bytes, self.clock.elapsed(), bytes)
    }
}

#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "lifted from what guests say, never constructed here")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What every plugin may import. The signatures are those of `guest-sdk/wit`; wasmtime checks them when it links.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Data>> {
    let mut linker = Linker::new(engine);
    let mut log = linker.instance(&interface("log"))?;
    log.func_wrap("write", |store: StoreContextMut<'_, Data>, (level, message): (Level, String)| {
        store.data().log(level, &message);
        Ok(())
    })?;
    log.func_wrap("print", |mut store: StoreContextMut<'_, Data>, (text,): (Vec<u8>,)| {
        store.data_mut().print(&text);
        Ok(())
    })?;
    log.func_wrap("panicked", |mut store: StoreContextMut<'_, Data>, (message,): (String,)| {
        store.data_mut().panic = Some(legible(&message));
        Ok(())
    })?;
    let mut progress = linker.instance(&interface("progress"))?;
    progress.func_wrap("watch", |mut store: StoreContextMut<'_, Data>, (cell,): (WasmList<u8>,)| {
        // Kept beyond the call, which the contract allows: the guest promises that the bytes stay where they are, and if
        // it lies the host reads four other bytes of the guest's own memory.
        store.data_mut().progress = (cell.len() == 4).then_some(cell);
        Ok(())
    })?;
    progress.func_wrap("at", |mut store: StoreContextMut<'_, Data>, (of,): (typed::Origin,)| {
        let data = store.data_mut();
        let (source, index) = of.flat();
        data.in_hand = Some(if source == Source::Timer { index | TIMER_IN_HAND } else { index });
        data.access.iter_mut().for_each(|access| access.at(source, index));
        Ok(())
    })?;
    state::link(&mut linker)?;
    Ok(linker)
}

fn write_line(level: Level, plugin: &str, message: &str) {
    match level {
        Level::Trace => tracing::trace!(target: "plugin", plugin, "{message}"),
        Level::Debug => tracing::debug!(target: "plugin", plugin, "{message}"),
        Level::Info => tracing::info!(target: "plugin", plugin, "{message}"),
        Level::Warn => tracing::warn!(target: "plugin", plugin, "{message}"),
        Level::Error => tracing::error!(target: "plugin", plugin, "{message}"),
    }
}

/// An instance that can be called until it fails once.
pub(crate) struct Instance {
    store: Store<Data>,
    exports: Exports,
    limits: Limits,
    /// Bytes of memory it had when it was made.
    at_first: usize,
}

/// What a guest exports.
#[derive(Clone, Copy)]
struct Exports {
    process: Process,
    /// The version of its state.
    version: u32,
    migrate: Option<Func>,
}

/// The guest's `process`, of one world or the other.
#[derive(Clone, Copy)]
enum Process {
    Flat(Func),
    Typed(Func),
}

type Flat<'a> = (&'a [u8], &'a [u8]);
type Migrate<'a> = (u32, &'a [Entry]);
type Migrated = (Result<Vec<Entry>, String>,);

impl Instance {
    /// Instantiates a component and calls its `init`. The guest runs already while it is instantiated, so it is watched.
    pub(crate) fn new(
        host: &Arc<Host>,
        code: &InstancePre<Data>,
        plugin: &Arc<str>,
        log_budget: &Arc<Mutex<LogBudget>>,
        limits: Limits,
        config: &str,
        state: Option<StageState>,
    ) -> Result<Self, CallError> {
        let watch = host.ticker.watch();
        let data = Data {
            host: host.clone(),
            watch: watch.clone(),
            limiter: Limiter::new(&limits),
            plugin: plugin.clone(),
            clock: host.clock.clone(),
            log_budget: log_budget.clone(),
            log_bytes: limits.log_bytes,
            panic: None,
            printed: String::new(),
            line: Vec::new(),
            progress: None,
            in_hand: None,
            access: state.map(|state| Access::new(state, limits.output_bytes)),
            wasi: Nothing::default(),
        };
        let mut store = Store::new(&host.engine, data);
        store.limiter(|data| &mut data.limiter);
        store.set_max_component_handles(MAX_HANDLES);
        // Bounds what the host lifts for the guest: results, and arguments of imports.
        store.set_hostcall_fuel(limits.output_bytes);
        store.set_epoch_deadline(Ticker::ticks(limits.call_timeout));
        let running = watch.enter(limits.call_timeout);
        let made = pages_of(&watch, || Self::make(&mut store, code, config));
        drop(running);
        match made {
            Ok(Ok(exports)) => {
                let at_first = store.data().limiter.memory();
                Ok(Self { store, exports, limits, at_first })
            }
            Ok(Err(refused)) => {
                Err(cannot_instantiate(format!("init refused the configuration: {}", legible(&refused))))
            }
            Err(error) => Err(cannot_instantiate(explain(&mut store, &error, &limits).message)),
        }
    }

    fn make(
        store: &mut Store<Data>,
        code: &InstancePre<Data>,
        config: &str,
    ) -> wasmtime::Result<Result<Exports, String>> {
        let instance = code.instantiate(&mut *store)?;
        let mut function = |interface_name: &str, name: &str| {
            let outer = instance.get_export_index(&mut *store, None, &interface(interface_name))?;
            let inner = instance.get_export_index(&mut *store, Some(&outer), name)?;
            instance.get_func(&mut *store, inner)
        };
        let init = function("lifecycle", "init");
        let (version, migrate) = (function("versioned-state", "version"), function("versioned-state", "migrate"));
        let process = match (function("batch", "process"), function("handler", "process")) {
            (Some(process), _) => {
                process.typed::<Flat<'_>, (Vec<u8>,)>(&*store).map_err(|error| other_signature("process", &error))?;
                Process::Flat(process)
            }
            (None, Some(process)) => {
                let typed = process.typed::<typed::Parameters<'_>, (typed::Outcome,)>(&*store);
                typed.map_err(|error| other_signature("process", &error))?;
                Process::Typed(process)
            }
            (None, None) => return Err(wasmtime::format_err!("the component exports no `process`")),
        };
        if let Some(migrate) = migrate {
            migrate.typed::<Migrate<'_>, Migrated>(&*store).map_err(|error| other_signature("migrate", &error))?;
        }
        let version = match version {
            Some(version) => {
                let version = version.typed::<(), (u32,)>(&*store);
                version.map_err(|error| other_signature("version", &error))?.call(&mut *store, ())?.0
            }
            None => 0,
        };
        // First of all: it may look at its state when it is configured.
        store.data_mut().access.iter_mut().for_each(|access| access.set_version(version));
        let exports = Exports { process, version, migrate };
        match init {
            Some(init) => {
                let init = init.typed::<(&str,), (Result<(), String>,)>(&*store);
                let init = init.map_err(|error| other_signature("init", &error))?;
                Ok(init.call(&mut *store, (config,))?.0.map(|()| exports))
            }
            None if config == "{}" => Ok(Ok(exports)),
            None => Ok(Err("the plugin takes none".to_owned())),
        }
    }

    /// Calls the guest, which is stopped when it has taken too long.
    fn watched<T>(&mut self, call: impl FnOnce(&mut Self) -> wasmtime::Result<T>) -> wasmtime::Result<T> {
        self.store.set_epoch_deadline(Ticker::ticks(self.limits.call_timeout));
        self.store.data_mut().printed.clear();
        let watch = self.store.data().watch.clone();
        let _running = watch.enter(self.limits.call_timeout);
        call(self)
    }

    fn try_call(&mut self, header: &[u8], events: &[u8]) -> wasmtime::Result<Result<Vec<u8>, String>> {
        match self.exports.process {
            Process::Flat(process) => {
                let process = process.typed::<Flat<'_>, (Vec<u8>,)>(&self.store)?;
                Ok(Ok(process.call(&mut self.store, (header, events))?.0))
            }
            Process::Typed(process) => {
                let process = process.typed::<typed::Parameters<'_>, (typed::Outcome,)>(&self.store)?;
                let (records, timers) = match (typed::events(header, events), typed::timers(header)) {
                    (Ok(records), Ok(timers)) => (records, timers),
                    (Err(malformed), _) | (_, Err(malformed)) => return Ok(Err(malformed.to_string())),
                };
                if let Some(access) = &mut self.store.data_mut().access {
                    access.begin(typed::timestamps(&records), typed::times(&timers));
                }
                let outcome = process.call(&mut self.store, (&records, &timers))?.0;
                Ok(typed::flat(&outcome, &records, &timers, self.store.data_mut().access.as_mut()))
            }
        }
    }
}

fn other_signature(function: &str, error: &wasmtime::Error) -> wasmtime::Error {
    wasmtime::format_err!("its `{function}` has another signature than the contract's (guest-sdk/wit): {error}")
}

fn cannot_instantiate(message: String) -> CallError {
    CallError::new(CallErrorKind::Instantiate, message)
}

impl Consumer for Instance {
    fn memory(&self) -> usize {
        self.store.data().limiter.memory()
    }

    fn is_worn(&self) -> bool {
        self.store.data().limiter.is_worn(self.at_first)
    }

    fn undoes_failures(&self) -> bool {
        // A typed consumer writes as it goes.
        matches!(self.exports.process, Process::Flat(_))
    }

    fn state_version(&self) -> u32 {
        self.exports.version
    }

    fn migrate(&mut self, from: u32, entries: &Entries) -> Result<Entries, CallError> {
        let Some(migrate) = self.exports.migrate else {
            return Err(CallError::no_migration(from));
        };
        if let Some(access) = &mut self.store.data_mut().access {
            access.begin(std::iter::empty(), std::iter::empty());
        }
        let entries = state::given(entries);
        let result = self.watched(|Self { store, .. }| {
            let migrate = migrate.typed::<Migrate<'_>, Migrated>(&*store)?;
            Ok(migrate.call(store, (from, &entries))?.0)
        });
        match result {
            Ok(Ok(entries)) => Ok(state::returned(entries)),
            Ok(Err(reason)) => Err(CallError::new(CallErrorKind::Permanent, legible(&reason))),
            Err(error) => Err(explain(&mut self.store, &error, &self.limits)),
        }
    }

    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        let is_typed = matches!(self.exports.process, Process::Typed(_));
        if let Some(access) = &mut self.store.data_mut().access {
            access.set_watermarks(View::parse(header).ok().as_ref(), is_typed);
        }
        self.store.data_mut().in_hand = None;
        let result = self.watched(|instance| instance.try_call(header, events));
        match result {
            Ok(Ok(outcome)) => {
                receive(&outcome);
                Ok(())
            }
            Ok(Err(message)) => Err(CallError::new(CallErrorKind::BadOutcome, message)),
            Err(error) => Err(explain(&mut self.store, &error, &self.limits)),
        }
    }
}

/// What happened to a call, in words its author and an operator can use.
fn explain(store: &mut Store<Data>, error: &wasmtime::Error, limits: &Limits) -> CallError {
    let stopped = store.data().watch.has_stopped();
    let printed = Some(legible(store.data().printed.trim_end())).filter(|printed| !printed.is_empty());
    let panic = store.data_mut().panic.take().or(printed);
    let said = store.data().in_hand;
    let in_hand = store.data().progress.as_ref().and_then(|cell| {
        let bytes = cell.as_le_slice(&*store);
        bytes.try_into().ok().map(u32::from_le_bytes)
    });
    let in_hand = in_hand.or(said);
    // Wasmtime has no type for this one.
    let text = format!("{:#}", error.root_cause());
    let over_fuel = text.contains("fuel allocated for hostcalls");
    let (kind, mut message) = match (error.downcast_ref::<Trap>(), error.downcast_ref::<OverLimit>()) {
        (Some(trap), _) if *trap == Trap::Interrupt || (stopped && *trap == Trap::MemoryOutOfBounds) => {
            let timeout = humantime(limits.call_timeout);
            (CallErrorKind::Timeout, format!("not back after {timeout}; `limits.call-timeout` changes that"))
        }
        (_, Some(over)) => (CallErrorKind::Limit, over.to_string()),
        _ if let Some(refused) = error.downcast_ref::<state::Refused>() => (refused.kind(), refused.to_string()),
        (Some(Trap::StackOverflow), _) => {
            (CallErrorKind::Limit, format!("the call stack is exhausted: {STACK} bytes, which cannot be changed"))
        }
        (Some(trap), _) => (CallErrorKind::Trap, panic.clone().unwrap_or_else(|| trap.to_string())),
        (None, None) if over_fuel => {
            let limit = limits.output_bytes;
            (
                CallErrorKind::Limit,
                format!("more than {limit} bytes handed over in one call; see `limits.output-bytes`"),
            )
        }
        (None, None) if text.contains("handle limit exceeded") => {
            (CallErrorKind::Limit, format!("more than {MAX_HANDLES} handles of resources, which cannot be changed"))
        }
        (None, None) if text.contains("resource limit exceeded") => {
            let what = "instances or tables, or twice as many memories, in one component, which cannot be changed";
            (CallErrorKind::Limit, format!("more than {MAX_PARTS} {what}: {text}"))
        }
        (None, None) => (CallErrorKind::Trap, text),
    };
    if let (Some(panic), true) = (&panic, kind != CallErrorKind::Trap) {
        message = format!("{message} (after: {panic})");
    }
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => {
            let demangled = format!("{:#}", rustc_demangle::demangle(&name[..name.floor_char_boundary(MAX_NAME)]));
            legible(&demangled[..demangled.floor_char_boundary(MAX_NAME)])
        }
        None => format!("function {}", frame.func_index()),
    };
    let backtrace = frames.iter().take(MAX_FRAMES).map(name).collect();
    // What is handed over at the end of a call is no single event's doing.
    let in_hand = in_hand.filter(|_| !over_fuel);
    CallError { kind, message, in_hand, backtrace }
}
