//! From producing to what can be read of it in the sink, under `fsync`, at shares of the highest rate; the disk's own syncs stand beside.
//!
//! The producer keeps to its times whatever becomes of what it has sent, and times count from when an event was to be sent: who waits for an answer before he
//! sends the next leaves out just those that waited.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_event::Batch;
use sluice_log::{Commit, Durability, Log, NewTopic, Partition, TopicPartition};
use sluice_node::{Compiler, Node, NodeOptions};

use crate::Settings;
use crate::events::Job;
use crate::measure::{Spread, Times};
use crate::report::Table;
use crate::through::{self, How};

/// How often the producer sends.
const EVERY: Duration = Duration::from_millis(2);
/// How long at each rate.
const TIME: Duration = Duration::from_secs(4);
const SHARES: [(u32, &str); 3] = [(10, "a tenth"), (50, "half"), (90, "nine tenths")];

/// A pipeline of J1 in a node of its own, and its two ends.
struct Pipeline {
    node: Node,
    source: TopicPartition,
    sink: TopicPartition,
    out: Arc<Partition>,
    data: tempfile::TempDir,
}

impl Pipeline {
    fn start() -> Result<Self> {
        let data = tempfile::tempdir()?;
        let (folder, compiler) = (data.path().to_owned(), Compiler::Here);
        let node = Node::open(&NodeOptions { data: folder, durability: Durability::Fsync, compiler })?;
        sluice_node::topics::create(node.log(), NewTopic::new("in", 1))?;
        node.start(&[through::pipeline("latency", How::default(), "in", Job::J1, Job::J1.plugins())?])?;
        let of = |topic: &str| anyhow::Ok(TopicPartition { topic: node.log().topic(topic)?.id, partition: 0 });
        let (source, sink) = (of("in")?, of("out-latency")?);
        let out = node.log().partition_of(sink).context("the sink has no partition")?;
        Ok(Self { node, source, sink, out, data })
    }

    fn log(&self) -> &Arc<Log> {
        self.node.log()
    }
}

