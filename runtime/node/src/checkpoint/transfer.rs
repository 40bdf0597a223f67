//! Checkpoints as single files, to be kept elsewhere or taken to another data directory.
//!
//! ```text
//!  0  "SLUICE-CHECKPOINT 1\n"
//! 20  u32 length, that many bytes of JSON: the checkpoint, and of each state how it stood
//! ..  per state, in the order of the JSON: per entry u32 key length, u32 value length, i64 expiry (0 never), full key, value; then u32 0xffffffff
//! ..  SHA-256 of all bytes before
//! ```
//!
//! An imported state belongs to no changelog. Its line is a stretch of offsets that no changelog has (from [`IMPORTED`] on), and what it holds stands in
//! its snapshot alone.

use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_log::{Error, Log, PipelineInfo};
use sluice_state::{
    Applied, Cursors, Delta, FLUSH_BYTES, Head, Layer, LsmStore, PartitionState, SharedState, StoreCache, WriterSeen,
};

use super::{Checkpoint, Kept, cannot, check_name, file, find, remove, write};
use crate::state::{self, Past};

const MAGIC: &[u8; 20] = b"SLUICE-CHECKPOINT 1\n";
const END: u32 = u32::MAX;
/// The longest JSON that is read.
const MAX_JSON: u32 = 64 << 20;
/// The longest key and value that are read: more than can be kept.
const MAX_ENTRY: u32 = 16 << 20;
/// Lines of imported states lie behind this offset, to which no changelog comes.
pub(crate) const IMPORTED: u64 = 1 << 62;

/// How a state stood.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stood {
    origin: Cursors,
    /// The topic of the event that was dealt with last.
    topic: Option<u32>,
    watermark: Option<i64>,
    fired_outputs: u32,
    late: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Header {
    checkpoint: Checkpoint,
    /// Of each part that has a state, in order.
    states: Vec<Stood>,
}

/// Hashes what passes through.
struct Hashed<T> {
    inner: T,
    hasher: Sha256,
}

impl<T: Write> Hashed<T> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashed<T> {
    fn take(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hasher.update(&*bytes);
        Ok(())
    }

