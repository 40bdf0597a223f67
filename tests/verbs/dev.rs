//! `sluice dev`: from a saved source file to what comes out. And what only a plugin with a source of its own can do wrong.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use sluice_tests::sluice::{Workspace, kill, project, terminate};

/// A plugin's folder, as somebody begins one.
fn plugin(workspace: &Workspace, name: &str, source: &str) {
    let sdk = project().canonicalize().unwrap().join("guest-sdk/rust");
    std::fs::create_dir_all(workspace.path("mine/src")).unwrap();
    workspace.write(
        "mine/Cargo.toml",
        format!(
            "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\nsluice-sdk = {{ path = \"{}\" }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n[profile.release]\npanic = \"abort\"\n[workspace]\n",
            sdk.display()
        ),
    );
    // The same versions as those of the example plugins: they are there.
    std::fs::copy(project().join("plugins/Cargo.lock"), workspace.path("mine/Cargo.lock")).unwrap();
    workspace.write("mine/src/lib.rs", source);
}

fn greets(greeting: &str) -> String {
    format!(
        r#"use sluice_sdk::{{Event, Outputs, Result, consumer}};

fn greet(event: &Event, out: &mut Outputs) -> Result {{
    out.send(event.key(), format!("{greeting} {{}}", event.text()?))
}}

consumer!(greet);
"#
    )
}

const MINE: &str = r#"name = "p"
[source]
topics = ["in"]
[[stage]]
plugin = "../mine"
[[sink]]
topic = "out"
"#;

/// A program that runs, and the lines that it writes.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn dev(workspace: &Workspace) -> Self {
        let mut command = workspace.command(&["dev"]);
        // Warm from one run of the tests to the next.
        command.env("CARGO_TARGET_DIR", project().canonicalize().unwrap().join("target/dev-plugins"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let outs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for out in outs {
            let lines = lines.clone();
            #[expect(clippy::disallowed_methods, reason = "a test")]
            std::thread::spawn(move || {
                BufReader::new(out).lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line));
            });
        }
        Self { child, lines }
    }

    /// Waits for a line that has this.
    fn says(&self, workspace: &Workspace, what: &str) {
        workspace.until(what, || self.lines.lock().unwrap().iter().any(|line| line.contains(what)));
    }

    fn told(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

#[test]
fn what_is_saved_is_built_and_taken_over_and_what_comes_out_is_shown() {
    let workspace = Workspace::new();
    plugin(&workspace, "greets", &greets("hello"));
    workspace.write("pipelines/p.toml", MINE);
    workspace.sluice(&["topic", "create", "in"]).ok();
    let mut dev = Running::dev(&workspace);
    dev.says(&workspace, "saved changes are taken over");
    workspace.produce("in", &["you"]);
    dev.says(&workspace, "  out/0:0  hello you");
    workspace.write("mine/src/lib.rs", "this does not compile");
    dev.says(&workspace, "what runs goes on; mend it, and save");
    assert!(dev.told().contains("error: expected"), "{}", dev.told());
    workspace.produce("in", &["there"]);
    dev.says(&workspace, "  out/0:1  hello there");
    workspace.write("mine/src/lib.rs", greets("good morning"));
    dev.says(&workspace, "p: generation 2 is in force");
    workspace.produce("in", &["all"]);
    dev.says(&workspace, "  out/0:2  good morning all");
    // The node goes with it.
    terminate(&dev.child);
    assert!(dev.child.wait().unwrap().success(), "{}", dev.told());
    assert_eq!(workspace.json(&["status"])["pid"], serde_json::Value::Null);
    assert_eq!(workspace.values("out"), ["hello you", "hello there", "good morning all"]);

    let nothing = Workspace::new();
    nothing.write("pipelines/p.toml", MINE.replace("../mine", "../plugins/picky/build/picky.wasm"));
    assert!(nothing.sluice(&["dev"]).fails(2).contains("no plugin of these pipelines is a folder"));
}

/// Counts what it has seen of a key, as one type or another.
fn counts(kind: &str, one: &str) -> String {
    format!(
        r#"use sluice_sdk::{{Config, Consumer, Event, Outputs, Result, State, consumer}};

struct Counts {{
    seen: State<{kind}>,
}}

impl Consumer for Counts {{
    fn init(config: &Config) -> Result<Self> {{
        config.must_be_empty()?;
        Ok(Self {{ seen: State::named("seen") }})
    }}

    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {{
        let mut seen = self.seen.get(event.key())?.unwrap_or_default();
        seen {one};
        self.seen.set(event.key(), seen.clone())?;
        out.send(event.key(), format!("{{seen:?}}"))
    }}
}}

consumer!(type Counts);
"#
    )
}

#[test]
fn a_plugin_that_cannot_read_the_state_takes_itself_out() {
    let workspace = Workspace::new();
    plugin(&workspace, "counts", &counts("u64", "+= 1"));
    let mine = MINE.replace("plugin = \"../mine\"", "plugin = \"../mine\"\ncapabilities = [\"state\"]");
    workspace.write("pipelines/p.toml", mine);
    workspace.sluice(&["topic", "create", "in"]).ok();
    let build = || {
        let mut command = workspace.command(&["plugin", "build", "mine"]);
        command.env("CARGO_TARGET_DIR", project().canonicalize().unwrap().join("target/dev-plugins"));
        let built = command.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    };
    build();
    let mut node = workspace.start(&[]).unwrap();
    let see = |key: &str| {
        workspace.write("lines-to-produce", format!("{{\"k\":\"{key}\"}}\n"));
        workspace.sluice(&["produce", "in", "lines-to-produce", "--key", "k"]).ok();
        workspace.until("all is dealt with", || workspace.pipeline("p")["lag"] == 0);
    };
    see("a");
    workspace.write("mine/src/lib.rs", counts("String", ".push('x')"));
    build();
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    see("b");
    assert_eq!(workspace.values("out"), ["1", "\"x\""]);
    see("a");
    workspace.until("it is taken out", || workspace.pipeline("p")["reload"]["problem"].is_string());
    let status = workspace.pipeline("p");
    let problem = status["reload"]["problem"].as_str().unwrap();
    assert!(problem.contains("state: invalid type"), "{problem}");
    assert_eq!((workspace.values("out").join(" ").as_str(), &status["dead"]), ("1 \"x\" 2", &0.into()));
    kill(&mut node);
}
