//! One page for an auditor: complete in itself, readable without a network, without a script and on paper.
//!
//! maud escapes every text; what is not escaped is the style and the script, which are ours.

mod findings;

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use polproof_policy::lint::{Posture, Severity};

use super::controls::{Control, Status};
use super::report::{BySeverity, Report, plural};
use crate::printable::printable;
use findings::{accepted, findings};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("filter.js");

/// The page.
pub(super) fn render(report: &Report) -> String {
    let title = format!("NetworkPolicy audit of {}", report.source.name);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Nothing is loaded, whatever the page says.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
                meta name="generator" content=(concat!("polproof ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(report))
                main {
                    (overview(report))
                    (controls(report))
                    (namespaces(report))
                    (findings(report))
                    (accepted(report))
                    (remarks(report))
                }
                footer {
                    p {
                        "Made by polproof " (env!("CARGO_PKG_VERSION")) " from objects alone: it says what the policies are, not that "
                        "anything enforces them. " code { "polproof status" } " shows what was proved on each node."
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    // maud makes markup of a text harmless; a text that turns the direction of writing could still lie.
    let lines = page.into_string();
    let lines: Vec<_> = lines.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Our own sentences, in which backquotes are around what is typed.
fn prose(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn head(report: &Report) -> Markup {
    let utc = report.at.to_zoned(TimeZone::UTC);
    html! {
        header {
            p .product { "polproof · NetworkPolicy audit" }
            h1 { (report.summary) }
            dl .facts {
                div { dt { "Source" } dd { (source(report)) } }
                div {
                    dt { "Date" }
                    dd {
                        time datetime=(utc.strftime("%Y-%m-%dT%H:%M:%SZ")) { (utc.strftime("%-d %B %Y, %H:%M UTC")) }
                    }
                }
                div {
                    dt { "Scope" }
                    dd {
                        (plural(report.counts.of.namespaces, "namespace")) ", "
                        (plural(report.counts.of.governed_pods, "pod")) " that policies can govern"
                        @if !report.only_namespaces.is_empty() { " (only " (report.only_namespaces.join(", ")) ")" }
                    }
                }
                div {
                    dt { "Looked for" }
                    dd { (plural(report.lints.len(), "kind")) " of mistakes (" (first_last(report)) ")" }
                }
            }
        }
    }
}

fn source(report: &Report) -> String {
    match report.source.kind {
        "manifests" => format!("manifests: {}", report.source.name),
        _ => report.source.name.clone(),
    }
}

fn first_last(report: &Report) -> String {
    match (report.lints.first(), report.lints.last()) {
        (Some(first), Some(last)) if report.lints.len() > 1 => {
            format!("{} to {}", first.id, last.id)
        }
        (Some(only), _) => only.id.to_owned(),
        (None, _) => "none".to_owned(),
    }
}

fn overview(report: &Report) -> Markup {
    let BySeverity {
        high,
        medium,
        low,
        info,
        ..
    } = report.counts.findings;
    let tiles = [
        (Severity::High, high, "must be corrected"),
        (Severity::Medium, medium, "should be corrected"),
        (Severity::Low, low, "should be known"),
        (Severity::Info, info, "hygiene"),
    ];
    let with = |status| {
        report
            .controls
            .iter()
            .filter(|of| of.status == status)
            .count()
    };
    html! {
        section aria-labelledby="overview" {
            h2 id="overview" { "Overview" }
            ul .tiles {
                @for (severity, count, meaning) in tiles {
                    li .tile .(severity) .none[count == 0] {
                        span .count { (count) } " "
                        span .name { (severity) }
                        span .meaning { (meaning) }
                    }
                }
                li .tile .accepted .none[report.suppressed == 0] {
                    span .count { (report.suppressed) } " "
                    span .name { "accepted" }
                    span .meaning { "with a reason" }
                }
            }
            p {
                (sentence(&report.counts.live())) " "
                @if report.has_baseline {
                    (report.counts.known) " of them were known before, "
                    (report.counts.findings.total.saturating_sub(report.counts.known)) " are new; "
                    (report.counts.resolved) " of the earlier ones are resolved. "
                }
                "Of " (report.controls.len()) " controls " (with(Status::Fail)) " fail, " (with(Status::Pass)) " pass and "
                (with(Status::NotAssessed)) " cannot be assessed from objects."
            }
            @if !report.counts.of.other_policies.is_empty() {
                p {
                    "Policies of other kinds: "
                    @for (index, (kind, count)) in report.counts.of.other_policies.iter().enumerate() {
                        @if index > 0 { ", " }
                        (count) " " (kind)
                    }
                    ". Those of CNIs' own APIs are named and not evaluated."
                }
            }
            @for note in &report.notes {
                p .note { strong { "Note: " } (prose(note)) "." }
            }
        }
    }
}

fn sentence(text: &str) -> String {
    let mut first = text.chars();
    let upper = first.next().into_iter().flat_map(char::to_uppercase);
    upper.chain(first).chain(['.']).collect()
}

fn controls(report: &Report) -> Markup {
    html! {
        section aria-labelledby="controls" {
            h2 id="controls" { "Controls" }
            p {
                "CIS 5.3.2 is met by any NetworkPolicy in each namespace that has pods. The NIST and CWE rows read stricter: they fail by "
                "every finding of medium severity or worse that refers to them. Lower findings are observations; findings that are "
                "accepted with a reason are exceptions and fail nothing."
            }
            div .wide {
                table {
                    thead {
                        tr {
                            th scope="col" { "Control" } th scope="col" { "Status" }
                            th scope="col" .number { "Failing" } th scope="col" .number { "Observed" }
                            th scope="col" .number { "Accepted" } th scope="col" { "What decides" }
                        }
                    }
                    tbody { @for control in &report.controls { (row(control)) } }
                }
            }
        }
    }
}

fn row(control: &Control) -> Markup {
    let class = match control.status {
        Status::Pass => "pass",
        Status::Fail => "fail",
        Status::NotAssessed => "open",
    };
    let of = |wanted: Status| {
        let namespaces = control
            .namespaces
            .iter()
            .filter(move |(_, status)| **status == wanted);
        namespaces
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
    };
    let failing = of(Status::Fail);
    html! {
        tr {
            th scope="row" {
                (control.id)
                @for also in control.also { br; small { (also) } }
            }
            td { span .status .(class) { (control.status.words()) } }
            td .number { (control.failing) }
            td .number { (control.observations) }
            td .number { (control.exceptions) }
            td {
                strong { (sentence(control.title)) } " "
                (prose(&sentence(&control.reading)))
                @if !failing.is_empty() { " " "Failing namespaces: " (failing.join(", ")) "." }
                (lints(control))
            }
        }
    }
}

/// Which lints fail it, else which looked.
fn lints(control: &Control) -> Markup {
    let mut failing: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in &control.findings {
        *failing.entry(&finding.lint).or_default() += 1;
    }
    let failing: Vec<_> = failing
        .iter()
        .map(|(lint, count)| format!("{lint} ({count})"))
        .collect();
    html! {
        @if !failing.is_empty() {
            " " small { "Failing: " (failing.join(", ")) "." }
        } @else if !control.lints.is_empty() {
            " " small { "Looked at by " (control.lints.join(", ")) "." }
        }
    }
}

fn namespaces(report: &Report) -> Markup {
    html! {
        section aria-labelledby="namespaces" {
            h2 id="namespaces" { "Namespaces" }
            @if report.namespaces.is_empty() {
                p { "There are no namespaces." }
            } @else {
                p {
                    "Default deny: a policy that selects every pod isolates it in that direction. Covered: pods that at least one policy "
                    "selects in that direction, of those that policies can govern."
                }
                div .wide {
                    table {
                        thead {
                            tr {
                                th scope="col" rowspan="2" { "Namespace" }
                                th scope="col" rowspan="2" .number { "Policies" }
                                th scope="col" rowspan="2" .number { "Pods" }
                                th scope="colgroup" colspan="2" { "Default deny" }
                                th scope="colgroup" colspan="2" { "Pods covered" }
                                th scope="col" rowspan="2" { "Findings" }
                            }
                            tr {
                                th scope="col" { "Ingress" } th scope="col" { "Egress" }
                                th scope="col" .number { "Ingress" } th scope="col" .number { "Egress" }
                            }
                        }
                        tbody {
                            @let live = findings::by_namespace(&report.findings);
                            @let accepted = findings::by_namespace(&report.suppressed_findings);
                            @for posture in &report.namespaces {
                                @let of = |counts: &BTreeMap<&str, BySeverity>| counts.get(&*posture.namespace).copied().unwrap_or_default();
                                (posture_row(posture, of(&live), of(&accepted).total, report))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn posture_row(of: &Posture, findings: BySeverity, accepted: usize, report: &Report) -> Markup {
    let exempt = report
        .exempt_namespaces
        .iter()
        .any(|name| **name == *of.namespace);
    let deny = |there: bool| {
        let class = match (there, of.governed_pods) {
            (true, _) => "pass",
            (false, 0) => "open",
            (false, _) => "fail",
        };
        html! { span .status .(class) { @if there { "yes" } @else { "no" } } }
    };
    let covered = |covered: usize| match of.governed_pods {
        0 => "–".to_owned(),
        pods => format!("{covered}/{pods}"),
    };
    html! {
        tr {
            th scope="row" { (of.namespace) @if exempt { " " small { "(exempt)" } } }
            td .number { (of.policies) }
            td .number { (of.governed_pods) }
            td { (deny(of.default_deny_ingress)) }
            td { (deny(of.default_deny_egress)) }
            td .number { (covered(of.covered_ingress)) }
            td .number { (covered(of.covered_egress)) }
            td {
                @if findings.total == 0 { "none" } @else { (findings) }
                @if accepted > 0 { ", " (accepted) " accepted" }
            }
        }
    }
}

fn remarks(report: &Report) -> Markup {
    if report.ineffective.is_empty() && report.resolved.is_empty() && report.passed_over.is_empty()
    {
        return Markup::default();
    }
    html! {
        section aria-labelledby="remarks" {
            h2 id="remarks" { "Remarks" }
            @if !report.ineffective.is_empty() {
                h3 { "Suppressions without effect" }
                ul { @for idle in &report.ineffective { li { (idle.by) ": " (idle.problem) } } }
            }
            @if !report.resolved.is_empty() {
                h3 { "Resolved since the baseline" }
                ul { @for gone in &report.resolved { li { code { (gone.lint) } " " (gone.subject) } } }
            }
            @if !report.passed_over.is_empty() {
                h3 { "Passed over" }
                p {
                    "Kinds in the input that say nothing about connections: "
                    @for (index, (kind, count)) in report.passed_over.iter().enumerate() {
                        @if index > 0 { ", " }
                        (count) " " (kind)
                    }
                    "."
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::sample;

    #[test]
    fn nothing_is_loaded_from_anywhere() {
        for report in [sample::empty(), sample::clean(), sample::full()] {
            let page = render(&report);
            for loads in [
                "src=",
                "href=\"http",
                "url(",
                "@import",
                "<link",
                "<img",
                "<iframe",
            ] {
                assert!(!page.contains(loads), "{loads}");
            }
        }
    }

    #[test]
    fn what_others_wrote_is_text() {
        let page = render(&sample::full());
        assert!(!page.contains("<script>alert") && !page.contains("<!-- "));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert_eq!(page.matches("<script").count(), 1);
    }

    #[test]
    fn an_auditor_finds_everything() {
        let page = render(&sample::full());
        for expected in [
            "3 NetworkPolicies found across 1 namespaces",
            "manifests: deploy",
            "CIS 5.3.1",
            "CIS EKS 4.3.2",
            "not assessed",
            "Failing namespaces: legacy",
            "12 pods of Deployment shop/web egress",
            "web-11",
            "Accepted findings",
            "annotation of Namespace sandbox",
            "3 ConfigMap",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
    }
}
