//! What the findings come to, and how one of them ended.

use std::collections::BTreeSet;

use super::{plural, short};
use crate::output::{Screen, Tone};
use crate::view::{Finding, Recovered, State, Violations};

/// Kinds that are no violations, and what they are.
const OTHERS: [(&str, &str); 5] = [
    (
        "over_blocked",
        "allowed, and stopped on the way (over_blocked)",
    ),
    (
        "reply_lost",
        "allowed and answered, and the answer was lost (reply_lost)",
    ),
    (
        "late_enforcement",
        "stopped later than the grace time after a change (late_enforcement)",
    ),
    (
        "startup_gap",
        "let through while a pod started (startup_gap)",
    ),
    (
        "survivor",
        "older than the policies that deny them, and going on (survivor; the API leaves these to the CNI)",
    ),
];

/// The sentences below the table.
pub(super) fn summary(all: &Violations, screen: &Screen) -> String {
    let mut text = String::new();
    let violations: Vec<&Finding> = of(all, "unenforced");
    let provisional = all
        .findings
        .iter()
        .filter(|finding| finding.state == State::Provisional)
        .count();
    let nodes: BTreeSet<&str> = violations
        .iter()
        .map(|finding| finding.node.as_str())
        .collect();
    let mut summary = format!(
        "{} that the policies deny {} delivered: {} on {}",
        plural(all.violations, "connection"),
        if all.violations == 1 { "was" } else { "were" },
        plural(violations.len() as u64, "finding"),
        plural(nodes.len() as u64, "node"),
    );
    let ended = violations
        .iter()
        .filter(|finding| finding.recovered.is_some())
        .count();
    if ended > 0 {
        summary.push_str(&format!(", {ended} of them ended since"));
    }
    if provisional > 0 {
        summary.push_str(&format!(
            " ({provisional} provisional: judged for good within seconds)"
        ));
    }
    summary.push('.');
    let tone = if all.violations > 0 {
        Tone::Bad
    } else {
        Tone::Plain
    };
    if !violations.is_empty() || all.findings.is_empty() {
        text.push_str(&screen.paint(tone, &summary));
        text.push('\n');
    }
    for (kind, what) in OTHERS {
        let findings = of(all, kind);
        if findings.is_empty() {
            continue;
        }
        let attempts = all.attempts_by_kind.get(kind).copied().unwrap_or(0);
        let ended = findings
            .iter()
            .filter(|finding| finding.recovered.is_some())
            .count();
        let ended = match ended {
            0 => String::new(),
            ended => format!(", {ended} ended"),
        };
        text.push_str(&format!(
            "{}: {what}; {}{ended}\n",
            plural(attempts, "connection"),
            plural(findings.len() as u64, "finding"),
        ));
    }
    text
}

fn of<'a>(all: &'a Violations, kind: &str) -> Vec<&'a Finding> {
    all.findings
        .iter()
        .filter(|finding| finding.kind == kind)
        .collect()
}

/// "ended: stopped".
pub(super) fn ended(recovered: &Recovered, wide: bool) -> String {
    let cause = match recovered.cause {
        "enforced" => "stopped when tried again",
        "delivered" => "got through when tried again",
        "policy_changed" => "the policies changed",
        "pod_gone" => "its pod is gone",
        "closed" => "the connection was closed",
        other => other,
    };
    match recovered.at {
        Some(at) if wide => format!("ended {}: {cause}", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
        _ => match recovered.cause {
            "enforced" => "ended: stopped".to_owned(),
            "delivered" => "ended: got through".to_owned(),
            "policy_changed" => "ended: policy changed".to_owned(),
            "pod_gone" => "ended: pod gone".to_owned(),
            "closed" => "ended: closed".to_owned(),
            _ => "ended".to_owned(),
        },
    }
}

/// From the first attempt to the last, or to the end.
pub(super) fn lasted(finding: &Finding) -> String {
    let end = finding
        .recovered
        .as_ref()
        .and_then(|recovered| recovered.at)
        .max(finding.last_seen);
    match (finding.first_seen, end) {
        (Some(first), Some(end)) => short(end.duration_since(first).as_secs().max(0)),
        _ => String::new(),
    }
}

/// "two witnesses (3 of 4)".
pub(super) fn evidence(finding: &Finding) -> String {
    let words = finding.evidence.replace('_', " ");
    if finding.witnessed > 0 && finding.witnessed < finding.count {
        return format!("{words} ({} of {})", finding.witnessed, finding.count);
    }
    words
}
