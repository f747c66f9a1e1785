#![allow(clippy::unwrap_used)]

use super::*;
use crate::lint::{self, Input, Options};
use crate::model::{Labels, Namespace, Object, Pod, Uid};
use crate::state::State;

fn annotated(text: Option<&str>) -> Annotations {
    let of = |text| (Arc::from(ANNOTATION), Arc::from(text));
    text.map(of).into_iter().collect()
}

fn namespace(name: &str, suppress: Option<&str>) -> Object {
    Object::Namespace(Arc::new(Namespace {
        name: Arc::from(name),
        uid: Uid(Arc::from(name)),
        labels: Labels::new(),
        annotations: annotated(suppress),
    }))
}

fn pod(namespace: &str, name: &str, suppress: Option<&str>) -> Object {
    Object::Pod(Arc::new(Pod {
        id: NamespacedName::new(namespace, name),
        uid: Uid(Arc::from(format!("{namespace}/{name}"))),
        labels: Labels::new(),
        ips: Vec::new(),
        node: None,
        host_network: false,
        finished: false,
        ports: Vec::new(),
        owner: Some((Arc::from("StatefulSet"), Arc::from("web"))),
        annotations: annotated(suppress),
    }))
}

fn sorted(objects: Vec<Object>, rules: &[Rule]) -> Sorted {
    let mut state = State::new();
    for object in objects {
        state.apply(object);
    }
    let snapshot = state.snapshot();
    let input = Input {
        snapshot: &snapshot,
        refused: &[],
    };
    let mut findings = lint::audit(input, &Options::default()).findings;
    findings.retain(|finding| finding.lint == "NP001");
    let today = "2026-06-01".parse().unwrap();
    sort(findings, &snapshot, rules, today)
}

fn rule(subject: &str, until: Option<&str>) -> Rule {
    let entry = "accepted.yaml, entry 1".to_owned();
    Rule::new(entry, "NP001", subject, "it is a sandbox", until).unwrap()
}

fn live(sorted: &Sorted) -> Vec<&str> {
    let subjects = sorted.live.iter();
    subjects.map(|finding| finding.subject.as_str()).collect()
}

fn problems(sorted: &Sorted) -> Vec<String> {
    let idle = sorted.ineffective.iter();
    idle.map(|idle| format!("{}: {}", idle.by, idle.problem))
        .collect()
}

fn two_namespaces(suppress: Option<&str>) -> Vec<Object> {
    vec![
        namespace("shop", suppress),
        namespace("web", None),
        pod("shop", "web-0", None),
        pod("web", "web-0", None),
    ]
}

#[test]
fn a_namespace_annotation_suppresses_what_is_found_in_it() {
    let sorted = sorted(two_namespaces(Some("NP001: a sandbox")), &[]);
    assert_eq!(live(&sorted), ["web"]);
    let suppressed = sorted.suppressed.first().unwrap();
    assert_eq!(suppressed.finding.subject, "shop");
    assert_eq!(suppressed.reason, "a sandbox");
    assert_eq!(suppressed.by.to_string(), "annotation of Namespace shop");
    assert!(sorted.ineffective.is_empty());
}

#[test]
fn an_annotation_without_a_reason_suppresses_nothing_and_is_named() {
    let sorted = sorted(two_namespaces(Some("NP001")), &[]);
    assert_eq!(live(&sorted), ["shop", "web"]);
    let problems = problems(&sorted);
    assert!(
        problems.len() == 1
            && problems
                .iter()
                .all(|problem| problem
                    .starts_with("annotation of Namespace shop: NP001 has no reason")),
        "{problems:?}"
    );
}

#[test]
fn a_rule_of_a_file_holds_until_its_last_day() {
    let all = || two_namespaces(None);
    let today = sorted(all(), &[rule("*", Some("2026-06-01"))]);
    assert!(today.live.is_empty() && today.ineffective.is_empty());
    let over = sorted(all(), &[rule("*", Some("2026-05-31"))]);
    assert_eq!(live(&over), ["shop", "web"]);
    assert_eq!(
        problems(&over),
        [
            "accepted.yaml, entry 1: NP001 * was accepted until 2026-05-31 only: remedy it, or decide anew"
        ]
    );
}

#[test]
fn a_rule_that_matches_nothing_is_named() {
    let sorted = sorted(
        two_namespaces(None),
        &[rule("shop", None), rule("shp", None)],
    );
    assert_eq!(live(&sorted), ["web"]);
    assert_eq!(
        problems(&sorted),
        ["accepted.yaml, entry 1: NP001 shp matches no finding (any more): remove it"]
    );
}

#[test]
fn the_nearest_reason_counts_and_a_second_one_is_not_idle() {
    let sorted = sorted(two_namespaces(Some("NP001: near")), &[rule("shop", None)]);
    let reasons: Vec<_> = sorted
        .suppressed
        .iter()
        .map(|s| s.reason.as_str())
        .collect();
    assert_eq!(reasons, ["near"]);
    assert!(sorted.ineffective.is_empty());
}

#[test]
fn pods_of_one_workload_are_named_once() {
    let note = Some("NP001: pods have no such finding; NP001");
    let objects = vec![
        namespace("shop", None),
        pod("shop", "web-0", note),
        pod("shop", "web-1", note),
    ];
    let problems = problems(&sorted(objects, &[]));
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn an_entry_of_a_file_needs_lint_subject_and_reason() {
    for (lint, subject, reason, until, problem) in [
        ("NP001", "shop", " ", None, "e: NP001 shop has no reason"),
        ("NP001", "", "why", None, "e: NP001 without a subject"),
        (
            "NP000",
            "shop",
            "why",
            None,
            "e: there is no lint \"NP000\"",
        ),
        (
            "NP001",
            "shop",
            "why",
            Some("soon"),
            "e: NP001 shop: until: \"soon\" is no date",
        ),
    ] {
        let error = Rule::new("e".to_owned(), lint, subject, reason, until).unwrap_err();
        assert!(error.to_string().starts_with(problem), "{error}");
    }
}
