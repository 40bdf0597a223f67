//! The same verbs beside a running node and without one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_api::{Client, Credentials, MadeToken, NewToken, NewTopic, Problem, Produced, TokenInfo, Tokens, Want};
use sluice_env::SystemClock;
use sluice_event::Batch;
use sluice_log::{Audit, Commit, Durability, Error, Log, Order, ReadBatch};
use sluice_node::checkpoint::{self, Checkpoint};
use sluice_node::dead::{self, DeadLetters, Found, LetterId, Selection, Treated, Treatment};
use sluice_node::generations::{self, GenerationInfo};
use sluice_node::operate::{self, Rewind};
use sluice_node::replay::{self, Replay};
use sluice_node::state;
use sluice_node::topics::{self, Place, Production, TopicDescription};
use sluice_node::{Backup, Compiler, NodeError, NodeOptions, Status, open_log, status_of};

use crate::args::Global;
use crate::exit::Failure;

/// How long to wait for a directory that another process has: a verb has it for a moment, a node says so on its socket.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tries again for a while when the directory is in use.
pub(crate) fn patiently<T>(mut open: impl FnMut() -> Result<T, Opening>) -> Result<T, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match open() {
            Err(Opening::Node(NodeError::Log(Error::InUse(_)))) if Instant::now() < until => {
                #[expect(clippy::disallowed_methods, reason = "a lock between processes tells nobody when it is free")]
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Opening::Node(error)) => return Err(error.into()),
            Err(Opening::Problem(problem)) => return Err(problem.into()),
            Ok(opened) => return Ok(opened),
        }
    }
}

/// Why a directory was not opened.
pub(crate) enum Opening {
    Node(NodeError),
    Problem(Problem),
}

impl From<NodeError> for Opening {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl From<Problem> for Opening {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// A data directory, through the node that runs on it or, when there is none, opened by this process.
pub(crate) enum Access {
    Node(Client),
    Directory(Arc<Log>),
}

impl Access {
    /// Finds the node, or opens the directory, which may be made.
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        if let Some(url) = &global.node {
            return Ok(Self::Node(Client::connect_to(url, &credentials(global)?)?));
        }
        let options =
            NodeOptions { data: global.data.clone(), durability: Durability::Fsync, compiler: Compiler::Apart };
        patiently(|| match Client::connect(&global.data)? {
            Some(client) => Ok(Self::Node(client)),
            None => Ok(Self::Directory(Arc::new(open_log(&options).map_err(NodeError::Log)?))),
        })
    }

    /// The same for reading only: a directory that isn't there is not made.
    pub(crate) fn open_existing(global: &Global) -> Result<Self, Failure> {
        if global.node.is_none() && !global.data.join("FORMAT").exists() {
            let message = format!("no data directory: {}", global.data.display());
            return Err(
                Failure::usage(message).help("`sluice topic create NAME` makes it; or name another with --data")
            );
        }
        Self::open(global)
    }

    pub(crate) fn topics(&mut self) -> Result<Vec<TopicDescription>, Failure> {
        match self {
            Self::Node(client) => Ok(client.topics()?),
            Self::Directory(log) => Ok(topics::list(log)?),
        }
    }

    pub(crate) fn describe(&mut self, topic: &str) -> Result<TopicDescription, Failure> {
        match self {
            Self::Node(client) => Ok(client.describe(topic)?),
            Self::Directory(log) => Ok(topics::describe(log, topic)?),
        }
    }

    pub(crate) fn create(&mut self, topic: &NewTopic) -> Result<TopicDescription, Failure> {
        match self {
            Self::Node(client) => Ok(client.create(topic)?),
            Self::Directory(log) => {
                topics::create(log, topic.to_log()?)?;
                Ok(topics::describe(log, &topic.name)?)
            }
        }
    }

    pub(crate) fn delete_topic(&mut self, topic: &str) -> Result<(), Failure> {
        match self {
            Self::Node(client) => Ok(client.delete_topic(topic)?),
            Self::Directory(log) => Ok(topics::delete(log, topic)?),
        }
    }

    /// The offset that a place means in a partition.
    pub(crate) fn locate(&mut self, topic: &str, partition: u32, place: Place) -> Result<u64, Failure> {
        match self {
            Self::Node(client) => Ok(client.locate(topic, partition, place)?),
            Self::Directory(log) => Ok(topics::locate(log, topic, partition, place)?),
        }
    }

