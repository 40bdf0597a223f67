//! `sluice doctor`

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde::Serialize;
use sluice_env::{Clock, SystemClock};
use sluice_node::PipelineState;

use crate::access::Access;
use crate::args::Global;
use crate::exit::Failure;
use crate::show;

/// Below this much free space, writing will soon stop.
const LITTLE_SPACE: u64 = 1 << 30;
/// A sync that takes longer makes every commit slow.
const SLOW_SYNC: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Warning,
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it.
    help: Option<String>,
}

impl Check {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, found: found.into(), help: None }
    }

    fn warning(what: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Warning, found: found.into(), help: Some(help.into()) }
    }

    fn bad(what: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::warning(what, found, help) }
    }
}

pub(crate) fn doctor(global: &Global) -> Result<ExitCode, Failure> {
    let mut checks = Vec::new();
    let existing = global.data.exists();
    // The nearest folder that is there says what the directory would be made on.
    let data = std::path::absolute(&global.data).unwrap_or_else(|_| global.data.clone());
    let place = data.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    checks.extend(disk(place));
    checks.push(sync_time(place));
    checks.push(open_files());
    checks.push(clock());
    checks.push(plugin_target());
    if existing {
        match Access::open_existing(global) {
            Ok(access) => checks.extend(directory(access)),
            Err(failure) => {
                let help = failure.help_text().unwrap_or("`sluice fsck` may say more").to_owned();
                checks.push(Check::bad("data directory", failure.message().to_owned(), help));
            }
        }
    } else {
        checks.push(Check::good("data directory", format!("{} is not there yet", global.data.display())));
    }
    show::answer(global, &checks, || checks.iter().map(describe).collect())?;
    let bad = checks.iter().any(|check| check.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn describe(check: &Check) -> String {
    let mark = match check.verdict {
        Verdict::Good => "ok  ",
        Verdict::Warning => "warn",
        Verdict::Bad => "BAD ",
    };
    let mut out = format!("{mark}  {}: {}\n", check.what, check.found);
    out.extend(check.help.iter().map(|help| format!("      help: {help}\n")));
    out
}

fn disk(place: &Path) -> Vec<Check> {
    let (Ok(space), Ok(kind)) = (rustix::fs::statvfs(place), rustix::fs::statfs(place)) else {
        return vec![Check::bad("disk", format!("{} cannot be looked at", place.display()), "name another --data")];
    };
    let free = space.f_bavail * space.f_frsize;
    let found = format!("{} free on {}", show::size(free), place.display());
    let room = match free {
        0..LITTLE_SPACE => {
            Check::warning("disk", found, "make room, or let topics keep less: retention in a [[topic]]")
        }
        _ => Check::good("disk", found),
    };
    // From linux/magic.h.
    let name = match kind.f_type.cast_unsigned() & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x6969 => "nfs",
        0x794c_7630 => "overlayfs",
        _ => "a file system that was not tried",
    };
    let kind = match name {
        "tmpfs" => Check::warning("file system", name, "it is memory: nothing on it survives a restart of the machine"),
        "nfs" => Check::warning(
            "file system",
            name,
            "locks and syncs over a network are not to be trusted: use a local disk",
        ),
        _ => Check::good("file system", name),
    };
    vec![room, kind]
}

/// How long it takes until a small write is durable.
fn sync_time(place: &Path) -> Check {
    const WHAT: &str = "sync";
    let path = place.join(format!(".sluice-doctor-{}", std::process::id()));
    let measure = || -> std::io::Result<Duration> {
        let mut file = fs::File::options().write(true).create_new(true).open(&path)?;
        let mut times = Vec::new();
        for _ in 0..15 {
            let start = Instant::now();
            file.write_all(&[0; 512])?;
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    };
    let measured = measure();
    let _ = fs::remove_file(&path);
    match measured {
        Ok(time) => {
            let found = format!("{:.2} ms until a small write is durable (median of 15)", time.as_secs_f64() * 1000.0);
            if time > SLOW_SYNC {
                Check::warning(WHAT, found, "every commit waits for it; --durability interval:100ms does not")
            } else {
                Check::good(WHAT, found)
            }
        }
        Err(error) => Check::bad(WHAT, format!("cannot write to {}: {error}", place.display()), "check who owns it"),
    }
}

fn open_files() -> Check {
    const ENOUGH: u64 = 4096;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < ENOUGH => Check::warning(
            "open files",
            format!("at most {limit}"),
            "each partition has some files open: raise the hard limit (ulimit -Hn), 65536 say",
        ),
        limit => Check::good("open files", limit.map_or("no limit".to_owned(), |limit| format!("up to {limit}"))),
    }
}

fn clock() -> Check {
    // When this was written; a clock before that is certainly wrong.
    const THEN: i64 = 1_763_856_000_000;
    let now = SystemClock.now();
    let found = jiff::Timestamp::from_millisecond(now).map(|time| format!("{time:.0}")).unwrap_or_default();
    match now < THEN {
        true => Check::warning("clock", found, "set it: retention and reading by time go by it"),
        false => Check::good("clock", found),
    }
}

fn plugin_target() -> Check {
    let printed =
        Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"]).output();
    let dir = printed.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match dir {
        Some(dir) if Path::new(&dir).is_dir() => Check::good("plugins in Rust", "can be built"),
        Some(_) => Check::warning(
            "plugins in Rust",
            "cannot be built: the standard library for wasm32-unknown-unknown is not installed",
            "`rustup target add wasm32-unknown-unknown`; only for `sluice plugin build`",
        ),
        None => Check::good("plugins in Rust", "no compiler here; none is needed to run plugins"),
    }
}

fn directory(mut access: Access) -> Vec<Check> {
    let mut checks = Vec::new();
    let (status, topics) = match (access.status(), access.topics()) {
        (Ok(status), Ok(topics)) => (status, topics),
        (Err(failure), _) | (_, Err(failure)) => {
            return vec![Check::bad("data directory", failure.message().to_owned(), "`sluice fsck` says more")];
        }
    };
    let partitions: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    let runs = status.pid.map_or("no node runs".to_owned(), |pid| format!("node {pid} runs"));
    let found = format!("{} topics, {partitions} partitions; {runs}", topics.len());
    checks.push(Check::good("data directory", found));
    for topic in &topics {
        for damage in topic.partitions.iter().filter_map(|partition| partition.damage.as_ref()) {
            checks.push(Check::bad(
                "damage",
                format!("{}: {damage}", topic.name),
                "stop the node, and run `sluice fsck`",
            ));
        }
    }
    let damaged = status.damaged.iter();
    checks.extend(damaged.map(|file| Check::bad("damage", file.clone(), "stop the node, and run `sluice fsck`")));
    for pipeline in &status.pipelines {
        let name = &pipeline.name;
        match pipeline.state {
            _ if pipeline.held.is_some() => {
                let help = format!("`sluice status` says why; `sluice pipeline resume {name}` lets it go on");
                checks.push(Check::bad("pipeline", format!("{name} is held"), help));
            }
            PipelineState::Halted => {
                checks.push(Check::bad("pipeline", format!("{name} is halted"), "`sluice status` says where and why"));
            }
            PipelineState::Waiting => {
                let reason = pipeline.partitions.iter().find_map(|partition| partition.waits_for.clone());
                let found = format!("{name} waits: {}", reason.unwrap_or_default());
                checks.push(Check::warning("pipeline", found, "it goes on by itself once that is mended"));
            }
            PipelineState::Paused => {
                let help = format!("`sluice pipeline resume {name}` lets it run");
                checks.push(Check::warning("pipeline", format!("{name} is paused"), help));
            }
            _ => {}
        }
    }
    for hold in &status.holds {
        let found = format!(
            "{}/{} keeps {} for pipeline {}, which has not read it",
            hold.topic,
            hold.partition,
            show::size(hold.bytes),
            hold.pipeline
        );
        checks.push(Check::warning("retention", found, "`sluice status` says what helps"));
    }
    checks
}
