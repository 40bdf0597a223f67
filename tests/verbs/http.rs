//! A node over HTTP, as anybody speaks it: nothing here knows more than a socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, kill, project, terminate};

use crate::{THROUGH, through};

/// The orders among a shop's events, keyed by user.
const SHOP: &str = r#"name = "shop"
[source]
topics = ["shop"]
[[stage]]
plugin = "../plugins/orders"
[[sink]]
topic = "orders"
"#;
/// Has the node listen wherever it can.
pub(crate) const ANYWHERE: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// A node's address on the network.
pub(crate) struct Http(String);

/// A connection on which nothing is waited for in vain for ever.
fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    kind: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.body))
    }

    /// What the problem document says.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.kind, "application/problem+json", "{} {}", self.status, self.body);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

impl Http {
    pub(crate) fn of(workspace: &Workspace) -> Self {
        let url = workspace.json(&["status"])["url"].as_str().unwrap().to_owned();
        Self(url.strip_prefix("http://").unwrap().to_owned())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0)
    }

    /// A request as it is written, and what comes back until the connection ends. A node that has read enough answers and closes it, whatever is
    /// still being sent.
    fn raw(&self, request: &[u8]) -> std::io::Result<String> {
        let mut stream = connect(&self.0)?;
        let sent = stream.write_all(request);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if answer.is_empty() {
            sent.and(read)?;
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn try_send(&self, head: &str, headers: &[&str], body: impl AsRef<[u8]>) -> std::io::Result<Answer> {
        let (body, host) = (body.as_ref(), &self.0);
        let mut request = format!("{head} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        let has_host = headers.iter().any(|header| header.starts_with("host:"));
        let host = format!("host: {host}");
        for header in headers.iter().copied().chain((!has_host).then_some(&*host)) {
            request += &format!("{header}\r\n");
        }
        self.answer(&[format!("{request}\r\n").as_bytes(), body].concat())
    }

    /// The same, and what it says.
    fn answer(&self, request: &[u8]) -> std::io::Result<Answer> {
        let answer = self.raw(request)?;
        let cut_short = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut_short)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut_short)?;
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        Ok(Answer { status, kind: kind.to_owned(), body: body.to_owned() })
    }

    pub(crate) fn send(&self, head: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Answer {
        self.try_send(head, headers, body).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], "")
    }

    fn produce(&self, path: &str, kind: &str, body: &str) -> Answer {
        self.send(&format!("POST {path}"), &[&format!("content-type: {kind}")], body)
    }

    /// The lines that somebody who follows is sent, as they come.
    pub(crate) fn lines(&self, path: &str, headers: &[&str]) -> impl Iterator<Item = String> + use<> {
        let mut stream = connect(&self.0).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let host = &self.0;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        BufReader::new(stream).lines().map(Result::unwrap)
    }

    /// Where somebody is who follows from now on, before anything has come.
    fn position(&self, path: &str) -> String {
        self.lines(path, &[]).find_map(|line| line.strip_prefix("id: ").map(str::to_owned)).unwrap()
    }

    /// The events that somebody who follows is sent, until so many came: their ids, and what they say.
    fn follow(&self, path: &str, headers: &[&str], count: usize) -> Vec<(String, Value)> {
        let (mut events, mut id) = (Vec::new(), String::new());
        for line in self.lines(path, headers) {
            assert!(!line.starts_with("event: problem"), "{events:?}");
            if let Some(told) = line.strip_prefix("id: ") {
                id = told.to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                events.push((id.clone(), serde_json::from_str(data).unwrap()));
            }
            if events.len() == count {
                break;
            }
        }
        events
    }
}

fn shop() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("pipelines/shop.toml", SHOP);
    workspace.sluice(&["topic", "create", "shop"]).ok();
    workspace
}

