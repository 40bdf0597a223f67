//! Runs a handler over a batch. The same code runs in the guest and in native tests.

use sluice_event::{Malformed, OutcomeWriter, Region, Source, View};

use crate::{Event, Outputs, Result};

/// A consumer that is ready to run.
pub trait Runner {
    /// Deals with a batch and returns the outcome in its flat format. `progress` is told the index of each event first.
    ///
    /// # Errors
    /// When the batch is not what it should be.
    fn run(&mut self, header: &[u8], events: &[u8], progress: &dyn Fn(u32)) -> std::result::Result<Vec<u8>, Malformed>;
}

struct Handler<F>(F);

/// Makes a handler ready to run.
pub fn runner(handler: impl FnMut(&Event, &mut Outputs) -> Result + 'static) -> Box<dyn Runner> {
    Box::new(Handler(handler))
}

impl<F: FnMut(&Event, &mut Outputs) -> Result> Runner for Handler<F> {
    fn run(&mut self, header: &[u8], events: &[u8], progress: &dyn Fn(u32)) -> std::result::Result<Vec<u8>, Malformed> {
        let view = View::parse(header)?;
        // Outputs are rarely larger than inputs; a larger outcome grows as vectors do.
        let mut writer = OutcomeWriter::with_capacity(events.len() + 24 * view.count as usize + 256);
        for (input, flat) in (0..).zip(Region::new(events, view.count).events()) {
            let flat = flat?;
            progress(input);
            let event = Event {
                flat,
                topic: view.topic_name,
                partition: view.partition,
                offset: match flat.origin().filter(|_| view.chained) {
                    Some(origin) => origin.offset,
                    None => view.base_offset + u64::from(input),
                },
            };
            let mark = writer.mark();
            let mut out = Outputs { writer: &mut writer, input, timestamp: flat.timestamp() };
            if let Err(failure) = (self.0)(&event, &mut out) {
                writer.undo(mark);
                writer.fail((Source::Input, input), failure.kind, &failure.reason);
                if failure.is_transient() {
                    return Ok(writer.finish(input));
                }
            }
        }
        Ok(writer.finish(view.count))
    }
}
