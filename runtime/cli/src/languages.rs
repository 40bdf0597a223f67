//! Languages that plugins are written in: how one is begun, what builds it, and where that comes from.

mod places;
mod rust;
mod sdk;
mod template;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use clap::ValueEnum;
use sluice_node::definitions::{tidy, wasm_file};

use self::toolchain::{ASSEMBLYSCRIPT, GO, JAVASCRIPT, PYTHON, Tool, ZIG};
use crate::args::Global;
use crate::exit::Failure;
use crate::show;

/// A language that plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Rust
    Rust,
    /// Go
    Go,
    /// Python
    Python,
    /// JavaScript
    Js,
    /// TypeScript
    Ts,
    /// C
    C,
    /// C++
    Cpp,
    /// Zig
    Zig,
    /// AssemblyScript
    Assemblyscript,
}

/// The source in whose name a language shows, in a plugin's folder.
const SOURCES: [(&str, Language); 9] = [
    ("Cargo.toml", Language::Rust),
    ("go.mod", Language::Go),
    ("src/consumer.py", Language::Python),
    ("src/consumer.js", Language::Js),
    ("src/consumer.ts", Language::Ts),
    ("src/consumer.c", Language::C),
    ("src/consumer.cpp", Language::Cpp),
    ("src/consumer.zig", Language::Zig),
    ("assembly/consumer.ts", Language::Assemblyscript),
];

impl Language {
    fn of(dir: &Path) -> Result<Self, Failure> {
        let found = SOURCES.iter().find(|(source, _)| dir.join(source).is_file());
        found.map(|(_, language)| *language).ok_or_else(|| {
            let looked: Vec<_> = SOURCES.iter().map(|(source, _)| *source).collect();
            let failure = Failure::usage(format!("not a plugin's folder: {}", tidy(dir).display()));
            failure.help(format!("it has none of {}; `sluice plugin new` begins one", looked.join(", ")))
        })
    }

    /// What builds it; none where it is not this program's to install.
    fn tool(self) -> Option<&'static Tool> {
        match self {
            Self::Rust => None,
            Self::Go => Some(&GO),
            Self::Python => Some(&PYTHON),
            Self::Js | Self::Ts => Some(&JAVASCRIPT),
            Self::C | Self::Cpp | Self::Zig => Some(&ZIG),
            Self::Assemblyscript => Some(&ASSEMBLYSCRIPT),
        }
    }
}

/// Whether a folder holds the source of a plugin.
pub(crate) fn is_source(dir: &Path) -> bool {
    Language::of(dir).is_ok()
}

/// Builds a plugin's folder: the .wasm file there.
///
/// # Errors
/// What is missing, or that the compiler has said why not.
pub(crate) fn build(dir: &Path, setup: bool) -> Result<PathBuf, Failure> {
    let language = Language::of(dir)?;
    let dir = &std::path::absolute(dir)?;
    let built = wasm_file(dir);
    let folder = built.parent().unwrap_or(dir).to_owned();
    std::fs::create_dir_all(&folder)?;
    // Under another name first: a node that watches never sees half a file.
    let new = built.with_extension("new");
    match language.tool() {
        None => {
            // One that was begun here is built with the SDK of this program; others say themselves where theirs is.
            if folder.join("sdk/sluice-sdk").is_dir() {
                sdk::write(language, &folder.join("sdk"))?;
            }
            let made = rust::build(dir)?;
            std::fs::copy(&made, &new).map_err(|error| cannot_write(&new, &error))?;
        }
        Some(tool) => {
            let tool = tool.find(dir, setup)?;
            sdk::write(language, &folder.join("sdk"))?;
            builds(&mut command(language, dir, &folder, &new, &tool)?, dir)?;
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a build product, no part of the log")]
    std::fs::rename(&new, &built).map_err(|error| cannot_write(&built, &error))?;
    Ok(built)
}

/// Has a compiler work in a plugin's folder.
fn builds(command: &mut Command, dir: &Path) -> Result<(), Failure> {
    if run(command.current_dir(dir))?.success() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} does not build; the compiler's errors are above", tidy(dir).display())))
}

fn cannot_write(file: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", file.display()))
}

/// Runs a program to its end. What it prints is not this program's answer; where it fails, what it says has gone to stderr.
fn run(command: &mut Command) -> Result<ExitStatus, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Failure::failed(format!("cannot start {program}: {error}")))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(output.status)
}

