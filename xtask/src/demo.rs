//! `cargo xtask demo`: the main job, to be watched and killed.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::setup;
use crate::shell::{command, output, run, sluice};

const DATA: &str = "demo.sluice";
const SPEED: &str = "target/demo-speed.sluice";
const FLIGHTS: &str = "pipelines/data/flights.ndjson";
/// How the flights become events; the numbers make a rerun go on where the last one stopped.
const PRODUCE: [&str; 6] = ["--key", "origin", "--timestamp", "date", "--timestamp-format", "%Y/%m/%d %H:%M"];
/// How often the file is sent in the part at full speed.
const COPIES: usize = 25;

pub(crate) fn demo() -> Result<()> {
    setup::plugins()?;
    let flights = std::fs::read_to_string(FLIGHTS).with_context(|| format!("cannot read {FLIGHTS}"))?;
    paced(&flights)?;
    full_speed(&flights)
}

/// The flights at 2,000 a second, through pipelines that run beside.
fn paced(flights: &str) -> Result<()> {
    let (total, late) = expected(flights);
    println!(
        "\n1. {total} flights of 2001, 2,000 a second, through plugins/late-flights (delay of an hour or more), exactly once"
    );
    println!(
        "   Kill anything at any moment, this too, and run it again: it goes on, and every result is there once.\n"
    );
    stop_leftover()?;
    let mut node = start_node()?;
    let mut producer = start_producer()?;
    let mut shown = 0;
    loop {
        wait_a_little();
        if let Some(status) = node.try_wait()? {
            println!("   the node is gone ({status}): starting it again");
            node = start_node()?;
        }
        let (read, written) = progress()?;
        shown = show_results(shown, written);
        print!("\r   {read:>6} of {total} flights read, {written:>5} were late   ");
        std::io::stdout().flush()?;
        match producer.try_wait()? {
            None => {}
            Some(status) if status.success() && read >= total => break,
            Some(status) if status.success() => {}
            Some(_) => producer = start_producer()?,
        }
    }
    terminate(&mut node)?;
    let results = output(&mut sluice(&["consume", "late-flights", "--data", DATA]))?.lines().count();
    println!("\n\n   read {total} flights, wrote {results} results; a plain count of the file says {late}");
    if results != late {
        bail!("{results} results instead of {late}: please keep {DATA} and report this");
    }
    // Done: the next demo begins anew.
    Ok(std::fs::remove_dir_all(DATA)?)
}

/// Counts what should come out, in the plainest way.
fn expected(flights: &str) -> (usize, usize) {
    let delay = |line: &str| serde_json::from_str::<Value>(line).ok()?["delay"].as_i64();
    (flights.lines().count(), flights.lines().filter_map(delay).filter(|delay| *delay >= 60).count())
}

/// A node that an earlier demo left behind when it was killed.
fn stop_leftover() -> Result<()> {
    if !Path::new(DATA).exists() {
        return Ok(());
    }
    println!("   going on in {DATA}, which an earlier demo left");
    let status = output(&mut sluice(&["status", "--json", "--data", DATA]));
    let pid = status.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()).and_then(|s| s["pid"].as_u64());
    if let Some(pid) = pid {
        run(&mut command("kill", &[&pid.to_string()]))?;
        let until = Instant::now() + Duration::from_secs(10);
        while Path::new("/proc").join(pid.to_string()).exists() && Instant::now() < until {
            wait_a_little();
        }
    }
    Ok(())
}

fn start_node() -> Result<Child> {
    let mut node = sluice(&["run", "pipelines", "--data", DATA]);
    let node = node.env("SLUICE_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut node = node.context("cannot start sluice")?;
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let topics = output(&mut sluice(&["status", "--json", "--data", DATA]));
        let answers = topics.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if answers.is_some_and(|status| status["pid"].is_u64() && status["pipelines"][0].is_object()) {
            return Ok(node);
        }
        if let Some(status) = node.try_wait()? {
            bail!("the node did not start ({status})");
        }
        wait_a_little();
    }
    bail!("the node did not start within 30 seconds")
}

