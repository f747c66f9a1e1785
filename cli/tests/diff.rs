//! `polproof diff` as pull requests use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::process::{Command, Output};

use serde_json::{Value, json};

const BEFORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/diff/before");
const AFTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/diff/after");

fn diff(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polproof"))
        .env_clear()
        .arg("diff")
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn document(args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.extend(["-o", "json"]);
    let output = diff(&all);
    serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)))
}

/// Policies alone, as a pull request to a folder of policies has them.
fn policies(folder: &std::path::Path, of: &str) -> String {
    let text = std::fs::read_to_string(format!("{of}/shop.yaml")).unwrap();
    let policies: Vec<&str> = text
        .split("---\n")
        .filter(|document| document.contains("kind: NetworkPolicy"))
        .collect();
    let path = folder.join(format!("{}.yaml", of.len()));
    std::fs::write(&path, policies.join("---\n")).unwrap();
    path.display().to_string()
}

#[test]
fn a_pull_request_shows_what_it_opens_and_closes_and_by_which_policy() {
    let found = document(&[BEFORE, AFTER]);
    assert_eq!(found["summary"]["changed"], true);
    // db and, new in both, nobody else: db -> api opened; api -> db closed.
    assert_eq!(found["summary"]["opened"], 1);
    assert_eq!(found["summary"]["closed"], 1);
    let changes = found["changes"].as_array().unwrap();
    let opened = changes
        .iter()
        .find(|of| of["ports"][0]["effect"] == "opened")
        .unwrap();
    assert_eq!(opened["sources"], json!(["shop/db"]));
    assert_eq!(opened["destinations"], json!(["shop/api"]));
    assert_eq!(opened["ports"][0]["first_port"], 8080);
    assert_eq!(
        opened["responsible"],
        json!([{"direction": "ingress", "kind": "NetworkPolicy", "namespace": "shop", "name": "api", "change": "changed"}])
    );
    let closed = changes
        .iter()
        .find(|of| of["ports"][0]["effect"] == "closed")
        .unwrap();
    assert_eq!(closed["sources"], json!(["shop/api"]));
    assert_eq!(closed["destinations"], json!(["shop/db"]));
    assert_eq!(closed["responsible"][0]["name"], "db");
    assert_eq!(found["new"][0]["name"], "shop/cache");
    assert_eq!(found["gone"][0]["name"], "shop/jobs");
    assert_eq!(found["policies"].as_array().unwrap().len(), 2);
}

#[test]
fn exit_codes_let_ci_stop() {
    let code = |args: &[&str]| diff(args).status.code();
    assert_eq!(code(&[BEFORE, BEFORE]), Some(0));
    assert_eq!(code(&[BEFORE, AFTER]), Some(1));
    assert_eq!(code(&[BEFORE, AFTER, "--fail-on", "never"]), Some(0));
    assert_eq!(code(&[BEFORE, AFTER, "--fail-on", "opened"]), Some(1));
    assert_eq!(code(&[BEFORE, AFTER, "--fail-on", "closed"]), Some(1));
    assert_eq!(code(&[BEFORE, "/nowhere"]), Some(2));
    assert_eq!(code(&[BEFORE]), Some(2));

    // A policy that is taken away only opens.
    let folder = tempfile::tempdir().unwrap();
    let all = policies(folder.path(), BEFORE);
    let without = folder.path().join("without.yaml");
    let text = std::fs::read_to_string(&all).unwrap();
    let kept: Vec<&str> = text
        .split("---\n")
        .filter(|of| !of.contains("default-deny"))
        .collect();
    std::fs::write(&without, kept.join("---\n")).unwrap();
    let args = [&*all, without.to_str().unwrap(), "--workloads", BEFORE];
    let fail_on = |which| {
        let mut all = args.to_vec();
        all.extend(["--fail-on", which]);
        diff(&all).status.code()
    };
    assert_eq!(fail_on("opened"), Some(1));
    assert_eq!(fail_on("closed"), Some(0));
    let found = document(&args);
    for change in found["changes"].as_array().unwrap() {
        assert_eq!(change["responsible"][0]["name"], "default-deny");
        assert_eq!(change["responsible"][0]["change"], "removed");
    }
}

#[test]
fn policies_alone_need_workloads_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (
        policies(folder.path(), BEFORE),
        policies(folder.path(), AFTER),
    );
    let output = diff(&[&before, &after]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("--workloads PATH"),
        "{}",
        stderr(&output)
    );
    let output = diff(&[BEFORE, &after]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("does not have any pods"),
        "{}",
        stderr(&output)
    );

    let found = document(&[&before, &after, "--workloads", BEFORE]);
    assert_eq!(found["new"], json!([]));
    assert_eq!(found["summary"]["closed"], 1);
    // db and jobs may both reach api now.
    assert_eq!(found["summary"]["opened"], 2);
}

#[test]
fn people_and_pull_requests_read_the_same() {
    let text = stdout(&diff(&[BEFORE, AFTER]));
    for part in [
        "Opened:",
        "Closed:",
        "8080/TCP",
        "5432/TCP",
        "ingress shop/api (changed)",
        "shop/cache",
        "shop/jobs",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let markdown = stdout(&diff(&[BEFORE, AFTER, "-o", "markdown"]));
    assert!(
        markdown.starts_with("### Connectivity changes"),
        "{markdown}"
    );
    assert!(
        markdown.contains(
            "| shop/db | shop/api | 8080/TCP | deny =\\> allow | ingress shop/api (changed) |"
        ),
        "{markdown}"
    );
    let none = stdout(&diff(&[BEFORE, BEFORE, "-o", "markdown"]));
    assert!(none.starts_with("### No connectivity changes"), "{none}");
}

#[test]
fn labels_that_change_are_no_policy() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(format!("{BEFORE}/shop.yaml")).unwrap();
    let moved = text.replace(
        "name: jobs, uid: pod-jobs, labels: {app: jobs}",
        "name: jobs, uid: pod-jobs, labels: {app: web}",
    );
    assert_ne!(text, moved);
    std::fs::write(folder.path().join("shop.yaml"), moved).unwrap();
    let found = document(&[BEFORE, folder.path().to_str().unwrap()]);
    assert_eq!(found["changes"].as_array().unwrap().len(), 1);
    assert_eq!(found["changes"][0]["sources"], json!(["shop/jobs"]));
    assert_eq!(found["changes"][0]["responsible"], json!([]));
    assert_eq!(found["policies"], json!([]));
}
