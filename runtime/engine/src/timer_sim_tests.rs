//! Timers against a plain program: however calls are cut, whatever fails, falls or crashes, each fires once, in its order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_env::{ManualClock, Rng};
use sluice_event::{Batch, NewEvent, Source as EventSource, View};
use sluice_log::{Appended, Commit, Committed, Done, Error, ReadBatch, Step as InputStep, TopicPartition};
use sluice_sdk::{Config, Event, Failure, Outputs, Timer, Timers, consumer_runner};
use sluice_state::{Delta, MemoryStore, PartitionState, SharedState, StageState};

use crate::*;

/// Source topics have ids from here on.
const FIRST: u32 = 100;
const OUT: u32 = 2;
const DEAD: u32 = 3;
const LATE: u32 = 4;
/// Where late events have a sink of their own.
const LATENESS: i64 = 3;
const CHANGELOG: TopicPartition = TopicPartition { topic: 5, partition: 0 };

/// What a consumer does.
enum Act {
    Set(&'static str, i64),
    Clear(&'static str),
    Send(String),
}

/// A number made of some others.
fn mix(numbers: &[i64]) -> i64 {
    let mixed = numbers.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, n| {
        (hash ^ n.cast_unsigned()).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    });
    i64::from((mixed >> 33) as u32)
}

fn on_event(stage: usize, key: u8, time: i64, value: &str) -> Result<Vec<Act>, &'static str> {
    let n = mix(&[stage.cast_signed() as i64, i64::from(key), time]);
    let mut acts = vec![Act::Send(format!("{value}>{stage}"))];
    acts.extend((n % 3 == 0).then_some(Act::Set("a", time + n % 50)));
    acts.extend((n % 5 == 0).then_some(Act::Set("b", time - n % 10)));
    acts.extend((n % 7 == 0).then_some(Act::Clear("a")));
    if n % 37 == 11 { Err("no") } else { Ok(acts) }
}

fn on_timer(stage: usize, key: u8, tag: &str, time: i64) -> Result<Vec<Act>, &'static str> {
    let n = mix(&[stage.cast_signed() as i64, i64::from(key), time, 77]);
    let mut acts = vec![Act::Send(format!("{tag}{time}!{stage}"))];
    // What sets itself for earlier sets nothing for later: it must come to an end.
    acts.extend((tag != "d" && n % 4 == 0).then_some(Act::Set("c", time + 1 + n % 20)));
    acts.extend((n % 5 == 0).then_some(Act::Set("d", time - 1)));
    if n % 13 == 4 { Err("never") } else { Ok(acts) }
}

/// An event: number, key and time.
type Given = (usize, u8, i64);

/// The events of each topic.
fn events(seed: u64, topics: usize) -> Vec<Vec<Given>> {
    let mut rng = Rng::from_seed(seed);
    let (mut time, mut all) = (1000, vec![Vec::new(); topics]);
    for number in 0..150 {
        time += rng.below(8).cast_signed();
        let event = (number, rng.below(5) as u8, time - rng.below(10).cast_signed());
        // Now and then a topic has many in a row.
        let topic = if number % 40 < 15 { 0 } else { rng.below(topics as u64) as usize };
        all[topic].push(event);
    }
    all
}

/// What comes out, by a plain program that deals with one thing at a time.
#[derive(Default)]
struct Plain {
    stages: usize,
    /// By time, stage, key and tag.
    timers: BTreeSet<(i64, usize, u8, &'static str)>,
    out: Vec<String>,
    dead: Vec<String>,
    late: Vec<String>,
}

impl Plain {
    fn set(&mut self, stage: usize, key: u8, tag: &'static str, time: Option<i64>) {
        self.timers.retain(|(_, of, other, name)| (*of, *other, *name) != (stage, key, tag));
        self.timers.extend(time.map(|time| (time, stage, key, tag)));
    }

    /// What a stage does, and all that comes of it.
    fn act(&mut self, stage: usize, key: u8, time: i64, acts: Vec<Act>) -> Result<(), &'static str> {
        for act in acts {
            match act {
                Act::Set(tag, time) => self.set(stage, key, tag, Some(time)),
                Act::Clear(tag) => self.set(stage, key, tag, None),
                Act::Send(value) if stage + 1 < self.stages => {
                    let acts = on_event(stage + 1, key, time, &value)?;
                    self.act(stage + 1, key, time, acts)?;
                }
                Act::Send(value) => self.out.push(format!("{key}={value}")),
            }
        }
        Ok(())
    }

