//! Reads changelogs.

use std::sync::Arc;

use sluice_log::{Error, Log, Partition, ReadBatch};
use sluice_state::{Delta, FLUSH_BYTES, Head, Line, PartitionState, Record, Turn};

use super::refused;

/// Bytes of a changelog read at once.
const READ_BYTES: usize = 1 << 20;

/// Is handed a record of a changelog, with its offset. Whether to go on.
type Visit<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<bool, Error>;

/// A partition of a changelog, to be read.
pub(super) struct Changelog<'a> {
    pub(super) log: &'a Log,
    pub(super) partition: Arc<Partition>,
}

impl Changelog<'_> {
    /// Hands the records of a stretch to `visit`, each with its offset.
    fn read(&self, from: u64, to: u64, visit: Visit<'_>) -> Result<(), Error> {
        let low = self.partition.low_mark();
        if from < low && from < to {
            let what =
                format!("the changelog is asked for offset {from}, and begins at {low}: the state cannot be made anew");
            return Err(Error::Invalid(what));
        }
        let mut reader = self.log.reader(self.partition.clone(), from);
        let mut read = ReadBatch::default();
        let mut next = from;
        while next < to {
            reader.read(u32::try_from(to - next).unwrap_or(u32::MAX), READ_BYTES, &mut read)?;
            if read.count == 0 || read.base_offset != next {
                return Err(Error::Invalid(format!(
                    "offset {next} of the changelog is gone: the state cannot be made anew"
                )));
            }
            for (offset, event) in (next..).zip(read.region().events()) {
                if !visit(offset, event.map_err(|error| malformed(offset, &error))?.value())? {
                    return Ok(());
                }
            }
            next += u64::from(read.count);
        }
        Ok(())
    }

    /// The last turn of a stretch.
    pub(super) fn last_turn(&self, from: u64, to: u64) -> Result<Option<(u64, Turn)>, Error> {
        let mut last = None;
        self.read(from, to, &mut |offset, bytes| {
            if Record::is_turn(bytes)
                && let Record::Turn(turn) = Record::decode(bytes).map_err(|error| malformed(offset, &error))?
            {
                last = Some((offset, turn));
            }
            Ok(true)
        })?;
        Ok(last)
    }

    /// Applies a stretch, in which there is no turn.
    pub(super) fn apply(&self, state: &mut PartitionState, from: u64, to: u64) -> Result<(), Error> {
        self.read(from, to, &mut |offset, bytes| {
            let delta = Delta::decode(bytes).map_err(|error| malformed(offset, &error))?;
            state.apply(offset, &delta).map_err(|error| refused(&error))?;
            if state.unflushed_bytes() >= FLUSH_BYTES
                && let Some(flush) = state.start_flush()
            {
                let result = flush.run();
                state.flushed(&flush, result.clone());
                result.map_err(|error| refused(&error))?;
            }
            Ok(true)
        })
    }

    /// Applies what a state misses of a line.
    pub(super) fn apply_line(&self, state: &mut PartitionState, missing: &Line) -> Result<(), Error> {
        for (from, to) in missing {
            state.go_on_at(*from);
            self.apply(state, *from, *to)?;
        }
        Ok(())
    }

    /// Tells how the cursor moved in the commits of a line, until `each` has had enough.
    pub(super) fn heads(&self, line: &Line, each: &mut dyn FnMut(Head) -> bool) -> Result<(), Error> {
        let mut go_on = true;
        for (from, to) in line {
            if go_on {
                self.read(*from, *to, &mut |offset, bytes| {
                    go_on = each(Delta::head(bytes).map_err(|error| malformed(offset, &error))?);
                    Ok(go_on)
                })?;
            }
        }
        Ok(())
    }

    /// When the record at an offset was appended, ms since the epoch; and the record, where it is a turn.
    pub(super) fn appended(&self, offset: u64) -> Result<(i64, Option<Turn>), Error> {
        let mut read = ReadBatch::default();
        self.log.reader(self.partition.clone(), offset).read(1, READ_BYTES, &mut read)?;
        let turn = self.last_turn(offset, offset + 1)?.map(|(_, turn)| turn);
        Ok((read.append_times.first().map_or(i64::MIN, |(_, time)| *time), turn))
    }

    /// How the cursor moved in the commit at an offset.
    pub(super) fn head(&self, offset: u64) -> Result<Head, Error> {
        let mut head = Head::default();
        self.read(offset, offset + 1, &mut |offset, bytes| {
            head = Delta::head(bytes).map_err(|error| malformed(offset, &error))?;
            Ok(true)
        })?;
        Ok(head)
    }
}

fn malformed(offset: u64, what: &dyn std::fmt::Display) -> Error {
    Error::Invalid(format!("changelog offset {offset}: {what}"))
}
