//! NP004: pod selected by no policy in a direction.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::rules::DIRECTIONS;
use crate::model::Direction;

pub(super) const LINT: Lint = Lint {
    id: "NP004",
    title: "pod selected by no policy in a direction",
    severity: Severity::Medium,
    references: &[
        "CIS 5.3.2",
        "NIST SC-7",
        "NIST SC-7(5)",
        "NIST AC-4",
        "CWE-284",
    ],
    help: "The namespace has no default-deny for this direction, and no other policy selects the pod, so \
           nothing restricts it. Add a default-deny policy, or make a policy of the namespace select the pod. \
           Suppress it for a pod that is meant to be open, such as an ingress controller that the internet must \
           reach.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for direction in DIRECTIONS {
        for (_, pods) in cluster.without_default_deny(direction) {
            for pod in cluster.not_isolated(pods, direction) {
                let so = match direction {
                    Direction::Ingress => "everybody may connect to it",
                    Direction::Egress => "it may connect to everybody",
                };
                findings.about_pod(
                    pod,
                    format!("{}:{direction}", pod.id),
                    format!("no policy selects pod {} for {direction}: {so}", pod.id),
                );
            }
        }
    }
}
