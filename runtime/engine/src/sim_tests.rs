//! Delivery with commits that fail at random and guests that trap, many attempts in flight.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_env::{Clock, ManualClock, Rng};
use sluice_event::{Batch, FailureKind, NewEvent, OutcomeWriter, Region, Source as From_, TooLarge, View};
use sluice_log::{Appended, Commit, Committed, Done, Error, Input, ReadBatch, Step as InputStep, TopicPartition};
use sluice_state::{
    Delta, Entries, MemoryStore, PartitionState, SharedState, Slot, StageState, full_key, prefix_of, space_of,
};

use crate::*;

const SOURCE: TopicPartition = TopicPartition { topic: 1, partition: 0 };
/// Where a chain's last stage, its first stage, and the dead letters go.
const OUT: u32 = 2;
const DEAD: u32 = 3;
const SIDE: u32 = 4;
const CHANGELOG: TopicPartition = TopicPartition { topic: 5, partition: 0 };

/// What becomes of a number whose failures are dead-lettered.
fn is_bad(number: u64) -> bool {
    number % 13 == 5 || number % 51 == 20
}

/// A log of one input and one output, which answers late and sometimes with a failure, and checks what it is told.
#[derive(Default)]
struct Model {
    waiting: VecDeque<(Commit, Done)>,
    cursor: u64,
    epoch: u64,
    /// How often each number came out since the cursor was last set anew.
    outputs: BTreeMap<u64, u32>,
    /// The same for the first stage's outputs that go to a sink of their own, and for dead letters.
    side: BTreeMap<u64, u32>,
    dead: BTreeMap<u64, u32>,
    /// The event that is to be tried again, and how often it was.
    tried: Option<(u64, u32)>,
    /// How often each number was tried by any instance of each stage: what consumers depend on comes back after a while.
    tries: Vec<Arc<Mutex<BTreeMap<u64, u32>>>>,
    /// All before it is claimed.
    claimed: u64,
    /// Where the last outcome ended.
    outcome: u64,
    /// At-least-once: outputs come in commits ahead of those that move the cursor.
    outputs_ahead: bool,
    /// Bad numbers fail, and are dead-lettered as the poisoned one is.
    failing: bool,
    poison: Option<u64>,
    /// What the state went through.
    changelog: Vec<Vec<u8>>,
    /// The first thing that was wrong.
    wrong: Option<String>,
    /// Commits that do not start at the cursor are taken all the same: a planted defect.
    no_fence: bool,
}

#[derive(Clone, Default)]
struct ModelStorage(Arc<Mutex<Model>>);

impl Storage for ModelStorage {
    fn submit(&self, commit: Commit, done: Done) {
        self.0.lock().unwrap().waiting.push_back((commit, done));
    }

    fn position(&self, _: u32, _: TopicPartition) -> Option<(u64, u64)> {
        let model = self.0.lock().unwrap();
        Some((model.epoch, model.cursor))
    }
}

