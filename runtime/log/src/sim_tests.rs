//! The log on a disk that crashes, tears, loses, fails and fills up; and defects planted to see that these tests notice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sluice_env::{Clock, Crash, Rng, SimDisk};
use sluice_event::{Batch, NewEvent};

use crate::catalog::{Desired, TopicSettings};
use crate::commit::{Append, Commit, NewTopic, Order, PipelineStart, Sequence, Tried};
use crate::committer::Committer;
use crate::compression::Compression;
use crate::error::Error;
use crate::options::{Durability, Options, Planted};
use crate::reader::{ReadBatch, Reader};
use crate::recovery;
use crate::{Input, Step, TopicPartition};

const ROOT: &str = "/data";
const IN: TopicPartition = TopicPartition { topic: 1, partition: 0 };
const IN2: TopicPartition = TopicPartition { topic: 1, partition: 1 };
const OUT: TopicPartition = TopicPartition { topic: 2, partition: 0 };

/// What readers can see: the values of each partition, and the cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct World {
    values: BTreeMap<TopicPartition, Vec<Vec<u8>>>,
    /// Where the values begin; retention decides it, so it is no part of what commits say.
    low_marks: BTreeMap<TopicPartition, u64>,
    cursor: u64,
    epoch: u64,
    topics: Vec<String>,
    paused: bool,
    held: String,
    tried: Option<(u64, u32)>,
}

impl World {
    fn apply(&mut self, commit: &Commit) {
        self.topics.extend(commit.topics.iter().map(|topic| topic.name.clone()));
        if commit.pipeline.is_some() {
            self.epoch = 1;
        }
        match &commit.order {
            Some(Order::DeleteTopic(name)) => self.topics.retain(|topic| topic != name),
            Some(Order::Move { to, .. }) => (self.cursor, self.epoch, self.tried) = (to[0].1, self.epoch + 1, None),
            Some(Order::Want(_, desired)) => {
                (self.paused, self.held) = (*desired == Desired::Pause, String::new());
            }
            Some(Order::Hold(_, reason)) => self.held.clone_from(reason),
            _ => {}
        }
        for append in commit.appends.iter().filter(|append| [IN, IN2, OUT].contains(&append.to)) {
            let values = append.batch.region().events().map(|event| event.unwrap().value().to_vec());
            self.values.entry(append.to).or_default().extend(values);
        }
        if let Some(input) = &commit.input {
            self.cursor = input.to;
            self.tried = self.tried.filter(|(offset, _)| *offset >= input.to);
        }
        self.tried = commit.tried.map(|tried| (tried.offset, tried.attempts)).or(self.tried);
    }

    /// For messages.
    fn brief(&self) -> String {
        let counts: Vec<_> = self.values.iter().map(|(tp, values)| format!("{tp}: {}", values.len())).collect();
        let Self { low_marks, cursor, epoch, topics, paused, .. } = self;
        format!("{counts:?}, {low_marks:?}, cursor {cursor}, epoch {epoch}, {topics:?}, paused {paused}")
    }

    /// Whether this is what the commits say, but for what retention let go of: never what the pipeline has not read.
    fn is(&self, said: &Self) -> bool {
        let rest = |tp: &TopicPartition, values: &Vec<Vec<u8>>| {
            let low = self.low_marks.get(tp).copied().unwrap_or(0) as usize;
            values.get(low..).unwrap_or_default().to_vec()
        };
        let mut said = said.clone();
        said.values.iter_mut().for_each(|(tp, values)| *values = rest(tp, values));
        said.values.retain(|_, values| !values.is_empty());
        said.low_marks.clone_from(&self.low_marks);
        said == *self && self.low_marks.get(&IN).is_none_or(|low| *low <= self.cursor)
    }
}

/// Goes on a little whenever it is looked at, so that what is due at times comes due.
#[derive(Default)]
struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn now(&self) -> i64 {
        self.0.fetch_add(100, Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now().unsigned_abs())
    }
}

fn options(planted: Option<Planted>) -> Options {
    Options {
        reserve_bytes: 0,
        segment_bytes: 3000,
        snapshot_bytes: 5000,
        unsynced_bytes: 8000,
        whole_group_bytes: 900,
        planted,
        ..Options::default()
    }
}

fn open(disk: &SimDisk, options: &Options) -> Result<Committer, Error> {
    let opened =
        recovery::open(Arc::new(disk.clone()), Arc::new(TickingClock::default()), Path::new(ROOT), options.clone())?;
    Ok(opened.committer)
}

/// An empty disk, which does aside what is done aside: at once, or while the next groups are written.
fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::default();
    disk.set_aside_after([0, 4, 13, 40][seed as usize % 4]);
    disk
}

fn batch(rng: &mut Rng, tag: &str, fixed: bool) -> Batch {
    let mut batch = Batch::default();
    for ordinal in 0..if fixed { 1 } else { 1 + rng.below(3) } {
        let length = if fixed { 40 } else { rng.below(400) as usize };
        let mut value = format!("{tag}.{ordinal}").into_bytes();
        value.resize(value.len().max(length), b'~');
        batch.push(&NewEvent { timestamp: 5, value: &value, ..NewEvent::default() }).unwrap();
    }
    batch
}

/// The commits of a run: the topics, a pipeline, then appends to the inputs and steps of the pipeline.
fn workload(seed: u64, fixed: bool) -> Vec<Vec<Commit>> {
    let mut rng = Rng::from_seed(seed);
    let topic = NewTopic::new;
    let first = Commit { topics: vec![topic("in", 2), topic("out", 1)], ..Commit::default() };
    let start = PipelineStart {
        name: "p".into(),
        digest: vec![1; 32],
        definition: "name = \"p\"".into(),
        start: vec![(IN, 0)],
    };
    let mut groups = vec![vec![first], vec![Commit { pipeline: Some(start), ..Commit::default() }]];
    let (mut produced, mut cursor, mut number) = (0, 0, 0);
    for _ in 0..12 {
        let mut group = Vec::new();
        for _ in 0..=rng.below(3) {
            number += 1;
            let tag = format!("{seed}.{number}");
            let mut commit = Commit::default();
            if produced > cursor && rng.one_in(2) {
                let to = cursor + 1 + rng.below(produced - cursor);
                let input = Input { pipeline: 1, epoch: 1, topic: 1, from: cursor, to, ..Input::default() };
                cursor = to;
                commit.input = Some(input);
                commit.appends.push(Append::new(OUT, batch(&mut rng, &tag, fixed)));
            } else {
                let batch_in = batch(&mut rng, &tag, fixed);
                produced += u64::from(batch_in.count());
                commit.appends.push(Append::new(IN, batch_in));
                if rng.one_in(2) {
                    commit.appends.push(Append::new(IN2, batch(&mut rng, &tag, fixed)));
                }
            }
            group.push(commit);
        }
        groups.push(group);
    }
    groups
}

