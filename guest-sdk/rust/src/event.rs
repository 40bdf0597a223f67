//! The event in hand.

use serde::Deserialize;
use sluice_event::View;

use crate::{Failure, Result};

/// One event; everything in it is borrowed from the batch.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub(crate) flat: sluice_event::Event<'a>,
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

impl<'a> Event<'a> {
    /// The event of this index in a batch.
    #[inline(always)]
    pub(crate) fn of(view: &View<'a>, input: u32, flat: sluice_event::Event<'a>) -> Self {
        let offset = match flat.origin().filter(|_| view.chained) {
            Some(origin) => origin.offset,
            None => view.base_offset + u64::from(input),
        };
        Self { flat, topic: view.topic_name, partition: view.partition, offset }
    }

    /// The key; absent and empty differ.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.flat.key()
    }

    /// The value.
    pub fn value(&self) -> &'a [u8] {
        self.flat.value()
    }

    /// The value as text.
    ///
    /// # Errors
    /// A permanent failure when it is not UTF-8.
    pub fn text(&self) -> Result<&'a str> {
        Ok(std::str::from_utf8(self.value())?)
    }

    /// The value as JSON, read into a type of yours; fields of type `&str` borrow from the event.
    ///
    /// # Errors
    /// A permanent failure when it is not JSON of this type.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T> {
        crate::json::read(self.value()).map_err(|error| Failure::permanent(format!("value: {error}")))
    }

    /// Milliseconds since the epoch, as the producer said.
    pub fn timestamp(&self) -> i64 {
        self.flat.timestamp()
    }

    /// The headers, in order; names may repeat.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.flat.headers()
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Name of the topic it was read from.
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// The partition it was read from.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its offset in that partition.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}