impl Model {
    /// What is wrong with a commit, if anything.
    fn take(&mut self, commit: &Commit, input: &Input) -> Result<(), String> {
        let of = |topic: u32| -> Vec<u64> {
            let appends = commit.appends.iter().filter(|append| append.to.topic == topic);
            appends.flat_map(|append| append.batch.region().events().map(|event| number(&event.unwrap()))).collect()
        };
        let (mut numbers, dead, side) = (of(OUT), of(DEAD), of(SIDE));
        let range: Vec<u64> = (input.from..input.to).collect();
        for (seen, counts) in [(&numbers, &mut self.outputs), (&dead, &mut self.dead), (&side, &mut self.side)] {
            seen.iter().for_each(|number| *counts.entry(*number).or_default() += 1);
        }
        let follows = input.step == InputStep::Done && numbers.is_empty() && self.outputs_ahead;
        if !follows && input.dead != dead.len() as u64 {
            return Err(format!("{input:?} with the dead letters {dead:?}"));
        }
        if !side.is_empty() && side != numbers {
            return Err(format!("{side:?} went aside, and {numbers:?} out"));
        }
        // With those that failed for good, which at-least-once tells of when the cursor moves.
        let failed: Vec<u64> = range.iter().copied().filter(|number| self.failing && is_bad(*number)).collect();
        if let Some(wrong) = dead.iter().find(|number| !failed.contains(number) && Some(**number) != self.poison) {
            let appends = commit.appends.iter().filter(|append| append.to.topic == DEAD);
            let letters: Vec<_> = appends
                .flat_map(|append| {
                    append.batch.region().events().map(|event| DeadLetter::of(&event.unwrap()).unwrap().0)
                })
                .collect();
            return Err(format!("{wrong} is dead, and there was nothing wrong with it: {letters:?}"));
        }
        let of_these = |number: &u64| failed.contains(number) || self.poison == Some(*number) && self.failing;
        numbers.extend(range.iter().filter(|number| of_these(number)));
        numbers.sort_unstable();
        if input.step == InputStep::Done && self.outputs_ahead {
            numbers.clear();
        }
        if input.step == InputStep::Outcome {
            self.outcome = input.to;
        }
        let told = input.committed + input.filtered + input.dead + input.skipped;
        match input.step {
            InputStep::Claim => {
                (self.cursor, self.claimed) = (input.to, input.to);
                return Ok(());
            }
            InputStep::Outcome if input.to <= self.claimed => {
                let times = |number| self.outputs.get(number).unwrap_or(&0) + self.dead.get(number).unwrap_or(&0);
                if range.iter().any(|number| times(number) > 1) {
                    return Err(format!("{input:?} came out twice"));
                }
            }
            InputStep::Outcome => {
                return if numbers == range { Ok(()) } else { Err(format!("{input:?} with {numbers:?}")) };
            }
            InputStep::Done if self.outputs_ahead => {
                self.cursor = input.to;
                let dealt_with = |number| self.outputs.contains_key(number) || self.dead.contains_key(number);
                if !range.iter().all(dealt_with) {
                    return Err(format!("the cursor moves over {range:?}, of which something never came out"));
                }
            }
            InputStep::Done => self.cursor = input.to,
        }
        if told != input.to - input.from {
            return Err(format!("{told} events told of: {input:?}"));
        }
        if !numbers.is_empty() && numbers != range {
            return Err(format!("{input:?} with {numbers:?}"));
        }
        Ok(())
    }
}

impl ModelStorage {
    /// Answers the oldest commit.
    fn answer(&self, fail: bool) {
        let mut model = self.0.lock().unwrap();
        let Some((commit, done)) = model.waiting.pop_front() else { return };
        let Some(input) = commit.input.clone() else {
            let tried = commit.tried.unwrap();
            let answer = if tried.epoch == model.epoch && !fail {
                model.tried = Some((tried.offset, tried.attempts));
                Ok(Committed::default())
            } else {
                Err(Error::Fenced { pipeline: 1, input: SOURCE, from: tried.offset, committed: model.cursor })
            };
            drop(model);
            return done(answer);
        };
        let from = if input.step == InputStep::Outcome { model.outcome } else { model.cursor };
        let changed = commit.appends.iter().find(|append| append.to == CHANGELOG);
        let follows = changed.is_none_or(|append| append.at == Some(model.changelog.len() as u64));
        let fenced = input.epoch != model.epoch || input.from != from || !follows;
        let answer = if fail {
            Err(Error::NoSpace { path: "/data".into(), source: Arc::new(std::io::ErrorKind::StorageFull.into()) })
        } else if fenced && !model.no_fence {
            Err(Error::Fenced { pipeline: 1, input: SOURCE, from: input.from, committed: model.cursor })
        } else {
            if let Err(wrong) = model.take(&commit, &input) {
                model.wrong.get_or_insert(wrong);
            }
            let base_offset = model.changelog.len() as u64;
            let deltas = changed.into_iter().flat_map(|append| append.batch.region().events());
            model.changelog.extend(deltas.map(|event| event.unwrap().value().to_vec()));
            let appended = changed.map(|_| Appended { to: CHANGELOG, base_offset, count: 1 });
            Ok(Committed { appended: appended.into_iter().collect(), ..Committed::default() })
        };
        drop(model);
        done(answer);
    }

