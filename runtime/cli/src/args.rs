//! What can be said on the command line.

use crate::languages::Language;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Arguments, Parser, Subcommand, ValueEnum};
use sluice_api::{Listen, Scope};
use sluice_config::{parse_duration, parse_size};
use sluice_log::{Compression, Durability};
use sluice_node::dead::LetterId;
use sluice_node::operate::Target;
use sluice_node::state::StateChoice;
use sluice_node::topics::Place;

/// Stream processing with sandboxed WebAssembly consumers, on a durable log of its own.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Arguments)]
pub(crate) struct Global {
    /// The data directory; made where there is none
    #[arg(long, global = true, value_name = "DIR", default_value = ".sluice")]
    pub(crate) data: PathBuf,
    /// Talk to the node at http://HOST:PORT or https://HOST:PORT instead
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data")]
    pub(crate) node: Option<String>,
    /// With --node: a file that holds the token to get in with; SLUICE_TOKEN may hold the token itself
    #[arg(long, global = true, value_name = "FILE", requires = "node")]
    pub(crate) token_file: Option<PathBuf>,
    /// With --node: trust the certificates in this file (PEM) instead of those that the system trusts
    #[arg(long, global = true, value_name = "FILE", requires = "node")]
    pub(crate) ca: Option<PathBuf>,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run pipelines
    Run(Run),
    /// Run pipelines while their plugins are written: builds a plugin when its source is saved, takes it over, and shows what comes out
    Dev(Dev),
    /// Check pipeline files and their plugins, and say what they guarantee
    Check(Check),
    /// Make and look at topics
    #[command(subcommand)]
    Topic(Topic),
    /// Append events to a topic, one per line
    Produce(Produce),
    /// Read events from a topic
    Consume(Consume),
    /// Show how pipelines stand
    Status(Status),
    /// Pause, resume, drain or delete a pipeline
    #[command(subcommand)]
    Pipeline(Pipeline),
    /// Move a pipeline's cursors back, or forth; shows what it would do, and with --yes does it
    Rewind(Rewind),
    /// Run a range of what a pipeline has read through it once more, aside: compare what comes out with what was committed, or keep it in a topic
    Replay(Replay),
    /// Check that a pipeline makes the same of its history again; says hashes of outputs and state
    Verify(Verify),
    /// Dead letters: list them by cause, look at one, send them through again, give them up
    #[command(subcommand)]
    Dead(Dead),
    /// Keep where pipelines stand, with their state, to come back to
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Copy the data directory as of one commit, while a node runs on it
    Backup {
        /// The folder to make: run it with --data
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Look into what pipelines keep
    #[command(subcommand)]
    State(State),
    /// Tokens: who gets in from the network
    #[command(subcommand)]
    Token(Token),
    /// Tell what became of every event that pipelines read, from the commit log alone
    Audit(Audit),
    /// Check every byte of a data directory, and explain what is damaged; no node may run on it
    Fsck(Fsck),
    /// Look for what could go wrong on this machine and in this data directory
    Doctor,
    /// Run fixtures: given these events, are these the outputs and failures?
    Test(Test),
    /// Build and look at plugins
    #[command(subcommand)]
    Plugin(Plugin),
}

#[derive(Debug, Arguments)]
pub(crate) struct Status {
    /// Show it again and again, until Ctrl-C; with --json, a line each time
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// With --watch: how often
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_every)]
    pub(crate) every: Duration,
}

/// A time between two looks, which nobody wants to be none.
fn parse_every(text: &str) -> Result<Duration, String> {
    let every = parse_duration(text)?;
    if every < Duration::from_millis(100) { Err("at least 100ms".to_owned()) } else { Ok(every) }
}

