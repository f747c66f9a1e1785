//! NP020: egress isolated without DNS.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::names;
use crate::model::Protocol;

pub(super) const LINT: Lint = Lint {
    id: "NP020",
    title: "egress isolated without DNS",
    severity: Severity::High,
    references: &["NIST SC-7", "NIST SC-20", "NIST SC-21", "operational"],
    help: "A policy isolates the pod for egress, and nothing lets it ask the cluster's DNS servers, so every \
           name that it looks up fails after a timeout. Allow UDP and TCP 53 to the pods of kube-system with \
           the label k8s-app=kube-dns; `polproof fix` writes it. Policies see the server's pod and its port, \
           not the address of the DNS Service. Suppress it for pods that look up no names. Other DNS servers \
           can be given by an option.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let dns = cluster.dns();
    for (twins, isolating) in dns.clients(cluster) {
        let asks = twins.first().map(|pod| dns.reach(pod, Protocol::Udp));
        if !asks.is_some_and(|reach| reach.denied) {
            continue;
        }
        let what = dns.describe(Protocol::Udp);
        for pod in twins {
            let finding = findings.about_pod(
                pod,
                pod.id.to_string(),
                format!(
                    "pod {} is isolated for egress and nothing allows {what}: it cannot resolve names",
                    pod.id
                ),
            );
            if let Some(finding) = finding {
                finding.policies = names(isolating);
            }
        }
    }
}
