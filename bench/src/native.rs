//! The ceiling: the same consumer code, compiled natively, in one loop from a framed file to a framed file, with a CRC both
//! ways. No transactions, no sandbox, no threads.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::rc::Rc;

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

/// The job, from the framed file to another.
pub(crate) fn run(job: Job, mut source: &File) -> Result<()> {
    source.rewind()?;
    let mut consumer: Box<dyn Runner> = match job {
        Job::J1 => runner(orders::orders),
        Job::J2 { .. } => consumer_runner(|| totals::Totals::init(&Config::from_json("{}")))
            .map_err(|failure| anyhow!("{}", failure.reason()))?,
        Job::J3 => runner(pass_through::pass_through),
    };
    let (mut source, mut sink) = (BufReader::with_capacity(1 << 20, source), tempfile::tempfile()?);
    let (mut events, mut header, mut out, mut base_offset) =
        (Shared::default(), Shared::default(), Batch::default(), 0);
    while let Some(count) = read_frame(&mut source, Rc::make_mut(&mut events))? {
        let written = Rc::make_mut(&mut header);
        written.clear();
        view(count, base_offset).write(written);
        let outcome = consumer.run(&header, &events, &|_| {})?;
        let outcome = Outcome::parse(&outcome, Items { inputs: count, timers: &[] })?;
        out.clear();
        for output in outcome.outputs() {
            let event = output?.event;
            if let Some(origin) = event.origin() {
                out.push_output(&event, origin);
            }
        }
        write_frame(&mut sink, out.count(), out.bytes())?;
        base_offset += u64::from(count);
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
