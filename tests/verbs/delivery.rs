//! Chains, several sources, the three deliveries, and guests that no SDK built.

use serde_json::Value;
use sluice_tests::sluice::{Workspace, project};

/// A pipeline of the stages, over the topic `words`, into `out`.
fn pipeline(delivery: &str, stages: &str) -> String {
    format!(
        "name = \"p\"\ndelivery = {delivery:?}\n[source]\ntopics = [\"words\"]\n{stages}\n[[sink]]\ntopic = \"out\"\npartition-by = \"source\"\n"
    )
}

/// A folder with the guests in WAT and C beside the pipelines, and a topic `words`.
fn with_guests() -> Workspace {
    let workspace = Workspace::new();
    let guests = project().join("tests/guests");
    let echo = wat::parse_file(guests.join("echo.wat")).unwrap();
    workspace.write("pipelines/echo.wasm", echo);
    workspace.write("pipelines/upper.wasm", std::fs::read(guests.join("upper.wasm")).unwrap());
    workspace.sluice(&["topic", "create", "words"]).ok();
    workspace
}

const CHAIN: &str = "[[stage]]\nplugin = \"echo.wasm\"\nkeys = \"unchanged\"\n[[stage]]\nplugin = \"../plugins/pass-through\"\n[[stage]]\nplugin = \"upper.wasm\"";

#[test]
fn a_chain_of_wat_rust_and_c_runs_with_every_delivery() {
    for delivery in ["exactly-once", "at-least-once", "at-most-once"] {
        let workspace = with_guests();
        workspace.write("pipelines/p.toml", pipeline(delivery, CHAIN));
        let checked = workspace.sluice(&["check"]).ok();
        assert!(checked.contains(delivery) && checked.contains("world consumer, a core module"), "{checked}");
        workspace.produce("words", &["one", "two", "three"]);
        workspace.sluice(&["run", "--until-idle"]).ok();
        assert_eq!(workspace.values("out"), ["ONE", "TWO", "THREE"], "{delivery}");
        let origins: Vec<_> = workspace.events("out").iter().map(|event| event["origin"]["offset"].clone()).collect();
        assert_eq!(origins, [0, 1, 2]);
        let account = &workspace.json(&["audit"])["accounts"][0];
        let counts = ["read", "committed", "filtered", "lost"].map(|name| account[name].as_u64().unwrap());
        assert_eq!((counts, &account["balances"]), ([3, 3, 0, 0], &Value::Bool(true)), "{delivery}");
    }
}

#[test]
fn a_later_stage_that_fails_halts_at_the_source_event_it_comes_from() {
    for delivery in ["exactly-once", "at-least-once", "at-most-once"] {
        let workspace = with_guests();
        workspace.write("pipelines/p.toml", pipeline(delivery, CHAIN) + "[errors]\non-error = \"halt\"\n");
        workspace.produce("words", &["one", "two", "!", "three"]);
        let stderr = workspace.sluice(&["run", "--until-idle"]).fails(1);
        assert!(stderr.contains("words/0 offset 2") && stderr.contains("stage upper"), "{stderr}");
        assert!(stderr.contains("exclamation mark"), "{stderr}");
        assert_eq!(workspace.values("out"), ["ONE", "TWO"], "{delivery}");
        let audit = workspace.json(&["audit"]);
        assert_eq!(audit["accounts"][0]["balances"], true, "{audit}");
    }
}

