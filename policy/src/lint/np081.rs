//! NP081: duplicate policy.

use std::collections::HashMap;

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::object;
use crate::model::{NetworkPolicy, Rule};

pub(super) const LINT: Lint = Lint {
    id: "NP081",
    title: "duplicate policy",
    severity: Severity::Low,
    references: &["hygiene"],
    help: "Two policies of a namespace say the same, so a change to one of them will not change what is in force. Remove one. \
           Suppress this while one replaces the other under a new name.",
    check,
};

/// Of equal policies the first by name counts as the original: a cluster has no other order.
fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policies in cluster.policies.values() {
        let mut originals: HashMap<String, &NetworkPolicy> = HashMap::new();
        for policy in policies {
            let Some(original) = originals.get(&likeness(policy)) else {
                originals.insert(likeness(policy), policy);
                continue;
            };
            let found = findings.add(
                policy.id.to_string(),
                object(policy),
                format!(
                    "the policy says the same as {}: a change to one of them changes nothing",
                    original.id
                ),
            );
            if let Some(found) = found {
                found.policies = vec![original.id.to_string()];
            }
        }
    }
}

/// A text that two policies share if they are twins: what is effective, rules in any order.
pub(super) fn likeness(policy: &NetworkPolicy) -> String {
    let rules = |effective: bool, rules: &[Rule]| {
        effective.then(|| {
            let mut rules: Vec<String> = rules.iter().map(|rule| format!("{rule:?}")).collect();
            rules.sort_unstable();
            rules
        })
    };
    let ingress = rules(policy.isolates_ingress, &policy.ingress);
    let egress = rules(policy.isolates_egress, &policy.egress);
    format!("{:?}", (&policy.pod_selector, ingress, egress))
}
