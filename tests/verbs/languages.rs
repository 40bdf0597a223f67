//! Every language has the same consumers (`plugins/LANGUAGE/CONSUMER`; Rust's are `plugins/CONSUMER`), and all make the same of the same events, byte for byte. A language is added by
//! adding a folder.

use std::fmt::Write;

use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, project};

const CONSUMERS: [&str; 5] = ["late-flights", "route-averages", "dedupe", "picky", "visits"];

/// A consumer, its configuration, and events.
struct Vector {
    name: &'static str,
    consumer: &'static str,
    config: Value,
    events: Vec<Value>,
}

/// The folders in `plugins` that hold consumers in other languages than Rust.
fn languages() -> Vec<String> {
    let folders = std::fs::read_dir(project().join("plugins")).unwrap().flatten().map(|entry| entry.path());
    let languages = folders.filter(|folder| CONSUMERS.iter().all(|consumer| folder.join(consumer).is_dir()));
    let mut names: Vec<_> =
        languages.map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn flights(count: usize) -> Vec<Value> {
    let lines = std::fs::read_to_string(project().join("pipelines/data/flights.ndjson")).unwrap();
    lines.lines().take(count).map(|line| json!({ "value": line })).collect()
}

/// What is no flight, and what is one in spite of how it looks.
fn odd_flights() -> Vec<Value> {
    let values = [
        "",
        " ",
        "no JSON",
        "{}",
        "[]",
        "null",
        "7",
        "{\"delay\":90,\"origin\":\"DTW\",\"destination\":\"LAS\"",
        "{\"delay\":90,\"origin\":\"DTW\",\"destination\":\"LAS\"}}",
        "{\"delay\":90,\"origin\":\"DTW\"}",
        "{\"delay\":90,\"origin\":\"DTW\",\"destination\":7}",
        "{\"delay\":\"90\",\"origin\":\"DTW\",\"destination\":\"LAS\"}",
        "{\"delay\":90,\"origin\":\"D\tW\",\"destination\":\"LAS\"}",
        "{\"delay\":90,\"origin\":\"DTW\",\"destination\":\"LAS\",}",
        " { \"destination\" : \"LAS\" , \"origin\":\"DTW\",\n\"delay\" : 90 } ",
        "{\"delay\":-90,\"origin\":\"DTW\",\"destination\":\"LAS\"}",
        "{\"delay\":0,\"origin\":\"\",\"destination\":\"\"}",
        "{\"delay\":90,\"origin\":\"\\\"q\\\\\\/\\n\\u00e9\\ud83d\\ude00\",\"destination\":\"Zürich 🛫\"}",
        "{\"delay\":90,\"origin\":\"DTW\",\"destination\":\"LAS\",\"more\":{\"a\":[1,2.5e3,true,null,\"}\"]}}",
        "{\"delay\":91,\"origin\":\"DTW\",\"destination\":\"LAS\"}",
    ];
    let mut events: Vec<_> = values.iter().map(|value| json!({ "value": value })).collect();
    events.push(json!({ "value": { "base64": "//4=" } }));
    events
}

fn keyed() -> Vec<Value> {
    let event =
        |key: Value, value: Value, timestamp: i64| json!({ "key": key, "value": value, "timestamp": timestamp });
    let binary = json!({ "base64": "AP/+gA==" });
    let mut events = vec![
        event(json!("a"), json!("first"), 0),
        event(json!("a"), json!("again"), 9_999),
        event(Value::Null, json!("no key"), 10_000),
        event(json!(""), json!("an empty key"), 10_000),
        event(json!(""), json!("again"), 10_000),
        event(binary.clone(), binary.clone(), 10_001),
        event(binary.clone(), json!("again"), 10_002),
        event(json!("a"), json!("after its time"), 30_000),
        event(json!("a"), json!("again"), 30_001),
        event(json!("ключ"), json!(""), 30_002),
        json!({ "key": "h", "value": "v", "timestamp": 30_003, "headers": [
            { "name": "plain", "value": "text" },
            { "name": "empty", "value": "" },
            { "name": "", "value": "no name" },
            { "name": "binary", "value": binary },
            { "name": "имя", "value": "значение" },
        ] }),
    ];
    for (number, size) in [0, 1, 7, 8, 9, 255, 4096, 65_535, 65_536, 1 << 20].into_iter().enumerate() {
        events.push(event(json!(format!("size-{number}")), json!("x".repeat(size - size.min(64))), 40_000));
    }
    events
}

fn picked(panics: bool) -> Vec<Value> {
    let mut values = vec![
        "",
        "fine",
        "bad",
        "MiXed 123 {|}~`@[",
        "say hello",
        "bad luck",
        "ä ß ǆ 🛫 stays",
        "badly",
        " bad",
        "down",
        "after",
    ];
    values.extend(panics.then_some(["panic", "after a panic", "panic too"]).into_iter().flatten());
    let mut events: Vec<_> = values.iter().map(|value| json!({ "key": "k", "value": value })).collect();
    events.push(json!({ "value": { "base64": "YWL/Yw==" } }));
    events.push(json!({ "value": { "base64": "7aCA" } }));
    events.push(json!({ "value": "the last" }));
    events
}

/// What sets timers, clears and replaces them, deletes and scans what is kept, and undoes all of it.
fn visited() -> Vec<Value> {
    let event = |key: &str, value: &str, timestamp: i64| json!({ "key": key, "value": value, "timestamp": timestamp });
    let mut events = vec![
        event("a", "first", 0),
        event("b", "first", 0),
        event("a", "again, which sets the timer anew", 400),
        event("who", "who ", 400),
        event("a", "the third, with a timer more", 800),
        event("b", "bad, but not quite", 900),
        // Fires what is due before: `b` fails afterwards with all it has set.
        event("b", "bad", 1_350),
        event("c", "bad", 1_350),
        event("a", "bye", 1_400),
        event("a", "from the start", 1_500),
        event("ab", "one", 1_600),
        event("abc", "two", 1_600),
        event("ab\u{0}", "three", 1_600),
        event("ä", "four", 1_600),
        event("who", "who a", 1_700),
        event("who", "who ab", 1_700),
        event("who", "who nobody", 1_700),
        json!({ "value": "no key", "timestamp": 1_800 }),
        event("late", "behind the others", 100),
        // All of these are due at once.
        event("d", "first", 10_000),
        event("d", "second", 10_000),
        event("d", "third, whose timer comes before the others", 10_000),
        event("d", "once more", 10_499),
        event("who", "who ", 10_500),
        event("d", "bye", 10_999),
    ];
    // More than a host hands over at once, some of which have left in the same call.
    events.extend((0..1_500).map(|number| event(&format!("many-{number}"), "here", 12_000)));
    events.extend((0..1_500).step_by(2).map(|number| event(&format!("many-{number}"), "bye", 12_100)));
    events.push(event("who", "who many-", 12_200));
    events.push(event("after", "all of them go", 20_000));
    events.push(event("who", "who ", 20_000));
    events
}

fn vectors() -> Vec<Vector> {
    let vector = |name, consumer, config, events| Vector { name, consumer, config, events };
    let many = || flights(10_000);
    vec![
        vector("none", "late-flights", json!({}), Vec::new()),
        vector("one", "late-flights", json!({}), flights(1)),
        vector("ten thousand", "late-flights", json!({ "threshold-minutes": 60 }), many()),
        vector("odd ones", "late-flights", json!({ "threshold-minutes": 0 }), odd_flights()),
        vector("none", "route-averages", json!({}), Vec::new()),
        vector("ten thousand", "route-averages", json!({}), many()),
        vector("odd ones", "route-averages", json!({}), odd_flights()),
        vector("keys, headers and sizes", "dedupe", json!({ "for-seconds": 10 }), keyed()),
        vector("failures", "picky", json!({}), picked(false)),
        vector("panics", "picky", json!({}), picked(true)),
        vector("timers and scans", "visits", json!({}), visited()),
    ]
}

/// What a plugin makes of a vector; of failures, which events and of what kind.
fn outcome(workspace: &Workspace, plugin: &str, vector: &Vector, options: &[&str]) -> Value {
    let mut lines = String::new();
    vector.events.iter().for_each(|event| writeln!(lines, "{event}").unwrap());
    workspace.write("events", lines);
    let config = vector.config.to_string();
    let arguments = ["plugin", "run", plugin, "--events", "events", "--events-json", "--config", &config, "--json"];
    let ran = workspace.sluice(&[&arguments, options].concat());
    let context = || format!("{plugin}, {}: {}{}", vector.name, ran.stdout, ran.stderr);
    assert!(matches!(ran.code, Some(0 | 1)), "{}", context());
    let mut came: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", context()));
    for failure in came["failures"].as_array_mut().unwrap() {
        let reason = failure["reason"].as_str().unwrap().to_owned();
        let event = &vector.events[failure["event"].as_u64().unwrap() as usize - 1]["value"];
        if event.as_str().is_some_and(|text| text.starts_with("panic")) {
            // Told in the language's own words: where it was, and what it said.
            assert!(reason.contains("makes it panic"), "{plugin}: {reason}");
            let place = ["consumer.", "lib.rs"].iter().any(|file| reason.contains(file));
            assert!(place, "{plugin}: {reason}");
            failure["reason"] = "panic".into();
        } else {
            let kind = ["permanent failure", "transient failure"].into_iter().find(|kind| reason.contains(kind));
            failure["reason"] = kind.unwrap_or(&reason).into();
        }
    }
    came
}

/// The first difference of two outcomes.
fn difference(one: &Value, other: &Value) -> Option<String> {
    let none = Vec::new();
    for part in ["outputs", "failures", "changes", "state"] {
        let [one, other] = [one, other].map(|outcome| outcome[part].as_array().unwrap_or(&none));
        let shown = |value: Option<&Value>| {
            let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            text.chars().take(300).collect::<String>()
        };
        for at in 0..one.len().max(other.len()) {
            if one.get(at) != other.get(at) {
                return Some(format!("{part} {at}: {} and not {}", shown(other.get(at)), shown(one.get(at))));
            }
        }
    }
    None
}

#[test]
fn consumers_in_every_language_make_the_same_of_the_same_events() {
    let workspace = Workspace::new();
    // With a data directory, what is compiled is kept.
    workspace.sluice(&["topic", "create", "in"]).ok();
    let languages = languages();
    assert!(languages.len() >= 4, "{languages:?}");
    for vector in vectors() {
        let rust = compare(&workspace, &vector, &[]);
        assert!(vector.events.len() <= 1 || !rust["outputs"].as_array().unwrap().is_empty());
    }
}

#[test]
fn each_event_changes_the_same_in_every_language() {
    let workspace = Workspace::new();
    workspace.sluice(&["topic", "create", "in"]).ok();
    // Not where timers fire: they are dealt with in the call of the event they are due before, or in one of their own, by the plugin's world.
    let stateful = ["route-averages", "dedupe"];
    for mut vector in vectors().into_iter().filter(|vector| stateful.contains(&vector.consumer)) {
        vector.events.truncate(2_000);
        let rust = compare(&workspace, &vector, &["--changes"]);
        let changes = rust["changes"].as_array().unwrap();
        assert!(vector.events.is_empty() || changes.len() >= 5, "{}: {changes:?}", vector.name);
    }
}

/// Gives a vector to every language's consumer: what comes of it, which is the same for all.
fn compare(workspace: &Workspace, vector: &Vector, options: &[&str]) -> Value {
    let rust = outcome(workspace, &format!("plugins/{}", vector.consumer), vector, options);
    for language in languages() {
        let plugin = format!("plugins/{language}/{}", vector.consumer);
        let came = outcome(workspace, &plugin, vector, options);
        if let Some(difference) = difference(&rust, &came) {
            panic!("{plugin}, {}: {difference}", vector.name);
        }
    }
    rust
}

/// What version 0 of `visits` may have kept, and what comes then.
#[test]
fn state_of_an_older_version_is_brought_over_in_every_language() {
    let workspace = Workspace::new();
    let kept =
        |name: &str, value: &str, expires: Option<i64>| json!({ "key": name, "value": value, "expires": expires });
    let before = vec![
        kept("visit/a", "2", None),
        kept("visit/b", "0", None),
        kept("visit/c", "41", Some(5_000)),
        kept("visit/d", "7", Some(1_000)),
    ];
    let many = (0..12_000).map(|number| kept(&format!("visit/z-{number:05}"), "9", None));
    let told = json!({ "state_version": 0, "state": before.iter().cloned().chain(many).collect::<Vec<_>>() });
    workspace.write("before", told.to_string());
    let event =
        |key: &str, value: &str, time: i64| json!({ "key": key, "value": value, "timestamp": time }).to_string();
    let asked = ["who a", "who c", "who d", "who z-11"].map(|asked| event("who", asked, 2_000));
    let events = [event("a", "the third", 100), event("c", "x", 200), asked.join("\n")].join("\n");
    workspace.write("events", events);
    let run = |plugin: &str, state: &str| {
        let arguments = ["plugin", "run", plugin, "--events", "events", "--events-json", "--state", state, "--json"];
        workspace.sluice(&arguments)
    };
    let rust: Value = serde_json::from_str(&run("plugins/visits", "before").ok()).unwrap();
    assert_eq!(rust["state"].as_array().unwrap().len(), 12_000);
    assert_eq!(rust["state_version"], 1);
    let values: Vec<_> = rust["outputs"].as_array().unwrap().iter().map(|output| &output["value"]).collect();
    assert!(values.contains(&&json!("third 3 at 600")), "{:?}", &values[..4]);
    workspace.write("odd", json!({ "state_version": 0, "state": [kept("visit/a", "many", None)] }).to_string());
    for language in languages() {
        let plugin = format!("plugins/{language}/visits");
        let came = serde_json::from_str(&run(&plugin, "before").ok()).unwrap();
        if let Some(difference) = difference(&rust, &came) {
            panic!("{plugin}: {difference}");
        }
        let ran = run(&plugin, "odd");
        let told = ran.fails(1);
        assert!(told.contains("permanent failure"), "{plugin}: {told}");
    }
    // An older plugin never sees newer state.
    workspace.write("newer", json!({ "state_version": 2, "state": before }).to_string());
    let told = run("plugins/visits", "newer").fails(1);
    assert!(told.contains("version 2"), "{told}");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_in_every_language() {
    let workspace = Workspace::new();
    workspace.write("events", "{\"value\":\"x\"}\n");
    for language in languages() {
        for (consumer, config) in [("late-flights", "{\"treshold\":1}"), ("picky", "{\"a\":1}")] {
            let plugin = format!("plugins/{language}/{consumer}");
            let ran = workspace.sluice(&["plugin", "run", &plugin, "--events", "events", "--config", config]);
            let told = ran.fails(2);
            assert!(told.contains("init refused the configuration"), "{plugin}: {told}");
        }
    }
}

/// Looks at all that the world of a program has.
const LOOKS_AROUND: &str = r#"
import os, random, socket, sys, time, uuid

class Consumer:
    def process(self, event, out):
        told = []
        def tell(what, look):
            try:
                told.append(f"{what}: {look()}")
            except OSError as error:
                told.append(f"{what}: {type(error).__name__}")
        tell("environment", lambda: dict(os.environ))
        tell("arguments", lambda: sys.argv[1:])
        tell("file", lambda: open("/etc/passwd").read())
        tell("folder", lambda: os.listdir("/"))
        tell("write", lambda: open("x", "w"))
        tell("socket", lambda: socket.socket().connect(("127.0.0.1", 80)))
        tell("name", lambda: socket.getaddrinfo(b"example.com", 80))
        tell("standard input", lambda: repr(sys.stdin.read()))
        before = time.monotonic()
        time.sleep(3600)
        tell("slept", lambda: round(time.monotonic() - before))
        tell("year", lambda: time.gmtime().tm_year)
        tell("random", lambda: (random.random(), uuid.uuid4(), os.urandom(4).hex()))
        print("printed by", event.value.decode())
        sys.stdout.flush()
        out.send(event.key, "\n".join(told).encode())
        if event.value == b"exit":
            os._exit(3)
"#;

#[test]
fn a_component_that_wants_wasi_gets_a_world_with_nothing_in_it() {
    let workspace = Workspace::new();
    workspace.sluice(&["plugin", "new", "looks", "--lang", "python"]).ok();
    workspace.write("looks/src/consumer.py", LOOKS_AROUND);
    workspace.sluice(&["plugin", "build", "looks"]).ok();
    // As its tool makes it when nobody tells it to leave out WASI.
    let tool = project().join("target/toolchains/componentize-py-0.25.1/bin/componentize-py");
    let options = ["-d", "looks/build/sdk/wit", "-w", "of-this", "componentize", "-p", "looks/src"];
    let made = std::process::Command::new(tool)
        .current_dir(workspace.path(""))
        .args(options)
        .args(["-p", "looks/build/sdk", "sluice_plugin", "-o", "foreign.wasm"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let inspected = workspace.sluice(&["plugin", "inspect", "foreign.wasm"]).ok();
    assert!(inspected.contains("wasi:filesystem/types@0.2."), "{inspected}");
    workspace.write("events", "one\ntwo\nexit\n");
    let run = || {
        let mut command = workspace.command(&["plugin", "run", "foreign.wasm", "--events", "events", "--json"]);
        let ran = command.env("SLUICE_LOG", "info").output().unwrap();
        let log = String::from_utf8_lossy(&ran.stderr).into_owned();
        (serde_json::from_slice::<Value>(&ran.stdout).unwrap_or_else(|_| panic!("{log}")), log)
    };
    let (came, log) = run();
    assert!(log.contains("printed by one"), "{log}");
    let told = came["outputs"][0]["value"].as_str().unwrap();
    for expected in [
        "environment: {}",
        "arguments: []",
        "file: FileNotFoundError",
        "slept: 3600",
        "year: 1970",
        "standard input: ''",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    for nothing in ["folder: [", "write: <", "socket: None", "name: ["] {
        assert!(!told.contains(nothing), "{told}");
    }
    assert_eq!(came["outputs"].as_array().unwrap().len(), 2);
    assert_eq!(came["failures"][0]["event"], 3);
    assert!(came["failures"][0]["reason"].as_str().unwrap().contains("it ended its process"), "{}", came["failures"]);
    // A replay comes to the same.
    assert_eq!(run().0["outputs"], came["outputs"]);
}

/// The consumer that a language's guide begins with, and the file it belongs in.
fn guide(language: &str) -> (String, &'static str) {
    let file = match language {
        "rust" => "src/lib.rs",
        "go" => "consumer.go",
        "python" => "src/consumer.py",
        "js" => "src/consumer.js",
        "c" => "src/consumer.c",
        "zig" => "src/consumer.zig",
        "assemblyscript" => "assembly/consumer.ts",
        other => panic!("no guide for {other}"),
    };
    let page = std::fs::read_to_string(project().join(format!("guest-sdk/{language}/README.md"))).unwrap();
    let (_, block) = page.split_once("\n```").unwrap();
    let (_, code) = block.split_once('\n').unwrap();
    (code.split_once("\n```").unwrap().0.to_owned() + "\n", file)
}

#[test]
fn a_plugin_is_begun_built_tested_and_run_in_every_language() {
    let workspace = Workspace::new();
    workspace.write("events", "hello\n\n");
    for language in ["rust", "go", "python", "js", "ts", "c", "cpp", "zig", "assemblyscript"] {
        let name = format!("{language}-capitals");
        let told = workspace.sluice(&["plugin", "new", &name, "--lang", language]).ok();
        assert!(told.contains("sluice plugin build"), "{told}");
        let built = workspace.sluice(&["plugin", "build", &name]).ok();
        assert!(built.contains("nothing to be granted"), "{language}: {built}");
        let tested = workspace.sluice(&["test", &name]).ok();
        assert!(tested.contains("2 passed, 0 failed"), "{language}: {tested}");
        let ran = workspace.sluice(&["plugin", "run", &name, "--events", "events"]);
        assert_eq!(ran.code, Some(1), "{language}: an event failed");
        assert!(
            ran.stdout.contains("out  -  HELLO\n") && ran.stdout.contains("it is empty"),
            "{language}: {}",
            ran.stdout
        );
    }
    assert!(workspace.sluice(&["plugin", "new", "c-capitals", "--lang", "c"]).fails(2).contains("is there already"));
    assert!(workspace.sluice(&["plugin", "new", "Großes"]).fails(2).contains("not a name for a plugin"));
    assert!(workspace.sluice(&["plugin", "build", "pipelines"]).fails(2).contains("not a plugin's folder"));
    workspace.write("c-capitals/src/consumer.c", "int oops");
    assert!(workspace.sluice(&["plugin", "build", "c-capitals"]).fails(1).contains("does not build"));
    // What built well stays.
    assert!(workspace.sluice(&["test", "c-capitals"]).ok().contains("2 passed"));
    workspace.write("user", "{\"user\":\"a\"}\n");
    for language in ["rust", "go", "python", "js", "c", "zig", "assemblyscript"] {
        let ((example, file), name) = (guide(language), format!("{language}-capitals"));
        workspace.write(&format!("{name}/{file}"), example);
        workspace.sluice(&["plugin", "build", &name]).ok();
        let ran = workspace.sluice(&["plugin", "run", &name, "--events", "user", "--key", "user"]).ok();
        assert!(ran.contains("1 outputs, 0 failures"), "the example of the guide, {language}: {ran}");
    }
}
