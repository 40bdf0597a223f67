//! `sluice replay` and `sluice verify`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;
use sluice_node::replay::{Difference, Kind, Replay, Request, Shown};

use crate::access::Access;
use crate::args::{self, Global};
use crate::exit::Failure;
use crate::show;

pub(crate) fn replay(global: &Global, verb: &args::Replay) -> Result<ExitCode, Failure> {
    let request = Request {
        pipeline: verb.pipeline.clone(),
        files: absolute(&verb.definitions)?,
        plugin: verb
            .plugin
            .as_ref()
            .map(|plugin| absolute(std::slice::from_ref(plugin)))
            .transpose()?
            .map(|mut p| p.remove(0)),
        stage: verb.stage.clone(),
        from: verb.from.to_string(),
        to: verb.to.to_string(),
        into: verb.into.clone(),
    };
    let replay = run(global, &request)?;
    show::answer(global, &replay, || describe(&replay, std::io::stdout().is_terminal()))?;
    Ok(if replay.into.is_none() && replay.differs() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn verify(global: &Global, verb: &args::Verify) -> Result<ExitCode, Failure> {
    let request = Request {
        pipeline: verb.pipeline.clone(),
        files: absolute(&verb.definitions)?,
        plugin: None,
        stage: None,
        from: verb.from.to_string(),
        to: verb.to.to_string(),
        into: None,
    };
    let replay = run(global, &request)?;
    show::answer(global, &replay, || {
        let mut out = describe(&replay, std::io::stdout().is_terminal());
        out.push_str(&format!("outputs {}\n", replay.outputs_hash));
        for part in &replay.partitions {
            if let Some(state) = &part.state {
                out.push_str(&format!("state of {}/{} at {} {}\n", part.topic, part.partition, part.to, state.hash));
            }
        }
        out
    })?;
    Ok(if replay.differs() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Failures that are nobody's usage end with 3: 1 says that something differs.
fn run(global: &Global, request: &Request) -> Result<Replay, Failure> {
    Access::open_existing(global)?.replay(request).map_err(Failure::not_a_difference)
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    Ok(paths.iter().map(std::path::absolute).collect::<Result<_, _>>()?)
}

fn describe(replay: &Replay, colour: bool) -> String {
    let rows: Vec<_> = replay
        .partitions
        .iter()
        .map(|part| {
            let state = match &part.state {
                None => "none".to_owned(),
                Some(state) if !state.compared => "not compared: no commit ends there".to_owned(),
                Some(state) if state.differing == 0 => "same".to_owned(),
                Some(state) => format!("{} keys differ", state.differing),
            };
            let range = [part.from, part.to, part.to - part.from].map(|number| number.to_string());
            [vec![format!("{}/{}", part.topic, part.partition)], range.to_vec(), vec![state]].concat()
        })
        .collect();
    let mut out = show::table(&["PARTITION", "FROM", "TO", "EVENTS", "STATE"], &rows);
    out.push('\n');
    let Replay { outputs, dead, same, added, missing, changed, .. } = replay;
    if let Some(topic) = &replay.into {
        out.push_str(&format!("{outputs} outputs appended to {topic}; {dead} events or timers failed\n"));
        return out;
    }
    out.push_str(&format!("outputs: {same} same, {added} added, {missing} missing, {changed} changed\n"));
    if *dead > 0 {
        out.push_str(&format!("{dead} events or timers failed, and are left out\n"));
    }
    for difference in &replay.differences {
        tell(difference, colour, &mut out);
    }
    let told = replay.differences.len() as u64;
    let more = (added + missing + changed).saturating_sub(told);
    if more > 0 {
        out.push_str(&format!("and {more} more\n"));
    }
    for state in replay.partitions.iter().filter_map(|part| part.state.as_ref().map(|state| (part, state))) {
        let (part, state) = state;
        for (stage, key) in &state.keys {
            let key = String::from_utf8_lossy(key);
            out.push_str(&format!("state of {}/{}, stage {stage}: {key:?} differs\n", part.topic, part.partition));
        }
    }
    out
}

fn paint(colour: bool, code: u8, line: &str) -> String {
    let line = sluice_node::legible(line);
    if colour { format!("\u{1b}[{code}m{line}\u{1b}[0m\n") } else { format!("{line}\n") }
}

const RED: u8 = 31;
const GREEN: u8 = 32;

/// Tells a difference: lines with `-` as it was committed, with `+` as it came out; of JSON only what differs.
fn tell(difference: &Difference, colour: bool, out: &mut String) {
    let of = if difference.of_timer { "timers before" } else { "event" };
    let Difference { kind, topic, partition, offset, ordinal, .. } = difference;
    let kind = match kind {
        Kind::Added => "added",
        Kind::Missing => "missing",
        Kind::Changed => "changed",
    };
    out.push_str(&format!("\n{topic}: {kind}, output {ordinal} of {of} {partition}:{offset}\n"));
    if let (Some(was), Some(is)) = (&difference.was, &difference.is)
        && let (Ok(old), Ok(new)) =
            (serde_json::from_slice::<Value>(&was.value), serde_json::from_slice::<Value>(&is.value))
        && old != new
        && (was.timestamp, &was.key, &was.headers) == (is.timestamp, &is.key, &is.headers)
    {
        let mut paths = Vec::new();
        differing("value", &old, &new, &mut paths);
        for (path, old, new) in paths {
            let told = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            out.push_str(&paint(colour, RED, &format!("- {path}: {}", told(old))));
            out.push_str(&paint(colour, GREEN, &format!("+ {path}: {}", told(new))));
        }
        return;
    }
    let line = |shown: &Shown| {
        let headers: serde_json::Map<String, Value> =
            shown.headers.iter().map(|(name, value)| (name.clone(), show::bytes(value))).collect();
        let mut told = serde_json::json!({
            "timestamp": shown.timestamp,
            "key": shown.key.as_deref().map(show::bytes),
            "value": show::bytes(&shown.value),
        });
        if !headers.is_empty() {
            told["headers"] = headers.into();
        }
        told.to_string()
    };
    if let Some(was) = &difference.was {
        out.push_str(&paint(colour, RED, &format!("- {}", line(was))));
    }
    if let Some(is) = &difference.is {
        out.push_str(&paint(colour, GREEN, &format!("+ {}", line(is))));
    }
}

type Differing<'a> = (String, Option<&'a Value>, Option<&'a Value>);

/// Where two values differ.
fn differing<'a>(path: &str, old: &'a Value, new: &'a Value, out: &mut Vec<Differing<'a>>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = format!("{path}.{key}");
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => differing(&path, old, new, out),
                    (old, new) => out.push((path, old, new)),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differing(&format!("{path}[{index}]"), old, new, out);
            }
        }
        _ if old == new => {}
        _ => out.push((path.to_owned(), Some(old), Some(new))),
    }
}
