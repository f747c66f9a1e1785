//! NP060: rules that policyTypes switches off.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::{DIRECTIONS, isolates, object};
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP060",
    title: "rules that policyTypes switches off",
    severity: Severity::High,
    references: &["NIST SC-7", "NIST AC-4", "CWE-284"],
    help: "A direction that policyTypes leaves out is not isolated by the policy, and its rules there do nothing: what they \
           seem to restrict is open. Add the direction to policyTypes, or remove the rules. There is no good reason to keep such \
           rules; suppress this only while a change is being prepared.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policy in cluster.policies.values().flatten() {
        for direction in DIRECTIONS {
            let (name, rules) = match direction {
                Direction::Ingress => ("Ingress", policy.ingress.len()),
                Direction::Egress => ("Egress", policy.egress.len()),
            };
            if !policy.written.policy_types || isolates(policy, direction) || rules == 0 {
                continue;
            }
            let found = findings.add(
                format!("{}:{direction}", policy.id),
                object(policy),
                format!(
                    "policyTypes leaves out {name}, so the policy's {rules} {direction} {} nothing and {direction} of its pods stays open",
                    if rules == 1 { "rule does" } else { "rules do" }
                ),
            );
            if let Some(found) = found {
                found.suggest = Some("policyTypes: [Ingress, Egress]".to_owned());
            }
        }
    }
}