/// The same, with topics that are compressed and kept for a while only, and an operator at work.
fn operated_workload(seed: u64, fixed: bool) -> Vec<Vec<Commit>> {
    let mut rng = Rng::from_seed(seed ^ 0x5eed);
    let mut groups = workload(seed, fixed);
    let compression = [Compression::None, Compression::Lz4, Compression::Zstd][seed as usize % 3];
    for topic in &mut groups[0][0].topics {
        topic.settings = TopicSettings { retention_bytes: Some(2000), compression, ..TopicSettings::default() };
    }
    // As `Log` does it before it hands a commit over.
    groups.iter_mut().flatten().flat_map(|commit| &mut commit.appends).for_each(|append| append.pack(compression));
    let (mut operated, mut epoch, mut other) = (Vec::new(), 1, None);
    for (index, mut group) in groups.into_iter().enumerate() {
        let mut cursor = None;
        for input in group.iter_mut().filter_map(|commit| commit.input.as_mut()) {
            input.epoch = epoch;
            cursor = Some(input.to);
        }
        operated.push(group);
        if index < 2 {
            continue;
        }
        match (rng.below(4), cursor, &other) {
            (0, Some(to), _) => {
                epoch += 1;
                operated.push(vec![Commit::order(Order::Move {
                    pipeline: "p".into(),
                    to: vec![(IN, to)],
                    into: (to % 2 == 0).then_some(IN.topic),
                })]);
            }
            (1, _, None) => {
                let name = format!("other-{index}");
                operated.push(vec![Commit { topics: vec![NewTopic::new(&name, 2)], ..Commit::default() }]);
                let id = operated.iter().flatten().flat_map(|commit| &commit.topics).count() as u32;
                let to = TopicPartition { topic: id, partition: 1 };
                operated.push(vec![Commit::append(to, batch(&mut rng, "other", fixed))]);
                other = Some((name, to));
            }
            (2, _, Some((name, _))) => {
                operated.push(vec![Commit::order(Order::DeleteTopic(name.clone()))]);
                other = None;
            }
            (3, ..) => {
                let desired = if rng.one_in(2) { Desired::Pause } else { Desired::Run };
                let tried = Tried { pipeline: 1, epoch, source: IN, offset: cursor.unwrap_or(u64::MAX), attempts: 3 };
                operated.push(vec![match rng.below(3) {
                    0 => Commit::order(Order::Hold("p".into(), format!("for reason {index}"))),
                    1 => Commit { tried: Some(tried), ..Commit::default() },
                    _ => Commit::order(Order::Want("p".into(), desired)),
                }]);
            }
            _ => {}
        }
    }
    operated
}

/// Runs until the disk stops; how many commits were acknowledged.
fn run(committer: &mut Committer, groups: &[Vec<Commit>]) -> usize {
    let mut acknowledged = 0;
    for (index, group) in groups.iter().enumerate() {
        for answer in committer.commit_group(group.clone()) {
            if answer.is_err() {
                return acknowledged;
            }
            acknowledged += 1;
        }
        if index % 4 == 3 {
            committer.idle();
            committer.idle();
        }
    }
    acknowledged
}

/// Everything that readers can see, or what is wrong with it.
fn look(committer: &Committer) -> Result<World, String> {
    let topics = committer.catalog.topics.values().map(|topic| topic.name.clone());
    let mut world = World { topics: topics.collect(), ..World::default() };
    for tp in [IN, IN2, OUT] {
        let Some(partition) = committer.shared.partition(tp) else { continue };
        let values = read_all(committer, tp).map_err(|error| format!("{tp}: {error}"))?;
        let (low, high) = (partition.low_mark(), partition.high_watermark());
        if values.len() as u64 != high - low {
            return Err(format!("{tp}: {} events from {low} up to {high}", values.len()));
        }
        if low > 0 {
            world.low_marks.insert(tp, low);
        }
        if !values.is_empty() {
            world.values.insert(tp, values);
        }
    }
    let pipeline = committer.catalog.pipelines.get(&1);
    world.epoch = pipeline.map_or(0, |pipeline| pipeline.epoch);
    world.held = pipeline.map(|pipeline| pipeline.held.clone()).unwrap_or_default();
    world.tried = pipeline.and_then(|pipeline| pipeline.cursors.get(&IN)?.tried);
    world.paused = pipeline.is_some_and(|pipeline| pipeline.desired == Desired::Pause);
    world.cursor = pipeline.and_then(|pipeline| pipeline.cursors.get(&IN)).map_or(0, |cursor| cursor.next);
    Ok(world)
}

fn read_all(committer: &Committer, tp: TopicPartition) -> Result<Vec<Vec<u8>>, Error> {
    let partition = committer.shared.partition(tp).ok_or_else(|| Error::UnknownTopic(tp.to_string()))?;
    let mut reader = Reader::new(partition, 0, !committer.options.has(Planted::NoCrcCheck));
    let (mut values, mut out) = (Vec::new(), ReadBatch::default());
    loop {
        reader.read(3, 700, &mut out)?;
        if out.count == 0 {
            return Ok(values);
        }
        for event in out.region().events() {
            let event = event.map_err(|malformed| Error::Invalid(malformed.to_string()))?;
            values.push(event.value().to_vec());
        }
    }
}

