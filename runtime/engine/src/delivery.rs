//! How often an event's effects can come about, and what that means for cursors.

use std::collections::VecDeque;
use std::time::Duration;

use sluice_event::Batch;
use sluice_log::{Input, Step, TopicPartition};

/// How often an event's effects can come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// The cursor moves in one commit with the outputs.
    #[default]
    ExactlyOnce,
    /// Outputs are committed as they come, the cursor this often.
    AtLeastOnce {
        /// `commit-every`.
        every: Duration,
    },
    /// The cursor moves, durably, before the consumer is called.
    AtMostOnce,
}

/// What became of some events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) filtered: u64,
    pub(crate) dead: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.filtered += other.filtered;
        self.dead += other.dead;
        self.skipped += other.skipped;
    }

    pub(crate) fn tell(&self, input: &mut Input) {
        (input.committed, input.filtered) = (self.committed, self.filtered);
        (input.dead, input.skipped) = (self.dead, self.skipped);
    }
}

/// At-least-once: the cursor follows what has been delivered, in steps of its own.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// Attempts whose outputs are handed over, oldest first: each by its number.
    attempts: VecDeque<(u64, Delivered)>,
    /// What was delivered and the cursor has not passed, oldest first: each of one source.
    delivered: VecDeque<Delivered>,
    /// When the cursor last moved.
    moved_at: Duration,
    /// The commit that moves it: its number and what it says.
    moving: Option<(u64, Delivered)>,
    /// The log refuses to move it, and will refuse again.
    stuck: bool,
}

/// What became of the events up to `to`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivered {
    /// Whose events they are.
    pub(crate) source: TopicPartition,
    /// The number of the last attempt.
    pub(crate) through: u64,
    pub(crate) to: u64,
    pub(crate) counts: Counts,
    /// Events of each call.
    pub(crate) calls: Vec<u32>,
    /// Bytes of outputs.
    pub(crate) bytes: usize,
    /// Dead letters: they are committed with the cursor that passes their events.
    pub(crate) dead: Vec<Batch>,
    /// Timers were dealt with, which is to be committed even where the cursor stays.
    pub(crate) fired: bool,
}

impl Delivered {
    /// Adds what was delivered after it.
    fn add(&mut self, next: Self) {
        (self.to, self.through) = (self.to.max(next.to), self.through.max(next.through));
        self.counts.add(&next.counts);
        self.calls.extend(next.calls);
        self.bytes += next.bytes;
        self.fired |= next.fired;
        for batch in next.dead {
            match self.dead.last_mut() {
                // The log takes batches up to some size, and a commit any number of them.
                Some(last) if last.bytes().len() + batch.bytes().len() < MOST_BYTES => last.extend(&batch),
                _ => self.dead.push(batch),
            }
        }
    }

    /// Whether there is anything that is not committed with the cursor where it is.
    fn is_behind(&self, cursor: u64) -> bool {
        self.to > cursor || self.fired
    }

    fn dead_bytes(&self) -> usize {
        self.dead.iter().map(|batch| batch.bytes().len()).sum()
    }
}

/// The cursor moves sooner when so many bytes of outputs would come again after a crash.
const MOST_BYTES: usize = 16 << 20;
/// The cursor moves sooner when a record of so many calls would be written.
const MOST_CALLS: usize = 4096;

impl Follower {
    /// Outputs were handed over under this number.
    pub(crate) fn submitted(&mut self, id: u64, delivered: Delivered) {
        self.attempts.push_back((id, delivered));
    }

    /// They are committed.
    pub(crate) fn committed(&mut self, id: u64) {
        let at = self.attempts.iter().position(|attempt| attempt.0 == id);
        if let Some((_, delivered)) = at.and_then(|at| self.attempts.remove(at)) {
            // The cursor moves in one topic at a time.
            match self.delivered.back_mut().filter(|last| last.source == delivered.source) {
                Some(last) => last.add(delivered),
                None => self.delivered.push_back(delivered),
            }
        }
    }

    /// They are not, and neither is what was planned on them.
    pub(crate) fn failed(&mut self, id: u64) {
        self.attempts.retain(|attempt| attempt.0 < id);
    }