/// Whether a plugin uses state, and timers, by what stands in its sources: languages whose tools import a whole world import no more than they use.
fn uses(dir: &Path, state: &str, timers: [&str; 2]) -> [(&'static str, bool); 2] {
    let entries = std::fs::read_dir(dir.join("src")).into_iter().flatten().flatten();
    let texts: Vec<_> = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect();
    let mentions = |word: &str| texts.iter().any(|text| text.contains(word));
    [("state", mentions(state)), ("timers", timers.into_iter().any(mentions))]
}

/// What makes `out` of a plugin's sources, when all that comes before is done.
fn command(
    language: Language,
    dir: &Path,
    folder: &Path,
    out: &Path,
    tool: &toolchain::Found,
) -> Result<Command, Failure> {
    let sdk = folder.join("sdk");
    let mut command = tool.command();
    match language {
        Language::Rust => {}
        Language::C | Language::Cpp => {
            let (program, suffix) = if language == Language::C { ("cc", "c") } else { ("c++", "cpp") };
            command.args([
                program,
                "--target=wasm32-wasi",
                "-mexec-model=reactor",
                "-O2",
                "-s",
                "-Wall",
                "-Wextra",
                "-Wno-missing-field-initializers",
            ]);
            command.arg("-I").arg(&sdk).arg("-o").arg(out);
            let mut sources: Vec<_> = std::fs::read_dir(dir.join("src"))?.flatten().map(|entry| entry.path()).collect();
            sources.retain(|path| path.extension().is_some_and(|extension| extension == suffix));
            sources.sort();
            command.args(sources);
        }
        Language::Zig => {
            command.args(["build-exe", "-target", "wasm32-freestanding", "-fno-entry", "-rdynamic", "-OReleaseFast"]);
            command.args(["-fstrip", "--dep", "sluice"]).env("ZIG_LOCAL_CACHE_DIR", folder.join("zig-cache"));
            let part = |name: &str, path: &Path| {
                let mut option = std::ffi::OsString::from(format!("-M{name}="));
                option.push(path);
                option
            };
            command.arg(part("root", &dir.join("src/consumer.zig"))).arg(part("sluice", &sdk.join("sluice.zig")));
            let mut option = std::ffi::OsString::from("-femit-bin=");
            option.push(out);
            command.arg(option);
        }
        Language::Go => {
            command.args(["build", "-buildmode=c-shared", "-ldflags=-s -w", "-o"]).arg(out).arg(".");
            command.envs([("GOOS", "wasip1"), ("GOARCH", "wasm"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=mod")]);
        }
        Language::Python => {
            world(&sdk, uses(dir, "State(", ["set_timer(", "clear_timer("]))?;
            command.arg("-d").arg(sdk.join("wit")).args(["-w", "of-this", "componentize", "--stub-wasi"]);
            command.arg("-p").arg(dir.join("src")).arg("-p").arg(&sdk).arg("sluice_plugin").arg("-o").arg(out);
        }
        Language::Js | Language::Ts => {
            let used = uses(dir, "State(", ["setTimer(", "clearTimer("]);
            world(&sdk, used)?;
            let (bundle, source) = (folder.join("bundle.js"), if language == Language::Js { "js" } else { "ts" });
            std::fs::write(
                sdk.join("plugin.js"),
                format!(
                    "import consumer from '../../src/consumer.{source}';\nimport {{ plugin }} from './sluice.js';\nexport const {{ handler, lifecycle, versionedState }} = plugin(consumer);\n"
                ),
            )?;
            let import = |(name, used)| match used {
                true => format!("export * as {name} from 'sluicegate:plugin/{name}@1.1.0';\n"),
                false => format!("export const {name} = undefined;\n"),
            };
            std::fs::write(sdk.join("imports.js"), used.map(import).concat())?;
            let mut option = std::ffi::OsString::from("--alias:sluice=");
            option.push(sdk.join("sluice.js"));
            let mut bundler = tool.other("esbuild");
            bundler.arg(sdk.join("plugin.js")).args([
                "--bundle",
                "--format=esm",
                "--external:sluicegate:*",
                "--log-level=warning",
                "--sourcemap=external",
                "--sources-content=false",
            ]);
            bundler.arg(option).arg(format!("--outfile={}", bundle.display()));
            builds(&mut bundler, dir)?;
            places::add(&bundle, dir)?;
            command.arg("--wit").arg(sdk.join("wit")).arg("--js").arg(&bundle);
            command.args(["-n", "of-this", "--sync", "--stub-wasi", "-o"]).arg(out);
        }
        Language::Assemblyscript => {
            command.arg("assembly/consumer.ts").args(["-O3", "--runtime", "incremental"]);
            command.args(["--use", "abort=build/sdk/sluice/abort", "--transform", "./build/sdk/exports.mjs"]);
            command.arg("-o").arg(out);
        }
    }
    Ok(command)
}

/// Writes the world of a plugin, which imports of these what it uses.
fn world(sdk: &Path, used: [(&str, bool); 2]) -> Result<(), Failure> {
    let imports: String =
        used.iter().filter(|(_, used)| *used).map(|(name, _)| format!("  import {name};\n")).collect();
    let exports = "  export handler;\n  export lifecycle;\n  export versioned-state;\n";
    let text = format!(
        "package sluicegate:plugin@1.1.0;\n\nworld of-this {{\n  import log;\n  import progress;\n{imports}{exports}}}\n"
    );
    std::fs::write(sdk.join("wit/of-this.wit"), text)?;
    Ok(())
}

/// Begins a plugin in a folder of its name.
pub(crate) fn new(global: &Global, name: &Path, language: Language) -> Result<ExitCode, Failure> {
    let dir = tidy(name);
    let plain = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if plain.is_empty() || !plain.chars().all(good) || !plain.starts_with(|c: char| c.is_ascii_lowercase()) {
        let failure = Failure::usage(format!("not a name for a plugin: {plain:?}"));
        return Err(failure.help("small letters, digits and `-`, beginning with a letter"));
    }
    if dir.exists() {
        return Err(Failure::usage(format!("{} is there already", dir.display())));
    }
    template::write(&dir, &plain, language)?;
    show::answer(global, &serde_json::json!({ "folder": dir }), || {
        let dir = dir.display();
        format!(
            "{dir}\n\n    sluice plugin build {dir} --setup     # --setup installs what is missing, into the folder\n    sluice test {dir}\n    sluice plugin run {dir} --events FILE\n"
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
