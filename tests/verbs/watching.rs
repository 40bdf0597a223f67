//! What a node tells of itself: metrics, the last hour, what plugins write, and `status --watch`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;
use sluice_tests::sluice::{kill, terminate};

use crate::dashboard::picky;
use crate::http::{ANYWHERE, Http};

/// The samples of a text in Prometheus' format, by name and labels; each must have a type and a help before.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut types, mut helped) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped.push(help.split(' ').next().unwrap().to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let name = key.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| types.get(*family).is_some_and(|kind| kind == "histogram"));
            let family = family.unwrap_or(name);
            assert!(types.contains_key(family) && helped.iter().any(|name| name == family), "{line}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{line}"
            );
            assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{key} is there twice");
        }
    }
    samples
}

#[test]
fn metrics_tell_what_pipelines_do_and_what_stands_in_their_way() {
    let workspace = picky();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    workspace.until("it is through", || workspace.pipeline("p")["read"] == 4);
    let metrics = || samples(&http.get("/metrics").body);
    let told = metrics();
    let value = |told: &BTreeMap<String, f64>, key: &str| {
        *told.get(key).unwrap_or_else(|| panic!("no {key} in {:#?}", told.keys().collect::<Vec<_>>()))
    };
    let place = r#"{pipeline="p",topic="in",partition="0"}"#;
    for (key, expected) in [
        (r#"sluice_events_read_total{pipeline="p"}"#, 4.0),
        (r#"sluice_events_settled_total{pipeline="p",fate="dead-lettered"}"#, 2.0),
        (r#"sluice_events_settled_total{pipeline="p",fate="committed"}"#, 2.0),
        (r#"sluice_failures_total{pipeline="p",kind="permanent"}"#, 1.0),
        (r#"sluice_pipeline_state{pipeline="p",state="idle"}"#, 1.0),
        (r#"sluice_pipeline_state{pipeline="p",state="halted"}"#, 0.0),
        (r#"sluice_generation{pipeline="p"}"#, 1.0),
        (&format!("sluice_cursor{place}"), 4.0),
        (&format!("sluice_lag_events{place}"), 0.0),
        (&format!("sluice_lag_seconds{place}"), 0.0),
        (&format!("sluice_blocked{place}"), 0.0),
        (&format!("sluice_events_written_total{place}"), 2.0),
        (r#"sluice_topic_events{topic="p.dead"}"#, 2.0),
        (r#"sluice_topic_events_appended_total{topic="in"}"#, 4.0),
    ] {
        assert!((value(&told, key) - expected).abs() < 1e-9, "{key}: {} instead of {expected}", told[key]);
    }
    // It panicked among others, and alone.
    assert!(value(&told, r#"sluice_failures_total{pipeline="p",kind="trap"}"#) >= 2.0);
    let calls = value(&told, r#"sluice_call_seconds_count{pipeline="p"}"#);
    assert!(calls >= 3.0 && (calls - value(&told, &format!("sluice_calls_total{place}"))).abs() < 1e-9);
    assert!((calls - value(&told, r#"sluice_call_seconds_bucket{pipeline="p",le="+Inf"}"#)).abs() < 1e-9);
    assert!(value(&told, "sluice_sync_seconds_count") > 0.0 && value(&told, "sluice_commits_total") > 0.0);
    assert!(value(&told, &format!("sluice_guest_memory_bytes{place}")) > 65_536.0);
    let plugins = http.get("/plugins").json();
    assert_eq!(plugins[0]["digest"], workspace.pipeline("p")["digests"][0]);
    assert_eq!(plugins[0]["stages"], serde_json::json!([{ "pipeline": "p", "stage": "picky", "generation": 1 }]));

    // What is not read waits, in events and in time.
    workspace.sluice(&["pipeline", "pause", "p"]).ok();
    workspace.until("it stands still", || workspace.pipeline("p")["state"] == "paused");
    workspace.produce("in", &["a", "b"]);
    workspace.until("it waits", || value(&metrics(), &format!("sluice_lag_seconds{place}")) > 0.0);
    assert!((value(&metrics(), &format!("sluice_lag_events{place}")) - 2.0).abs() < 1e-9);
    let status = workspace.pipeline("p");
    assert!(status["lag-ms"].as_i64() > Some(0) && status["partitions"][0]["lag-ms"].as_i64() > Some(0), "{status}");
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    workspace.until("nothing waits", || value(&metrics(), &format!("sluice_lag_seconds{place}")) == 0.0);
    // There are as many series as before, whatever events said.
    workspace.produce("in", &["bad", "panic", "say something", "other"]);
    workspace.until("it is through", || workspace.pipeline("p")["lag"] == 0);
    assert_eq!(metrics().len(), told.len());
    kill(&mut node);
}

#[test]
fn what_plugins_write_can_be_read_and_followed() {
    let workspace = picky();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let lines = || http.get("/pipelines/p/logs").json().as_array().unwrap().clone();
    workspace.until("it has said something", || !lines().is_empty());
    let line = &lines()[0];
    assert_eq!(
        (&line["text"], &line["stage"], &line["level"]),
        (&"hello from the plugin".into(), &"picky".into(), &"info".into())
    );
    let mut followed = http.lines("/pipelines/p/logs", &[]).filter_map(|line| {
        let told: Value = serde_json::from_str(line.strip_prefix("data: ")?).unwrap();
        told["text"].as_str().map(str::to_owned)
    });
    assert_eq!(followed.next().unwrap(), "hello from the plugin");
    workspace.produce("in", &["say more"]);
    assert_eq!(followed.next().unwrap(), "more");
    assert_eq!(http.get("/pipelines/none/logs").status, 404);
    assert_eq!(http.get("/pipelines/none/history").status, 404);
    kill(&mut node);
}

#[test]
fn the_status_is_told_again_and_again_while_a_node_runs() {
    let workspace = picky();
    let away = workspace.sluice(&["status", "--watch"]).fails(1);
    assert!(away.contains("no node answers"), "{away}");
    assert!(workspace.sluice(&["status", "--watch", "--every", "1ms"]).fails(2).contains("at least 100ms"));
    let mut node = workspace.start(&[]).unwrap();
    let mut watch = workspace.command(&["status", "--watch", "--every", "100ms", "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watch.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["pipelines"][0].clone());
    told.find(|pipeline| pipeline["read"] == 4 && pipeline["rates"]["read"] == 0.0).unwrap();
    workspace.produce("in", &["a", "b"]);
    let faster = told.find(|pipeline| pipeline["rates"]["read"].as_f64() > Some(0.0)).unwrap();
    assert!(faster["rates"]["written"].as_f64() > Some(0.0), "{faster}");
    terminate(&watch);
    watch.wait().unwrap();
    kill(&mut node);
}
