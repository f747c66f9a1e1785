//! NP052: useless except entry.

use ipnet::IpNet;

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::Peer;

pub(super) const LINT: Lint = Lint {
    id: "NP052",
    title: "useless except entry",
    severity: Severity::Info,
    references: &["hygiene"],
    help: "An entry that is repeated, or lies inside another one, excepts nothing more and makes people think that it does. \
           Remove it. Suppress this where the list is generated.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for at in cluster.rules() {
        for (index, peer) in at.peers() {
            let Peer::IpBlock { except, .. } = peer else {
                continue;
            };
            let useless = useless(except);
            let Some((entry, within)) = useless.first() else {
                continue;
            };
            let what = if entry == within {
                format!("{entry} is repeated")
            } else {
                format!("{entry} lies inside {within}")
            };
            let more = match useless.len() {
                0 | 1 => String::new(),
                some => format!(" (and {} more such)", some - 1),
            };
            findings.add(
                at.peer_subject(index),
                at.object(),
                format!("the except entry {what}, so it excepts nothing more{more}"),
            );
        }
    }
}

/// Each entry that lies in another one, with that one. Of two nets, one holds the other or they have nothing in common.
fn useless(except: &[IpNet]) -> Vec<(IpNet, IpNet)> {
    let mut sorted = except.to_vec();
    // The wider of two that begin at one address comes first.
    sorted.sort_by_key(|net| (net.network(), net.prefix_len()));
    let mut useless = Vec::new();
    let mut wide: Option<IpNet> = None;
    for net in sorted {
        match wide {
            Some(wide) if wide.contains(&net) => useless.push((net, wide)),
            Some(_) | None => wide = Some(net),
        }
    }
    useless
}
