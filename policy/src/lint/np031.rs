//! NP031: peer selects no pod.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::peers::{Means, Selection};
use crate::model::Selector;

pub(super) const LINT: Lint = Lint {
    id: "NP031",
    title: "peer selects no pod",
    severity: Severity::Low,
    references: &["NIST CM-6"],
    help: "The peer admits nobody, because no pod of the namespaces in question has its labels. What was to be \
           allowed is denied, or the peer is left over from something that is gone. Correct the labels (what \
           was probably meant is suggested) or remove the peer. Suppress it for pods that come and go.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for rule in cluster.rules() {
        for (index, peer) in rule.peers() {
            let Some(selection) = Selection::of(cluster, rule.policy, peer) else {
                continue;
            };
            if selection.means != Means::NoPod {
                continue;
            }
            let policy = &rule.policy.id;
            let whose = match selection.namespaces {
                Some(selector) => format!("of the namespaces with labels {selector}"),
                None => format!("of namespace {}", policy.namespace),
            };
            let whose = if selection.namespaces.is_some_and(Selector::is_empty) {
                "of any namespace".to_owned()
            } else {
                whose
            };
            let which = match selection.pods {
                Some(selector) if !selector.is_empty() => {
                    format!("no pod {whose} has labels {selector}")
                }
                Some(_) | None => format!("there is no pod {whose}"),
            };
            let finding = findings.about_policy(
                rule.policy,
                rule.peer_subject(index),
                format!(
                    "peer {} of policy {policy} selects no pod, so it admits nobody: {which}",
                    rule.peer_place(index)
                ),
            );
            if let (Some(finding), Some(selector)) = (finding, selection.pods) {
                let miss = cluster.pod_near_miss(selector, &selection.among);
                finding.suggest = miss.map(|miss| miss.suggestion());
            }
        }
    }
}
