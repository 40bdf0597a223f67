//! The project's own commands: `cargo xtask demo | test | plugins | bench | guests | setup`.
#![allow(clippy::print_stdout)]

mod demo;
mod setup;
mod shell;
mod test;

use anyhow::{Result, bail};

const USAGE: &str = "cargo xtask COMMAND

  demo      set up, build, and run 20,000 real flights through a sandboxed consumer; kill it, run it again
  test      set up, then formatting, clippy and all tests; `--kills N` sets the number of kills of the crash test
  plugins   set up, and build the example plugins, in all languages
  bench     measure, beside native ceilings and neighbours (under an hour); `bench --help` tells of its parts, --compare and --plots
  guests    build the guest in C of the tests again (its .wasm is kept in tests/guests)
  setup     install what is missing: Rust's standard library for wasm32, strace for the tests";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    std::env::set_current_dir(shell::root())?;
    match words.as_slice() {
        ["demo"] => demo::demo(),
        ["test"] => test::test(None),
        ["test", "--kills", kills] => test::test(Some(kills.parse()?)),
        ["plugins"] => setup::plugins().and_then(|_| setup::languages()),
        ["bench", rest @ ..] => {
            setup::plugins()?;
            shell::run(shell::cargo(&["run", "--release", "--package", "sluice-bench", "--"]).args(rest))
        }
        ["guests"] => setup::guests(),
        ["setup"] => setup::setup().and_then(|()| setup::test_tools()),
        [] | ["help" | "--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown: {}\n\n{USAGE}", other.join(" ")),
    }
}
