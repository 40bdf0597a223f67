//! `sluice backup`

use std::path::Path;
use std::process::ExitCode;

use crate::access::Access;
use crate::args::Global;
use crate::exit::Failure;
use crate::show;

pub(crate) fn backup(global: &Global, folder: &Path) -> Result<ExitCode, Failure> {
    let made = Access::open_existing(global)?.backup(&std::path::absolute(folder)?)?;
    show::answer(global, &made, || {
        let mut told = format!(
            "{} holds everything up to commit {}: {} files, {}; `sluice run --data {0}` goes on from there\n",
            folder.display(),
            made.seq,
            made.files,
            show::size(made.bytes)
        );
        for file in &made.damaged {
            told += &format!("damaged, and copied as it is: {}\n", file.display());
        }
        told
    })?;
    Ok(if made.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
