//! Sends dead letters through their pipelines again, each on a thread of its own beside the lanes.
//!
//! **A letter's outputs and its mark are one commit**, so that whatever happens it goes through once; what is left to do is what is
//! asked for and has no mark.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_engine::{RedriveConfig, Redriver, Sent};
use sluice_env::Clock;
use sluice_event::Event;
use sluice_log::{Commit, Desired, Error, Log};

use crate::dead::{Graveyard, LetterId, Mark};

/// Commits that are not answered, at most.
const MAX_IN_FLIGHT: usize = 256;
/// How long to wait before it is tried again when the log refuses, no instance can be made, or the pipeline stands still.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    /// Pipelines whose letters are being sent.
    active: BTreeMap<String, Active>,
    threads: Vec<JoinHandle<()>>,
    ended: bool,
}

/// How the redrive of a pipeline stands.
#[derive(Default)]
struct Active {
    /// More letters were asked for meanwhile.
    more: bool,
    /// It cannot go on for the moment: the pipeline stands still, or something is in the way.
    waits: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more letters of a pipeline were asked for while some were sent; if not, it is not active any more.
    fn wants_more(&self, pipeline: &str) -> bool {
        let mut state = self.state();
        let more = state.active.get_mut(pipeline).is_some_and(|active| std::mem::take(&mut active.more));
        if !more {
            state.active.remove(pipeline);
        }
        more
    }

    fn note_waiting(&self, pipeline: &str, waits: bool) {
        if let Some(active) = self.state().active.get_mut(pipeline) {
            active.waits = waits;
        }
    }

    /// Waits so long, unless it is to end. Whether it is to end.
    fn wait(&self, time: Duration) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), time, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        state.ended
    }
}

/// The redrives of a node.
#[derive(Default)]
pub(crate) struct Redrives {
    shared: Arc<Shared>,
}

/// Why a round ended before all letters were sent.
enum Stop {
    /// It is to end.
    Ended,
    /// There is no such pipeline any more, or it writes no dead letters.
    Gone,
    /// This was in the way; it is tried again after a while.
    Trouble(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownPipeline(_) => Self::Gone,
            Error::Closed => Self::Ended,
            error => Self::Trouble(error.to_string()),
        }
    }
}

impl Redrives {
    /// Sends what is asked for, unless that is under way.
    pub(crate) fn start(&self, log: &Arc<Log>, clock: &Arc<dyn Clock>, config: RedriveConfig) -> std::io::Result<()> {
        let mut state = self.shared.state();
        if state.ended {
            return Ok(());
        }
        if let Some(active) = state.active.get_mut(&config.pipeline_name) {
            active.more = true;
            return Ok(());
        }
        let name = config.pipeline_name.clone();
        state.threads.retain(|thread| !thread.is_finished());
        let (shared, log, clock) = (self.shared.clone(), log.clone(), clock.clone());
        let thread = sluice_env::spawn("sluice-redrive", move || {
            let name = config.pipeline_name.clone();
            loop {
                match round(&shared, &log, &clock, &config) {
                    Ok(()) if shared.wants_more(&name) => {}
                    // Not active any more: another thread may be by now.
                    Ok(()) => return,
                    Err(Stop::Trouble(reason)) => {
                        tracing::warn!(pipeline = name, reason, "dead letters wait to be sent through again");
                        shared.note_waiting(&name, true);
                        if shared.wait(PAUSE) {
                            break;
                        }
                        shared.note_waiting(&name, false);
                    }
                    Err(Stop::Ended | Stop::Gone) => break,
                }
            }
            shared.state().active.remove(&name);
        })?;
        state.active.insert(name, Active::default());
        state.threads.push(thread);
        Ok(())
    }

    /// Whether letters of this pipeline are being sent, or wait to be.
    pub(crate) fn is_sending(&self, pipeline: &str) -> bool {
        self.shared.state().active.contains_key(pipeline)
    }

    /// Whether any letters are being sent, but for those that wait until their pipeline runs or something is mended.
    pub(crate) fn is_active(&self) -> bool {
        self.shared.state().active.values().any(|active| !active.waits)
    }

