//! The handle to an open log.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use sluice_env::{Clock, Disk};

use crate::audit::{self, Audit};
use crate::backup::{Backup, Cut};
use crate::catalog::{Again, Catalog, PipelineInfo, TopicInfo};
use crate::change::{Change, TopicPartition};
use crate::commit::{Commit, Committed};
use crate::committer::Committer;
use crate::compression::Compression;
use crate::error::Error;
use crate::histogram::Histogram;
use crate::options::Options;
use crate::partition::Partition;
use crate::reader::Reader;
use crate::recovery::{self, Report};
use crate::retention::Hold;

/// Called once, by the committing thread, when a commit is durable and visible, or refused. It must not block.
pub type Done = Box<dyn FnOnce(Result<Committed, Error>) + Send>;
type Listener = Arc<dyn Fn(&[TopicPartition]) + Send + Sync>;

/// Commits that wait for the committing thread, at most; submitting blocks beyond it.
const QUEUE: usize = 1024;
/// A group takes no further commits beyond this many bytes.
const GROUP_BYTES: usize = 8 << 20;

/// What readers see; the committing thread changes it when a group is durable.
#[derive(Default)]
pub(crate) struct Shared {
    topics: RwLock<BTreeMap<u32, TopicInfo>>,
    pipelines: RwLock<BTreeMap<u32, PipelineInfo>>,
    producers: RwLock<HashMap<(String, u32), u64>>,
    partitions: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    holds: RwLock<Vec<Hold>>,
    listeners: Mutex<Vec<Listener>>,
    /// The last commit that is visible.
    seq: AtomicU64,
    /// Why nothing is committed any more.
    failure: Mutex<Option<Error>>,
    work: Mutex<Work>,
}

/// What the committing thread has done since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Groups of commits that were made durable together.
    pub groups: u64,
    /// Commits in them.
    pub commits: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// How long a group took, from when it was taken in hand until it was visible.
    pub group: Histogram,
    /// How long its sync took.
    pub sync: Histogram,
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn partition(&self, tp: TopicPartition) -> Option<Arc<Partition>> {
        read(&self.partitions).get(&tp).cloned()
    }

    pub(crate) fn add_partition(&self, partition: Partition) {
        write(&self.partitions).insert(partition.id(), Arc::new(partition));
    }

    /// Makes a change other than a batch visible.
    pub(crate) fn publish(&self, change: &Change, catalog: &Catalog) {
        match change {
            Change::Topic { id, partitions, .. } => {
                for partition in 0..*partitions {
                    self.add_partition(Partition::new(TopicPartition { topic: *id, partition }, Vec::new(), 0, 0));
                }
                write(&self.topics).extend(catalog.topics.get(id).map(|topic| (*id, topic.clone())));
            }
            Change::Settings { topic, .. } => {
                write(&self.topics).extend(catalog.topics.get(topic).map(|info| (*topic, info.clone())));
            }
            Change::TopicDeleted { topic } => {
                write(&self.topics).remove(topic);
                let gone = write(&self.partitions).extract_if(|tp, _| tp.topic == *topic).collect::<Vec<_>>();
                gone.iter().for_each(|(_, partition)| partition.delete());
                write(&self.producers).retain(|(_, of), _| of != topic);
                self.publish_pipelines(catalog);
            }
            Change::Hole { tp, .. } => {
                if let (Some(partition), Some(info)) = (self.partition(*tp), catalog.partitions.get(tp)) {
                    partition.set_holes(info.holes.clone());
                }
            }
            Change::Pipeline { id, .. }
            | Change::Desired { pipeline: id, .. }
            | Change::Held { pipeline: id, .. }
            | Change::Tried { pipeline: id, .. }
            | Change::Moved { pipeline: id, .. }
            | Change::Before { pipeline: id, .. }
            | Change::Again { pipeline: id, .. } => {
                write(&self.pipelines).extend(catalog.pipelines.get(id).map(|pipeline| (*id, pipeline.clone())));
            }
            Change::PipelineDeleted { pipeline } => {
                write(&self.pipelines).remove(pipeline);
            }
            Change::Input(input) => {
                let (id, tp) = (input.pipeline, input.source());
                let cursor = catalog.pipelines.get(&id).and_then(|pipeline| pipeline.cursors.get(&tp));
                if let (Some(pipeline), Some(cursor)) = (write(&self.pipelines).get_mut(&id), cursor) {
                    pipeline.cursors.insert(tp, *cursor);
                }
            }
            Change::Producer { name, topic, next, .. } => {
                write(&self.producers).insert((name.clone(), *topic), *next);
            }
            Change::ProducerForgotten { name, topic } => {
                write(&self.producers).remove(&(name.clone(), *topic));
            }
            Change::Segment { .. }
            | Change::Append { .. }
            | Change::SegmentState { .. }
            | Change::Cursor { .. }
            // Raised in its partition where the files that go with it are noted.
            | Change::LowMark { .. }
            | Change::Counters { .. } => {}
        }
    }

    fn publish_pipelines(&self, catalog: &Catalog) {
        write(&self.pipelines).clone_from(&catalog.pipelines);
    }

    /// Makes all of a catalog visible, but for the partitions.
    pub(crate) fn publish_all(&self, catalog: &Catalog) {
        write(&self.topics).clone_from(&catalog.topics);
        self.publish_pipelines(catalog);
        write(&self.producers).extend(catalog.producers.iter().map(|(key, known)| (key.clone(), known.next)));
    }

    /// Notes what was done.
    pub(crate) fn worked(&self, note: impl FnOnce(&mut Work)) {
        note(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What keeps retention from doing its work.
    pub(crate) fn set_holds(&self, holds: Vec<Hold>) {
        *write(&self.holds) = holds;
    }

    pub(crate) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(crate) fn set_seq(&self, seq: u64) {
        self.seq.store(seq, Ordering::SeqCst);
    }

    pub(crate) fn wake(&self, touched: &[TopicPartition]) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listeners.iter().for_each(|listener| listener(touched));
    }
}

