//! `sluice plugin run`

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;
use sluice_event::NewEvent;
use sluice_host::Compiler;
use sluice_node::fixture::{Asked, Before, Outcomes, outcomes};

use crate::args::{Global, PluginRun};
use crate::exit::Failure;
use crate::show;

/// An event of the file.
struct Given {
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    timestamp: i64,
    headers: Vec<(String, Vec<u8>)>,
}

pub(crate) fn run(global: &Global, verb: &PluginRun) -> Result<ExitCode, Failure> {
    let config = serde_json::from_str(&verb.config)
        .map_err(|error| Failure::usage(format!("--config is no JSON object: {error}")))?;
    let text = std::fs::read(&verb.events)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", verb.events.display())))?;
    let lines = text.strip_suffix(b"\n").unwrap_or(&text).split(|byte| *byte == b'\n');
    let mut given = Vec::new();
    for (number, line) in (1..).zip(lines.filter(|_| !text.is_empty())) {
        given.push(
            event(verb, line)
                .map_err(|what| Failure::usage(format!("{}, line {number}: {what}", verb.events.display())))?,
        );
    }
    let headers: Vec<Vec<(&str, &[u8])>> =
        given.iter().map(|event| event.headers.iter().map(|(name, value)| (&**name, &**value)).collect()).collect();
    let events = given.iter().zip(&headers).map(|(event, headers)| NewEvent {
        timestamp: event.timestamp,
        key: event.key.as_deref(),
        value: &event.value,
        headers,
        origin: None,
    });
    let asked = Asked {
        plugin: verb.plugin.clone(),
        config,
        sinks: verb.sink.clone(),
        close_windows: verb.close_windows,
        changes: verb.changes,
        // Where a node runs here, what it has compiled is used.
        cache: global.data.is_dir().then(|| global.data.join("cache")),
        before: match &verb.state {
            Some(file) => before(file).map_err(|what| {
                Failure::usage(format!("{}: {what}", file.display()))
                    .help("--state takes what an earlier `sluice plugin run … --json` has printed")
            })?,
            None => Before::default(),
        },
    };
    let came = outcomes(&asked, Compiler::Apart, events)?;
    show::answer(global, &came, || describe(&came))?;
    Ok(if came.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What an earlier run has kept.
fn before(file: &Path) -> Result<Before, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let told: Value = serde_json::from_slice(&text).map_err(|error| format!("no JSON: {error}"))?;
    let version = told.get("state_version").and_then(Value::as_u64).and_then(|version| version.try_into().ok());
    let kept = |value: &Value| {
        let bytes = |name: &str| sluice_node::text::bytes_of_json(value.get(name)?);
        Some((bytes("key")?, bytes("value")?, value.get("expires").and_then(Value::as_i64)))
    };
    let values: Option<_> = told.get("state").and_then(Value::as_array).map(|all| all.iter().map(kept).collect());
    match (version, values.flatten()) {
        (Some(version), Some(values)) => Ok(Before { version, values }),
        _ => Err("no `state` with keys and values, or no `state_version`".to_owned()),
    }
}

fn event(verb: &PluginRun, line: &[u8]) -> Result<Given, String> {
    if !verb.events_json {
        let key = verb.key.as_ref().and_then(|field| {
            let value: Value = serde_json::from_slice(line).ok()?;
            match value.get(field)? {
                Value::String(text) => Some(text.clone().into_bytes()),
                other => Some(other.to_string().into_bytes()),
            }
        });
        return Ok(Given { key, value: line.to_vec(), timestamp: 0, headers: Vec::new() });
    }
    let object: Value = serde_json::from_slice(line).map_err(|error| format!("no JSON: {error}"))?;
    let bytes = |value: &Value| {
        sluice_node::text::bytes_of_json(value).ok_or_else(|| format!("neither text nor base64: {value}"))
    };
    let header = |pair: &Value| match pair {
        Value::Object(object) => {
            let name = object.get("name").and_then(Value::as_str).ok_or("a header has no name")?;
            Ok((name.to_owned(), bytes(object.get("value").unwrap_or(&Value::Null))?))
        }
        other => Err(format!("no header: {other}")),
    };
    Ok(Given {
        key: object.get("key").filter(|key| !key.is_null()).map(bytes).transpose()?,
        value: bytes(object.get("value").unwrap_or(&Value::Null))?,
        timestamp: object.get("timestamp").and_then(Value::as_i64).unwrap_or(0),
        headers: object
            .get("headers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(header)
            .collect::<Result<_, _>>()?,
    })
}

fn describe(came: &Outcomes) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), sluice_node::legible);
    let mut out = String::new();
    for output in &came.outputs {
        let key = output.key.as_ref().map_or_else(|| "-".to_owned(), text);
        out += &format!("{}  {key}  {}\n", output.sink, text(&output.value));
    }
    for failure in &came.failures {
        out += &format!("event {} failed: {}\n", failure.event, failure.reason);
    }
    for change in came.changes.iter().flatten() {
        let value = change.value.as_ref().map_or_else(|| "nothing any more".to_owned(), text);
        out += &format!("event {} keeps  {}  {value}\n", change.event, text(&change.key));
    }
    for kept in &came.state {
        out += &format!("kept  {}  {}\n", text(&kept.key), text(&kept.value));
    }
    let (outputs, failures, kept) = (came.outputs.len(), came.failures.len(), came.state.len());
    out + &format!("{outputs} outputs, {failures} failures, {kept} values kept\n")
}
