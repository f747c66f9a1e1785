//! NP050: ipBlock covers pod addresses.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::ranges::Ranges;
use crate::model::Peer;

pub(super) const LINT: Lint = Lint {
    id: "NP050",
    title: "ipBlock covers pod addresses",
    severity: Severity::Medium,
    references: &["NIST SC-7", "NIST AC-4", "CWE-284"],
    help: "An ipBlock is for addresses outside the cluster: pod addresses change and are used again by other pods, address \
           translation may hide them, and Cilium never matches a pod by its address. Select pods by labels, and except the pod \
           CIDRs from blocks that hold them. Suppress this where the CNI is known to match pod addresses and the block is meant \
           for the whole range.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let pods = cluster.governed.values().flatten();
    let addresses = Ranges::new(pods.flat_map(|pod| pod.ips.iter().copied()), []);
    let of_nodes = cluster.snapshot.nodes().flat_map(|node| &node.pod_cidrs);
    let cidrs = Ranges::new([], of_nodes.chain(&cluster.options.pod_cidrs).copied());
    for at in cluster.rules() {
        for (index, peer) in at.peers() {
            let Peer::IpBlock { cidr, except } = peer else {
                continue;
            };
            if cidr.prefix_len() == 0 {
                continue;
            }
            let holds = if addresses.touch(cidr, except) {
                "the addresses of pods"
            } else if cidrs.touch(cidr, except) {
                "addresses that nodes give to pods"
            } else {
                continue;
            };
            findings.add(
                at.peer_subject(index),
                at.object(),
                format!(
                    "the ipBlock {cidr} holds {holds}: whether it matches pods depends on the CNI, and their addresses change; select pods by labels"
                ),
            );
        }
    }
}
