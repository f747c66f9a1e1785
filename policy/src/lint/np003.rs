//! NP003: no default-deny egress.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::np002;
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP003",
    title: "no default-deny egress",
    severity: Severity::Medium,
    references: &[
        "CIS 5.3.2",
        "NIST SC-7",
        "NIST SC-7(5)",
        "NIST AC-4",
        "CWE-284",
    ],
    help: "Where no policy with an empty podSelector isolates for egress, a pod that no other policy selects \
           may connect to everybody, the internet and the cloud's metadata service included, and so may every \
           pod that is added later. Add a policy with `podSelector: {}` and `policyTypes: [Egress]`, and allow \
           DNS beside it; `polproof fix` writes both. Only an explicit policyTypes or an egress rule isolates \
           for egress. Suppress it where egress is controlled elsewhere, such as by an egress gateway.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    np002::report(cluster, Direction::Egress, findings);
}
