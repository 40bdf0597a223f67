//! `sluice status --watch`: the same picture, again and again.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sluice_node::{Rates, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::render;
use crate::access::Access;
use crate::args::Global;
use crate::exit::Failure;
use crate::show;

/// The terminal's other screen, so that what was there is there again afterwards.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left corner; what stands there is written over, which flickers less than an empty screen between.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K\n";
const REST_OF_SCREEN: &str = "\x1b[J";

/// The terminal as it is to be left.
struct Screen;

impl Screen {
    fn enter() -> Self {
        write(ENTER);
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(LEAVE);
    }
}

fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Shows how pipelines stand every so often, until Ctrl-C; elsewhere than in a terminal, one after the other.
pub(crate) fn watch(global: &Global, every: Duration) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ticks = runtime.block_on(async { interval(every) });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = runtime.block_on(async { signal(SignalKind::terminate()) })?;
    let screen = (!global.json && std::io::stdout().is_terminal()).then(Screen::enter);
    let mut before = Before::default();
    loop {
        let goes_on = runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => false,
                _ = stop.recv() => false,
                _ = ticks.tick() => true,
            }
        });
        if !goes_on {
            drop(screen);
            return Ok(ExitCode::SUCCESS);
        }
        // A node that is away may come back; a directory without one is not opened, for that would keep it away.
        let answers = global.node.is_some() || sluice_api::is_answering(&global.data);
        let told = if answers { Access::open(global).and_then(|mut access| access.status()) } else { Err(away()) };
        match told {
            Ok(status) => {
                let status = before.measure(status);
                if global.json {
                    show::answer(global, &status, String::new)?;
                } else {
                    picture(&render(&status), screen.is_some())?;
                }
            }
            Err(failure) if screen.is_some() => {
                let help = failure.help_text().map(|help| format!("\n{help}")).unwrap_or_default();
                picture(&format!("{}{help}", failure.message()), true)?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn away() -> Failure {
    Failure::failed("no node answers").help("start one with `sluice run`")
}

fn picture(text: &str, on_screen: bool) -> Result<(), Failure> {
    if !on_screen {
        return show::print(&format!("{text}\n"));
    }
    let lines: String = text.lines().map(|line| format!("{line}{REST_OF_LINE}")).collect();
    show::print(&format!("{HOME}{lines}{REST_OF_SCREEN}"))
}

/// How many events pipelines had read and written when somebody looked, by name.
#[derive(Default)]
struct Before {
    at: Option<Instant>,
    counts: HashMap<String, (u64, u64)>,
}

impl Before {
    /// Tells how fast pipelines were since the last look.
    fn measure(&mut self, mut status: Status) -> Status {
        let now = Instant::now();
        let counts = status.pipelines.iter().map(|p| (p.name.clone(), (p.read, p.written))).collect();
        let before = std::mem::replace(&mut self.counts, counts);
        if let Some(at) = self.at.replace(now) {
            let seconds = now.duration_since(at).as_secs_f64();
            for pipeline in &mut status.pipelines {
                let Some((read, written)) = before.get(&pipeline.name) else { continue };
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                let (read, written) = (rate(pipeline.read, *read), rate(pipeline.written, *written));
                pipeline.rates = Some(Rates { read, written });
            }
        }
        status
    }
}
