//! Producers and followers over HTTP, at a node in a process of its own: `wrk` asks, and the disk's own rate of syncs stands beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_api::{Listeners, Remote, Tokens};
use sluice_env::SystemClock;
use sluice_log::{Durability, NewTopic};
use sluice_node::{Compiler, Node, NodeOptions, topics};

use crate::measure::{Spread, resident_mib_of};

/// Connections that produce at once.
const PRODUCERS: usize = 64;
/// Events in a request.
const BATCH: usize = 100;
/// Connections that follow, and are sent nothing.
const FOLLOWERS: usize = 10_000;
/// How long `wrk` asks.
const SECONDS: u64 = 10;

/// What was found.
pub(crate) struct Found {
    /// Events a second that were acknowledged.
    pub(crate) events: Spread,
    /// Milliseconds until a request was answered that half of them, and 99 in 100, did not exceed.
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
    /// Milliseconds of a sync of as many bytes as a group has, beside.
    pub(crate) sync: Spread,
    /// Followers that were there at once, and MiB that the node had then and before.
    pub(crate) followers: usize,
    pub(crate) memory: (u64, u64),
    /// The same rate while they were there.
    pub(crate) beside: f64,
    /// Events that were acknowledged until the node was killed, and of these those that were there afterwards.
    pub(crate) killed: (u64, u64),
}

/// A node in a process of its own, on any port: what `--serve` does. It says where.
pub(crate) fn serve(dir: &Path) -> Result<()> {
    raise_limit();
    let options = NodeOptions { data: dir.to_owned(), durability: Durability::Fsync, compiler: Compiler::Here };
    let node = Arc::new(Node::open(&options)?);
    if node.log().topic("in").is_err() {
        topics::create(node.log(), NewTopic::new("in", 1))?;
        topics::create(node.log(), NewTopic::new("quiet", 1))?;
    }
    let tokens = Arc::new(Tokens::open(dir, Arc::new(SystemClock))?);
    let listener = sluice_api::listen("127.0.0.1:0".parse()?)?;
    println!("{}", listener.local_addr()?);
    let remote = Remote { listener, tls: None, with_tokens: false };
    let listeners = Listeners { socket: sluice_api::bind(dir)?, tcp: Some(remote) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    Ok(runtime.block_on(sluice_api::serve(node, tokens, listeners))?)
}

fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Serving {
    process: Child,
    address: String,
}

impl Serving {
    fn start(dir: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command.arg("--serve").arg(dir).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(process.stdout.take().context("its stdout")?).read_line(&mut address)?;
        ensure!(!address.is_empty(), "the node did not start");
        Ok(Self { process, address: address.trim().to_owned() })
    }

    fn memory(&self) -> Result<u64> {
        resident_mib_of(self.process.id())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An event of about a hundred bytes.
fn line(number: u64) -> String {
    format!(
        "{{\"number\":\"{number:020}\",\"agent\":\"Mozilla/5.0 (X11; Linux x86_64)\",\"page\":\"/shop/0123456789/abc\"}}\n"
    )
}

/// Events a second, and the latencies of requests in ms, as `wrk` found them.
fn wrk(dir: &Path, address: &str) -> Result<(f64, f64, f64)> {
    let script = dir.join("produce.lua");
    let body: String = (0..BATCH as u64).map(line).collect();
    let lua = format!(
        "wrk.method = \"POST\"\nwrk.headers[\"content-type\"] = \"application/x-ndjson\"\nwrk.body = [[{body}]]\n\
         function done(summary, latency)\n\
         io.write(string.format(\"found %d %d %f %f %d\\n\", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),\n\
         summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))\nend\n"
    );
    std::fs::write(&script, lua)?;
    let (connections, seconds) = (PRODUCERS.to_string(), format!("{SECONDS}s"));
    let ran = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections, "--duration", &seconds, "--script"])
        .arg(&script)
        .arg(format!("http://{address}/topics/in/events"))
        .output()
        .context("wrk cannot be started: `apt-get install wrk`")?;
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    let found = told.lines().find_map(|line| line.strip_prefix("found ")).with_context(|| format!("wrk: {told}"))?;
    let numbers: Vec<f64> = found.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, us, p50, p99, errors] = numbers[..] else { anyhow::bail!("wrk: {told}") };
    ensure!(errors == 0.0, "{errors} requests failed: {told}");
    Ok((requests * BATCH as f64 / (us / 1e6), p50 / 1e3, p99 / 1e3))
}

