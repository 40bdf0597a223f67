//! The SDKs, which this program carries along: a plugin is built with the one that fits it.

use std::path::Path;

use super::Language;
use crate::exit::Failure;

macro_rules! files {
    ($($language:ident: $($folder:literal / $file:literal),+;)+) => {
        &[$((Language::$language, &[$(($file, include_str!(concat!("../../../../guest-sdk/", $folder, "/", $file)))),+]),)+]
    };
}

type Files = &'static [(&'static str, &'static str)];

const SDKS: &[(Language, Files)] = files! {
    C: "c" / "sluice.h", "c" / "sluice_json.h";
    Zig: "zig" / "sluice.zig";
    Assemblyscript: "assemblyscript" / "sluice.ts", "assemblyscript" / "json.ts", "assemblyscript" / "exports.ts",
        "assemblyscript" / "exports.mjs";
    Go: "go" / "go.mod", "go" / "sluice.go", "go" / "guest.go", "go" / "json.go";
    Python: "python" / "sluice.py", "python" / "sluice_plugin.py";
    Js: "js" / "sluice.js", "js" / "sluice.d.ts";
};
/// The sources of the Rust SDK, and of the crate that it is made of.
const RUST: Files = include!(concat!(env!("OUT_DIR"), "/rust_sdk.rs"));
/// Their manifests, which in this project are parts of a workspace.
const RUST_MANIFESTS: Files = &[
    (
        "sluice-sdk/Cargo.toml",
        "[package]\nname = \"sluice-sdk\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\nsluice-event = { path = \"../sluice-event\" }\nserde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"\nwit-bindgen = { version = \"0.61\", default-features = false, features = [\"macros\", \"realloc\"] }\n",
    ),
    ("sluice-event/Cargo.toml", "[package]\nname = \"sluice-event\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
];
const WIT: &str = include_str!("../../../../guest-sdk/wit/sluicegate.wit");

/// Writes the SDK of a language into a folder, with the contract.
pub(super) fn write(language: Language, folder: &Path) -> Result<(), Failure> {
    let of = match language {
        Language::Cpp => Language::C,
        Language::Ts => Language::Js,
        other => other,
    };
    let own = SDKS.iter().filter(|(language, _)| *language == of).flat_map(|(_, files)| files.iter());
    let of_rust = [RUST, RUST_MANIFESTS].into_iter().flatten().filter(|_| of == Language::Rust);
    for (name, text) in own.chain(of_rust).copied().chain([("wit/sluicegate.wit", WIT)]) {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(folder))?;
        // One that is as it should be is not touched: build tools look at times.
        if std::fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            std::fs::write(&file, text)?;
        }
    }
    Ok(())
}