    /// All of it, or nothing.
    fn try_to(&mut self, name: &str, act: impl FnOnce(&mut Self) -> Result<(), &'static str>) {
        let before = (self.timers.clone(), self.out.len());
        if act(self).is_err() {
            self.timers = before.0;
            self.out.truncate(before.1);
            self.dead.push(name.to_owned());
        }
    }

    fn fire(&mut self, watermark: i64) {
        while let Some((time, stage, key, tag)) = self.timers.pop_first() {
            if time > watermark {
                self.timers.insert((time, stage, key, tag));
                return;
            }
            self.try_to(&format!("{key}:{tag}"), |plain| plain.act(stage, key, time, on_timer(stage, key, tag, time)?));
        }
    }

    /// Over events in this order, each with its topic.
    fn run(events: &[(usize, Given)], plan: Plan) -> Self {
        let mut plain = Self { stages: plan.stages, ..Self::default() };
        let mut newest = vec![i64::MIN; plan.topics];
        let mut watermark = i64::MIN;
        for (topic, (number, key, time)) in events {
            plain.fire(watermark);
            let value = number.to_string();
            if plan.diverts && *time < watermark {
                plain.late.push(format!("{key}={value}"));
            } else {
                plain.try_to(&format!("{key}:{value}"), |plain| {
                    plain.act(0, *key, *time, on_event(0, *key, *time, &value)?)
                });
            }
            newest[*topic] = newest[*topic].max(*time - if plan.diverts { LATENESS } else { 0 });
            watermark = newest.iter().copied().min().unwrap();
        }
        plain.fire(watermark);
        plain
    }
}

/// The same as a consumer, built with the SDK.
struct Alarms {
    stage: usize,
    timers: [Timers; 4],
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Alarms {
    fn act(&self, key: &[u8], acts: Vec<Act>, out: &mut Outputs) -> sluice_sdk::Result {
        let timers = |tag: &str| &self.timers[NAMES.iter().position(|name| *name == tag).unwrap()];
        for act in acts {
            match act {
                Act::Set(tag, time) => timers(tag).set(key, time)?,
                Act::Clear(tag) => timers(tag).clear(key)?,
                Act::Send(value) => out.send(key, value)?,
            }
        }
        Ok(())
    }
}

impl sluice_sdk::Consumer for Alarms {
    fn init(config: &Config) -> sluice_sdk::Result<Self> {
        Ok(Self { stage: config.parse()?, timers: NAMES.map(Timers::named) })
    }

    fn process(&mut self, event: &Event, out: &mut Outputs) -> sluice_sdk::Result {
        let key = event.key().unwrap();
        let acts = on_event(self.stage, key[0], event.timestamp(), event.text()?).map_err(Failure::permanent)?;
        self.act(key, acts, out)
    }

    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> sluice_sdk::Result {
        let id = (self.stage, timer.key()[0], timer.name().to_owned(), timer.time());
        // What some depend on comes back after a while.
        let tries = TRIES.with_borrow_mut(|tries| *tries.entry(id).and_modify(|tries| *tries += 1).or_insert(1));
        if mix(&[timer.time(), 99]) % 11 == 3 && tries < 3 {
            return Err(Failure::transient("not now"));
        }
        let acts = on_timer(self.stage, timer.key()[0], timer.name(), timer.time()).map_err(Failure::permanent)?;
        self.act(timer.key(), acts, out)
    }
}

thread_local! {
    /// How often each timer was tried, by any instance.
    static TRIES: RefCell<BTreeMap<(usize, u8, String, i64), u32>> = const { RefCell::new(BTreeMap::new()) };
    /// What runs in a guest belongs to one thread; tests of a lane have only one.
    static RUNNERS: RefCell<Vec<Box<dyn sluice_sdk::Runner>>> = const { RefCell::new(Vec::new()) };
}

/// Traps out of the blue, but never when there is only one thing to do.
struct Moody {
    /// Among those of the thread.
    runner: usize,
    rng: Arc<Mutex<Rng>>,
    names_it: bool,
}

impl Consumer for Moody {
    fn call(&mut self, header: &[u8], events: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<(), CallError> {
        let view = View::parse(header).unwrap();
        let traps = view.count + view.due.1 > 1 && self.rng.lock().unwrap().one_in(30);
        let last = std::sync::atomic::AtomicU32::new(0);
        let run = |runners: &mut Vec<Box<dyn sluice_sdk::Runner>>| {
            runners[self.runner].run(&header.to_vec().into(), &events.to_vec().into(), &last).unwrap()
        };
        let outcome = RUNNERS.with_borrow_mut(run);
        if traps {
            let in_hand = self.names_it.then(|| last.load(std::sync::atomic::Ordering::Relaxed));
            return Err(CallError { in_hand, ..CallError::new(CallErrorKind::Trap, "boom") });
        }
        receive(&outcome);
        Ok(())
    }
}

struct Maker {
    stage: usize,
    rng: Arc<Mutex<Rng>>,
    between: bool,
}

impl Plugin for Maker {
    fn instantiate(&self, _: Option<StageState>) -> Result<Box<dyn Consumer>, CallError> {
        let config = Config::from_json(self.stage.to_string());
        let made = consumer_runner(|| <Alarms as sluice_sdk::Consumer>::init(&config)).unwrap();
        let runner = RUNNERS.with_borrow_mut(|runners| {
            runners.push(made);
            runners.len() - 1
        });
        let names_it = self.rng.lock().unwrap().one_in(2);
        Ok(Box::new(Moody { runner, rng: self.rng.clone(), names_it }))
    }

