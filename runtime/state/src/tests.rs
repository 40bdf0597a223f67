//! The state against a plain map, over every way to commit, fall, flush, crash and turn back.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use sluice_event::Clock;

use crate::*;

type Plain = BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>;

/// What is done.
#[derive(Debug, Clone)]
enum Act {
    /// An attempt changes these keys; none for a value deletes.
    Attempt(Vec<(u8, Option<u8>, Option<i64>)>),
    /// An attempt sets timers by these numbers, or clears them; every second goes by the time of day.
    Timers(Vec<(u8, Option<i64>)>),
    /// The oldest attempt is committed, and the watermark goes on by so much.
    Commit(i64),
    /// All attempts fall.
    Fall,
    /// What is committed goes to the store, at once or while more is committed.
    Flush,
    /// The process dies: what is not committed is gone, and the state comes up from store and changelog.
    Crash,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let write = (0..12u8, proptest::option::of(any::<u8>()), proptest::option::of(1..60i64));
    let timer = (0..6u8, proptest::option::of(-5..20i64));
    let act = prop_oneof![
        2 => proptest::collection::vec(timer, 0..4).prop_map(Act::Timers),
        4 => proptest::collection::vec(write, 0..6).prop_map(Act::Attempt),
        4 => (0..8i64).prop_map(Act::Commit),
        1 => Just(Act::Fall),
        2 => Just(Act::Flush),
        1 => Just(Act::Crash),
    ];
    proptest::collection::vec(act, 0..60)
}

fn key(number: u8) -> Vec<u8> {
    full_key(&prefix_of("stage"), &[number / 4, number])
}

/// A plain map beside the state, and the changelog between them.
struct Run {
    store: Arc<dyn Store>,
    state: PartitionState,
    changelog: Vec<Vec<u8>>,
    plain: Plain,
    watermark: i64,
    attempts: Vec<(u64, Layer)>,
    next: u64,
    flush: Option<Flush>,
}

