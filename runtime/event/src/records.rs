//! Rows of records that begin with their size.

use crate::bytes::{Malformed, len_at, take};

/// Iterates over records that begin with their size, and ends after the first that is wrong.
#[derive(Debug, Clone)]
pub(crate) struct Records<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) left: u32,
    /// The least size of one.
    pub(crate) least: usize,
    /// What to say of a wrong size, and of bytes behind the last one.
    pub(crate) size: &'static str,
    pub(crate) behind: &'static str,
}

impl<'a> Records<'a> {
    #[inline]
    fn record(&mut self) -> Result<&'a [u8], Malformed> {
        let size = len_at(self.bytes, 0)?;
        if size < self.least || size % crate::ALIGN != 0 {
            return Err(Malformed(self.size));
        }
        take(&mut self.bytes, size)
    }

    /// The next record, as `parse` reads it.
    #[inline]
    pub(crate) fn read<T>(
        &mut self,
        parse: impl FnOnce(&'a [u8]) -> Result<T, Malformed>,
    ) -> Option<Result<T, Malformed>> {
        if self.left == 0 {
            let behind = !self.bytes.is_empty();
            self.end();
            return behind.then_some(Err(Malformed(self.behind)));
        }
        self.left -= 1;
        Some(self.record().and_then(parse).inspect_err(|_| self.end()))
    }

    /// Nothing comes any more.
    fn end(&mut self) {
        (self.bytes, self.left) = (&[], 0);
    }
}
