//! NP010: allows all ingress.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::whom;
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP010",
    title: "allows all ingress",
    severity: Severity::High,
    references: &["NIST SC-7(5)", "NIST AC-4", "NIST CM-7", "CWE-284"],
    help: "The rule lets everybody, inside the cluster and outside, connect to every port of the pods that the \
           policy selects: for them it undoes every other ingress policy, because rules add up. Name the peers \
           and the ports that are needed. Suppress it for what must be public on every port, which is rare; a \
           public service needs its ports only.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    report(cluster, Direction::Ingress, findings);
}

/// NP010 and NP011.
pub(super) fn report(cluster: &Cluster<'_>, direction: Direction, findings: &mut Findings) {
    for rule in cluster.rules() {
        if rule.direction != direction || !rule.allows_all() {
            continue;
        }
        let policy = &rule.policy;
        let peers = if rule.rule.peers.is_empty() {
            "names no peers".to_owned()
        } else {
            format!(
                "has an ipBlock of every address in `{}`",
                rule.peers_field()
            )
        };
        let (place, pods) = (rule.place(), whom(policy));
        let so = match direction {
            Direction::Ingress => format!("everybody may connect to every port of {pods}"),
            Direction::Egress => format!("{pods} may connect to everybody on every port"),
        };
        findings.about_policy(
            policy,
            rule.subject(),
            format!(
                "rule {place} of policy {} {peers} and has no ports: {so}",
                policy.id
            ),
        );
    }
}
