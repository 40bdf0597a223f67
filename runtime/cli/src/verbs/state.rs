//! `sluice state`

use std::process::ExitCode;

use serde_json::{Value, json};
use sluice_node::state::{Entry, Found, Query};

use crate::access::Access;
use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

/// What the table shows of a value.
const VALUE_CHARS: usize = 100;

pub(crate) fn state(global: &Global, verb: &args::State) -> Result<ExitCode, Failure> {
    match verb {
        args::State::Get { pipeline, key, stage } => {
            let query = Query { stage: stage.clone(), key: key.clone().into_bytes(), whole: true, max: 1000 };
            let found = Access::open_existing(global)?.look(pipeline, &query)?;
            if found.entries.is_empty() {
                let failure = Failure::failed(format!("pipeline {pipeline} keeps nothing under {key:?}"));
                return Err(failure.help(format!("`sluice state scan {pipeline}` shows keys")));
            }
            if global.json || found.entries.len() > 1 {
                show_all(global, &found)?;
            } else {
                show::print(&format!("{}\n", String::from_utf8_lossy(&found.entries[0].value)))?;
            }
        }
        args::State::Scan { pipeline, prefix, stage, max } => {
            let query = Query { stage: stage.clone(), key: prefix.clone().into_bytes(), whole: false, max: *max };
            let found = Access::open_existing(global)?.look(pipeline, &query)?;
            show_all(global, &found)?;
            if found.more && !global.json {
                show::print(&format!("… and more: --max N shows more than {max}, --prefix fewer\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_all(global: &Global, found: &Found) -> Result<(), Failure> {
    let answer = json!({ "entries": found.entries.iter().map(to_json).collect::<Vec<_>>(), "more": found.more });
    show::answer(global, &answer, || {
        let text = |bytes: &[u8]| sluice_node::brief(&String::from_utf8_lossy(bytes), VALUE_CHARS);
        let row = |entry: &Entry| {
            let expires = entry.expires.map_or_else(String::new, show::time);
            vec![entry.partition.to_string(), entry.stage.clone(), text(&entry.key), text(&entry.value), expires]
        };
        let rows: Vec<_> = found.entries.iter().map(row).collect();
        show::table(&["PARTITION", "STAGE", "KEY", "VALUE", "EXPIRES"], &rows)
    })
}

fn to_json(entry: &Entry) -> Value {
    json!({
        "partition": entry.partition, "stage": entry.stage, "version": entry.version, "key": show::bytes(&entry.key),
        "value": show::bytes(&entry.value), "expires": entry.expires,
    })
}
