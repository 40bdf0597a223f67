//! What an operator does with pipelines and topics, beside a running node and without one.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_tests::sluice::{Workspace, kill, terminate};

use crate::{THROUGH, through};

/// As RFC 3339, a moment after every event that was appended so far, and before every one that comes.
#[expect(clippy::disallowed_methods, reason = "the test's own clock")]
fn moment() -> String {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let at = now() + 2;
    while now() < at {
        std::thread::yield_now();
    }
    let (seconds, millis) = (at / 1000, at % 1000);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, after Howard Hinnant.
    let z = days as i64 + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[test]
fn a_rewind_is_shown_then_done_then_undone_while_the_node_runs() {
    let workspace = through();
    workspace.produce("in", &["a", "b", "c"]);
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("all is read", || workspace.pipeline("p")["lag"] == 0);
    let shown = workspace.sluice(&["rewind", "p", "--to", "1"]).ok();
    assert!(shown.contains("2 events again") && shown.contains("Nothing was changed"), "{shown}");
    assert_eq!(workspace.values("out"), ["a", "b", "c"]);

    let done = workspace.json(&["rewind", "p", "--to", "0:1", "--yes"]);
    assert_eq!((&done["again"], &done["done"]), (&2.into(), &true.into()));
    workspace.until("it is read again", || workspace.values("out").len() == 5);
    assert_eq!(workspace.values("out"), ["a", "b", "c", "b", "c"]);
    assert_eq!(workspace.pipeline("p")["epoch"], 2);
    // Back to where it was: at the end.
    workspace.sluice(&["rewind", "p", "--undo", "--yes"]).ok();
    workspace.produce("in", &["d"]);
    workspace.until("the new event is there", || workspace.values("out").len() == 6);
    assert_eq!(workspace.values("out")[5], "d");
    let audit = workspace.json(&["audit", "p"]);
    let account = &audit["accounts"][0];
    assert_eq!((&account["read"], &account["rewinds"], &account["balances"]), (&6.into(), &2.into(), &true.into()));
    kill(&mut node);

    for wrong in ["7", "3:0", "other/0:0", "yesterday", "checkpoint:1"] {
        workspace.sluice(&["rewind", "p", "--to", wrong]).fails(2);
    }
    workspace.sluice(&["rewind", "nobody", "--to", "earliest"]).fails(2);
    workspace.sluice(&["rewind", "p"]).fails(2);
}

#[test]
fn reading_and_rewinding_go_by_time() {
    let workspace = through();
    workspace.produce("in", &["a", "b"]);
    let then = moment();
    workspace.produce("in", &["c"]);
    assert_eq!(workspace.sluice(&["consume", "in", "--from", &then]).ok(), "c\n");
    let event_time = format!("event-time:{then}");
    assert_eq!(workspace.sluice(&["consume", "in", "--from", &event_time]).ok(), "c\n");
    assert_eq!(workspace.sluice(&["consume", "in", "--from", "2001-01-01T00:00:00Z"]).ok(), "a\nb\nc\n");
    assert_eq!(workspace.sluice(&["consume", "in", "--from", "2101-01-01T00:00:00Z"]).ok(), "");
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.sluice(&["rewind", "p", "--to", &then, "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out"), ["a", "b", "c", "c"]);
    // A pipeline may begin there.
    let late = THROUGH.replace("\"p\"", "\"late\"").replace("\"out\"", "\"late\"");
    workspace.write("pipelines/p.toml", late.replace("[\"in\"]", &format!("[\"in\"]\nstart = {then:?}")));
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("late"), ["c"]);
}

#[test]
fn pipelines_pause_resume_and_drain_also_over_a_restart() {
    let workspace = through();
    let mut node = workspace.start(&[]).unwrap();
    workspace.sluice(&["pipeline", "pause", "p"]).ok();
    assert_eq!(workspace.pipeline("p")["state"], "paused");
    workspace.produce("in", &["a"]);
    terminate(&node);
    assert_eq!(node.wait().unwrap().code(), Some(0));
    let stderr = workspace.sluice(&["run", "--until-idle"]).stderr;
    assert!(stderr.contains("sluice pipeline resume p"), "{stderr}");
    assert!(workspace.values("out").is_empty());

    let mut node = workspace.start(&[]).unwrap();
    assert_eq!(workspace.pipeline("p")["state"], "paused");
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    workspace.until("it goes on", || workspace.values("out") == ["a"]);
    workspace.produce("in", &["b"]);
    workspace.sluice(&["pipeline", "drain", "p"]).ok();
    assert_eq!((workspace.values("out").len(), &workspace.pipeline("p")["lag"]), (2, &0.into()));
    workspace.produce("in", &["c"]);
    assert_eq!(workspace.pipeline("p")["state"], "paused");
    assert_eq!(workspace.values("out").len(), 2);
    workspace.sluice(&["pipeline", "pause", "nobody"]).fails(2);
    kill(&mut node);
}

