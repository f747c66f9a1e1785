//! NP080: redundant (shadowed) policy.

use std::sync::Arc;

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::np081::likeness;
use super::rules::{DIRECTIONS, isolates, object};
use super::within::{Wide, Within, is_wider};
use crate::model::{Direction, NetworkPolicy, Rule};

pub(super) const LINT: Lint = Lint {
    id: "NP080",
    title: "redundant (shadowed) policy",
    severity: Severity::Low,
    references: &["NIST CM-6", "hygiene"],
    help: "Other policies of the namespace isolate the same pods and admit all that this one admits, whatever pods there are: \
           without it nothing would change. Remove it, or narrow the wider policy if that one was meant to go. Where two cover \
           each other, remove one of them only. Suppress this where a policy is kept as documentation.",
    check,
};

/// A policy with what is asked of it often.
struct Known<'a> {
    policy: &'a Arc<NetworkPolicy>,
    likeness: String,
    ingress: Wide<'a>,
    egress: Wide<'a>,
}

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for policies in cluster.policies.values().filter(|of| of.len() > 1) {
        let known: Vec<Known<'_>> = policies.iter().map(|policy| Known::new(policy)).collect();
        let within = Within::new();
        for policy in &known {
            let Some(covering) = policy.covered_by(&known, &within) else {
                continue;
            };
            let names: Vec<String> = covering.iter().map(|of| of.policy.id.to_string()).collect();
            let mutual = covering.iter().any(|of| {
                let back = of.covered_by(std::slice::from_ref(policy), &within);
                back.is_some()
            });
            let found = findings.add(
                policy.policy.id.to_string(),
                object(policy.policy),
                format!(
                    "the policy changes nothing beside {}, which {} the same pods and admit{} all that it admits{}",
                    names.join(", "),
                    if names.len() == 1 { "isolates" } else { "isolate" },
                    if names.len() == 1 { "s" } else { "" },
                    if mutual { "; each covers the other, so remove one of them only" } else { "" },
                ),
            );
            if let Some(found) = found {
                found.policies = names;
            }
        }
    }
}

impl<'a> Known<'a> {
    fn new(policy: &'a Arc<NetworkPolicy>) -> Self {
        Self {
            policy,
            likeness: likeness(policy),
            ingress: Wide::new(&policy.ingress),
            egress: Wide::new(&policy.egress),
        }
    }

    fn rules(&self, direction: Direction) -> &'a [Rule] {
        match direction {
            Direction::Ingress => &self.policy.ingress,
            Direction::Egress => &self.policy.egress,
        }
    }

    const fn wide(&self, direction: Direction) -> &Wide<'a> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The others that make this one redundant, by name: for each effective direction one that isolates as many pods, and
    /// for each rule one that has it.
    fn covered_by<'k>(&self, others: &'k [Self], within: &Within) -> Option<Vec<&'k Self>> {
        let effective = || {
            let directions = DIRECTIONS.into_iter();
            directions.filter(|direction| isolates(self.policy, *direction))
        };
        if self.policy.pod_selector.is_empty() && effective().all(|of| self.rules(of).is_empty()) {
            // The default deny that everything else stands on.
            return None;
        }
        let mut covering: Vec<&'k Self> = Vec::new();
        for direction in effective() {
            let candidates: Vec<&'k Self> = others
                .iter()
                .filter(|other| {
                    !Arc::ptr_eq(self.policy, other.policy)
                        && isolates(other.policy, direction)
                        && is_wider(&other.policy.pod_selector, &self.policy.pod_selector)
                        && other.likeness != self.likeness
                })
                .collect();
            covering.extend(
                self.rules(direction)
                    .is_empty()
                    .then(|| candidates.first())
                    .flatten(),
            );
            if candidates.is_empty() {
                return None;
            }
            for rule in self.rules(direction) {
                let has_it = |of: &&&Self| within.some_rule(rule, of.wide(direction));
                covering.push(candidates.iter().find(has_it)?);
            }
        }
        covering.sort_by(|a, b| a.policy.id.cmp(&b.policy.id));
        covering.dedup_by(|a, b| a.policy.id == b.policy.id);
        Some(covering)
    }
}
