//! NP061: ingress denied by accident.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::object;

pub(super) const LINT: Lint = Lint {
    id: "NP061",
    title: "ingress denied by accident",
    severity: Severity::Medium,
    references: &["operational"],
    help: "Without policyTypes a policy always isolates for ingress, so one that has egress rules only also denies all ingress \
           to its pods. Write policyTypes: [Egress] if ingress should be left alone, or [Ingress, Egress] if it is meant. Nothing \
           is wrong where all ingress is denied on purpose; writing policyTypes says so.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policy in cluster.policies.values().flatten() {
        let written = policy.written;
        if written.policy_types || written.ingress || policy.egress.is_empty() {
            continue;
        }
        let found = findings.add(
            policy.id.to_string(),
            object(policy),
            "the policy has egress rules only and no policyTypes, so it also denies all ingress to its pods",
        );
        if let Some(found) = found {
            found.suggest = Some("policyTypes: [Egress]".to_owned());
        }
    }
}