/// Bytes of commits that wait; submitting blocks beyond it.
const QUEUE_BYTES: usize = 64 << 20;
/// What a commit counts for besides its events.
const COMMIT_BYTES: usize = 512;

/// How many bytes of commits wait.
#[derive(Default)]
struct Budget {
    used: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    fn take(&self, bytes: usize) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // One commit always goes through, however large.
        while *used > 0 && *used + bytes > QUEUE_BYTES {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
    }

    fn give_back(&self, bytes: usize) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.freed.notify_all();
    }
}

/// Whoever waits for a commit's answer. It gets one, whatever happens to the committing thread.
struct Waiter {
    done: Option<Done>,
    budget: Arc<Budget>,
    bytes: usize,
}

impl Waiter {
    fn answer(mut self, answer: Result<Committed, Error>) {
        if let Some(done) = self.done.take() {
            done(answer);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
        if let Some(done) = self.done.take() {
            done(Err(Error::Closed));
        }
    }
}

/// What the committing thread is asked for.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are commits")]
enum Message {
    Commit(Commit, Waiter),
    Cut(SyncSender<Result<Cut, Error>>),
}

/// Says that nothing is committed any more, should the committing thread die.
struct LastWords(Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Poisoned("the committing thread died; this is a bug".into()));
        }
    }
}

/// An open log: one per data directory and process. Dropping it closes it after what was submitted is committed.
pub struct Log {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    shared: Arc<Shared>,
    /// `None` when it is closing.
    queue: Option<SyncSender<Message>>,
    budget: Arc<Budget>,
    thread: Option<JoinHandle<()>>,
    report: Report,
    check_crc: bool,
    /// The directory is this process's until also the committing thread is through.
    _lock: Arc<dyn Send + Sync>,
}