/// Sends batches at their times; of each, how long it took in ms until it was acknowledged, and until what came of it could be read.
fn send(pipeline: &Pipeline, batches: Vec<Batch>, every: Duration) -> Result<(Vec<f64>, Vec<f64>)> {
    // How many outputs there are when all up to a batch are dealt with.
    let mut outputs = pipeline.out.high_watermark();
    let mut up_to = Vec::with_capacity(batches.len());
    for batch in &batches {
        let kept = batch.region().events().flatten().filter(|event| is_kept(event.value()));
        outputs += kept.count() as u64;
        up_to.push(outputs);
    }
    let visible: Arc<Mutex<Vec<(Instant, u64)>>> = Arc::default();
    let (seen, out, sink) = (visible.clone(), pipeline.out.clone(), pipeline.sink);
    pipeline.log().on_append(move |moved| {
        if moved.contains(&sink) {
            let now = (Instant::now(), out.high_watermark());
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(now);
        }
    });
    let acknowledged: Arc<Mutex<Vec<(usize, Instant)>>> = Arc::default();
    let failed = Arc::new(AtomicU64::new(0));
    // Not before all else is ready: to look through the events takes longer than some batches do.
    let start = Instant::now() + Duration::from_millis(20);
    let due: Vec<_> = (0..).zip(up_to).map(|(number, outputs)| (start + every * number, outputs)).collect();
    for (number, batch) in batches.into_iter().enumerate() {
        #[expect(clippy::disallowed_methods, reason = "waits for the time to send")]
        std::thread::sleep(due[number].0.saturating_duration_since(Instant::now()));
        let (acknowledged, failed) = (acknowledged.clone(), failed.clone());
        let done = move |result: Result<_, _>| {
            failed.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((number, Instant::now()));
        };
        pipeline.log().submit(Commit::append(pipeline.source, batch), Box::new(done));
    }
    let give_up = Instant::now() + Duration::from_secs(60);
    while pipeline.out.high_watermark() < outputs {
        if Instant::now() > give_up {
            bail!("what was sent does not arrive");
        }
        #[expect(clippy::disallowed_methods, reason = "looks again after a while")]
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::ensure!(failed.load(Ordering::Relaxed) == 0, "what was sent was refused");
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let acknowledged = acknowledged.into_iter().map(|(number, at)| ms(due[number].0, at)).collect();
    // The sink's high watermark may move before the listener hears of it.
    let mut seen = visible.lock().unwrap_or_else(PoisonError::into_inner).clone();
    seen.push((Instant::now(), outputs));
    let mut visible = Vec::with_capacity(due.len());
    let mut at = 0;
    for (due, outputs) in due {
        while seen[at].1 < outputs {
            at += 1;
        }
        visible.push(ms(due, seen[at].0));
    }
    Ok((acknowledged, visible))
}

/// Whether J1 keeps an event.
fn is_kept(value: &[u8]) -> bool {
    value.windows(14).any(|window| window == br#""kind":"order""#)
}

/// Appends as many bytes to a file and syncs it, at the same times; ms.
fn syncs(folder: &std::path::Path, bytes: usize, every: Duration, time: Duration) -> Result<Vec<f64>> {
    let mut file = File::options().create(true).append(true).open(folder.join("plain"))?;
    let (bytes, mut taken) = (vec![b'x'; bytes], Vec::new());
    let start = Instant::now();
    for number in 0..u32::try_from(time.as_micros() / every.as_micros()).unwrap_or(u32::MAX) {
        #[expect(clippy::disallowed_methods, reason = "waits for the time to sync")]
        std::thread::sleep((start + every * number).saturating_duration_since(Instant::now()));
        let begin = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        taken.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(taken)
}

/// Events of J1 in batches of one size.
fn batches(count: u64, size: u64) -> Vec<Batch> {
    (0..count).flat_map(|number| Job::J1.events_from(number * size, size, size as u32)).collect()
}

/// The highest rate, events a second by the clock: a producer that sends as fast as the log takes it, until all can be read in the sink.
fn highest(pipeline: &Pipeline, events: u64) -> Result<f64> {
    // All are due at once, so the last one's time is that of all.
    let (_, visible) = send(pipeline, batches(events / 1000, 1000), Duration::ZERO)?;
    let last = visible.last().context("nothing was sent")?;
    Ok(1e3 * events as f64 / last)
}

pub(crate) fn run(&Settings { events, runs, quick }: &Settings) -> Result<Vec<Table>> {
    let time = if quick { TIME / 8 } else { TIME };
    let (mut rates, mut taken) = (Vec::new(), vec![[const { Vec::new() }; 9]; SHARES.len()]);
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for _ in 0..runs {
        let pipeline = Pipeline::start()?;
        let highest = highest(&pipeline, events)?;
        rates.push(highest / 1e6);
        for ((percent, _), taken) in SHARES.iter().zip(&mut taken) {
            #[expect(clippy::cast_sign_loss, reason = "a rate is not negative")]
            let size = (highest * f64::from(*percent) / 100.0 * EVERY.as_secs_f64()) as u64;
            let own = Pipeline::start()?;
            let count = u64::try_from(time.as_micros() / EVERY.as_micros())?;
            let input = batches(count, size.clamp(5, 4096));
            let bytes = input[0].bytes().len();
            let plain = Times::of(syncs(own.data.path(), bytes, EVERY, time / 2)?);
            let (acknowledged, visible) = send(&own, input, EVERY)?;
            let (acknowledged, visible) = (Times::of(acknowledged), Times::of(visible));
            for (place, (times, share)) in [&plain, &acknowledged, &visible]
                .into_iter()
                .flat_map(|times| [(times, 50.0), (times, 99.0), (times, 99.9)])
                .enumerate()
            {
                taken[place].push(times.at(share));
            }
            if *percent == 10 {
                let sync = plain.at(99.0);
                ratios[0].push(acknowledged.at(99.0) / (2.0 * sync + 1.0));
                ratios[1].push(visible.at(99.0) / (4.0 * sync + 1.0));
            }
        }
    }
    let mut table = Table::new(
        "latency",
        "J1, exactly-once, fsync, one producer that sends every 2 ms; ms",
        &["half within", "99 % within", "99.9 % within"],
    );
    for ((_, share), taken) in SHARES.iter().zip(taken) {
        let mut spreads = taken.into_iter().map(|times| Spread::of(times).into());
        table.row(
            format!("the disk: as many bytes as at {share}, appended to a file and synced"),
            spreads.by_ref().take(3),
        );
        table.row(format!("at {share} of the highest rate, acknowledged"), spreads.by_ref().take(3));
        table.row(format!("at {share}, visible in the sink"), spreads);
    }
    let [acknowledged, visible] = ratios.map(Spread::of);
    table.note(format!(
        "The highest rate: {} M/s. At a tenth, 99 %: acknowledged {acknowledged} of twice the disk's 99 % and 1 ms, visible {visible} of four times it and 1 ms; asked: at most 1.",
        Spread::of(rates)
    ));
    Ok(vec![table])
}