/// That what is visible is what the first commits made, at least the acknowledged ones; how many those are.
fn check_prefix(world: &World, groups: &[Vec<Commit>], acknowledged: usize) -> Result<usize, String> {
    let mut expected = World::default();
    let commits: Vec<_> = groups.iter().flatten().collect();
    for count in 0..=commits.len() {
        if world.is(&expected) && count >= acknowledged {
            return Ok(count);
        }
        if let Some(commit) = commits.get(count) {
            expected.apply(commit);
        }
    }
    Err(format!("what is visible is no prefix with all {acknowledged} acknowledged commits: {}", world.brief()))
}

/// Recovers, perhaps crashing while at it, until it succeeds; then looks, goes on writing, crashes once more and looks again.
fn recover_and_check(
    mut disk: SimDisk,
    options: &Options,
    groups: &[Vec<Commit>],
    acknowledged: usize,
    crash: Crash,
    rng: &mut Rng,
) -> Result<(), String> {
    for _ in 0..rng.below(4) {
        disk.crash_at(disk.steps() + 1 + rng.below(40));
        if open(&disk, options).is_ok() {
            break;
        }
        disk = disk.after_crash(crash, rng);
    }
    disk.crash_at(u64::MAX);
    let mut committer = open(&disk, options).map_err(|error| error.to_string())?;
    let seen = check_prefix(&look(&committer)?, groups, acknowledged)?;
    if seen > 0 {
        let extra = Commit { appends: vec![Append::new(IN2, batch(rng, "after", true))], ..Commit::default() };
        let mut all: Vec<Vec<Commit>> =
            vec![groups.iter().flatten().take(seen).cloned().collect(), vec![extra.clone()]];
        all.push(vec![extra.clone()]);
        for _ in 0..2 {
            committer.commit_group(vec![extra.clone()]).remove(0).map_err(|error| error.to_string())?;
        }
        let again = if options.durability == Durability::Fsync { Crash::Power } else { Crash::Process };
        let disk = disk.after_crash(again, rng);
        disk.set_aside_after(rng.below(20));
        let committer = open(&disk, options).map_err(|error| format!("the second time: {error}"))?;
        check_prefix(&look(&committer)?, &all, seen + 2).map_err(|error| format!("the second time: {error}"))?;
    }
    Ok(())
}

/// A crash at every step of a run.
fn crash_everywhere(seed: u64, options: &Options, crash: Crash, fixed: bool) -> Result<(), String> {
    crash_in(&workload(seed, fixed), seed, options, crash)
}

