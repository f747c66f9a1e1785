//! NP033: podSelector peer meant for another namespace.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::peers::{Means, Selection};

pub(super) const LINT: Lint = Lint {
    id: "NP033",
    title: "podSelector peer meant for another namespace",
    severity: Severity::Medium,
    references: &["NIST CM-6"],
    help: "A podSelector without a namespaceSelector means pods of the policy's own namespace, where none \
           matches; pods with these labels are in another namespace. Add a namespaceSelector to the same list \
           item, such as `kubernetes.io/metadata.name: NAMESPACE`. Suppress it if the pods of the own namespace \
           are only not there yet.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for rule in cluster.rules() {
        for (index, peer) in rule.peers() {
            let Some(selection) = Selection::of(cluster, rule.policy, peer) else {
                continue;
            };
            let Means::Elsewhere(namespace) = selection.means else {
                continue;
            };
            let policy = &rule.policy.id;
            let finding = findings.about_policy(
                rule.policy,
                rule.peer_subject(index),
                format!(
                    "peer {} of policy {policy} has no namespaceSelector, so it means pods of {}, where none matches, and \
                     not those of {namespace}",
                    rule.peer_place(index),
                    policy.namespace
                ),
            );
            if let Some(finding) = finding {
                finding.suggest = Some(namespace.to_string());
            }
        }
    }
}
