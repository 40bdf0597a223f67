//! Fixed-width little-endian fields, read with their bounds checked.

/// Bytes that are not what they claim to be; nothing of them may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Malformed {}

/// The `N` bytes at `at`, or `None` past the end.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

macro_rules! readers {
    ($($name:ident: $type:ty),*) => {$(
        #[inline]
        pub(crate) fn $name(bytes: &[u8], at: usize) -> Result<$type, Malformed> {
            array(bytes, at).map(<$type>::from_le_bytes).ok_or(Malformed("a fixed part is cut short"))
        }
    )*};
}
readers!(u16_at: u16, u32_at: u32, u64_at: u64, i64_at: i64);

/// The `u32` at `at` as a length.
#[inline]
pub(crate) fn len_at(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    u32_at(bytes, at).map(|n| n as usize)
}

/// `len` bytes from the front of `rest`, which is left behind them.
#[inline]
pub(crate) fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(len).ok_or(Malformed("a length reaches past the end"))?;
    *rest = tail;
    Ok(head)
}

/// `len` rounded up to the next multiple of eight.
#[inline]
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(crate::ALIGN)
}

/// Appends bytes, of which there mostly are few. In a guest, copying a number that varies is a call out of it, which costs more than copying a
/// short key does; copies of four bytes are single instructions.
#[inline]
pub fn append(out: &mut alloc::vec::Vec<u8>, bytes: &[u8]) {
    if cfg!(target_family = "wasm") && bytes.len() <= 32 {
        let (words, rest) = bytes.as_chunks::<4>();
        words.iter().for_each(|word| out.extend_from_slice(word));
        rest.iter().for_each(|byte| out.push(*byte));
    } else {
        out.extend_from_slice(bytes);
    }
}

/// Appends zeros until `out` is a multiple of eight bytes long.
#[inline]
pub(crate) fn pad(out: &mut alloc::vec::Vec<u8>) {
    // A fixed number of bytes, most of which are cut off again: in a guest, filling a number that varies is a call.
    let len = padded(out.len());
    out.extend_from_slice(&[0; crate::ALIGN]);
    out.truncate(len);
}
