//! `sluice test`

use std::process::ExitCode;

use sluice_node::{Compiler, fixture};

use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn test(global: &Global, verb: &args::Test) -> Result<ExitCode, Failure> {
    let files = fixture::find(&verb.paths)?;
    if files.is_empty() {
        let failure = Failure::usage("no fixtures (*.test.toml) here");
        return Err(failure.help("name a file or a folder; the README shows how one is written"));
    }
    let results = fixture::run(&files, Compiler::Apart)?;
    let failed = results.iter().filter(|result| !result.differences.is_empty()).count();
    show::answer(global, &results, || {
        let mut out = String::new();
        for result in &results {
            let (file, case) = (result.file.display(), &result.case);
            let verdict = if result.differences.is_empty() { "ok" } else { "FAILED" };
            out.push_str(&format!("{file}: {case}: {verdict}\n"));
            result.differences.iter().for_each(|line| out.push_str(&format!("    {line}\n")));
        }
        let passed = results.len() - failed;
        out.push_str(&format!("{passed} passed, {failed} failed\n"));
        out
    })?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
