//! One instance: called, watched, stopped.

use std::sync::Arc;
use std::time::Duration;

use sluice_engine::{CallError, CallErrorKind, Consumer};
use sluice_env::Clock;
use wasmtime::component::{ComponentType, Func, InstancePre, Lift, Linker, WasmList};
use wasmtime::{Engine, Store, StoreContextMut, Trap, WasmBacktrace};

use crate::contract::interface;
use crate::host::Host;
use crate::limits::{Limiter, Limits, OverLimit};
use crate::ticker::Ticker;

/// Bytes a plugin may write to the log in a second.
const LOG_BYTES_PER_SECOND: u64 = 64 << 10;
/// A longer line, or panic text, is cut.
const MAX_LINE: usize = 8 << 10;

/// The host's side of an instance.
pub(crate) struct Data {
    pub(crate) limiter: Limiter,
    pub(crate) plugin: Arc<str>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Text of the panic that is about to end the instance.
    panic: Option<String>,
    /// The guest's four bytes that say which event is in hand.
    progress: Option<WasmList<u8>>,
    log_window: Duration,
    log_bytes: u64,
    log_dropped: u64,
}

impl Data {
    pub(crate) fn new(limiter: Limiter, plugin: Arc<str>, clock: Arc<dyn Clock>) -> Self {
        let log_window = clock.elapsed();
        Self { limiter, plugin, clock, panic: None, progress: None, log_window, log_bytes: 0, log_dropped: 0 }
    }

