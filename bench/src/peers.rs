//! Neighbours that do J1 to J3 in the same run, in turn with this project. Their jobs are in `bench/peers`; what they need is installed into `target/peers`. One
//! that cannot be installed is told of as such.
//!
//! A peer is a process that answers `ready` when it has started; then each line it reads names a job, which it runs over the same input from beginning to end, and
//! answers with the number of outputs. Processor time is that of the process and of its server, if it has one.

mod install;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Settings;
use crate::events::Job;
use crate::measure::{Cost, Spread, resident_mib_of};
use crate::report::{Cell, Table};
use crate::through::Through;

const JOBS: [Job; 3] = [Job::J1, Job::J2 { evenly: true }, Job::J3];

/// How one of them is installed and started.
struct Peer {
    name: &'static str,
    /// What it promises, and the settings it runs with.
    settings: &'static str,
    /// It gets one of so many of the events: what it costs for each does not depend on how many there are.
    part: u64,
    start: fn(&Folders) -> Result<Started>,
}

/// Where its files are.
struct Folders {
    /// Installed, and built.
    tools: PathBuf,
    /// A folder for each job, with two files.
    inputs: PathBuf,
    /// Empty, for this run of the bench.
    data: PathBuf,
}

/// What to run; the server first.
struct Started {
    server: Option<Server>,
    command: Command,
}

const PEERS: [Peer; 5] = [
    Peer {
        name: "Apache Flink 2.3.0",
        settings: "DataStream job in Java, two threads, exactly-once with a checkpoint each second, objects reused, heap of 4 GB; files to files",
        part: 1,
        start: install::flink,
    },
    Peer {
        name: "fluvio-smartengine 0.50.1",
        settings: "the engine alone, one thread, batches of 1,000; files to files, no log, no guarantee",
        part: 4,
        start: install::fluvio,
    },
    Peer {
        name: "Bytewax 0.21.1",
        settings: "one worker, orjson, batches of 4,096; files to files, no recovery store",
        part: 4,
        start: install::bytewax,
    },
    Peer {
        name: "Redis Streams",
        settings: "a client in Rust, batches of 1,000 in one MULTI with the position; append-only file synced each second; stream to stream",
        part: 20,
        start: install::redis,
    },
    Peer {
        name: "NATS JetStream 2.15.1",
        settings: "a client in Rust, batches of 1,000, publishing before acknowledging; file storage; stream to stream",
        part: 20,
        start: install::nats,
    },
];

/// A peer under way.
struct Running {
    peer: &'static Peer,
    events: u64,
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
    server: Option<Server>,
    folder: tempfile::TempDir,
}

/// A server of a peer, stopped when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(peer: &'static Peer, tools: &Path, inputs: &Path, events: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let folders = Folders { tools: tools.to_owned(), inputs: inputs.to_owned(), data };
        let Started { server, mut command } = (peer.start)(&folders)?;
        let errors = std::fs::File::create(folder.path().join("stderr"))?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn()?;
        let (say, hear) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
        let hear = BufReader::new(hear);
        let mut running = Self { peer, events, child, say, hear, server, folder };
        let rest = running.answer("ready")?;
        ensure!(rest.is_empty(), "it is ready and says {rest:?}");
        Ok(running)
    }

    /// What the peer says after `word`, in a line of its own. Other lines are passed over and shown: a library may log to where the
    /// peer speaks, as Flink's does.
    fn answer(&mut self, word: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.hear.read_line(&mut line)? == 0 {
                let told = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
                let lines: Vec<&str> = told.lines().rev().take(10).collect();
                bail!("it ended: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" / "));
            }
            let line = line.trim();
            match line.split_once(' ').unwrap_or((line, "")) {
                (first, rest) if first == word => return Ok(rest.to_owned()),
                _ => eprintln!("peers: {} says {line:?}", self.peer.name),
            }
        }
    }

    /// Runs a job: processor seconds and seconds by the clock, of a million events; and outputs, of the same number as there were inputs.
    fn run(&mut self, job: Job) -> Result<(f64, f64, u64)> {
        let (before, begin) = (self.cpu()?, Instant::now());
        writeln!(self.say, "{}", job.name())?;
        let outputs = self.answer("outputs")?.parse()?;
        let millions = self.events as f64 / 1e6;
        Ok(((self.cpu()? - before) / millions, begin.elapsed().as_secs_f64() / millions, outputs))
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.child.id()).chain(self.server.as_ref().map(|server| server.0.id()))
    }

    /// Seconds of processor time so far.
    fn cpu(&self) -> Result<f64> {
        let of = |process: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
            let fields = stat.rsplit_once(')').context("no name in stat")?.1;
            // From the 14th: in user mode and in the kernel, its own and of children that have ended; in hundredths of a second, on all Linux.
            let ticks: u64 =
                fields.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
            anyhow::Ok(ticks as f64 / 100.0)
        };
        self.processes().map(of).sum()
    }

    fn mib(&self) -> Result<u64> {
        self.processes().map(resident_mib_of).sum()
    }
}

