//! NP092: very wide port range.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::PortMatch;

pub(super) const LINT: Lint = Lint {
    id: "NP092",
    title: "very wide port range",
    severity: Severity::Low,
    references: &["NIST CM-7", "NIST AC-4"],
    help: "A range of ten thousand ports and more is hardly a restriction: it admits what nobody thought of. Name the ports \
           that are used. Suppress this for protocols that need such a range, as RTP or passive FTP.",
    check,
};

/// From this difference of endPort and port.
const WIDE: u16 = 10_000;

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for at in cluster.rules() {
        for (index, port) in at.ports() {
            let PortMatch::Range(first, last) = port.port else {
                continue;
            };
            let beyond = last.saturating_sub(first);
            if beyond >= WIDE {
                findings.add(
                    at.port_subject(index),
                    at.object(),
                    format!(
                        "the range {first}-{last} admits {} {} ports: name those that are used",
                        u32::from(beyond) + 1,
                        port.protocol
                    ),
                );
            }
        }
    }
}