/// Milliseconds of appending so many bytes and syncing them, many times.
fn syncs(dir: &Path, bytes: usize) -> Result<Spread> {
    let mut file = std::fs::File::create(dir.join("syncs"))?;
    let chunk = vec![b'x'; bytes];
    let mut taken = Vec::new();
    for _ in 0..300 {
        let begun = Instant::now();
        file.write_all(&chunk)?;
        file.sync_data()?;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(taken))
}

/// Opens a connection that follows a topic in which nothing happens, once the node has answered.
fn follow(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET /topics/quiet/events HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n")?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer)?;
    ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
    Ok(stream)
}

/// Sends batches until the node is gone; the numbers of those that were acknowledged are those before the count.
fn send_until_it_is_gone(address: &str, own: u64, acknowledged: &AtomicU64) {
    let Ok(stream) = TcpStream::connect(address) else { return };
    let (mut reader, mut writer) = (BufReader::new(&stream), &stream);
    for number in 0.. {
        let body: String = (0..BATCH as u64).map(|n| line((own << 40) | (number * BATCH as u64 + n))).collect();
        let head = format!(
            "POST /topics/in/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if writer.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
        let (mut line, mut length, mut good) = (String::new(), 0, false);
        loop {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            good |= line.starts_with("HTTP/1.1 200");
            if let Some(told) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = told.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() || !good {
            return;
        }
        acknowledged.fetch_add(BATCH as u64, Ordering::SeqCst);
    }
}

/// Kills a node under load; how many events were acknowledged, and how many of these are there when it is open again.
fn kill_under_load(dir: &Path) -> Result<(u64, u64)> {
    let mut serving = Serving::start(dir)?;
    let counts: Vec<Arc<AtomicU64>> = (0..PRODUCERS).map(|_| Arc::default()).collect();
    let mut threads = Vec::new();
    for (own, count) in counts.iter().enumerate() {
        let (address, count) = (serving.address.clone(), count.clone());
        let send = move || send_until_it_is_gone(&address, own as u64 + 1, &count);
        threads.push(sluice_env::spawn("producer", send)?);
    }
    let all = || counts.iter().map(|count| count.load(Ordering::SeqCst)).sum::<u64>();
    while all() < 500_000 {
        std::thread::yield_now();
    }
    serving.process.kill()?;
    serving.process.wait()?;
    drop(threads.into_iter().map(std::thread::JoinHandle::join).collect::<Vec<_>>());
    let options = NodeOptions { data: dir.to_owned(), durability: Durability::Fsync, compiler: Compiler::Here };
    let log = Arc::new(sluice_node::open_log(&options)?);
    let partition = log.partition(&log.topic("in")?, 0)?;
    let (mut next, mut there) = (partition.low_mark(), std::collections::HashSet::new());
    loop {
        let batch = topics::read_partition(&log, partition.clone(), next, 4 << 20)?;
        if batch.count == 0 {
            break;
        }
        for event in batch.region().events() {
            let text = String::from_utf8_lossy(event?.value()).into_owned();
            let number = text.strip_prefix("{\"number\":\"").and_then(|rest| rest.get(..20)?.parse::<u64>().ok());
            there.extend(number);
        }
        next = batch.base_offset + u64::from(batch.count);
    }
    let is_there = |own: u64, number: u64| there.contains(&((own << 40) | number));
    let own = |(own, count): (usize, &Arc<AtomicU64>)| {
        (0..count.load(Ordering::SeqCst)).filter(|number| is_there(own as u64 + 1, *number)).count() as u64
    };
    Ok((all(), counts.iter().enumerate().map(own).sum()))
}

/// All of it.
pub(crate) fn run(runs: usize) -> Result<Found> {
    raise_limit();
    let dir = tempfile::tempdir()?;
    let (mut events, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    let serving = Serving::start(&dir.path().join("data"))?;
    for _ in 0..runs {
        let found = wrk(dir.path(), &serving.address)?;
        events.push(found.0);
        p50.push(found.1);
        p99.push(found.2);
    }
    // A group has the requests of all connections, at most.
    let sync = syncs(dir.path(), PRODUCERS * BATCH * line(0).len())?;
    let before = serving.memory()?;
    let mut followers = Vec::new();
    while followers.len() < FOLLOWERS {
        match follow(&serving.address) {
            Ok(stream) => followers.push(stream),
            Err(error) => {
                eprintln!("after {} followers: {error}", followers.len());
                break;
            }
        }
    }
    let (count, after) = (followers.len(), serving.memory()?);
    let beside = wrk(dir.path(), &serving.address)?.0;
    drop((followers, serving));
    let killed = kill_under_load(&dir.path().join("killed"))?;
    Ok(Found {
        events: Spread::of(events),
        p50: Spread::of(p50),
        p99: Spread::of(p99),
        sync,
        followers: count,
        memory: (before, after),
        beside,
        killed,
    })
}
