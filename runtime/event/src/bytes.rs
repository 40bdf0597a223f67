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

/// Appends whole words. What is put together somewhere in parts, and copied from there at once in larger ones, has the processor wait until all parts are written;
/// words stay in registers until they are where they belong.
#[inline(always)]
pub fn append_words<const N: usize>(out: &mut alloc::vec::Vec<u8>, words: [u64; N]) {
    out.extend_from_slice(words.map(u64::to_le_bytes).as_flattened());
}

/// A word of two halves, the first of them being first in memory.
#[inline(always)]
pub(crate) fn word(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// Appends bytes, of which there mostly are few.
#[inline]
pub fn append(out: &mut alloc::vec::Vec<u8>, bytes: &[u8]) {
    const SHORT: usize = 32;
    if !cfg!(target_family = "wasm") || bytes.len() > SHORT {
        return out.extend_from_slice(bytes);
    }
    // In a guest, a fixed number of bytes is written by a few instructions: so there is room for the most, and what does not count is cut off.
    if !bytes.is_empty() {
        let (start, end) = (out.len(), out.len() + bytes.len());
        out.extend_from_slice(&[0; SHORT]);
        copy(&mut out[start..end], bytes);
        out.truncate(end);
    }
}

/// Copies bytes, of which there mostly are few, to a place of the same length. In a guest, copying a number that varies is a call out of it, which costs more
/// than copying a short key does. So the first half and the last are copied, which may overlap.
#[inline(always)]
pub fn copy(to: &mut [u8], bytes: &[u8]) {
    match bytes.len() {
        0 => {}
        1 => to[0] = bytes[0],
        2..=4 => copy_halves::<2>(to, bytes),
        5..=8 => copy_halves::<4>(to, bytes),
        9..=16 => copy_halves::<8>(to, bytes),
        17..=32 => copy_halves::<16>(to, bytes),
        33..=64 => copy_halves::<32>(to, bytes),
        _ => to.copy_from_slice(bytes),
    }
}

#[inline(always)]
fn copy_halves<const HALF: usize>(to: &mut [u8], bytes: &[u8]) {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<HALF>(), bytes.last_chunk::<HALF>()) {
        to.first_chunk_mut().into_iter().for_each(|to| *to = *first);
        to.last_chunk_mut().into_iter().for_each(|to| *to = *last);
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    #[test]
    fn what_is_copied_in_halves_is_whole() {
        let bytes: Vec<u8> = (0..=99).collect();
        for len in 0..=100 {
            let mut to = alloc::vec![255; len];
            super::copy(&mut to, &bytes[..len]);
            assert_eq!(to, bytes[..len]);
        }
    }
}
