//! The ceiling: the same consumer code, compiled natively, in one loop from a framed file to a framed file, with a CRC both
//! ways. No transactions, no sandbox, no threads.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use anyhow::{Result, anyhow, ensure};
use sluice_event::{Batch, Items, Outcome};
use sluice_sdk::{Config, Consumer, Runner, Shared, consumer_runner, runner};

use crate::events::{Job, view};

/// The input as a framed file.
pub(crate) fn prepare(input: &[Batch]) -> Result<File> {
    let mut source = tempfile::tempfile()?;
    for batch in input {
        write_frame(&mut source, batch.count(), batch.bytes())?;
    }
    Ok(source)
}

/// The job's consumers, natively.
pub(crate) fn consumers(job: Job) -> Result<Vec<Box<dyn Runner>>> {
    Ok(match job {
        Job::J1 => vec![runner(orders::orders)],
        Job::J2 { .. } => vec![made::<totals::Totals>()?],
        Job::J3 => vec![runner(pass_through::pass_through)],
        Job::J4 => vec![made::<airport_hours::AirportHours>()?],
        Job::J5 => vec![
            runner(pass_through::pass_through),
            runner(orders::orders),
            runner(pass_through::pass_through),
            runner(pass_through::pass_through),
        ],
    })
}

fn made<C: Consumer>() -> Result<Box<dyn Runner>> {
    consumer_runner(|| C::init(&Config::from_json("{}"))).map_err(|failure| anyhow!("{}", failure.reason()))
}

/// The job, from the framed file to another; how many outputs there were.
pub(crate) fn run(job: Job, source: &File) -> Result<u64> {
    let (mut consumers, mut header) = (consumers(job)?, Shared::default());
    each_frame(source, |events, (mut items, base_offset), out| {
        for (place, consumer) in consumers.iter_mut().enumerate() {
            if place > 0 {
                let events = Rc::make_mut(events);
                events.clear();
                events.extend_from_slice(out.bytes());
                items = out.count();
            }
            out.clear();
            if items > 0 {
                call(consumer.as_mut(), events, (items, base_offset), &mut header, out)?;
            }
        }
        Ok(())
    })
}

/// Deals with each batch of a framed file: its events, how many these are, and the offset of the first. What comes of them is written to another framed
/// file; how many outputs there were.
pub(crate) fn each_frame(
    mut source: &File,
    mut deal: impl FnMut(&mut Shared, (u32, u64), &mut Batch) -> Result<()>,
) -> Result<u64> {
    source.rewind()?;
    let (mut source, mut sink) = (BufReader::with_capacity(1 << 20, source), tempfile::tempfile()?);
    let (mut events, mut out) = (Shared::default(), Batch::default());
    let (mut base_offset, mut outputs) = (0, 0);
    while let Some(count) = read_frame(&mut source, Rc::make_mut(&mut events))? {
        out.clear();
        deal(&mut events, (count, base_offset), &mut out)?;
        write_frame(&mut sink, out.count(), out.bytes())?;
        base_offset += u64::from(count);
        outputs += u64::from(out.count());
    }
    Ok(outputs)
}

/// What cannot be gone without: the bytes copied once, their CRC, and written to a file batch by batch.
pub(crate) fn copy_and_write(input: &[Batch]) -> Result<()> {
    let (mut sink, mut buffer) = (tempfile::tempfile()?, Vec::new());
    for batch in input {
        buffer.clear();
        buffer.extend_from_slice(batch.bytes());
        write_frame(&mut sink, batch.count(), &buffer)?;
    }
    Ok(())
}

/// The job's first consumer alone, on batches in memory.
pub(crate) fn alone(job: Job, input: &[Batch]) -> Result<()> {
    let mut consumers = consumers(job)?;
    let (mut header, mut events, mut out) = (Shared::default(), Shared::default(), Batch::default());
    for batch in input {
        // In the sandbox, too, they are copied.
        let own = Rc::make_mut(&mut events);
        own.clear();
        own.extend_from_slice(batch.bytes());
        out.clear();
        call(consumers[0].as_mut(), &events, (batch.count(), 0), &mut header, &mut out)?;
    }
    Ok(())
}

fn call(
    consumer: &mut dyn Runner,
    events: &Shared,
    (count, base_offset): (u32, u64),
    header: &mut Shared,
    out: &mut Batch,
) -> Result<()> {
    let written = Rc::make_mut(header);
    written.clear();
    view(count, base_offset).write(written);
    let outcome = consumer.run(header, events, &AtomicU32::new(0))?;
    let outcome = Outcome::parse(&outcome, Items { inputs: count, ..Items::default() })?;
    for output in outcome.outputs() {
        let event = output?.event;
        if let Some(origin) = event.origin() {
            out.push_output(&event, origin);
        }
    }
    Ok(())
}

fn write_frame(file: &mut File, count: u32, bytes: &[u8]) -> Result<()> {
    let mut header = [0; 16];
    header[0..4].copy_from_slice(&count.to_le_bytes());
    header[4..8].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    header[8..16].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    file.write_all(&header)?;
    Ok(file.write_all(bytes)?)
}

fn read_frame(source: &mut impl Read, events: &mut Vec<u8>) -> Result<Option<u32>> {
    let mut header = [0; 16];
    if source.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    source.read_exact(&mut header[1..])?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    events.resize(word(8) as usize, 0);
    source.read_exact(events)?;
    ensure!(crc32c::crc32c(events) == word(4), "wrong CRC");
    Ok(Some(word(0)))
}