#[test]
fn topics_and_pipelines_are_deleted_for_good_and_ids_are_not_used_again() {
    let workspace = through();
    workspace.produce("in", &["a"]);
    let mut node = workspace.start(&[]).unwrap();
    workspace.until("all is read", || workspace.pipeline("p")["lag"] == 0);
    let stderr = workspace.sluice(&["topic", "delete", "in"]).fails(2);
    assert!(stderr.contains("is read by pipeline p"), "{stderr}");
    let stderr = workspace.sluice(&["topic", "delete", "out"]).fails(2);
    assert!(stderr.contains("is written to by pipeline p"), "{stderr}");
    workspace.sluice(&["pipeline", "delete", "p"]).ok();
    assert!(workspace.json(&["status"])["pipelines"].as_array().unwrap().is_empty());
    let id = workspace.json(&["topic", "describe", "in"])["id"].as_u64().unwrap();
    workspace.sluice(&["topic", "delete", "in"]).ok();
    workspace.sluice(&["consume", "in"]).fails(2);
    let made = workspace.json(&["topic", "create", "in"]);
    assert!(made["id"].as_u64().unwrap() > id);
    workspace.produce("in", &["b"]);
    assert_eq!(workspace.events("in")[0]["offset"], 0);
    // The files go too, once it is sure that nobody can need them.
    workspace.until("the files are gone", || !workspace.path(&format!(".sluice/topics/{id}")).exists());
    kill(&mut node);
    assert_eq!(workspace.values("in"), ["b"]);
    // With the definition still there, the pipeline begins anew.
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out"), ["a", "b"]);
}

#[test]
fn retention_lets_go_of_what_is_read_and_status_names_who_holds_it() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH);
    workspace.sluice(&["topic", "create", "in", "--retention-size", "256KiB", "--compression", "none"]).ok();
    let lines: Vec<String> = (0..40_000).map(|number| format!("event number {number}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut node = workspace.start(&[]).unwrap();
    workspace.sluice(&["pipeline", "pause", "p"]).ok();
    for lines in lines.chunks(1000) {
        workspace.produce("in", lines);
    }
    workspace.until("retention is held", || {
        workspace.json(&["status"])["holds"].as_array().is_some_and(|holds| !holds.is_empty())
    });
    let status = workspace.sluice(&["status"]).ok();
    assert!(status.contains("retention of in/0 is held at offset 0 by pipeline p"), "{status}");
    assert_eq!(workspace.json(&["topic", "describe", "in"])["partitions"][0]["low-mark"], 0);

    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    let low_mark = || workspace.json(&["topic", "describe", "in"])["partitions"][0]["low-mark"].as_u64().unwrap();
    workspace.until("what is read is let go of", || low_mark() > 20_000);
    workspace.until("all is read", || workspace.pipeline("p")["lag"] == 0);
    let low = low_mark();
    let ran = workspace.sluice(&["consume", "in", "--from", "0", "--max", "1"]);
    assert!(ran.stderr.contains("offsets 0 to") && ran.stderr.contains("are gone"), "{}", ran.stderr);
    assert_eq!(ran.ok().trim(), format!("event number {low}"));
    kill(&mut node);
    assert_eq!(workspace.values("out"), lines);
    let bytes = workspace.json(&["topic", "describe", "in"])["partitions"][0]["bytes"].as_u64().unwrap();
    assert!(bytes < 400 << 10, "{bytes} bytes are kept of 256 KiB");
}

#[test]
fn retention_that_does_not_wait_passes_a_cursor_and_the_audit_says_so() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH);
    workspace.sluice(&["topic", "create", "in", "--retention-size", "64KiB", "--past-cursors"]).ok();
    let mut node = workspace.start(&[]).unwrap();
    workspace.sluice(&["pipeline", "pause", "p"]).ok();
    let lines = vec!["some event or other"; 20_000];
    for lines in lines.chunks(2000) {
        workspace.produce("in", lines);
    }
    let low_mark = || workspace.json(&["topic", "describe", "in"])["partitions"][0]["low-mark"].as_u64().unwrap();
    workspace.until("events go", || low_mark() > 0);
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    workspace.until("the rest is read", || workspace.pipeline("p")["lag"] == 0);
    kill(&mut node);
    let audit = workspace.json(&["audit"]);
    let account = &audit["accounts"][0];
    let (skipped, committed) = (account["skipped"].as_u64().unwrap(), account["committed"].as_u64().unwrap());
    assert!(skipped > 0 && skipped + committed == 20_000 && account["balances"] == true, "{audit}");
    assert_eq!(workspace.values("out").len() as u64, committed);
}

#[test]
fn a_pipeline_without_state_writes_again_to_another_topic_and_then_goes_on_as_before() {
    let workspace = Workspace::new();
    workspace.write(
        "pipelines/copy.toml",
        "name = \"copy\"\n[source]\ntopics = [\"in\"]\n[[stage]]\nplugin = \"../plugins/pass-through\"\n[[sink]]\ntopic = \"out\"\n\
         [batch]\nmax-events = 7\n",
    );
    workspace.sluice(&["topic", "create", "in"]).ok();
    let lines: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    workspace.produce("in", &lines[..30]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.sluice(&["rewind", "copy", "--to", "18", "--into", "once-more", "--yes"]).ok();
    workspace.produce("in", &lines[30..]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out"), lines);
    assert_eq!(workspace.values("once-more"), lines[18..30]);
    // Undone, what is read again goes to the sink.
    workspace.sluice(&["rewind", "copy", "--to", "35", "--into", "once-more", "--yes"]).ok();
    workspace.sluice(&["rewind", "copy", "--undo", "--yes"]).ok();
    workspace.sluice(&["rewind", "copy", "--to", "38", "--yes"]).ok();
    workspace.sluice(&["run", "--until-idle"]).ok();
    assert_eq!(workspace.values("out")[40..], lines[38..]);
    assert_eq!(workspace.values("once-more").len(), 12);
}