    /// Sets the cursor anew, as an operator does; where there is state, to the end of a commit, and the state with it.
    fn rewind(&self, to: u64, keeps: bool) {
        let mut model = self.0.lock().unwrap();
        let mut to = to;
        if keeps {
            let kept = model.changelog.iter().take_while(|bytes| Delta::head(bytes).unwrap().to <= to).count();
            model.changelog.truncate(kept);
            to = model.changelog.last().map_or(0, |bytes| Delta::head(bytes).unwrap().to);
        }
        (model.cursor, model.epoch, model.claimed, model.outcome) = (to, model.epoch + 1, to, to);
        model.outputs.clear();
        model.side.clear();
        model.dead.clear();
        model.tried = None;
    }
}

/// The state that a changelog makes.
fn state_of(changelog: &[Vec<u8>]) -> PartitionState {
    let mut state = PartitionState::open(Arc::new(MemoryStore::default())).unwrap();
    for (offset, bytes) in (0..).zip(changelog) {
        state.apply(offset, &Delta::decode(bytes).unwrap()).unwrap();
    }
    state
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
        *out = ReadBatch {
            base_offset: from,
            count: batch.count(),
            bytes: batch.bytes().to_vec(),
            ..ReadBatch::default()
        };
        Ok(())
    }
}

fn number(event: &sluice_event::Event<'_>) -> u64 {
    std::str::from_utf8(event.value()).unwrap().parse().unwrap()
}

/// Hands events through; traps on the poisoned ones, naming them or not, and sometimes out of the blue. Told to, it fails on bad
/// ones, and for a time on some others.
struct Echo {
    plan: Plan,
    stage: usize,
    /// How often each number was tried, by any instance.
    tries: Arc<Mutex<BTreeMap<u64, u32>>>,
    poison: Option<u64>,
    names_it: bool,
    rng: Arc<Mutex<Rng>>,
    dead: bool,
    /// It keeps, under five keys, the numbers that it has dealt with.
    state: Option<StageState>,
}

impl Consumer for Echo {
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        assert!(!self.dead, "an instance was used after it trapped");
        let view = View::parse(header).unwrap();
        let mut writer = OutcomeWriter::default();
        let mut kept: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let trap = |in_hand| CallError { in_hand, ..CallError::new(CallErrorKind::Trap, "boom") };
        for (input, event) in (0..).zip(Region::new(events, view.count).events()) {
            let event = event.unwrap();
            let number = number(&event);
            if self.poison == Some(number) {
                self.dead = true;
                return Err(trap(self.names_it.then_some(input)));
            }
            // Never when it is alone: a trap that cannot be repeated halts nothing.
            if view.count > 1 && self.rng.lock().unwrap().one_in(500) {
                self.dead = true;
                return Err(trap(Some(input)));
            }
            if self.plan.failing && (self.plan.stages == 1 || number % 2 == self.stage as u64) {
                let tries = *self.tries.lock().unwrap().entry(number).and_modify(|tries| *tries += 1).or_insert(1);
                let may_pass = self.plan.fails_at.is_none();
                let transient = may_pass && (number % 51 == 20 || number % 17 == 3 && tries < 3);
                if is_bad(number) || transient || self.plan.fails_at == Some(number) {
                    let kind = if transient { FailureKind::Transient } else { FailureKind::Permanent };
                    writer.fail((From_::Input, input), kind, "bad");
                    if transient {
                        receive(&writer.finish(input, 0));
                        return Ok(());
                    }
                    continue;
                }
            }
            if let Some(state) = &self.state {
                let key = key(self.plan.version, number as u8 % 5);
                let before = || state.get(&key).unwrap().and_then(|slot| slot.value).unwrap_or_default();
                let numbers = kept.entry(key.clone()).or_insert_with(before);
                numbers.push(number as u8);
                writer.state((From_::Input, input), &key, Some(numbers), None);
            }
            let value = event.value().to_vec();
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(&value);
                Ok::<_, TooLarge>(())
            };
            writer.output((From_::Input, input), 0, NewEvent::default(), write).unwrap();
            if self.plan.stages > 1 && self.stage == 0 {
                let aside = writer.sink(Some("side"));
                writer.output((From_::Input, input), aside, NewEvent::default(), write).unwrap();
            }
        }
        receive(&writer.finish(view.count, 0));
        Ok(())
    }

    fn state_version(&self) -> u32 {
        self.plan.version
    }

    fn migrate(&mut self, from: u32, entries: &Entries) -> Result<Entries, CallError> {
        assert!(from < self.plan.version && !entries.is_empty());
        let migrated = |(old, slot): &(Vec<u8>, Slot)| {
            assert_eq!(*old, key(from, old[old.len() - 1]), "a key of another version");
            (key(self.plan.version, old[old.len() - 1]), slot.clone())
        };
        Ok(entries.iter().map(migrated).collect())
    }
}

