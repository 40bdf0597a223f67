//! Knows after a death which guest call was under way: a guest that brings the process down must not do so for ever.
//!
//! Before each call, a thread writes into its slot of the file `calls` what it is about to call with; afterwards that it is back. Nothing
//! is synced: what a process has written survives its death. A fatal signal leaves its number in the slot of the thread that it hit.
//!
//! ```text
//!  0  u32  "SLC1" while a call is under way, else 0     16  u32  partition
//!  4  u32  the fatal signal, 0 for none                 20  u32  number of events
//!  8  u32  pipeline                                     24  u64  the first event
//! 12  u32  topic                                        32  zeros up to 64
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sluice_engine::{UnderWay, Witness};
use sluice_log::{Commit, Error, Log, Order, TopicPartition};

const SLOT: u64 = 64;
const IN_CALL: u32 = u32::from_le_bytes(*b"SLC1");
/// More slots than threads that ever call guests.
const MAX_SLOTS: u64 = 4096;
/// Deaths by a fatal signal in a row in a pipeline's calls after which a pipeline is held.
const MOST_SIGNALS: u32 = 2;
/// Deaths without an explanation (SIGKILL, a power cut, no memory) in a row at one place after which a pipeline is held.
const MOST_UNEXPLAINED: u32 = 5;

/// Deaths in a row while a call was under way, and what the last one was called with.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Deaths {
    signals: u32,
    unexplained: u32,
    from: u64,
    to: u64,
}

/// The file of slots of a node.
pub(crate) struct Calls {
    file: File,
    next: AtomicU64,
    number: u64,
}

/// A call that was under way when the process died, and the signal that its thread died of, 0 for none; or only a signal.
type Found = (Option<UnderWay>, u32);

impl Calls {
    /// Opens the slots of a data directory, and says what was under way when the last process on it died.
    pub(crate) fn open(data: &Path) -> std::io::Result<(Self, Vec<Found>)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(data.join("calls"))?;
        let slots = (file.metadata()?.len() / SLOT).min(MAX_SLOTS);
        let mut found = Vec::new();
        for slot in 0..slots {
            let mut bytes = [0; SLOT as usize];
            file.read_exact_at(&mut bytes, slot * SLOT)?;
            found.extend(decode(&bytes));
        }
        sluice_env::note_fatal_signals(&file)?;
        Ok((Self { file, next: AtomicU64::new(0), number: NUMBER.fetch_add(1, Ordering::SeqCst) }, found))
    }

    /// Forgets what was found.
    pub(crate) fn clear(&self) -> std::io::Result<()> {
        self.file.set_len(0)
    }

    /// Where this thread's slot is. A process may have several nodes, one after the other.
    fn place(&self) -> u64 {
        thread_local! {
            static MINE: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
        }
        let mine = MINE.get().filter(|(number, _)| *number == self.number).map(|(_, place)| place);
        mine.unwrap_or_else(|| {
            let place = (self.next.fetch_add(1, Ordering::SeqCst) % MAX_SLOTS) * SLOT;
            MINE.set(Some((self.number, place)));
            sluice_env::set_place(place + 4);
            place
        })
    }
}

impl Witness for Calls {
    fn enter(&self, call: &UnderWay) {
        // A disk that takes no more is told of elsewhere.
        let _ = self.file.write_all_at(&encode(call), self.place());
    }

    fn leave(&self) {
        let _ = self.file.write_all_at(&[0; 8], self.place());
    }
}

fn encode(call: &UnderWay) -> [u8; SLOT as usize] {
    let mut slot = [0; SLOT as usize];
    let UnderWay { pipeline, source, from, events } = call;
    for (at, word) in [(0, IN_CALL), (8, *pipeline), (12, source.topic), (16, source.partition), (20, *events)] {
        slot[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    slot[24..32].copy_from_slice(&from.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT as usize]) -> Option<Found> {
    let word = |at: usize| slot[at..].first_chunk().copied().map(u32::from_le_bytes);
    let call = UnderWay {
        pipeline: word(8)?,
        source: TopicPartition { topic: word(12)?, partition: word(16)? },
        from: slot[24..].first_chunk().copied().map(u64::from_le_bytes)?,
        events: word(20)?,
    };
    let (in_call, signal) = (word(0)? == IN_CALL, word(4)?);
    (in_call || signal != 0).then_some((in_call.then_some(call), signal))
}

/// Counts the deaths of earlier processes, and holds the pipelines that seem to be at fault.
pub(crate) fn hold_culprits(log: &Log, data: &Path, found: &[Found]) -> Result<(), Error> {
    let path = data.join("deaths.json");
    let before = read_deaths(&path);
    // A fatal signal names one of the calls, or says that none is to blame; without one, any of them may be.
    let explained = found.iter().any(|(_, signal)| *signal != 0);
    let mut deaths: BTreeMap<String, Deaths> = BTreeMap::new();
    for (call, signal) in found.iter().filter(|(_, signal)| !explained || *signal != 0) {
        let Some(call) = call else { continue };
        let Some(info) = log.pipelines().into_iter().find(|info| info.id == call.pipeline) else { continue };
        let UnderWay { pipeline, source, from, events } = *call;
        let to = from.saturating_add(u64::from(events));
        // A signal is the doing of this pipeline wherever it was; without one, only dying at the same place again says something.
        let key = if explained { format!("{pipeline}") } else { format!("{pipeline} {source}") };
        let known = before.get(&key).filter(|known| explained || (known.from < to && from < known.to));
        let mut count = known.copied().unwrap_or_default();
        (count.from, count.to) = (from, to);
        if explained {
            count.signals += 1;
        } else {
            count.unexplained += 1;
        }
        if count.signals < MOST_SIGNALS && count.unexplained < MOST_UNEXPLAINED {
            deaths.insert(key, count);
            continue;
        }
        let (times, how) = match explained {
            true => (count.signals, format!("died of signal {signal}")),
            false => (count.unexplained, "died without a word".to_owned()),
        };
        let topic = log.topics().into_iter().find(|topic| topic.id == source.topic).map(|topic| topic.name);
        let place = match topic {
            Some(topic) => format!("a call with {topic}/{} offsets {from} to {}", source.partition, to.max(1) - 1),
            None => "starting its plugin".to_owned(),
        };
        let reason = format!("the node {how} {times} times in a row in {place}: its plugin may be to blame");
        tracing::error!(pipeline = info.name, reason, "is held: `sluice pipeline resume {}` lets it run", info.name);
        log.commit(Commit::order(Order::Hold(info.name, reason)))?;
    }
    write_deaths(&path, &deaths);
    Ok(())
}

/// Where a pipeline's plugin is started to see that it starts: no event is in hand then.
pub(crate) fn starting(pipeline: u32) -> UnderWay {
    UnderWay { pipeline, source: TopicPartition { topic: 0, partition: 0 }, from: 0, events: 1 }
}

fn read_deaths(path: &PathBuf) -> BTreeMap<String, Deaths> {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write_deaths(path: &PathBuf, deaths: &BTreeMap<String, Deaths>) {
    let written = if deaths.is_empty() {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    } else {
        serde_json::to_vec(deaths).map_err(std::io::Error::other).and_then(|bytes| std::fs::write(path, bytes))
    };
    if let Err(error) = written {
        tracing::warn!(%error, "cannot note how the last process died");
    }
}
