//! `polproof check`, as CI runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn check(file: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polproof"))
        .env_clear()
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures"))
        .arg("check")
        .arg(file)
        .args(["--manifests", "shop"])
        .args(args)
        .output()
        .unwrap()
}

fn fixture(name: &str, args: &[&str]) -> Output {
    check(&Path::new("check").join(name), args)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn what_holds_ends_with_zero() {
    let output = fixture("shop.yaml", &[]);
    let shown = said(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("6 checks: 6 passed, 0 failed"), "{shown}");
}

#[test]
fn what_does_not_hold_is_explained() {
    let output = fixture("wrong.yaml", &[]);
    let shown = said(&output);
    // The pod that is not there counts as bad input.
    assert_eq!(output.status.code(), Some(2), "{shown}");
    for expected in [
        "FAILED  allow   2 of 2 wrong  web reaches the database",
        "check/wrong.yaml:3: web reaches the database",
        "expected because: the old report needs it",
        "shop/web -> shop/db:5432/TCP (IPv4 and IPv6): deny, not allow",
        "nearest: rule 0 of policy shop/db: pod shop/web has app=web, not app=api",
        "shop/web -> shop/api:8080/TCP (IPv4 and IPv6): allow, not deny",
        "rule 0 of policy shop/web admits pod shop/web to pod shop/api",
        "from: there is no pod shop/wbe; did you mean shop/web?",
        "3 checks: 0 passed, 2 failed, 1 could not be made",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn json_names_the_line_and_the_walk() {
    let output = fixture("wrong.yaml", &["-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["failed"], &value["errors"]), (&2.into(), &1.into()));
    let first = &value["checks"][0];
    assert_eq!(
        (&first["line"], &first["result"]),
        (&3.into(), &"failed".into())
    );
    assert_eq!(first["failures"][0]["directions"][0]["direction"], "egress");
    assert_eq!(first["failures"][0]["verdict"], "deny");
    assert_eq!(value["checks"][1]["name"], "shop/web -> shop/api");
    assert_eq!(value["checks"][2]["result"], "error");
}

#[test]
fn junit_has_a_testcase_a_check() {
    let output = fixture("wrong.yaml", &["-o", "junit"]);
    let xml = String::from_utf8(output.stdout).unwrap();
    assert_eq!(xml.matches("<testcase ").count(), 3, "{xml}");
    assert_eq!(xml.matches("<failure ").count(), 2, "{xml}");
    assert_eq!(xml.matches("<error ").count(), 1, "{xml}");
    for expected in [
        r#"tests="3""#,
        r#"failures="2""#,
        r#"errors="1""#,
        r#"name="web reaches the database""#,
        "2 of 2 pairs came out otherwise, first shop/web -&gt; shop/db:5432/TCP",
    ] {
        assert!(xml.contains(expected), "{expected}: {xml}");
    }
    let fine = fixture("shop.yaml", &["-o", "junit"]);
    assert_eq!(fine.status.code(), Some(0));
    assert!(!String::from_utf8(fine.stdout).unwrap().contains("<failure"));
}

#[test]
fn one_failure_ends_with_one() {
    let file = written("checks:\n- {from: \"*\", to: shop/db, port: 5432, expect: allow}\n");
    let output = check(file.path(), &[]);
    let shown = said(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    // Six pods, but db itself; two families; api is let in.
    assert!(shown.contains("8 of 10 wrong"), "{shown}");
}

#[test]
fn what_the_policies_leave_open_is_neither() {
    let text = |expect| {
        format!("checks:\n- {{from: shop/web, to: shop/api, port: 8080, expect: {expect}}}\n")
    };
    for (expect, code) in [("allow", 1), ("deny", 1), ("unknown", 0)] {
        let file = written(&text(expect));
        let output = Command::new(env!("CARGO_BIN_EXE_polproof"))
            .env_clear()
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/recipes"))
            .arg("check")
            .arg(file.path())
            .args(["--manifests", "metadata-block.yaml"])
            .output()
            .unwrap();
        let shown = said(&output);
        assert_eq!(output.status.code(), Some(code), "{expect}: {shown}");
        if code == 1 {
            assert!(shown.contains("ipBlock"), "{shown}");
        }
    }
}

#[test]
fn a_check_of_nobody_is_no_success() {
    for (text, expected) in [
        (
            "checks:\n- {from: {namespace: nowhere}, to: shop/db, expect: deny}\n",
            "there are no pods: every pod of nowhere",
        ),
        (
            "checks:\n- {from: shop/web, to: shop/db, port: grpc, expect: deny}\n",
            "port grpc: pod shop/db declares no port of that name",
        ),
        (
            "checks:\n- {from: shop/db, to: 203.0.113.9, port: http, expect: deny}\n",
            "203.0.113.9 is no pod",
        ),
        (
            "checks:\n- {from: 203.0.113.1, to: \"fd00::1\", port: 80, expect: deny}\n",
            "no address family in common",
        ),
    ] {
        let file = written(text);
        let output = check(file.path(), &[]);
        let shown = said(&output);
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let file = written("checks:\n- from: a/b\n  to: c/d\n  expct: deny\n");
    let output = check(file.path(), &[]);
    let shown = said(&output);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    let place = format!("{}:4: ", file.path().display());
    assert!(shown.contains(&place) && shown.contains("expct"), "{shown}");
}

#[test]
fn without_ports_the_declared_ones_are_meant() {
    let file = written("checks:\n- {from: shop/api, to: shop/db, family: IPv4, expect: allow}\n");
    let output = check(file.path(), &["-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = &value["checks"][0];
    assert_eq!(
        (&check["evaluated"], &check["failed"]),
        (&2.into(), &1.into())
    );
    assert_eq!(check["failures"][0]["port"], 9090);
}