/// The key under which a version keeps something.
fn key(version: u32, key: u8) -> Vec<u8> {
    vec![version as u8, key][usize::from(version == 0)..].to_vec()
}

struct EchoPlugin {
    plan: Plan,
    stage: usize,
    tries: Arc<Mutex<BTreeMap<u64, u32>>>,
    poison: Option<u64>,
    names_it: bool,
    rng: Arc<Mutex<Rng>>,
}

impl Plugin for EchoPlugin {
    fn instantiate(&self, state: Option<StageState>) -> Result<Box<dyn Consumer>, CallError> {
        let state = state.map(|state| state.of_version(self.plan.version));
        let (poison, names_it, rng) = (self.poison, self.names_it, self.rng.clone());
        let (plan, stage, tries) = (self.plan, self.stage, self.tries.clone());
        Ok(Box::new(Echo { plan, stage, tries, poison, names_it, rng, dead: false, state }))
    }
}

/// What a run does.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "troubles that come together in every way")]
struct Plan {
    delivery: Delivery,
    stages: usize,
    poison: Option<u64>,
    no_fence: bool,
    /// Whether the runner dies and starts anew now and then.
    crashes: bool,
    /// Whether an operator sets the cursor anew now and then.
    rewinds: bool,
    /// Whether some numbers fail, and what fails is dead-lettered.
    failing: bool,
    /// Whether the stages keep state.
    keeps: bool,
    /// Whether other generations take over now and then, some of which fail where the first does not.
    reloads: bool,
    /// This number fails for good, and no other for a time.
    fails_at: Option<u64>,
    /// Whether generations take over now and then whose state is of a newer version.
    upgrades: bool,
    /// The version of the stages' state.
    version: u32,
}

const EXACTLY_ONCE: Plan = Plan {
    delivery: Delivery::ExactlyOnce,
    stages: 1,
    poison: None,
    no_fence: false,
    crashes: false,
    rewinds: false,
    failing: false,
    keeps: false,
    reloads: false,
    fails_at: None,
    upgrades: false,
    version: 0,
};

