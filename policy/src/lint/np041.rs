//! NP041: named port that no destination pod defines.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::destinations::{Destinations, destinations};
use super::finding::{Findings, Severity};
use crate::model::PortMatch;

pub(super) const LINT: Lint = Lint {
    id: "NP041",
    title: "named port that no destination pod defines",
    severity: Severity::Medium,
    references: &["NIST CM-6"],
    help: "A named port means the number that the destination pod gives to that name and protocol; where no pod does, the \
           entry admits nothing, and an ipBlock has no pods to ask. Correct the name or the protocol, or write the number. \
           Suppress this only while the pods that define the name are not deployed yet.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for at in cluster.rules() {
        let named = |port: &PortMatch| matches!(port, PortMatch::Named(_));
        if !at.rule.ports.iter().any(|port| named(&port.port)) {
            continue;
        }
        let destinations = destinations(cluster, at);
        for (index, port) in at.ports() {
            let PortMatch::Named(name) = &port.port else {
                continue;
            };
            let protocol = port.protocol;
            let (problem, other) = match &destinations {
                Destinations::Nobody => continue,
                Destinations::Unknown => (
                    "the rule has an ipBlock, and an address has no names for its ports: write the number".to_owned(),
                    None,
                ),
                Destinations::Known(declared) => {
                    if declared.protocols(name).any(|of| of == protocol) {
                        continue;
                    }
                    match declared.protocols(name).next() {
                        Some(other) => (
                            format!("its destination pods define that name for {other}, not for {protocol}"),
                            Some(other),
                        ),
                        None => (
                            format!(
                                "none of its {} destination pods defines that name, so the entry admits nothing",
                                declared.pods
                            ),
                            None,
                        ),
                    }
                }
            };
            let found = findings.add(
                at.port_subject(index),
                at.object(),
                format!("the rule admits the {protocol} port named {name}, but {problem}"),
            );
            if let Some(found) = found {
                found.suggest = other.map(|protocol| protocol.to_string());
            }
        }
    }
}
