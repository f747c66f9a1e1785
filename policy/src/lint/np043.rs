//! NP043: port 53 without UDP.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::{Direction, PolicyPort, PortMatch, Protocol};

pub(super) const LINT: Lint = Lint {
    id: "NP043",
    title: "port 53 without UDP",
    severity: Severity::Medium,
    references: &["operational"],
    help: "Resolvers ask over UDP first, and an entry without a protocol is TCP: a rule that means DNS needs UDP 53 and TCP \
           53. Add the UDP entry. Suppress this where the rule is about zone transfers or DNS over TCP alone.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for at in cluster
        .rules()
        .filter(|at| at.direction == Direction::Egress)
    {
        let is_53 = |port: &PolicyPort| port.port == PortMatch::Range(53, 53);
        if !at.rule.ports.iter().any(is_53) || at.rule.ports.iter().any(admits_dns) {
            continue;
        }
        let found = findings.add(
            at.subject(),
            at.object(),
            "the rule admits port 53 but not over UDP, by which names are looked up first: DNS will fail",
        );
        if let Some(found) = found {
            found.suggest = Some("{protocol: UDP, port: 53}".to_owned());
        }
    }
}

/// UDP 53, also as a part of a range.
fn admits_dns(port: &PolicyPort) -> bool {
    port.protocol == Protocol::Udp
        && match port.port {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => first <= 53 && 53 <= last,
            PortMatch::Named(_) => false,
        }
}
