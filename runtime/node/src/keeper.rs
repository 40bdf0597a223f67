//! Makes checkpoints by itself, lets the old ones go, and with them what changelogs need not hold any more.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_config::{Checkpoints, changelog_topic};
use sluice_env::Clock;
use sluice_log::{Commit, Error, Log, Order, PipelineInfo, TopicPartition};
use sluice_state::SharedState;

use crate::checkpoint::{self, Checkpoint};
use crate::state::States;

/// Names of checkpoints that a pipeline makes by itself: its own, this, and the time.
const AUTOMATIC: &str = ".auto-";
/// When making one failed, it is tried again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A thread that keeps checkpoints of pipelines with state.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    log: Weak<Log>,
    states: Arc<States>,
    clock: Arc<dyn Clock>,
    /// One operator at a time, of whom this is one.
    operating: Arc<Mutex<()>>,
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Default)]
struct Plan {
    ends: bool,
    pipelines: HashMap<String, Kept>,
}

struct Kept {
    policy: Checkpoints,
    /// When the next is due, of [`Clock::elapsed`].
    due: Duration,
    /// What the last one was made of: cursors with the epoch.
    last: Option<(u64, Vec<(TopicPartition, u64)>)>,
}

impl Keeper {
    pub(crate) fn start(
        log: &Arc<Log>,
        states: &Arc<States>,
        clock: &Arc<dyn Clock>,
        operating: &Arc<Mutex<()>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            log: Arc::downgrade(log),
            states: states.clone(),
            clock: clock.clone(),
            operating: operating.clone(),
            plan: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = shared.clone();
        let thread = sluice_env::spawn("sluice-checkpoint", move || own.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Keeps checkpoints of a pipeline from now on.
    pub(crate) fn keep(&self, pipeline: &str, policy: Checkpoints) {
        let due = self.shared.clock.elapsed() + policy.every;
        let kept = Kept { policy, due, last: None };
        self.shared.plan().pipelines.insert(pipeline.to_owned(), kept);
        self.shared.changed.notify_all();
    }

    /// Does not do so any more.
    pub(crate) fn forget(&self, pipeline: &str) {
        self.shared.plan().pipelines.remove(pipeline);
    }

    pub(crate) fn end(&self) {
        self.shared.plan().ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut plan = self.plan();
        while !plan.ends {
            let now = self.clock.elapsed();
            let next =
                plan.pipelines.iter().min_by_key(|(_, kept)| kept.due).map(|(name, kept)| (name.clone(), kept.due));
            match next {
                Some((name, due)) if due <= now => {
                    drop(plan);
                    let made = self.log.upgrade().map(|log| self.keep_one(&log, &name));
                    plan = self.plan();
                    if let Some(kept) = plan.pipelines.get_mut(&name) {
                        kept.due = self.clock.elapsed() + kept.policy.every;
                        if let Some(Err(error)) = made {
                            tracing::warn!(%error, pipeline = name, "cannot make a checkpoint");
                            kept.due = self.clock.elapsed() + kept.policy.every.max(AGAIN_AFTER);
                        }
                    }
                }
                next => {
                    let wait = next.map_or(Duration::MAX, |(_, due)| due.saturating_sub(now));
                    let waited = self.changed.wait_timeout(plan, wait.min(Duration::from_secs(3600)));
                    plan = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Makes a checkpoint of a pipeline, if something has changed since the last one, and lets go of what is not to be kept.
    fn keep_one(&self, log: &Log, name: &str) -> Result<(), Error> {
        let _operating = self.operating.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pipeline) = log.pipeline(name) else { return Ok(()) };
        let mut stands: (u64, Vec<_>) =
            (pipeline.epoch, pipeline.cursors.iter().map(|(tp, cursor)| (*tp, cursor.next)).collect());
        // Timers change the state where no cursor moves.
        if let Ok(topic) = log.topic(&changelog_topic(name)) {
            for partition in 0..topic.partitions {
                let end = log.partition(&topic, partition)?.high_watermark();
                stands.1.push((TopicPartition { topic: topic.id, partition }, end));
            }
        }
        let policy = match self.plan().pipelines.get(name) {
            Some(kept) if kept.last.as_ref() != Some(&stands) => kept.policy,
            _ => return Ok(()),
        };
        let now = self.clock.now();
        let shared = |pipeline: &PipelineInfo, partition| self.states.shared(log, pipeline, partition);
        checkpoint::create(log, &*self.clock, shared, &format!("{name}{AUTOMATIC}{now}"), Some(name))?;
        self.plan().pipelines.entry(name.to_owned()).and_modify(|kept| kept.last = Some(stands));
        let mut all = checkpoint::list(log.root())?;
        let is_own = |checkpoint: &&Checkpoint| {
            checkpoint.name.starts_with(&format!("{name}{AUTOMATIC}"))
                && checkpoint.pipelines.iter().all(|stood| stood.id == pipeline.id)
        };
        let times: Vec<i64> = all.iter().filter(is_own).map(|checkpoint| checkpoint.time).collect();
        let own = all.iter().filter(is_own).zip(stays(&times, now, &policy));
        let gone: Vec<String> =
            own.filter(|(_, stays)| !stays).map(|(checkpoint, _)| checkpoint.name.clone()).collect();
        for name in &gone {
            checkpoint::delete(log.root(), name)?;
        }
        all.retain(|checkpoint| !gone.contains(&checkpoint.name));
        let_go(log, &pipeline, &all, |partition| self.states.running(pipeline.id, partition))
    }
}

/// Lets go of the part of a pipeline's changelog that no state is made from any more: what lies before every checkpoint's snapshot and
/// before what its stores have.
fn let_go(
    log: &Log,
    pipeline: &PipelineInfo,
    checkpoints: &[Checkpoint],
    running: impl Fn(u32) -> Option<SharedState>,
) -> Result<(), Error> {
    let topic = log.topic(&changelog_topic(&pipeline.name))?;
    let mut before = Vec::new();
    for partition in 0..topic.partitions {
        let Some(shared) = running(partition) else { continue };
        let end = log.partition(&topic, partition)?.high_watermark();
        let state = shared.lock();
        // Who has not taken in yet what is committed may be about to turn back.
        if state.applied().offset < end {
            continue;
        }
        let kept = checkpoint::kept(checkpoints, pipeline.id, partition).filter(|(_, kept)| !kept.is_imported());
        let Some(needed) = kept.map(|(_, kept)| kept.snapshot.last().map_or(0, |(_, end)| *end)).min() else {
            continue;
        };
        // The way back of a rewind may lead before all of them.
        let back = state.applied().before.as_ref().and_then(|(line, _)| line.last().map(|(start, _)| *start));
        let offset = needed.min(state.flushed_offset()).min(back.unwrap_or(u64::MAX));
        before.push((TopicPartition { topic: topic.id, partition }, offset));
    }
    log.commit(Commit::order(Order::LetGo(before)))?;
    Ok(())
}

/// Which of the checkpoints made at these times, the oldest first, stay: all for a while, then the first of each hour, then of each day. The
/// newest always does.
fn stays(times: &[i64], now: i64, policy: &Checkpoints) -> Vec<bool> {
    const HOUR: i64 = 3_600_000;
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let first_of = |at: usize, span: i64| at == 0 || times[at - 1].div_euclid(span) != times[at].div_euclid(span);
    let stays = |(at, time): (usize, &i64)| {
        let age = now.saturating_sub(*time);
        age <= millis(policy.all)
            || (age <= millis(policy.hourly) && first_of(at, HOUR))
            || (age <= millis(policy.daily) && first_of(at, 24 * HOUR))
            || at + 1 == times.len()
    };
    times.iter().enumerate().map(stays).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipeline that has committed a hundred changes, in a log whose segments are small.
    fn with_changelog(data: &std::path::Path) -> (Log, PipelineInfo) {
        use sluice_log::{Append, Input, NewTopic, Options, PipelineStart};
        use sluice_state::{Delta, Head, Layer, full_key, prefix_of};
        let mut options = Options::default();
        options.segment_bytes = 2000;
        let log = Log::open(Arc::new(sluice_env::RealDisk), Arc::new(sluice_env::SystemClock), data, options).unwrap();
        let topics = vec![NewTopic::new("in", 1), NewTopic::new("p.changelog", 1)];
        log.commit(Commit { topics, ..Commit::default() }).unwrap();
        let tp = |name: &str| TopicPartition { topic: log.topic(name).unwrap().id, partition: 0 };
        let mut events = sluice_event::Batch::default();
        (0..100).for_each(|_| events.push(&sluice_event::NewEvent::default()).unwrap());
        log.commit(Commit::append(tp("in"), events)).unwrap();
        let start = PipelineStart {
            name: "p".into(),
            digest: Vec::new(),
            definition: String::new(),
            start: vec![(tp("in"), 0)],
        };
        log.commit(Commit { pipeline: Some(start), ..Commit::default() }).unwrap();
        let id = log.pipeline("p").unwrap().id;
        for number in 0..100u64 {
            let mut layer = Layer::default();
            let key = full_key(&prefix_of("stage"), &[number as u8 % 7]);
            layer.push(&[], &key, Some(&number.to_le_bytes()), None);
            let TopicPartition { topic, partition } = tp("in");
            let head = Head { topic, partition, from: number, to: number + 1, epoch: 1, ..Head::default() };
            let bytes = Delta { head, layer }.encode();
            let mut batch = sluice_event::Batch::default();
            batch.push(&sluice_event::NewEvent { value: &bytes, ..sluice_event::NewEvent::default() }).unwrap();
            let (from, to) = (number, number + 1);
            let input = Input { pipeline: id, epoch: 1, topic, partition, from, to, committed: 1, ..Input::default() };
            let appends = vec![Append::new(tp("p.changelog"), batch)];
            log.commit(Commit { input: Some(input), appends, ..Commit::default() }).unwrap();
            if number == 70 {
                checkpoint::create_in(&log, "middle", None).unwrap();
            }
        }
        let info = log.pipeline("p").unwrap();
        (log, info)
    }

    #[test]
    fn what_no_checkpoint_needs_is_let_go_of_and_the_state_is_made_from_what_is_left() {
        use crate::state::{self, Past, StateChoice, Step};
        let data = tempfile::tempdir().unwrap();
        let (log, pipeline) = with_changelog(data.path());
        let value = |key: u8| {
            let shared = state::bring_up(&log, &pipeline, 0).unwrap();
            let slot = shared.lock().get_committed(&sluice_state::full_key(&sluice_state::prefix_of("stage"), &[key]));
            slot.unwrap().map(|slot| u64::from_le_bytes(slot.value.unwrap().try_into().unwrap()))
        };
        assert_eq!(value(1), Some(99));
        let shared = state::bring_up(&log, &pipeline, 0).unwrap();
        let flush = shared.lock().start_flush().unwrap();
        shared.run(&flush).unwrap();
        let checkpoints = checkpoint::list(data.path()).unwrap();
        let_go(&log, &pipeline, &checkpoints, |_| Some(shared.clone())).unwrap();
        drop((shared, flush));
        let changelog = log.partition(&log.topic("p.changelog").unwrap(), 0).unwrap();
        let low = changelog.low_mark();
        assert!((50..=71).contains(&low), "{low}");
        // Also when its store is lost.
        std::fs::remove_dir_all(data.path().join(format!("state/{}/0/live", pipeline.id))).unwrap();
        assert_eq!(value(1), Some(99));
        let past = Past::of(&log, |pipeline, partition| state::bring_up(&log, pipeline, partition), &pipeline).unwrap();
        let source = *pipeline.cursors.keys().next().unwrap();
        let back = |to| {
            let step = Step { source, from: 100, to };
            past.go(&[step], StateChoice::Restore).map(|back| back.cursors[0].1)
        };
        assert_eq!(back(90).unwrap(), 90);
        assert_eq!(back(71).unwrap(), 71);
        assert_eq!(back(0).unwrap(), 0, "before its beginning a state is empty");
        let refused = back(30).unwrap_err().to_string();
        assert!(refused.contains("earliest possible target") && refused.contains("--state reset"), "{refused}");
    }

    #[test]
    fn a_backup_tells_the_state_also_when_neither_changelog_nor_checkpoints_do() {
        use crate::state;
        let data = tempfile::tempdir().unwrap();
        let (log, pipeline) = with_changelog(data.path());
        let shared = state::bring_up(&log, &pipeline, 0).unwrap();
        let flush = shared.lock().start_flush().unwrap();
        shared.run(&flush).unwrap();
        let_go(&log, &pipeline, &checkpoint::list(data.path()).unwrap(), |_| Some(shared.clone())).unwrap();
        drop((shared, flush));
        checkpoint::delete(data.path(), "middle").unwrap();
        // Only the store knows it now, which is no part of a backup.
        let copy = data.path().with_added_extension("copy");
        crate::backup::backup_of(&log, &copy).unwrap();
        assert!(checkpoint::list(data.path()).unwrap().is_empty(), "nothing is left behind");
        let options = sluice_log::Options::default();
        let clock = Arc::new(sluice_env::SystemClock);
        let copied = Log::open(Arc::new(sluice_env::RealDisk), clock, &copy, options).unwrap();
        let shared = state::bring_up(&copied, &pipeline, 0).unwrap();
        let key = sluice_state::full_key(&sluice_state::prefix_of("stage"), &[1]);
        let slot = shared.lock().get_committed(&key).unwrap().unwrap();
        assert_eq!(slot.value, Some(99u64.to_le_bytes().to_vec()));
        drop((shared, copied));
        std::fs::remove_dir_all(copy).unwrap();
    }

    #[test]
    fn all_stay_for_a_while_then_one_an_hour_then_one_a_day() {
        const MINUTE: i64 = 60_000;
        let (mut kept, mut now): (Vec<i64>, i64) = (Vec::new(), 0);
        // As it goes: a checkpoint each ten minutes for nine days, the others let go each time.
        while now < 9 * 24 * 60 * MINUTE {
            now += 10 * MINUTE;
            kept.push(now);
            let stays = stays(&kept, now, &Checkpoints::default());
            kept = kept.iter().zip(stays).filter(|(_, stays)| *stays).map(|(time, _)| *time).collect();
        }
        let aged = |from: i64, to: i64| kept.iter().filter(|time| (from..to).contains(&(now - **time))).count();
        let hour = 60 * MINUTE;
        assert_eq!(aged(0, hour + 1), 7);
        assert!((22..=24).contains(&aged(hour + 1, 24 * hour)), "{}", aged(hour + 1, 24 * hour));
        assert!((5..=7).contains(&aged(24 * hour, 8 * 24 * hour)), "{}", aged(24 * hour, 8 * 24 * hour));
        assert_eq!(aged(8 * 24 * hour, i64::MAX), 0);
        assert_eq!(stays(&[5], i64::MAX, &Checkpoints::default()), [true]);
    }
}