    /// Ends what is under way; it goes on when its pipeline starts again.
    pub(crate) fn end(&self) {
        let threads = {
            let mut state = self.shared.state();
            state.ended = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.changed.notify_all();
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Sends every letter that is asked for and has no mark.
fn round(shared: &Shared, log: &Arc<Log>, clock: &Arc<dyn Clock>, config: &RedriveConfig) -> Result<(), Stop> {
    let graveyard = Graveyard::of(log, &config.pipeline_name).map_err(|error| match error {
        Error::Invalid(_) | Error::UnknownTopic(_) => Stop::Gone,
        error => error.into(),
    })?;
    let (answer, answers) = channel();
    let mut sender = Sending {
        shared,
        log,
        graveyard: &graveyard,
        redriver: Redriver::new(config.clone(), clock.clone()),
        answer,
        answers,
        in_flight: 0,
        through: 0,
        dead: 0,
    };
    let mut stopped = None;
    let sent = graveyard.requested(log, &mut |id, event| {
        sender.send(config, id, event).map_err(|stop| {
            stopped = Some(stop);
            Error::Closed
        })
    });
    let settled = sender.settle(0);
    let Sending { through, dead, .. } = sender;
    if through + dead > 0 {
        tracing::info!(
            pipeline = config.pipeline_name,
            through,
            dead_again = dead,
            "dead letters were sent through again"
        );
    }
    match (stopped, sent) {
        (Some(stop), _) => Err(stop),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(())) => settled,
    }
}

struct Sending<'a> {
    shared: &'a Shared,
    log: &'a Arc<Log>,
    graveyard: &'a Graveyard,
    redriver: Redriver,
    answer: Sender<Result<(), Error>>,
    answers: Receiver<Result<(), Error>>,
    in_flight: usize,
    through: u64,
    dead: u64,
}

impl Sending<'_> {
    /// Sends one letter through, trying it again where that may help, and commits what comes of it.
    fn send(&mut self, config: &RedriveConfig, id: LetterId, event: &Event<'_>) -> Result<(), Stop> {
        let mut tried = 0;
        let (mut appends, mark) = loop {
            self.wait_until_it_runs(&config.pipeline_name)?;
            match self.redriver.send(&id.to_string(), event, tried).map_err(Stop::Trouble)? {
                Sent::Through(appends) => break (appends, Mark::Redriven),
                Sent::Dead(appends) => break (appends, Mark::DeadAgain),
                Sent::Impossible(reason) => {
                    tracing::warn!(pipeline = config.pipeline_name, %id, reason, "this dead letter cannot be sent");
                    return Ok(());
                }
                Sent::Later { attempts, reason } => {
                    tracing::info!(pipeline = config.pipeline_name, %id, attempts, reason, "will be tried again");
                    tried = attempts;
                    if self.shared.wait(config.errors.retry.backoff(attempts, id.offset)) {
                        return Err(Stop::Ended);
                    }
                }
            }
        };
        (self.through, self.dead) = match mark {
            Mark::Redriven => (self.through + 1, self.dead),
            _ => (self.through, self.dead + 1),
        };
        appends.push(self.graveyard.marked(self.log, id, mark)?);
        let answer = self.answer.clone();
        self.log.submit(
            Commit { appends, ..Commit::default() },
            Box::new(move |result| drop(answer.send(result.map(drop)))),
        );
        self.in_flight += 1;
        self.settle(MAX_IN_FLIGHT)
    }

    /// A pipeline that is paused, held or deleted sends nothing.
    fn wait_until_it_runs(&self, pipeline: &str) -> Result<(), Stop> {
        loop {
            let info = self.log.pipeline(pipeline).ok_or(Stop::Gone)?;
            let runs = info.desired == Desired::Run && info.held.is_empty();
            self.shared.note_waiting(pipeline, !runs);
            if self.shared.wait(if runs { Duration::ZERO } else { PAUSE }) {
                return Err(Stop::Ended);
            }
            if runs {
                return Ok(());
            }
        }
    }

    /// Waits until at most so many commits are not answered.
    fn settle(&mut self, at_most: usize) -> Result<(), Stop> {
        // All of them, also after one was refused: what is not answered has no mark yet, and would be sent again.
        let mut result = Ok(());
        while self.in_flight > at_most {
            let answer = self.answers.recv().unwrap_or(Err(Error::Closed));
            self.in_flight -= 1;
            result = result.and(answer.map_err(Stop::from));
        }
        result
    }
}
