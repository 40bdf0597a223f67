//! `sluice rewind`

use std::process::ExitCode;

use sluice_node::operate::{Request, Rewind, Target};
use sluice_node::state::StateChoice;

use crate::access::Access;
use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn rewind(global: &Global, verb: &args::Rewind) -> Result<ExitCode, Failure> {
    let target = match (&verb.to, verb.undo) {
        (Some(target), false) => target.clone(),
        (None, true) => Target::Undo,
        _ => {
            let failure = Failure::usage("say where to: --to PLACE, or --undo");
            return Err(failure.help("`sluice rewind NAME --to earliest` shows what it would do"));
        }
    };
    let request = Request { target, state: verb.state, into: verb.into.clone(), really: verb.yes };
    let rewind = Access::open_existing(global)?.rewind(&verb.pipeline, &request)?;
    show::answer(global, &rewind, || describe(&rewind))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn describe(rewind: &Rewind) -> String {
    let rows: Vec<_> = rewind
        .moves
        .iter()
        .map(|moved| {
            let what = match moved.from.cmp(&moved.to) {
                std::cmp::Ordering::Equal => "stays".to_owned(),
                std::cmp::Ordering::Greater => format!("{} events again", moved.from - moved.to),
                std::cmp::Ordering::Less => format!("{} events passed over", moved.to - moved.from),
            };
            vec![format!("{}/{}", moved.topic, moved.partition), moved.from.to_string(), moved.to.to_string(), what]
        })
        .collect();
    let mut out = show::table(&["PARTITION", "CURSOR", "NEW CURSOR", ""], &rows);
    let Rewind { pipeline, again, passed_over, done, .. } = rewind;
    let again_for_state: u64 = rewind.moves.iter().map(|moved| moved.for_state).sum();
    out.push('\n');
    match rewind.state {
        Some(StateChoice::Reset) => out.push_str("state: reset, begins empty\n"),
        Some(StateChoice::Restore) if again_for_state > 0 => out.push_str(&format!(
            "state: as it was there; {again_for_state} events before are dealt with again for it, without outputs\n"
        )),
        Some(StateChoice::Restore) => out.push_str("state: as it was there\n"),
        None => {}
    }
    if *done {
        out.push_str(&format!("pipeline {pipeline} rewound; `sluice rewind {pipeline} --undo --yes` takes it back\n"));
    } else {
        let whereto = rewind.into.as_ref().map_or("again".to_owned(), |topic| format!("to topic {topic}"));
        out.push_str(&format!(
            "pipeline {pipeline} would read {again} events again and pass over {passed_over}. What it has written stays: outputs of events\n\
             that are read again are appended {whereto}. Nothing was changed; add --yes to do it.\n"
        ));
    }
    out
}
