//! A row of events, borrowed.

use crate::bytes::{Malformed, i64_at, len_at, u16_at, u32_at};
use crate::event::{Event, FIXED, FLAG_ORIGIN, ORIGIN};

/// A row of events: `count` of them fill `bytes` exactly. Iterating checks each before it is handed out.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> Region<'a> {
    /// A region that is checked while it is read.
    pub fn new(bytes: &'a [u8], count: u32) -> Self {
        Self { bytes, count }
    }

    /// The bytes of all its events.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many events it says it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The events in order.
    pub fn events(&self) -> Events<'a> {
        Events { bytes: self.bytes, left: self.count }
    }

    /// Whether any of its events has headers, by a glance at each; what is malformed is found by those who read it.
    pub fn has_headers(&self) -> bool {
        glance(self.bytes).any(|event| u16_at(event, 6).is_ok_and(|headers| headers > 0))
    }

    /// The timestamps of its events, and topic and partition of those that a pipeline wrote, by a glance at each.
    #[inline]
    pub fn times(&self) -> impl Iterator<Item = (i64, Option<(u32, u32)>)> + use<'a> {
        glance(self.bytes).map_while(|event| {
            let writer = |event| Some((u32_at(event, FIXED).ok()?, u32_at(event, FIXED + 4).ok()?));
            let from = if u16_at(event, 4).ok()? & FLAG_ORIGIN == 0 { None } else { writer(event) };
            Some((i64_at(event, 8).ok()?, from))
        })
    }

    /// Reads every event once.
    ///
    /// # Errors
    /// When an event is malformed, or the count does not fit the bytes.
    pub fn check(&self) -> Result<(), Malformed> {
        self.events().try_for_each(|event| event.map(drop))
    }

    /// The same region without its first `events` events.
    ///
    /// # Errors
    /// When it has fewer.
    pub fn skip(&self, events: u32) -> Result<Self, Malformed> {
        let start = self.prefix(events, usize::MAX)?.bytes.len();
        let count =
            self.count.checked_sub(events).ok_or(Malformed("a region has fewer events than were to be skipped"))?;
        Ok(Self { bytes: &self.bytes[start..], count })
    }

    /// Its first events: at most `max_events`, and within `max_bytes`, but for one event that is larger by itself.
    ///
    /// # Errors
    /// When a size reaches past the end.
    pub fn prefix(&self, max_events: u32, max_bytes: usize) -> Result<Self, Malformed> {
        if max_events >= self.count && self.bytes.len() <= max_bytes {
            return Ok(*self);
        }
        let (mut end, mut count) = (0, 0);
        while count < max_events.min(self.count) {
            let size = len_at(self.bytes, end)?;
            if size == 0 || size > self.bytes.len() - end {
                return Err(Malformed("an event reaches past the end of its region"));
            }
            if count > 0 && end + size > max_bytes {
                break;
            }
            end += size;
            count += 1;
        }
        Ok(Self { bytes: &self.bytes[..end], count })
    }
}

/// Iterates over a region; ends after the first malformed event.
#[derive(Debug, Clone)]
pub struct Events<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl<'a> Events<'a> {
    /// The keys of those that come next, empty where there is none, by a glance at each; it ends where one is malformed.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        glance(self.bytes).map_while(|event| {
            let origin = if u16_at(event, 4).ok()? & FLAG_ORIGIN == 0 { 0 } else { ORIGIN };
            let start = FIXED + origin + 8 * usize::from(u16_at(event, 6).ok()?);
            event.get(start..)?.get(..len_at(event, 16).ok()?)
        })
    }
}

/// Where each event of a region begins, by its size alone: all bytes from there on.
#[inline]
fn glance(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (event, size) = (rest, len_at(rest, 0).ok()?);
        rest = rest.get(size.max(crate::ALIGN)..).unwrap_or_default();
        Some(event)
    })
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.bytes.is_empty() {
                return None;
            }
            self.bytes = &[];
            return Some(Err(Malformed("a region has bytes behind its last event")));
        }
        let event = Event::parse(self.bytes);
        let size = event.as_ref().map_or(self.bytes.len(), |event| event.bytes().len());
        self.bytes = &self.bytes[size..];
        self.left = if event.is_ok() { self.left - 1 } else { 0 };
        Some(event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize + 1))
    }
}
