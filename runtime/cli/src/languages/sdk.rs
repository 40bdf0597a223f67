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
    Go: "go" / "go.mod", "go" / "sluice.go", "go" / "guest.go";
    Python: "python" / "sluice.py", "python" / "sluice_plugin.py";
    Js: "js" / "sluice.js", "js" / "sluice.d.ts";
};
const WIT: &str = include_str!("../../../../guest-sdk/wit/sluicegate.wit");

/// Writes the SDK of a language into a folder, with the contract.
pub(super) fn write(language: Language, folder: &Path) -> Result<(), Failure> {
    let of = match language {
        Language::Cpp => Language::C,
        Language::Ts => Language::Js,
        other => other,
    };
    let files = SDKS.iter().find(|(language, _)| *language == of).map_or(&[][..], |(_, files)| files);
    std::fs::create_dir_all(folder.join("wit"))?;
    for (name, text) in files.iter().copied().chain([("wit/sluicegate.wit", WIT)]) {
        let file = folder.join(name);
        // One that is as it should be is not touched: build tools look at times.
        if std::fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            std::fs::write(&file, text)?;
        }
    }
    Ok(())
}
