//! NP091: endPort equal to port.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::PortMatch;

pub(super) const LINT: Lint = Lint {
    id: "NP091",
    title: "endPort equal to port",
    severity: Severity::Info,
    references: &["hygiene"],
    help: "A range of one port is that port. Leave endPort out: clusters before 1.25 may pass over it, and readers look for a \
           range. Suppress this where the manifests are generated.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for at in cluster.rules() {
        for (index, port) in at.ports() {
            let PortMatch::Range(first, last) = port.port else {
                continue;
            };
            if port.end_port_written && first == last {
                findings.add(
                    at.port_subject(index),
                    at.object(),
                    format!("endPort {last} is the same as port: leave it out"),
                );
            }
        }
    }
}
