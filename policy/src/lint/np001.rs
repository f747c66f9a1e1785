//! NP001: namespace without any policy.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::count;
use crate::model::{Kind, NamespacedName};

pub(super) const LINT: Lint = Lint {
    id: "NP001",
    title: "namespace without any policy",
    severity: Severity::High,
    references: &[
        "CIS 5.3.2",
        "NIST SC-7",
        "NIST SC-7(5)",
        "NIST AC-4",
        "CWE-284",
    ],
    help: "Every pod of the namespace accepts connections from everybody and may connect to everybody. Give the \
           namespace a default-deny policy for both directions, then allow what is needed; `polproof fix` \
           writes it. Suppress it for a namespace that policies of another kind (admin policies, a CNI's own) \
           isolate.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let snapshot = cluster.snapshot;
    let others =
        snapshot.admin_policies().next().is_some() || snapshot.foreign_policies().next().is_some();
    for (namespace, pods) in &cluster.governed {
        if cluster.policies.contains_key(namespace) || cluster.is_exempt(namespace) {
            continue;
        }
        findings.add(
            &**namespace,
            (Kind::Namespace, NamespacedName::new("", namespace.clone())),
            said(namespace, pods.len(), others),
        );
    }
}

/// Policies of other kinds may isolate the pods, so where there are some, not everything is said to be open.
fn said(namespace: &str, pods: usize, others: bool) -> String {
    let whose = count(pods, "only pod", "pods");
    let them = if pods == 1 { "it" } else { "them" };
    if others {
        format!(
            "namespace {namespace} has no NetworkPolicy: its {whose} may talk to everybody, and everybody to {them}, but for what \
             policies of other kinds deny"
        )
    } else {
        format!(
            "namespace {namespace} has no NetworkPolicy: its {whose} may talk to everybody, and everybody to {them}"
        )
    }
}
