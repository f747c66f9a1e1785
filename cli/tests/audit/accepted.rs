//! Findings that do not count: suppressed or known ones.

use serde_json::{Value, json};

use crate::run::{OPEN, json, polproof, stderr, stdin, stdout};

fn subjects(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|of| of["subject"].as_str().unwrap()).collect()
}

/// The two open namespaces, the first with an annotation.
fn annotated(text: &str) -> String {
    format!(
        "{OPEN}---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, annotations: {{ polproof.io/suppress: {text:?} }} }}\n"
    )
}

#[test]
fn an_annotation_with_a_reason_takes_its_findings_off_the_list() {
    let args = ["audit", "-", "-o", "json", "--lint", "NP001"];
    let output = stdin(&annotated("NP001: a sandbox; nothing in it"), &args);
    let value = json(&output);
    assert_eq!(subjects(&value["findings"]), ["web"]);
    assert_eq!(value["suppressed"], 1);
    let accepted = &value["suppressed_findings"][0];
    assert_eq!(accepted["subject"], "shop");
    assert_eq!(
        accepted["suppressed"],
        json!({"reason": "a sandbox; nothing in it", "by": "annotation of Namespace shop"})
    );
    assert_eq!(value["controls"][1]["exceptions"], 1);
}

#[test]
fn an_annotation_without_a_reason_counts_for_nothing_and_is_named() {
    let output = stdin(&annotated("NP001"), &["audit", "-", "--lint", "NP001"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("annotation of Namespace shop: NP001 has no reason"),
        "{said}"
    );
}

#[test]
fn a_file_of_suppressions_can_let_a_build_pass() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(dir.path().join("accepted.yaml"), text).unwrap();
    std::fs::write(dir.path().join("open.yaml"), OPEN).unwrap();
    let audit = || {
        let args = [
            "audit",
            "open.yaml",
            "--lint",
            "NP001",
            "--suppressions",
            "accepted.yaml",
        ];
        polproof(dir.path(), &args)
    };
    write(
        "- {lint: NP001, subject: '*', reason: all of it is thrown away every night, until: 2999-01-01}\n",
    );
    let output = audit();
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("2 accepted"),
        "{}",
        stdout(&output)
    );

    write(
        "- {lint: NP001, subject: shop, reason: why, until: 2020-01-01}\n- {lint: NP001, subject: gone, reason: why}\n",
    );
    let output = audit();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("entry 1: NP001 shop was accepted until 2020-01-01 only"),
        "{said}"
    );
    assert!(
        said.contains("entry 2: NP001 gone matches no finding"),
        "{said}"
    );

    write("- {lint: NP001, subject: shop}\n");
    let output = audit();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("accepted.yaml, entry 1: NP001 shop has no reason"),
        "{said}"
    );
}

#[test]
fn only_what_is_new_since_the_baseline_fails() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let polproof = |args: &[&str]| polproof(dir.path(), args);
    write("open.yaml", OPEN);
    let first = polproof(&["audit", "open.yaml", "-o", "json", "--write", "known.json"]);
    assert_eq!(first.status.code(), Some(1));
    assert!(first.stdout.is_empty());
    assert!(
        stderr(&first).contains("0 NetworkPolicies found across 0 namespaces; "),
        "{}",
        stderr(&first)
    );

    let same = polproof(&["audit", "open.yaml", "--baseline", "known.json"]);
    assert_eq!(same.status.code(), Some(0), "{}", stdout(&same));
    assert!(
        stdout(&same).contains("known, 0 resolved"),
        "{}",
        stdout(&same)
    );

    write(
        "open.yaml",
        &OPEN.replace("namespace: shop", "namespace: new"),
    );
    let args = [
        "audit",
        "open.yaml",
        "--baseline",
        "known.json",
        "-o",
        "json",
        "--lint",
        "NP001",
    ];
    let changed = polproof(&args);
    assert_eq!(changed.status.code(), Some(1));
    let value = json(&changed);
    assert_eq!(subjects(&value["findings"]), ["new", "web"]);
    assert!(value["findings"][0].get("known").is_none());
    assert_eq!(value["findings"][1]["known"], true);
    assert_eq!(
        value["resolved"],
        json!([{"lint": "NP001", "subject": "shop"}])
    );
    assert_eq!(value["counts"]["failing"], 1);

    // What is out of sight is not resolved.
    let args = [&args[..], &["-n", "web"]].concat();
    let part = polproof(&args);
    assert_eq!(part.status.code(), Some(0));
    assert_eq!(json(&part)["resolved"], json!([]));
}
