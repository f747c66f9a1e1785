//! NP002: no default-deny ingress.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::{Direction, Kind, NamespacedName};

pub(super) const LINT: Lint = Lint {
    id: "NP002",
    title: "no default-deny ingress",
    severity: Severity::High,
    references: &[
        "CIS 5.3.2",
        "NIST SC-7",
        "NIST SC-7(5)",
        "NIST AC-4",
        "CWE-284",
    ],
    help: "Where no policy with an empty podSelector isolates for ingress, a pod that no other policy selects \
           accepts connections from everybody, and so does every pod that is added later. Add a policy with \
           `podSelector: {}` and `policyTypes: [Ingress]`; `polproof fix` writes it. Suppress it where \
           something else guarantees that each new pod is selected, such as an admission policy.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    report(cluster, Direction::Ingress, findings);
}

/// NP002 and NP003.
pub(super) fn report(cluster: &Cluster<'_>, direction: Direction, findings: &mut Findings) {
    for (namespace, pods) in cluster.without_default_deny(direction) {
        let open = cluster.not_isolated(pods, direction).count();
        let which = match pods.len() {
            1 => "its only pod".to_owned(),
            number => format!("{open} of its {number} pods"),
        };
        let so = match (open, direction) {
            (0, _) => "nothing will isolate a new pod that no other policy selects".to_owned(),
            (_, Direction::Ingress) => format!("everybody may connect to {which}"),
            (_, Direction::Egress) => format!("{which} may connect to everybody"),
        };
        findings.add(
            &**namespace,
            (Kind::Namespace, NamespacedName::new("", namespace.clone())),
            format!(
                "namespace {namespace} has no policy that isolates every pod for {direction}: {so}"
            ),
        );
    }
}
