//! A row of events, owned and growing.

use alloc::vec::Vec;

use crate::event::{Event, Origin};
use crate::new_event::{NewEvent, TooLarge};
use crate::region::Region;

/// Events in their flat format, ready to be appended, and what a log wants to know about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
    timestamps: Option<(i64, i64)>,
}

impl Batch {
    /// An empty batch with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// An empty batch in this memory, whatever is written there.
    pub fn within(mut memory: Vec<u8>) -> Self {
        memory.clear();
        Self { bytes: memory, ..Self::default() }
    }

    /// Its memory, for another one.
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes that its events may come to before it needs more memory.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for `bytes` more.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When a length does not fit its field; the batch is as before.
    pub fn push(&mut self, event: &NewEvent<'_>) -> Result<(), TooLarge> {
        self.push_with(event, |out| out.extend_from_slice(event.value))
    }

    /// The same of an event whose value is what `value` appends to the vector it is given.
    ///
    /// # Errors
    /// When a length does not fit its field; the batch is as before.
    pub fn push_with(&mut self, event: &NewEvent<'_>, value: impl FnOnce(&mut Vec<u8>)) -> Result<(), TooLarge> {
        event.write(&mut self.bytes, |out| {
            value(out);
            Ok::<_, TooLarge>(())
        })?;
        self.count_in(event.timestamp);
        Ok(())
    }

    /// Copies an event as it is.
    #[inline]
    pub fn push_event(&mut self, event: &Event<'_>) {
        self.bytes.extend_from_slice(event.bytes());
        self.count_in(event.timestamp());
    }

    /// Copies an event, with this origin in place of the one it has, if any.
    #[inline(always)]
    pub fn push_output(&mut self, event: &Event<'_>, origin: Origin) {
        event.write_from(origin, &mut self.bytes);
        self.count_in(event.timestamp());
    }

    /// Copies all events of another batch behind its own.
    pub fn extend(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
        self.timestamps = match (self.timestamps, other.timestamps) {
            (Some((min, max)), Some(more)) => Some((min.min(more.0), max.max(more.1))),
            (mine, theirs) => mine.or(theirs),
        };
    }

    #[inline]
    fn count_in(&mut self, timestamp: i64) {
        self.count += 1;
        self.timestamps = Some(match self.timestamps {
            None => (timestamp, timestamp),
            Some((min, max)) => (min.min(timestamp), max.max(timestamp)),
        });
    }

    /// The events region.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many events it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether it has no events.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The smallest and the largest timestamp; zeros when it is empty.
    pub fn timestamps(&self) -> (i64, i64) {
        self.timestamps.unwrap_or_default()
    }

    /// Its events, to be read.
    pub fn region(&self) -> Region<'_> {
        Region::new(&self.bytes, self.count)
    }

    /// Removes all events and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.count, self.timestamps) = (0, None);
    }
}