    fn takes_timers_between(&self) -> bool {
        self.between
    }
}

/// A log that answers late, and sometimes refuses.
#[derive(Default)]
struct Model {
    waiting: VecDeque<(Commit, Done)>,
    /// Of each topic.
    cursors: [u64; 3],
    outcomes: [u64; 3],
    /// How cursors moved: the topic, from where, and up to where.
    moves: Vec<(usize, u64, u64)>,
    changelog: Vec<Vec<u8>>,
    out: Vec<String>,
    origins: Vec<(u32, u64, bool, u32)>,
    dead: Vec<String>,
    late: Vec<String>,
}

#[derive(Clone, Default)]
struct ModelStorage(Arc<Mutex<Model>>);

impl Storage for ModelStorage {
    fn submit(&self, commit: Commit, done: Done) {
        self.0.lock().unwrap().waiting.push_back((commit, done));
    }

    fn position(&self, _: u32, source: TopicPartition) -> Option<(u64, u64)> {
        Some((1, self.0.lock().unwrap().cursors[(source.topic - FIRST) as usize]))
    }
}

impl ModelStorage {
    fn answer(&self, fail: bool) {
        let mut model = self.0.lock().unwrap();
        let Some((commit, done)) = model.waiting.pop_front() else { return };
        let Some(input) = commit.input.clone() else {
            drop(model);
            return done(Ok(Committed::default()));
        };
        let topic = (input.topic - FIRST) as usize;
        let from = if input.step == InputStep::Outcome { model.outcomes[topic] } else { model.cursors[topic] };
        let changed = commit.appends.iter().find(|append| append.to == CHANGELOG);
        let follows = changed.is_none_or(|append| append.at == Some(model.changelog.len() as u64));
        let answer = if fail {
            Err(Error::NoSpace { path: "/data".into(), source: Arc::new(std::io::ErrorKind::StorageFull.into()) })
        } else if input.from != from || !follows {
            let source = TopicPartition { topic: input.topic, partition: 0 };
            Err(Error::Fenced { pipeline: 1, input: source, from: input.from, committed: model.cursors[topic] })
        } else {
            model.take(&commit, input.step, (topic, input.from, input.to));
            let base_offset = model.changelog.len().saturating_sub(1) as u64;
            let appended = changed.map(|_| Appended { to: CHANGELOG, base_offset, count: 1 });
            Ok(Committed { appended: appended.into_iter().collect(), ..Committed::default() })
        };
        drop(model);
        done(answer);
    }
}

impl Model {
    fn take(&mut self, commit: &Commit, step: InputStep, moved: (usize, u64, u64)) {
        let (topic, _, to) = moved;
        if step == InputStep::Outcome {
            self.outcomes[topic] = to;
        } else {
            self.cursors[topic] = to;
            self.moves.push(moved);
        }
        for append in &commit.appends {
            for event in append.batch.region().events() {
                let event = event.unwrap();
                let text = std::str::from_utf8(event.value()).unwrap_or_default();
                match append.to.topic {
                    OUT => {
                        self.out.push(format!("{}={text}", event.key().unwrap()[0]));
                        let origin = event.origin().unwrap();
                        let is_input = origin.source == EventSource::Input;
                        self.origins.push((origin.topic, origin.offset, is_input, origin.ordinal));
                    }
                    LATE => self.late.push(format!("{}={text}", event.key().unwrap()[0])),
                    DEAD => self.dead.push(format!("{}:{}", event.key().unwrap()[0], text.trim_end_matches('/'))),
                    _ => self.changelog.push(event.value().to_vec()),
                }
            }
        }
    }

