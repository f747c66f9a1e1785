//! Findings as people read them: the worst first, lint by lint, one line for all pods of a workload.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use polproof_policy::lint::{self, Lint, Severity};

use super::report::{Reported, plural};

/// The findings of one lint and severity.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) severity: Severity,
    pub(super) lint: &'a str,
    pub(super) title: &'static str,
    /// Its definition, if the lint is known.
    pub(super) about: Option<&'static Lint>,
    pub(super) groups: Vec<Group<'a>>,
}

impl Section<'_> {
    /// How many findings.
    pub(super) fn len(&self) -> usize {
        self.groups.iter().map(|group| group.findings.len()).sum()
    }
}

/// What is told as one.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// The subject, or `12 pods of Deployment shop/web`.
    pub(super) what: String,
    /// Stands for the others.
    pub(super) first: &'a Reported,
    pub(super) findings: Vec<&'a Reported>,
}

/// Sorts and groups.
pub(super) fn sections(findings: &[Reported]) -> Vec<Section<'_>> {
    let mut sorted: BTreeMap<_, BTreeMap<_, Vec<&Reported>>> = BTreeMap::new();
    for finding in findings {
        let section = (Reverse(finding.severity), finding.id.lint.as_str());
        let groups = sorted.entry(section).or_default();
        groups.entry(key(finding)).or_default().push(finding);
    }
    sorted
        .into_iter()
        .map(|((Reverse(severity), lint), groups)| Section {
            severity,
            lint,
            title: groups
                .values()
                .flatten()
                .next()
                .map_or("", |finding| finding.title),
            about: lint::lint(lint),
            groups: groups.into_values().filter_map(group).collect(),
        })
        .collect()
}

/// What the pods of a workload have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    namespace: &'a str,
    /// Empty for what is no pod.
    workload: (&'a str, &'a str),
    /// What follows the pod in the subject, such as `:ingress`; the whole subject for what is no pod.
    rest: &'a str,
    by: Option<&'a str>,
    known: bool,
    reason: Option<&'a str>,
}

fn key(finding: &Reported) -> Key<'_> {
    let subject = finding.id.subject.as_str();
    let pod = finding
        .workload
        .as_ref()
        .and_then(|workload| Some((workload, after_pod(finding)?)));
    let (workload, rest) = match pod {
        Some((workload, rest)) => ((&*workload.kind, &*workload.name), rest),
        None => (("", ""), subject),
    };
    Key {
        namespace: finding.namespace().unwrap_or_default(),
        workload,
        rest,
        by: finding.by,
        known: finding.known,
        reason: finding.suppressed.as_ref().map(|of| of.reason.as_str()),
    }
}

/// The subject without its pod.
fn after_pod(finding: &Reported) -> Option<&str> {
    let namespace = finding.object.namespace.as_deref()?;
    let rest = finding.id.subject.strip_prefix(namespace)?;
    rest.strip_prefix('/')?
        .strip_prefix(finding.object.name.as_str())
}

fn group(findings: Vec<&Reported>) -> Option<Group<'_>> {
    let first = *findings.first()?;
    let what = match (&first.workload, first.namespace(), after_pod(first)) {
        (Some(workload), Some(namespace), Some(rest)) if findings.len() > 1 => format!(
            "{} of {} {namespace}/{}{}",
            plural(findings.len(), "pod"),
            workload.kind,
            workload.name,
            if rest.is_empty() {
                String::new()
            } else {
                format!(" {}", rest.replacen("->", "-> ", 1).trim_start_matches(':'))
            }
        ),
        _ => first.id.subject.clone(),
    };
    Some(Group {
        what,
        first,
        findings,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::audit::sample;

    #[test]
    fn pods_of_a_workload_are_one_group_and_the_worst_comes_first() {
        let report = sample::full();
        let sections = sections(&report.findings);
        let severities: Vec<_> = sections.iter().map(|section| section.severity).collect();
        assert!(severities.is_sorted_by(|a, b| a >= b), "{severities:?}");
        let np004 = sections
            .iter()
            .find(|section| section.lint == "NP004")
            .unwrap();
        assert_eq!(np004.len(), 13);
        let what: Vec<_> = np004
            .groups
            .iter()
            .map(|group| group.what.as_str())
            .collect();
        assert_eq!(
            what,
            ["12 pods of Deployment shop/web egress", "shop/db-0:egress"]
        );
        let np022 = sections
            .iter()
            .find(|section| section.lint == "NP022")
            .unwrap();
        assert_eq!(
            np022.groups[0].what,
            "2 pods of DaemonSet shop/log -> 169.254.169.254"
        );
    }

    #[test]
    fn a_known_pod_does_not_hide_among_new_ones() {
        let mut report = sample::full();
        let known = report
            .findings
            .iter_mut()
            .find(|of| of.id.lint == "NP004")
            .unwrap();
        known.known = true;
        let sections = sections(&report.findings);
        let np004 = sections
            .iter()
            .find(|section| section.lint == "NP004")
            .unwrap();
        assert_eq!(np004.groups.len(), 3);
    }
}
