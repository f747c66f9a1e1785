//! NP032: peer selects no namespace.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use std::sync::Arc;

use super::peers::{Means, Selection};
use crate::model::NAMESPACE_NAME_LABEL;
use crate::model::Selector;

pub(super) const LINT: Lint = Lint {
    id: "NP032",
    title: "peer selects no namespace",
    severity: Severity::Medium,
    references: &["NIST CM-6"],
    help: "The peer admits nobody, because no namespace has the labels of its namespaceSelector. Namespaces \
           have no label `name` of their own: the one that every namespace has is kubernetes.io/metadata.name. \
           Correct the labels; what was probably meant is suggested. Suppress it if the namespace is created \
           later or is not part of what is audited.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for rule in cluster.rules() {
        for (index, peer) in rule.peers() {
            let Some(selection) = Selection::of(cluster, rule.policy, peer) else {
                continue;
            };
            let (Means::NoNamespace, Some(selector)) = (selection.means, selection.namespaces)
            else {
                continue;
            };
            let finding = findings.about_policy(
                rule.policy,
                rule.peer_subject(index),
                format!(
                    "peer {} of policy {} selects no namespace, so it admits nobody: no namespace has labels {selector}",
                    rule.peer_place(index),
                    rule.policy.id
                ),
            );
            if let Some(finding) = finding {
                finding.suggest = suggestion(cluster, selector);
            }
        }
    }
}

/// The label that every namespace has, if a value of the selector is the name of one; else what is nearly the same.
fn suggestion(cluster: &Cluster<'_>, selector: &Selector) -> Option<String> {
    match by_name(cluster, selector) {
        Some((_, name)) => Some(format!("{NAMESPACE_NAME_LABEL}={name}")),
        None => Some(cluster.namespace_near_miss(selector)?.suggestion()),
    }
}

/// The first label of a selector whose value is the name of a namespace: the classic `name: kube-system`.
pub(crate) fn by_name<'s>(
    cluster: &Cluster<'_>,
    selector: &'s Selector,
) -> Option<(&'s Arc<str>, &'s Arc<str>)> {
    let named = |name: &Arc<str>| {
        let mut assumed = cluster.dns().assumed_namespaces();
        cluster.namespaces.contains(name) || assumed.any(|assumed| assumed == name)
    };
    let mut labels = selector.match_labels.iter();
    labels.find(|(_, value)| named(value))
}