    pub(crate) fn want(&mut self, pipeline: &str, want: Want) -> Result<(), Failure> {
        match self {
            Self::Node(client) => Ok(client.want(pipeline, want)?),
            Self::Directory(_) if want == Want::ResumePast => {
                let failure = Failure::failed("no node runs: only a running pipeline knows which events block it");
                Err(failure.help("start it with `sluice run`; or set its cursor behind the event with `sluice rewind`"))
            }
            Self::Directory(log) => order(log, Order::Want(pipeline.to_owned(), want.into())),
        }
    }

    pub(crate) fn delete_pipeline(&mut self, pipeline: &str) -> Result<(), Failure> {
        match self {
            Self::Node(client) => Ok(client.delete_pipeline(pipeline)?),
            Self::Directory(log) => {
                let id = log.pipeline(pipeline).map(|pipeline| pipeline.id);
                operate::delete_pipeline(log, pipeline)?;
                id.into_iter().for_each(|id| state::forget_in(log.root(), id));
                Ok(())
            }
        }
    }

    pub(crate) fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Failure> {
        match self {
            Self::Node(client) => Ok(client.checkpoints()?),
            Self::Directory(log) => Ok(checkpoint::list(log.root())?),
        }
    }

    pub(crate) fn make_checkpoint(&mut self, name: &str, pipeline: Option<&str>) -> Result<Checkpoint, Failure> {
        match self {
            Self::Node(client) => Ok(client.make_checkpoint(name, pipeline)?),
            Self::Directory(log) => Ok(checkpoint::create_in(log, name, pipeline)?),
        }
    }

    /// Writes a checkpoint to a file, whose path is absolute.
    pub(crate) fn export_checkpoint(&mut self, name: &str, to: &Path) -> Result<Checkpoint, Failure> {
        match self {
            Self::Node(client) => Ok(client.export_checkpoint(name, to)?),
            Self::Directory(log) => Ok(checkpoint::export_in(log, name, to)?),
        }
    }

    /// Takes a checkpoint in from a file, whose path is absolute.
    pub(crate) fn import_checkpoint(&mut self, from: &Path, name: Option<&str>) -> Result<Checkpoint, Failure> {
        match self {
            Self::Node(client) => Ok(client.import_checkpoint(from, name)?),
            Self::Directory(log) => Ok(checkpoint::import_in(log, from, name)?),
        }
    }

    /// Copies the data directory into a folder, whose path is absolute.
    pub(crate) fn backup(&mut self, to: &Path) -> Result<Backup, Failure> {
        match self {
            Self::Node(client) => Ok(client.backup(to)?),
            Self::Directory(log) => Ok(sluice_node::backup_of(log, to)?),
        }
    }

    pub(crate) fn delete_checkpoint(&mut self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Node(client) => Ok(client.delete_checkpoint(name)?),
            Self::Directory(log) => Ok(checkpoint::delete(log.root(), name)?),
        }
    }

    /// Looks into what a pipeline keeps.
    pub(crate) fn look(&mut self, pipeline: &str, query: &state::Query) -> Result<state::Found, Failure> {
        match self {
            Self::Node(client) => Ok(client.look(pipeline, query)?),
            Self::Directory(log) => Ok(state::look_in(log, pipeline, query)?),
        }
    }

    pub(crate) fn generations(&mut self, pipeline: &str) -> Result<Vec<GenerationInfo>, Failure> {
        match self {
            Self::Node(client) => Ok(client.generations(pipeline)?),
            Self::Directory(log) => Ok(generations::of(log, pipeline)?),
        }
    }

    pub(crate) fn reload(&mut self, pipeline: &str) -> Result<u64, Failure> {
        match self {
            Self::Node(client) => Ok(client.reload(pipeline)?),
            Self::Directory(_) => Err(Failure::failed("no node runs: there is nothing to reload")
                .help("start it with `sluice run`: it takes what stands in the files")),
        }
    }

    pub(crate) fn roll_back(&mut self, pipeline: &str) -> Result<u64, Failure> {
        match self {
            Self::Node(client) => Ok(client.roll_back(pipeline)?),
            Self::Directory(log) => Ok(sluice_node::roll_back_in(log, pipeline)?),
        }
    }

    pub(crate) fn rewind(&mut self, pipeline: &str, request: &operate::Request) -> Result<Rewind, Failure> {
        match self {
            Self::Node(client) => Ok(client.rewind(pipeline, request)?),
            Self::Directory(log) => Ok(operate::rewind(log, pipeline, request)?),
        }
    }

    /// Runs a range of a pipeline's history once more, aside.
    pub(crate) fn replay(&mut self, request: &replay::Request) -> Result<Replay, Failure> {
        match self {
            Self::Node(client) => Ok(client.replay(request)?),
            Self::Directory(log) => Ok(replay::run_in(log, Compiler::Apart, request)?),
        }
    }

