//! `sluice plugin`

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use sluice_env::SystemClock;
use sluice_host::{Code, Compiler, Host, Limits};
use sluice_node::definitions::{read_wasm, tidy, wasm_file};

use crate::access::Access;
use crate::args::{Global, Plugin};
use crate::exit::Failure;
use crate::show;

const TARGET: &str = "wasm32-unknown-unknown";

pub(crate) fn plugin(global: &Global, verb: &Plugin) -> Result<ExitCode, Failure> {
    match verb {
        Plugin::Build { dir } => {
            let file = build(dir)?;
            inspect(global, &file)
        }
        Plugin::Inspect { plugin } => inspect(global, &wasm_file(plugin)),
        Plugin::History { pipeline } => history(global, pipeline),
        Plugin::Reload { pipeline } => {
            let generation = Access::open_existing(global)?.reload(pipeline)?;
            show::answer(global, &serde_json::json!({ "generation": generation }), || {
                format!("pipeline {pipeline}: generation {generation} is in force\n")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Plugin::Rollback { pipeline } => roll_back(global, pipeline),
    }
}

fn history(global: &Global, pipeline: &str) -> Result<ExitCode, Failure> {
    let generations = Access::open_existing(global)?.generations(pipeline)?;
    show::answer(global, &generations, || {
        let rows: Vec<_> = generations
            .iter()
            .rev()
            .map(|generation| {
                let plugins: Vec<String> =
                    generation.plugins.iter().map(|digest| digest.chars().take(12).collect()).collect();
                // One line each: the whole reason is in the JSON.
                let reason = generation.reason.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
                let kept: Vec<_> =
                    generation.state_versions.iter().map(|(stage, version)| format!("{stage} {version}")).collect();
                vec![
                    generation.number.to_string(),
                    show::time(generation.time),
                    generation.standing.to_string(),
                    plugins.join(" "),
                    kept.join(", "),
                    sluice_node::brief(reason, 100),
                ]
            })
            .collect();
        show::table(&["GENERATION", "SINCE", "STANDING", "PLUGIN", "STATE VERSION", "REASON"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn roll_back(global: &Global, pipeline: &str) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    let generation = access.roll_back(pipeline)?;
    let how = if access.is_node() { "is in force" } else { "is what it will start with" };
    show::answer(global, &serde_json::json!({ "generation": generation }), || {
        format!(
            "pipeline {pipeline}: generation {generation} {how}; what stands in the files is not taken again before it changes\n"
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(global: &Global, file: &Path) -> Result<ExitCode, Failure> {
    let limits = Limits::default();
    let bytes = read_wasm(file, &limits).map_err(|error| {
        let failure = Failure::usage(format!("cannot read {}: {error}", file.display()));
        failure.help("name a .wasm file, or a plugin's folder after `sluice plugin build DIR`")
    })?;
    let host =
        Host::new(None, Arc::new(SystemClock), Compiler::Apart).map_err(|error| Failure::failed(error.to_string()))?;
    let code = host.load(&bytes, &limits);
    let code = code.map_err(|error| {
        // Names in it are the plugin's.
        Failure::usage(format!("{}: {}", file.display(), sluice_node::legible(&error.to_string())))
    })?;
    show::answer(global, &to_json(file, &code), || describe(file, &code))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(file: &Path, code: &Code) -> String {
    let names = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let keeps = code.imports().iter().any(|import| import.starts_with("sluicegate:plugin/state@"));
    let needs = if keeps { "capabilities = [\"state\"]" } else { "nothing to be granted" };
    let rows = [
        ("kind", format!("{}, {} bytes", kind(code), code.size)),
        ("world", code.world.to_string()),
        ("exports", names(code.exports())),
        ("imports", names(code.imports())),
        ("needs", needs.to_owned()),
        ("sha-256", code.digest.to_string()),
    ];
    let lines: String = rows.iter().map(|(name, value)| format!("  {name:<8} {value}\n")).collect();
    format!("{}\n{lines}", file.display())
}

fn to_json(file: &Path, code: &Code) -> serde_json::Value {
    serde_json::json!({
        "file": file, "kind": kind(code), "bytes": code.size, "world": code.world.to_string(),
        "exports": code.exports(), "imports": code.imports(), "sha-256": code.digest.to_string(),
    })
}

/// Builds a Rust plugin; the .wasm file it made.
pub(crate) fn build(dir: &Path) -> Result<PathBuf, Failure> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        let failure = Failure::usage(format!("not a plugin's folder: {} has no Cargo.toml", dir.display()));
        return Err(failure.help("name the folder of a Rust plugin; other languages come in a later version"));
    }
    let mut command = Toolchain::find()?.command();
    command.arg("--manifest-path").arg(&manifest).arg("--message-format=json-render-diagnostics");
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| {
        Failure::failed(format!("cannot start cargo: {error}")).help("install Rust from https://rustup.rs")
    })?;
    if !output.status.success() {
        return Err(Failure::failed(format!(
            "{} does not build; the compiler's errors are above",
            tidy(dir).display()
        )));
    }
    let made = wasm_of(&output.stdout, &manifest)?;
    let built = wasm_file(dir);
    let copy = || {
        std::fs::create_dir_all(built.parent().unwrap_or(dir))?;
        // Under another name first: a node that watches never sees half a file.
        let new = built.with_extension("new");
        std::fs::copy(&made, &new)?;
        #[expect(clippy::disallowed_methods, reason = "a build product, no part of the log")]
        std::fs::rename(&new, &built)
    };
    copy().map_err(|error| Failure::failed(format!("cannot write {}: {error}", built.display())))?;
    Ok(built)
}

/// The .wasm file that cargo says it made for this manifest.
fn wasm_of(messages: &[u8], manifest: &Path) -> Result<PathBuf, Failure> {
    let manifest = std::fs::canonicalize(manifest)?;
    let messages = messages.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let found = messages.filter(|message: &serde_json::Value| {
        message["reason"] == "compiler-artifact" && message["manifest_path"].as_str() == manifest.to_str()
    });
    let files = found.flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut wasm = files.filter_map(|file| file.as_str().map(PathBuf::from));
    wasm.find(|file| file.extension().is_some_and(|extension| extension == "wasm")).ok_or_else(|| {
        let help = "add to its Cargo.toml:\n  [lib]\n  crate-type = [\"cdylib\"]";
        Failure::usage("the crate makes no .wasm file").help(help)
    })
}

/// What the file is.
fn kind(code: &Code) -> &'static str {
    if code.core_module { "core module" } else { "component" }
}

/// A compiler that has, or can build, the standard library for the wasm target.
enum Toolchain {
    /// The one in use, with the target installed.
    Installed,
    /// Debian's `rustc-web`, `cargo-web` and `rust-web-src`, which build the standard library themselves. The linkers are
    /// those of the compiler in use, which Debian's lacks.
    Debian { linkers: PathBuf },
}

impl Toolchain {
    fn find() -> Result<Self, Failure> {
        let printed = |arguments: &[&str]| {
            let output = Command::new("rustc").args(arguments).output().ok()?;
            output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        };
        let libraries = printed(&["--print", "target-libdir", "--target", TARGET]);
        if libraries.is_some_and(|dir| dir.is_dir()) && std::env::var_os("SLUICE_DEBIAN_RUST").is_none() {
            return Ok(Self::Installed);
        }
        let sysroot = printed(&["--print", "sysroot"]).unwrap_or_default();
        let linkers = sysroot.join("lib/rustlib").join(host_triple()).join("bin");
        if Path::new("/usr/lib/rustlib/src").exists() {
            return Ok(Self::Debian { linkers });
        }
        let help = format!(
            "`rustup target add {TARGET}`; where rustup cannot reach its server, on Debian: `apt-get install rustc-web cargo-web rust-web-src`"
        );
        Err(Failure::failed(format!("Rust's standard library for {TARGET} is not installed")).help(help))
    }

    fn command(&self) -> Command {
        let mut command = match self {
            Self::Installed => Command::new("cargo"),
            Self::Debian { .. } => Command::new("/usr/bin/cargo"),
        };
        command.args(["build", "--release", "--target", TARGET]);
        // Without this a plugin outside our own workspace would become a core module.
        let linker_key = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";
        match self {
            Self::Installed => command.env(linker_key, "wasm-component-ld"),
            Self::Debian { linkers } => {
                // wasm-component-ld looks for wasm-ld on the path.
                let path = std::env::var("PATH").unwrap_or_default();
                command
                    .arg("-Zbuild-std=std,panic_abort")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("PATH", format!("{}:{path}", linkers.join("gcc-ld").display()))
                    .env(linker_key, linkers.join("wasm-component-ld"))
            }
        };
        command
    }
}

fn host_triple() -> String {
    let output = Command::new("rustc").arg("-vV").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned()
}
