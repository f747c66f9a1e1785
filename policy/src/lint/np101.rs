//! NP101: ingress allowed, egress denied.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::reach::report;
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP101",
    title: "ingress allowed, egress denied",
    severity: Severity::Medium,
    references: &["NIST AC-4", "operational"],
    help: "A connection needs the egress of its source and the ingress of its destination. The rule opens the second, and the \
           sources' policies deny every connection that it is for: it does nothing. Add an egress rule at the source, or remove \
           this one. Suppress this while the other side is being prepared.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let does = "lets connections in that their sources all deny";
    report(cluster, Direction::Ingress, does, findings);
}
