//! NP051: ipBlock covers Service addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::ranges::Ranges;
use crate::model::{NamespacedName, Peer};

pub(super) const LINT: Lint = Lint {
    id: "NP051",
    title: "ipBlock covers Service addresses",
    severity: Severity::Medium,
    references: &["NIST CM-6"],
    help: "A Service's address is rewritten to that of a pod, and whether a policy sees the packet before or after is left \
           open: with most plugins a block of Service addresses matches nothing. Select the pods behind the Service by their \
           labels instead. Suppress this where the block is wide for another reason and nobody relies on it for Services.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let owners: BTreeMap<IpAddr, &NamespacedName> = cluster
        .snapshot
        .services()
        .flat_map(|service| {
            let addresses = service.cluster_ips.iter();
            addresses.map(move |ip| (ip.to_canonical(), &service.id))
        })
        .collect();
    let addresses = Ranges::new(owners.keys().copied(), []);
    for at in cluster.rules() {
        for (index, peer) in at.peers() {
            let Peer::IpBlock { cidr, except } = peer else {
                continue;
            };
            if cidr.prefix_len() == 0 || !addresses.touch(cidr, except) {
                continue;
            }
            let held = owners
                .range(cidr.network()..=cidr.broadcast())
                .find(|(ip, _)| !except.iter().any(|net| net.contains(*ip)));
            let of = held.map_or_else(
                || "of Services".to_owned(),
                |(ip, service)| format!("{ip} of Service {service}"),
            );
            findings.add(
                at.peer_subject(index),
                at.object(),
                format!(
                    "the ipBlock {cidr} holds the address {of}: it is rewritten to a pod's address, mostly before policies see it; select the pods by labels"
                ),
            );
        }
    }
}