fn generation(plan: Plan, storage: &ModelStorage, rng: &mut Rng) -> Generation {
    let stage = |index: usize, rng: &mut Rng| {
        // The last stage is the one that traps.
        let poison = plan.poison.filter(|_| index + 1 == plan.stages);
        let rng_of_guest = Arc::new(Mutex::new(Rng::from_seed(rng.next_u64())));
        let names_it = rng.one_in(2);
        let plugin = EchoPlugin {
            plan,
            stage: index,
            tries: storage.0.lock().unwrap().tries[index].clone(),
            poison,
            names_it,
            rng: rng_of_guest,
        };
        let (name, plugin) = (format!("echo-{index}"), Arc::new(plugin));
        let state = plan.keeps.then_some(StateGrant { max_bytes: 1 << 20, values: true, timers: false });
        let (keys_unchanged, max_outputs_per_event, state_version) = (index == 0, 10, Some(plan.version));
        StageConfig { name, plugin, keys_unchanged, digest: "d".into(), max_outputs_per_event, state, state_version }
    };
    let errors = if plan.failing {
        let (initial_backoff, max_backoff) = (Duration::from_millis(50), Duration::from_millis(100));
        ErrorPolicy {
            retry: Retry { attempts: 4, initial_backoff, max_backoff },
            on_error: OnError::DeadLetter { topic: DEAD, partitions: 1 },
            breaker: Arc::new(Breaker::new(1000, 500)),
        }
    } else {
        ErrorPolicy::halt()
    };
    let sink = |name: &str, topic| Sink { name: name.into(), topic, partitions: 1, partition_by: PartitionBy::Source };
    Generation {
        number: 1,
        stages: (0..plan.stages).map(|index| stage(index, rng)).collect(),
        sinks: vec![sink("out", OUT), sink("side", SIDE)],
        errors,
        batch_size: BatchSize::new(7),
        max_bytes: 1 << 20,
        linger: Duration::ZERO,
        probation: None,
    }
}

fn config(plan: Plan, storage: &ModelStorage, rng: &mut Rng) -> LaneConfig {
    let (epoch, _) = storage.position(1, SOURCE).unwrap();
    LaneConfig {
        pipeline_name: "p".into(),
        pipeline: 1,
        witness: Arc::new(()),
        epoch,
        delivery: plan.delivery,
        generation: generation(plan, storage, rng),
        max_in_flight: 5,
        state: plan.keeps.then(|| {
            let log = storage.clone();
            let reopen: Reopen = Arc::new(move || Ok(state_of(&log.0.lock().unwrap().changelog)));
            let shared = SharedState::new(reopen().unwrap());
            StateConfig { shared, changelog: CHANGELOG, flusher: Arc::new(()), reopen, time: Arc::default() }
        }),
    }
}

fn runner(config: LaneConfig, storage: &ModelStorage, clock: &Arc<ManualClock>) -> LaneRunner {
    let (_, cursor) = storage.position(1, SOURCE).unwrap();
    let tried = storage.0.lock().unwrap().tried;
    let source = SourceConfig { source: SOURCE, topic_name: "in".into(), cursor, tried };
    let sources: Vec<(_, Box<dyn Source>)> = vec![(source, Box::new(Numbers { count: 200 }))];
    LaneRunner::new(config, sources, Arc::new(storage.clone()), clock.clone(), Arc::new(|| {}))
}

/// Generations that take over, as a node has them.
#[derive(Default)]
struct Reloads {
    made: u32,
    /// The one on probation, and whether it is as good as the first.
    under_way: Option<(Arc<Probation>, bool)>,
}

impl Reloads {
    fn act(&mut self, lane: &mut LaneRunner, plan: Plan, storage: &ModelStorage, rng: &mut Rng) {
        if let Some((probation, is_good)) = &self.under_way {
            // It ends by itself in the end, for events do.
            if rng.one_in(200) && probation.dealt() > 0 {
                probation.end(Verdict::Passed);
            }
            match probation.verdict() {
                Verdict::Open => {}
                Verdict::Passed if *is_good => self.under_way = None,
                Verdict::Passed | Verdict::Failed(_) => {
                    // One that is bad and was not found out is taken out by hand.
                    lane.go_over(generation(plan, storage, rng));
                    self.under_way = None;
                }
            }
        }
        let cursor = storage.0.lock().unwrap().cursor;
        if self.made < 12 && cursor < 190 && rng.one_in(25) {
            self.made += 1;
            let is_good = rng.one_in(3);
            let poison = cursor + rng.below(200 - cursor);
            let next = match (is_good, rng.one_in(2)) {
                (true, _) => plan,
                (false, true) => Plan { poison: Some(poison), ..plan },
                (false, false) => Plan { fails_at: Some(poison), ..plan },
            };
            let holds = plan.delivery != Delivery::AtMostOnce && rng.one_in(2);
            let probation = Arc::new(Probation::new(1 + rng.below(8), holds, || {}));
            let Generation { stages, sinks, .. } = generation(plan, storage, rng);
            let before = Some((probation.clone(), Before::Asked { stages, sinks }));
            lane.go_over(Generation { probation: before, ..generation(next, storage, rng) });
            self.under_way = Some((probation, is_good));
        }
    }
}

