//! NP011: allows all egress.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::np010;
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP011",
    title: "allows all egress",
    severity: Severity::Medium,
    references: &["NIST SC-7(5)", "NIST AC-4", "NIST CM-7", "CWE-284"],
    help: "The rule lets the pods that the policy selects connect to everybody on every port, the internet and \
           the cloud's metadata service included: for them it undoes every other egress policy, because rules \
           add up. Name the peers and the ports that are needed. Suppress it for pods whose job is to reach \
           anything, such as a proxy.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    np010::report(cluster, Direction::Egress, findings);
}
