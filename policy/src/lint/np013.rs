//! NP013: whole address space as a peer.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::{count, whom};
use crate::model::{Direction, Peer};

pub(super) const LINT: Lint = Lint {
    id: "NP013",
    title: "whole address space as a peer",
    severity: Severity::Low,
    references: &["NIST SC-7(5)", "NIST AC-4", "NIST CM-7", "CWE-284"],
    help: "An ipBlock of length 0 is the whole internet and, with most CNIs, every node and pod besides. Narrow \
           it to the ranges that are needed; for egress to the internet leave out the private and the metadata \
           addresses with `except`. Suppress it where the internet really is the peer and the ports and \
           exceptions are right.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for rule in cluster.rules() {
        if !rule.is_effective() || rule.allows_all() {
            continue;
        }
        let whole = rule.rule.peers.iter().find_map(|peer| match peer {
            Peer::IpBlock { cidr, except } if cidr.prefix_len() == 0 => Some((cidr, except.len())),
            Peer::IpBlock { .. } | Peer::Pods { .. } => None,
        });
        let Some((cidr, excepted)) = whole else {
            continue;
        };
        let policy = &rule.policy;
        let (place, pods) = (rule.place(), whom(policy));
        let but = match excepted {
            0 => String::new(),
            number => format!(" (but for {})", count(number, "1 range", "ranges")),
        };
        let so = match rule.direction {
            Direction::Ingress => format!("any address{but} may connect to {pods}"),
            Direction::Egress => format!("{pods} may connect to any address{but}"),
        };
        let on = if rule.no_port_restriction() {
            ""
        } else {
            " on the ports of the rule"
        };
        let finding = findings.about_policy(
            policy,
            rule.subject(),
            format!(
                "rule {place} of policy {} has {cidr} as a peer: {so}{on}",
                policy.id
            ),
        );
        if let Some(finding) = finding
            && rule.direction == Direction::Ingress
        {
            finding.severity = Severity::Medium;
        }
    }
}