#[derive(Debug, Arguments)]
pub(crate) struct PluginRun {
    /// A .wasm file, or a plugin's folder
    #[arg(default_value = ".")]
    pub(crate) plugin: PathBuf,
    /// One event per line: a value, or with --events-json what `consume --json` prints
    #[arg(long, value_name = "FILE")]
    pub(crate) events: PathBuf,
    /// Lines are objects with key, value, timestamp and headers, as `consume --json` prints them
    #[arg(long)]
    pub(crate) events_json: bool,
    /// The JSON field of each line that becomes the event's key
    #[arg(long, value_name = "FIELD", conflicts_with = "events_json")]
    pub(crate) key: Option<String>,
    /// The stage's `config`, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    /// Sinks that outputs may name, besides the first
    #[arg(long, value_name = "NAME")]
    pub(crate) sink: Vec<String>,
    /// Begin with what an earlier run has kept, maybe of an older version: what that has printed with --json
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Give each event in a call of its own, and tell what each changes of what is kept
    #[arg(long)]
    pub(crate) changes: bool,
    /// In the end, have timers fire that are set for a time of events
    #[arg(long)]
    pub(crate) close_windows: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Dev {
    /// Pipeline files, or folders of them
    #[arg(value_name = "FILE|DIR", default_value = "pipelines")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Arguments)]
pub(crate) struct Run {
    /// Pipeline files, or folders of them
    #[arg(value_name = "FILE|DIR", default_value = "pipelines")]
    pub(crate) paths: Vec<PathBuf>,
    /// Stop when all input has been dealt with and committed
    #[arg(long)]
    pub(crate) until_idle: bool,
    /// With --until-idle: then have timers fire that are set for a time of events, as if later events had come
    #[arg(long, requires = "until_idle")]
    pub(crate) close_windows: bool,
    /// When a commit counts as durable: fsync (survives a power cut), interval:100ms (a power cut may lose the last 100 ms), or
    /// os (survives the death of the process)
    #[arg(long, value_name = "D", default_value = "fsync")]
    pub(crate) durability: Durability,
    /// How lines of the log are written to stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "SLUICE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) listening: Listening,
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// An object a line, for programs
    Json,
}

/// On the network, besides the socket in the data directory.
#[derive(Debug, Arguments)]
pub(crate) struct Listening {
    /// Where to listen for HTTP besides the socket in the data directory: ADDRESS:PORT, or off [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS", env = "SLUICE_LISTEN", hide_env = true)]
    pub(crate) listen: Option<Listen>,
    /// Let nobody in from the network without a token, from this machine neither; elsewhere that is always so
    #[arg(long)]
    pub(crate) tokens: bool,
    /// The node's certificate chain (PEM); read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Listen on an address that other machines can reach without TLS and, unless --tokens says otherwise, let anybody there do anything
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Check {
    /// Pipeline files, or folders of them
    #[arg(value_name = "FILE|DIR", default_value = "pipelines")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Make a topic
    Create {
        /// Letters, digits, `.`, `_` and `-`
        name: String,
        /// Fixed for ever
        #[arg(long, default_value_t = 1)]
        partitions: u32,
        /// Let events go that were appended longer ago, such as 7d [default: keep all]
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        retention_age: Option<Duration>,
        /// Let the oldest events of a partition go beyond this size, such as 10GiB [default: keep all]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        retention_size: Option<u64>,
        /// Let them go even when a pipeline has not read them
        #[arg(long)]
        past_cursors: bool,
        /// none, lz4 or zstd
        #[arg(long, value_name = "C", default_value = "none")]
        compression: Compression,
    },
    /// List topics
    List,
    /// Show a topic's partitions
    Describe {
        /// The topic
        name: String,
    },
    /// Delete a topic and all its events; refused while a pipeline reads it
    Delete {
        /// The topic
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pipeline {
    /// Let it finish what is in hand, then stand still, also after a restart
    Pause {
        /// The pipeline
        name: String,
    },
    /// Let it run again, and try again what it stands still at
    Resume {
        /// The pipeline
        name: String,
        /// Pass over the events that block it; they are counted as skipped
        #[arg(long)]
        skip: bool,
    },
    /// Let it deal with everything there is, then stand still
    Drain {
        /// The pipeline
        name: String,
    },
    /// Stop it and forget its cursors, its state and its checkpoints; what it has written stays
    Delete {
        /// The pipeline
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// Show a pipeline's dead letters by cause
    List {
        /// The pipeline
        pipeline: String,
    },
    /// Show one dead letter: the event, and why it failed
    Show {
        /// The pipeline
        pipeline: String,
        /// PARTITION:OFFSET in the topic of dead letters, as `list` shows it
        id: LetterId,
    },
    /// Send dead letters through their pipeline again, with its current plugin; shows which, --yes does it
    Redrive(Treat),
    /// Give dead letters up; shows which, --yes does it
    Discard(Treat),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Checkpoint {
    /// Make a checkpoint, as everything is at one commit; pipelines run on
    Create {
        /// Letters, digits, `-`, `_` and `.`
        name: String,
        /// Of this pipeline only [default: all]
        #[arg(long)]
        pipeline: Option<String>,
    },
    /// List checkpoints
    List,
    /// Show where each cursor stood
    Show {
        /// The checkpoint
        name: String,
    },
    /// Go back to a checkpoint: as `rewind PIPELINE --to checkpoint:NAME`, for each pipeline that it is of; shows what it would do, and with
    /// --yes does it
    Restore {
        /// The checkpoint
        name: String,
        /// This pipeline only [default: all that it is of]
        #[arg(long)]
        pipeline: Option<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Write a checkpoint to one file, to be kept elsewhere or taken to another data directory
    Export {
        /// The checkpoint
        name: String,
        /// The file, which must not be there
        file: PathBuf,
    },
    /// Take a checkpoint in from a file: for pipelines of the same names, which have run here, and topics that go as far
    Import {
        /// The file
        file: PathBuf,
        /// Under this name [default: its own]
        #[arg(long)]
        name: Option<String>,
    },
    /// Delete a checkpoint
    Delete {
        /// The checkpoint
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum State {
    /// Show the value of one key
    Get {
        /// The pipeline
        pipeline: String,
        /// The whole key, as `scan` shows it: in Rust plugins, NAME/KEY
        key: String,
        /// Of this stage only [default: all]
        #[arg(long)]
        stage: Option<String>,
    },
    /// Show keys and values, in the order of keys
    Scan {
        /// The pipeline
        pipeline: String,
        /// Keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// Of this stage only [default: all]
        #[arg(long)]
        stage: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000)]
        max: usize,
    },
}

/// Which dead letters to do something about, of those that are open.
#[derive(Debug, Arguments)]
pub(crate) struct Treat {
    /// The pipeline
    pub(crate) pipeline: String,
    /// These: PARTITION:OFFSET in the topic of dead letters
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<LetterId>,
    /// Those of this cause, as `list` names it
    #[arg(long, value_name = "CAUSE")]
    pub(crate) cause: Option<String>,
    /// Those that died at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) since: Option<i64>,
    /// Those that died before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) until: Option<i64>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    /// Do it
    #[arg(long)]
    pub(crate) yes: bool,
}

fn parse_time(text: &str) -> Result<i64, String> {
    let time = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    time.map_err(|_| "a time is written as in RFC 3339, such as 2026-01-31T12:00:00Z".to_owned())
}

fn parse_choice(text: &str) -> Result<StateChoice, String> {
    match text {
        "restore" => Ok(StateChoice::Restore),
        "reset" => Ok(StateChoice::Reset),
        _ => Err("restore or reset".to_owned()),
    }
}

#[derive(Debug, Arguments)]
pub(crate) struct Rewind {
    /// The pipeline
    pub(crate) pipeline: String,
    /// earliest, latest, an RFC 3339 time (when events were appended), event-time:TIME, OFFSET, PARTITION:OFFSET,
    /// TOPIC/PARTITION:OFFSET or checkpoint:NAME
    #[arg(long, value_name = "WHERE", conflicts_with = "undo")]
    pub(crate) to: Option<Target>,
    /// Back to where the cursors were before the last rewind
    #[arg(long)]
    pub(crate) undo: bool,
    /// What becomes of the state: restore (as it was there) or reset (empty)
    #[arg(long, value_name = "CHOICE", default_value = "restore", value_parser = parse_choice, conflicts_with = "undo")]
    pub(crate) state: StateChoice,
    /// Append outputs of events that are read again to this topic, which is made where it is missing; without it, again to the sinks
    #[arg(long, value_name = "TOPIC", conflicts_with = "undo")]
    pub(crate) into: Option<String>,
    /// Do it
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Arguments)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["into", "diff"]))]
pub(crate) struct Replay {
    /// The pipeline
    pub(crate) pipeline: String,
    /// Where the range begins: earliest, an RFC 3339 time (when events were appended), event-time:TIME, OFFSET, PARTITION:OFFSET,
    /// TOPIC/PARTITION:OFFSET or checkpoint:NAME
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    pub(crate) from: Target,
    /// Where it ends, likewise; latest is where the pipeline has come to
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(crate) to: Target,
    /// Another plugin: a .wasm file, or a plugin's folder
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
    /// The stage that it is for, where there are several
    #[arg(long, value_name = "NAME", requires = "plugin")]
    pub(crate) stage: Option<String>,
    /// Append what comes out to this topic, which is made where it is missing
    #[arg(long, value_name = "TOPIC")]
    pub(crate) into: Option<String>,
    /// Compare what comes out with what was committed; exits with 1 where it differs
    #[arg(long)]
    pub(crate) diff: bool,
    /// Pipeline files, or folders of them, that hold the definition [default: what is in force, with its plugins]
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) definitions: Vec<PathBuf>,
}

#[derive(Debug, Arguments)]
pub(crate) struct Verify {
    /// The pipeline
    pub(crate) pipeline: String,
    /// Where the range begins; see `sluice replay`
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    pub(crate) from: Target,
    /// Where it ends; latest is where the pipeline has come to
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(crate) to: Target,
    /// Pipeline files, or folders of them, that hold the definition [default: what is in force, with its plugins]
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) definitions: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and write it to stdout: this once, for only its hash is kept
    Create {
        /// Whose it is
        name: String,
        /// What it is good for: produce:TOPICS, read:TOPICS (with `*` for any characters), observe (how things stand), operate (look
        /// into pipelines and order them about), admin (everything)
        #[arg(value_name = "SCOPE", required = true)]
        scopes: Vec<Scope>,
        /// End it after a time, such as 90d [default: never]
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        expires: Option<Duration>,
    },
    /// List tokens
    List,
    /// End a token at once
    Revoke {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Arguments)]
pub(crate) struct Audit {
    /// Of this pipeline only
    pub(crate) pipeline: Option<String>,
}

#[derive(Debug, Arguments)]
pub(crate) struct Fsck {
    /// Give up what is damaged: readers are told of the hole that it leaves
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Test {
    /// Fixtures (*.test.toml), or folders that hold some
    #[arg(value_name = "FILE|DIR", default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Arguments)]
pub(crate) struct Produce {
    /// The topic
    pub(crate) topic: String,
    /// A file with an event per line; without it, stdin
    pub(crate) file: Option<PathBuf>,
    /// Take the key from this field of the JSON on each line
    #[arg(long, value_name = "FIELD")]
    pub(crate) key: Option<String>,
    /// Take the timestamp from this field: milliseconds since the epoch, or RFC 3339 [default: now]
    #[arg(long, value_name = "FIELD")]
    pub(crate) timestamp: Option<String>,
    /// How that field is written (strftime), in UTC
    #[arg(long, value_name = "FMT", requires = "timestamp")]
    pub(crate) timestamp_format: Option<String>,
    /// Append to this partition [default: by key, else in turn]
    #[arg(long, value_name = "N", conflicts_with = "key")]
    pub(crate) partition: Option<u32>,
    /// Append so many events a second, such as 500/s
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    pub(crate) rate: Option<u32>,
    /// Number the lines under this name: running it again goes on behind the last line that was appended
    #[arg(long, value_name = "ID")]
    pub(crate) producer_id: Option<String>,
}

fn parse_rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    number.filter(|rate| *rate > 0).ok_or_else(|| "a rate is a whole number a second, such as 500/s".to_owned())
}

#[derive(Debug, Arguments)]
pub(crate) struct Consume {
    /// The topic
    pub(crate) topic: String,
    /// Where to begin, in each partition: earliest, latest, an offset, an RFC 3339 time (when events were appended), or
    /// event-time:TIME
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    pub(crate) from: Place,
    /// Read this partition only [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) partition: Option<u32>,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
    /// Go on as new events come
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Begin a plugin: a consumer, a fixture, and how it is built
    New {
        /// Its folder, which is made; its name is that of the plugin
        name: PathBuf,
        /// The language that it is written in
        #[arg(long, value_enum, default_value_t = Language::Rust)]
        lang: Language,
    },
    /// Build a plugin's folder into a .wasm file, whatever language it is written in
    Build {
        /// The plugin's folder
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Install what builds it, where that is missing: into .toolchains in its folder
        #[arg(long)]
        setup: bool,
    },
    /// Run a plugin on a file of events, and print what comes of them
    Run(PluginRun),
    /// Show what a .wasm file is, and what it needs
    Inspect {
        /// A .wasm file, or a plugin's folder
        plugin: PathBuf,
    },
    /// List the definitions and plugins of a pipeline that were in force, and how they did
    History {
        /// The pipeline
        pipeline: String,
    },
    /// Take over what stands in a pipeline's file and its plugins' now, whether they are watched or not
    Reload {
        /// The pipeline
        pipeline: String,
    },
    /// Take out what is in force, and put what was good before in its place
    Rollback {
        /// The pipeline
        pipeline: String,
    },
}
