//! The walk behind a verdict, in plain values that people-facing code prints.

mod rule;

use std::net::IpAddr;

use crate::evaluate::{
    Decision, DirectionVerdict, End, Expectation, PodEntry, Query, UnknownReason, isolation_of,
    walk,
};
use crate::model::Direction;
use crate::state::Snapshot;
use rule::{Asked, Words};

/// The most refused policies that one sentence names.
const REFUSED_SHOWN: usize = 3;

/// The walk behind a verdict.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// `allow`, `deny` or `unknown: reason`.
    pub verdict: String,
    /// Egress first, then ingress.
    pub directions: Vec<DirectionExplanation>,
}

/// The walk of one direction.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DirectionExplanation {
    /// Which direction.
    pub direction: Direction,
    /// `allow`, `deny` or `unknown: reason`.
    pub verdict: String,
    /// One sentence that says why.
    pub because: String,
    /// `namespace/name` of each policy that isolates, and its rules: admits or why not.
    pub policies: Vec<PolicyExplanation>,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PolicyExplanation {
    /// `namespace/name`.
    pub policy: String,
    /// One line a rule: "rule 0 admits: ..." or "rule 1 does not: port 80/TCP is not 5432/TCP".
    pub rules: Vec<String>,
}

/// Explains a verdict. The verdict itself is the engine's; only the words are made here.
pub(crate) fn explain(snapshot: &Snapshot, query: &Query<'_>) -> Explanation {
    let verdict = snapshot.evaluate(query);
    Explanation {
        verdict: outcome(verdict.expectation()),
        directions: vec![
            explain_direction(snapshot, query, Direction::Egress, &verdict.egress),
            explain_direction(snapshot, query, Direction::Ingress, &verdict.ingress),
        ],
    }
}

fn outcome(expectation: Expectation) -> String {
    match expectation {
        Expectation::Allow => "allow".to_owned(),
        Expectation::Deny => "deny".to_owned(),
        Expectation::Unknown(reason) => format!("unknown: {reason}"),
    }
}

fn explain_direction(
    snapshot: &Snapshot,
    query: &Query<'_>,
    direction: Direction,
    verdict: &DirectionVerdict<'_>,
) -> DirectionExplanation {
    let connection = snapshot.connection(query);
    let (governed, governed_ip, peer, peer_ip) = match direction {
        Direction::Egress => (
            connection.source,
            connection.source_ip,
            connection.destination,
            connection.destination_ip,
        ),
        Direction::Ingress => (
            connection.destination,
            connection.destination_ip,
            connection.source,
            connection.source_ip,
        ),
    };
    let mut policies = Vec::new();
    if let End::Pod(entry) | End::Host(entry) = governed {
        let words = Words {
            snapshot,
            asked: Asked {
                direction,
                peer,
                peer_ip,
                destination: connection.destination,
                protocol: connection.protocol,
                port: connection.port,
            },
        };
        let levels = walk(direction, entry, &connection);
        policies = policy_lines(direction, entry, &words, levels);
    }
    DirectionExplanation {
        direction,
        verdict: outcome(verdict.expectation),
        because: because(
            direction,
            &name(governed, governed_ip),
            &name(peer, peer_ip),
            governed,
            verdict,
            snapshot,
        ),
        policies,
    }
}

fn policy_lines(
    direction: Direction,
    governed: &PodEntry,
    words: &Words<'_>,
    levels: impl Iterator<Item = (usize, usize, crate::evaluate::Admits)>,
) -> Vec<PolicyExplanation> {
    let policies = &isolation_of(direction, governed).policies;
    let mut lines: Vec<Vec<String>> = vec![Vec::new(); policies.len()];
    for (position, index, level) in levels {
        let (Some(policy), Some(lines)) = (policies.get(position), lines.get_mut(position)) else {
            continue;
        };
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        if let Some(rule) = rules.get(index) {
            lines.push(words.rule(index, rule, level, &policy.id.namespace));
        }
    }
    policies
        .iter()
        .zip(lines)
        .map(|(policy, mut rules)| {
            if rules.is_empty() {
                rules.push(format!("it has no {direction} rules, so it admits nothing"));
            }
            PolicyExplanation {
                policy: policy.id.to_string(),
                rules,
            }
        })
        .collect()
}

