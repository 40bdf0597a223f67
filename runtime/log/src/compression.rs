//! How the regions of batches are packed.

use std::borrow::Cow;
use std::str::FromStr;

use crate::options::MAX_BATCH_BYTES;

/// How a topic's batches are compressed. The numbers stand in the header of each batch: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// Fast (the block format of LZ4).
    Lz4 = 1,
    /// Smaller (Zstandard, level 3).
    Zstd = 2,
}

impl Compression {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd].into_iter().find(|known| *known as u8 == code)
    }

    /// The bytes to store, a multiple of eight, and how many of them are padding; `None` when they would not be fewer.
    pub(crate) fn pack(self, plain: &[u8]) -> Option<(Vec<u8>, u8)> {
        const LEVEL: i32 = 3;
        let mut packed = match self {
            Self::None => return None,
            Self::Lz4 => lz4_flex::block::compress(plain),
            Self::Zstd => zstd::bulk::compress(plain, LEVEL).ok()?,
        };
        let length = packed.len();
        packed.resize(length.next_multiple_of(8), 0);
        let padding = (packed.len() - length) as u8;
        (packed.len() < plain.len()).then_some((packed, padding))
    }

    /// Undoes it into `plain`, which gets exactly so many bytes.
    ///
    /// # Errors
    /// When `packed` is not what packing so many bytes gives.
    pub(crate) fn unpack(self, packed: &[u8], bytes: usize, plain: &mut Vec<u8>) -> Result<(), Cow<'static, str>> {
        if bytes > MAX_BATCH_BYTES {
            return Err("a batch of an impossible length".into());
        }
        plain.resize(bytes, 0);
        let unpacked = match self {
            Self::None => return Err("a batch that is not compressed".into()),
            Self::Lz4 => lz4_flex::block::decompress_into(packed, plain).map_err(|error| error.to_string())?,
            Self::Zstd => {
                zstd::bulk::decompress_to_buffer(packed, plain.as_mut_slice()).map_err(|error| error.to_string())?
            }
        };
        if unpacked == bytes { Ok(()) } else { Err("a compressed batch is too short".into()) }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(format!("unknown compression {text:?}: use none, lz4 or zstd")),
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_nonsense_is_refused() {
        let plain = "the same again and again, ".repeat(100).into_bytes();
        for compression in [Compression::Lz4, Compression::Zstd] {
            let (packed, padding) = compression.pack(&plain).unwrap();
            assert!(packed.len().is_multiple_of(8) && padding < 8);
            let packed = &packed[..packed.len() - usize::from(padding)];
            let mut out = Vec::new();
            compression.unpack(packed, plain.len(), &mut out).unwrap();
            assert_eq!(out, plain);
            assert!(compression.unpack(packed, plain.len() + 1, &mut out).is_err());
            assert!(compression.unpack(packed, plain.len() - 1, &mut out).is_err());
            assert!(compression.unpack(&packed[..packed.len() / 2], plain.len(), &mut out).is_err());
            assert!(compression.unpack(packed, usize::MAX, &mut out).is_err());
            assert_eq!(compression.pack(&[1, 2, 3]), None);
        }
    }
}
