//! The calls to a guest alone: no log, no engine, one instance, the same batches again and again. Of several files, for a plugin that is tried in several
//! ways, each is called in turn. Between calls, other memory is touched, as the log and the engine do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use sluice_engine::{Consumer, Plugin};
use sluice_env::SystemClock;
use sluice_host::{Compiler, Host, Interruption, Limits, Stage};
use sluice_state::{MemoryStore, PartitionState, SharedState};

use crate::events::{Job, view};
use crate::measure::Spread;

/// Rounds; in each, every guest deals with all events.
const ROUNDS: usize = 15;

/// What is touched between calls: more than the caches of a core hold.
const BETWEEN: usize = 4 << 20;

/// Calls each guest with the job's events; nanoseconds for an event.
pub(crate) fn run(job: Job, events: u64, files: &[(PathBuf, Interruption)]) -> Result<Vec<Spread>> {
    let input = job.events(events);
    let start = |(file, interruption): &(PathBuf, Interruption)| {
        let host = Host::with_interruption(*interruption, None, Arc::new(SystemClock), Compiler::Here)?;
        instantiate(&host, file)
    };
    let mut guests = files.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut taken = vec![Vec::new(); guests.len()];
    let (mut header, mut between) = (Vec::new(), vec![0_u8; BETWEEN]);
    for round in 0..=ROUNDS {
        for (guest, taken) in guests.iter_mut().zip(&mut taken) {
            let (mut time, mut base_offset) = (Duration::ZERO, round as u64 * events);
            for batch in &input {
                header.clear();
                view(batch.count(), base_offset).write(&mut header);
                between.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
                let begin = Instant::now();
                guest.call(&header, batch.bytes(), &mut |_| {}).map_err(|error| anyhow!("{error:?}"))?;
                time += begin.elapsed();
                base_offset += u64::from(batch.count());
            }
            // In the first one the guest comes to know the keys.
            taken.extend((round > 0).then(|| 1e9 * time.as_secs_f64() / events as f64));
        }
    }
    Ok(taken.into_iter().map(Spread::of).collect())
}

fn instantiate(host: &Arc<Host>, file: &Path) -> Result<Box<dyn Consumer>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let limits = Limits::default();
    let code = host.load(&bytes, &limits)?;
    let stage = Stage::new(host, &code, "guest", limits, "{}".into(), &["state"])?;
    let state = SharedState::new(PartitionState::open(Arc::new(MemoryStore::default()))?);
    stage.instantiate(Some(state.stage("guest"))).map_err(|error| anyhow!("{error:?}"))
}