impl Log {
    /// Opens a data directory, making it where there is none, and recovers it.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has it, [`Error::Damaged`] when its commit log is, or what the disk says.
    pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, root: &Path, options: Options) -> Result<Self, Error> {
        let opened = recovery::open(disk.clone(), clock, root, options)?;
        let (queue, waiting) = sync_channel(QUEUE);
        let shared = opened.committer.shared.clone();
        let check_crc = !opened.committer.options.has(crate::options::Planted::NoCrcCheck);
        let committer = opened.committer;
        let lock: Arc<dyn Send + Sync> = opened.lock.into();
        let locked = lock.clone();
        let thread = sluice_env::spawn("sluice-commit", move || {
            run(committer, &waiting);
            drop(locked);
        });
        let thread = thread.map_err(|error| Error::io("start a thread for", root, error))?;
        Ok(Self {
            disk,
            root: root.to_owned(),
            shared,
            queue: Some(queue),
            budget: Arc::default(),
            thread: Some(thread),
            report: opened.report,
            check_crc,
            _lock: lock,
        })
    }

    /// What recovery found and did.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Hands a commit over; blocks while too many wait. `done` learns what became of it. Batches are compressed here, on the
    /// caller's thread.
    pub fn submit(&self, mut commit: Commit, done: Done) {
        for append in &mut commit.appends {
            let topics = read(&self.shared.topics);
            let compression =
                topics.get(&append.to.topic).map_or(Compression::None, |topic| topic.settings.compression);
            drop(topics);
            append.pack(compression);
        }
        let bytes = commit.size() + COMMIT_BYTES;
        self.budget.take(bytes);
        let waiter = Waiter { done: Some(done), budget: self.budget.clone(), bytes };
        // When nobody listens any more, dropping the waiter says so.
        if let Some(queue) = &self.queue {
            let _ = queue.send(Message::Commit(commit, waiter));
        }
    }

    /// Commits and waits.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn commit(&self, commit: Commit) -> Result<Committed, Error> {
        let (answer, answered) = sync_channel(1);
        self.submit(commit, Box::new(move |result| drop(answer.send(result))));
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    /// Makes everything durable, and says where it ends, to be [copied](Self::copy). Commits wait for that, and go on then.
    ///
    /// # Errors
    /// When it cannot be made durable, or there is no space for a snapshot.
    pub fn cut(&self) -> Result<Cut, Error> {
        let (answer, answered) = sync_channel(1);
        if let Some(queue) = &self.queue {
            let _ = queue.send(Message::Cut(answer));
        }
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    /// Copies everything up to a cut into a folder, durably. It is a data directory then, of a log that was closed there.
    ///
    /// # Errors
    /// When it cannot be written: it is left as it is then.
    pub fn copy(&self, cut: &Cut, to: &Path) -> Result<Backup, Error> {
        cut.copy(&*self.disk, &self.root, to)
    }

    /// All topics, by id.
    pub fn topics(&self) -> Vec<TopicInfo> {
        read(&self.shared.topics).values().cloned().collect()
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`].
    pub fn topic(&self, name: &str) -> Result<TopicInfo, Error> {
        let topics = read(&self.shared.topics);
        let found = topics.values().find(|topic| topic.name == name);
        found.cloned().ok_or_else(|| Error::UnknownTopic(name.to_owned()))
    }

    /// A partition of a topic.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub fn partition(&self, topic: &TopicInfo, partition: u32) -> Result<Arc<Partition>, Error> {
        let found = self.shared.partition(TopicPartition { topic: topic.id, partition });
        found.ok_or_else(|| Error::UnknownPartition {
            topic: topic.name.clone(),
            partition,
            partitions: topic.partitions,
        })
    }

    /// A partition, if it is there.
    pub fn partition_of(&self, tp: TopicPartition) -> Option<Arc<Partition>> {
        self.shared.partition(tp)
    }

    /// A pipeline that has committed something.
    pub fn pipeline(&self, name: &str) -> Option<PipelineInfo> {
        read(&self.shared.pipelines).values().find(|pipeline| pipeline.name == name).cloned()
    }

    /// Where outputs go of what a pipeline reads again of a partition, if not to its sinks.
    pub fn again(&self, pipeline: u32, source: TopicPartition) -> Option<Again> {
        let (topic, until) = read(&self.shared.pipelines).get(&pipeline)?.again_until(source)?;
        let partitions = read(&self.shared.topics).values().find(|info| info.id == topic)?.partitions;
        Some(Again { topic, partitions, until })
    }

    /// The epoch of a pipeline and its cursor on a partition.
    pub fn cursor(&self, pipeline: u32, source: TopicPartition) -> Option<(u64, u64)> {
        let pipelines = read(&self.shared.pipelines);
        let pipeline = pipelines.get(&pipeline)?;
        Some((pipeline.epoch, pipeline.cursors.get(&source)?.next))
    }

    /// All pipelines that have committed something, by id.
    pub fn pipelines(&self) -> Vec<PipelineInfo> {
        read(&self.shared.pipelines).values().cloned().collect()
    }

    /// Why nothing is committed any more, if that is so: the node must stop.
    pub fn failure(&self) -> Option<Error> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the last commit that is visible.
    pub fn last_seq(&self) -> u64 {
        self.shared.seq.load(Ordering::SeqCst)
    }

    /// The next sequence number of a producer for a topic; 0 when it is new there.
    pub fn next_sequence(&self, producer: &str, topic: u32) -> u64 {
        read(&self.shared.producers).get(&(producer.to_owned(), topic)).copied().unwrap_or(0)
    }

    /// What keeps retention from doing its work: pipelines that have not read what should go.
    pub fn holds(&self) -> Vec<Hold> {
        read(&self.shared.holds).clone()
    }

    /// What the committing thread has done since the log was opened.
    pub fn work(&self) -> Work {
        *self.shared.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the commit log tells of pipelines, as far as it reaches back.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit(&self) -> Result<Audit, Error> {
        audit::audit(&*self.disk, &self.root, self.last_seq())
    }

    /// A reader that begins at `offset`.
    pub fn reader(&self, partition: Arc<Partition>, offset: u64) -> Reader {
        Reader::new(partition, offset, self.check_crc)
    }

    /// Has `listener` called, by the committing thread, with the partitions whose high watermark moved. It must not block.
    pub fn on_append(&self, listener: impl Fn(&[TopicPartition]) + Send + Sync + 'static) {
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
    }

    /// Commits what was submitted, and closes.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // The committing thread ends when it has committed what was submitted and nobody can bring more.
        drop(self.queue.take());
        // Whoever is told of a commit may hold the log's last reference: then it is the committing thread that drops it.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(mut committer: Committer, waiting: &Receiver<Message>) {
    let _last_words = LastWords(committer.shared.clone());
    let mut kept_back = None;
    loop {
        let first = match kept_back.take() {
            Some(message) => message,
            None => match next_message(&mut committer, waiting) {
                Some(message) => message,
                None => break,
            },
        };
        let (mut commits, mut callbacks, mut size) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(message) = next {
            // An order is a group of its own.
            let alone = matches!(&message, Message::Commit(Commit { order: Some(_), .. }, _) | Message::Cut(_));
            if alone && !commits.is_empty() {
                kept_back = Some(message);
                break;
            }
            let (commit, waiter) = match message {
                Message::Commit(commit, waiter) => (commit, waiter),
                Message::Cut(answer) => {
                    // Whoever asked may be gone.
                    let _ = answer.send(committer.cut());
                    break;
                }
            };
            size += if alone { GROUP_BYTES } else { waiter.bytes };
            commits.push(commit);
            callbacks.push(waiter);
            next = if size < GROUP_BYTES { waiting.try_recv().ok() } else { None };
        }
        if commits.is_empty() {
            continue;
        }
        let answers = committer.commit_group(commits);
        callbacks.into_iter().zip(answers).for_each(|(waiter, answer)| waiter.answer(answer));
    }
    committer.end();
}

/// Waits for work; `None` when nobody can bring any more.
fn next_message(committer: &mut Committer, waiting: &Receiver<Message>) -> Option<Message> {
    loop {
        match committer.idle_for() {
            None => return waiting.recv().ok(),
            Some(timeout) => match waiting.recv_timeout(timeout) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => committer.idle(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::channel;

    use sluice_env::{ManualClock, RealDisk, SimDisk, SystemClock};

    use super::*;
    use crate::commit::NewTopic;

    /// By a clock that stands before it: by that of the machine it was forgotten after a week.
    #[test]
    fn a_producer_of_the_first_version_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/data-1.tar.gz");
        let unpacked = Command::new("tar").args(["xzf", archive, "-C"]).arg(dir.path()).status().unwrap();
        assert!(unpacked.success());
        let (clock, data) = (Arc::new(ManualClock::default()), dir.path().join(".sluice"));
        let log = Log::open(Arc::new(RealDisk), clock, &data, Options::default()).unwrap();
        assert_eq!(log.next_sequence("loader", log.topic("flights").unwrap().id), 300);
    }

    #[test]
    fn the_last_reference_may_be_dropped_by_whoever_is_told_of_a_commit() {
        let (disk, clock) = (Arc::new(SimDisk::default()), Arc::new(SystemClock));
        let log = Log::open(disk, clock, Path::new("/data"), Options::default()).unwrap();
        let log = Arc::new(log);
        let topic = |name: &str| Commit { topics: vec![NewTopic::new(name, 1)], ..Commit::default() };
        let (go_on, wait) = channel::<()>();
        let (tell, answers) = channel();
        let last = log.clone();
        log.submit(
            topic("first"),
            Box::new(move |_| {
                let _ = wait.recv();
                drop(last);
            }),
        );
        log.submit(topic("second"), Box::new(move |answer| tell.send(answer.is_ok()).unwrap()));
        drop(log);
        drop(go_on);
        assert_eq!(answers.recv(), Ok(true));
    }
}
