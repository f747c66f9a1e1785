//! NP100: egress allowed, ingress denied.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::reach::report;
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP100",
    title: "egress allowed, ingress denied",
    severity: Severity::Medium,
    references: &["NIST AC-4", "operational"],
    help: "A connection needs the egress of its source and the ingress of its destination. The rule opens the first, and the \
           destination's policies deny every connection that it is for: it does nothing. Add an ingress rule at the destination, \
           or remove this one. Suppress this while the other side is being prepared.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let does = "lets connections out that their destinations all deny";
    report(cluster, Direction::Egress, does, findings);
}
