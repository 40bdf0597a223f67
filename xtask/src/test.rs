//! `cargo xtask test`: the truth.

use anyhow::Result;

use crate::setup;
use crate::shell::{cargo, run};

pub(crate) fn test(kills: Option<u32>) -> Result<()> {
    let plugins = ["--manifest-path", "plugins/Cargo.toml"];
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["fmt", "--all", "--check"]).args(plugins))?;
    setup::test_tools()?;
    setup::plugins()?;
    setup::languages()?;
    run(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo(&["clippy", "--quiet", "--all-targets"]).args(plugins).args(["--", "-D", "warnings"]))?;
    run(cargo(&["test", "--quiet"]).args(plugins))?;
    // The examples' fixtures, as their authors run them.
    run(&mut cargo(&["run", "--quiet", "--package", "sluice-cli", "--", "test", "pipelines", "plugins"]))?;
    let mut tests = cargo(&["test", "--workspace"]);
    if let Some(kills) = kills {
        tests.env("SLUICE_TEST_KILLS", kills.to_string());
    }
    run(&mut tests)
}