    /// What the commit of this number is to say, its dead letters, and the last attempt that it covers, if it is time to move the cursor from where it is.
    pub(crate) fn due(
        &mut self,
        id: u64,
        cursor: u64,
        now: Duration,
        every: Duration,
        at_once: bool,
    ) -> Option<(Input, Vec<Batch>, u64)> {
        if self.stuck || self.moving.is_some() || !self.is_behind(cursor) {
            return None;
        }
        let first = self.delivered.front()?;
        let due = at_once
            || self.delivered.len() > 1
            || now >= self.moved_at + every
            || first.bytes + first.dead_bytes() >= MOST_BYTES
            || first.calls.len() >= MOST_CALLS;
        if !due {
            return None;
        }
        let delivered = self.delivered.pop_front()?;
        let (to, calls) = (delivered.to.max(cursor), delivered.calls.clone());
        let mut input = Input { step: Step::Done, from: cursor, to, calls, ..Input::default() };
        delivered.counts.tell(&mut input);
        let (dead, through) = (delivered.dead.clone(), delivered.through);
        self.moved_at = now;
        self.moving = Some((id, delivered));
        Some((input, dead, through))
    }

    /// Takes the answer, if it is that of the commit that moves the cursor; `cursor` is where it is then.
    pub(crate) fn answered(&mut self, id: u64, ok: bool, cursor: &mut u64) -> bool {
        let Some((_, mut delivered)) = self.moving.take_if(|(moving, _)| *moving == id) else { return false };
        if ok {
            *cursor = delivered.to.max(*cursor);
            return true;
        }
        match self.delivered.pop_front() {
            Some(next) if next.source == delivered.source => delivered.add(next),
            Some(next) => self.delivered.push_front(next),
            None => {}
        }
        self.delivered.push_front(delivered);
        true
    }

    fn is_behind(&self, cursor: u64) -> bool {
        self.delivered.iter().any(|delivered| delivered.is_behind(cursor))
    }

    /// The log refuses to move the cursor: it is not asked again.
    pub(crate) fn give_up(&mut self) {
        self.stuck = true;
    }

    /// It may be asked again.
    pub(crate) fn retry(&mut self) {
        self.stuck = false;
    }

    /// Whether the cursor is where it should be, as far as it can be.
    pub(crate) fn is_settled(&self, cursor: u64) -> bool {
        self.moving.is_none() && (self.stuck || !self.is_behind(cursor))
    }

    /// Whether a commit that moves the cursor is under way.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// When the cursor is to move next, if it is to move at all.
    pub(crate) fn next_at(&self, cursor: u64, every: Duration) -> Option<Duration> {
        (self.moving.is_none() && !self.stuck && self.is_behind(cursor)).then_some(self.moved_at + every)
    }
}

/// At-most-once: events are claimed before they are given to the consumer.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// All before it is claimed, durably.
    claimed: u64,
    /// Number of the commit that claims more, and up to where.
    claiming: Option<(u64, u64)>,
}

impl Claims {
    pub(crate) fn new(cursor: u64) -> Self {
        Self { claimed: cursor, claiming: None }
    }

    /// All before it may be given to the consumer.
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed
    }

    /// The range to claim next, so that one call's worth of events is claimed ahead of the call that begins at `from`.
    pub(crate) fn due(&self, from: u64, events: u32, high_watermark: u64) -> Option<(u64, u64)> {
        let to = from.saturating_add(2 * u64::from(events)).min(high_watermark);
        (self.claiming.is_none() && to > self.claimed).then_some((self.claimed, to))
    }

    pub(crate) fn claiming(&mut self, id: u64, to: u64) {
        self.claiming = Some((id, to));
    }

    pub(crate) fn is_claiming(&self) -> bool {
        self.claiming.is_some()
    }

    /// Takes the answer, if it is that of a claim.
    pub(crate) fn answered(&mut self, id: u64, ok: bool) -> bool {
        let Some((_, to)) = self.claiming.take_if(|(claiming, _)| *claiming == id) else { return false };
        if ok {
            self.claimed = to;
        }
        true
    }
}