    /// Whether the plugin may write a line of this length now.
    fn may_log(&mut self, bytes: usize) -> bool {
        let now = self.clock.elapsed();
        if now.saturating_sub(self.log_window) >= Duration::from_secs(1) {
            if self.log_dropped > 0 {
                tracing::warn!(plugin = %self.plugin, lines = self.log_dropped, "lines over 64 KiB/s were left out");
            }
            (self.log_window, self.log_bytes, self.log_dropped) = (now, 0, 0);
        }
        self.log_bytes += bytes as u64;
        let allowed = self.log_bytes <= LOG_BYTES_PER_SECOND;
        self.log_dropped += u64::from(!allowed);
        allowed
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

/// What every plugin may import. The signatures are those of `guest-sdk/wit`; wasmtime checks them when it links.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Data>> {
    let mut linker = Linker::new(engine);
    let mut log = linker.instance(&interface("log"))?;
    log.func_wrap("write", |mut store: StoreContextMut<'_, Data>, (level, message): (Level, String)| {
        let data = store.data_mut();
        if data.may_log(message.len()) {
            write_line(level, &data.plugin, &legible(&message));
        }
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

/// What a guest says, cut to a length and without characters that could play tricks on a terminal.
fn legible(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_LINE);
    let mut text: String =
        message[..end].chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect();
    if end < message.len() {
        text.push('…');
    }
    text
}

/// An instance that can be called until it fails once.
pub(crate) struct Instance {
    host: Arc<Host>,
    store: Store<Data>,
    process: Func,
    limits: Limits,
}

impl Instance {
    /// Instantiates a component and calls its `init`. The guest runs already while it is instantiated, so it is watched.
    pub(crate) fn new(
        host: &Arc<Host>,
        code: &InstancePre<Data>,
        plugin: &Arc<str>,
        limits: Limits,
        config: &str,
    ) -> Result<Self, CallError> {
        let data = Data::new(Limiter::new(&limits), plugin.clone(), host.clock.clone());
        let mut store = Store::new(&host.engine, data);
        store.limiter(|data| &mut data.limiter);
        // Bounds what the host lifts for the guest: results, and arguments of imports.
        store.set_hostcall_fuel(limits.output_bytes);
        store.set_epoch_deadline(Ticker::ticks(limits.call_timeout));
        let running = host.ticker.enter();
        let made = Self::make(&mut store, code, config);
        drop(running);
        match made {
            Ok(Ok(process)) => Ok(Self { host: host.clone(), store, process, limits }),
            Ok(Err(refused)) => {
                Err(cannot_instantiate(format!("init refused the configuration: {}", legible(&refused))))
            }
            Err(error) => Err(cannot_instantiate(explain(&mut store, &error, &limits).message)),
        }
    }

    fn make(store: &mut Store<Data>, code: &InstancePre<Data>, config: &str) -> wasmtime::Result<Result<Func, String>> {
        let instance = code.instantiate(&mut *store)?;
        let mut function = |interface_name: &str, name: &str| {
            let outer = instance.get_export_index(&mut *store, None, &interface(interface_name))?;
            let inner = instance.get_export_index(&mut *store, Some(&outer), name)?;
            instance.get_func(&mut *store, inner)
        };
        let init = function("lifecycle", "init");
        let process = function("batch", "process");
        let process = process.ok_or_else(|| wasmtime::format_err!("the component does not export batch.process"))?;
        process.typed::<(&[u8], &[u8]), (Vec<u8>,)>(&*store)?;
        match init {
            Some(init) => {
                let init = init.typed::<(&str,), (Result<(), String>,)>(&*store)?;
                Ok(init.call(&mut *store, (config,))?.0.map(|()| process))
            }
            None if config == "{}" => Ok(Ok(process)),
            None => Ok(Err("the plugin takes none".to_owned())),
        }
    }

    fn try_call(&mut self, header: &[u8], events: &[u8]) -> wasmtime::Result<Vec<u8>> {
        let process = self.process.typed::<(&[u8], &[u8]), (Vec<u8>,)>(&self.store)?;
        Ok(process.call(&mut self.store, (header, events))?.0)
    }
}

fn cannot_instantiate(message: String) -> CallError {
    CallError { kind: CallErrorKind::Instantiate, message, in_hand: None }
}

impl Consumer for Instance {
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        self.store.set_epoch_deadline(Ticker::ticks(self.limits.call_timeout));
        let host = self.host.clone();
        let running = host.ticker.enter();
        let result = self.try_call(header, events);
        drop(running);
        match result {
            Ok(outcome) => {
                receive(&outcome);
                Ok(())
            }
            Err(error) => Err(explain(&mut self.store, &error, &self.limits)),
        }
    }
}

/// What happened to a call, in words its author and an operator can use.
fn explain(store: &mut Store<Data>, error: &wasmtime::Error, limits: &Limits) -> CallError {
    let panic = store.data_mut().panic.take();
    let in_hand = store.data().progress.as_ref().and_then(|cell| {
        let bytes = cell.as_le_slice(&*store);
        bytes.try_into().ok().map(u32::from_le_bytes)
    });
    let (kind, mut message) = match (error.downcast_ref::<Trap>(), error.downcast_ref::<OverLimit>()) {
        (Some(Trap::Interrupt), _) => {
            let timeout = humantime(limits.call_timeout);
            (CallErrorKind::Timeout, format!("not back after {timeout}; `limits.call-timeout` changes that"))
        }
        (_, Some(over)) => (CallErrorKind::Limit, over.to_string()),
        (Some(Trap::StackOverflow), _) => (CallErrorKind::Limit, "the call stack is exhausted (512 KiB)".to_owned()),
        (Some(trap), _) => (CallErrorKind::Trap, panic.clone().unwrap_or_else(|| trap.to_string())),
        (None, None) => {
            let text = format!("{:#}", error.root_cause());
            let fuel = text.contains("fuel allocated for hostcalls");
            let limit =
                format!("more than {} bytes handed over in one call; see `limits.output-bytes`", limits.output_bytes);
            if fuel { (CallErrorKind::Limit, limit) } else { (CallErrorKind::Trap, text) }
        }
    };
    if let (Some(panic), true) = (&panic, kind != CallErrorKind::Trap) {
        message = format!("{message} (after: {panic})");
    }
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let frames = backtrace.frames().iter().take(8);
        let names: Vec<_> = frames.map(|frame| frame.func_name().unwrap_or("?")).map(legible).collect();
        if !names.is_empty() {
            message = format!("{message}\n  in {}", names.join("\n  in "));
        }
    }
    CallError { kind, message, in_hand }
}

fn humantime(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}