/// A crash at every step of these commits.
fn crash_in(groups: &[Vec<Commit>], seed: u64, options: &Options, crash: Crash) -> Result<(), String> {
    let total = {
        let disk = disk(seed);
        let mut committer = open(&disk, options).map_err(|error| error.to_string())?;
        run(&mut committer, groups);
        disk.steps()
    };
    for step in 1..=total {
        let disk = disk(seed);
        disk.crash_at(step);
        let acknowledged = open(&disk, options).map_or(0, |mut committer| run(&mut committer, groups));
        let survives = options.durability == Durability::Fsync || crash == Crash::Process;
        for image in 0..3 {
            let mut rng = Rng::from_seed(seed * 1_000_003 + step * 7 + image);
            let found = disk.after_crash(crash, &mut rng);
            recover_and_check(found, options, groups, if survives { acknowledged } else { 0 }, crash, &mut rng)
                .map_err(|what| format!("seed {seed}, crash at step {step}, image {image}: {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_power_cut_at_every_step_leaves_a_prefix_with_all_that_was_acknowledged() {
    for seed in 0..12 {
        crash_everywhere(seed, &options(None), Crash::Power, false).unwrap();
    }
}

#[test]
fn retention_deletion_and_rewinds_survive_a_crash_at_every_step() {
    for seed in 600..606 {
        let durability = [Durability::Fsync, Durability::Interval(Duration::from_millis(300))][seed as usize % 2];
        let options = Options { segment_bytes: 900, durability, ..options(None) };
        let crash = if durability == Durability::Fsync { Crash::Power } else { Crash::Process };
        crash_in(&operated_workload(seed, false), seed, &options, crash).unwrap();
    }
}

#[test]
fn snapshots_while_nothing_happens_harm_nothing() {
    for seed in 630..633 {
        let options = Options { snapshot_age_ms: 300, segment_bytes: 900, ..options(None) };
        let mut groups = operated_workload(seed, false);
        groups.truncate(9);
        crash_in(&groups, seed, &options, Crash::Power).unwrap();
    }
}

#[test]
fn a_power_cut_between_the_syncs_of_an_interval_leaves_a_prefix() {
    for seed in 610..614 {
        let options = Options { durability: Durability::Interval(Duration::from_millis(900)), ..options(None) };
        let options = Options { segment_bytes: 900, ..options };
        crash_in(&operated_workload(seed, false), seed, &options, Crash::Power).unwrap();
    }
}

#[test]
fn a_file_that_is_removed_before_that_is_durable_is_noticed() {
    is_noticed(Planted::RemoveTooEarly, |seed, options| {
        let durability = Durability::Interval(Duration::from_secs(900));
        let options = Options { segment_bytes: 900, durability, ..options.clone() };
        crash_in(&operated_workload(seed, false), seed, &options, Crash::Power)
    });
}

#[test]
fn retention_lets_go_of_what_is_read_and_of_nothing_else() {
    let disk = SimDisk::default();
    let options = Options { segment_bytes: 900, ..options(None) };
    let mut committer = open(&disk, &options).unwrap();
    let groups = operated_workload(621, false);
    let total = groups.iter().flatten().count();
    assert_eq!(run(&mut committer, &groups), total);
    for _ in 0..40 {
        committer.idle();
    }
    let world = look(&committer).unwrap();
    assert_eq!(check_prefix(&world, &groups, total), Ok(total));
    assert!(world.low_marks[&IN] > 0 && world.low_marks[&OUT] > 0, "{}", world.brief());
    let hold = committer.shared.partition(IN).unwrap();
    let (bytes, unread) = (hold.bytes(), hold.high_watermark() - world.cursor);
    assert!(bytes < 2000 + 900 || unread > 0, "{bytes} bytes are kept");
    // Nothing but what is part of the log is left on the disk.
    let segments = disk.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "segment"));
    let known: usize = committer.catalog.partitions.values().map(|partition| partition.segments.len()).sum();
    assert_eq!(segments.count(), known);
    // The next event gets the next offset, also where everything was let go of.
    let committer = open(&disk, &options).unwrap();
    assert_eq!(look(&committer).unwrap(), world);
}

#[test]
fn a_killed_process_loses_nothing_acknowledged_whatever_the_durability() {
    for durability in [Durability::Fsync, Durability::Os] {
        for seed in 100..104 {
            let options = Options { durability, ..options(None) };
            crash_everywhere(seed, &options, Crash::Process, false).unwrap();
        }
    }
}

#[test]
fn a_power_cut_under_os_durability_leaves_a_prefix() {
    for seed in 200..206 {
        let options = Options { durability: Durability::Os, ..options(None) };
        crash_everywhere(seed, &options, Crash::Power, seed % 2 == 0).unwrap();
    }
}

/// A failed sync at every place: nothing more is acknowledged, and what a restart shows stays, also after a power cut.
fn fail_every_sync(seed: u64, options: &Options) -> Result<(), String> {
    let groups = workload(seed, false);
    let total = {
        let disk = disk(seed);
        run(&mut open(&disk, options).map_err(|error| error.to_string())?, &groups);
        disk.syncs()
    };
    for (sync, dies) in (1..=total).flat_map(|sync| [(sync, false), (sync, true)]) {
        let disk = disk(seed);
        disk.fail_sync_at(sync);
        if dies {
            disk.die_of_failed_sync();
        }
        let acknowledged = open(&disk, options).map_or(0, |mut committer| run(&mut committer, &groups));
        let mut rng = Rng::from_seed(seed * 77 + sync);
        let context = |what: String| format!("seed {seed}, failed sync {sync}, dies {dies}: {what}");
        // The process ends, the machine stays up, and its cache still holds what the disk never got.
        let disk = disk.after_crash(Crash::Process, &mut rng);
        let committer = open(&disk, options).map_err(|error| context(error.to_string()))?;
        let seen = look(&committer).and_then(|world| check_prefix(&world, &groups, acknowledged)).map_err(context)?;
        if !dies && seen > acknowledged {
            return Err(context(format!("{seen} commits are there, {acknowledged} were acknowledged")));
        }
        let disk = disk.after_crash(Crash::Power, &mut rng);
        let committer = open(&disk, options).map_err(|error| context(error.to_string()))?;
        let still = look(&committer).and_then(|world| check_prefix(&world, &groups, seen)).map_err(context)?;
        if still != seen {
            return Err(context(format!("{seen} commits were shown, then {still}")));
        }
    }
    Ok(())
}

#[test]
fn after_a_failed_sync_what_a_restart_shows_is_on_the_disk() {
    for seed in 300..306 {
        fail_every_sync(seed, &options(None)).unwrap();
    }
}

/// Runs `check` over seeds with a planted defect until it notices.
fn is_noticed(planted: Planted, check: impl Fn(u64, &Options) -> Result<(), String>) {
    let noticed = (0..20).any(|seed| check(seed, &options(Some(planted))).is_err());
    assert!(noticed, "{planted:?} went unnoticed");
}

#[test]
fn planted_defects_are_noticed_by_power_cuts() {
    for planted in [
        Planted::SkipSync,
        Planted::AnswerBeforeSync,
        Planted::OverlapGroups,
        Planted::ForgetDirectorySync,
        Planted::NoCrcCheck,
        Planted::SnapshotBeforeSync,
    ] {
        is_noticed(planted, |seed, options| crash_everywhere(seed, options, Crash::Power, false));
    }
}

/// So small that most parts of the commit log are written over earlier ones.
fn many_parts(options: &Options) -> Options {
    Options { snapshot_bytes: 1200, ..options.clone() }
}

#[test]
fn parts_of_the_commit_log_that_are_written_over_earlier_ones_survive_a_crash_at_every_step() {
    for seed in 40..48 {
        crash_everywhere(seed, &many_parts(&options(None)), Crash::Power, false).unwrap();
        let small = Options { segment_bytes: 900, ..many_parts(&options(None)) };
        crash_in(&operated_workload(seed, false), seed, &small, Crash::Power).unwrap();
        fail_every_sync(seed, &many_parts(&options(None))).unwrap();
    }
    is_noticed(Planted::RenameBeforeHeader, |seed, options| {
        crash_everywhere(seed, &many_parts(options), Crash::Power, false)
    });
}

#[test]
fn a_forgotten_truncation_is_noticed() {
    is_noticed(Planted::ForgetTruncation, |seed, options| {
        let options = Options { durability: Durability::Os, snapshot_bytes: 1 << 20, ..options.clone() };
        crash_everywhere(seed, &options, Crash::Power, true)
    });
}

#[test]
fn trusting_the_cache_after_a_failed_sync_is_noticed() {
    is_noticed(Planted::TrustCacheAfterFailedSync, fail_every_sync);
}

#[test]
fn a_full_disk_refuses_whole_groups_and_writing_resumes_with_space() {
    for seed in 400..420 {
        let (disk, groups) = (disk(seed), workload(seed, false));
        let mut committer = open(&disk, &options(None)).unwrap();
        let mut rng = Rng::from_seed(seed);
        let mut done: Vec<Vec<Commit>> = Vec::new();
        for group in &groups {
            let used: usize = disk.files().iter().map(|(_, length)| length).sum();
            disk.set_capacity(Some(used + rng.below(700) as usize));
            let refused = committer.commit_group(group.clone()).into_iter().any(|answer| match answer {
                Ok(_) => false,
                Err(Error::NoSpace { .. }) => true,
                Err(error) => panic!("seed {seed}: {error}"),
            });
            disk.set_capacity(None);
            if refused {
                check_prefix(&look(&committer).unwrap(), &done, done.iter().flatten().count()).unwrap();
                committer.commit_group(group.clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
            }
            done.push(group.clone());
        }
        let committer = open(&disk.after_crash(Crash::Power, &mut rng), &options(None)).unwrap();
        check_prefix(&look(&committer).unwrap(), &done, done.iter().flatten().count()).unwrap();
    }
}

#[test]
fn what_cannot_be_taken_back_stops_the_log_and_a_restart_goes_on() {
    for seed in 420..440 {
        let (disk, groups) = (disk(seed), workload(seed, false));
        let mut committer = open(&disk, &options(None)).unwrap();
        let done = groups[..groups.len() / 2].to_vec();
        let acknowledged = run(&mut committer, &done);
        disk.refuse_cuts();
        disk.set_capacity(Some(disk.files().iter().map(|(_, length)| length).sum()));
        let refused = committer.commit_group(groups[done.len()].clone());
        assert!(refused.iter().all(|answer| matches!(answer, Err(Error::Poisoned(_)))), "seed {seed}: {refused:?}");
        disk.set_capacity(None);
        let later = committer.commit_group(groups[done.len()].clone());
        assert!(later.iter().all(|answer| matches!(answer, Err(Error::Poisoned(_)))), "seed {seed}: {later:?}");
        let mut rng = Rng::from_seed(seed);
        for crash in [Crash::Process, Crash::Power] {
            let committer = open(&disk.after_crash(crash, &mut rng), &options(None)).unwrap();
            check_prefix(&look(&committer).unwrap(), &groups, acknowledged).unwrap();
        }
    }
}

fn committed(seed: u64, options: &Options) -> (SimDisk, Vec<Vec<Commit>>) {
    let (disk, groups) = (SimDisk::default(), workload(seed, false));
    let mut committer = open(&disk, options).unwrap();
    let total = groups.iter().flatten().count();
    assert_eq!(run(&mut committer, &groups), total);
    committer.cover().unwrap();
    (disk, groups)
}

fn is_segment_of_in(path: &Path) -> bool {
    path.to_string_lossy().contains("topics/1/00000-") && path.extension().is_some_and(|name| name == "segment")
}

#[test]
fn a_flipped_bit_in_a_segment_stops_its_partition_and_no_other() {
    let options = Options { snapshot_bytes: 1, ..options(None) };
    let (disk, groups) = committed(1, &options);
    let mut expected = World::default();
    groups.iter().flatten().for_each(|commit| expected.apply(commit));
    let segments: Vec<(PathBuf, usize)> = disk.files().into_iter().filter(|(path, _)| is_segment_of_in(path)).collect();
    for (path, length) in segments {
        for byte in (0..length).step_by(37) {
            let disk = disk.after_crash(Crash::Process, &mut Rng::from_seed(0));
            disk.flip_bit(&path, byte, 3);
            let committer = open(&disk, &options).unwrap();
            if byte >= 64 {
                let Err(Error::Damaged { file, .. }) = read_all(&committer, IN) else {
                    panic!("byte {byte} of {} was delivered", path.display())
                };
                assert_eq!(file, path);
            }
            assert_eq!(read_all(&committer, OUT).unwrap(), expected.values[&OUT]);
            assert_eq!(read_all(&committer, IN2).unwrap(), expected.values[&IN2]);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_commit_log_below_durable_through_stops_the_start_and_nothing_is_cut() {
    let options = Options { snapshot_bytes: 1 << 20, ..options(None) };
    let (disk, _) = committed(2, &options);
    // The last group may be covered by no later one: leave it out.
    open(&disk, &options).unwrap();
    let (path, length) =
        disk.files().into_iter().find(|(path, _)| path.to_string_lossy().contains("commits/")).unwrap();
    for byte in (64..length - 64).step_by(29) {
        let disk = disk.after_crash(Crash::Process, &mut Rng::from_seed(0));
        disk.flip_bit(&path, byte, 5);
        match open(&disk, &options) {
            Err(Error::Damaged { file, .. }) => assert_eq!(file, path),
            Err(error) => panic!("byte {byte}: {error}"),
            Ok(_) => panic!("byte {byte} of {length}: opened"),
        }
        assert!(disk.files().contains(&(path.clone(), length)), "byte {byte}: the file was changed");
    }
}

#[test]
fn a_flipped_bit_above_durable_through_is_cut() {
    let options = Options { snapshot_bytes: 1 << 20, ..options(None) };
    let disk = SimDisk::default();
    let groups = workload(3, false);
    let mut committer = open(&disk, &options).unwrap();
    for group in &groups[..5] {
        committer.commit_group(group.clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    let path = committer.commit_log.path.clone();
    disk.flip_bit(&path, committer.commit_log.position as usize - 1, 0);
    let committer = open(&disk, &options).unwrap();
    let before: usize = groups[..4].iter().map(Vec::len).sum();
    assert_eq!(check_prefix(&look(&committer).unwrap(), &groups, before), Ok(before));
}

#[test]
fn a_commit_whose_cursor_has_moved_on_is_fenced_with_all_planned_on_it() {
    let disk = SimDisk::default();
    let mut committer = open(&disk, &options(None)).unwrap();
    let groups = workload(4, false);
    for group in &groups[..2] {
        committer.commit_group(group.clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    let step = |from, to| Commit {
        input: Some(Input { pipeline: 1, epoch: 1, topic: 1, from, to, ..Input::default() }),
        appends: vec![Append::new(OUT, batch(&mut Rng::from_seed(from), "x", true))],
        ..Commit::default()
    };
    // The second of five does not fit; those planned on it must not count either.
    let group = vec![step(0, 1), step(2, 3), step(3, 4), step(4, 5), step(1, 2)];
    let answers: Vec<bool> = committer.commit_group(group).iter().map(Result::is_ok).collect();
    assert_eq!(answers, [true, false, false, false, true]);
    assert_eq!(look(&committer).unwrap().cursor, 2);
    assert_eq!(read_all(&committer, OUT).unwrap().len(), 2);
}

#[test]
fn a_producer_that_repeats_itself_adds_nothing() {
    let (disk, options) = (SimDisk::default(), options(None));
    let mut committer = open(&disk, &options).unwrap();
    committer.commit_group(workload(5, false).remove(0)).remove(0).unwrap();
    let send = |first| Commit {
        sequence: Some(Sequence { producer: "loader".into(), topic: IN.topic, first }),
        appends: vec![Append::new(IN, batch(&mut Rng::from_seed(first), "x", true))],
        ..Commit::default()
    };
    assert!(!committer.commit_group(vec![send(0)]).remove(0).unwrap().repeated);
    assert!(committer.commit_group(vec![send(0)]).remove(0).unwrap().repeated);
    let mut committer = open(&disk, &options).unwrap();
    assert!(committer.commit_group(vec![send(0)]).remove(0).unwrap().repeated);
    let gap = committer.commit_group(vec![send(2)]).remove(0);
    assert!(matches!(gap, Err(Error::SequenceGap { expected: 1, found: 2, .. })), "{gap:?}");
    assert_eq!(read_all(&committer, IN).unwrap().len(), 1);
}

#[test]
fn recovery_that_meets_a_failing_disk_stops_and_harms_nothing() {
    for seed in 500..504 {
        let options = options(None);
        let groups = workload(seed, false);
        let disk = disk(seed);
        let mut rng = Rng::from_seed(seed);
        let acknowledged = run(&mut open(&disk, &options).unwrap(), &groups);
        for sync in 1..60 {
            let failing = disk.after_crash(Crash::Power, &mut rng);
            failing.fail_sync_at(sync);
            if open(&failing, &options).is_ok() {
                break;
            }
            // The next start, after a power cut for good measure, finds everything.
            let later = failing.after_crash(Crash::Power, &mut rng);
            let committer = open(&later, &options).unwrap();
            check_prefix(&look(&committer).unwrap(), &groups, acknowledged).unwrap();
        }
    }
}

#[test]
fn a_file_that_is_missing_is_named_and_nothing_else_is_touched() {
    use sluice_env::Disk;
    for seed in 510..513 {
        let (disk, groups) = committed(seed, &options(None));
        let mut expected = World::default();
        groups.iter().flatten().for_each(|commit| expected.apply(commit));
        for (path, _) in disk.files() {
            let disk = disk.after_crash(Crash::Process, &mut Rng::from_seed(0));
            disk.remove(&path).unwrap();
            let before = disk.files();
            let name = path.to_string_lossy().into_owned();
            match open(&disk, &options(None)) {
                Err(Error::Damaged { .. }) => {
                    let same = before.iter().all(|file| disk.files().contains(file));
                    assert!(same, "seed {seed}: {name} was missing, and other files were changed");
                }
                Err(error) => panic!("seed {seed}: {name}: {error}"),
                // An older snapshot, or the commit log, tells the same story; or one partition is stopped.
                Ok(committer) => {
                    for tp in [IN, IN2, OUT] {
                        match read_all(&committer, tp) {
                            Ok(values) => assert!(Some(&values) == expected.values.get(&tp), "seed {seed}: {name}"),
                            Err(Error::Damaged { .. }) => {}
                            Err(error) => panic!("seed {seed}: {name}: {error}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn readers_find_any_offset_also_by_an_index_that_a_power_cut_made_stale() {
    let options = Options { durability: Durability::Os, segment_bytes: 300_000, ..options(None) };
    let options = Options { snapshot_bytes: 1 << 20, unsynced_bytes: 1 << 30, ..options };
    for seed in 520..530 {
        let mut rng = Rng::from_seed(seed);
        let mut disk = SimDisk::default();
        open(&disk, &options).unwrap().commit_group(workload(1, false).remove(0)).remove(0).unwrap();
        for round in 0..3 {
            let mut committer = open(&disk, &options).unwrap();
            for number in 0..300 {
                let value = vec![b'x'; rng.below(4000) as usize];
                let mut batch = Batch::default();
                let key = format!("{round}.{number}");
                let event = NewEvent { key: Some(key.as_bytes()), value: &value, ..NewEvent::default() };
                batch.push(&event).unwrap();
                let commit = Commit { appends: vec![Append::new(IN, batch)], ..Commit::default() };
                committer.commit_group(vec![commit]).remove(0).unwrap();
            }
            disk = disk.after_crash(Crash::Power, &mut rng);
            let committer = open(&disk, &options).unwrap();
            let all = read_all(&committer, IN).unwrap();
            for offset in (0..all.len()).step_by(7) {
                let partition = committer.shared.partition(IN).unwrap();
                let mut out = ReadBatch::default();
                Reader::new(partition, offset as u64, true).read(1, usize::MAX, &mut out).unwrap();
                let found = out.region().events().next().unwrap().unwrap().value().to_vec();
                assert_eq!(found, all[offset], "seed {seed}, round {round}, offset {offset}");
            }
        }
    }
}

#[test]
fn a_repair_leaves_a_hole_that_readers_are_told_of_and_nothing_else_is_lost() {
    let options = Options { snapshot_bytes: 1, segment_bytes: 1500, ..options(None) };
    for (seed, missing) in [(700, false), (701, false), (702, true), (703, true)] {
        let (disk, groups) = committed(seed, &options);
        let mut expected = World::default();
        groups.iter().flatten().for_each(|commit| expected.apply(commit));
        let files = disk.files().into_iter().filter(|(path, _)| is_segment_of_in(path)).collect::<Vec<_>>();
        for (path, length) in files.into_iter().filter(|(_, length)| *length > 64) {
            let disk = disk.after_crash(Crash::Process, &mut Rng::from_seed(0));
            if missing {
                sluice_env::Disk::remove(&disk, &path).unwrap();
            } else {
                disk.flip_bit(&path, 64 + (length - 64) / 2, 1);
            }
            let fsck = |repair| {
                let disk: Arc<dyn sluice_env::Disk> = Arc::new(disk.clone());
                crate::fsck::fsck(&disk, Arc::new(TickingClock::default()), Path::new(ROOT), repair).unwrap()
            };
            let told = fsck(false);
            assert_eq!((told.findings.len(), told.repaired), (1, false), "{told:?}");
            assert_eq!(fsck(true).findings, told.findings);
            let told = fsck(true);
            assert_eq!((told.findings.len(), told.holes.len(), told.repaired), (0, 1, false), "{told:?}");
            let hole = told.holes[0].2;

            let mut committer = open(&disk, &options).unwrap();
            let extra = Commit::append(IN, batch(&mut Rng::from_seed(1), "after the repair", true));
            committer.commit_group(vec![extra]).remove(0).unwrap();
            let committer = open(&disk, &options).unwrap();
            let values = &expected.values[&IN];
            let rest = values[..hole.from as usize].iter().chain(&values[hole.to as usize..]);
            let read = read_all(&committer, IN).unwrap();
            assert!(read[..read.len() - 1].iter().eq(rest), "seed {seed}, {hole:?}");
            assert!(read.last().unwrap().starts_with(b"after the repair"));
            // A reader that begins in the hole is told where it goes on.
            let mut out = ReadBatch::default();
            Reader::new(committer.shared.partition(IN).unwrap(), hole.from, true)
                .read(1, usize::MAX, &mut out)
                .unwrap();
            assert_eq!((out.base_offset, out.count), (hole.to, 1));
        }
    }
}

#[test]
fn an_outcome_follows_the_one_before_and_none_of_an_old_epoch_counts() {
    let disk = SimDisk::default();
    let mut committer = open(&disk, &options(None)).unwrap();
    for group in &workload(4, false)[..2] {
        committer.commit_group(group.clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    committer.commit_group(vec![Commit::append(IN, batch(&mut Rng::from_seed(4), "in", false))]).remove(0).unwrap();
    let input = |step, epoch, from, to| Commit {
        input: Some(Input { step, pipeline: 1, epoch, topic: 1, from, to, committed: to - from, ..Input::default() }),
        appends: vec![Append::new(OUT, batch(&mut Rng::from_seed(from), "x", true))],
        ..Commit::default()
    };
    let mut go = |commit: Commit| committer.commit_group(vec![commit]).remove(0).is_ok();
    let claim = |epoch, from, to| Commit { appends: vec![], ..input(Step::Claim, epoch, from, to) };
    assert!(go(claim(1, 0, 4)));
    // The first of these was refused for some reason: those planned on it must not count.
    assert!(!go(input(Step::Outcome, 1, 1, 2)));
    assert!(go(input(Step::Outcome, 1, 0, 1)) && go(input(Step::Outcome, 1, 1, 2)));
    assert!(!go(input(Step::Outcome, 1, 1, 2)));
    assert!(go(Commit::order(Order::Move { pipeline: "p".into(), to: vec![(IN, 0)], into: None })));
    assert!(!go(input(Step::Outcome, 1, 2, 3)) && go(claim(2, 0, 1)) && go(input(Step::Outcome, 2, 0, 1)));
    let told = crate::audit::audit(&disk, Path::new(ROOT), u64::MAX).unwrap();
    let account = &told.accounts[0];
    let counts = (account.read, account.committed, account.lost, account.rewinds);
    assert_eq!((counts, account.balances), ((5, 3, 2, 1), true), "{account:?}");
    assert_eq!(account.lost_ranges, [(2, 4)]);
    // After a restart the outcome begins at the cursor.
    let mut committer = open(&disk, &options(None)).unwrap();
    assert!(committer.commit_group(vec![input(Step::Outcome, 2, 0, 1)]).remove(0).is_err());
    let cursor = committer.catalog.pipelines[&1].cursors[&IN];
    assert_eq!((cursor.next, cursor.read, cursor.committed, cursor.unsettled), (1, 5, 3, 2));
}

#[test]
fn places_are_found_by_time() {
    let clock = Arc::new(sluice_env::ManualClock::default());
    let disk = Arc::new(SimDisk::default());
    let opened = recovery::open(disk, clock.clone(), Path::new(ROOT), options(None)).unwrap();
    let mut committer = opened.committer;
    committer.commit_group(workload(1, false).remove(0)).remove(0).unwrap();
    for hour in 1..=50 {
        clock.set(hour * 3_600_000);
        let mut batch = Batch::default();
        let value = [b'x'; 200];
        // Event time runs the other way.
        batch.push(&NewEvent { timestamp: 1000 - hour, value: &value, ..NewEvent::default() }).unwrap();
        committer.commit_group(vec![Commit::append(IN, batch)]).remove(0).unwrap();
    }
    let partition = committer.shared.partition(IN).unwrap();
    for hour in 1..=50 {
        assert_eq!(partition.offset_at(hour * 3_600_000).unwrap(), hour.unsigned_abs() - 1);
        assert_eq!(partition.offset_at(hour * 3_600_000 + 1).unwrap(), hour.unsigned_abs());
    }
    assert_eq!((partition.offset_at(0).unwrap(), partition.offset_at(i64::MAX).unwrap()), (0, 50));
    assert_eq!(partition.offset_at_event_time(999).unwrap(), 0);
    assert_eq!(partition.offset_at_event_time(1000).unwrap(), 50);
    // A clock that goes back does not take append times along.
    clock.set(0);
    committer.commit_group(vec![Commit::append(IN, batch(&mut Rng::from_seed(1), "x", true))]).remove(0).unwrap();
    assert_eq!(partition.offset_at(50 * 3_600_000).unwrap(), 49);
    assert_eq!(partition.offset_at(50 * 3_600_000 + 1).unwrap(), 51);
}

#[test]
fn producers_are_forgotten_after_a_week_and_told_so() {
    let clock = Arc::new(sluice_env::ManualClock::default());
    let opened = recovery::open(Arc::new(SimDisk::default()), clock.clone(), Path::new(ROOT), options(None)).unwrap();
    let mut committer = opened.committer;
    committer.commit_group(workload(5, false).remove(0)).remove(0).unwrap();
    let send = |first| Commit {
        sequence: Some(Sequence { producer: "loader".into(), topic: IN.topic, first }),
        appends: vec![Append::new(IN, batch(&mut Rng::from_seed(first), "x", true))],
        ..Commit::default()
    };
    let day = 24 * 60 * 60 * 1000;
    committer.commit_group(vec![send(0)]).remove(0).unwrap();
    clock.set(6 * day);
    committer.idle();
    committer.commit_group(vec![send(1)]).remove(0).unwrap();
    clock.set(14 * day);
    committer.idle();
    assert!(committer.catalog.producers.is_empty());
    let gap = committer.commit_group(vec![send(2)]).remove(0).unwrap_err();
    assert!(matches!(gap, Error::SequenceGap { expected: 0, found: 2, .. }) && gap.to_string().contains("7 days"));
    committer.commit_group(vec![send(0)]).remove(0).unwrap();
}

#[test]
fn nobody_waits_for_most_of_what_is_synced_before_a_snapshot() {
    let options = Options { durability: Durability::Os, segment_bytes: 1 << 20, ..options(None) };
    let groups = workload(7, true);
    for (aside_after, is_taken) in [(1 << 40, false), (3, true)] {
        let disk = SimDisk::default();
        let mut committer = open(&disk, &options).unwrap();
        committer.commit_group(groups[0].clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
        disk.set_aside_after(aside_after);
        let (part, syncs) = (committer.commit_log.first, disk.syncs());
        let mut rng = Rng::from_seed(1);
        for _ in 0..100 {
            let commit = Commit::append(IN, batch(&mut rng, "x", false));
            committer.commit_group(vec![commit]).remove(0).unwrap();
        }
        assert!(committer.unsynced_bytes > options.unsynced_bytes || is_taken);
        assert_eq!((committer.commit_log.first > part, disk.syncs() > syncs), (is_taken, is_taken));
        committer.end();
    }
}

#[test]
fn what_was_synced_ahead_is_forgotten_once_all_is_synced() {
    let options =
        Options { durability: Durability::Os, segment_bytes: 1 << 20, snapshot_bytes: 1 << 20, ..options(None) };
    let disk = SimDisk::default();
    let mut committer = open(&disk, &options).unwrap();
    committer.commit_group(workload(7, true)[0].clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
    let mut rng = Rng::from_seed(1);
    let mut append = |committer: &mut Committer| {
        committer.commit_group(vec![Commit::append(IN, batch(&mut rng, "x", false))]).remove(0).unwrap();
    };
    // One is begun, and all is synced before it is done.
    disk.set_aside_after(20);
    while committer.unsynced_bytes < options.unsynced_bytes {
        append(&mut committer);
    }
    disk.set_aside_after(1 << 40);
    committer.sync_all().unwrap();
    let part = committer.commit_log.first;
    for _ in 0..100 {
        append(&mut committer);
    }
    // What was written since is synced aside, too, before there is a snapshot.
    assert_eq!(committer.commit_log.first, part);
    committer.end();
}

#[test]
fn producers_beyond_the_bound_make_room_by_forgetting_the_most_silent() {
    let clock = Arc::new(sluice_env::ManualClock::default());
    let options = Options { snapshot_bytes: 1 << 30, unsynced_bytes: 1 << 30, ..options(None) };
    let opened = recovery::open(Arc::new(SimDisk::default()), clock.clone(), Path::new(ROOT), options).unwrap();
    let mut committer = opened.committer;
    committer.commit_group(workload(5, false).remove(0)).remove(0).unwrap();
    let most = crate::options::MAX_PRODUCERS;
    let send = |number: usize| {
        let sequence = Some(Sequence { producer: format!("producer-{number}"), topic: IN.topic, first: 0 });
        Commit { sequence, ..Commit::default() }
    };
    committer.commit_group(vec![send(0)]).remove(0).unwrap();
    clock.set(1000);
    for chunk in (1..most).collect::<Vec<_>>().chunks(10_000) {
        let answers = committer.commit_group(chunk.iter().map(|number| send(*number)).collect());
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    assert_eq!(committer.catalog.producers.like("p").len(), most);
    committer.commit_group(vec![send(most)]).remove(0).unwrap();
    let kept = |number: usize| committer.catalog.producers.get(&(format!("producer-{number}"), IN.topic)).is_some();
    assert!(!kept(0) && kept(most) && committer.catalog.producers.like("p").len() > most * 98 / 100);
}

#[test]
fn orders_go_through_on_a_full_disk_by_the_reserve() {
    let disk = SimDisk::default();
    let options = Options { reserve_bytes: 4096, ..options(None) };
    let mut committer = open(&disk, &options).unwrap();
    for group in &workload(6, false)[..4] {
        committer.commit_group(group.clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    committer.idle();
    let used: usize = disk.files().iter().map(|(_, length)| length).sum();
    disk.set_capacity(Some(used));
    let refused = committer.commit_group(vec![Commit::append(IN, batch(&mut Rng::from_seed(1), "x", true))]).remove(0);
    assert!(matches!(refused, Err(Error::NoSpace { .. })));
    let order = Commit::order(Order::Want("p".into(), Desired::Pause));
    committer.commit_group(vec![order]).remove(0).unwrap();
    // With space, the reserve is made again.
    disk.set_capacity(None);
    for _ in 0..20 {
        committer.idle();
    }
    assert!(disk.files().contains(&(Path::new(ROOT).join("reserve"), 4096)));
}

#[test]
fn a_rewind_of_one_partition_begins_a_new_epoch_in_all() {
    let disk = SimDisk::default();
    let mut committer = open(&disk, &options(None)).unwrap();
    let mut groups = workload(4, false);
    groups[1][0].pipeline.as_mut().unwrap().start.push((IN2, 0));
    for group in &groups[..2] {
        committer.commit_group(group.clone()).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    let mut events = Batch::default();
    (0..4).for_each(|_| events.push(&NewEvent::default()).unwrap());
    for tp in [IN, IN2] {
        committer.commit_group(vec![Commit::append(tp, events.clone())]).remove(0).unwrap();
    }
    let mut go = |commit: Commit| committer.commit_group(vec![commit]).remove(0).is_ok();
    let outcome = |epoch, from| {
        let input = Input { step: Step::Outcome, pipeline: 1, epoch, topic: 1, partition: 1, ..Input::default() };
        Commit { input: Some(Input { from, to: from + 1, ..input }), ..Commit::default() }
    };
    // Outputs ahead of the cursor, at-least-once; then an operator moves the other partition's cursor.
    assert!(go(outcome(1, 0)) && go(outcome(1, 1)));
    assert!(go(Commit::order(Order::Move { pipeline: "p".into(), to: vec![(IN, 0)], into: None })));
    assert!(!go(outcome(1, 2)) && !go(outcome(2, 2)));
    assert!(go(outcome(2, 0)) && go(outcome(2, 1)));
}
