//! `sluice`: the command line. The only place for stdout and exit codes.

mod access;
mod args;
mod exit;
mod languages;
mod show;
mod verbs;

use clap::Parser;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::args::{Args, LogFormat, Verb};
use crate::exit::Failure;

fn main() -> std::process::ExitCode {
    // A process that only compiles a plugin, started by a node.
    sluice_node::compile_if_asked();
    let args = Args::parse();
    let log = start_log(&args.verb);
    raise_file_limit();
    let result = match &args.verb {
        verb if args.global.node.is_some() && verb.is_here() => Err(here()),
        Verb::Run(verb) => verbs::run::run(&args.global, verb),
        Verb::Dev(verb) => verbs::dev::dev(&args.global, verb),
        Verb::Check(verb) => verbs::check::check(&args.global, verb),
        Verb::Topic(verb) => verbs::topic::topic(&args.global, verb),
        Verb::Produce(verb) => verbs::produce::produce(&args.global, verb),
        Verb::Consume(verb) => verbs::consume::consume(&args.global, verb),
        Verb::Status(verb) => verbs::status::status(&args.global, verb),
        Verb::Pipeline(verb) => verbs::pipeline::pipeline(&args.global, verb),
        Verb::Rewind(verb) => verbs::rewind::rewind(&args.global, verb),
        Verb::Replay(verb) => verbs::replay::replay(&args.global, verb),
        Verb::Verify(verb) => verbs::replay::verify(&args.global, verb),
        Verb::Dead(verb) => verbs::dead::dead(&args.global, verb),
        Verb::Checkpoint(verb) => verbs::checkpoint::checkpoint(&args.global, verb),
        Verb::Backup { folder } => verbs::backup::backup(&args.global, folder),
        Verb::State(verb) => verbs::state::state(&args.global, verb),
        Verb::Token(verb) => verbs::token::token(&args.global, verb),
        Verb::Audit(verb) => verbs::audit::audit(&args.global, verb),
        Verb::Fsck(verb) => verbs::fsck::fsck(&args.global, verb),
        Verb::Doctor => verbs::doctor::doctor(&args.global),
        Verb::Test(verb) => verbs::test::test(&args.global, verb),
        Verb::Plugin(verb) => verbs::plugin::plugin(&args.global, verb),
    };
    // What was logged comes before how it ended.
    drop(log);
    result.unwrap_or_else(|failure: Failure| failure.report(args.global.json))
}

impl Verb {
    /// Whether it is about this machine, whatever node is named.
    fn is_here(&self) -> bool {
        match self {
            Self::Run(_) | Self::Dev(_) | Self::Fsck(_) | Self::Doctor | Self::Test(_) => true,
            Self::Plugin(verb) => matches!(verb, args::Plugin::Build { .. } | args::Plugin::Inspect { .. }),
            _ => false,
        }
    }
}

fn here() -> Failure {
    Failure::usage("this verb works on this machine").help("leave --node out, or run it where the node is")
}

/// Lines of the log that wait to be written, at most; more are left out.
const LOG_LINES: usize = 10_000;

/// Log lines go to stderr; `SLUICE_LOG` says which, in the syntax of tracing's `EnvFilter`. A thread of its own writes them: whoever reads them and
/// stops must not stop the node. What is returned has the rest written when it is dropped.
fn start_log(verb: &Verb) -> WorkerGuard {
    use std::io::IsTerminal;
    let (usual, format) = match verb {
        Verb::Run(run) => ("info", run.log_format),
        _ => ("error", LogFormat::Text),
    };
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let lines = NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).lossy(true);
    let (writer, guard) = lines.thread_name("sluice-log").finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    guard
}

/// A node with many partitions has many files open.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused means that it stays as it is, and a file too many says so by itself.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
