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
            let first = useless.first();
            let Some((entry, within)) = first.and_then(|(at, wide)| Some((except.get(*at)?, wide)))
            else {
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

/// The position of each entry that lies in another one, or is repeated, with that other one. Of two nets, one holds the other
/// or they have nothing in common.
pub(crate) fn useless(except: &[IpNet]) -> Vec<(usize, IpNet)> {
    let mut sorted: Vec<(usize, IpNet)> = except.iter().copied().enumerate().collect();
    // The wider of two that begin at one address comes first, and of two equal ones the first.
    sorted.sort_by_key(|(at, net)| (net.network(), net.prefix_len(), *at));
    let mut useless = Vec::new();
    let mut wide: Option<IpNet> = None;
    for (at, net) in sorted {
        match wide {
            Some(wide) if wide.contains(&net) => useless.push((at, wide)),
            Some(_) | None => wide = Some(net),
        }
    }
    useless
}
