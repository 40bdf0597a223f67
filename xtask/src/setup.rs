//! Installs what a fresh machine lacks, and builds the plugins.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, command, output, run, sluice};

const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's second compiler, which builds the standard library for wasm32 itself.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Sees to it that Rust plugins can be built.
pub(crate) fn setup() -> Result<()> {
    if has_target() || has_debian() {
        return Ok(());
    }
    println!("setup: Rust's standard library for {TARGET}, through rustup");
    let added = run(&mut command("rustup", &["target", "add", TARGET]));
    if added.is_ok() && has_target() {
        return Ok(());
    }
    println!("setup: rustup could not; trying Debian's packages {}", DEBIAN.join(", "));
    let apt = || -> Result<()> {
        run(&mut command("apt-get", &["update"]))?;
        run(command("apt-get", &["install", "-y", "--no-install-recommends"]).args(DEBIAN))
    };
    apt().with_context(|| {
        format!(
            "install one of them by hand: `rustup target add {TARGET}`, or on Debian, as root, `apt-get install {}`",
            DEBIAN.join(" ")
        )
    })
}

/// Where the tests find programs that are installed for them alone.
const TOOLS: &str = "target/tools";
/// Asks the node what its OpenAPI description says it answers.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// Drives a browser.
const PLAYWRIGHT: &str = "playwright-core@1.65.1";

/// Sees to it that the tests have what they need besides: strace, which makes system calls fail, Schemathesis, and a browser with what drives it.
pub(crate) fn test_tools() -> Result<()> {
    let found = |program: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
    };
    let programs = [
        ("strace", "strace"),
        ("python3", "python3-venv"),
        ("chromium", "chromium"),
        ("node", "nodejs"),
        ("npm", "npm"),
    ];
    let missing: Vec<_> = programs.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        println!("setup: {}, through apt-get", missing.join(", "));
        let install = || -> Result<()> {
            run(&mut command("apt-get", &["update"]))?;
            run(command("apt-get", &["install", "-y", "--no-install-recommends"]).args(&missing))
        };
        let missing = missing.join(" ");
        install().with_context(|| {
            format!("the tests need them: install them by hand (as root, `apt-get install {missing}`)")
        })?;
    }
    let folder = format!("{TOOLS}/{SCHEMATHESIS}");
    if !Path::new(&folder).join("bin/st").exists() {
        println!("setup: {SCHEMATHESIS}, through pip");
        run(&mut command("python3", &["-m", "venv", &folder]))?;
        run(&mut command(&format!("{folder}/bin/pip"), &["install", "--quiet", SCHEMATHESIS]))?;
    }
    let folder = format!("{TOOLS}/{PLAYWRIGHT}");
    if !Path::new(&folder).join("node_modules/playwright-core/index.js").exists() {
        println!("setup: {PLAYWRIGHT}, through npm");
        std::fs::create_dir_all(&folder)?;
        let options = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        run(command("npm", &options).args([&folder, PLAYWRIGHT]))?;
    }
    // Under names that do not change with the version.
    let link = Path::new(TOOLS).join("playwright");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(PLAYWRIGHT, &link).context("a link to Playwright")?;
    let link = Path::new(TOOLS).join("schemathesis");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(SCHEMATHESIS, &link).context("a link to Schemathesis")
}

/// Builds the guest in C again, whose .wasm is kept beside it.
pub(crate) fn guests() -> Result<()> {
    let options = ["--target=wasm32", "-O2", "-nostdlib", "-Wall", "-Wextra", "-Wl,--no-entry", "-Wl,--strip-all"];
    let built = run(command("clang", &options).args(["-o", "tests/guests/upper.wasm", "tests/guests/upper.c"]));
    built.context("clang and lld build it: `apt-get install clang lld`")
}

fn has_target() -> bool {
    let libraries = output(&mut command("rustc", &["--print", "target-libdir", "--target", TARGET]));
    std::env::var_os("SLUICE_DEBIAN_RUST").is_none() && libraries.is_ok_and(|dir| Path::new(dir.trim()).is_dir())
}

fn has_debian() -> bool {
    run(command("dpkg", &["--status"])
        .args(DEBIAN)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null()))
    .is_ok()
}

/// Builds `sluice`, and with it every plugin in `plugins`; their folders.
pub(crate) fn plugins() -> Result<Vec<String>> {
    setup()?;
    run(&mut cargo(&["build", "--package", "sluice-cli"]))?;
    let mut folders = Vec::new();
    for entry in std::fs::read_dir("plugins")? {
        let path = entry?.path();
        if path.join("src").is_dir() {
            folders.push(path.to_string_lossy().into_owned());
        }
    }
    folders.sort();
    if folders.is_empty() {
        bail!("no plugins in plugins/");
    }
    for folder in &folders {
        output(&mut sluice(&["plugin", "build", folder]))?;
    }
    println!("plugins: {} built", folders.join(", "));
    Ok(folders)
}
