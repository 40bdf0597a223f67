//! Writing one event.

use alloc::vec::Vec;

use crate::bytes::{append, append_words, pad, padded, word};
use crate::event::{FIXED, FLAG_KEY, FLAG_ORIGIN, ORIGIN, Origin};

/// The parts of an event that is to be written.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewEvent<'a> {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// `None` and empty differ.
    pub key: Option<&'a [u8]>,
    /// The value; it may be empty.
    pub value: &'a [u8],
    /// Names and values, at most 65,535 of them.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Where it came from, if a pipeline writes it.
    pub origin: Option<Origin>,
}

/// An event that the format cannot hold: over 4 GiB, or over 65,535 headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl core::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("an event is larger than its format can hold")
    }
}

impl core::error::Error for TooLarge {}

impl NewEvent<'_> {
    /// Bytes it will take up in a region.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        let origin = if self.origin.is_some() { ORIGIN } else { 0 };
        padded(FIXED + origin + headers + self.key.map_or(0, <[u8]>::len) + self.value.len())
    }

    /// Appends the event to a region, its value being what `value` appends to the vector it is given.
    ///
    /// # Errors
    /// What `value` says, or that a length does not fit its field; `out` is as before then.
    #[inline]
    pub(crate) fn write<E: From<TooLarge>>(
        &self,
        out: &mut Vec<u8>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = out.len();
        let result = self.write_parts(out, value);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    #[inline]
    fn write_parts<E: From<TooLarge>>(
        &self,
        out: &mut Vec<u8>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = out.len();
        let header_count = u16::try_from(self.headers.len()).map_err(|_| TooLarge)?;
        let key = self.key.unwrap_or_default();
        let flags = if self.key.is_some() { FLAG_KEY } else { 0 } | if self.origin.is_some() { FLAG_ORIGIN } else { 0 };
        // Its size and the value's length are not known yet.
        let [flags, timestamp, lengths] = [
            word(0, u32::from(flags) | u32::from(header_count) << 16),
            self.timestamp.cast_unsigned(),
            word(u32::try_from(key.len()).map_err(|_| TooLarge)?, 0),
        ];
        match self.origin.map(Origin::to_words) {
            Some([from, offset, of]) => append_words(out, [flags, timestamp, lengths, from, offset, of]),
            None => append_words(out, [flags, timestamp, lengths]),
        }
        for (name, value) in self.headers {
            out.extend_from_slice(&length(name.len())?);
            out.extend_from_slice(&length(value.len())?);
        }
        append(out, key);
        let value_start = out.len();
        value(out)?;
        let value_len = length(out.len() - value_start)?;
        for (name, value) in self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value);
        }
        // Events begin at multiples of eight, so padding the whole pads the event.
        pad(out);
        let size = length(out.len() - start)?;
        out[start..start + 4].copy_from_slice(&size);
        out[start + 20..start + 24].copy_from_slice(&value_len);
        Ok(())
    }
}

/// A length as its field holds it.
pub(crate) fn length(len: usize) -> Result<[u8; 4], TooLarge> {
    u32::try_from(len).map(u32::to_le_bytes).map_err(|_| TooLarge)
}
