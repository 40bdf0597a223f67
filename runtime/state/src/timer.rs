//! Timers: they stand in the changelog by their keys, and in the state by their times as well.

use sluice_event::{Clock, DueTimer};

use crate::key::{INDEX, MAX_STAGE_NAME, TIMER, sortable, unsortable};
use crate::layer::Layer;

/// The longest key and the longest tag of a timer.
pub const MAX_TIMER_KEY_BYTES: usize = 4096;

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// The stage that set it.
    pub stage: String,
    /// What it goes by.
    pub clock: Clock,
    /// When it fires, ms since the epoch.
    pub time: i64,
    /// The key it was set under.
    pub key: Vec<u8>,
    /// Timers of one key are told apart by it.
    pub tag: Vec<u8>,
}

impl Timer {
    /// As it comes with a batch, before the event of this index.
    pub fn due(&self, before: u32) -> DueTimer<'_> {
        DueTimer { before, time: self.time, clock: self.clock, key: &self.key, tag: &self.tag }
    }

    /// Removes it: it has fired.
    pub fn remove(&self, changes: &mut Layer) {
        set_timer(&self.stage, &self.key, &self.tag, None, changes);
    }

    /// The timer of a key in the index.
    pub(crate) fn of_index(key: &[u8]) -> Option<Self> {
        let (head, rest) = key.split_first_chunk::<2>()?;
        let clock = Clock::of(head[1]).ok().filter(|_| head[0] == INDEX)?;
        let (time, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first()?;
        let (stage, rest) = rest.split_at_checked(usize::from(*len))?;
        let (len, rest) = rest.split_first_chunk()?;
        let (key, tag) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        let stage = std::str::from_utf8(stage).ok()?.to_owned();
        Some(Self { stage, clock, time: unsortable(*time), key: key.to_vec(), tag: tag.to_vec() })
    }
}

/// Has changes set a stage's timer, to a clock and a time in ms since the epoch, or clear it. Where it stands: u8 3, u8 length of the stage's
/// name, the name, u32 length of the key (big-endian), key, tag; the value is u8 clock, i64 time.
pub fn set_timer(stage: &str, key: &[u8], tag: &[u8], to: Option<(Clock, i64)>, changes: &mut Layer) {
    let mut full = prefix(stage);
    full.extend_from_slice(&(key.len() as u32).to_be_bytes());
    full.extend_from_slice(key);
    let value = to.map(|(clock, time)| {
        let mut value = [clock as u8; 9];
        value[1..].copy_from_slice(&time.to_le_bytes());
        value
    });
    changes.push(&full, tag, value.as_ref().map(|value| &value[..]), None);
}

/// What the keys of a stage's timers begin with.
pub(crate) fn prefix(stage: &str) -> Vec<u8> {
    debug_assert!(stage.len() <= MAX_STAGE_NAME);
    [&[TIMER, stage.len() as u8], stage.as_bytes()].concat()
}

/// Where a timer stands by its time, given its key and value: u8 4, u8 clock, the time (as for expiries), then its key but for the first byte.
pub(crate) fn index_key(key: &[u8], value: &[u8]) -> Option<Box<[u8]>> {
    let (clock, time) = value.split_first()?;
    let time = i64::from_le_bytes(*time.first_chunk()?);
    Some([&[INDEX, *clock][..], &sortable(time), &key[1..]].concat().into())
}

/// What all timers of a clock begin with in the index, and where those from a time on begin.
pub(crate) fn index_from(clock: Clock, time: i64) -> (Vec<u8>, Vec<u8>) {
    let prefix = vec![INDEX, clock as u8];
    let from = [&prefix[..], &sortable(time)].concat();
    (prefix, from)
}
