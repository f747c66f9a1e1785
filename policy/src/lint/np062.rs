//! NP062: `egress: []` without policyTypes.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::object;

pub(super) const LINT: Lint = Lint {
    id: "NP062",
    title: "egress: [] without policyTypes",
    severity: Severity::Medium,
    references: &["NIST SC-7(5)", "CWE-284"],
    help: "Without policyTypes a policy isolates for egress only if it has an egress rule, so `egress: []` looks like a default \
           deny and denies nothing. Write policyTypes: [Ingress, Egress], or remove the empty list. Suppress this only where the \
           list is generated and egress is restricted by another policy.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policy in cluster.policies.values().flatten() {
        let written = policy.written;
        if written.policy_types || !written.egress || !policy.egress.is_empty() {
            continue;
        }
        let found = findings.add(
            policy.id.to_string(),
            object(policy),
            "`egress: []` without policyTypes looks like a default deny of egress, and egress of the policy's pods stays open",
        );
        if let Some(found) = found {
            found.suggest = Some("policyTypes: [Ingress, Egress]".to_owned());
        }
    }
}