fn order(id: u32, user: &str) -> String {
    format!(r#"{{"id":{id},"kind":"order","user":"{user}","amount":1.5}}"#)
}

#[test]
fn events_go_in_over_http_through_a_pipeline_and_out_to_those_who_follow() {
    let workspace = shop();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let produced = |answer: Answer| (answer.status, answer.json()["appended"].as_u64().unwrap_or(0));

    assert_eq!(produced(http.produce("/topics/shop/events?key=k", "application/json", &order(1, "u1"))), (200, 1));
    let view = r#"{ "id":2, "kind":"view", "user":"u1", "amount":1.50 }"#;
    let array = format!("[{}, {view}]", order(3, "u2"));
    assert_eq!(produced(http.produce("/topics/shop/events?key-field=user", "application/json", &array)), (200, 2));
    let lines = format!("{}\n\r\n{}\n", order(4, "u3"), order(5, "u3"));
    assert_eq!(produced(http.produce("/topics/shop/events", "application/x-ndjson; charset=utf-8", &lines)), (200, 2));
    // Anything else is one event, as it is.
    assert_eq!(produced(http.produce("/topics/shop/events", "text/plain", &order(6, "u4"))), (200, 1));

    // What was sent is what is there, byte for byte.
    let read = http.get("/topics/shop/events?from=0&max=3").json();
    let keys: Vec<_> = read["events"].as_array().unwrap().iter().map(|event| event["key"].clone()).collect();
    assert_eq!(keys, [json!("k"), json!("u2"), json!("u1")]);
    assert_eq!((&read["events"][2]["value"], &read["next"]), (&view.into(), &3.into()));
    assert_eq!(read["events"], json!(workspace.events("shop")[..3]));

    let orders = http.follow("/topics/orders/events?from=earliest", &[], 5);
    let ids = |events: &[(String, Value)]| -> Vec<u64> {
        let id = |event: &Value| serde_json::from_str::<Value>(event["value"].as_str().unwrap()).unwrap()["id"].clone();
        events.iter().map(|(_, event)| id(event).as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&orders), [1, 3, 4, 5, 6]);
    // Who comes back says what came last, and goes on behind it, whatever the URL says; a node that was killed meanwhile makes no difference.
    kill(&mut node);
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let last = format!("last-event-id: {}", orders[2].0);
    assert_eq!(ids(&http.follow("/topics/orders/events?from=earliest", &[&last], 2)), [5, 6]);
    terminate(&node);
    node.wait().unwrap();
}

#[test]
fn who_follows_several_partitions_comes_back_to_where_each_was() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH);
    workspace.sluice(&["topic", "create", "in", "--partitions", "3"]).ok();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let body: Vec<String> = (0..60).map(|n| format!(r#"{{"key":"k{n}","n":{n}}}"#)).collect();
    http.produce("/topics/in/events?key-field=key", "application/x-ndjson", &body.join("\n"));
    let place = |event: &Value| (event["partition"].as_u64().unwrap(), event["offset"].as_u64().unwrap());
    let (mut seen, mut last) = (Vec::new(), None);
    for count in [1, 7, 22, 30] {
        let header = last.map(|last| format!("last-event-id: {last}"));
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        let events = http.follow("/topics/out/events?from=earliest", &headers, count);
        last = events.last().map(|(id, _)| id.clone());
        seen.extend(events.iter().map(|(_, event)| place(event)));
    }
    let mut all: Vec<_> = workspace.events("out").iter().map(place).collect();
    all.sort_unstable();
    // In the order of each partition, nothing twice, nothing left out.
    assert!(seen.iter().zip(1..).all(|(at, n)| seen[n..].iter().all(|later| at.0 != later.0 || at.1 < later.1)));
    seen.sort_unstable();
    assert_eq!(seen, all);
    // Of one partition.
    let events = http.follow("/topics/out/events?from=earliest&partition=1", &[], 5);
    assert!(events.iter().all(|(id, event)| id.contains("/1:") && event["partition"] == 1));
    kill(&mut node);
}

#[test]
fn who_comes_back_before_an_event_or_to_another_topic_misses_nothing_without_a_word() {
    let workspace = through();
    workspace.sluice(&["topic", "create", "other"]).ok();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    workspace.produce("other", &["a", "b"]);
    let last = http.position("/topics/other/events");
    workspace.produce("other", &["c"]);
    let last = format!("last-event-id: {last}");
    let came = http.follow("/topics/other/events", &[&last], 1);
    assert_eq!(came[0].1["value"], "c");

    workspace.sluice(&["topic", "delete", "other"]).ok();
    workspace.sluice(&["topic", "create", "other"]).ok();
    workspace.produce("other", &["d"]);
    let follow = |last: &str| http.send("GET /topics/other/events", &["accept: text/event-stream", last], "");
    let gone = follow(&last);
    assert!(gone.status == 410 && gone.problem().contains("deleted"), "{}", gone.body);
    // One that has come further than the topic goes: it has lost events.
    let further = http.position("/topics/other/events").replace(":1", ":9");
    let lost = follow(&format!("last-event-id: {further}"));
    assert!(lost.status == 409 && lost.problem().contains("before 9"), "{}", lost.body);
    kill(&mut node);
}

#[test]
fn cloud_events_come_in_every_mode_and_go_out_as_they_came() {
    let workspace = through();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let event = |id: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/shop", "type": "order", "time": "2026-11-24T00:00:00Z",
            "partitionkey": "u1", "datacontenttype": "application/json", "data": { "n": 1 },
        })
    };
    let structured = "application/cloudevents+json; charset=utf-8";
    assert_eq!(http.produce("/topics/in/events", structured, &event("1").to_string()).status, 200);
    let batch = json!([event("2"), event("3")]).to_string();
    assert_eq!(http.produce("/topics/in/events", "application/cloudevents-batch+json", &batch).status, 200);
    let headers = [
        "ce-specversion: 1.0",
        "ce-id: 4",
        "ce-source: /shop",
        "ce-type: order",
        "ce-time: 2026-11-24T00:00:00Z",
        "ce-partitionkey: u1",
        "content-type: application/json",
    ];
    assert_eq!(http.send("POST /topics/in/events", &headers, r#"{"n":1}"#).status, 200);

    let read = http.send("GET /topics/in/events", &["accept: application/cloudevents-batch+json"], "");
    assert_eq!(read.kind, "application/cloudevents-batch+json");
    assert_eq!(read.json(), json!([event("1"), event("2"), event("3"), event("4")]));
    // In the log they are events like others.
    let first = &workspace.events("in")[0];
    assert_eq!((&first["key"], &first["value"]), (&"u1".into(), &r#"{"n":1}"#.into()));
    assert_eq!(first["timestamp"], 1_795_478_400_000_u64);

    let bad =
        http.produce("/topics/in/events", "application/cloudevents-batch+json", &json!([event("5"), {}]).to_string());
    assert_eq!((bad.status, &*bad.problem()), (400, "event 2: a CloudEvent has an attribute `specversion`"));
    let bad = http.send("POST /topics/in/events", &["ce-specversion: 1.0", "ce-id: %zz"], "");
    assert!(bad.status == 400 && bad.problem().contains("percent-encoding"));
    assert_eq!(workspace.events("in").len(), 4, "nothing of what was refused was appended");
    kill(&mut node);
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_a_problem_document_and_nothing_is_changed() {
    let workspace = shop();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let json = "content-type: application/json";
    let key = format!("POST /topics/shop/events?key={}", "k".repeat(60_000));
    let many = format!("[{}1]", "1,".repeat(400_000));
    let wrong: [(&str, &[&str], &str, u16, &str); 23] = [
        ("GET /nothing", &[], "", 404, "nothing is at /nothing"),
        ("PATCH /topics", &[], "", 405, "takes no PATCH"),
        ("GET /topics/none", &[], "", 404, "unknown topic: none"),
        ("POST /topics/none/events", &[], "x", 404, "unknown topic: none"),
        ("POST /topics/shop/events", &[json], "{", 400, "not JSON"),
        ("POST /topics/shop/events", &[json], "[]", 400, "no events"),
        ("POST /topics/shop/events?key-field=user", &[json], "[1] 2", 400, "not a JSON array"),
        ("POST /topics/shop/events", &["content-type: application/x-ndjson"], "{}\n{", 400, "event 2: not JSON"),
        ("POST /topics/shop/events?partition=7", &[], "x", 404, "7"),
        ("POST /topics/shop/events?patrition=7", &[], "x", 400, "patrition"),
        (
            "POST /topics/shop/events?count=9",
            &["content-type: application/vnd.sluicegate.events"],
            "x",
            400,
            "malformed",
        ),
        ("POST /topics/shop/events?producer=p", &[], "x", 400, "`first`"),
        ("POST /topics/shop/events?count=1", &[], "x", 400, "`count`"),
        ("POST /topics/shop/events", &["content-type: application/vnd.sluicegate.events"], "x", 400, "`count`"),
        ("POST /topics/shop/events", &["content-type: application/cloudevents+avro"], "x", 415, "avro"),
        // What is small as it comes, and large as events.
        (&key, &[json], &many, 413, "16777216 bytes"),
        ("PUT /pipelines/shop/desired", &[], r#""pause""#, 415, "application/json"),
        ("GET /topics/shop/events?from=soon", &[], "", 400, "soon"),
        ("GET /topics/shop/events?max=1000000", &[], "", 400, "`max`"),
        ("GET /topics/shop/events", &["accept: text/event-stream", "last-event-id: x"], "", 400, "Last-Event-ID"),
        ("POST /pipelines/shop/rewind", &[json], r#"{"to":"soon","really":true}"#, 400, "soon"),
        ("PUT /pipelines/none/desired", &[json], r#""pause""#, 404, "none"),
        ("GET /pipelines/none/health", &[], "", 404, "none"),
    ];
    for (head, headers, body, status, detail) in wrong {
        let answer = http.send(head, headers, body);
        assert_eq!(answer.status, status, "{head}: {}", answer.body);
        assert!(answer.problem().contains(detail), "{head}: {}", answer.body);
    }
    // Files of the node's machine are no business of the network's.
    let replay = r#"{"pipeline":"shop","from":"earliest","to":"latest","files":["/etc"]}"#;
    for (path, body) in
        [("/checkpoint-imports", "{}"), ("/checkpoints/x/export", "{}"), ("/pipelines/shop/replay", replay)]
    {
        assert_eq!(http.send(&format!("POST {path}"), &[json], body).status, 403, "{path}");
    }
    // More than is read, said and unsaid.
    let large = vec![b'x'; (8 << 20) + 1];
    let said = http.send("POST /topics/shop/events", &[], &large);
    assert_eq!((said.status, &*said.problem()), (413, "a request has at most 8388608 bytes"));
    let head = format!("POST /topics/shop/events HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n", http.0);
    let unsaid = http.raw(&[head.as_bytes(), b"900000\r\n", &large, &large[..1 << 20]].concat()).unwrap();
    assert!(unsaid.starts_with("HTTP/1.1 413"), "{unsaid}");
    // No HTTP, and too much of it.
    let no_http = http.answer(b"hello\r\n\r\n").unwrap();
    assert!(no_http.status == 400 && no_http.problem().contains("no HTTP"), "{}", no_http.body);
    let bomb = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let refused = http.answer(bomb.as_bytes()).unwrap();
    assert!(refused.status == 431 && refused.problem().contains("65536 bytes"), "{}", refused.body);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert_eq!(http.answer(many.as_bytes()).unwrap().problem().split(' ').next(), Some("a"));

    assert_eq!(workspace.events("shop"), [] as [Value; 0]);
    assert_eq!((http.get("/healthz").status, http.get("/readyz").status), (200, 200));
    assert_eq!(http.get("/pipelines/shop/health").json(), "idle");
    let at_the_end = format!("/topics/shop/events?from={}", u64::MAX);
    assert_eq!(http.get(&at_the_end).json()["events"], Value::Array(vec![]));
    // The kind of answer that is asked for first, but for those that are not wanted.
    let accepts = |accept: &str| http.send("GET /topics/shop/events", &[&format!("accept: {accept}")], "").kind;
    assert_eq!(accepts("text/html, Application/JSON;q=0.9, text/event-stream"), "application/json");
    assert_eq!(accepts("text/event-stream;q=0, */*"), "application/json");
    kill(&mut node);
}

#[test]
fn pages_of_other_sites_cannot_use_a_node_and_other_machines_only_where_that_is_wanted() {
    let workspace = shop();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let refused = workspace.sluice(&["run", "--listen", address]).fails(2);
        assert!(refused.contains("other machines can reach") && refused.contains("--tls-cert"), "{refused}");
    }
    assert!(workspace.sluice(&["run", "--listen", "here"]).fails(2).contains("127.0.0.1:7070"));

    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    for foreign in ["host: evil.example", "origin: http://evil.example", "origin: null", "sec-fetch-site: cross-site"] {
        let answer = http.send("POST /topics/shop/events", &[foreign], "x");
        assert_eq!(answer.status, 403, "{foreign}");
        answer.problem();
    }
    let own = format!("origin: {}", http.url());
    assert_eq!(http.send("POST /topics/shop/events", &[&own], "x").status, 200);
    // A second node takes an address that is free, or none.
    let other = shop();
    let taken = other.sluice(&["run", "--listen", &http.0]).fails(1);
    assert!(taken.contains("cannot listen") && taken.contains("--listen"), "{taken}");
    kill(&mut node);
}

/// Without what is another each time: times, numbers of commits, ids of topics that are made.
fn timeless(told: &str) -> String {
    let mut is_other = false;
    let word = |word: &str| {
        let is_time = word.contains(':') && word.starts_with("20");
        let is_own = std::mem::replace(&mut is_other, is_time || matches!(word, "id" | "commit"));
        if is_own || is_time { "…".to_owned() } else { word.to_owned() }
    };
    told.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_verb_says_the_same_of_a_directory_by_the_socket_and_by_a_url() {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", THROUGH.replace("plugins/pass-through", "plugins/picky"));
    workspace.sluice(&["topic", "create", "in", "--partitions", "2"]).ok();
    workspace.produce("in", &["a", "bad", "b"]);
    workspace.sluice(&["run", "--until-idle"]).ok();
    workspace.write("lines", "x\ny\n");
    let lines = workspace.path("lines");
    let lines = lines.to_str().unwrap();
    let verbs: [&[&str]; 37] = [
        &["topic", "list"],
        &["topic", "describe", "in"],
        &["topic", "describe", "none"],
        &["consume", "out"],
        &["consume", "in", "--json", "--from", "1"],
        &["consume", "in", "--partition", "9"],
        &["dead", "list", "p"],
        &["dead", "discard", "p", "--all"],
        &["rewind", "p", "--to", "earliest"],
        &["rewind", "p", "--to", "checkpoint:none"],
        &["checkpoint", "create", "now"],
        &["checkpoint", "show", "now"],
        &["checkpoint", "restore", "now"],
        &["checkpoint", "list"],
        &["checkpoint", "delete", "none"],
        &["dead", "show", "p", "0"],
        &["dead", "show", "p", "99"],
        &["dead", "redrive", "p", "--all"],
        &["state", "scan", "p"],
        &["state", "get", "p", "key"],
        &["audit", "p"],
        &["replay", "p", "--from", "earliest", "--to", "latest", "--diff"],
        &["verify", "p", "--from", "earliest", "--to", "latest"],
        &["plugin", "history", "p"],
        &["plugin", "rollback", "p"],
        &["rewind", "p", "--undo"],
        &["pipeline", "pause", "none"],
        &["pipeline", "resume", "none"],
        &["pipeline", "drain", "none"],
        &["pipeline", "delete", "none"],
        // What changes something, and takes that back.
        &["topic", "create", "scratch", "--partitions", "2"],
        &["topic", "create", "scratch"],
        &["produce", "scratch", lines, "--partition", "1", "--producer-id", "me"],
        &["produce", "scratch", lines, "--partition", "1", "--producer-id", "me"],
        &["consume", "scratch"],
        &["topic", "delete", "scratch"],
        &["topic", "delete", "in"],
    ];
    let tell = |node: Option<&str>| -> Vec<String> {
        let told = verbs.iter().map(|verb| {
            let around: Vec<&str> = node.map_or(vec![], |url| vec!["--node", url]);
            let ran = workspace.sluice(&[&around, *verb].concat());
            format!("{verb:?} {:?}\n{}\n{}", ran.code, timeless(&ran.stdout), ran.stderr)
        });
        let told = told.collect();
        workspace.sluice(&["checkpoint", "delete", "now"]).ok();
        told
    };
    let directory = tell(None);
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let url = Http::of(&workspace).url();
    assert_eq!(tell(None), directory, "by the socket");
    assert_eq!(tell(Some(&url)), directory, "by the URL");

    // What changes something.
    let there = |verb: &[&str]| workspace.sluice(&[&["--node", &url], verb].concat());
    there(&["topic", "create", "other"]).ok();
    there(&["produce", "other", "lines"]).ok();
    assert_eq!(there(&["consume", "other"]).ok(), "x\ny\n");
    there(&["pipeline", "pause", "p"]).ok();
    workspace.until("it is paused", || workspace.pipeline("p")["state"] == "paused");
    there(&["pipeline", "resume", "p"]).ok();
    there(&["rewind", "p", "--to", "earliest", "--yes"]).ok();
    workspace.until("all is dealt with again", || workspace.pipeline("p")["state"] == "idle");
    assert!(there(&["status"]).ok().contains(&url));
    assert_eq!(there(&["status"]).ok(), workspace.sluice(&["status"]).ok());
    // What is about this machine, or its files.
    for verb in [&["run"][..], &["doctor"], &["fsck"], &["test"]] {
        assert!(there(verb).fails(2).contains("leave --node out"), "{verb:?}");
    }
    assert!(there(&["checkpoint", "export", "now", "file"]).fails(2).contains("files on the node's machine"));
    kill(&mut node);
    assert!(there(&["status"]).fails(1).contains("does not answer"));
    assert!(workspace.sluice(&["--node", "ftp://x", "status"]).fails(2).contains("http://HOST:PORT"));
}

#[test]
fn what_a_node_acknowledged_over_http_is_there_after_it_was_killed() {
    let workspace = shop();
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut node = workspace.start(&ANYWHERE).unwrap();
        let http = Http::of(&workspace);
        let before = acknowledged;
        std::thread::scope(|scope| {
            let producers: Vec<_> = (0..4)
                .map(|producer| {
                    let http = &http;
                    scope.spawn(move || {
                        let mut sent = 0;
                        let head = format!("POST /topics/shop/events?producer=p{round}-{producer}");
                        while let Ok(answer) = http.try_send(&format!("{head}&first={sent}"), &[], order(sent, "u")) {
                            assert_eq!(answer.status, 200, "{}", answer.body);
                            sent += 1;
                        }
                        sent
                    })
                })
                .collect();
            workspace.until("some were appended", || workspace.pipeline("shop")["read"].as_u64() > Some(before + 20));
            kill(&mut node);
            for producer in producers {
                acknowledged += u64::from(producer.join().unwrap());
            }
        });
        let there = workspace.events("shop").len() as u64;
        // Of each producer, one request may have been committed and not answered.
        assert!((acknowledged..=acknowledged + 4).contains(&there), "{acknowledged} acknowledged, {there} there");
        acknowledged = there;
    }
}

#[test]
fn a_request_with_an_idempotency_key_counts_once_also_over_a_crash() {
    let workspace = through();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let send = |http: &Http, key: &str, body: &str| {
        http.send(
            "POST /topics/in/events",
            &["content-type: application/json", &format!("idempotency-key: {key}")],
            body,
        )
    };
    let http = Http::of(&workspace);
    let first = send(&http, "a-1", r#"["x","y"]"#).json();
    assert_eq!((&first["appended"], &first["repeated"]), (&json!(2), &json!(false)));
    for key in ["a-1", "\"a-1\""] {
        let again = send(&http, key, r#"["x","y"]"#).json();
        assert_eq!((&again["appended"], &again["repeated"]), (&json!(0), &json!(true)), "{key}");
    }
    for other in [r#"["x"]"#, r#"["x","y","z"]"#, r#"["x","z"]"#] {
        let answer = send(&http, "a-1", other);
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(answer.problem().contains("another request"));
    }
    let elsewhere = http.send(
        "POST /topics/in/events?partition=0",
        &["content-type: application/json", "idempotency-key: a-1"],
        r#"["x","y"]"#,
    );
    assert_eq!(elsewhere.status, 422, "{}", elsewhere.body);
    kill(&mut node);
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    assert_eq!(send(&http, "a-1", r#"["x","y"]"#).json()["repeated"], true);
    assert_eq!(send(&http, "a-2", r#"["z"]"#).json()["appended"], 1);
    assert_eq!(workspace.values("in"), [r#""x""#, r#""y""#, r#""z""#]);
    for wrong in ["", &"k".repeat(201), "\"\""] {
        assert_eq!(send(&http, wrong, "1").status, 400, "{wrong:?}");
    }
    let numbered = "POST /topics/in/events?producer=p&first=0";
    let both = http.send(numbered, &["content-type: application/json", "idempotency-key: k"], "1");
    assert_eq!(both.status, 400, "{}", both.body);
    // Nobody is pushed out of the table of producers by somebody who takes such a name.
    let taken = http.send(
        "POST /topics/in/events?producer=idempotency-key:a-1&first=2",
        &["content-type: application/json"],
        "1",
    );
    assert_eq!(taken.status, 400, "{}", taken.body);
    kill(&mut node);
}

#[test]
fn what_comes_of_an_event_belongs_to_its_trace() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    // Its consumer says nothing of headers.
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", crate::dashboard::PICKY);
    workspace.sluice(&["topic", "create", "in"]).ok();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let json = "content-type: application/json";
    let trace = format!("traceparent: {TRACE}");
    assert_eq!(http.send("POST /topics/in/events", &[json], "1").status, 200);
    assert_eq!(http.send("POST /topics/in/events", &[json, &trace, "tracestate: a=1"], "[2,3]").status, 200);
    let event = ["ce-specversion: 1.0", "ce-id: 1", "ce-type: t", "ce-source: /s", json, &trace];
    assert_eq!(http.send("POST /topics/in/events", &event, "4").status, 200);
    workspace.until("it is through", || workspace.events("out").len() == 4);
    let headers: Vec<Vec<(String, String)>> = workspace
        .events("out")
        .iter()
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let headers = event["headers"].as_array().unwrap().iter();
            headers.map(|header| (text(&header["name"]), text(&header["value"]))).collect()
        })
        .collect();
    let whole = [("traceparent", TRACE), ("tracestate", "a=1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(headers, [vec![], whole.to_vec(), whole.to_vec(), whole[..1].to_vec()]);
    kill(&mut node);
}

#[test]
fn a_node_answers_as_its_description_says_whatever_it_is_asked() {
    /// What is there, so that more than 404 is asked for.
    const KNOWN: &str = r#"[parameters]
"path.topic" = "in"
"path.pipeline" = "p"
[[operations]]
include-name = "DELETE /pipelines/{pipeline}"
parameters = { "path.pipeline" = "gone" }
[[operations]]
include-name = "DELETE /topics/{topic}"
parameters = { "path.topic" = "gone" }
"#;
    let workspace = through();
    workspace.write("schemathesis.toml", KNOWN);
    workspace.produce("in", &["a", "b"]);
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let schema = Http::of(&workspace).url() + "/openapi.json";
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method";
    let mut asks = std::process::Command::new(project().join("target/tools/schemathesis/bin/st"));
    asks.args(["run", &schema, "--checks", checks, "--seed", "1", "--max-examples", "50", "--continue-on-failure"]);
    asks.args(["--phases", "coverage,fuzzing", "--warnings", "off"]);
    let told = asks.current_dir(workspace.path("")).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    let asked = told.lines().find(|line| line.contains("generated,")).unwrap_or_default();
    assert!(asked.contains(" passed") && !asked.contains("failed"), "{told}");
    let count: u32 = asked.split_whitespace().next().unwrap().parse().unwrap();
    assert!(count > 500, "{told}");
    kill(&mut node);
}
