//! CPU time, time by the clock, memory.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What something cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    cpu: Duration,
    clock: Duration,
}

/// CPU time of all threads of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Cost {
    pub(crate) fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (cpu_before, clock_before) = (cpu(), Instant::now());
        work()?;
        Ok(Self { cpu: cpu().saturating_sub(cpu_before), clock: clock_before.elapsed() })
    }

    /// Million events per second of CPU time.
    pub(crate) fn per_core(self, events: u64) -> f64 {
        events as f64 / self.cpu.as_secs_f64() / 1e6
    }

    /// CPU time as a share of the clock's.
    pub(crate) fn cpu_share(self) -> f64 {
        self.cpu.as_secs_f64() / self.clock.as_secs_f64()
    }

    /// Million events per second of the clock.
    pub(crate) fn by_clock(self, events: u64) -> f64 {
        events as f64 / self.clock.as_secs_f64() / 1e6
    }
}

/// Several runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }
}

impl Spread {
    /// What one side makes of another, round by round.
    pub(crate) fn of_ratios(one: &[f64], other: &[f64]) -> Self {
        Self::of(one.iter().zip(other).map(|(one, other)| one / other).collect())
    }

    /// Whether none of these lies among those, nor the other way round.
    pub(crate) fn is_apart(&self, other: &Self) -> bool {
        self.min > other.max || self.max < other.min
    }

    /// The same in other units.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { min: self.min * factor, median: self.median * factor, max: self.max * factor }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / **{:.2}** / {:.2}", self.min, self.median, self.max)
    }
}

/// Times, sorted.
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The time that so many percent of them do not exceed.
    pub(crate) fn at(&self, percent: f64) -> f64 {
        #[expect(clippy::cast_sign_loss, reason = "percent are not negative")]
        let place = (self.0.len() as f64 * percent / 100.0) as usize;
        self.0[place.min(self.0.len() - 1)]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / **{:.2}** / {:.2}", self.at(50.0), self.at(99.0), self.at(100.0))
    }
}

/// Memory of this process that is resident, in MiB.
pub(crate) fn resident_mib() -> Result<u64> {
    resident_mib_of(std::process::id())
}

/// The same of another process.
pub(crate) fn resident_mib_of(process: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("no resident pages in statm")?.parse()?;
    Ok((pages * rustix::param::page_size() as u64) >> 20)
}

/// Memory that stays quick to come by as long as this is held.
///
/// A virtual machine gives memory that is free back to its host, and then a page takes ten times as long, so whoever writes most pays most, and whoever runs behind
/// somebody who takes long. What goes back are free blocks of 2 MiB (Linux's free page reporting). So some memory is touched, and freed but for a page of each such
/// block: that stays, and is taken first when something is needed.
pub(crate) struct WarmMemory {
    _kept: Vec<u8>,
}

impl WarmMemory {
    /// Most of what is free, but no more than this many bytes: whatever a run needs is to be found in it.
    pub(crate) fn new(most: usize) -> Self {
        const BLOCK: usize = 2 << 20;
        /// For this process and the others while it is touched.
        const LEFT: usize = 1 << 30;
        let page_size = rustix::param::page_size();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let free =
            meminfo.lines().find_map(|line| line.strip_prefix("MemFree:")?.strip_suffix("kB")?.trim().parse().ok());
        let bytes = free.map_or(0, |kib: usize| kib << 10).saturating_sub(LEFT).min(most);
        let (mut all, mut kept) = (vec![0_u8; bytes], vec![0_u8; bytes / BLOCK * page_size]);
        // The kernel hands out page behind page in the order in which they are touched.
        for (block, page) in all.chunks_mut(BLOCK).zip(kept.chunks_mut(page_size)) {
            block.iter_mut().step_by(page_size).chain(page.first_mut()).for_each(|byte| *byte = 1);
        }
        std::hint::black_box(&all);
        Self { _kept: kept }
    }
}
