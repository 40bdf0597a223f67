//! Runs a handler over a batch. The same code runs in the guest and in native tests.

use std::rc::Rc;

use sluice_event::{Malformed, OutcomeWriter, Region, Source, View};

use crate::state::{AnyShelf, Batch, Now, Wants, set_batch, set_now, take_shelves};
use crate::{Consumer, Event, Outputs, Result};

/// A consumer that is ready to run.
pub trait Runner {
    /// Deals with a batch and returns the outcome in its flat format. `progress` is told the index of each event first.
    ///
    /// # Errors
    /// When the batch is not what it should be.
    fn run(&mut self, header: &[u8], events: &[u8], progress: &dyn Fn(u32)) -> std::result::Result<Vec<u8>, Malformed>;
}

/// What deals with an event.
trait Handle {
    fn handle(&mut self, event: &Event, out: &mut Outputs) -> Result;
}

struct Function<F>(F);

impl<F: FnMut(&Event, &mut Outputs) -> Result> Handle for Function<F> {
    fn handle(&mut self, event: &Event, out: &mut Outputs) -> Result {
        (self.0)(event, out)
    }
}

struct Whole<C>(C);

impl<C: Consumer> Handle for Whole<C> {
    fn handle(&mut self, event: &Event, out: &mut Outputs) -> Result {
        self.0.process(event, out)
    }
}

struct Handler<H> {
    handle: H,
    shelves: Rc<[Rc<dyn AnyShelf>]>,
    wants: Wants,
}

/// Makes a function ready to run.
pub fn runner(handler: impl FnMut(&Event, &mut Outputs) -> Result + 'static) -> Box<dyn Runner> {
    Box::new(Handler { handle: Function(handler), shelves: Rc::new([]), wants: |_, _| {} })
}

/// Makes a consumer ready to run.
///
/// # Errors
/// What making it says.
pub fn consumer_runner<C: Consumer>(make: impl FnOnce() -> Result<C>) -> Result<Box<dyn Runner>> {
    take_shelves();
    let handle = Whole(make()?);
    Ok(Box::new(Handler { handle, shelves: take_shelves().into(), wants: C::wants }))
}

impl<H: Handle> Runner for Handler<H> {
    fn run(&mut self, header: &[u8], events: &[u8], progress: &dyn Fn(u32)) -> std::result::Result<Vec<u8>, Malformed> {
        let view = View::parse(header)?;
        if !self.shelves.is_empty() {
            let (header, events) = (header.into(), events.into());
            set_batch(Some(Batch { header, events, shelves: self.shelves.clone(), wants: self.wants }));
        }
        // Outputs are rarely larger than inputs; a larger outcome grows as vectors do.
        let mut writer = OutcomeWriter::with_capacity(events.len() + 24 * view.count as usize + 256);
        let mut processed = view.count;
        for (input, flat) in (0..).zip(Region::new(events, view.count).events()) {
            let flat = flat?;
            progress(input);
            let event = Event::of(&view, input, flat);
            if !self.shelves.is_empty() {
                set_now(Now { input, timestamp: flat.timestamp(), watermark: view.watermark_before(input) });
            }
            let mark = writer.mark();
            let mut out = Outputs { writer: &mut writer, input, timestamp: flat.timestamp() };
            let Err(failure) = self.handle.handle(&event, &mut out) else {
                self.shelves.iter().for_each(|shelf| shelf.keep());
                continue;
            };
            writer.undo(mark);
            self.shelves.iter().for_each(|shelf| shelf.undo());
            writer.fail((Source::Input, input), failure.kind, &failure.reason);
            if failure.is_transient() {
                processed = input;
                break;
            }
        }
        self.shelves.iter().for_each(|shelf| shelf.write(&mut writer));
        set_batch(None);
        Ok(writer.finish(processed))
    }
}
