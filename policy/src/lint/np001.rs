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
    for (namespace, pods) in &cluster.governed {
        if cluster.policies.contains_key(namespace) || cluster.is_exempt(namespace) {
            continue;
        }
        findings.add(
            &**namespace,
            (Kind::Namespace, NamespacedName::new("", namespace.clone())),
            format!(
                "namespace {namespace} has no NetworkPolicy: its {} may talk to everybody, and everybody to {}",
                count(pods.len(), "only pod", "pods"),
                if pods.len() == 1 { "it" } else { "them" }
            ),
        );
    }
}
