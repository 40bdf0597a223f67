//! Events that fail: tried again, dead-lettered, skipped, in the way; and what an operator does about them.

use serde_json::Value;
use sluice_tests::sluice::{Workspace, kill, project, terminate};

const DELIVERIES: [&str; 3] = ["exactly-once", "at-least-once", "at-most-once"];

/// A workspace whose pipeline `p` has the plugin `picky` read `in` and write `out`.
fn picky(delivery: &str, errors: &str) -> Workspace {
    let workspace = Workspace::new();
    let text = format!(
        r#"name = "p"
delivery = "{delivery}"
[source]
topics = ["in"]
[[stage]]
plugin = "../plugins/picky"
limits = {{ call-timeout = "200ms" }}
[[sink]]
topic = "out"
[errors]
{errors}
"#
    );
    workspace.write("pipelines/p.toml", text);
    workspace.sluice(&["topic", "create", "in"]).ok();
    workspace
}

const QUICK: &str = "retry = { attempts = 3, initial-backoff = \"5ms\", max-backoff = \"20ms\" }";

/// The letters of `p`: what each says of its failure.
fn letters(workspace: &Workspace) -> Vec<Value> {
    let letter = |event: Value| {
        let headers = event["headers"].as_array().unwrap();
        let header = headers.last().unwrap();
        assert_eq!(header["name"], "sluice-dead-letter");
        serde_json::from_str(header["value"].as_str().unwrap()).unwrap()
    };
    workspace.events("p.dead").into_iter().map(letter).collect()
}

pub(crate) fn balances(workspace: &Workspace) {
    let audit = workspace.json(&["audit"]);
    for account in audit["accounts"].as_array().unwrap() {
        assert_eq!(account["balances"], true, "{audit}");
    }
}

#[test]
fn each_kind_of_failure_costs_its_own_event_only() {
    for delivery in DELIVERIES {
        let workspace = picky(delivery, QUICK);
        let lines = ["a", "bad", "b", "panic", "c", "loop", "d", "flaky 3", "e", "down", "f"];
        workspace.produce("in", &lines);
        workspace.sluice(&["run", "--until-idle"]).ok();
        assert_eq!(workspace.values("out"), ["A", "B", "C", "D", "FLAKY 3", "E", "F"], "{delivery}");
        let letters = letters(&workspace);
        let told: Vec<_> =
            letters.iter().map(|l| (l["kind"].as_str().unwrap(), l["offset"].as_u64().unwrap())).collect();
        assert_eq!(told, [("permanent", 1), ("trap", 3), ("timeout", 5), ("transient", 9)], "{delivery}");
        assert_eq!(letters[0]["reason"], "event 1 is bad");
        assert_eq!((&letters[0]["attempts"], &letters[3]["attempts"]), (&1.into(), &3.into()), "{letters:?}");
        assert!(letters[1]["reason"].as_str().unwrap().contains("event 3 makes it panic"), "{letters:?}");
        let backtrace = letters[1]["backtrace"].to_string();
        assert!(backtrace.contains("picky::Picky") || backtrace.contains("panic"), "{backtrace}");
        assert!(letters[2]["reason"].as_str().unwrap().contains("limits.call-timeout"), "{letters:?}");
        assert_eq!(workspace.values("p.dead"), ["bad", "panic", "loop", "down"]);
        let status = workspace.pipeline("p");
        assert_eq!((&status["dead"], &status["committed"]), (&4.into(), &7.into()), "{status}");
        balances(&workspace);
    }
}

