//! NP040: port that no destination pod exposes.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::destinations::{each_idle_port, shown};
use super::finding::{Findings, Severity};

pub(super) const LINT: Lint = Lint {
    id: "NP040",
    title: "port that no destination pod exposes",
    severity: Severity::Low,
    references: &["NIST CM-7", "hygiene"],
    help: "Every pod that the rule leads to declares its ports, and none declares this one: the rule is out of date, or the \
           number is wrong. Correct the number or remove the entry. Declaring a containerPort is not required to listen on \
           it, so suppress this where a port is left undeclared on purpose.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    each_idle_port(cluster, |at, index, port, declared, translation| {
        if translation.is_some() {
            return;
        }
        findings.add(
            at.port_subject(index),
            at.object(),
            format!(
                "the rule admits {}, which none of its {} destination pods exposes (they declare {})",
                shown(port),
                declared.pods,
                declared.shown()
            ),
        );
    });
}
