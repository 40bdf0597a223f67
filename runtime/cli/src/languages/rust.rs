//! Plugins in Rust: cargo builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sluice_node::definitions::tidy;

use crate::exit::Failure;

const TARGET: &str = "wasm32-unknown-unknown";

/// Builds one; the .wasm file it made.
pub(super) fn build(dir: &Path) -> Result<PathBuf, Failure> {
    let manifest = dir.join("Cargo.toml");
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
    wasm_of(&output.stdout, &manifest)
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