#[test]
fn what_is_skipped_is_counted_and_what_halts_can_be_passed_over() {
    let workspace = picky("exactly-once", &format!("on-error = \"skip\"\n{QUICK}"));
    workspace.produce("in", &["a", "bad", "panic", "b"]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out"), ["A", "B"]);
    assert_eq!(workspace.pipeline("p")["skipped"], 2);
    balances(&workspace);

    for delivery in DELIVERIES {
        let workspace = picky(delivery, &format!("on-error = \"halt\"\n{QUICK}"));
        workspace.produce("in", &["a", "bad", "b", "panic", "c"]);
        let mut node = workspace.start(&[]).unwrap();
        let halts_at = |offset: u64| {
            workspace.until("it halts", || workspace.pipeline("p")["partitions"][0]["halted"]["offset"] == offset);
        };
        halts_at(1);
        let told = workspace.sluice(&["status"]).ok();
        assert!(told.contains("event 1 is bad") && told.contains("`sluice pipeline resume p --skip`"), "{told}");
        workspace.sluice(&["pipeline", "resume", "p", "--skip"]).ok();
        halts_at(3);
        // Trying again does not help.
        let failed = || workspace.pipeline("p")["failed-calls"].as_u64().unwrap();
        let before = failed();
        workspace.sluice(&["pipeline", "resume", "p"]).ok();
        workspace.until("it was tried again", || failed() > before);
        halts_at(3);
        workspace.sluice(&["pipeline", "resume", "p", "--skip"]).ok();
        workspace
            .until("all is read", || workspace.pipeline("p")["state"] == "idle" && workspace.pipeline("p")["lag"] == 0);
        assert_eq!(workspace.values("out"), ["A", "B", "C"], "{delivery}");
        assert_eq!(workspace.pipeline("p")["skipped"], 2);
        terminate(&node);
        assert!(node.wait().unwrap().success());
        balances(&workspace);
    }
}

#[test]
fn the_breaker_holds_the_pipeline_before_more_letters_are_written_also_over_a_restart() {
    let workspace = picky("exactly-once", "breaker = { window = 100, max-failures = 3 }");
    let lines: Vec<_> = (0..20).map(|number| if number < 5 { "fine" } else { "bad" }).collect();
    workspace.produce("in", &lines);
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(1);
    assert!(stderr.contains("is held") && stderr.contains("more than 3 of the last 100 events failed"), "{stderr}");
    assert!(workspace.values("p.dead").len() <= 3);
    let before = workspace.values("p.dead").len();
    // It stays held, and says so.
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(1);
    assert!(stderr.contains("is held"), "{stderr}");
    assert_eq!(workspace.values("p.dead").len(), before);
    let told = workspace.sluice(&["status"]).ok();
    assert!(told.contains("`sluice pipeline resume p` lets it go on"), "{told}");
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    workspace.sluice(&["run", "--until-idle"]).fails(1);
    balances(&workspace);
}

#[test]
fn attempts_are_counted_over_a_restart() {
    let workspace = picky("exactly-once", "retry = { attempts = 3, initial-backoff = \"10ms\", max-backoff = \"1h\" }");
    workspace.write(
        "pipelines/p.toml",
        std::fs::read_to_string(workspace.path("pipelines/p.toml")).unwrap().replace("\"10ms\"", "\"1h\""),
    );
    workspace.produce("in", &["down", "a"]);
    // Each run tries once and then waits for an hour; being killed is all that makes it try again.
    for attempts in 1..3 {
        let mut node = workspace.start(&[]).unwrap();
        workspace.until("it waits", || workspace.pipeline("p")["partitions"][0]["retrying"]["attempts"] == attempts);
        let told = workspace.sluice(&["status"]).ok();
        assert!(told.contains("what it needs is down"), "{told}");
        kill(&mut node);
    }
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(letters(&workspace)[0]["attempts"], 3);
    assert_eq!(workspace.values("out"), ["A"]);
    balances(&workspace);
}

#[test]
fn dead_letters_are_grouped_looked_at_redriven_and_discarded() {
    let workspace = picky("exactly-once", QUICK);
    let lines: Vec<String> = (0..60).map(|n| ["a", "bad", "panic"][n % 3].to_owned()).collect();
    workspace.produce("in", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    workspace.sluice(&["run", "--until-idle"]).ok();
    let list = workspace.json(&["dead", "list", "p"]);
    assert_eq!((&list["open"], list["causes"].as_array().unwrap().len()), (&40.into(), 2), "{list}");
    let told = workspace.sluice(&["dead", "list", "p"]).ok();
    assert!(told.starts_with("2 causes, 40 events in topic p.dead") && told.contains("event # is bad"), "{told}");
    let of = |kind: &str| {
        let causes = list["causes"].as_array().unwrap().clone();
        causes.into_iter().find(|cause| cause["kind"] == kind).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let (bad, panics) = (of("permanent"), of("trap"));
    let shown = workspace.json(&["dead", "show", "p", "0:0"]);
    assert_eq!((&shown["value"], &shown["letter"]["offset"], &shown["mark"]), (&"bad".into(), &1.into(), &Value::Null));

    // Nothing happens without --yes, and nothing without a choice.
    workspace.sluice(&["dead", "discard", "p", "--yes"]).fails(2);
    let told = workspace.sluice(&["dead", "discard", "p", "--cause", &panics]).ok();
    assert!(told.contains("20 dead letters of pipeline p would be discarded"), "{told}");
    assert_eq!(workspace.json(&["dead", "list", "p"])["open"], 40);
    workspace.sluice(&["dead", "discard", "p", "--cause", &panics, "--yes"]).ok();
    let list = workspace.json(&["dead", "list", "p"]);
    assert_eq!((&list["open"], &list["discarded"]), (&20.into(), &20.into()));

    // One more time through the same plugin: they die again.
    workspace.sluice(&["dead", "redrive", "p", "0:0", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    let list = workspace.json(&["dead", "list", "p"]);
    assert_eq!((&list["open"], &list["dead-again"], &list["redriving"]), (&20.into(), &1.into(), &0.into()));
    assert_eq!(letters(&workspace).last().unwrap()["again"], "0:0");
    workspace.sluice(&["dead", "redrive", "p", "0:0", "--yes"]).fails(2);

    // With a plugin that takes them, each goes through once, while the node runs.
    let text = std::fs::read_to_string(workspace.path("pipelines/p.toml")).unwrap();
    workspace.write("pipelines/p.toml", text.replace("plugins/picky", "plugins/pass-through"));
    let mut node = workspace.start(&[]).unwrap();
    let told = workspace.json(&["dead", "redrive", "p", "--cause", &bad, "--yes"]);
    assert_eq!((&told["count"], &told["redriven"]), (&20.into(), &20.into()), "{told}");
    let list = workspace.json(&["dead", "list", "p"]);
    assert_eq!((&list["open"], &list["redriven"]), (&0.into(), &20.into()), "{list}");
    let redriven: Vec<_> = workspace.events("out").into_iter().filter(|event| event["value"] == "bad").collect();
    assert_eq!(redriven.len(), 20);
    // They are the events that they were, and come from where they came from.
    assert!(
        redriven
            .iter()
            .all(|event| event["headers"].as_array().unwrap().is_empty() && event["origin"]["topic"] == "in")
    );
    let mut offsets: Vec<_> = redriven.iter().map(|event| event["origin"]["offset"].as_u64().unwrap()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..20).map(|n| 3 * n + 1).collect::<Vec<_>>());
    terminate(&node);
    assert!(node.wait().unwrap().success());
    balances(&workspace);
}

#[test]
fn a_redrive_goes_on_after_a_crash_and_sends_each_letter_once() {
    let workspace = picky("exactly-once", "breaker = { window = 5000, max-failures = 5000 }");
    let lines: Vec<&str> = std::iter::repeat_n("bad", 3000).collect();
    workspace.produce("in", &lines);
    workspace.sluice(&["run", "--until-idle"]).ok();
    let text = std::fs::read_to_string(workspace.path("pipelines/p.toml")).unwrap();
    workspace.write("pipelines/p.toml", text.replace("plugins/picky", "plugins/pass-through"));
    workspace.sluice(&["dead", "redrive", "p", "--all", "--yes"]).ok();
    for least in [1, 700, 1400] {
        let mut node = workspace.start(&[]).unwrap();
        workspace.until("some are sent", || workspace.values("out").len() >= least);
        kill(&mut node);
    }
    workspace.sluice(&["run", "--until-idle"]).ok();
    let mut offsets: Vec<_> =
        workspace.events("out").iter().map(|event| event["origin"]["offset"].as_u64().unwrap()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..3000).collect::<Vec<_>>());
    assert_eq!(workspace.json(&["dead", "list", "p"])["redriven"], 3000);
}

/// Starts a node that dies of a fault, as one that a guest brings about, in the thread that is about to call a guest.
fn dies_in_a_call(workspace: &Workspace) {
    let calls = workspace.path(".sluice/calls");
    let inject = "inject=pwrite64:signal=SEGV:when=1";
    let strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-P", calls.to_str().unwrap()];
    let strace = [&strace[..], &["-e", "trace=pwrite64", "-e", inject]].concat();
    match workspace.start_under(&strace, &["--until-idle"]) {
        Ok(mut node) => drop(node.wait().unwrap()),
        Err(ran) => assert_ne!(ran.code, Some(0), "{ran:?}"),
    }
}

#[test]
fn a_guest_that_kills_the_node_is_held_and_the_node_comes_up() {
    let workspace = picky("exactly-once", QUICK);
    workspace.write(
        "pipelines/tame.toml",
        "name = \"tame\"\n[source]\ntopics = [\"other\"]\n[[stage]]\nplugin = \"../plugins/pass-through\"\n[[sink]]\ntopic = \"tame\"\n",
    );
    workspace.sluice(&["topic", "create", "other"]).ok();
    workspace.produce("in", &["a", "b"]);
    // Makes the file that strace looks for.
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.produce("in", &["c", "d", "e"]);
    for _ in 0..2 {
        assert_eq!(workspace.pipeline("p")["held"], Value::Null);
        dies_in_a_call(&workspace);
    }
    workspace.produce("other", &["x"]);
    let stderr = workspace.sluice(&["run", "--until-idle"]).fails(1);
    let reason = "the node died of signal 11 2 times in a row in a call with in/0 offsets 2 to 4";
    assert!(stderr.contains(reason), "{stderr}");
    assert_eq!(workspace.values("tame"), ["x"]);
    let told = workspace.sluice(&["status"]).ok();
    assert!(told.contains(reason) && told.contains("`sluice pipeline resume p`"), "{told}");
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out"), ["A", "B", "C", "D", "E"]);
}

#[test]
fn deaths_without_a_word_at_one_position_hold_the_pipeline_after_five() {
    let workspace = picky("exactly-once", QUICK);
    let text = std::fs::read_to_string(workspace.path("pipelines/p.toml")).unwrap();
    workspace.write("pipelines/p.toml", text.replace("200ms", "1h"));
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.produce("in", &["a", "loop"]);
    for _ in 0..5 {
        assert_eq!(workspace.pipeline("p")["held"], Value::Null);
        let mut node = workspace.start(&[]).unwrap();
        let slots = || std::fs::read(workspace.path(".sluice/calls")).unwrap_or_default();
        let under_way = || slots().chunks(64).any(|slot| slot.starts_with(b"SLC1"));
        workspace.until("the call is under way", under_way);
        kill(&mut node);
    }
    let mut node = workspace.start(&[]).unwrap();
    let held = workspace.pipeline("p")["held"].to_string();
    assert!(held.contains("died without a word 5 times in a row in a call with in/0 offsets 0 to 1"), "{held}");
    terminate(&node);
    assert!(node.wait().unwrap().success());
}

#[test]
fn one_poisoned_event_in_a_hundred_thousand_costs_itself_also_when_the_node_is_killed_while_it_is_looked_for() {
    // A guest of typed records that traps at one offset and does not say which event is in hand: the batch is halved.
    let echo = std::fs::read_to_string(project().join("tests/guests/echo.wat")).unwrap();
    let mark = "(i32.store8 (local.get $out) (i32.const 0))";
    let trap = "(if (i64.eq (i64.load offset=16 (local.get $in)) (i64.const 20)) (then unreachable))";
    let wasm = wat::parse_str(echo.replacen(mark, &format!("{trap}\n{mark}"), 1)).unwrap();
    let lines: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    for delivery in DELIVERIES {
        let workspace = picky(delivery, QUICK);
        workspace.write("pipelines/poisoned.wasm", &wasm);
        let text = std::fs::read_to_string(workspace.path("pipelines/p.toml")).unwrap();
        workspace.write("pipelines/p.toml", text.replace("../plugins/picky", "poisoned.wasm").replace("200ms", "2s"));
        workspace.sluice(&["run", "--until-idle"]).ok();
        workspace.produce("in", &lines.iter().map(String::as_str).collect::<Vec<_>>());
        // At-most-once, what was in hand is lost with the first kill, and the poisoned event with it.
        let kills: &[u64] = if delivery == "at-most-once" { &[1] } else { &[1, 3, 5] };
        for failed in kills.iter().copied() {
            // Slowed down, so that the node can be killed in the middle.
            let calls = workspace.path(".sluice/calls");
            let strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-P", calls.to_str().unwrap()];
            let slow = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=30000"];
            let mut node = workspace.start_under(&[&strace[..], &slow].concat(), &[]).unwrap();
            workspace
                .until("it looks for the culprit", || workspace.pipeline("p")["failed-calls"].as_u64() >= Some(failed));
            let status = workspace.json(&["status"]);
            assert_eq!(status["pipelines"][0]["dead"], 0, "it was found before the node was killed");
            let pid = rustix::process::Pid::from_raw(i32::try_from(status["pid"].as_u64().unwrap()).unwrap());
            rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL).unwrap();
            node.wait().unwrap();
        }
        workspace.sluice(&["run", "--until-idle"]).ok();
        let mut values: Vec<u64> = workspace.values("out").iter().map(|value| value.parse().unwrap()).collect();
        let letters = letters(&workspace);
        assert!(letters.iter().all(|letter| letter["offset"] == 20 && letter["kind"] == "trap"), "{letters:?}");
        values.sort_unstable();
        let came = values.len();
        values.dedup();
        if delivery == "at-most-once" {
            // What was in hand when the node was killed is lost; the audit tells.
            assert_eq!(came, values.len(), "something came twice");
            assert!(letters.len() <= 1);
            assert!(values.len() > 90_000);
        } else {
            assert_eq!(letters.len(), 1);
            assert!(delivery == "at-least-once" || came == values.len(), "something came twice");
            assert_eq!(values.len(), 99_999);
        }
        assert!(!values.contains(&20));
        balances(&workspace);
    }
}

#[test]
fn a_trap_in_a_node_that_has_just_made_its_directory_costs_its_own_event_only() {
    let workspace = Workspace::new();
    workspace.write(
        "pipelines/p.toml",
        "name = \"p\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = \"../plugins/picky\"\n[[sink]]\ntopic = \"out\"\n[[topic]]\nname = \"in\"\n",
    );
    let mut node = workspace.start(&[]).unwrap();
    workspace.produce("in", &["a", "panic", "b"]);
    workspace.until("all is dealt with", || workspace.pipeline("p")["read"] == 3);
    assert_eq!(workspace.values("out"), ["A", "B"]);
    terminate(&node);
    assert!(node.wait().unwrap().success());
}
