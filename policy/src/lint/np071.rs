//! NP071: peer of hostNetwork pods only.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};

pub(super) const LINT: Lint = Lint {
    id: "NP071",
    title: "peer of hostNetwork pods only",
    severity: Severity::Medium,
    references: &["NIST CM-6"],
    help: "A hostNetwork pod's packets carry the node's address, so with most plugins a selector does not match them: the \
           peer admits nobody. Write an ipBlock of the nodes' addresses instead. Suppress this where the plugin is known to see \
           such pods.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let classes = cluster.classes();
    for at in cluster.rules() {
        for (index, peer) in at.peers() {
            let matched = classes.of_peer(peer, &at.policy.id.namespace);
            if matched.is_empty() || matched.iter().any(|class| classes.is_governed(*class)) {
                continue;
            }
            let pods: usize = matched
                .iter()
                .filter_map(|class| classes.get(*class))
                .map(|class| class.pods.len())
                .sum();
            findings.add(
                at.peer_subject(index),
                at.object(),
                format!(
                    "the peer matches {pods} hostNetwork {} and nothing else: most plugins see the node's address there, so an ipBlock of the nodes is needed",
                    if pods == 1 { "pod" } else { "pods" }
                ),
            );
        }
    }
}
