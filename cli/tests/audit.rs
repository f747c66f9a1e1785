//! `polproof audit` as people and CI use it. It needs no collector.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "audit/run.rs"]
mod run;

#[path = "audit/accepted.rs"]
mod accepted;
#[path = "audit/formats.rs"]
mod formats;

use run::{DENIED, HELM, KUSTOMIZE, OPEN, json, polproof, stdin, stdout};
use serde_json::json;

#[test]
fn the_first_line_is_the_summary_and_the_exit_code_says_whether_something_was_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("open.yaml"), OPEN).unwrap();
    let open = polproof(dir.path(), &["audit", "."]);
    let shown = stdout(&open);
    assert_eq!(
        shown.lines().next(),
        Some("0 NetworkPolicies found across 0 namespaces")
    );
    for expected in ["HIGH NP001", "shop", "web", "exit code 1", "polproof fix ."] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert_eq!(open.status.code(), Some(1), "{shown}");

    std::fs::write(dir.path().join("denied.yaml"), DENIED).unwrap();
    let denied = polproof(dir.path(), &["audit", ".", "--lint", "NP001"]);
    let shown = stdout(&denied);
    assert_eq!(
        shown.lines().next(),
        Some("2 NetworkPolicies found across 2 namespaces")
    );
    assert_eq!(denied.status.code(), Some(0), "{shown}");
}

