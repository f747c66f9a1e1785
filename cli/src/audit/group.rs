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
    /// How many pods, or 1.
    pub(super) objects: usize,
    pub(super) findings: Vec<&'a Reported>,
}

impl<'a> Group<'a> {
    /// The names of its pods.
    pub(super) fn names(&self) -> Vec<&'a str> {
        let mut names: Vec<_> = self
            .findings
            .iter()
            .map(|of| of.object.name.as_str())
            .collect();
        names.dedup();
        names
    }
}

/// Sorts and groups.
pub(super) fn sections(findings: &[Reported]) -> Vec<Section<'_>> {
    let mut sorted: BTreeMap<_, Vec<&Reported>> = BTreeMap::new();
    for finding in findings {
        let section = (Reverse(finding.severity), finding.id.lint.as_str());
        sorted.entry(section).or_default().push(finding);
    }
    sorted
        .into_iter()
        .map(|((Reverse(severity), lint), findings)| Section {
            severity,
            lint,
            title: findings.first().map_or("", |finding| finding.title),
            about: lint::lint(lint),
            groups: groups(&findings),
        })
        .collect()
}

/// What all members of a group have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Common<'a> {
    namespace: &'a str,
    /// Kind and name; for what is no pod, nothing and the subject.
    workload: (&'a str, &'a str),
    by: Option<&'a str>,
    known: bool,
    reason: Option<&'a str>,
}

/// Pods of a workload about which the same is said are one group.
fn groups<'a>(findings: &[&'a Reported]) -> Vec<Group<'a>> {
    let mut objects: BTreeMap<(Common<'_>, &str), Vec<(&str, &Reported)>> = BTreeMap::new();
    for finding in findings {
        let (workload, rest) = match (&finding.workload, after_pod(finding)) {
            (Some(workload), Some(rest)) => ((&*workload.kind, &*workload.name), rest),
            _ => (("", finding.id.subject.as_str()), ""),
        };
        let common = Common {
            namespace: finding.namespace().unwrap_or_default(),
            workload,
            by: finding.by,
            known: finding.known,
            reason: finding.suppressed.as_ref().map(|of| of.reason.as_str()),
        };
        let object = finding.object.name.as_str();
        objects
            .entry((common, object))
            .or_default()
            .push((rest, finding));
    }
    let mut alike: BTreeMap<(Common<'_>, Vec<&str>), Vec<Vec<&Reported>>> = BTreeMap::new();
    for ((common, _), mut said) in objects {
        // The address that everybody knows comes first, and is the example.
        said.sort_by_key(|(rest, _)| *rest != "->169.254.169.254");
        let (rests, findings) = said.into_iter().unzip();
        alike.entry((common, rests)).or_default().push(findings);
    }
    let named = alike.into_iter().filter_map(|((common, rests), objects)| {
        let first = *objects.first()?.first()?;
        let who = match objects.len() {
            _ if common.workload.0.is_empty() => first.id.subject.clone(),
            1 => format!("{}/{}", common.namespace, first.object.name),
            pods => format!(
                "{} of {} {}/{}",
                plural(pods, "pod"),
                common.workload.0,
                common.namespace,
                common.workload.1
            ),
        };
        Some(Group {
            what: format!("{who}{}", joined(&rests)),
            first,
            objects: objects.len(),
            findings: objects.into_iter().flatten().collect(),
        })
    });
    named.collect()
}

/// `:ingress` and `:egress` as ` ingress, egress`, `->a` and `->b` as ` -> a, b`.
fn joined(rests: &[&str]) -> String {
    let whole = rests.join(", ");
    match rests.first() {
        Some(first) if first.starts_with(':') => format!(" {}", whole.replace(':', "")),
        Some(first) if first.starts_with("->") => format!(" -> {}", whole.replace("->", "")),
        _ => whole,
    }
}

/// The subject without its pod.
fn after_pod(finding: &Reported) -> Option<&str> {
    let namespace = finding.object.namespace.as_deref()?;
    let rest = finding.id.subject.strip_prefix(namespace)?;
    rest.strip_prefix('/')?
        .strip_prefix(finding.object.name.as_str())
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
            ["12 pods of Deployment shop/web egress", "shop/db-0 egress"]
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
    fn pods_are_one_group_only_if_the_same_is_said_of_them() {
        let mut report = sample::full();
        let both = |of: &&Reported| of.id.lint == "NP004" && of.object.name != "web-0";
        let mut ingress: Vec<_> = report.findings.iter().filter(both).cloned().collect();
        for finding in &mut ingress {
            finding.id.subject = finding.id.subject.replace(":egress", ":ingress");
        }
        report.findings.extend(ingress);
        let sections = sections(&report.findings);
        let np004 = sections
            .iter()
            .find(|section| section.lint == "NP004")
            .unwrap();
        let what: Vec<_> = np004
            .groups
            .iter()
            .map(|group| group.what.as_str())
            .collect();
        assert_eq!(
            what,
            [
                "shop/web-0 egress",
                "11 pods of Deployment shop/web egress, ingress",
                "shop/db-0 egress, ingress"
            ]
        );
        assert_eq!((np004.len(), np004.groups[1].names().len()), (25, 11));
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
