//! NP021: DNS over UDP only.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::names;
use crate::model::Protocol;

pub(super) const LINT: Lint = Lint {
    id: "NP021",
    title: "DNS over UDP only",
    severity: Severity::Low,
    references: &["RFC 7766", "operational"],
    help: "The pod may ask DNS over UDP and not over TCP. An answer that is too long for a datagram is asked \
           for again over TCP, so some names fail and most do not, which is hard to find. Allow TCP 53 beside \
           UDP 53. Suppress it if no answer that the pod asks for can be long.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let dns = cluster.dns();
    for (twins, isolating) in dns.clients(cluster) {
        let only_udp = twins.first().is_some_and(|pod| {
            dns.reach(pod, Protocol::Udp).allowed && dns.reach(pod, Protocol::Tcp).denied
        });
        if !only_udp {
            continue;
        }
        let what = dns.describe(Protocol::Tcp);
        for pod in twins {
            let finding = findings.about_pod(
                pod,
                pod.id.to_string(),
                format!(
                    "pod {} may ask DNS over UDP, but nothing allows {what}: long answers are lost",
                    pod.id
                ),
            );
            if let Some(finding) = finding {
                finding.policies = names(isolating);
            }
        }
    }
}