#[test]
fn json_has_the_findings_with_everything_that_identifies_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("open.yaml"), OPEN).unwrap();
    let output = polproof(dir.path(), &["audit", ".", "-o", "json", "--lint", "np001"]);
    assert_eq!(output.status.code(), Some(1));
    let value = json(&output);
    assert_eq!(
        value["summary"],
        "0 NetworkPolicies found across 0 namespaces"
    );
    assert_eq!(value["source"], json!({"kind": "manifests", "name": "."}));
    let found: Vec<_> = value["findings"].as_array().unwrap().iter().collect();
    let subjects: Vec<_> = found
        .iter()
        .map(|of| of["subject"].as_str().unwrap())
        .collect();
    assert_eq!(subjects, ["shop", "web"]);
    let shop = found[0];
    assert_eq!(shop["lint"], "NP001");
    assert_eq!(shop["severity"], "high");
    assert_eq!(shop["object"], json!({"kind": "Namespace", "name": "shop"}));
    assert!(
        shop["references"]
            .as_array()
            .unwrap()
            .contains(&json!("CIS 5.3.2"))
    );
    assert!(shop.get("known").is_none() && shop.get("suppressed").is_none());
    assert_eq!(value["counts"]["findings"]["high"], 2);
    assert_eq!(value["counts"]["failing"], 2);
    assert_eq!(value["suppressed"], 0);
    assert_eq!(value["passed_over"], json!({"ConfigMap": 1}));
    let controls = value["controls"].as_array().unwrap();
    let status = |id: &str| {
        let control = controls.iter().find(|of| of["id"] == id).unwrap();
        control["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status("CIS 5.3.1"), "not_assessed");
    assert_eq!(status("CIS 5.3.2"), "fail");

    let yaml = polproof(dir.path(), &["audit", ".", "-o", "yaml", "--lint", "NP001"]);
    let same: serde_json::Value = serde_saphyr::from_str(&stdout(&yaml)).unwrap();
    assert_eq!(same, value);
}

#[test]
fn what_kustomize_and_helm_print_is_read_from_standard_input() {
    for text in [KUSTOMIZE, HELM] {
        let output = stdin(text, &["audit", "-", "-o", "json", "--lint", "NP001"]);
        let value = json(&output);
        assert_eq!(
            value["summary"], "1 NetworkPolicies found across 1 namespaces",
            "{value}"
        );
        assert_eq!(value["findings"][0]["subject"], "open");
        assert_eq!(value["source"]["name"], "standard input");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn fail_on_decides_which_severity_fails() {
    for (level, code) in [("info", 1), ("medium", 1), ("high", 1), ("never", 0)] {
        let output = stdin(OPEN, &["audit", "-", "--fail-on", level]);
        assert_eq!(output.status.code(), Some(code), "{level}");
    }
}

#[test]
fn one_namespace_is_audited_alone() {
    let output = stdin(
        OPEN,
        &["audit", "-", "-o", "json", "-n", "web", "--lint", "NP001"],
    );
    let value = json(&output);
    assert_eq!(value["findings"].as_array().unwrap().len(), 1);
    assert_eq!(value["findings"][0]["subject"], "web");
    assert_eq!(value["counts"]["namespaces"], 1);
    let both = [OPEN, "---\n", DENIED].concat();
    let value = json(&stdin(&both, &["audit", "-", "-o", "json", "-n", "web"]));
    assert_eq!(
        value["summary"],
        "1 NetworkPolicies found across 1 namespaces"
    );
}

#[test]
fn an_exempt_namespace_has_no_such_finding_and_is_named() {
    let args = [
        "audit",
        "-",
        "-o",
        "json",
        "--lint",
        "NP001",
        "--exempt-namespace",
        "shop",
    ];
    let value = json(&stdin(OPEN, &args));
    assert_eq!(value["findings"].as_array().unwrap().len(), 1);
    assert_eq!(value["exempt_namespaces"], json!(["shop"]));
}

#[test]
fn an_input_without_pods_says_what_it_cannot_say() {
    let output = stdin(DENIED, &["audit", "-", "--lint", "NP001"]);
    let shown = stdout(&output);
    assert!(
        shown.contains("Note: there are no pods and no workloads here"),
        "{shown}"
    );
    assert_eq!(output.status.code(), Some(0));
    let value = json(&stdin(
        DENIED,
        &["audit", "-", "-o", "json", "--lint", "NP001"],
    ));
    assert_eq!(value["controls"][1]["status"], "not_assessed");

    let nothing = stdin("", &["audit", "-"]);
    let shown = stdout(&nothing);
    assert!(
        shown.starts_with("0 NetworkPolicies found across 0 namespaces\n"),
        "{shown}"
    );
    assert!(
        shown.contains("Note: nothing that polproof knows was found"),
        "{shown}"
    );
    assert_eq!(nothing.status.code(), Some(0));
}

#[test]
fn wrong_input_ends_with_code_2_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broken.yaml"), "kind: [").unwrap();
    std::fs::write(dir.path().join("open.yaml"), OPEN).unwrap();
    for (args, expected) in [
        (&["audit", "broken.yaml"][..], "broken.yaml:1"),
        (&["audit", "nowhere"], "nowhere: "),
        (&["audit"], "nothing to read"),
        (
            &["audit", "open.yaml", "--lint", "NP999"],
            "there is no lint \"NP999\"",
        ),
        (
            &["audit", "open.yaml", "-n", "shp"],
            "-n shp: there is no such namespace",
        ),
        (&["audit", "open.yaml", "--fail-on", "severe"], "severe"),
        (
            &["audit", "open.yaml", "--dns", "kube-dns"],
            "--dns kube-dns: write NAMESPACE:",
        ),
        (&["audit", "open.yaml", "--metadata-address", "x"], "x"),
        (
            &["audit", "open.yaml", "--pod-cidr", "10.0.0.0"],
            "10.0.0.0",
        ),
        (
            &["audit", "open.yaml", "--suppressions", "none.yaml"],
            "--suppressions none.yaml",
        ),
        (
            &["audit", "open.yaml", "--baseline", "none.json"],
            "--baseline none.json",
        ),
        (
            &["audit", "open.yaml", "--baseline", "open.yaml"],
            "--baseline open.yaml",
        ),
        (
            &["audit", "open.yaml", "--context", "prod"],
            "leave one of them out",
        ),
        (
            &["audit", "open.yaml", "--write", "no/such/folder"],
            "--write no/such/folder",
        ),
        (&["audit", "open.yaml", "-o", "csv"], "cannot print csv"),
        (&["audit", "--explain", "NP999"], "there is no lint"),
        (&["audit", "--list", "-o", "sarif"], "--list is printed as"),
        (&["audit", "--kubeconfig", "none"], "none"),
    ] {
        let output = polproof(dir.path(), args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn a_context_that_is_not_there_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                  users: [{name: u, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n";
    std::fs::write(dir.path().join("config"), config).unwrap();
    let args = ["audit", "--kubeconfig", "config", "--context", "prod"];
    let output = polproof(dir.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("prod"), "{said}");
}

#[test]
fn lints_are_listed_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let list = polproof(dir.path(), &["audit", "--list"]);
    let shown = stdout(&list);
    assert!(
        shown.contains("NP001  high") && shown.contains("CIS 5.3.2"),
        "{shown}"
    );
    let all = json(&polproof(dir.path(), &["audit", "--list", "-o", "json"]));
    let ids: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["lint"].as_str())
        .collect();
    assert!(ids.is_sorted() && ids.contains(&Some("NP001")), "{ids:?}");
    let explained = polproof(dir.path(), &["audit", "--explain", "np001"]);
    let shown = stdout(&explained);
    assert!(
        shown.starts_with("NP001: namespace without any policy") && shown.contains("default-deny"),
        "{shown}"
    );
    assert_eq!(explained.status.code(), Some(0));
}
