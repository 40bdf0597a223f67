//! The same consumer, `late-flights` (JSON, a filter and a map: the kind of job that J1 is), in every language: what it costs to load, to start, and for each event.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use sluice_engine::{Consumer, Plugin};
use sluice_env::SystemClock;
use sluice_event::{Batch, NewEvent};
use sluice_host::{Compiler, Host, Limits, Stage};

use crate::Settings;
use crate::events::view;
use crate::measure::Spread;
use crate::report::{Cell, Table};

/// Events a call.
const BATCH: usize = 1024;
/// Calls each has in a round, in turn.
const CALLS: usize = 19;
const ROUNDS: usize = 7;
/// Instances made, one after the other.
const INSTANCES: usize = 20;

/// What a language costs.
struct Taken {
    language: String,
    bytes: usize,
    /// Seconds to compile it, and milliseconds to load it compiled.
    compiled: f64,
    loaded: f64,
    /// Microseconds to make an instance.
    instantiated: Spread,
    /// Nanoseconds an event.
    event: Spread,
    /// KiB of memory of an instance after the first round, and after the last.
    memory: (usize, usize),
}

/// The plugins: Rust's, and those of the folders of languages.
fn plugins() -> Result<Vec<(String, PathBuf)>> {
    let file = |folder: &Path| folder.join("late-flights/build/late-flights.wasm");
    let mut found = vec![("rust".to_owned(), file(Path::new("plugins")))];
    for entry in std::fs::read_dir("plugins")? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.extend(file(&folder).is_file().then(|| (name, file(&folder))));
    }
    found[1..].sort();
    Ok(found)
}

fn events() -> Result<Vec<Batch>> {
    let lines = std::fs::read_to_string("pipelines/data/flights.ndjson").context("the flights")?;
    let lines: Vec<&str> = lines.lines().collect();
    let batch = |lines: &[&str]| {
        let mut batch = Batch::default();
        lines.iter().try_for_each(|line| batch.push(&NewEvent { value: line.as_bytes(), ..NewEvent::default() }))?;
        anyhow::Ok(batch)
    };
    lines.chunks_exact(BATCH).take(CALLS).map(batch).collect()
}

/// A plugin under way.
struct Guest {
    taken: Taken,
    consumer: Box<dyn Consumer>,
    times: Vec<f64>,
    offset: u64,
}

/// The table that `guest-sdk/README.md` keeps.
pub(crate) fn run(_: &Settings) -> Result<Vec<Table>> {
    let all = measure()?;
    let rust = all[0].event.median;
    let mut table = Table::new(
        "languages",
        "`late-flights`, 19,456 flights in calls of 1,024, the guest alone",
        &[
            "KiB",
            "compiled, s",
            "loaded, ms",
            "an instance, µs",
            "ns an event",
            "of Rust's rate",
            "memory, KiB",
            "after 7 rounds",
        ],
    );
    for Taken { language, bytes, compiled, loaded, instantiated, event, memory } in all {
        let [bytes, first, last] = [bytes >> 10, memory.0, memory.1].map(|count| Cell::from(count as f64));
        let costs = [compiled.into(), loaded.into(), instantiated.into(), event.into(), (rust / event.median).into()];
        table.row(language, [bytes].into_iter().chain(costs).chain([first, last]));
    }
    Ok(vec![table])
}

fn measure() -> Result<Vec<Taken>> {
    let input = events()?;
    let cache = tempfile::tempdir()?;
    let mut guests =
        plugins()?.into_iter().map(|(name, file)| start(name, &file, cache.path())).collect::<Result<Vec<_>>>()?;
    let mut header = Vec::new();
    for round in 0..=ROUNDS {
        for guest in &mut guests {
            let begin = Instant::now();
            for batch in &input {
                header.clear();
                view(batch.count(), guest.offset).write(&mut header);
                guest.consumer.call(&header, batch.bytes(), &mut |_| {}).map_err(|error| anyhow!("{error:?}"))?;
                guest.offset += u64::from(batch.count());
            }
            let memory = guest.consumer.memory() >> 10;
            if round == 0 {
                guest.taken.memory.0 = memory;
            } else {
                guest.times.push(1e9 * begin.elapsed().as_secs_f64() / (BATCH * input.len()) as f64);
            }
            guest.taken.memory.1 = memory;
        }
    }
    Ok(guests.into_iter().map(|guest| Taken { event: Spread::of(guest.times), ..guest.taken }).collect())
}

fn start(language: String, file: &Path, cache: &Path) -> Result<Guest> {
    let wasm = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let limits = Limits { compile_memory: 8 << 30, ..Limits::default() };
    let load = || -> Result<_> {
        let begin = Instant::now();
        let host = Host::new(Some(cache), Arc::new(SystemClock), Compiler::Here)?;
        let code = host.load(&wasm, &limits)?;
        Ok((host, code, begin.elapsed().as_secs_f64()))
    };
    let (.., compiled) = load()?;
    let (host, code, loaded) = load()?;
    let stage = Stage::new(&host, &code, "guest", limits, "{}".into(), &["state", "timers"])?;
    let instantiate = || {
        let begin = Instant::now();
        let consumer = stage.instantiate(None).map_err(|error| anyhow!("{error:?}"))?;
        anyhow::Ok((consumer, 1e6 * begin.elapsed().as_secs_f64()))
    };
    let times = (0..INSTANCES).map(|_| anyhow::Ok(instantiate()?.1)).collect::<Result<Vec<_>>>()?;
    let (consumer, _) = instantiate()?;
    let (instantiated, event) = (Spread::of(times), Spread::of(vec![0.0]));
    let taken =
        Taken { language, bytes: wasm.len(), compiled, loaded: 1e3 * loaded, instantiated, event, memory: (0, 0) };
    Ok(Guest { taken, consumer, times: Vec::new(), offset: 0 })
}
