//! The findings of the page.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::prose;
use crate::audit::group::{Group, Section, sections};
use crate::audit::report::{BySeverity, Report, Reported, plural};

/// Members of a group that are named.
const MOST_NAMES: usize = 200;

/// Live findings.
pub(super) fn findings(report: &Report) -> Markup {
    let sections = sections(&report.findings);
    html! {
        section aria-labelledby="findings" {
            h2 id="findings" { "Findings" }
            @if sections.is_empty() {
                p { "No finding is open." }
            } @else {
                // The script shows it: without one it could do nothing.
                div .filter id="filter" role="search" hidden {
                    label { "Show only what contains " input type="search" id="filter-text" autocomplete="off"; }
                    @for severity in ["high", "medium", "low", "info"] {
                        label { input type="checkbox" data-severity=(severity) checked; " " (severity) }
                    }
                    span id="filter-count" role="status" {}
                }
                nav aria-label="Findings by lint" {
                    ul .index {
                        @for section in &sections {
                            li { a href={ "#" (anchor(section)) } { (section.lint) } " " (section.title) " (" (section.len()) ")" }
                        }
                    }
                }
                @for section in &sections { (lint(section)) }
            }
        }
    }
}

/// Findings that somebody accepted.
pub(super) fn accepted(report: &Report) -> Markup {
    html! {
        section aria-labelledby="accepted" {
            h2 id="accepted" { "Accepted findings" }
            @if report.suppressed_findings.is_empty() {
                p { "No finding was suppressed." }
            } @else {
                p { "These were found and do not count, because somebody gave a reason." }
                div .wide {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Finding" } th scope="col" { "Subject" }
                                th scope="col" { "Reason" } th scope="col" { "Written in" }
                            }
                        }
                        tbody {
                            @for section in sections(&report.suppressed_findings) {
                                @for group in &section.groups {
                                    tr {
                                        th scope="row" { (section.lint) br; small { (section.title) " · " (section.severity) } }
                                        td { code { (group.what) } (names(group)) }
                                        @let why = group.first.suppressed.as_ref();
                                        td { (why.map_or("", |of| of.reason.as_str())) }
                                        td { (why.map_or("", |of| of.by.as_str())) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn anchor(section: &Section<'_>) -> String {
    format!("{}-{}", section.lint, section.severity)
}

fn lint(section: &Section<'_>) -> Markup {
    html! {
        article .lint data-severity=(section.severity) id=(anchor(section)) {
            h3 {
                span .badge .(section.severity) { (section.severity) } " "
                (section.lint) " " (section.title)
                span .total { " " (plural(section.len(), "finding")) }
            }
            @if let Some(about) = section.about {
                p .help { (prose(about.help)) }
                p .references { "References: " (about.references.join(", ")) "." }
            }
            ul .groups { @for group in &section.groups { (item(group)) } }
        }
    }
}

fn item(group: &Group<'_>) -> Markup {
    let first = group.first;
    html! {
        li .finding {
            p .subject {
                code { (group.what) }
                @if first.known { " " span .badge .known { "known" } }
                @if let Some(place) = &first.location { " " span .place { (place.file) ":" (place.line) } }
            }
            p {
                @if group.findings.len() > 1 { "For example: " }
                (first.message)
            }
            @if let Some(suggest) = &first.suggest { p .suggest { strong { "Try: " } (suggest) } }
            @if !first.policies.is_empty() { p .small { "Policies: " (first.policies.join(", ")) } }
            (names(group))
        }
    }
}

/// Which pods they are.
fn names(group: &Group<'_>) -> Markup {
    if group.objects < 2 {
        return Markup::default();
    }
    let all = group.names();
    let shown: Vec<_> = all.iter().copied().take(MOST_NAMES).collect();
    html! {
        p .small {
            (shown.join(", "))
            @if all.len() > MOST_NAMES { ", and " (all.len().saturating_sub(MOST_NAMES)) " more (in the JSON output)" }
        }
    }
}

/// Findings by the namespace that they lie in.
pub(super) fn by_namespace(findings: &[Reported]) -> BTreeMap<&str, BySeverity> {
    let mut sorted: BTreeMap<&str, Vec<&Reported>> = BTreeMap::new();
    for finding in findings {
        if let Some(namespace) = finding.namespace() {
            sorted.entry(namespace).or_default().push(finding);
        }
    }
    let counted = sorted.into_iter();
    counted
        .map(|(name, findings)| (name, BySeverity::of(findings)))
        .collect()
}
