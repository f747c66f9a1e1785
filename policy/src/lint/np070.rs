//! NP070: hostNetwork pod selected by a policy.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::Kind;

pub(super) const LINT: Lint = Lint {
    id: "NP070",
    title: "hostNetwork pod selected by a policy",
    severity: Severity::Medium,
    references: &["NIST SC-7", "NIST AC-4", "CIS 5.2.5", "CWE-284"],
    help: "What a policy does to a pod on its node's network is left open, and most plugins ignore it: the pod looks protected \
           and is not. Take the pod off the host network, or restrict the node by other means, and let the selector leave it out. \
           Suppress this where a policy selects everything and the hostNetwork pods of the namespace are known.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for (namespace, pods) in &cluster.living {
        let Some(policies) = cluster.policies.get(namespace) else {
            continue;
        };
        for pod in pods.iter().filter(|pod| pod.host_network) {
            let selecting: Vec<String> = policies
                .iter()
                .filter(|policy| policy.pod_selector.matches(&pod.labels))
                .map(|policy| policy.id.to_string())
                .collect();
            let Some(first) = selecting.first() else {
                continue;
            };
            let who = match selecting.len() {
                1 => format!("policy {first} selects"),
                some => format!("policy {first} and {} more select", some - 1),
            };
            let found = findings.add(
                pod.id.to_string(),
                (Kind::Pod, pod.id.clone()),
                format!(
                    "{who} this hostNetwork pod: most plugins ignore policies there, so it is not protected"
                ),
            );
            if let Some(found) = found {
                found.workload = Some(pod.workload());
                found.policies = selecting;
            }
        }
    }
}