/// Runs 200 events with about five attempts in flight and one commit in eight failing. What was wrong, if anything.
fn run(seed: u64, mut plan: Plan) -> Result<(), String> {
    let storage = ModelStorage::default();
    {
        let mut model = storage.0.lock().unwrap();
        (model.no_fence, model.failing, model.poison) = (plan.no_fence, plan.failing, plan.poison);
        model.tries = vec![Arc::default(), Arc::default()];
        model.outputs_ahead = matches!(plan.delivery, Delivery::AtLeastOnce { .. });
    }
    let mut rng = Rng::from_seed(seed);
    let clock = Arc::new(ManualClock::default());
    let mut lane = runner(config(plan, &storage, &mut rng), &storage, &clock);
    let (mut troubles, mut owed, mut reloads) = (0, 0, Reloads::default());
    for round in 0..20_000 {
        clock.set(round * 10);
        if plan.reloads {
            reloads.act(&mut lane, plan, &storage, &mut rng);
        }
        if plan.upgrades && plan.version < 3 && rng.one_in(40) {
            plan.version += 1;
            lane.go_over(generation(plan, &storage, &mut rng));
        }
        if rng.one_in(3) {
            storage.answer(rng.one_in(8));
        }
        if plan.crashes && troubles < 5 && rng.one_in(60) {
            troubles += 1;
            // What was handed over may still be committed, or be lost.
            while rng.one_in(2) {
                storage.answer(false);
            }
            {
                let mut model = storage.0.lock().unwrap();
                model.waiting.clear();
                model.outcome = model.cursor;
            }
            lane = runner(config(plan, &storage, &mut rng), &storage, &clock);
            reloads.under_way = None;
        }
        if plan.rewinds && troubles < 5 && rng.one_in(60) {
            troubles += 1;
            let cursor = storage.0.lock().unwrap().cursor;
            storage.rewind(rng.below(cursor + 1), plan.keeps);
            // It is told late, and more than once; by then it may have noticed.
            owed = 2;
        }
        if owed > 0 && rng.one_in(6) {
            owed -= 1;
            lane.resync();
        }
        match lane.step(false) {
            Step::Backoff(_) => lane.retry(),
            Step::Waiting => storage.answer(rng.one_in(8)),
            Step::Idle | Step::Halted(_) if owed == 0 && reloads.under_way.is_none() => break,
            Step::Idle | Step::Halted(_) | Step::Worked | Step::WaitingUntil(_) => {}
            Step::StopNode(error) => return Err(error.to_string()),
        }
    }
    let expected = plan.poison.filter(|_| !plan.failing).unwrap_or(200);
    let context = |what: String| format!("seed {seed}: {what}");
    {
        let model = storage.0.lock().unwrap();
        if let Some(wrong) = &model.wrong {
            return Err(context(wrong.clone()));
        }
        check_state(&model, plan, expected).map_err(context)?;
        let bad = |number: &u64| plan.failing && (is_bad(*number) || plan.poison == Some(*number));
        let kept = |number: &u64| if bad(number) { &model.dead } else { &model.outputs };
        let lost = (0..expected).find(|number| !kept(number).contains_key(number));
        let may_lose = plan.delivery == Delivery::AtMostOnce && plan.crashes || plan.rewinds;
        if let (Some(lost), false) = (lost, may_lose) {
            return Err(context(format!(
                "{lost} never came out, the cursor is at {}, {:?}",
                model.cursor,
                lane.state()
            )));
        }
        let again = model.dead.iter().find(|(_, times)| **times > 1);
        if let (Some(again), false) = (again, plan.rewinds) {
            return Err(context(format!("{} died {} times", again.0, again.1)));
        }
        let again = model.outputs.iter().find(|(_, times)| **times > 1);
        let may_repeat = matches!(plan.delivery, Delivery::AtLeastOnce { .. }) && (plan.crashes || plan.rewinds);
        if let (Some(again), false) = (again, may_repeat) {
            return Err(context(format!("{} came out {} times", again.0, again.1)));
        }
        if (plan.poison.is_none() || plan.failing) && model.cursor != expected {
            return Err(context(format!("the cursor is at {}, not {expected}", model.cursor)));
        }
    }
    if lane.state().cursor != expected {
        return Err(context(format!("it came to {}, not {expected}", lane.state().cursor)));
    }
    match (&lane.state().halt, plan.poison) {
        (None, None) => Ok(()),
        (None, Some(_)) if plan.failing => Ok(()),
        (Some(halt), Some(poison)) if halt.offset == poison && !plan.failing => Ok(()),
        (halt, _) => Err(context(format!("halt is {halt:?}"))),
    }
}

