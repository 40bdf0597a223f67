//! `sluice audit`

use std::process::ExitCode;

use sluice_log::{Account, Audit, Error};

use crate::access::Access;
use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

/// Ranges of lost offsets that are listed for people.
const LISTED: usize = 20;

pub(crate) fn audit(global: &Global, verb: &args::Audit) -> Result<ExitCode, Failure> {
    let mut audit = Access::open_existing(global)?.audit()?;
    if let Some(name) = &verb.pipeline {
        audit.accounts.retain(|account| account.pipeline == *name);
        if audit.accounts.is_empty() {
            return Err(Error::UnknownPipeline(name.clone()).into());
        }
    }
    show::answer(global, &audit, || describe(&audit))?;
    let balances = audit.accounts.iter().all(|account| account.balances);
    Ok(if balances { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(audit: &Audit) -> String {
    let since = match audit.since {
        None => "the very beginning".to_owned(),
        Some(time) => {
            let time = jiff::Timestamp::from_millisecond(time).unwrap_or_default();
            format!("commit {} of {time:.0}", audit.since_seq)
        }
    };
    let mut out = format!("from {since} up to commit {}\n", audit.last_seq);
    if audit.accounts.is_empty() {
        out.push_str("no pipelines yet\n");
        return out;
    }
    let row = |account: &Account| {
        let numbers = [
            account.from,
            account.to,
            account.read,
            account.committed,
            account.filtered,
            account.dead,
            account.skipped,
            account.lost,
            account.rewinds,
        ];
        let at = format!("{}/{}", account.topic, account.partition);
        let balances = if account.balances { "yes" } else { "NO" };
        let numbers = numbers.map(|number| number.to_string()).to_vec();
        [vec![account.pipeline.clone(), at], numbers, vec![balances.to_owned()]].concat()
    };
    let head = [
        "PIPELINE",
        "PARTITION",
        "FROM",
        "TO",
        "READ",
        "COMMITTED",
        "FILTERED",
        "DEAD",
        "SKIPPED",
        "LOST",
        "REWINDS",
        "BALANCES",
    ];
    out.push_str(&show::table(&head, &audit.accounts.iter().map(row).collect::<Vec<_>>()));
    for account in &audit.accounts {
        let at = format!("{} on {}/{}", account.pipeline, account.topic, account.partition);
        for (from, to) in account.lost_ranges.iter().take(LISTED) {
            out.push_str(&format!(
                "{at}: offsets {from} to {} were claimed and have no outcome: lost, or in hand\n",
                to - 1
            ));
        }
        if account.lost_ranges.len() > LISTED {
            out.push_str(&format!("{at}: and {} more ranges; --json lists them\n", account.lost_ranges.len() - LISTED));
        }
        for error in &account.errors {
            out.push_str(&format!("{at}: {error}\n"));
        }
    }
    out
}