impl Run {
    fn new(store: Arc<dyn Store>) -> Self {
        let state = PartitionState::open(store.clone()).unwrap();
        let (changelog, plain, attempts) = (Vec::new(), Plain::new(), Vec::new());
        Self { store, state, changelog, plain, watermark: 0, attempts, next: 0, flush: None }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Attempt(writes) => {
                let mut layer = Layer::default();
                for (number, value, expires) in writes {
                    let value = value.map(|value| [value; 3]);
                    layer.push(&[], &key(*number), value.as_ref().map(|value| &value[..]), *expires);
                }
                self.attempt(layer);
            }
            Act::Timers(changes) => {
                let mut layer = Layer::default();
                for (number, time) in changes {
                    let clock = if number % 2 == 0 { Clock::EventTime } else { Clock::WallClock };
                    let to = time.map(|time| (clock, time));
                    set_timer("stage", &[b'k', *number][..=usize::from(number % 3 > 0)], b"tag", to, &mut layer);
                }
                self.attempt(layer);
            }
            Act::Commit(by) if !self.attempts.is_empty() => self.commit(*by),
            Act::Commit(_) => {}
            Act::Fall => {
                self.state.discard_from(0);
                self.attempts.clear();
            }
            Act::Flush => match self.flush.take() {
                Some(flush) => {
                    let result = flush.run();
                    self.state.flushed(&flush, result);
                }
                None => self.flush = self.state.start_flush(),
            },
            Act::Crash => {
                (self.flush, self.attempts) = (None, Vec::new());
                self.state = PartitionState::open(self.store.clone()).unwrap();
                let from = self.state.applied().offset;
                for (offset, bytes) in (0..).zip(&self.changelog).skip(from as usize) {
                    self.state.apply(offset, &Delta::decode(bytes).unwrap()).unwrap();
                }
            }
        }
    }

    fn attempt(&mut self, layer: Layer) {
        self.state.push(self.next, layer.clone()).unwrap();
        self.attempts.push((self.next, layer));
        self.next += 1;
    }

    /// Timers, as the plain map has them, in the order in which they fire.
    fn check_timers(&mut self, all: &Plain) {
        for clock in [Clock::EventTime, Clock::WallClock] {
            let mut set: Vec<Timer> = Vec::new();
            for (key, (value, _)) in all.iter().filter(|(key, _)| key[0] == 3 && all[*key].0[0] == clock as u8) {
                let own = space_and_key(key).unwrap().1;
                let (len, rest) = own.split_first_chunk::<4>().unwrap();
                let (key, tag) = rest.split_at(u32::from_be_bytes(*len) as usize);
                let time = i64::from_le_bytes(value[1..].try_into().unwrap());
                set.push(Timer { stage: "stage".into(), clock, time, key: key.into(), tag: tag.into() });
            }
            set.sort_by(|a, b| a.due(0).order().cmp(&b.due(0).order()));
            let due: Vec<_> = set.iter().filter(|timer| timer.time <= 7).cloned().collect();
            assert_eq!(self.state.due_timers(clock, 7, 100).unwrap(), due);
            assert_eq!(self.state.next_timer(clock).unwrap(), set.first().map_or(i64::MAX, |timer| timer.time));
            assert_eq!(self.state.due_timers(clock, i64::MAX, 100).unwrap(), set);
            assert_eq!(self.state.due_timers(clock, i64::MAX, 1).unwrap(), set.into_iter().take(1).collect::<Vec<_>>());
        }
    }

    fn commit(&mut self, by: i64) {
        let (id, layer) = self.attempts.remove(0);
        self.watermark += by;
        let watermark = Some(self.watermark);
        let offset = self.changelog.len() as u64;
        let head = Head { from: offset, to: offset + 1, watermark, ..Head::default() };
        let mut bytes = Vec::new();
        self.state.delta_through(None, id, &head, &mut bytes);
        self.changelog.push(bytes);
        let delta = Delta { head: head.clone(), layer: layer.clone() };
        assert_eq!(Delta::decode(&self.changelog[offset as usize]).unwrap(), delta);
        self.state.committed_through(id, offset, &head).unwrap();
        for Change { key, value, expires } in layer.changes() {
            match value {
                Some(value) => self.plain.insert(key.to_vec(), (value.to_vec(), expires)),
                None => self.plain.remove(key),
            };
        }
        self.plain.retain(|_, (_, expires)| expires.is_none_or(|expires| expires > self.watermark));
    }

    fn check(&mut self) {
        let scanned = |in_flight, prefix: &[u8]| {
            let mut found = Plain::new();
            self.state
                .scan(prefix, prefix, in_flight, &mut |Change { key, value, expires }| {
                    found.insert(key.to_vec(), (value.unwrap().to_vec(), expires));
                    true
                })
                .unwrap();
            found
        };
        let stage = prefix_of("stage");
        let values = |all: &Plain| all.clone().into_iter().filter(|(key, _)| key[0] == 1).collect::<Plain>();
        assert_eq!(scanned(false, &stage), values(&self.plain));
        let mut with_attempts = self.plain.clone();
        for Change { key, value, expires } in self.attempts.iter().flat_map(|(_, layer)| layer.changes()) {
            match value {
                Some(value) => with_attempts.insert(key.to_vec(), (value.to_vec(), expires)),
                None => with_attempts.remove(key),
            };
        }
        assert_eq!(scanned(true, &stage), values(&with_attempts));
        let of_one = |all: &Plain| -> Plain {
            all.iter()
                .filter(|(key, _)| key[0] == 1 && key[stage.len()] == 1)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        assert_eq!(scanned(true, &full_key(&stage, &[1])), of_one(&with_attempts));
        for number in 0..12 {
            let slot = self.state.get(&key(number)).unwrap();
            let found = slot.map(|slot| (slot.value.unwrap(), slot.expires));
            assert_eq!(found.as_ref(), with_attempts.get(&key(number)));
        }
        let usage = self.state.applied().usage.get("stage").copied().unwrap_or_default();
        let bytes: usize = self.plain.iter().map(|(key, (value, _))| key.len() - stage.len() + value.len()).sum();
        assert_eq!((usage.keys, usage.bytes), (self.plain.len() as u64, bytes as u64));
        self.check_timers(&with_attempts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_state_is_what_was_committed_whatever_falls_and_crashes(acts in acts()) {
        let mut run = Run::new(Arc::new(MemoryStore::default()));
        for act in &acts {
            run.act(act);
            run.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_store_on_disk_is_no_other(acts in acts()) {
        let dir = tempfile::tempdir().unwrap();
        let cache = StoreCache::default();
        let mut run = Run::new(Arc::new(LsmStore::open(&dir.path().join("live"), &cache).unwrap()));
        for act in &acts {
            run.act(act);
            run.check();
        }
    }
}

#[test]
fn a_snapshot_stays_as_it_was_and_is_a_store_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let cache = StoreCache::default();
    let live = LsmStore::open(&dir.path().join("live"), &cache).unwrap();
    let put = |store: &LsmStore, key: &[u8], value: &[u8]| {
        store.write(&mut std::iter::once((key, Some(value.to_vec())))).unwrap();
    };
    put(&live, b"a", b"1");
    live.snapshot(&dir.path().join("then")).unwrap();
    put(&live, b"a", b"2");
    let then = LsmStore::open(&dir.path().join("then"), &cache).unwrap();
    assert_eq!((then.get(b"a").unwrap(), live.get(b"a").unwrap()), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    put(&then, b"a", b"3");
    assert_eq!(live.get(b"a").unwrap(), Some(b"2".to_vec()));
    drop((live, then));
    assert_eq!(LsmStore::open(&dir.path().join("live"), &cache).unwrap().get(b"a").unwrap(), Some(b"2".to_vec()));
}

#[test]
fn what_is_no_record_is_refused() {
    let mut layer = Layer::default();
    layer.push(&[], &key(1), None, None);
    layer.push(&key(2), b"x", Some(b"value"), Some(7));
    let delta = Delta { head: Head { to: 5, ..Head::default() }, layer };
    let of_several = Head { cursors: vec![(3, 5), (4, 9)], clocks: vec![(14, -7)], closed: true, ..delta.head.clone() };
    let of_several = Delta { head: of_several, layer: delta.layer.clone() };
    let quiet = Some(Quiet { until: 9, runs: Vec::new() });
    let turn = Turn { line: vec![(0, 4)], quiet, before: vec![(0, 4), (6, 0)], ..Turn::default() };
    let quiet_before = Some(Quiet { until: 7, runs: vec![(4, 1, 2), (3, 0, 5)] });
    let quiet = Some(Quiet { until: 9, runs: vec![(3, 5, 6)] });
    let turn_of_several = Turn { quiet, quiet_before, ..turn.clone() };
    for delta in [&delta, &of_several] {
        assert_eq!(Record::decode(&delta.encode()), Ok(Record::Delta(delta.clone())));
    }
    for turn in [&turn, &turn_of_several] {
        assert_eq!(Record::decode(&turn.encode()), Ok(Record::Turn(turn.clone())));
    }
    for bytes in [delta.encode(), of_several.encode(), turn.encode(), turn_of_several.encode()] {
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn a_state_says_what_it_misses_of_a_line() {
    let mut state = PartitionState::open(Arc::new(MemoryStore::default())).unwrap();
    let delta = &Delta::default();
    (0..4).for_each(|offset| state.apply(offset, delta).unwrap());
    assert_eq!(state.applied().missing(&vec![(0, 6)]), Some(vec![(4, 6)]));
    assert_eq!(state.applied().missing(&vec![(0, 3)]), None);
    assert_eq!(state.applied().missing(&vec![(0, 4), (7, 9)]), Some(vec![(7, 9)]));
    state.turn(4, Turn { line: vec![(0, 4)], before: state.applied().open_line(), ..Turn::default() });
    assert_eq!(state.applied().before, Some((vec![(0, 4)], None)));
    state.apply(5, delta).unwrap();
    assert_eq!(state.applied().line(), [(0, 4), (5, 6)]);
    assert_eq!(state.applied().missing(&vec![(0, 4), (5, 8)]), Some(vec![(6, 8)]));
    assert_eq!(state.applied().missing(&vec![(0, 6)]), None);
}
