//! Runs a handler over a batch. The same code runs in the guest and in native tests.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_event::{DueTimer, Events, Malformed, OutcomeWriter, Region, Source, TIMER_IN_HAND, View};

use crate::numbers::BLOCK;
use crate::state::{AnyShelf, Batch, Now, Wants, set_batch, set_now, take_shelves};
use crate::timer::{Before, Own};
use crate::{Consumer, Entry, Event, Failure, Outputs, Result, Timer, timer};

/// Bytes that several look at, and nobody copies: a batch is most of what a guest touches.
pub type Shared = Rc<Vec<u8>>;

/// A consumer that is ready to run.
pub trait Runner {
    /// Deals with a batch, which it shares for as long as that takes, and returns the outcome in its flat format. In `in_hand` stands the index of the event that is dealt with, or of the
    /// timer, with the highest bit set.
    ///
    /// # Errors
    /// When the batch is not what it should be.
    fn run(&mut self, header: &Shared, events: &Shared, in_hand: &AtomicU32)
    -> std::result::Result<Vec<u8>, Malformed>;

    /// Brings values of an older version over.
    ///
    /// # Errors
    /// What the consumer's `migrate` says.
    fn migrate(&mut self, from: u32, entries: Vec<Entry>) -> Result<Vec<Entry>>;
}

/// What deals with an event, or a timer.
trait Handle {
    fn handle(&mut self, event: &Event, out: &mut Outputs) -> Result;

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result;

    fn migrate(&mut self, from: u32, entry: Entry, out: &mut Vec<Entry>) -> Result;
}

struct Function<F>(F);

impl<F: FnMut(&Event, &mut Outputs) -> Result> Handle for Function<F> {
    fn handle(&mut self, event: &Event, out: &mut Outputs) -> Result {
        (self.0)(event, out)
    }

    fn fire(&mut self, _: &Timer, _: &mut Outputs) -> Result {
        Err(Failure::permanent("a function sets no timers"))
    }

    fn migrate(&mut self, _: u32, _: Entry, _: &mut Vec<Entry>) -> Result {
        Err(Failure::permanent("a function keeps no state"))
    }
}

struct Whole<C>(C);

impl<C: Consumer> Handle for Whole<C> {
    fn handle(&mut self, event: &Event, out: &mut Outputs) -> Result {
        self.0.process(event, out)
    }

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
        self.0.fire(timer, out)
    }

    fn migrate(&mut self, from: u32, entry: Entry, out: &mut Vec<Entry>) -> Result {
        self.0.migrate(from, entry, out)
    }
}

struct Handler<H> {
    handle: H,
    shelves: Rc<[Rc<dyn AnyShelf>]>,
    wants: Wants,
    has_timers: bool,
}

/// Makes a function ready to run.
pub fn runner(handler: impl FnMut(&Event, &mut Outputs) -> Result + 'static) -> Box<dyn Runner> {
    Box::new(Handler { handle: Function(handler), shelves: Rc::new([]), wants: |_, _| {}, has_timers: false })
}

/// Makes a consumer ready to run.
///
/// # Errors
/// What making it says.
pub fn consumer_runner<C: Consumer>(make: impl FnOnce() -> Result<C>) -> Result<Box<dyn Runner>> {
    take_shelves();
    timer::take_used();
    let handle = Whole(make()?);
    let (shelves, has_timers) = (take_shelves().into(), timer::take_used());
    Ok(Box::new(Handler { handle, shelves, wants: C::wants, has_timers }))
}

/// What comes next of a batch.
enum Next<'a> {
    /// The next event, if there is one.
    Event,
    Timer(DueTimer<'a>),
    /// A timer that was set in this call.
    Own(Own),
    /// A timer that was set in this call, and may not fire in it: the host gives it, and what is left, in the next call. So it does not matter how events are batched.
    Nothing,
}

/// What is dealt with now.
struct InHand {
    /// Where it stands. A timer that the call fires itself is numbered behind those that were due.
    of: (Source, u32),
    /// Its time.
    timestamp: i64,
    /// What the host is told. Of a timer that the call has set, it knows nothing yet: it is named by the event before which it fires.
    index: u32,
    /// An event that comes of a timer of an earlier stage.
    of_timer: bool,
}

