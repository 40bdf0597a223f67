//! A plugin's compiled code.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::InstancePre;

use crate::contract::{PACKAGE, Surface, VERSION, World, interface};
use crate::instance::Data;

/// SHA-256 of a plugin's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Why bytes are no plugin that can be run. Every message says what its author can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not WebAssembly.
    #[error("not a WebAssembly file: it does not begin with `\\0asm`")]
    NotWasm,
    /// A core module that does not fit the world it exports.
    #[error("a core module that does not keep to the canonical ABI of its world: {reason}")]
    Module {
        /// What does not fit.
        reason: String,
    },
    /// Larger than plugins may be.
    #[error("more than {limit} bytes of WebAssembly; `limits.wasm-size` changes that")]
    TooLarge {
        /// Bytes.
        limit: usize,
    },
    /// Compiling it takes too much.
    #[error("{0}")]
    Compile(String),
    /// It does not compile.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// It exports none of the contract's interfaces.
    #[error("not a consumer: it exports {exports:?}, but neither {} nor {}", interface("batch"), interface("handler"))]
    World {
        /// What it exports.
        exports: Vec<String>,
    },
    /// It was built against another version of the contract.
    #[error(
        "built for another version of the contract: {found}; this host speaks {PACKAGE}@{VERSION}: rebuild it with an SDK of that version"
    )]
    Version {
        /// The import or export.
        found: String,
    },
    /// It imports what no pipeline can grant.
    #[error(
        "imports {import}, which is not available to plugins: remove what needs it (of WASI 0.2 the interfaces of command-line programs are there, with nothing in them; files, sockets and the environment are out of reach)"
    )]
    Import {
        /// The import.
        import: String,
    },
    /// It imports what a pipeline must grant.
    #[error(
        "imports {import}, which needs the capability `{capability}`: the stage grants it with `capabilities = [\"{capability}\"]`"
    )]
    Capability {
        /// The import.
        import: String,
        /// What would grant it.
        capability: &'static str,
    },
    /// The host's own fault.
    #[error("cannot {what}: {reason}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
}

/// Compiled code of a plugin that keeps to the contract.
#[derive(Clone)]
pub struct Code {
    /// With what it imports.
    pub(crate) linked: InstancePre<Data>,
    pub(crate) surface: Surface,
    /// Of the plugin's bytes.
    pub digest: Digest,
    /// Which world it is of.
    pub world: World,
    /// Bytes of the .wasm file.
    pub size: usize,
    /// Whether it was a core module, of which the host made a component.
    pub core_module: bool,
    /// Whether it came from the cache of compiled code.
    pub cached: bool,
    /// Held by all who use it.
    pub(crate) used: Arc<()>,
}

impl Code {
    /// What it imports, by name.
    pub fn imports(&self) -> &[String] {
        &self.surface.imports
    }

    /// What it exports, by name.
    pub fn exports(&self) -> &[String] {
        &self.surface.exports
    }
}

/// What the first bytes of a file say it is: whether it is a core module.
pub(crate) fn is_core_module(bytes: &[u8]) -> Result<bool, Error> {
    // A core module has version 1 in layer 0, a component version 13 in layer 1.
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Ok(true),
        Some([0, b'a', b's', b'm', ..]) => Ok(false),
        _ => Err(Error::NotWasm),
    }
}