/// That each stage's state holds the numbers that came out, each once, in order.
fn check_state(model: &Model, plan: Plan, expected: u64) -> Result<(), String> {
    let state = state_of(&model.changelog);
    for stage in (0..plan.stages).filter(|_| plan.keeps) {
        let versions = state.versions(&format!("echo-{stage}")).unwrap();
        if versions.iter().any(|version| *version != plan.version) {
            return Err(format!("stage {stage} keeps values of versions {versions:?}, and not of {}", plan.version));
        }
        for key in 0..5u8 {
            let space = space_of(&format!("echo-{stage}"), plan.version);
            let full = full_key(&prefix_of(&space), &self::key(plan.version, key));
            let kept = state.get_committed(&full).unwrap().and_then(|slot| slot.value).unwrap_or_default();
            let bad = |number: &u64| plan.failing && (is_bad(*number) || plan.poison == Some(*number));
            let due = (0..expected).filter(|number| number % 5 == u64::from(key) && !bad(number));
            // What is lost (at-most-once) neither came out nor is kept; what was passed over by a rewind came out before.
            let lossy = plan.delivery == Delivery::AtMostOnce && plan.crashes;
            let due: Vec<u8> =
                due.filter(|number| !lossy || model.outputs.contains_key(number)).map(|number| number as u8).collect();
            if kept != due {
                return Err(format!("stage {stage} keeps {kept:?} under {key}, and not {due:?}"));
            }
        }
    }
    Ok(())
}

const DELIVERIES: [Delivery; 3] =
    [Delivery::ExactlyOnce, Delivery::AtLeastOnce { every: Duration::from_millis(150) }, Delivery::AtMostOnce];

fn plans() -> impl Iterator<Item = Plan> {
    DELIVERIES.into_iter().flat_map(|delivery| [1, 2].map(|stages| Plan { delivery, stages, ..EXACTLY_ONCE }))
}

#[test]
fn failing_commits_with_five_attempts_in_flight_double_and_lose_nothing() {
    for plan in plans() {
        (0..700).try_for_each(|seed| run(seed, plan)).unwrap();
    }
}

#[test]
fn after_a_crash_each_delivery_keeps_its_promise() {
    for plan in plans() {
        (0..500).try_for_each(|seed| run(seed, Plan { crashes: true, ..plan })).unwrap();
    }
}

#[test]
fn a_rewind_fences_what_is_under_way_and_goes_on_from_there() {
    for plan in plans() {
        (0..500).try_for_each(|seed| run(seed, Plan { rewinds: true, ..plan })).unwrap();
    }
}

