//! NP042: Service port instead of the pod's port.

use super::catalog::Lint;
use super::cluster::Cluster;
use super::destinations::{each_idle_port, shown};
use super::finding::{Findings, Severity};
use crate::model::TargetPort;

pub(super) const LINT: Lint = Lint {
    id: "NP042",
    title: "Service port instead of the pod's port",
    severity: Severity::Medium,
    references: &["NIST CM-6"],
    help: "Policies see a packet after the Service's address and port were rewritten to the pod's, so a rule with the \
           Service's port admits nothing. Write the targetPort. Suppress this only if pods listen on the Service's port, \
           too, without declaring it.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    each_idle_port(cluster, |at, index, port, declared, translation| {
        let Some(translation) = translation else {
            return;
        };
        let target = match translation.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => name.to_string(),
        };
        let found = findings.add(
            at.port_subject(index),
            at.object(),
            format!(
                "the rule admits {}, but {} is the port of Service {} and its pods listen on {target}: policies see the \
                 pod's port, so the rule admits nothing (the pods declare {})",
                shown(port),
                translation.port,
                translation.service.id,
                declared.shown()
            ),
        );
        if let Some(found) = found {
            found.suggest = Some(target);
        }
    });
}
