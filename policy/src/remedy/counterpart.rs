//! The other half of a rule (NP100, NP101): where a new default-deny cuts a connection that a rule at its other end allows,
//! the rule is mirrored, no wider than it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Draft, isolate};
use crate::lint::{Audit, Finding};
use crate::model::{Direction, NAMESPACE_NAME_LABEL, NetworkPolicy, Peer, Rule, Selector};

/// A rule that selects peers in more namespaces than this is for a person to mirror.
const MOST_NAMESPACES: usize = 50;

/// Where a mirror stands and whom it selects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    namespace: Arc<str>,
    direction: Direction,
    other: Arc<str>,
    pods: Selector,
}

pub(super) fn add(before: &Audit, after: &Audit, draft: &mut Draft<'_>) {
    let known: BTreeSet<(&str, &str)> = before.findings.iter().map(identity).collect();
    let mut mirrors: BTreeMap<Place, (Vec<Rule>, Vec<String>)> = BTreeMap::new();
    for finding in &after.findings {
        let direction = match finding.lint {
            "NP100" => Direction::Egress,
            "NP101" => Direction::Ingress,
            _ => continue,
        };
        if known.contains(&identity(finding)) {
            continue;
        }
        if let Some((policy, rule)) = rule_of(finding, direction, draft) {
            for (place, rule) in mirror(&policy, &rule, direction, draft) {
                let (rules, remedies) = mirrors.entry(place).or_default();
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
                remedies.push(format!("{} {}", finding.lint, finding.subject));
            }
        }
    }
    for (place, (rules, remedies)) in mirrors {
        let Place {
            namespace,
            direction,
            other,
            pods,
        } = place;
        let ingress = direction == Direction::Ingress;
        let (name, purpose) = if ingress {
            (
                format!("allow-from-{other}"),
                format!("namespace {namespace}: lets in what rules of namespace {other} let out"),
            )
        } else {
            (
                format!("allow-to-{other}"),
                format!("namespace {namespace}: lets out what rules of namespace {other} let in"),
            )
        };
        let mut policy = isolate::policy(&namespace, &name, ingress, !ingress);
        policy.pod_selector = pods;
        if ingress {
            policy.ingress = rules;
        } else {
            policy.egress = rules;
        }
        draft.add(policy, purpose, remedies);
    }
}

fn identity(finding: &Finding) -> (&str, &str) {
    (finding.lint, &finding.subject)
}

/// The rule that a subject `ns/policy:direction[i]` means.
fn rule_of(
    finding: &Finding,
    direction: Direction,
    draft: &Draft<'_>,
) -> Option<(Arc<NetworkPolicy>, Rule)> {
    let (_, index) = finding.subject.rsplit_once('[')?;
    let index: usize = index.strip_suffix(']')?.parse().ok()?;
    let policy = draft.snapshot.policy_named(&finding.object.1)?;
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    Some((Arc::clone(policy), rules.get(index)?.clone()))
}

/// The mirrors of a rule of `direction`, in the namespaces of its peers. Its peers are isolated there, all of them: else the
/// rule would not have been found.
fn mirror(
    policy: &NetworkPolicy,
    rule: &Rule,
    direction: Direction,
    draft: &Draft<'_>,
) -> Vec<(Place, Rule)> {
    let mut own_namespace = Selector::default();
    own_namespace.match_labels.insert(
        NAMESPACE_NAME_LABEL.into(),
        Arc::clone(&policy.id.namespace),
    );
    let mut mirrors = Vec::new();
    for peer in &rule.peers {
        let Peer::Pods { namespaces, pods } = peer else {
            return Vec::new();
        };
        let selected = |name: &Arc<str>| match namespaces {
            None => *name == policy.id.namespace,
            Some(selector) => selector.matches(&draft.snapshot.namespace_labels(name)),
        };
        let holding: BTreeSet<&Arc<str>> = draft
            .snapshot
            .pods()
            .filter(|pod| !pod.finished && !pod.host_network)
            .filter(|pod| pods.as_ref().is_none_or(|of| of.matches(&pod.labels)))
            .map(|pod| &pod.id.namespace)
            .collect();
        let places: Vec<_> = holding
            .into_iter()
            .filter(|name| selected(name) && draft.choice.takes(name))
            .collect();
        if places.len() > MOST_NAMESPACES {
            return Vec::new();
        }
        for namespace in places {
            let same = *namespace == policy.id.namespace;
            mirrors.push((
                Place {
                    namespace: Arc::clone(namespace),
                    direction: match direction {
                        Direction::Ingress => Direction::Egress,
                        Direction::Egress => Direction::Ingress,
                    },
                    other: Arc::clone(&policy.id.namespace),
                    pods: pods.clone().unwrap_or_default(),
                },
                Rule {
                    peers: vec![Peer::Pods {
                        namespaces: (!same).then(|| own_namespace.clone()),
                        pods: Some(policy.pod_selector.clone()),
                    }],
                    ports: rule.ports.clone(),
                },
            ));
        }
    }
    mirrors
}
