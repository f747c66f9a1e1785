//! NP034: OR where AND may be meant.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::Peer;

pub(super) const LINT: Lint = Lint {
    id: "NP034",
    title: "OR where AND may be meant",
    severity: Severity::Low,
    references: &["NIST AC-4", "CWE-284"],
    help: "Two list items of `from` or `to` are alternatives: every pod of those namespaces, or such pods of \
           the own namespace. Without the second dash they would be one peer, such pods of those namespaces, \
           which is mostly what is meant and admits far less. Suppress it where the alternatives are meant.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for rule in cluster.rules() {
        let pairs = rule.peers().zip(rule.rule.peers.iter().skip(1));
        for ((index, first), second) in pairs {
            let (
                Peer::Pods {
                    namespaces: Some(namespaces),
                    pods: None,
                },
                Peer::Pods {
                    namespaces: None,
                    pods: Some(pods),
                },
            ) = (first, second)
            else {
                continue;
            };
            if namespaces.is_empty() || pods.is_empty() {
                continue;
            }
            let policy = &rule.policy.id;
            findings.about_policy(
                rule.policy,
                rule.peer_subject(index),
                format!(
                    "peers {} and the next of policy {policy} are alternatives: every pod of the namespaces with labels \
                     {namespaces}, or pods of {} with labels {pods}; one list item with both would mean both",
                    rule.peer_place(index),
                    policy.namespace
                ),
            );
        }
    }
}