    pub(crate) fn dead_list(&mut self, pipeline: &str) -> Result<DeadLetters, Failure> {
        match self {
            Self::Node(client) => Ok(client.dead_list(pipeline)?),
            Self::Directory(log) => Ok(dead::list(log, pipeline)?),
        }
    }

    pub(crate) fn dead_find(&mut self, pipeline: &str, id: LetterId) -> Result<Found, Failure> {
        match self {
            Self::Node(client) => Ok(client.dead_find(pipeline, id)?),
            Self::Directory(log) => Ok(dead::find(log, pipeline, id)?),
        }
    }

    /// Does something about dead letters, or says about which that would be.
    pub(crate) fn dead_treat(
        &mut self,
        pipeline: &str,
        treatment: Treatment,
        selection: &Selection,
        really: bool,
    ) -> Result<Treated, Failure> {
        match self {
            Self::Node(client) => Ok(client.dead_treat(pipeline, treatment, selection, really)?),
            Self::Directory(log) => Ok(dead::treat(log, pipeline, treatment, selection, really)?),
        }
    }

    /// Whether a node runs.
    pub(crate) fn is_node(&self) -> bool {
        matches!(self, Self::Node(_))
    }

    pub(crate) fn audit(&mut self) -> Result<Audit, Failure> {
        match self {
            Self::Node(client) => Ok(client.audit()?),
            Self::Directory(log) => Ok(log.audit()?),
        }
    }

    pub(crate) fn tokens(&mut self) -> Result<Vec<TokenInfo>, Failure> {
        match self {
            Self::Node(client) => Ok(client.tokens()?),
            Self::Directory(log) => Ok(tokens_of(log)?.list()),
        }
    }

    pub(crate) fn create_token(&mut self, token: NewToken) -> Result<MadeToken, Failure> {
        match self {
            Self::Node(client) => Ok(client.create_token(&token)?),
            Self::Directory(log) => Ok(tokens_of(log)?.create(token)?),
        }
    }

    pub(crate) fn revoke_token(&mut self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Node(client) => Ok(client.revoke_token(name)?),
            Self::Directory(log) => Ok(tokens_of(log)?.revoke(name)?),
        }
    }

    pub(crate) fn produce(
        &mut self,
        topic: &str,
        partition: Option<u32>,
        batch: &Batch,
        sequence: Option<(&str, u64)>,
    ) -> Result<Produced, Failure> {
        match self {
            Self::Node(client) => Ok(client.produce(topic, partition, batch, sequence)?),
            Self::Directory(log) => {
                let (answer, answered) = std::sync::mpsc::sync_channel(1);
                let production = Production { topic, partition, events: batch.region(), sequence, once: None };
                topics::produce(log, production, Box::new(move |result| drop(answer.send(result))))?;
                Ok(answered.recv().unwrap_or(Err(Error::Closed))?.into())
            }
        }
    }

    pub(crate) fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: u64,
        max_bytes: usize,
        wait_ms: u64,
    ) -> Result<ReadBatch, Failure> {
        match self {
            Self::Node(client) => Ok(client.read(topic, partition, from, max_bytes, wait_ms)?),
            Self::Directory(log) => Ok(topics::read(log, topic, partition, from, max_bytes)?),
        }
    }

    pub(crate) fn next_sequence(&mut self, topic: &str, producer: &str) -> Result<u64, Failure> {
        match self {
            Self::Node(client) => Ok(client.next_sequence(topic, producer)?),
            Self::Directory(log) => Ok(log.next_sequence(producer, log.topic(topic)?.id)),
        }
    }

    pub(crate) fn status(&mut self) -> Result<Status, Failure> {
        match self {
            Self::Node(client) => Ok(client.status()?),
            Self::Directory(log) => Ok(status_of(log)),
        }
    }
}

fn tokens_of(log: &Log) -> Result<Tokens, Problem> {
    Tokens::open(log.root(), Arc::new(SystemClock))
}

/// What to get in with at a node elsewhere.
fn credentials(global: &Global) -> Result<Credentials, Failure> {
    let token = match &global.token_file {
        None => std::env::var("SLUICE_TOKEN").ok(),
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?)
        }
    };
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Failure::usage("this is no token: one is a word of letters, digits, `_` and `-`"));
    }
    Ok(Credentials { token, ca: global.ca.clone() })
}

fn order(log: &Log, order: Order) -> Result<(), Failure> {
    log.commit(Commit::order(order))?;
    Ok(())
}
