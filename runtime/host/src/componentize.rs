//! Makes a component of a core module: what languages without component tools can build.

use wasmparser::{Parser, Payload, Validator};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::code::Error;
use crate::contract::{PACKAGE, VERSION, interface_of, other_version};

/// The contract, built in: a core module that does not carry it is given it.
const WIT: &str = include_str!("../../../guest-sdk/wit/sluicegate.wit");

/// The component of a core module, which exports the functions of a world under their names in the canonical ABI, such as
/// `sluicegate:plugin/batch@1.0.0#process`, with `memory` and `cabi_realloc`.
pub(crate) fn componentize(module: &[u8]) -> Result<Vec<u8>, Error> {
    // Other people's code over bytes that may be anything: what it did not foresee is to refuse the plugin, not to end the node.
    let made = std::panic::catch_unwind(|| encode(module));
    made.unwrap_or_else(|_| Err(Error::Module { reason: "the encoder of components gave up".to_owned() }))
}

fn encode(module: &[u8]) -> Result<Vec<u8>, Error> {
    let invalid = |error: &dyn std::fmt::Display| Error::Invalid(format!("{error:#}"));
    Validator::new().validate_all(module).map_err(|error| invalid(&error))?;
    let Looks { exports, has_contract, asks_for_wasi } = look(module).map_err(|error| invalid(&error))?;
    let mut module = module.to_vec();
    if !has_contract {
        let resolved = resolve(&exports)?;
        embed_component_metadata(&mut module, &resolved.0, resolved.1, StringEncoding::UTF8)
            .map_err(|error| Error::Host { what: "embed the contract", reason: format!("{error:#}") })?;
    }
    let mut encoder = ComponentEncoder::default().validate(false);
    if asks_for_wasi {
        let adapter = adapter()?;
        let adapted = encoder.adapter(WASI, &adapter);
        encoder = adapted.map_err(|error| Error::Module { reason: format!("{error:#}") })?;
    }
    let encoded = encoder.module(&module).and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| Error::Module { reason: format!("{error:#}") })
}

/// Answers a module that was built for WASI preview 1, with nothing in it: see `wasi/adapter.wat`.
const ADAPTER: &[u8] = include_bytes!("wasi/adapter.wasm");
const WASI: &str = "wasi_snapshot_preview1";

/// The adapter, with what it imports itself.
fn adapter() -> Result<Vec<u8>, Error> {
    let (resolve, world) = world(VERSION, "of-adapter", "import log;\n")?;
    let mut adapter = ADAPTER.to_vec();
    embed_component_metadata(&mut adapter, &resolve, world, StringEncoding::UTF8)
        .map_err(|error| Error::Host { what: "embed the contract", reason: format!("{error:#}") })?;
    Ok(adapter)
}

/// What a module looks like.
#[derive(Default)]
struct Looks {
    /// The names it exports.
    exports: Vec<String>,
    /// Whether it carries a contract of its own.
    has_contract: bool,
    asks_for_wasi: bool,
}

fn look(module: &[u8]) -> wasmparser::Result<Looks> {
    let mut looks = Looks::default();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ExportSection(section) => {
                for export in section {
                    looks.exports.push(export?.name.to_owned());
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    looks.asks_for_wasi |= import?.module == WASI;
                }
            }
            Payload::CustomSection(section) => looks.has_contract |= section.name().starts_with("component-type"),
            _ => {}
        }
    }
    Ok(looks)
}

/// The world that a module with these exports is of, in the version of the contract that they name.
fn resolve(exports: &[String]) -> Result<(Resolve, wit_parser::WorldId), Error> {
    let own = || exports.iter().filter_map(|export| Some((interface_of(export)?, export.split_once('#')?.0)));
    let Some((_, first)) = own().find(|(interface, _)| matches!(*interface, "batch" | "handler")) else {
        return Err(Error::World { exports: exports.to_vec() });
    };
    let version = first.split_once('@').map_or(VERSION, |(_, version)| version);
    let is_plain = version.chars().all(|c| c.is_ascii_digit() || c == '.');
    if other_version(first) || !is_plain {
        return Err(Error::Version { found: first.to_owned() });
    }
    let has = |name: &str| own().any(|(interface, _)| interface == name);
    let exported = ["batch", "handler", "lifecycle", "versioned-state"].into_iter().filter(|name| has(name));
    let exported: String = exported.map(|name| format!("export {name};\n")).collect();
    world(version, "of-module", &format!("import log;\nimport progress;\nimport state;\nimport timers;\n{exported}"))
}

/// A world of its own in a version of the contract.
fn world(version: &str, name: &str, items: &str) -> Result<(Resolve, wit_parser::WorldId), Error> {
    let world = format!("world {name} {{\n{items}}}\n");
    let package = |version| format!("package {PACKAGE}@{version};");
    // What was there in an older version is as it was.
    let text = WIT.replacen(&package(VERSION), &package(version), 1) + &world;
    let text: String =
        text.lines().filter(|line| !line.trim_start().starts_with("@since")).flat_map(|line| [line, "\n"]).collect();
    let failed =
        |error: &dyn std::fmt::Display| Error::Host { what: "read the contract", reason: format!("{error:#}") };
    let mut resolve = Resolve::default();
    let package = resolve.push_str("sluicegate.wit", &text).map_err(|error| failed(&error))?;
    let world = resolve.select_world(&[package], Some(name)).map_err(|error| failed(&error))?;
    Ok((resolve, world))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_is_what_its_text_says() {
        let made = wat::parse_str(include_str!("wasi/adapter.wat")).unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wasi/adapter.wasm");
        if std::env::var_os("SLUICE_WRITE_ADAPTER").is_some() {
            std::fs::write(file, &made).unwrap();
        }
        let again = "make it again: SLUICE_WRITE_ADAPTER=1 cargo test -p sluice-host the_adapter";
        assert!(made == std::fs::read(file).unwrap(), "{again}");
    }

    #[test]
    fn damaged_modules_are_refused_or_made_components_never_a_panic() {
        let module = include_bytes!("../../../tests/guests/upper.wasm");
        let whole = encode(module).unwrap();
        assert!(whole.len() > module.len());
        for (at, flip) in (8..module.len()).flat_map(|at| [(at, 0x01), (at, 0x80), (at, 0xff)]) {
            let mut damaged = module.to_vec();
            damaged[at] ^= flip;
            let _ = encode(&damaged);
        }
        for length in 8..module.len() {
            let _ = encode(&module[..length]);
        }
    }
}