#[test]
fn other_generations_take_over_and_those_that_fail_leave_nothing_amiss() {
    for plan in plans() {
        for (crashes, rewinds, keeps) in
            [(false, false, false), (true, false, false), (false, true, false), (true, false, true)]
        {
            let plan = Plan { reloads: true, failing: true, crashes, rewinds, keeps, ..plan };
            (0..200).try_for_each(|seed| run(seed, plan)).unwrap_or_else(|wrong| {
                panic!("{:?}, {} stages, {crashes} {rewinds} {keeps}: {wrong}", plan.delivery, plan.stages)
            });
        }
    }
}

#[test]
fn a_poisoned_event_halts_at_its_own_offset_and_all_before_it_are_committed() {
    for plan in plans() {
        (0..300).try_for_each(|seed| run(seed, Plan { poison: Some(seed % 200), ..plan })).unwrap();
    }
}

#[test]
fn failing_events_are_tried_again_or_die_once_and_all_others_come_out() {
    for plan in plans() {
        for (crashes, rewinds) in [(false, false), (true, false), (false, true)] {
            let plan = Plan { failing: true, crashes, rewinds, ..plan };
            (0..250).try_for_each(|seed| run(seed, Plan { poison: Some(seed % 200), ..plan })).unwrap();
        }
    }
}

#[test]
fn state_is_what_came_out_whatever_fails_falls_crashes_and_is_rewound() {
    for seed in 0..60 {
        for plan in plans() {
            let keeps = Plan { keeps: true, ..plan };
            let troubles = [
                keeps,
                Plan { failing: true, poison: Some(77), ..keeps },
                Plan { crashes: true, ..keeps },
                Plan { crashes: true, failing: true, ..keeps },
                Plan { rewinds: true, ..keeps },
                Plan { upgrades: true, ..keeps },
                Plan { upgrades: true, crashes: true, failing: true, ..keeps },
                Plan { upgrades: true, rewinds: true, ..keeps },
            ];
            for plan in troubles {
                // The cursor of an at-most-once pipeline is ahead of its state: the model knows no such rewinds.
                if !(plan.rewinds && plan.delivery == Delivery::AtMostOnce) {
                    run(seed, plan).unwrap_or_else(|wrong| {
                        let Plan { delivery, stages, crashes, failing, rewinds, upgrades, .. } = plan;
                        panic!("{delivery:?}, {stages} stages, {crashes} {failing} {rewinds} {upgrades}: {wrong}");
                    });
                }
            }
        }
    }
}

#[test]
fn storage_that_does_not_fence_is_noticed() {
    for plan in [EXACTLY_ONCE, Plan { delivery: Delivery::AtMostOnce, rewinds: true, ..EXACTLY_ONCE }] {
        assert!((0..50).any(|seed| run(seed, Plan { no_fence: true, ..plan }).is_err()));
    }
}

/// Traps after half a second.
struct SlowTrap(Arc<ManualClock>);

impl Plugin for SlowTrap {
    fn instantiate(&self, _: Option<StageState>) -> Result<Box<dyn Consumer>, CallError> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

impl Consumer for SlowTrap {
    fn call(&mut self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        self.0.set(self.0.now() + 500);
        Err(CallError::new(CallErrorKind::Trap, "boom"))
    }
}

#[test]
fn after_a_failed_call_others_have_their_turn_for_as_long_as_it_took() {
    let (storage, clock) = (ModelStorage::default(), Arc::new(ManualClock::default()));
    storage.0.lock().unwrap().tries = vec![Arc::default()];
    let mut config = config(EXACTLY_ONCE, &storage, &mut Rng::from_seed(1));
    config.generation.stages[0].plugin = Arc::new(SlowTrap(clock.clone()));
    let mut lane = runner(config, &storage, &clock);
    assert!(matches!(lane.step(false), Step::Worked));
    let Step::WaitingUntil(until) = lane.step(false) else { panic!("it goes on at once") };
    assert_eq!(until, Duration::from_millis(1000));
    clock.set(1000);
    assert!(matches!(lane.step(false), Step::Worked));
}
