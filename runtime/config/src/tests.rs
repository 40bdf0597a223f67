use std::path::Path;
use std::time::Duration;

use crate::{Allow, Diff, Pipeline, Reload, Time, check_together};

fn rendered(text: &str) -> String {
    let found = Pipeline::parse(Path::new("pipelines/late.toml"), text).unwrap_err();
    found.iter().map(|diagnostic| diagnostic.render(false)).collect::<Vec<_>>().join("\n\n")
}

const GOOD: &str =
    "name = \"late\"\n[source]\ntopics = [\"flights\"]\n[[stage]]\nplugin = \"../plugins/late-flights\"\n";

#[test]
fn the_smallest_definition_is_enough() {
    let pipeline = Pipeline::parse(Path::new("pipelines/late.toml"), GOOD).unwrap();
    let stage = &pipeline.stages[0];
    assert_eq!(stage.plugin, Path::new("pipelines/../plugins/late-flights"));
    assert_eq!((stage.name.as_str(), stage.config.as_str()), ("late-flights", "{}"));
}

#[test]
fn a_misspelt_key_is_shown_with_its_line_and_the_right_one() {
    insta::assert_snapshot!(rendered(&GOOD.replace("topics =", "topcis =")), @r#"
    error: unknown field `topcis`
     --> pipelines/late.toml:3:1
      |
    3 | topcis = ["flights"]
      | ^^^^^^
      |
      = help: did you mean `topics`?
    "#);
}

#[test]
fn a_wrong_type_is_shown_with_its_line() {
    insta::assert_snapshot!(rendered(&GOOD.replace("[\"flights\"]", "\"flights\"")), @r#"
    error: invalid type: string "flights"
     --> pipelines/late.toml:3:10
      |
    3 | topics = "flights"
      |          ^^^^^^^^^
      |
      = help: expected a sequence
    "#);
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = format!(
        "{GOOD}limits = {{ memory = \"lots\", call-timeout = \"1ms\" }}\n[[sink]]\ntopic = \"flights\"\npartition-by = \"luck\"\n"
    );
    insta::assert_snapshot!(rendered(&text), @r#"
    error: not a size: "lots"; write a whole number and B, KiB, MiB or GiB, such as "64MiB"
     --> pipelines/late.toml:6:21
      |
    6 | limits = { memory = "lots", call-timeout = "1ms" }
      |                     ^^^^^^

    error: call-timeout is out of bounds
     --> pipelines/late.toml:6:44
      |
    6 | limits = { memory = "lots", call-timeout = "1ms" }
      |                                            ^^^^^
      |
      = help: 10ms to 1h

    error: unknown partition-by: "luck"
     --> pipelines/late.toml:9:16
      |
    9 | partition-by = "luck"
      |                ^^^^^^
      |
      = help: write "key", "round-robin" or "source"

    error: the sink is the source: flights
     --> pipelines/late.toml:8:9
      |
    8 | topic = "flights"
      |         ^^^^^^^^^
      |
      = help: write to another topic
    "#);
}

#[test]
fn what_is_wrong_about_reloads_is_shown_where_it_stands() {
    let good = "[reload]\nwatch = false\nprobation = { batches = 5, time = \"2s\" }\nhold-outputs = true\ndiff = { last = \"1h\" }\n";
    let parsed = Pipeline::parse(Path::new("p.toml"), &format!("{GOOD}{good}")).unwrap().reload;
    let diff = Some(Diff { last: Duration::from_secs(3600), allow: Allow::None });
    let expected = Reload { watch: false, batches: 5, time: Duration::from_secs(2), hold_outputs: true, diff };
    assert_eq!(parsed, expected);
    let bad =
        "[reload]\nprobation = { batches = 0, time = \"0s\" }\nhold-outputs = true\ndiff = { allow = \"some\" }\n";
    insta::assert_snapshot!(rendered(&format!("{GOOD}{bad}")), @r#"
    error: time is out of bounds
     --> pipelines/late.toml:7:35
      |
    7 | probation = { batches = 0, time = "0s" }
      |                                   ^^^^
      |
      = help: 1ms to 24h

    error: hold-outputs goes with a probation
     --> pipelines/late.toml:8:16
      |
    8 | hold-outputs = true
      |                ^^^^
      |
      = help: without a probation nothing is held: write `batches = 1` or more

    error: it does not say how much is compared
     --> pipelines/late.toml:9:8
      |
    9 | diff = { allow = "some" }
      |        ^^^^^^^^^^^^^^^^^^
      |
      = help: diff = { last = "1h", allow = "none" }
    "#);
    let late = GOOD.replace("[source]", "delivery = \"at-most-once\"\n[source]");
    let bad = "[reload]\nhold-outputs = true\ndiff = { last = \"1h\", allow = \"some\" }\n";
    insta::assert_snapshot!(rendered(&format!("{late}{bad}")), @r#"
    error: at-most-once moves the cursor before the call: outputs that are held back would be lost with it
     --> pipelines/late.toml:8:16
      |
    8 | hold-outputs = true
      |                ^^^^
      |
      = help: leave it out, or use another delivery

    error: unknown allow: "some"
     --> pipelines/late.toml:9:31
      |
    9 | diff = { last = "1h", allow = "some" }
      |                               ^^^^^^
      |
      = help: write "none", "added" or "all"
    "#);
}

#[test]
fn what_is_wrong_about_time_is_shown_where_it_stands() {
    let text = "[time]\nlateness = \"soon\"\nlate-sink = \"nowhere\"\n";
    insta::assert_snapshot!(rendered(&format!("{GOOD}{text}")), @r#"
    error: [time] says nothing to stages without state and timers
     --> pipelines/late.toml:6:1
      |
    6 | [time]
      | ^^^^^^
      |
      = help: grant a stage `capabilities = ["state", "timers"]`, or leave this section out

    error: not a duration: "soon"; write a whole number and ms, s, m, h or d, such as "200ms" or "2s"
     --> pipelines/late.toml:7:12
      |
    7 | lateness = "soon"
      |            ^^^^^^

    error: unknown sink: "nowhere"
     --> pipelines/late.toml:8:13
      |
    8 | late-sink = "nowhere"
      |             ^^^^^^^^^
      |
      = help: name one of the pipeline's sinks: []
    "#);
    let keeps = format!("{GOOD}capabilities = [\"timers\"]\n");
    let text = "[time]\nlateness = \"5s\"\nidle-after = \"1m\"\nmax-ahead = \"2h\"\nlate-sink = \"out\"\n[[sink]]\ntopic = \"out\"\n";
    let pipeline = Pipeline::parse(Path::new("late.toml"), &format!("{keeps}{text}")).unwrap();
    let seconds = Duration::from_secs;
    let (lateness, idle_after, max_ahead) = (seconds(5), seconds(60), seconds(7200));
    let late_sink = Some(pipeline.sinks.len() - 1);
    assert_eq!(pipeline.time, Time { lateness, idle_after, max_ahead, late_sink });
    assert!(pipeline.has_state() && !pipeline.stages[0].state);
}

#[test]
fn what_is_wrong_about_errors_is_shown_where_it_stands() {
    let text = "[errors]\non-error = \"ignore\"\nretry = { attempts = 0, max-backoff = \"2h\" }\nbreaker = { window = 10, max-failures = 11 }\n";
    insta::assert_snapshot!(rendered(&format!("{GOOD}{text}")), @r#"
    error: the number is out of bounds
     --> pipelines/late.toml:8:22
      |
    8 | retry = { attempts = 0, max-backoff = "2h" }
      |                      ^
      |
      = help: 1 to 1000

    error: max-backoff is out of bounds
     --> pipelines/late.toml:8:39
      |
    8 | retry = { attempts = 0, max-backoff = "2h" }
      |                                       ^^^^
      |
      = help: 1ms to 1h

    error: unknown on-error: "ignore"
     --> pipelines/late.toml:7:12
      |
    7 | on-error = "ignore"
      |            ^^^^^^^^
      |
      = help: write "dead-letter", "halt" or "skip"

    error: the number is out of bounds
     --> pipelines/late.toml:9:41
      |
    9 | breaker = { window = 10, max-failures = 11 }
      |                                         ^^
      |
      = help: 0 to 10
    "#);
    let text = "[errors]\non-error = \"halt\"\ndead-letter-topic = \"d\"\n";
    insta::assert_snapshot!(rendered(&format!("{GOOD}{text}")), @r#"
    error: no dead letters are written with this on-error
     --> pipelines/late.toml:8:21
      |
    8 | dead-letter-topic = "d"
      |                     ^^^
      |
      = help: leave it out, or write on-error = "dead-letter"
    "#);
}

#[test]
fn everything_of_the_design_that_is_there_is_read() {
    let text = r#"
name = "all"
delivery = "at-least-once"
[source]
topics = ["a", "b"]
start = "2026-01-31T12:00:00Z"
[[stage]]
plugin = "one.wasm"
keys = "unchanged"
[[stage]]
plugin = "two.wasm"
[[sink]]
topic = "c"
partition-by = "round-robin"
[[topic]]
name = "c"
partitions = 4
retention = { age = "7d", size = "10GiB", past-cursors = true }
compression = "zstd"
[batch]
max-events = 100
linger = "5ms"
commit-every = "2s"
[errors]
retry = { attempts = 3, initial-backoff = "1s", max-backoff = "1m" }
dead-letter-topic = "graveyard"
breaker = { window = 100, max-failures = 5 }
"#;
    let pipeline = Pipeline::parse(Path::new("all.toml"), text).unwrap();
    assert_eq!(pipeline.start, crate::Start::Time(1_769_860_800_000));
    let (errors, seconds) = (&pipeline.errors, std::time::Duration::from_secs);
    assert_eq!((errors.attempts, errors.initial_backoff, errors.max_backoff), (3, seconds(1), seconds(60)));
    assert_eq!((errors.dead_letter_topic.as_str(), errors.window, errors.max_failures), ("graveyard", 100, 5));
    assert_eq!(errors.on_error, crate::OnError::DeadLetter);
    let written: Vec<_> = pipeline.written().map(|(_, topic)| topic).collect();
    assert_eq!(written, ["c", "graveyard"]);
    assert_eq!((pipeline.sources.len(), pipeline.stages.len()), (2, 2));
    assert!(pipeline.stages[0].keys_unchanged && !pipeline.stages[1].keys_unchanged);
    assert_eq!((pipeline.batch.linger.as_millis(), pipeline.batch.commit_every.as_secs()), (5, 2));
    assert_eq!(pipeline.topics[0].retention.size, Some(10 << 30));
}

#[test]
fn a_chain_is_checked() {
    let text = format!(
        "{GOOD}[[stage]]\nplugin = \"../plugins/late-flights\"\ncapabilities = [\"state\"]\nkeys = \"kept\"\n[batch]\ncommit-every = \"1s\"\n"
    );
    insta::assert_snapshot!(rendered(&text), @r#"
    error: state on a later stage, but stage "late-flights" may change keys
     --> pipelines/late.toml:8:16
      |
    8 | capabilities = ["state"]
      |                ^^^^^^^^^
      |
      = help: write `keys = "unchanged"` in every earlier stage; or re-key through a topic: a sink with partition-by = "key", and a second pipeline

    error: unknown promise: "kept"
     --> pipelines/late.toml:9:8
      |
    9 | keys = "kept"
      |        ^^^^^^
      |
      = help: write "unchanged", or leave it out

    error: two stages of one name: "late-flights"
     --> pipelines/late.toml:7:10
      |
    7 | plugin = "../plugins/late-flights"
      |          ^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: give each its own `name`: it is the identity of a stage's state

    error: commit-every means nothing with exactly-once
      --> pipelines/late.toml:11:16
       |
    11 | commit-every = "1s"
       |                ^^^^
       |
       = help: leave it out: the cursor moves with each batch
    "#);
}

#[test]
fn topics_that_are_declared_otherwise_elsewhere_are_refused() {
    let parse = |name: &str, size: &str| {
        let text = GOOD.replace("\"late\"", &format!("{name:?}"));
        let text = format!("{text}[[topic]]\nname = \"t\"\nretention = {{ size = {size:?} }}\n");
        Pipeline::parse(Path::new(name), &text).unwrap()
    };
    assert!(check_together(&[parse("one", "1GiB"), parse("two", "1GiB")]).is_ok());
    let found = check_together(&[parse("one", "1GiB"), parse("two", "2GiB")]).unwrap_err();
    assert!(found[0].message.contains("declared otherwise"), "{}", found[0].message);
}

#[test]
fn pipelines_that_feed_each_other_are_refused() {
    let parse = |name: &str, source: &str, sink: &str| {
        let text = GOOD.replace("\"late\"", &format!("{name:?}")).replace("\"flights\"", &format!("{source:?}"));
        Pipeline::parse(Path::new(name), &format!("{text}[[sink]]\ntopic = {sink:?}\n")).unwrap()
    };
    let (there, back) = (parse("there", "a", "b"), parse("back", "b", "a"));
    assert!(check_together(std::slice::from_ref(&there)).is_ok());
    let found = check_together(&[there, back]).unwrap_err();
    assert!(found[0].message.starts_with("a cycle"), "{}", found[0].message);
}
