//! What an audit says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Lint;
use crate::model::{Kind, NamespacedName, NetworkPolicy, Pod};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Hygiene.
    Info,
    /// Should be known.
    Low,
    /// Should be corrected.
    Medium,
    /// Must be corrected.
    High,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// One finding; (lint, subject) identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `NP012`.
    pub lint: &'static str,
    /// What it is about, in the form that the lint's definition gives.
    pub subject: String,
    /// That of the lint, but for the few that depend on the case.
    pub severity: Severity,
    /// One sentence: what is wrong with this one, and why it matters.
    pub message: String,
    /// What was probably meant, or what to write.
    pub suggest: Option<String>,
    /// `rule` or `no-egress-isolation` (NP022).
    pub by: Option<&'static str>,
    /// The object to look at: it has the line to show, and the annotations that may suppress.
    pub object: (Kind, NamespacedName),
    /// The workload of a finding about a pod, `(kind, name)`: people read one line for all its pods.
    pub workload: Option<(Arc<str>, Arc<str>)>,
    /// Policies that take part, `namespace/name`.
    pub policies: Vec<String>,
}

impl Finding {
    /// A finding with the lint's own severity and nothing but a sentence.
    pub(crate) fn new(
        lint: &'static Lint,
        subject: String,
        object: (Kind, NamespacedName),
        message: String,
    ) -> Self {
        Self {
            lint: lint.id,
            subject,
            severity: lint.severity,
            message,
            suggest: None,
            by: None,
            object,
            workload: None,
            policies: Vec::new(),
        }
    }
}

/// Takes findings of one lint after the other.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    lint: Option<&'static Lint>,
    found: Vec<Finding>,
}

impl Findings {
    /// What follows is of this lint.
    pub(super) const fn of(&mut self, lint: &'static Lint) {
        self.lint = Some(lint);
    }

    /// Adds one with the lint's severity, and gives it back to be refined.
    pub(crate) fn add(
        &mut self,
        subject: impl Into<String>,
        object: (Kind, NamespacedName),
        message: impl Into<String>,
    ) -> Option<&mut Finding> {
        let lint = self.lint?;
        let finding = Finding::new(lint, subject.into(), object, message.into());
        self.found.push(finding);
        self.found.last_mut()
    }

    /// Adds one about a pod: it names the workload.
    pub(crate) fn about_pod(
        &mut self,
        pod: &Pod,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Option<&mut Finding> {
        let finding = self.add(subject, (Kind::Pod, pod.id.clone()), message)?;
        finding.workload = Some(pod.workload());
        Some(finding)
    }

    /// Adds one about a policy: it takes part.
    pub(crate) fn about_policy(
        &mut self,
        policy: &NetworkPolicy,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Option<&mut Finding> {
        let object = (Kind::NetworkPolicy, policy.id.clone());
        let finding = self.add(subject, object, message)?;
        finding.policies = vec![policy.id.to_string()];
        Some(finding)
    }

    pub(super) fn sorted(mut self) -> Vec<Finding> {
        self.found
            .sort_by(|a, b| (a.lint, &a.subject).cmp(&(b.lint, &b.subject)));
        self.found
    }
}

/// How many policies there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// NetworkPolicies of networking.k8s.io/v1.
    pub network_policies: usize,
    /// Namespaces that hold at least one of them.
    pub namespaces_with_policies: usize,
    /// Namespaces in all.
    pub namespaces: usize,
    /// Pods that policies can govern.
    pub governed_pods: usize,
    /// Admin, baseline and CNIs' own policies, by kind.
    pub other_policies: BTreeMap<&'static str, usize>,
    /// Objects that the API server would refuse.
    pub refused: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} NetworkPolicies found across {} namespaces",
            self.network_policies, self.namespaces_with_policies
        )
    }
}

/// How far the pods of a namespace are covered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Posture {
    /// Its name.
    pub namespace: Arc<str>,
    /// NetworkPolicies in it.
    pub policies: usize,
    /// Pods that policies can govern.
    pub governed_pods: usize,
    /// A policy with an empty podSelector isolates for ingress.
    pub default_deny_ingress: bool,
    /// A policy with an empty podSelector isolates for egress.
    pub default_deny_egress: bool,
    /// Governed pods that some policy selects for ingress.
    pub covered_ingress: usize,
    /// Governed pods that some policy selects for egress.
    pub covered_egress: usize,
}

/// Everything that an audit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The first line.
    pub summary: Summary,
    /// Every namespace, by name.
    pub namespaces: Vec<Posture>,
    /// By lint, then subject.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_line_is_always_plural() {
        let mut summary = Summary::default();
        assert_eq!(
            summary.to_string(),
            "0 NetworkPolicies found across 0 namespaces"
        );
        summary.network_policies = 1;
        summary.namespaces_with_policies = 1;
        assert_eq!(
            summary.to_string(),
            "1 NetworkPolicies found across 1 namespaces"
        );
    }
}
