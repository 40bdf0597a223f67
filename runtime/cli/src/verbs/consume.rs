//! `sluice consume`

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use sluice_log::ReadBatch;
use sluice_node::topics::{PartitionDescription, Place};

use crate::access::Access;
use crate::args::{Consume, Global};
use crate::exit::Failure;
use crate::show;

/// Bytes asked for at once.
const READ_BYTES: usize = 1 << 20;
/// While following several partitions, how long to wait at each.
const WAIT_MS: u64 = 200;

pub(crate) fn consume(global: &Global, verb: &Consume) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    if verb.follow && matches!(access, Access::Directory(_)) {
        let failure = Failure::usage("no node is running on this data directory, so nothing new can come");
        return Err(failure.help("start one with `sluice run`, or leave --follow out"));
    }
    let topic = access.describe(&verb.topic)?;
    let mut partitions = Vec::new();
    for found in &topic.partitions {
        if verb.partition.is_none_or(|only| only == found.partition) {
            partitions.push((found.partition, start(&mut access, verb, found)?, found.high_watermark));
        }
    }
    if let Some(only) = verb.partition.filter(|_| partitions.is_empty()) {
        let count = topic.partitions.len();
        return Err(Failure::usage(format!("unknown partition: {}/{only}; it has {count}", verb.topic)));
    }
    let names: Vec<(u32, String)> = match global.json {
        true => access.topics()?.into_iter().map(|topic| (topic.id, topic.name)).collect(),
        false => Vec::new(),
    };
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        topic: &verb.topic,
        json: global.json,
        names,
        left: verb.max.unwrap_or(u64::MAX),
    };
    let result = print_all(&mut access, verb, partitions, &mut printer);
    match result.and_then(|()| Ok(printer.out.flush()?)) {
        // Whoever read had enough.
        Err(Stop::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Stop::Io(error)) => Err(error.into()),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn start(access: &mut Access, verb: &Consume, partition: &PartitionDescription) -> Result<u64, Failure> {
    match verb.from {
        Place::Earliest => Ok(partition.low_mark),
        Place::Latest => Ok(partition.high_watermark),
        Place::Offset(offset) => {
            let (number, end) = (partition.partition, partition.high_watermark);
            if offset > end {
                eprintln!("{}/{number}: offset {offset} is not there yet: the next one is {end}", verb.topic);
            }
            Ok(offset)
        }
        place => access.locate(&verb.topic, partition.partition, place),
    }
}

enum Stop {
    Io(io::Error),
    Failed(Failure),
}

impl std::convert::From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::convert::From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn print_all(
    access: &mut Access,
    verb: &Consume,
    mut partitions: Vec<(u32, u64, u64)>,
    printer: &mut Printer<'_>,
) -> Result<(), Stop> {
    let alone = partitions.len() == 1;
    let mut failed = None;
    loop {
        for (partition, next, end) in &mut partitions {
            while printer.left > 0 && (verb.follow || *next < *end) {
                let wait = if verb.follow && alone { 20 * WAIT_MS } else { 0 };
                let batch = match access.read(&verb.topic, *partition, *next, READ_BYTES, wait) {
                    Ok(batch) => batch,
                    Err(failure) if verb.follow => return Err(failure.into()),
                    Err(failure) => {
                        // The other partitions may be read all the same.
                        failed.get_or_insert(failure);
                        break;
                    }
                };
                let end = if verb.follow { u64::MAX } else { *end };
                if batch.base_offset > *next {
                    // On stderr, for what is on stdout is events.
                    let (from, to) = (*next, batch.base_offset - 1);
                    eprintln!("{}/{partition}: offsets {from} to {to} are gone", verb.topic);
                }
                printer.print(*partition, &batch, end)?;
                *next = batch.base_offset + u64::from(batch.count);
                if batch.count == 0 {
                    break;
                }
            }
        }
        if !verb.follow || printer.left == 0 {
            return failed.map_or(Ok(()), |failure| Err(failure.into()));
        }
        printer.out.flush()?;
        if !alone && let Some((partition, next, _)) = partitions.first() {
            // Wait at one of them; the others are looked at just as often.
            let batch = access.read(&verb.topic, *partition, *next, 1, WAIT_MS)?;
            drop(batch);
        }
    }
}

struct Printer<'a> {
    out: BufWriter<io::StdoutLock<'a>>,
    topic: &'a str,
    json: bool,
    names: Vec<(u32, String)>,
    left: u64,
}

impl Printer<'_> {
    fn print(&mut self, partition: u32, batch: &ReadBatch, end: u64) -> Result<(), Stop> {
        let name = |id: u32| self.names.iter().find(|(found, _)| *found == id).map(|(_, name)| name.clone());
        for (offset, event) in (batch.base_offset..end).zip(batch.region().events()) {
            if self.left == 0 {
                break;
            }
            let event = event.map_err(|malformed| Failure::failed(malformed.to_string()))?;
            if self.json {
                writeln!(self.out, "{}", show::event(self.topic, partition, offset, &event, &name))?;
            } else {
                self.out.write_all(event.value())?;
                self.out.write_all(b"\n")?;
            }
            self.left -= 1;
        }
        Ok(())
    }
}