    fn state(&self) -> PartitionState {
        let mut state = PartitionState::open(Arc::new(MemoryStore::default())).unwrap();
        for (offset, bytes) in (0..).zip(&self.changelog) {
            state.apply(offset, &Delta::decode(bytes).unwrap()).unwrap();
        }
        state
    }
}

struct Topic(Vec<Given>);

impl Source for Topic {
    fn high_watermark(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, from: u64, max_events: u32, _: usize, out: &mut ReadBatch) -> Result<(), Error> {
        let mut batch = Batch::default();
        for (number, key, timestamp) in self.0.iter().skip(from as usize).take(max_events as usize) {
            let value = number.to_string();
            let event =
                NewEvent { timestamp: *timestamp, key: Some(&[*key]), value: value.as_bytes(), ..NewEvent::default() };
            batch.push(&event).unwrap();
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

#[derive(Debug, Clone, Copy)]
struct Plan {
    delivery: Delivery,
    stages: usize,
    /// Whether timers come between events.
    between: bool,
    crashes: bool,
    /// Whether late events have a sink of their own.
    diverts: bool,
    topics: usize,
}

fn lane(seed: u64, plan: Plan, storage: &ModelStorage, clock: &Arc<ManualClock>, rng: &mut Rng) -> LaneRunner {
    let guest = Arc::new(Mutex::new(Rng::from_seed(rng.next_u64())));
    let stage = |index: usize| StageConfig {
        // The later one sorts before the earlier one.
        name: ["first-alarms", "alarms"][index].to_owned(),
        plugin: Arc::new(Maker { stage: index, rng: guest.clone(), between: plan.between }),
        keys_unchanged: true,
        max_outputs_per_event: 10,
        digest: "d".into(),
        state: Some(StateGrant { max_bytes: 1 << 20, values: false, timers: true }),
        state_version: Some(0),
    };
    let state = storage.clone();
    let reopen: Reopen = Arc::new(move || Ok(state.0.lock().unwrap().state()));
    let shared = SharedState::new(reopen().unwrap());
    let backoff = Duration::from_millis(50);
    let sink = |(name, topic): (&str, u32)| Sink {
        name: name.into(),
        topic,
        partitions: 1,
        partition_by: PartitionBy::Source,
    };
    let time = match plan.diverts {
        true => TimePolicy { late_sink: Some(1), lateness: LATENESS, ..TimePolicy::default() },
        false => TimePolicy::default(),
    };
    let config = LaneConfig {
        pipeline_name: "p".into(),
        pipeline: 1,
        epoch: 1,
        delivery: plan.delivery,
        witness: Arc::new(()),
        generation: Generation {
            number: 1,
            stages: (0..plan.stages).map(stage).collect(),
            sinks: [("out", OUT), ("late", LATE)].map(sink).into(),
            errors: ErrorPolicy {
                retry: Retry { attempts: 4, initial_backoff: backoff, max_backoff: backoff },
                on_error: OnError::DeadLetter { topic: DEAD, partitions: 1 },
                breaker: Arc::new(Breaker::new(1000, 500)),
            },
            batch_size: BatchSize::new(1 + rng.below(40) as u32),
            max_bytes: 1 << 20,
            linger: Duration::ZERO,
            probation: None,
        },
        max_in_flight: 4,
        state: Some(StateConfig { shared, changelog: CHANGELOG, flusher: Arc::new(()), reopen, time: Arc::new(time) }),
    };
    let cursors = storage.0.lock().unwrap().cursors;
    let source = |((topic, events), cursor): ((u32, Vec<Given>), u64)| {
        let source = TopicPartition { topic, partition: 0 };
        let config = SourceConfig { source, topic_name: format!("in-{topic}"), cursor, tried: None };
        (config, Box::new(Topic(events)) as Box<dyn Source>)
    };
    let sources = (FIRST..).zip(events(seed, plan.topics)).zip(cursors).map(source).collect();
    LaneRunner::new(config, sources, Arc::new(storage.clone()), clock.clone(), Arc::new(|| {}))
}

fn run(seed: u64, plan: Plan) {
    TRIES.take();
    let (storage, clock, mut rng) = (ModelStorage::default(), Arc::new(ManualClock::default()), Rng::from_seed(seed));
    let mut runner = lane(seed, plan, &storage, &clock, &mut rng);
    let mut crashes = 0;
    for round in 0.. {
        assert!(round < 50_000, "seed {seed}: it does not come to an end: {:?}", runner.state());
        clock.set(round * 10);
        if rng.one_in(3) {
            storage.answer(rng.one_in(10));
        }
        if plan.crashes && crashes < 5 && rng.one_in(60) {
            crashes += 1;
            while rng.one_in(2) {
                storage.answer(false);
            }
            storage.0.lock().unwrap().waiting.clear();
            runner = lane(seed, plan, &storage, &clock, &mut rng);
        }
        match runner.step(false) {
            Step::Backoff(_) => runner.retry(),
            Step::Waiting => storage.answer(rng.one_in(10)),
            Step::Idle => break,
            Step::Worked | Step::WaitingUntil(_) => {}
            other => panic!("seed {seed}, {plan:?}: {other:?}"),
        }
    }
    let nonsense = runner.state().work.failures().find(|(kind, _)| *kind == CallErrorKind::BadOutcome);
    assert_eq!(nonsense.map(|(_, count)| count), Some(0), "seed {seed}, {plan:?}: outcomes that are none");
    let model = storage.0.lock().unwrap();
    let given = events(seed, plan.topics);
    let moved = |(topic, from, to): &(usize, u64, u64)| {
        given[*topic][*from as usize..*to as usize].iter().map(|event| (*topic, *event)).collect::<Vec<_>>()
    };
    let in_order: Vec<_> = model.moves.iter().flat_map(moved).collect();
    assert_eq!(in_order.len(), 150, "seed {seed}, {plan:?}: all are dealt with once");
    let plain = Plain::run(&in_order, plan);
    let same = model.out.iter().zip(&plain.out).take_while(|(a, b)| a == b).count();
    let near = |all: &[String]| all[same.saturating_sub(3)..all.len().min(same + 6)].to_vec();
    assert_eq!(near(&model.out), near(&plain.out), "seed {seed}, {plan:?}: output {same} differs");
    assert_eq!(model.out.len(), plain.out.len(), "seed {seed}, {plan:?}");
    assert_eq!(model.late, plain.late, "seed {seed}, {plan:?}");
    let late = model.state().applied().late as usize;
    assert!(
        !plan.diverts || (late == plain.late.len() && (late > 0 || plan.topics > 1)),
        "seed {seed}, {plan:?}: {late} are counted"
    );
    let (mut dead, mut expected) = (model.dead.clone(), plain.dead);
    dead.sort();
    expected.sort();
    assert_eq!(dead, expected, "seed {seed}: the dead");
    for topic in (FIRST..).take(plan.topics) {
        let own: Vec<_> = model.origins.iter().filter(|origin| origin.0 == topic).collect();
        let next = |pair: &[&(u32, u64, bool, u32)]| pair[0] < pair[1];
        assert!(own.windows(2).all(next), "seed {seed}, {plan:?}: origins are not in order, or not unique: {own:?}");
    }
    let left = model.state().due_timers(sluice_event::Clock::EventTime, i64::MAX, 1000).unwrap();
    assert_eq!(left.len(), plain.timers.len(), "seed {seed}: timers left");
}

#[test]
fn timers_fire_once_and_in_order_however_calls_are_cut_and_whatever_falls() {
    let deliveries =
        [Delivery::ExactlyOnce, Delivery::AtLeastOnce { every: Duration::from_millis(100) }, Delivery::AtMostOnce];
    for seed in 0..150 {
        for delivery in deliveries {
            for (stages, between, topics) in [(1, true, 1), (1, false, 1), (2, true, 1), (1, true, 2), (2, false, 3)] {
                let crashes = delivery == Delivery::ExactlyOnce && seed % 2 == 0;
                run(seed, Plan { delivery, stages, between, crashes, diverts: seed % 3 == 0, topics });
            }
        }
    }
}
