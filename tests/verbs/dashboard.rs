//! The dashboard, in a real browser. What it does there is told in `tests/dashboard/dashboard.mjs`.

use std::path::PathBuf;
use std::process::Command;

use sluice_tests::sluice::{Workspace, kill, project};

use crate::http::{ANYWHERE, Http};

pub(crate) const PICKY: &str = r#"name = "p"
[source]
topics = ["in"]
[[stage]]
plugin = "../plugins/picky"
[[sink]]
topic = "out"
"#;

/// A node whose pipeline has dead letters, and a plugin that has said something.
pub(crate) fn picky() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("pipelines/p.toml", PICKY);
    workspace.sluice(&["topic", "create", "in"]).ok();
    workspace.produce("in", &["one", "bad", "panic", "say hello from the plugin"]);

    workspace
}

fn screenshots() -> PathBuf {
    let folder = project().join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Debian's browser.
fn chromium() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&paths).map(|dir| dir.join("chromium")).find(|program| program.is_file());
    found.expect("chromium: `cargo xtask setup` installs it")
}

/// Has a browser use the dashboard of a node.
fn browse(http: &Http, token: &[&str]) {
    let playwright = project().join("target/tools/playwright").canonicalize().unwrap();
    let mut browser = Command::new("node");
    browser.arg(project().join("tests/dashboard/dashboard.mjs")).args([http.url()]).arg(screenshots()).args(token);
    browser.env("PLAYWRIGHT", playwright).env("CHROMIUM", chromium());
    let ran = browser.output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{told}");
}

#[test]
fn a_person_can_see_and_do_everything_in_a_browser() {
    let workspace = picky();
    let mut node = workspace.start(&ANYWHERE).unwrap();
    let http = Http::of(&workspace);
    let sent = http.send("POST /topics/in/events?key=b", &["content-type: application/json"], r#"{"fine":true}"#);
    assert_eq!(sent.status, 200, "{}", sent.body);
    workspace.until("it is through", || workspace.pipeline("p")["read"] == 5);
    workspace.write("pipelines/p.toml", format!("{PICKY}[batch]\nmax-events = 100\n"));
    workspace.until("it takes over", || workspace.pipeline("p")["generation"] == 2);
    browse(&http, &[]);
    kill(&mut node);
}

#[test]
fn a_browser_asks_for_the_token_that_the_node_asks_for() {
    let workspace = picky();
    let made = workspace.sluice(&["token", "create", "me", "operate"]).ok();
    let mut node = workspace.start(&[&ANYWHERE[..], &["--tokens"]].concat()).unwrap();
    browse(&Http::of(&workspace), &[made.trim()]);
    kill(&mut node);
}
