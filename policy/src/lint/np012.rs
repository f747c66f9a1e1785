//! NP012: allows every pod of the cluster.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::{is_every_pod, whom};
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP012",
    title: "allows every pod of the cluster",
    severity: Severity::Medium,
    references: &["NIST SC-7(5)", "NIST AC-4", "NIST CM-7", "CWE-284"],
    help: "A peer with `namespaceSelector: {}` and no pod labels means every pod of every namespace, also of \
           namespaces that are created later by others, and the rule names no ports. Name the namespaces, the \
           pods or at least the ports. Suppress it for what every pod must reach on all ports.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for rule in cluster.rules() {
        let found = rule.is_effective()
            && !rule.allows_all()
            && rule.no_port_restriction()
            && rule.rule.peers.iter().any(is_every_pod);
        if !found {
            continue;
        }
        let policy = &rule.policy;
        let (place, pods) = (rule.place(), whom(policy));
        let so = match rule.direction {
            Direction::Ingress => {
                format!("every pod of the cluster may connect to every port of {pods}")
            }
            Direction::Egress => {
                format!("{pods} may connect to every port of every pod of the cluster")
            }
        };
        findings.about_policy(
            policy,
            rule.subject(),
            format!(
                "rule {place} of policy {} selects every namespace and has no ports: {so}",
                policy.id
            ),
        );
    }
}
