//! Delivery with commits that fail at random and guests that trap, many attempts in flight.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use sluice_env::{ManualClock, Rng};
use sluice_event::{Batch, NewEvent, OutcomeWriter, Region, Source as From_, TooLarge, View};
use sluice_log::{Commit, Committed, Done, Error, ReadBatch, TopicPartition};

use crate::*;

const SOURCE: TopicPartition = TopicPartition { topic: 1, partition: 0 };

/// A log of one input and one output, which answers late and sometimes with a failure.
#[derive(Default)]
struct Model {
    waiting: VecDeque<(Commit, Done)>,
    cursor: u64,
    outputs: Vec<Vec<u8>>,
    /// Commits that do not start at the cursor are taken all the same: a planted defect.
    no_fence: bool,
}

#[derive(Clone, Default)]
struct ModelStorage(Arc<Mutex<Model>>);

impl Storage for ModelStorage {
    fn submit(&self, commit: Commit, done: Done) {
        self.0.lock().unwrap().waiting.push_back((commit, done));
    }
}

impl ModelStorage {
    /// Answers the oldest commit.
    fn answer(&self, fail: bool) {
        let mut model = self.0.lock().unwrap();
        let Some((commit, done)) = model.waiting.pop_front() else { return };
        let input = commit.input.unwrap();
        let fenced = input.from != model.cursor && !model.no_fence;
        let answer = if fail {
            Err(Error::NoSpace { path: "/data".into(), source: Arc::new(std::io::ErrorKind::StorageFull.into()) })
        } else if fenced {
            Err(Error::Fenced { pipeline: 1, input: SOURCE, from: input.from, committed: model.cursor })
        } else {
            model.cursor = input.to;
            for append in &commit.appends {
                let values = append.batch.region().events().map(|event| event.unwrap().value().to_vec());
                model.outputs.extend(values);
            }
            Ok(Committed::default())
        };
        drop(model);
        done(answer);
    }
}

struct Numbers {
    count: u64,
}

impl Source for Numbers {
    fn high_watermark(&self) -> u64 {
        self.count
    }

    fn read(&mut self, from: u64, max_events: u32, _: usize, out: &mut ReadBatch) -> Result<(), Error> {
        let mut batch = Batch::default();
        for number in from..self.count.min(from + u64::from(max_events)) {
            batch.push(&NewEvent { value: number.to_string().as_bytes(), ..NewEvent::default() }).unwrap();
        }
        *out = ReadBatch { base_offset: from, count: batch.count(), bytes: batch.bytes().to_vec(), append_time: 0 };
        Ok(())
    }
}

/// Hands events through; traps on the poisoned ones, naming them or not, and sometimes out of the blue.
struct Echo {
    poison: Option<u64>,
    names_it: bool,
    rng: Arc<Mutex<Rng>>,
    dead: bool,
}

impl Consumer for Echo {
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        assert!(!self.dead, "an instance was used after it trapped");
        let view = View::parse(header).unwrap();
        let mut writer = OutcomeWriter::default();
        let trap = |in_hand| CallError { kind: CallErrorKind::Trap, message: "boom".into(), in_hand };
        for (input, event) in (0..).zip(Region::new(events, view.count).events()) {
            if self.poison == Some(view.base_offset + u64::from(input)) {
                self.dead = true;
                return Err(trap(self.names_it.then_some(input)));
            }
            // Never when it is alone: a trap that cannot be repeated halts nothing.
            if view.count > 1 && self.rng.lock().unwrap().one_in(500) {
                self.dead = true;
                return Err(trap(Some(input)));
            }
            let value = event.unwrap().value().to_vec();
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(&value);
                Ok::<_, TooLarge>(())
            };
            writer.output((From_::Input, input), 0, NewEvent::default(), write).unwrap();
        }
        receive(&writer.finish(view.count));
        Ok(())
    }
}

struct EchoPlugin {
    poison: Option<u64>,
    names_it: bool,
    rng: Arc<Mutex<Rng>>,
}

impl Plugin for EchoPlugin {
    fn instantiate(&self) -> Result<Box<dyn Consumer>, CallError> {
        let (poison, names_it, rng) = (self.poison, self.names_it, self.rng.clone());
        Ok(Box::new(Echo { poison, names_it, rng, dead: false }))
    }
}

/// Runs 200 events with about five attempts in flight and one commit in eight failing. What was wrong, if anything.
fn run(seed: u64, poison: Option<u64>, no_fence: bool) -> Result<(), String> {
    let storage = ModelStorage::default();
    storage.0.lock().unwrap().no_fence = no_fence;
    let mut rng = Rng::from_seed(seed);
    let plugin = EchoPlugin { poison, names_it: rng.one_in(2), rng: Arc::new(Mutex::new(Rng::from_seed(seed))) };
    let sinks = vec![Sink { name: "out".into(), topic: 2, partitions: 1, partition_by: PartitionBy::Source }];
    let config = LaneConfig {
        pipeline: 1,
        epoch: 1,
        generation: 1,
        source: SOURCE,
        topic_name: "in".into(),
        cursor: 0,
        sinks,
        max_events: 7,
        max_bytes: 1 << 20,
        max_in_flight: 5,
    };
    let mut runner = LaneRunner::new(
        config,
        Arc::new(plugin),
        Box::new(Numbers { count: 200 }),
        Arc::new(storage.clone()),
        Arc::new(ManualClock::default()),
        Arc::new(|| {}),
    );
    for _ in 0..10_000 {
        if rng.one_in(3) {
            storage.answer(rng.one_in(8));
        }
        match runner.step(false) {
            Step::Backoff(_) => runner.retry(),
            Step::Waiting => storage.answer(rng.one_in(8)),
            Step::Idle | Step::Halted(_) => break,
            Step::Worked => {}
            Step::StopNode(error) => return Err(error.to_string()),
        }
    }
    let model = storage.0.lock().unwrap();
    let expected = poison.unwrap_or(200);
    let numbers: Vec<Vec<u8>> = (0..expected).map(|number| number.to_string().into_bytes()).collect();
    if model.outputs != numbers {
        return Err(format!("seed {seed}: {} outputs, not {expected} in order", model.outputs.len()));
    }
    if runner.state().cursor != expected || model.cursor != expected {
        return Err(format!("seed {seed}: the cursor is at {}, not {expected}", runner.state().cursor));
    }
    match (&runner.state().halt, poison) {
        (None, None) => Ok(()),
        (Some(halt), Some(poison)) if halt.offset == poison => Ok(()),
        (halt, _) => Err(format!("seed {seed}: halt is {halt:?}")),
    }
}

#[test]
fn failing_commits_with_five_attempts_in_flight_double_and_lose_nothing() {
    (0..2000).try_for_each(|seed| run(seed, None, false)).unwrap();
}

#[test]
fn a_poisoned_event_halts_at_its_own_offset_and_all_before_it_are_committed() {
    (0..1000).try_for_each(|seed| run(seed, Some(seed % 200), false)).unwrap();
}

#[test]
fn storage_that_does_not_fence_is_noticed() {
    assert!((0..50).any(|seed| run(seed, None, true).is_err()));
}
