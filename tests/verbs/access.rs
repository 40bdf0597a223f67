//! Who gets in from the network, and what they may do there.

use std::process::Child;

use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use sluice_tests::sluice::{Workspace, kill};

use crate::http::{ANYWHERE, Http};
use crate::through;

/// Makes a token; the secret.
fn token(workspace: &Workspace, name: &str, scopes: &[&str]) -> String {
    let made = workspace.sluice(&[&["token", "create", name], scopes].concat()).ok();
    made.trim().to_owned()
}

/// A node that lets nobody in without a token.
fn guarded(workspace: &Workspace) -> (Child, Http) {
    let node = workspace.start(&[&ANYWHERE[..], &["--tokens"]].concat()).unwrap();
    (node, Http::of(workspace))
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

#[test]
fn a_token_opens_what_its_scopes_say_and_nothing_else() {
    let workspace = through();
    workspace.produce("in", &["a"]);
    let tokens = [
        ("producer", vec!["produce:in"]),
        ("reader", vec!["read:o*"]),
        ("observer", vec!["observe"]),
        ("operator", vec!["operate"]),
        ("admin", vec!["admin"]),
    ]
    .map(|(name, scopes)| (name, token(&workspace, name, &scopes)));
    let (mut node, http) = guarded(&workspace);
    workspace.until("it is through", || workspace.pipeline("p")["lag"] == 0);

    let json = "content-type: application/json";
    let requests: [(&str, &str, &[&str]); 16] = [
        ("POST /topics/in/events", "x", &["producer", "admin"]),
        ("POST /topics/out/events", "x", &["admin"]),
        ("GET /topics/out/events", "", &["reader", "admin"]),
        ("GET /topics/in/events", "", &["admin"]),
        ("GET /topics/in", "", &["producer", "observer", "operator", "admin"]),
        ("GET /topics/in/producers/p", "", &["producer", "admin"]),
        ("GET /status", "", &["observer", "operator", "admin"]),
        ("GET /pipelines/p/health", "", &["observer", "operator", "admin"]),
        ("POST /pipelines/p/rewind", r#"{"to":"earliest","really":false}"#, &["operator", "admin"]),
        ("POST /pipelines/p/state", "{}", &["operator", "admin"]),
        ("GET /pipelines/p/dead", "", &["operator", "admin"]),
        ("GET /audit", "", &["operator", "admin"]),
        ("POST /topics", r#"{"name":"new","partitions":0}"#, &["admin"]),
        ("DELETE /topics/none", "", &["admin"]),
        ("GET /tokens", "", &["admin"]),
        ("POST /tokens", r#"{"name":"x","scopes":[]}"#, &["admin"]),
    ];
    for (head, body, who) in requests {
        let nobody = http.send(head, &[json], body);
        assert_eq!(nobody.status, 401, "{head}: {}", nobody.body);
        assert!(nobody.problem().contains("needs a token"), "{head}");
        for (name, token) in &tokens {
            let answer = http.send(head, &[json, &bearer(token)], body);
            let is_let_in = !matches!(answer.status, 401 | 403);
            assert_eq!(is_let_in, who.contains(name), "{name}: {head}: {} {}", answer.status, answer.body);
            if !is_let_in {
                assert!(
                    answer.status == 403 && answer.problem().contains("needs the scope"),
                    "{name}: {}",
                    answer.body
                );
            }
        }
    }
    // Each is told of the topics it may know of.
    let seen = tokens.each_ref().map(|(_, token)| {
        let topics = http.send("GET /topics", &[&bearer(token)], "").json();
        topics.as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(seen.each_ref().map(Vec::len), [1, 1, 3, 3, 3], "{seen:?}");
    // Whether it lives may be asked by anybody; what is no token opens nothing, not even that.
    assert_eq!((http.get("/healthz").status, http.get("/readyz").status), (200, 200));
    let admin = &tokens[4].1;
    for wrong in [&admin[1..], &format!("{admin}x"), "", "sluice_"] {
        assert_eq!(http.send("GET /healthz", &[&bearer(wrong)], "").status, 401, "{wrong}");
    }
    assert_eq!(http.send("GET /status", &[&format!("authorization: Basic {admin}")], "").status, 401);
    assert_eq!(http.send("GET /status", &[&format!("authorization: bearer {admin}")], "").status, 200);
    kill(&mut node);
}

#[test]
fn a_token_that_is_revoked_opens_nothing_any_more_and_who_follows_with_it_is_told() {
    let workspace = through();
    let secret = token(&workspace, "reader", &["read:in"]);
    let admin = token(&workspace, "boss@home", &["admin"]);
    let (mut node, http) = guarded(&workspace);
    let taken = workspace.sluice(&["token", "create", "reader", "observe"]).fails(2);
    assert!(taken.contains("a token reader already"), "{taken}");
    let wrong = workspace.sluice(&["token", "create", "x", "everything"]).fails(2);
    assert!(wrong.contains("produce:TOPICS"), "{wrong}");
    let listed = workspace.sluice(&["token", "list"]).ok();
    assert!(listed.contains("read:in") && !listed.contains(&secret), "{listed}");

    let mut lines = http.lines("/topics/in/events", &[&bearer(&secret)]);
    lines.find(|line| line.starts_with("id: ")).unwrap();
    // By a verb, from elsewhere, with a token of its own.
    workspace.write("token", format!("{admin}\n"));
    let url = http.url();
    let there = |verb: &[&str]| workspace.sluice(&[&["--node", &url, "--token-file", "token"], verb].concat());
    there(&["token", "revoke", "reader"]).ok();
    workspace.produce("in", &["secret"]);
    let told: Vec<String> = lines.filter(|line| line.starts_with("data:")).collect();
    assert!(told.len() == 1 && told[0].contains("the token has ended"), "{told:?}");
    assert_eq!(http.send("GET /topics/in", &[&bearer(&secret)], "").status, 401);
    // Without a token, the verb says where one comes from.
    let refused = workspace.sluice(&["--node", &url, "status"]).fails(2);
    assert!(refused.contains("needs a token") && refused.contains("SLUICE_TOKEN"), "{refused}");
    let mut with = workspace.command(&["--node", &url, "status"]);
    assert!(with.env("SLUICE_TOKEN", &admin).output().unwrap().status.success());
    kill(&mut node);
    // With no node, by the file.
    workspace.sluice(&["token", "revoke", "boss@home"]).ok();
    assert!(workspace.sluice(&["token", "list"]).ok().contains("no tokens yet"));
    let nobody = workspace.sluice(&[&["run", "--tokens"][..], &ANYWHERE].concat()).fails(2);
    assert!(nobody.contains("there is no token yet"), "{nobody}");
}

#[test]
fn every_order_is_noted_with_who_gave_it() {
    let workspace = through();
    let secret = token(&workspace, "operator", &["operate"]);
    let (mut node, http) = guarded(&workspace);
    let headers = [&*bearer(&secret), "content-type: application/json"];
    http.send("PUT /pipelines/p/desired", &headers, r#""pause""#);
    http.send("GET /pipelines/p", &headers, "");
    http.send("POST /pipelines/p/rewind", &headers, r#"{"to":"earliest","really":false}"#);
    http.send("POST /pipelines/p/rewind", &headers, r#"{"to":"nowhere","really":true}"#);
    http.send("DELETE /topics/in", &headers, "");
    workspace.sluice(&["pipeline", "resume", "p"]).ok();
    let noted = std::fs::read_to_string(workspace.path(".sluice/operations.jsonl")).unwrap();
    let noted = noted.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        assert!(line["time"].as_i64().unwrap() > 1_700_000_000_000);
        let from = line["from"].as_str().unwrap().starts_with("127.0.0.1:");
        assert_eq!(from, line["who"] == "operator", "{line}");
        ["method", "path", "status", "who", "body"].map(|name| line[name].take())
    });
    assert_eq!(
        noted.collect::<Vec<_>>(),
        [
            [json!("PUT"), json!("/pipelines/p/desired"), json!(200), json!("operator"), json!("pause")],
            [
                json!("POST"),
                json!("/pipelines/p/rewind"),
                json!(400),
                json!("operator"),
                json!({"to": "nowhere", "really": true})
            ],
            [json!("PUT"), json!("/pipelines/p/desired"), json!(200), json!("anybody"), json!("resume")],
        ]
    );
    kill(&mut node);
}

#[test]
fn a_node_goes_on_when_nobody_reads_what_it_logs() {
    let workspace = through();
    // What it writes goes into a pipe of 64 KiB that nobody reads.
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    for _ in 0..1500 {
        let answer = http.send("DELETE /tokens/none-of-this-rather-long-name", &[], "");
        assert_eq!(answer.status, 404, "{}", answer.body);
    }
    workspace.produce("in", &["a"]);
    workspace.until("it is through", || workspace.values("out") == ["a"]);
    kill(&mut node);
}

#[test]
fn other_machines_come_in_by_tls_with_a_token() {
    let workspace = through();
    let certified = generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    workspace.write("cert.pem", certified.cert.pem());
    workspace.write("key.pem", certified.signing_key.serialize_pem());
    let everywhere = ["--listen", "0.0.0.0:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let nobody = workspace.sluice(&[&["run"], &everywhere[..]].concat()).fails(2);
    assert!(nobody.contains("there is no token yet") && nobody.contains("sluice token create"), "{nobody}");
    let secret = token(&workspace, "me", &["observe", "produce:in"]);

    let mut node = workspace.start(&everywhere).unwrap();
    let url = workspace.json(&["status"])["url"].as_str().unwrap().to_owned();
    let port = url.strip_prefix("https://0.0.0.0:").unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let there = |arguments: &[&str]| {
        let mut command = workspace.command(&[&["--node", &url], arguments].concat());
        let output = command.env("SLUICE_TOKEN", &secret).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(there(&["--ca", "cert.pem", "status"]), (Some(0), String::new()));
    workspace.write("lines", "a\n");
    assert_eq!(there(&["--ca", "cert.pem", "produce", "in", "lines"]).0, Some(0));
    let (code, told) = there(&["--ca", "cert.pem", "consume", "in"]);
    assert!(code == Some(2) && told.contains("read:in"), "{told}");
    // Who is not trusted is not talked to; who does not speak TLS is not answered.
    let (code, told) = there(&["status"]);
    assert!(code == Some(1) && told.contains("certificate"), "{told}");
    let (code, told) = there(&["--ca", "key.pem", "status"]);
    assert!(code == Some(2) && told.contains("no certificate"), "{told}");
    assert!(workspace.sluice(&["--node", &url.replace("https", "http"), "status"]).code != Some(0));
    let stranger = workspace.sluice(&["--node", &url, "--ca", "cert.pem", "status"]).fails(2);
    assert!(stranger.contains("needs a token"), "{stranger}");
    kill(&mut node);

    workspace.write("key.pem", generate_simple_self_signed([]).unwrap().signing_key.serialize_pem());
    let mismatch = workspace.sluice(&[&["run"], &everywhere[..]].concat()).fails(2);
    assert!(mismatch.contains("cannot be used"), "{mismatch}");
    let missing = workspace.sluice(&["run", "--tls-cert", "none.pem", "--tls-key", "key.pem"]).fails(2);
    assert!(missing.contains("none.pem"), "{missing}");
}
