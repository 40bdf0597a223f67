//! `sluice produce`

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use sluice_api::LineFormat;
use sluice_env::{Clock, SystemClock};
use sluice_event::{Batch, NewEvent};
use sluice_log::MAX_EVENT_BYTES;

use crate::access::Access;
use crate::args::{Global, Produce};
use crate::exit::Failure;
use crate::show;

/// A request takes no further lines beyond this.
const BATCH_BYTES: usize = 1 << 20;
/// With a rate, so many requests a second.
const PACED_REQUESTS: u32 = 20;

pub(crate) fn produce(global: &Global, verb: &Produce) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    access.describe(&verb.topic)?;
    let (input, length): (Box<dyn Read>, _) = match &verb.file {
        Some(path) => {
            #[expect(clippy::disallowed_methods, reason = "the user's own file")]
            let file = fs::File::open(path);
            let file = file.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
            let length = file.metadata().map_or(0, |meta| meta.len());
            (Box::new(file), length)
        }
        None => (Box::new(std::io::stdin()), 0),
    };
    let skip = verb.producer_id.as_deref().map_or(Ok(0), |producer| access.next_sequence(&verb.topic, producer))?;
    let bar = progress(length);
    let mut sender = Sender { access, verb, batch: Batch::default(), line: 0, keyless: 0, sent: 0, first: skip, bar };
    let result = sender.send_all(BufReader::with_capacity(1 << 20, input), skip);
    sender.bar.finish_and_clear();
    let (appended, skipped) = (sender.sent, skip.min(sender.line));
    if let (Some(key), 1..) = (&verb.key, sender.keyless) {
        eprintln!("{} lines have no field {key:?}: their events have no key", sender.keyless);
    }
    match result {
        Ok(()) => {
            let before = if skipped > 0 { format!(", {skipped} were there before") } else { String::new() };
            let told = serde_json::json!({ "appended": appended, "skipped": skipped });
            show::answer(global, &told, || format!("{appended} events appended to {}{before}\n", verb.topic))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            eprintln!("{appended} events were appended before this:");
            Err(failure)
        }
    }
}

fn progress(length: u64) -> ProgressBar {
    if length == 0 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {msg}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

struct Sender<'a> {
    access: Access,
    verb: &'a Produce,
    batch: Batch,
    /// Lines read.
    line: u64,
    /// Lines without the field that is to be the key.
    keyless: u64,
    /// Events appended.
    sent: u64,
    /// Number of the first event in the batch.
    first: u64,
    bar: ProgressBar,
}

impl Sender<'_> {
    fn send_all(&mut self, mut input: BufReader<Box<dyn Read>>, skip: u64) -> Result<(), Failure> {
        let format = LineFormat {
            key: self.verb.key.as_deref(),
            timestamp: self.verb.timestamp.as_deref(),
            timestamp_format: self.verb.timestamp_format.as_deref(),
        };
        let batch_events = self.verb.rate.map_or(u32::MAX, |rate| (rate / PACED_REQUESTS).max(1));
        let (started, mut line) = (Instant::now(), Vec::new());
        loop {
            line.clear();
            if input.buffer().is_empty() && self.verb.rate.is_none() {
                // The next line may be long in coming: those that are here should not wait for it.
                self.send()?;
            }
            // Bounded, for a line may be anything; one byte more tells that it is too long.
            let read = (&mut input).take(MAX_EVENT_BYTES as u64 + 2).read_until(b'\n', &mut line)?;
            if read == 0 {
                return self.send();
            }
            self.line += 1;
            self.bar.inc(read as u64);
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if self.line <= skip {
                continue;
            }
            let number = self.line;
            let wrong = |what: String| Failure::usage(format!("line {number}: {what}"));
            if line.len() > MAX_EVENT_BYTES {
                return self.send().and(Err(wrong(format!("an event of more than {MAX_EVENT_BYTES} bytes"))));
            }
            let parts = match format.read(&line) {
                Ok(parts) => parts,
                Err(what) => {
                    let failure = wrong(what);
                    return self.send().and(Err(failure));
                }
            };
            self.keyless += u64::from(self.verb.key.is_some() && parts.key.is_none());
            let event = NewEvent {
                timestamp: parts.timestamp.unwrap_or_else(|| SystemClock.now()),
                key: parts.key.as_deref(),
                value: &line,
                ..NewEvent::default()
            };
            if self.batch.bytes().len() + event.size() > BATCH_BYTES || self.batch.count() >= batch_events {
                self.send()?;
                self.pace(started);
            }
            self.batch.push(&event).map_err(|error| Failure::usage(format!("line {}: {error}", self.line)))?;
        }
    }

    fn send(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let sequence = self.verb.producer_id.as_deref().map(|producer| (producer, self.first));
        let produced = self.access.produce(&self.verb.topic, self.verb.partition, &self.batch, sequence)?;
        self.sent += produced.appended;
        self.first += u64::from(self.batch.count());
        self.batch.clear();
        Ok(())
    }

    /// Waits until as many events are due as were sent.
    fn pace(&self, started: Instant) {
        let Some(rate) = self.verb.rate else { return };
        let due = Duration::from_secs_f64(self.sent as f64 / f64::from(rate));
        #[expect(clippy::disallowed_methods, reason = "the user asked for a pace")]
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}
