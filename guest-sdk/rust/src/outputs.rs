//! What a consumer puts out.

use serde::Serialize;
use sluice_event::{NewEvent, OutcomeWriter, Source};

use crate::{Event, Result};

/// Takes the outputs of the event or timer in hand.
#[derive(Debug)]
pub struct Outputs<'a> {
    pub(crate) writer: &'a mut OutcomeWriter,
    pub(crate) of: (Source, u32),
    pub(crate) timestamp: i64,
}

impl Outputs<'_> {
    /// Sends an event to the pipeline's first sink, with the timestamp of the event in hand, or the time of the timer.
    ///
    /// # Errors
    /// When the value cannot be written.
    pub fn send<'k>(&mut self, key: impl Key<'k>, value: impl Value) -> Result {
        let event = NewEvent { timestamp: self.timestamp, key: key.bytes(), ..NewEvent::default() };
        self.writer.output(self.of, 0, event, |out| value.write(out))
    }

    /// Sends an event on to the pipeline's first sink as it is: key, value, headers and timestamp. That is quicker than to put together an event of the same
    /// parts.
    ///
    /// # Errors
    /// When it is too large.
    pub fn forward(&mut self, event: &Event) -> Result {
        Ok(self.writer.forward(self.of, 0, &event.flat)?)
    }

    /// The same, to the sink of this name.
    ///
    /// # Errors
    /// When it is too large.
    pub fn forward_to(&mut self, sink: &str, event: &Event) -> Result {
        let sink = self.writer.sink(Some(sink));
        Ok(self.writer.forward(self.of, sink, &event.flat)?)
    }

    /// Begins an event with more to say than key and value.
    pub fn output(&mut self) -> Output<'_> {
        let timestamp = self.timestamp;
        Output { writer: self.writer, of: self.of, timestamp, sink: None, key: None, headers: Vec::new() }
    }
}

/// An event that is being put together; [`send`](Self::send) completes it.
#[derive(Debug)]
#[must_use = "call `send` to complete it"]
pub struct Output<'o> {
    writer: &'o mut OutcomeWriter,
    of: (Source, u32),
    timestamp: i64,
    sink: Option<&'o str>,
    key: Option<&'o [u8]>,
    headers: Vec<(&'o str, &'o [u8])>,
}

impl<'o> Output<'o> {
    /// Goes to the sink of this name; without it, to the first.
    pub fn sink(mut self, name: &'o str) -> Self {
        self.sink = Some(name);
        self
    }

    /// Has this key.
    pub fn key(mut self, key: impl Key<'o>) -> Self {
        self.key = key.bytes();
        self
    }

    /// Has this timestamp, in milliseconds since the epoch.
    pub fn timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Has one more header.
    pub fn header(mut self, name: &'o str, value: &'o [u8]) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends it.
    ///
    /// # Errors
    /// When the value cannot be written.
    pub fn send(self, value: impl Value) -> Result {
        let sink = self.writer.sink(self.sink);
        let event =
            NewEvent { timestamp: self.timestamp, key: self.key, headers: &self.headers, ..NewEvent::default() };
        self.writer.output(self.of, sink, event, |out| value.write(out))
    }
}

/// What can be a key: bytes, text, an optional key as another event has it, or `()` for none.
pub trait Key<'k> {
    /// The key's bytes, if there is one.
    fn bytes(self) -> Option<&'k [u8]>;
}

impl<'k> Key<'k> for Option<&'k [u8]> {
    fn bytes(self) -> Option<&'k [u8]> {
        self
    }
}

impl<'k> Key<'k> for &'k [u8] {
    fn bytes(self) -> Option<&'k [u8]> {
        Some(self)
    }
}

impl<'k> Key<'k> for &'k Vec<u8> {
    fn bytes(self) -> Option<&'k [u8]> {
        Some(self)
    }
}

impl<'k> Key<'k> for &'k str {
    fn bytes(self) -> Option<&'k [u8]> {
        Some(self.as_bytes())
    }
}

impl<'k> Key<'k> for &'k String {
    fn bytes(self) -> Option<&'k [u8]> {
        Some(self.as_bytes())
    }
}

impl<'k> Key<'k> for () {
    fn bytes(self) -> Option<&'k [u8]> {
        None
    }
}

/// What can be a value: bytes, text, or [`json`] of something.
pub trait Value {
    /// Appends the value to `out`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(self, out: &mut Vec<u8>) -> Result;
}

macro_rules! byte_values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            #[inline]
            fn write(self, out: &mut Vec<u8>) -> Result {
                out.extend_from_slice(self.as_ref());
                Ok(())
            }
        }
    )*};
}
byte_values!(&[u8], &str, &String, String, &Vec<u8>, Vec<u8>);

/// A value that is written as JSON; see [`json`].
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(T);

/// Something serde can write, as a JSON value. It is written where it will be read, without a copy.
pub fn json<T: Serialize>(value: T) -> Json<T> {
    Json(value)
}

impl<T: Serialize> Value for Json<T> {
    #[inline]
    fn write(self, out: &mut Vec<u8>) -> Result {
        Ok(crate::json::write(out, &self.0)?)
    }
}
