//! What a plugin may import and must export.

use wasmtime::Engine;
use wasmtime::component::types::{self, ComponentItem};

use crate::code::Error;
use crate::wasi;

/// The package and the version of the contract; `guest-sdk/wit` says how it may evolve.
pub(crate) const PACKAGE: &str = "sluicegate:plugin";
pub(crate) const VERSION: &str = "1.1.0";

pub(crate) fn interface(name: &str) -> String {
    format!("{PACKAGE}/{name}@{VERSION}")
}

/// The interface of the contract that a name of an import or export means, in whatever version.
pub(crate) fn interface_of(name: &str) -> Option<&str> {
    name.strip_prefix(PACKAGE)?.strip_prefix('/')?.split('@').next()
}

/// Which of the contract's worlds a plugin is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// Flat bytes: exports `batch`.
    BatchConsumer,
    /// Typed records: exports `handler`.
    Consumer,
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BatchConsumer => f.write_str("batch-consumer"),
            Self::Consumer => f.write_str("consumer"),
        }
    }
}

/// What a component imports and exports, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surface {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Surface {
    pub(crate) fn of(component: &types::Component, engine: &Engine) -> Self {
        let imports = component.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let exports = component
            .exports(engine)
            .filter(|(_, export)| {
                matches!(export.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_))
            })
            .map(|(name, _)| name.to_owned())
            .collect();
        Self { imports, exports }
    }

    /// Checks that the component is a plugin which is granted what it imports.
    pub(crate) fn check(&self) -> Result<World, Error> {
        for import in &self.imports {
            Self::check_import(import)?;
        }
        if let Some(other) = self.exports.iter().find(|name| other_version(name)) {
            return Err(Error::Version { found: other.clone() });
        }
        let exports = |name: &str| self.exports.iter().any(|export| interface_of(export) == Some(name));
        if exports("batch") {
            Ok(World::BatchConsumer)
        } else if exports("handler") {
            Ok(World::Consumer)
        } else {
            Err(Error::World { exports: self.exports.clone() })
        }
    }

    /// Checks that what must be granted is.
    pub(crate) fn check_granted(&self, capabilities: &[&str]) -> Result<(), Error> {
        for capability in ["state", "timers"].into_iter().filter(|capability| !capabilities.contains(capability)) {
            if let Some(import) = self.imports.iter().find(|import| interface_of(import) == Some(capability)) {
                return Err(Error::Capability { import: import.clone(), capability });
            }
        }
        Ok(())
    }

    fn check_import(import: &str) -> Result<(), Error> {
        if other_version(import) {
            return Err(Error::Version { found: import.to_owned() });
        }
        match interface_of(import) {
            Some("types" | "log" | "progress" | "state" | "timers") => Ok(()),
            None if wasi::interface_of(import).is_some() => Ok(()),
            _ => Err(Error::Import { import: import.to_owned() }),
        }
    }
}

/// Whether a name is of the contract's package, but of a version that this host does not speak: of another major version, or
/// of a later minor one.
pub(crate) fn other_version(name: &str) -> bool {
    let Some((_, version)) = name.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) else { return false };
    let number = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect::<Vec<u32>>();
    let (found, known) = (number(version), number(VERSION));
    found.first() != known.first() || found.get(1) > known.get(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surface(imports: &[&str], exports: &[&str]) -> Surface {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Surface { imports: owned(imports), exports: owned(exports) }
    }

    const BATCH: &str = "sluicegate:plugin/batch@1.0.0";

    #[test]
    fn log_and_progress_are_granted_and_state_and_timers_on_request() {
        let granted = ["sluicegate:plugin/log@1.0.0", "sluicegate:plugin/progress@1.0.0"];
        assert_eq!(surface(&granted, &[BATCH]).check().unwrap(), World::BatchConsumer);
        for (import, says) in [
            ("wasi:sockets/tcp@0.3.0", "wasi:sockets/tcp@0.3.0"),
            ("sluicegate:plugin/log@2.0.0", "version"),
            ("sluicegate:plugin/log@1.9.0", "version"),
            ("sluicegate:plugin/other@1.0.0", "other"),
        ] {
            let error = surface(&[import], &[BATCH]).check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for (capability, other) in [("state", "timers"), ("timers", "state")] {
            let keeps = surface(&[&format!("sluicegate:plugin/{capability}@1.0.0")], &[BATCH]);
            assert!(keeps.check().is_ok() && keeps.check_granted(&[capability]).is_ok());
            let error = keeps.check_granted(&[other]).unwrap_err().to_string();
            assert!(error.contains("capabilities") && error.contains(capability), "{error}");
        }
    }

    #[test]
    fn a_component_of_another_world_is_told_what_it_exports() {
        let error = surface(&[], &["wasi:cli/run@0.2.0"]).check().unwrap_err().to_string();
        assert!(error.contains("wasi:cli/run@0.2.0") && error.contains(&interface("batch")), "{error}");
        let error = surface(&[], &["sluicegate:plugin/batch@2.0.0"]).check().unwrap_err().to_string();
        assert!(error.contains("version"), "{error}");
    }
}
