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

/// Builds the plugins in other languages than Rust, `plugins/LANGUAGE/PLUGIN`, with tools that are installed where they are missing.
pub(crate) fn languages() -> Result<()> {
    let toolchains = std::path::absolute("target/toolchains")?;
    let mut folders = Vec::new();
    for language in std::fs::read_dir("plugins")? {
        let language = language?.path();
        if language.join("src").is_dir() || !language.is_dir() || language.ends_with("target") {
            continue;
        }
        for plugin in std::fs::read_dir(&language)? {
            let plugin = plugin?.path();
            folders.extend(plugin.is_dir().then_some(plugin));
        }
    }
    folders.sort();
    let (mut built, mut kept) = (0, 0);
    for folder in &folders {
        let language = folder.parent().and_then(Path::file_name).unwrap_or_default();
        // What it is made of; others than these are the tools, whose versions stand there too.
        let parts = [
            folder.clone(),
            Path::new("guest-sdk").join(language),
            "guest-sdk/wit".into(),
            "runtime/cli/src/languages".into(),
            "runtime/cli/src/languages.rs".into(),
        ];
        let made_of = digest(&parts)?;
        let name = folder.file_name().unwrap_or_default();
        let (wasm, stamp) =
            (folder.join("build").join(name).with_added_extension("wasm"), folder.join("build/made-of"));
        if wasm.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|before| before == made_of) {
            kept += 1;
            continue;
        }
        let path = folder.to_string_lossy();
        let mut build = sluice(&["plugin", "build", &path, "--setup"]);
        output(build.env("SLUICE_TOOLCHAINS", &toolchains))?;
        std::fs::write(&stamp, made_of)?;
        built += 1;
    }
    println!("plugins in other languages: {built} built, {kept} are as they were");
    Ok(())
}

/// Tells files apart by what is in them, but for what is built.
fn digest(parts: &[std::path::PathBuf]) -> Result<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let (mut left, mut files) = (parts.to_vec(), Vec::new());
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
            let own = entries.into_iter().map(|entry| entry.path());
            left.extend(own.filter(|path| !["build", "go.sum", "__pycache__"].iter().any(|own| path.ends_with(own))));
        } else {
            files.push(path);
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file.to_string_lossy(), std::fs::read(&file)?).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