/// How a person would call an end.
fn name(end: End<'_, '_>, ip: IpAddr) -> String {
    match end {
        End::Pod(entry) => format!("pod {}", entry.pod.id),
        End::Host(entry) => format!("hostNetwork pod {}", entry.pod.id),
        End::Node(node) => format!("node {node}"),
        End::External => format!("{ip}"),
    }
}

fn because(
    direction: Direction,
    governed: &str,
    peer: &str,
    end: End<'_, '_>,
    verdict: &DirectionVerdict<'_>,
    snapshot: &Snapshot,
) -> String {
    let arrow = match direction {
        Direction::Egress => format!("{governed} to {peer}"),
        Direction::Ingress => format!("{peer} to {governed}"),
    };
    if let Expectation::Unknown(reason) = verdict.expectation {
        return match reason {
            UnknownReason::OwnNodeEgress => format!(
                "{peer} is the node that {governed} runs on: no rule admits it, the API \
                 documentation allows it all the same, and several CNIs block it"
            ),
            UnknownReason::IpBlockOnPod => format!(
                "only an ipBlock admits {arrow}, and CNIs differ in whether an ipBlock \
                 matches the address of a pod"
            ),
            UnknownReason::HostNetworkPod => {
                let who = if matches!(end, End::Host(_)) {
                    governed
                } else {
                    peer
                };
                format!(
                    "{who} shares its node's network: most CNIs see only the node there, some \
                     see the pod, and the outcome differs"
                )
            }
            UnknownReason::MixedFamilies => {
                "one address is IPv4 and the other IPv6: no packet can look like that".to_owned()
            }
            UnknownReason::EqualPriority => {
                "two policies of equal priority disagree, and the API leaves their order open"
                    .to_owned()
            }
            UnknownReason::DomainName => {
                format!(
                    "it depends on a domain name whether {arrow} is allowed, and names change their meaning"
                )
            }
            UnknownReason::RefusedPolicy => format!(
                "{}; but {} could not be evaluated, and may admit it",
                no_rule(direction, governed, peer, verdict),
                refused(end, snapshot)
            ),
        };
    }
    match verdict.decision {
        Decision::NotGoverned => match end {
            End::External => {
                format!("{governed} is no living pod that we know: no policy governs it")
            }
            End::Node(_) => format!("{governed} is no pod: no policy governs it"),
            End::Host(_) | End::Pod(_) => {
                format!("{governed} shares its node's network: no policy governs it")
            }
        },
        Decision::NotIsolated => {
            format!("no policy selects {governed} for {direction}, so all {direction} is allowed")
        }
        Decision::Exempt if governed == peer => "a pod always reaches itself".to_owned(),
        Decision::Exempt => format!("{peer} is the node of {governed}, which always reaches it"),
        Decision::Rule(by) => match by.rule {
            Some(rule) => format!("rule {rule} of policy {} admits {arrow}", by.policy.id),
            None => format!("policy {} decides on {arrow}", by.policy.id),
        },
        Decision::Admin(by) => format!(
            "rule {} of {} {} decides on {arrow}",
            by.rule,
            by.policy.kind.kind().name(),
            by.policy.name
        ),
        Decision::NoRule => no_rule(direction, governed, peer, verdict),
    }
}

fn no_rule(
    direction: Direction,
    governed: &str,
    peer: &str,
    verdict: &DirectionVerdict<'_>,
) -> String {
    let names: Vec<_> = verdict
        .isolating
        .iter()
        .map(|policy| policy.id.to_string())
        .collect();
    let (noun, verb) = if names.len() == 1 {
        ("policy", "isolates")
    } else {
        ("policies", "isolate")
    };
    format!(
        "{noun} {} {verb} {governed} for {direction}, and no rule admits {peer}",
        names.join(", ")
    )
}

/// The refused policies that may govern an end.
fn refused(end: End<'_, '_>, snapshot: &Snapshot) -> String {
    let (End::Pod(entry) | End::Host(entry)) = end else {
        return "a refused policy".to_owned();
    };
    let namespace = &entry.pod.id.namespace;
    let names = snapshot.store.refused.of(namespace);
    let shown: Vec<_> = names
        .iter()
        .take(REFUSED_SHOWN)
        .map(|name| format!("{namespace}/{name}"))
        .collect();
    let more = match names.len().saturating_sub(REFUSED_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let noun = if names.len() == 1 {
        "the refused policy"
    } else {
        "the refused policies"
    };
    format!("{noun} {}{more}", shown.join(", "))
}