/// Timers set in a call that fire in it, at most: one that sets itself again for a time that has come would do so for ever.
const MOST_OWN: u32 = 4096;
/// With so many bytes of outputs, none of them fires in the call any more: there may be outputs of many timers, and a call has a limit.
const ENOUGH_OUTPUTS: usize = 2 << 20;

/// What is left of a batch: timers and events, in the order in which they are dealt with.
struct Items<'a> {
    view: View<'a>,
    events: Events<'a>,
    due: Vec<DueTimer<'a>>,
    /// So many were dealt with.
    processed: u32,
    fired: u32,
    own: u32,
    /// Where the event before comes from, in a chain.
    source: Option<u64>,
    has_timers: bool,
}

impl<'a> Items<'a> {
    /// Values that the next events ask for are mostly held under their keys.
    fn expect(&self, shelves: &[Rc<dyn AnyShelf>]) {
        let (mut keys, mut next) = ([&[][..]; BLOCK], self.events.keys());
        keys.iter_mut().zip(&mut next).for_each(|(key, next)| *key = next);
        shelves.iter().for_each(|shelf| shelf.expect(&keys));
    }

    /// What is next. Its events are read where they are dealt with, and nowhere else: an event that goes from hand to hand is copied.
    #[inline(always)]
    fn next(&mut self, output_bytes: usize) -> std::result::Result<Next<'a>, Malformed> {
        if self.has_timers || !self.due.is_empty() {
            return self.next_with_timers(output_bytes);
        }
        Ok(Next::Event)
    }

    /// The same where timers may come before it.
    #[inline(never)]
    fn next_with_timers(&mut self, output_bytes: usize) -> std::result::Result<Next<'a>, Malformed> {
        let may_fire = self.view.fires && self.own < MOST_OWN && output_bytes < ENOUGH_OUTPUTS;
        let own = || timer::first().filter(|_| may_fire).map_or(Next::Nothing, Next::Own);
        while let Some(due) = self.due.get(self.fired as usize).filter(|due| due.before <= self.processed) {
            if due.clock == sluice_event::Clock::EventTime && timer::comes_first(&Before::Due(due.order())) {
                return Ok(own());
            }
            if !timer::is_changed(due) {
                return Ok(Next::Timer(*due));
            }
            // Cleared, or set anew: it is as good as fired.
            self.fired += 1;
        }
        if !self.has_timers || self.processed == self.view.count {
            return Ok(Next::Event);
        }
        // In a chain, timers fire between the events that were read, and several may come of one of these.
        let source = if self.view.chained {
            let event = self.events.clone().next().transpose()?;
            event.and_then(|event| event.origin()).map(|origin| origin.offset)
        } else {
            None
        };
        let is_new = source.is_none() || source != self.source;
        if is_new && timer::comes_first(&Before::Event(self.view.watermark_before(self.processed))) {
            return Ok(own());
        }
        self.source = source;
        Ok(Next::Event)
    }

    /// The event that is next.
    #[inline(always)]
    fn event(&self, flat: &sluice_event::Event<'_>) -> InHand {
        let of_timer = self.view.chained && flat.origin().is_some_and(|origin| origin.source == Source::Timer);
        let index = self.processed;
        InHand { of: (Source::Input, index), timestamp: flat.timestamp(), index, of_timer }
    }

    /// The due timer that is next, by its time.
    fn timer(&self, time: i64) -> InHand {
        let index = self.fired | TIMER_IN_HAND;
        InHand { of: (Source::Timer, self.fired), timestamp: time, index, of_timer: false }
    }

    /// A timer that the call has set, by its time.
    fn own(&self, time: i64) -> InHand {
        let index = self.processed.min(self.view.count.saturating_sub(1));
        let of = (Source::Timer, self.due.len() as u32 + self.own);
        InHand { of, timestamp: time, index, of_timer: false }
    }
}