fn start_producer() -> Result<Child> {
    let mut producer =
        sluice(&["produce", "flights", FLIGHTS, "--rate", "2000/s", "--producer-id", "demo", "--data", DATA]);
    let producer = producer.args(PRODUCE).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    producer.spawn().context("cannot start the producer")
}

/// How many flights were read, and how many results written; as before while the node is away.
fn progress() -> Result<(usize, usize)> {
    let Ok(text) = output(&mut sluice(&["status", "--json", "--data", DATA])) else { return Ok((0, 0)) };
    let status: Value = serde_json::from_str(&text)?;
    let pipelines = status["pipelines"].as_array().cloned().unwrap_or_default();
    let late = pipelines.iter().find(|pipeline| pipeline["name"] == "late-flights");
    let number = |key: &str| late.and_then(|late| late[key].as_u64()).unwrap_or(0) as usize;
    Ok((number("read"), number("read") - number("filtered")))
}

/// Shows a few of the results as they come.
fn show_results(shown: usize, written: usize) -> usize {
    const EVERY: usize = 200;
    if written < shown + EVERY {
        return shown;
    }
    let Ok(text) = output(&mut sluice(&["consume", "late-flights", "--max", &written.to_string(), "--data", DATA]))
    else {
        return shown;
    };
    if let Some(last) = text.lines().last() {
        println!("\r   for example {last}                    ");
    }
    written
}

fn terminate(node: &mut Child) -> Result<()> {
    run(&mut command("kill", &[&node.id().to_string()]))?;
    let status = node.wait()?;
    if !status.success() {
        bail!("the node did not stop cleanly: {status}");
    }
    Ok(())
}

fn wait_a_little() {
    #[expect(clippy::disallowed_methods, reason = "watching other processes")]
    std::thread::sleep(Duration::from_millis(200));
}

/// The flights many times over, as fast as it goes.
fn full_speed(flights: &str) -> Result<()> {
    if Path::new(SPEED).exists() {
        std::fs::remove_dir_all(SPEED)?;
    }
    let events = COPIES * flights.lines().count();
    println!("\n2. {events} flights at full speed");
    run(sluice(&["topic", "create", "flights", "--partitions", "4", "--data", SPEED]).stdout(Stdio::null()))?;
    let started = Instant::now();
    let mut producer = sluice(&["produce", "flights", "--data", SPEED]);
    let mut producer = producer.args(PRODUCE).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut input = producer.stdin.take().context("the producer has no stdin")?;
    for _ in 0..COPIES {
        input.write_all(flights.as_bytes())?;
    }
    drop(input);
    if !producer.wait()?.success() {
        bail!("the producer failed");
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "   written: {events} events in {seconds:.2} s, {:.0} a second, every line parsed for its key and time",
        events as f64 / seconds
    );
    let told = output(
        sluice(&["run", "pipelines/late-flights.toml", "--until-idle", "--json", "--data", SPEED])
            .env("SLUICE_LOG", "error"),
    )?;
    let told: Value = serde_json::from_str(&told)?;
    let (read, seconds) = (told["read"].as_u64().unwrap_or(0), told["seconds"].as_f64().unwrap_or(f64::NAN));
    let results = output(&mut sluice(&["consume", "late-flights", "--data", SPEED]))?.lines().count();
    println!(
        "   through the consumer: {read} read, {results} results written in {seconds:.2} s, {:.0} a second",
        read as f64 / seconds
    );
    println!("   (development build, every commit synced; `cargo xtask bench` measures the release build)\n");
    if results != COPIES * expected(flights).1 {
        bail!("{results} results instead of {}", COPIES * expected(flights).1);
    }
    Ok(std::fs::remove_dir_all(SPEED)?)
}