#[test]
fn several_topics_are_read_and_sinks_are_named() {
    let workspace = with_guests();
    workspace.sluice(&["topic", "create", "more", "--partitions", "3"]).ok();
    let text =
        pipeline("exactly-once", "[[stage]]\nplugin = \"upper.wasm\"").replace("[\"words\"]", "[\"words\", \"more\"]");
    workspace.write("pipelines/p.toml", &text);
    workspace.produce("words", &["a"]);
    workspace.produce("more", &["b"]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    // The sink has as many partitions as the widest source.
    assert_eq!(workspace.json(&["topic", "describe", "out"])["partitions"].as_array().unwrap().len(), 3);
    let mut values = workspace.values("out");
    values.sort();
    assert_eq!(values, ["A", "B"]);

    // To stop reading a topic would lose its cursor: it is refused, with what to do.
    workspace.write("pipelines/p.toml", text.replace(", \"more\"", ""));
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(2);
    assert!(stderr.contains("\"more\"") && stderr.contains("sluice pipeline delete p"), "{stderr}");
}

#[test]
fn a_stage_that_breaks_its_promise_about_keys_is_told_so() {
    let workspace = Workspace::new();
    workspace.write(
        "pipelines/p.toml",
        "name = \"p\"\n[source]\ntopics = [\"flights\"]\n[[stage]]\nplugin = \"../plugins/late-flights\"\nkeys = \"unchanged\"\n[[sink]]\ntopic = \"out\"\n[errors]\non-error = \"halt\"\n",
    );
    workspace.sluice(&["topic", "create", "flights"]).ok();
    workspace.produce("flights", &[r#"{"delay":66,"origin":"DTW","destination":"LAS"}"#]);
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(1);
    assert!(stderr.contains("another key") && stderr.contains("flights/0 offset 0"), "{stderr}");
    assert!(workspace.values("out").is_empty());
}

#[test]
fn a_changed_definition_is_a_new_generation_and_topics_are_kept_as_declared() {
    let workspace = with_guests();
    let text = pipeline("exactly-once", "[[stage]]\nplugin = \"upper.wasm\"");
    workspace.write("pipelines/p.toml", &text);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.pipeline("p")["generation"], 1);
    let topic = "[[topic]]\nname = \"out\"\nretention = { age = \"7d\" }\ncompression = \"lz4\"\n";
    workspace.write("pipelines/p.toml", format!("{text}{topic}"));
    let stderr = workspace.sluice(&["run", "--until-idle"]);
    assert!(stderr.stderr.contains("other definition than before"), "{}", stderr.stderr);
    assert_eq!(workspace.pipeline("p")["generation"], 2);
    let out = workspace.json(&["topic", "describe", "out"]);
    assert_eq!((&out["compression"], &out["retention-age-ms"]), (&"lz4".into(), &604_800_000.into()));
    workspace.write("pipelines/p.toml", text + "[[topic]]\nname = \"out\"\npartitions = 5\n");
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(2);
    assert!(stderr.contains("exists with 1 partitions"), "{stderr}");
}

#[test]
fn at_most_once_accounts_for_every_event_of_many_batches() {
    let workspace = with_guests();
    workspace.write("pipelines/p.toml", pipeline("at-most-once", CHAIN));
    let lines: Vec<String> = (0..60_000).map(|number| format!("word {number}")).collect();
    workspace.produce("words", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    workspace.sluice(&["run", "--until-idle"]).ok();
    let account = &workspace.json(&["audit"])["accounts"][0];
    let counts = ["read", "committed", "lost"].map(|name| account[name].as_u64().unwrap());
    assert_eq!((counts, &account["balances"]), ([60_000, 60_000, 0], &Value::Bool(true)), "{account}");
    assert_eq!(workspace.values("out").len(), 60_000);
}

#[test]
fn more_partitions_than_instances_are_served_and_served_again() {
    let workspace = with_guests();
    workspace.sluice(&["topic", "create", "many", "--partitions", "600"]).ok();
    let text = pipeline("exactly-once", "[[stage]]\nplugin = \"upper.wasm\"").replace("[\"words\"]", "[\"many\"]");
    workspace.write("pipelines/p.toml", &text);
    let lines: Vec<String> = (0..3000).map(|number| format!(r#"{{"k":"{number}"}}"#)).collect();
    workspace.write("lines", lines.join("\n"));
    let mut node = workspace.start(&[]).unwrap();
    for round in 1..=3 {
        workspace.sluice(&["produce", "many", "lines", "--key", "k"]).ok();
        workspace.until("all is read", || {
            let pipeline = workspace.pipeline("p");
            pipeline["lag"] == 0 && pipeline["committed"] == 3000 * round
        });
    }
    sluice_tests::sluice::kill(&mut node);
    let mut values = workspace.values("out");
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 3000);
}

#[test]
fn fixtures_pass_differ_or_are_refused() {
    let workspace = with_guests();
    workspace.write("pipelines/p.toml", pipeline("exactly-once", CHAIN));
    let fixture = "pipeline = \"p.toml\"\n[[case]]\nname = \"shouts\"\n[[case.given]]\nvalue = \"hello\"\nkey = \"k\"\n[[case.given]]\nvalue = \"!\"\n[[case.expect]]\nvalue = \"HELLO\"\nkey = \"k\"\n[[case.failure]]\nevent = 2\nstage = \"upper\"\n";
    workspace.write("pipelines/p.test.toml", fixture);
    assert!(workspace.sluice(&["test", "pipelines"]).ok().contains("1 passed, 0 failed"));
    workspace.write("pipelines/p.test.toml", fixture.replace("HELLO", "HALLO"));
    let ran = workspace.sluice(&["test"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("- {\"key\":\"k\",\"value\":\"HALLO\"}"), "{}", ran.stdout);
    assert!(ran.stdout.contains("+ {\"key\":\"k\",\"value\":\"HELLO\"}"), "{}", ran.stdout);
    workspace.write("pipelines/p.test.toml", fixture.replace("value = \"hello\"", "valeu = \"hello\""));
    let stderr = workspace.sluice(&["test"]).fails(2);
    assert!(stderr.contains("valeu") && stderr.contains("did you mean"), "{stderr}");
    // A fixture is no pipeline, and leaves no data directory behind.
    workspace.sluice(&["check"]).ok();
    assert!(!workspace.path(".sluice/cache").exists());
}