impl<H: Handle> Handler<H> {
    /// Deals with one; whether the call goes on, and counts it.
    #[inline(always)]
    fn deal_with(
        &mut self,
        items: &Items<'_>,
        writer: &mut OutcomeWriter,
        told: &AtomicU32,
        (in_hand, own): (InHand, Option<&Own>),
        deal: impl FnOnce(&mut H, &mut Outputs) -> Result,
    ) -> bool {
        let InHand { of, timestamp, index, of_timer } = in_hand;
        told.store(index, Ordering::Relaxed);
        if !self.shelves.is_empty() || self.has_timers {
            let event = items.processed;
            set_now(Now { of, event, timestamp, of_timer, watermark: items.view.watermark_before(event) });
        }
        let mark = writer.mark();
        if let Some(own) = own {
            own.fire();
            writer.firing(&own.due(items.processed), items.fired);
        }
        let result = deal(&mut self.handle, &mut Outputs { writer, of, timestamp });
        let Err(failure) = result else {
            self.shelves.iter().for_each(|shelf| shelf.keep());
            if self.has_timers {
                timer::keep();
            }
            return true;
        };
        writer.undo(mark);
        self.shelves.iter().for_each(|shelf| shelf.undo());
        if self.has_timers {
            timer::undo();
        }
        if own.is_some() {
            // It is set again, and fails in the next call, where the host gives it.
            return false;
        }
        writer.fail(of, failure.kind, &failure.reason);
        !failure.is_transient()
    }
}

impl<H: Handle> Runner for Handler<H> {
    fn migrate(&mut self, from: u32, entries: Vec<Entry>) -> Result<Vec<Entry>> {
        let mut migrated = Vec::with_capacity(entries.len());
        entries.into_iter().try_for_each(|entry| self.handle.migrate(from, entry, &mut migrated))?;
        Ok(migrated)
    }

    fn run(
        &mut self,
        header: &Shared,
        events: &Shared,
        in_hand: &AtomicU32,
    ) -> std::result::Result<Vec<u8>, Malformed> {
        let view = View::parse(header)?;
        if !self.shelves.is_empty() {
            let (header, events) = (header.clone(), events.clone());
            set_batch(Some(Batch { header, events, shelves: self.shelves.clone(), wants: self.wants }));
        }
        // Outputs are rarely larger than inputs, and few values are larger than this; a larger outcome grows as vectors do.
        let state = if self.shelves.is_empty() { 0 } else { 80 * view.count as usize };
        let mut writer = OutcomeWriter::with_capacity(events.len() + 24 * view.count as usize + 256, state);
        let due = view.due_timers().collect::<std::result::Result<_, _>>()?;
        let events = Region::new(events, view.count).events();
        let has_timers = self.has_timers;
        let mut items = Items { view, events, due, processed: 0, fired: 0, own: 0, source: None, has_timers };
        let mut next_block = 0;
        loop {
            // Once, whatever timers fire before its first event.
            if !self.shelves.is_empty() && items.processed as usize == next_block {
                items.expect(&self.shelves);
                next_block += BLOCK;
            }
            match items.next(writer.output_bytes())? {
                Next::Event => {
                    let Some(flat) = items.events.next().transpose()? else { break };
                    let this = items.event(&flat);
                    let event = Event::of(&view, items.processed, flat);
                    let deal = |handle: &mut H, out: &mut Outputs| handle.handle(&event, out);
                    if !self.deal_with(&items, &mut writer, in_hand, (this, None), deal) {
                        break;
                    }
                    items.processed += 1;
                }
                Next::Timer(due) => {
                    let deal = |handle: &mut H, out: &mut Outputs| handle.fire(&Timer { due }, out);
                    if !self.deal_with(&items, &mut writer, in_hand, (items.timer(due.time), None), deal) {
                        break;
                    }
                    items.fired += 1;
                }
                Next::Own(own) => {
                    let timer = Timer { due: own.due(items.processed) };
                    let deal = |handle: &mut H, out: &mut Outputs| handle.fire(&timer, out);
                    if !self.deal_with(&items, &mut writer, in_hand, (items.own(timer.due.time), Some(&own)), deal) {
                        break;
                    }
                    items.own += 1;
                }
                Next::Nothing => break,
            }
        }
        self.shelves.iter().for_each(|shelf| shelf.write(&mut writer));
        if self.has_timers {
            timer::write(&mut writer);
        }
        set_batch(None);
        Ok(writer.finish(items.processed, items.fired))
    }
}
