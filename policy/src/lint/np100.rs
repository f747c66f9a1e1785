//! NP100: egress allowed, ingress denied.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::reach::each_futile_rule;
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
    each_futile_rule(cluster, Direction::Egress, |at, futile| {
        let by = match futile.denied_by.as_slice() {
            [] => String::new(),
            [policy] => format!(" by {policy}"),
            [policy, more @ ..] => format!(" by {policy} and {} more", more.len()),
        };
        let found = findings.add(
            at.subject(),
            at.object(),
            format!(
                "the rule lets connections out that their destinations all deny{by}, such as {} to {} port {}/{}",
                futile.source.id, futile.destination.id, futile.port, futile.protocol
            ),
        );
        if let Some(found) = found {
            found.policies = futile.denied_by;
        }
    });
}
