//! `sluice run`

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use sluice_api::{Listen, Listeners, Remote, Tls, Tokens};
use sluice_env::SystemClock;
use sluice_log::Error;
use sluice_node::{Compiler, Existing, HaltKind, Node, NodeOptions, Outcome, PipelineStatus, definitions};
use tokio::signal::unix::{SignalKind, signal};

use crate::access::patiently;
use crate::args::{Global, Listening, Run};
use crate::exit::Failure;
use crate::show;

pub(crate) fn run(global: &Global, verb: &Run) -> Result<ExitCode, Failure> {
    let pipelines = definitions::read(&verb.paths).map_err(Failure::refused)?;
    if sluice_api::is_answering(&global.data) {
        return Err(Error::InUse(global.data.clone()).into());
    }
    if !global.data.exists() {
        // What is refused must leave nothing behind: a first start looks before the directory is made.
        sluice_node::check(&pipelines, &Existing::default(), Compiler::Apart)?;
    }
    let listening = &verb.listening;
    let listener = listen(listening)?;
    let tls = match (&listening.tls_cert, &listening.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key)?),
        _ => None,
    };
    let options = NodeOptions { data: global.data.clone(), durability: verb.durability, compiler: Compiler::Apart };
    let node = Arc::new(patiently(|| Ok(Node::open(&options)?))?);
    let tokens = Arc::new(Tokens::open(&global.data, Arc::new(SystemClock))?);
    let tcp = listener.map(|listener| admit(listening, listener, tls, &tokens)).transpose()?;
    let report = node.log().report();
    if report.cut_bytes > 0 || !report.damaged.is_empty() {
        tracing::info!(cut_bytes = report.cut_bytes, damaged = report.damaged.len(), "recovered after an unclean stop");
    }
    let before = node.status().pipelines;
    let dead_before: BTreeMap<_, _> = before.iter().map(|pipeline| (pipeline.name.clone(), pipeline.dead)).collect();
    let before = total_read(&before);
    let started = Instant::now();
    if !verb.until_idle {
        node.watch(&verb.paths)?;
    }
    node.start(&pipelines)?;
    let socket = sluice_api::bind(&global.data)?;
    if let Some(url) = tcp.as_ref().and_then(|tcp| tcp.url().ok()) {
        tracing::info!("listens at {url}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let signals = Arc::new(AtomicU32::new(0));
    let _context = runtime.enter();
    count_signals(&signals)?;
    let server = runtime.spawn(sluice_api::serve(node.clone(), tokens, Listeners { socket, tcp }));
    for pipeline in &pipelines {
        let sinks: Vec<_> = pipeline.sinks.iter().map(|sink| sink.topic.as_str()).collect();
        let sources = pipeline.sources.join(", ");
        tracing::info!(pipeline = pipeline.name, delivery = %pipeline.delivery, sources, sinks = sinks.join(", "), "runs");
    }
    let asked_to_stop = |times| move |signals: &AtomicU32| signals.load(Ordering::SeqCst) >= times;
    let (first, second) = (asked_to_stop(1), asked_to_stop(2));
    let stopped = || first(&signals);
    let outcome = match (verb.until_idle, verb.close_windows) {
        (true, true) => node.wait_until_closed(&stopped),
        (true, false) => node.wait_until_idle(&stopped),
        (false, _) => node.wait(&stopped),
    };
    let result = match outcome {
        Outcome::Failed(error) => Err(Failure::from(error)),
        Outcome::Refused(reason) => Err(refused(reason)),
        Outcome::Halted(halted) => Err(halted_failure(&halted)),
        Outcome::Idle => Ok(()),
        Outcome::Interrupted => {
            tracing::info!("draining: what is in flight is finished and committed; a second signal stops at once");
            match node.drain(&|| second(&signals)) {
                Outcome::Interrupted => {
                    // Threads may be in the middle of guest calls: nothing of these is committed, so nothing is lost.
                    eprintln!("error: stopped before it was drained");
                    std::process::exit(1);
                }
                Outcome::Failed(error) => Err(Failure::from(error)),
                Outcome::Refused(reason) => Err(refused(reason)),
                _ => Ok(()),
            }
        }
    };
    let status = node.status();
    if verb.until_idle || result.is_ok() {
        let events = total_read(&status.pipelines).saturating_sub(before);
        let seconds = started.elapsed().as_secs_f64();
        if global.json {
            let told = serde_json::json!({ "read": events, "seconds": seconds, "status": status });
            show::print(&format!("{told}\n"))?;
        } else {
            tracing::info!(events, seconds = format!("{seconds:.2}"), "done");
            for pipeline in &status.pipelines {
                let dead = pipeline.dead.saturating_sub(dead_before.get(&pipeline.name).copied().unwrap_or(0));
                if dead > 0 {
                    let name = &pipeline.name;
                    tracing::warn!(
                        "{dead} events of {name} were dead-lettered: `sluice dead list {name}` groups them by cause"
                    );
                }
            }
        }
    }
    server.abort();
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// The listener on the network, if there is to be one.
fn listen(listening: &Listening) -> Result<Option<TcpListener>, Failure> {
    let Listen::At(address) = listening.listen.unwrap_or_default() else { return Ok(None) };
    if !address.ip().is_loopback() && listening.tls_cert.is_none() && !listening.insecure {
        let failure =
            Failure::usage(format!("other machines can reach {address}, and what goes there can be read on the way"));
        return Err(failure.help("add --tls-cert and --tls-key; or listen on 127.0.0.1; or add --insecure, where the network keeps others out"));
    }
    match sluice_api::listen(address) {
        Ok(listener) => Ok(Some(listener)),
        // Several nodes on one machine are nothing unusual, and this one is reached by its socket.
        Err(error) if listening.listen.is_none() => {
            tracing::warn!(
                "cannot listen on {address} ({error}): this node answers on the socket in its data directory only; --listen says where else"
            );
            Ok(None)
        }
        Err(error) => Err(Failure::failed(format!("cannot listen on {address}: {error}"))
            .help("name another with --listen; port 0 means any that is free")),
    }
}

/// Who gets in there.
fn admit(listening: &Listening, listener: TcpListener, tls: Option<Tls>, tokens: &Tokens) -> Result<Remote, Failure> {
    let address = listener.local_addr()?;
    let with_tokens = listening.tokens || !(address.ip().is_loopback() || listening.insecure);
    if with_tokens && tokens.list().is_empty() {
        let failure = Failure::usage(format!("nobody could get in at {address}: there is no token yet"));
        return Err(failure.help("`sluice token create NAME admin` makes one that may do everything"));
    }
    if !with_tokens && !address.ip().is_loopback() {
        tracing::warn!(
            "whoever can reach {address}, and every page that a browser there shows, can do anything with this node, for it runs with --insecure"
        );
    }
    Ok(Remote { listener, tls, with_tokens })
}

fn refused(reason: String) -> Failure {
    let help = "free some space and run again: it goes on where it stopped; nothing committed is lost";
    Failure::storage(reason).help(help)
}

fn total_read(pipelines: &[PipelineStatus]) -> u64 {
    pipelines.iter().map(|pipeline| pipeline.read).sum()
}

/// Counts SIGTERM and SIGINT: the first drains, the second stops.
fn count_signals(signals: &Arc<AtomicU32>) -> std::io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut stream, signals) = (signal(kind)?, signals.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                signals.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    Ok(())
}

fn halted_failure(halted: &[PipelineStatus]) -> Failure {
    let told = halted.iter().filter(|pipeline| pipeline.held.is_none());
    let lines = told.flat_map(|pipeline| {
        pipeline.partitions.iter().filter_map(move |lane| {
            let halted = lane.halted.as_ref()?;
            let at = format!("{}/{} offset {}", lane.topic, lane.partition, halted.offset);
            Some(format!("{} is halted at {at}: {}", pipeline.name, halted.reason))
        })
    });
    let reasons = || halted.iter().flat_map(|pipeline| &pipeline.partitions).filter_map(|lane| lane.halted.as_ref());
    if reasons().next().is_some() && reasons().all(|halted| halted.kind == HaltKind::Damage) {
        return Failure::storage(lines.collect::<Vec<_>>().join("\nerror: "))
            .help("everything before it is committed; `sluice fsck` explains what is damaged");
    }
    let held = halted.iter().filter_map(|p| p.held.as_ref().map(|reason| format!("{} is held: {reason}", p.name)));
    let lines = lines.chain(held);
    if let Some(held) = halted.iter().find(|pipeline| pipeline.held.is_some()) {
        let help = format!("once what is wrong is mended, `sluice pipeline resume {}` lets it go on", held.name);
        return Failure::failed(lines.collect::<Vec<_>>().join("\nerror: ")).help(help);
    }
    let lossy = halted.iter().any(|pipeline| pipeline.delivery.as_deref() == Some("at-most-once"));
    Failure::failed(lines.collect::<Vec<_>>().join("\nerror: ")).help(if lossy {
        "everything before it is committed; at-most-once goes on behind the events in hand, which are lost: `sluice audit` lists them"
    } else {
        "everything before it is committed; mend the plugin, build it and run again: it goes on from there; `sluice rewind` passes over an event"
    })
}