    fn word(&mut self) -> std::io::Result<u32> {
        let mut word = [0; 4];
        self.take(&mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn bytes(&mut self, len: u32, most: u32) -> std::io::Result<Vec<u8>> {
        if len > most {
            return Err(std::io::Error::other("a length is out of bounds"));
        }
        let mut bytes = vec![0; len as usize];
        self.take(&mut bytes)?;
        Ok(bytes)
    }
}

/// Writes a checkpoint to a file, which is whole once it has its name; `shared` brings up states.
#[expect(clippy::disallowed_methods, reason = "a file of the user's, no part of the log")]
pub(crate) fn export(
    log: &Log,
    shared: impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error>,
    name: &str,
    to: &Path,
) -> Result<Checkpoint, Error> {
    let checkpoint = find(log.root(), name)?;
    if to.exists() {
        return Err(Error::Invalid(format!("{} is there already: choose another file", to.display())));
    }
    let (mut sides, mut states) = (Vec::new(), Vec::new());
    for stood in &checkpoint.pipelines {
        let info = log.pipeline(&stood.pipeline).ok_or_else(|| Error::UnknownPipeline(stood.pipeline.clone()))?;
        checkpoint.of(&info)?;
        let past = Past::of(log, &shared, &info);
        for part in &stood.partitions {
            if let (Some(kept), Some(past)) = (&part.state, &past) {
                let side = past.side_at(part.partition, &kept.line)?;
                let applied = side.state.lock().applied().clone();
                let Applied { origin, topic, watermark, fired_outputs, late, .. } = applied;
                states.push(Stood { origin, topic, watermark, fired_outputs, late });
                sides.push(side);
            }
        }
    }
    let partial = to.with_added_extension("partial");
    let failed = cannot("write", to);
    let mut out =
        Hashed { inner: BufWriter::new(std::fs::File::create(&partial).map_err(&failed)?), hasher: Sha256::new() };
    let json = serde_json::to_vec(&Header { checkpoint: checkpoint.clone(), states }).unwrap_or_default();
    let mut written =
        out.put(MAGIC).and_then(|()| out.put(&(json.len() as u32).to_le_bytes())).and_then(|()| out.put(&json));
    for side in &sides {
        state::every(&side.state.lock(), &mut |change| {
            if written.is_ok() {
                let value = change.value.unwrap_or_default();
                let lengths = [change.key.len() as u32, value.len() as u32].map(u32::to_le_bytes).concat();
                let expires = change.expires.unwrap_or(0).to_le_bytes();
                written = out.put(&[&lengths[..], &expires, change.key, value].concat());
            }
        })?;
        written = written.and_then(|()| out.put(&END.to_le_bytes()));
    }
    let hash = out.hasher.finalize_reset();
    let result = written
        .and_then(|()| out.inner.write_all(&hash))
        .and_then(|()| out.inner.flush())
        .and_then(|()| out.inner.get_ref().sync_all())
        .and_then(|()| std::fs::rename(&partial, to));
    result.map_err(failed).inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
    Ok(checkpoint)
}

/// Takes a checkpoint in from a file, under its own name or another, for the pipelines of the same names here.
pub(crate) fn import(log: &Log, from: &Path, name: Option<&str>) -> Result<Checkpoint, Error> {
    let bad =
        |what: &dyn std::fmt::Display| Error::Invalid(format!("{} is no whole checkpoint: {what}", from.display()));
    // All of it is read before anything is made of it.
    check(from).map_err(|error| bad(&error))?;
    let mut input = open(from).map_err(|error| bad(&error))?;
    let header = header(&mut input).map_err(|error| bad(&error))?;
    let mut checkpoint = header.checkpoint;
    checkpoint.name = name.unwrap_or(&checkpoint.name).to_owned();
    check_name(&checkpoint.name)?;
    let data = log.root();
    if file(data, &checkpoint.name).exists() {
        let what =
            format!("there is a checkpoint {} already: delete it, or name this one with --name", checkpoint.name);
        return Err(Error::Invalid(what));
    }
    let ids = belongs_here(log, &mut checkpoint)?;
    let mut base = IMPORTED + (checkpoint.time.unsigned_abs() << 20);
    let mut states = header.states.into_iter();
    let name = checkpoint.name.clone();
    for stood in &mut checkpoint.pipelines {
        for part in &mut stood.partitions {
            let super::Part { partition, state: Some(kept), .. } = part else { continue };
            let came = states.next().unwrap_or_default();
            let folder = state::snapshot_folder(data, ids.pipelines[&stood.pipeline], *partition, &name);
            remove(&folder)?;
            *kept = take_in(&mut input, &folder, base, &came, &ids).inspect_err(|_| drop(remove(&folder)))?;
            base += 1 << 16;
        }
    }
    // Now it is there.
    write(data, &checkpoint)?;
    Ok(checkpoint)
}

/// The ids that things have here.
#[derive(Default)]
struct Ids {
    /// Of pipelines, by name.
    pipelines: HashMap<String, u32>,
    /// Of topics, by the id that they have there.
    topics: HashMap<u32, u32>,
}

impl Ids {
    fn topic(&self, there: u32) -> u32 {
        self.topics.get(&there).copied().unwrap_or(there)
    }
}

/// Puts this directory's ids in place of the other's, and checks that the checkpoint can stand here.
fn belongs_here(log: &Log, checkpoint: &mut Checkpoint) -> Result<Ids, Error> {
    let mut ids = Ids::default();
    for stood in &mut checkpoint.pipelines {
        let info = log.pipeline(&stood.pipeline).ok_or_else(|| {
            let what = format!("pipeline {} has never run here", stood.pipeline);
            Error::Invalid(format!("{what}: start it once, with its source topics, then import"))
        })?;
        stood.id = info.id;
        ids.pipelines.insert(stood.pipeline.clone(), info.id);
        for part in &mut stood.partitions {
            let topic = log.topic(&part.topic)?;
            ids.topics.insert(part.topic_id, topic.id);
            part.topic_id = topic.id;
            let high = log.partition(&topic, part.partition)?.high_watermark();
            if part.cursor > high {
                let what = format!("{}/{} has events up to {high} only", part.topic, part.partition);
                return Err(Error::Invalid(format!("{what}, and the checkpoint stands at {}", part.cursor)));
            }
        }
        let keeps = log.topic(&sluice_config::changelog_topic(&stood.pipeline)).is_ok();
        if stood.partitions.iter().any(|part| stood.state(part.partition).is_some() != keeps) {
            let what = format!("pipeline {} keeps {} here", stood.pipeline, if keeps { "state" } else { "no state" });
            return Err(Error::Invalid(format!("{what}, other than in the checkpoint")));
        }
    }
    Ok(ids)
}

/// Makes a snapshot of the entries that come next, of a state that stood so; its line begins at `base`.
fn take_in(
    input: &mut Hashed<BufReader<std::fs::File>>,
    folder: &Path,
    base: u64,
    stood: &Stood,
    ids: &Ids,
) -> Result<Kept, Error> {
    let store_failed = |error: sluice_state::Error| Error::Invalid(error.to_string());
    let read_failed = |error: std::io::Error| Error::Invalid(format!("the checkpoint's file: {error}"));
    let store = LsmStore::open(folder, &StoreCache::default()).map_err(store_failed)?;
    let mut state = PartitionState::open(Arc::new(store)).map_err(store_failed)?;
    let origin = stood.origin.iter().map(|(topic, offset)| (ids.topic(*topic), *offset)).collect();
    state.stand(origin, stood.topic.map(|topic| ids.topic(topic)), stood.late);
    state.go_on_at(base);
    let mut offset = base;
    let head = Head { watermark: stood.watermark, fired_outputs: stood.fired_outputs, ..Head::default() };
    let mut delta = Delta { head, layer: Layer::default() };
    let mut flush = |state: &mut PartitionState, delta: &mut Delta| {
        state.apply(offset, delta).map_err(store_failed)?;
        offset += 1;
        delta.layer.clear();
        state.start_flush().map_or(Ok(()), |flush| {
            let result = flush.run();
            state.flushed(&flush, result.clone());
            result.map_err(store_failed)
        })
    };
    loop {
        let key_len = input.word().map_err(read_failed)?;
        if key_len == END {
            break;
        }
        let value_len = input.word().map_err(read_failed)?;
        let expires = input.bytes(8, 8).map_err(read_failed)?;
        let expires = i64::from_le_bytes(*expires.first_chunk().unwrap_or(&[0; 8]));
        let mut key = input.bytes(key_len, MAX_ENTRY).map_err(read_failed)?;
        let stands = WriterSeen::move_to(&mut key, |topic| ids.topics.get(&topic).copied());
        let value = input.bytes(value_len, MAX_ENTRY).map_err(read_failed)?;
        if stands {
            delta.layer.push(&[], &key, Some(&value), (expires != 0).then_some(expires));
        }
        if delta.layer.bytes() >= FLUSH_BYTES {
            flush(&mut state, &mut delta)?;
        }
    }
    flush(&mut state, &mut delta)?;
    let applied = state.applied();
    let (line, keys) = (applied.line(), applied.usage.values().map(|usage| usage.keys).sum());
    drop(state);
    Ok(Kept { snapshot: line.clone(), line, bytes: state::files_size(folder), keys })
}

#[expect(clippy::disallowed_methods, reason = "a file of the user's, no part of the log")]
fn open(from: &Path) -> std::io::Result<Hashed<BufReader<std::fs::File>>> {
    Ok(Hashed { inner: BufReader::new(std::fs::File::open(from)?), hasher: Sha256::new() })
}

fn header(input: &mut Hashed<BufReader<std::fs::File>>) -> std::io::Result<Header> {
    let magic = input.bytes(MAGIC.len() as u32, MAGIC.len() as u32)?;
    if magic != MAGIC {
        return Err(std::io::Error::other("it does not begin like one of version 1"));
    }
    let len = input.word()?;
    let json = input.bytes(len, MAX_JSON)?;
    let header: Header = serde_json::from_slice(&json)?;
    let states = header.checkpoint.pipelines.iter().flat_map(|stood| &stood.partitions);
    if states.filter(|part| part.state.is_some()).count() != header.states.len() {
        return Err(std::io::Error::other("its states are not those that it says"));
    }
    Ok(header)
}

/// Checks the hash at the end.
#[expect(clippy::disallowed_methods, reason = "a file of the user's, no part of the log")]
fn check(from: &Path) -> std::io::Result<()> {
    const HASH: u64 = 32;
    let mut file = std::fs::File::open(from)?;
    let len = file.metadata()?.len();
    let body = len.checked_sub(HASH).ok_or_else(|| std::io::Error::other("it is cut short"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = (&mut file).take(body);
    loop {
        match left.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let mut hash = [0; HASH as usize];
    file.read_exact(&mut hash)?;
    let is_whole = hasher.finalize().as_slice() == hash;
    if is_whole { Ok(()) } else { Err(std::io::Error::other("it is cut short, or damaged")) }
}
