//! The real binary, in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder with a data directory, pipelines and plugins; gone with the test.
pub struct Workspace {
    dir: tempfile::TempDir,
}

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The binary under test.
///
/// # Panics
/// When it has not been built.
pub fn binary() -> PathBuf {
    // Test binaries lie in target/PROFILE/deps.
    let profile = std::env::current_exe().unwrap_or_default();
    let binary = profile.ancestors().nth(2).map(|dir| dir.join("sluice")).unwrap_or_default();
    assert!(binary.exists(), "{} is missing: run `cargo xtask test`, or `cargo xtask plugins` first", binary.display());
    binary
}

/// What a run of the binary came to.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Ran {
    /// What it wrote, when it ended well.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it wrote to stderr, when it ended with this code.
    ///
    /// # Panics
    /// When it did not.
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Ran {
    /// What it wrote to stdout, when it ended with this code.
    ///
    /// # Panics
    /// When it did not.
    pub fn ends(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A test that fails leaves nothing running that works in its folder.
impl Drop for Workspace {
    fn drop(&mut self) {
        let Ok(dir) = self.dir.path().canonicalize() else { return };
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let works_here = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir);
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw).filter(|_| works_here) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Workspace {
    /// An empty folder, with the example plugins beside.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        std::fs::create_dir(dir.path().join("pipelines")).expect("a folder for pipelines");
        let plugins = project().join("plugins").canonicalize().expect("the plugins");
        std::os::unix::fs::symlink(plugins, dir.path().join("plugins")).expect("a link to the plugins");
        Self { dir }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("a file for the test");
    }

    /// A command that is ready to run, with this folder as its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        self.at_home(command.args(arguments));
        command
    }

    fn at_home(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_remove("SLUICE_LOG");
        // Tests run beside each other, and a port is one for all.
        command.env("SLUICE_LISTEN", "off");
        // What builds plugins in other languages was installed there.
        command.env("SLUICE_TOOLCHAINS", std::path::absolute(project().join("target/toolchains")).unwrap_or_default());
    }

    /// Runs `sluice` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn sluice(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("sluice starts").into()
    }

    /// Starts `sluice run` and waits until the node answers and its pipelines are there.
    ///
    /// # Errors
    /// What it said, when it ended instead.
    ///
    /// # Panics
    /// When it does neither within a minute.
    pub fn start(&self, arguments: &[&str]) -> Result<Child, Ran> {
        self.start_under(&[], arguments)
    }

    /// The same with another program around it, such as strace.
    ///
    /// # Errors
    /// What it said, when it ended instead.
    ///
    /// # Panics
    /// When it does neither within a minute, or the program is not installed.
    #[expect(clippy::zombie_processes, reason = "the caller ends it; it is left alone only when the test fails")]
    pub fn start_under(&self, around: &[&str], arguments: &[&str]) -> Result<Child, Ran> {
        let run = self.command(&["run"]);
        let mut command = match around {
            [] => run,
            [program, options @ ..] => {
                let mut command = Command::new(program);
                self.at_home(command.args(options).arg(run.get_program()).args(run.get_args()));
                command
            }
        };
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if child.try_wait().expect("a child").is_some() {
                return Err(child.wait_with_output().expect("its output").into());
            }
            // Without a node that answers, the verb would open the directory itself, in the node's way.
            if std::os::unix::net::UnixStream::connect(self.path(".sluice/sock")).is_ok() {
                let status = self.sluice(&["status", "--json"]);
                let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
                let ours = status["pid"] == child.id() || (!around.is_empty() && status["pid"].is_u64());
                if ours && status["pipelines"][0]["state"] != "stopped" {
                    return Ok(child);
                }
            }
            std::thread::yield_now();
        }
        let _ = child.kill();
        panic!("the node did not start within a minute");
    }

    /// Runs a verb if a node answers, and only then; whether it ended well.
    pub fn sluice_if_answering(&self, arguments: &[&str]) -> bool {
        let answers = std::os::unix::net::UnixStream::connect(self.path(".sluice/sock")).is_ok();
        answers && self.sluice(arguments).code == Some(0)
    }

    /// What a verb says, as JSON.
    ///
    /// # Panics
    /// When it fails, or says something else.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let told = self.sluice(&[arguments, &["--json"]].concat()).ok();
        serde_json::from_str(&told).expect("a line of JSON")
    }

    /// How a pipeline stands.
    ///
    /// # Panics
    /// When there is no such pipeline.
    pub fn pipeline(&self, name: &str) -> Value {
        let status = self.json(&["status"]);
        let pipelines = status["pipelines"].as_array().expect("pipelines");
        pipelines.iter().find(|pipeline| pipeline["name"] == name).expect("the pipeline").clone()
    }

    /// Waits until something is so; at most a minute.
    ///
    /// # Panics
    /// When it is not so after a minute.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < until, "after a minute it is still not so: {what}");
            std::thread::yield_now();
        }
    }

    /// Waits until a pipeline has read more than it has now, or all there is.
    ///
    /// # Panics
    /// When there is no such pipeline, or it stands still for a minute.
    pub fn until_it_goes_on(&self, pipeline: &str) {
        let read = |pipeline: &Value| pipeline["read"].as_u64().expect("a number");
        let before = read(&self.pipeline(pipeline));
        self.until("it goes on", || {
            let now = self.pipeline(pipeline);
            read(&now) > before || now["lag"] == 0
        });
    }

    /// The values of a topic, in the order they are read.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn values(&self, topic: &str) -> Vec<String> {
        self.sluice(&["consume", topic]).ok().lines().map(str::to_owned).collect()
    }

    /// Appends lines to a topic.
    ///
    /// # Panics
    /// When they are refused.
    pub fn produce(&self, topic: &str, lines: &[&str]) {
        self.write("lines-to-produce", lines.join("\n") + "\n");
        self.sluice(&["produce", topic, "lines-to-produce"]).ok();
    }

    /// All events of a topic, as JSON.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn events(&self, topic: &str) -> Vec<Value> {
        let lines = self.sluice(&["consume", topic, "--json"]).ok();
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// Kills a process as a crash would.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Asks a process to stop.
///
/// # Panics
/// When there is no such process.
pub fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a running process");
}
