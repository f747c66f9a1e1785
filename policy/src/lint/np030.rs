//! NP030: policy selects no pod.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};

pub(super) const LINT: Lint = Lint {
    id: "NP030",
    title: "policy selects no pod",
    severity: Severity::Medium,
    references: &["NIST CM-6", "NIST SC-7", "CWE-284"],
    help: "A policy whose podSelector matches no pod of its namespace protects nothing, and the pods that it \
           was written for are open. Correct the labels; what was probably meant is suggested. Suppress it for \
           a policy that waits for pods that come and go, such as those of a CronJob.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policy in cluster.all_policies() {
        if cluster.selects_some(policy) {
            continue;
        }
        let namespace = &policy.id.namespace;
        let selector = &policy.pod_selector;
        let none = if cluster.living.contains_key(namespace) {
            format!("no pod of namespace {namespace} has labels {selector}")
        } else {
            format!("namespace {namespace} has no pods")
        };
        let finding = findings.about_policy(
            policy,
            policy.id.to_string(),
            format!(
                "policy {} selects no pod, so it protects nothing: {none}",
                policy.id
            ),
        );
        if let Some(finding) = finding {
            let miss = cluster.pod_near_miss(selector, std::slice::from_ref(namespace));
            finding.suggest = miss.map(|miss| miss.suggestion());
        }
    }
}
