//! The engine that all plugins of a node share.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sluice_env::Clock;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine};

use crate::cache::Cache;
use crate::code::{Code, Digest, Error, is_core_module};
use crate::compile::{Compiler, compile_apart, compile_here};
use crate::contract::Surface;
use crate::instance::{self, Data};
use crate::interrupt::page::Memories;
use crate::interrupt::watch::Ticker;
use crate::interrupt::{Interruption, checks};
use crate::limits::{Limits, STACK};
use crate::wasi;

/// Is told of a line: the plugin's name, its level, the text.
pub(crate) type OnLine = Box<dyn Fn(&str, &str, &str) + Send + Sync>;

/// Compiles and runs plugins.
pub struct Host {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Data>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Is told of each line that a plugin writes.
    pub(crate) on_line: OnceLock<OnLine>,
    compiler: Compiler,
    interruption: Interruption,
    cache: Option<Cache>,
    /// Many pipelines may use one plugin: it is loaded once.
    loaded: Mutex<HashMap<Digest, Code>>,
}

impl Host {
    /// A host that keeps compiled code in `cache`, if given.
    ///
    /// # Errors
    /// When the engine cannot be made, or the folder cannot be used.
    pub fn new(cache: Option<&Path>, clock: Arc<dyn Clock>, compiler: Compiler) -> Result<Arc<Self>, Error> {
        let chosen = Interruption::chosen().map_err(|reason| Error::Host { what: "start the engine", reason })?;
        Self::with_interruption(chosen, cache, clock, compiler)
    }

    /// The same, where guests are stopped in this way.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_interruption(
        interruption: Interruption,
        cache: Option<&Path>,
        clock: Arc<dyn Clock>,
        compiler: Compiler,
    ) -> Result<Arc<Self>, Error> {
        let failed = |what| move |reason: String| Error::Host { what, reason };
        let engine = engine(interruption)?;
        let linker = instance::linker(&engine).map_err(|error| failed("link the contract")(format!("{error:#}")))?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| failed("start a thread")(error.to_string()))?;
        let cache = cache.map(Cache::open).transpose();
        let cache = cache.map_err(|error| failed("open the cache of compiled code")(error.to_string()))?;
        let (on_line, loaded) = (OnceLock::new(), Mutex::default());
        Ok(Arc::new(Self { engine, linker, ticker, clock, on_line, compiler, interruption, cache, loaded }))
    }

    /// Has somebody told of each line that a plugin writes to the log, within its limit: its name, the level, the text. It must not block.
    pub fn on_line(&self, told: impl Fn(&str, &str, &str) + Send + Sync + 'static) {
        let _ = self.on_line.set(Box::new(told));
    }

    /// Compiles a plugin, or takes it from the cache, and checks it against the contract.
    ///
    /// # Errors
    /// Why it is no plugin that can be run.
    pub fn load(&self, bytes: &[u8], limits: &Limits) -> Result<Code, Error> {
        let core_module = is_core_module(bytes)?;
        if bytes.len() > limits.wasm_bytes {
            return Err(Error::TooLarge { limit: limits.wasm_bytes });
        }
        let digest = Digest::of(bytes);
        if let Some(loaded) = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
            return Ok(loaded.clone());
        }
        let (component, cached) = self.compiled(bytes, digest, limits)?;
        let surface = Surface::of(&component.component_type(), &self.engine);
        let linker = self.linker_for(&component, &surface)?;
        let world = surface.check()?;
        let linked = linker.instantiate_pre(&component).map_err(|error| invalid(&error))?;
        let (size, used) = (bytes.len(), Arc::default());
        let code = Code { linked, surface, digest, world, size, core_module, cached, used };
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, code.clone());
        Ok(code)
    }

    /// What a component is linked with: what every plugin may import and, where it asks for WASI, what it asks for, in whatever version.
    fn linker_for(&self, component: &Component, surface: &Surface) -> Result<Cow<'_, Linker<Data>>, Error> {
        if !wasi::is_wanted(&surface.imports) {
            return Ok(Cow::Borrowed(&self.linker));
        }
        let mut linker = self.linker.clone();
        match wasi::link(&mut linker, &component.component_type(), &self.engine).map_err(|error| invalid(&error))? {
            Some(import) => Err(Error::Import { import }),
            None => Ok(Cow::Owned(linker)),
        }
    }

    /// Lets go of compiled code that no stage uses any more.
    pub fn forget_unused(&self) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, code| Arc::strong_count(&code.used) > 1);
    }

    fn compiled(&self, bytes: &[u8], digest: Digest, limits: &Limits) -> Result<(Component, bool), Error> {
        let mut settings = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut settings);
        (self.interruption.name(), checks::VERSION).hash(&mut settings);
        let name = format!("{digest}-{:016x}", settings.finish());
        if let Some(component) =
            self.cache.as_ref().and_then(|cache| cache.get(&name)).and_then(|code| self.load_compiled(&code))
        {
            return Ok((component, true));
        }
        let compiled = match self.compiler {
            Compiler::Here => compile_here(bytes, self.interruption)?,
            Compiler::Apart => compile_apart(bytes, limits, self.interruption)?,
        };
        if let Some(cache) = &self.cache {
            cache.put(&name, &compiled);
        }
        let component = self.load_compiled(&compiled);
        let failed = || Error::Host { what: "load compiled code", reason: "it does not fit this engine".into() };
        Ok((component.ok_or_else(failed)?, false))
    }

    #[expect(unsafe_code, reason = "the one place that loads compiled code")]
    fn load_compiled(&self, code: &[u8]) -> Option<Component> {
        // SAFETY: the bytes come from this process's own compiler, or from its cache, which authenticates them under a key
        // that only this data directory holds.
        unsafe { Component::deserialize(&self.engine, code) }.ok()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ticker.end();
    }
}

fn invalid(error: &wasmtime::Error) -> Error {
    Error::Invalid(format!("{error:#}"))
}

/// An engine; those of one build of this program take each other's compiled code.
pub(crate) fn engine(interruption: Interruption) -> Result<Engine, Error> {
    let failed = |reason: String| Error::Host { what: "start the engine", reason };
    sluice_env::handle_fatal_signals().map_err(|error| failed(error.to_string()))?;
    Engine::new(&config(interruption)).map_err(|error| failed(format!("{error:#}")))
}

/// Settings that were found sound for hostile guests: everything that is not needed is off, and what a guest computes does
/// not depend on the machine.
fn config(interruption: Interruption) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .gc_support(false)
        .wasm_gc(false)
        .wasm_exceptions(false)
        .wasm_function_references(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false)
        .concurrency_support(false)
        .shared_memory(false)
        .cranelift_nan_canonicalization(true)
        .max_wasm_stack(STACK);
    match interruption {
        // Atomic reads are for the checks alone: guests that have any were refused before.
        Interruption::Page => {
            // What these give stays where it is, which code may rely on.
            config
                .wasm_threads(true)
                .memory_init_cow(false)
                .memory_may_move(false)
                .with_host_memory(Arc::new(Memories::default()));
        }
        Interruption::Epochs => drop(config.wasm_threads(false).epoch_interruption(true)),
        Interruption::Never => drop(config.wasm_threads(false)),
    }
    config
}