/// Writes the input of all jobs: a folder for each, with a file for each thread; a line is a value, or a key, a tab and a value.
fn write_inputs(folder: &Path, events: u64) -> Result<()> {
    for job in JOBS {
        let own = folder.join(job.name());
        std::fs::create_dir_all(&own)?;
        for half in 0..2 {
            let mut file = std::io::BufWriter::new(std::fs::File::create(own.join(format!("{half}.txt")))?);
            for event in job
                .events_from(half * events / 2, events / 2, 4096)
                .iter()
                .flat_map(|batch| batch.region().events().flatten())
            {
                if let Some(key) = event.key() {
                    file.write_all(key)?;
                    file.write_all(b"\t")?;
                }
                file.write_all(event.value())?;
                file.write_all(b"\n")?;
            }
            file.flush()?;
        }
    }
    Ok(())
}

/// How many outputs a job has of so many events.
fn outputs(job: Job, events: u64) -> u64 {
    match job {
        Job::J1 => (0..events).filter(|number| crate::events::mixed(*number) % 5 == 2).count() as u64,
        _ => events,
    }
}

pub(crate) fn run(&Settings { quick, events, runs }: &Settings) -> Result<Vec<Table>> {
    let tools = std::path::absolute("target/peers")?;
    std::fs::create_dir_all(&tools)?;
    let folder = tempfile::tempdir()?;
    let (mut running, mut missing) = (Vec::new(), Vec::new());
    for peer in &PEERS {
        let own = events / peer.part;
        let inputs = folder.path().join(own.to_string());
        if !inputs.exists() {
            write_inputs(&inputs, own)?;
        }
        match Running::start(peer, &tools, &inputs, own) {
            Ok(started) => running.push(started),
            Err(error) => missing.push((peer, error)),
        }
    }
    let columns = [
        "processor s for a million events",
        "of this project's",
        "M/s by the clock",
        "M/s per core",
        "MiB resident in the end",
    ];
    let title = format!("exactly-once, os; {events} events, {runs} runs in turn after one to warm up");
    let mut table = Table::new("peers", &title, &columns);
    for job in JOBS {
        let mut own = (Vec::new(), Vec::new());
        let mut theirs: Vec<_> = running.iter().map(|_| (Vec::new(), Vec::new(), None)).collect();
        for run in 0..=runs {
            // A directory of its own for each round, as for jobs; before it there is memory for what it writes.
            let through = Through::new(job, 1, &job.events(events))?;
            let cost = Cost::of(|| through.run(0))?;
            drop(through);
            if run > 0 {
                own.0.push(1.0 / cost.per_core(events));
                own.1.push(cost.by_clock(events));
            }
            for (peer, (cpu, clock, failed)) in running.iter_mut().zip(&mut theirs) {
                if failed.is_some() {
                    continue;
                }
                match peer.run(job) {
                    Ok((_, _, found)) if found != outputs(job, peer.events) => {
                        *failed = Some(format!("{found} outputs"));
                    }
                    Ok((seconds, time, _)) if run > 0 => {
                        cpu.push(seconds);
                        clock.push(1.0 / time);
                    }
                    Ok(_) => {}
                    Err(error) => *failed = Some(format!("{error:#}")),
                }
            }
        }
        let (mine, clock) = (Spread::of(own.0.clone()), Spread::of(own.1));
        let per_core = |seconds: &[f64]| Spread::of(seconds.iter().map(|seconds| 1.0 / seconds).collect());
        let memory = Cell::from("–");
        table.row(
            format!("{}: Sluicegate", job.name()),
            [mine.into(), 1.0.into(), clock.into(), per_core(&own.0).into(), memory],
        );
        for (peer, (cpu, clock, failed)) in running.iter().zip(theirs) {
            let name = format!("{}: {}", job.name(), peer.peer.name);
            match failed {
                Some(why) => table.row(name, [Cell::from(format!("failed: {why}"))]),
                None => {
                    let ratio = Spread::of_ratios(&cpu, &own.0);
                    let rates = per_core(&cpu);
                    let memory = peer.mib()? as f64;
                    table.row(
                        name,
                        [Spread::of(cpu).into(), ratio.into(), Spread::of(clock).into(), rates.into(), memory.into()],
                    );
                }
            }
        }
    }
    for peer in running {
        table.note(format!("{}: {}; {} events.", peer.peer.name, peer.peer.settings, peer.events));
    }
    for (peer, error) in missing {
        table.note(format!("{} could not be installed or started here: {error:#}", peer.name));
    }
    table.note(install::kafka_streams());
    if quick {
        table.note("Quick: nobody is warm.");
    }
    Ok(vec![table])
}

/// A port that nobody uses now.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Server {
    /// Starts a server, and waits until it listens.
    fn start(mut command: Command, port: u16) -> Result<Self> {
        let server = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let give_up = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < give_up, "its server does not listen");
            #[expect(clippy::disallowed_methods, reason = "looks again after a while")]
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}
