//! The one sentence that says why a direction came out as it did.

use std::net::IpAddr;
use std::sync::Arc;

use super::admin::rule_name;
use crate::evaluate::{Decision, DirectionVerdict, End, Expectation, UnknownReason};
use crate::model::Direction;
use crate::state::Snapshot;

/// The most refused policies that one sentence names.
const SHOWN: usize = 3;
/// The most policies that isolate.
const ISOLATING: usize = 8;

/// The two ends of a sentence.
pub(super) struct Ends<'a> {
    pub(super) direction: Direction,
    pub(super) end: End<'a, 'a>,
    /// How a person would call the end that is governed.
    pub(super) governed: String,
    /// And the other one.
    pub(super) peer: String,
}

/// How a person would call an end.
pub(super) fn name(end: End<'_, '_>, ip: IpAddr) -> String {
    match end {
        End::Pod(entry) => format!("pod {}", entry.pod.id),
        End::Host(entry) => format!("hostNetwork pod {}", entry.pod.id),
        End::Node(node) => format!("node {node}"),
        End::External => format!("{ip}"),
    }
}

impl Ends<'_> {
    /// Why.
    pub(super) fn because(&self, verdict: &DirectionVerdict<'_>, snapshot: &Snapshot) -> String {
        let Self {
            direction,
            end,
            governed,
            peer,
        } = self;
        let arrow = match direction {
            Direction::Egress => format!("{governed} to {peer}"),
            Direction::Ingress => format!("{peer} to {governed}"),
        };
        if let Expectation::Unknown(reason) = verdict.expectation {
            return self.unknown(reason, &arrow, verdict, snapshot);
        }
        match verdict.decision {
            Decision::NotGoverned => match end {
                End::External => {
                    format!("{governed} is no pod of this cluster, so no policy governs it")
                }
                End::Node(_) => format!("{governed} is no pod, so no policy governs it"),
                End::Host(_) | End::Pod(_) => {
                    format!("{governed} shares its node's network, so no policy governs it")
                }
            },
            Decision::NotIsolated => format!(
                "no policy selects {governed} for {direction}, so all {direction} is allowed"
            ),
            Decision::Exempt if governed == peer => "a pod always reaches itself".to_owned(),
            Decision::Exempt => {
                format!("{peer} is the node of {governed}, which always reaches it")
            }
            Decision::Rule(by) => match by.rule {
                Some(rule) => format!("rule {rule} of policy {} admits {arrow}", by.policy.id),
                None => format!("policy {} decides on {arrow}", by.policy.id),
            },
            Decision::Admin(by) => {
                let does = match verdict.expectation {
                    Expectation::Allow => "allows",
                    Expectation::Deny | Expectation::Unknown(_) => "denies",
                };
                format!(
                    "{} {does} {arrow}",
                    rule_name(by.policy, *direction, by.rule)
                )
            }
            Decision::NoRule => self.no_rule(verdict),
        }
    }

    fn unknown(
        &self,
        reason: UnknownReason,
        arrow: &str,
        verdict: &DirectionVerdict<'_>,
        snapshot: &Snapshot,
    ) -> String {
        let Self { governed, peer, .. } = self;
        match reason {
            UnknownReason::OwnNodeEgress => format!(
                "{peer} is the node that {governed} runs on: no rule admits it, the API documentation allows it all the \
                 same, and several CNIs block it"
            ),
            UnknownReason::IpBlockOnPod => match verdict.decision {
                Decision::Rule(_) => format!(
                    "only an ipBlock admits {arrow}, and CNIs differ in whether an ipBlock matches the address of a pod"
                ),
                // An admin rule may deny by it.
                _ => format!(
                    "it depends on a block of addresses whether {arrow} is allowed, and CNIs differ in whether one matches \
                     the address of a pod"
                ),
            },
            UnknownReason::HostNetworkPod => {
                let who = if matches!(self.end, End::Host(_)) {
                    governed
                } else {
                    peer
                };
                format!(
                    "{who} shares its node's network: most CNIs see only the node there, some see the pod, and the \
                     outcome differs"
                )
            }
            UnknownReason::MixedFamilies => {
                "one address is IPv4 and the other IPv6: no packet can look like that".to_owned()
            }
            UnknownReason::EqualPriority => {
                "two policies of equal priority disagree, and the API leaves their order open"
                    .to_owned()
            }
            UnknownReason::DomainName => format!(
                "it depends on a domain name whether {arrow} is allowed, and names change their meaning"
            ),
            UnknownReason::RefusedPolicy => format!(
                "{}; but {} could not be evaluated, and may admit it",
                match verdict.decision {
                    Decision::Admin(by) => format!(
                        "{} denies {arrow}",
                        rule_name(by.policy, self.direction, by.rule)
                    ),
                    _ => self.no_rule(verdict),
                },
                self.refused(snapshot)
            ),
        }
    }

    fn no_rule(&self, verdict: &DirectionVerdict<'_>) -> String {
        let mut names: Vec<_> = verdict
            .isolating
            .iter()
            .take(ISOLATING)
            .map(|policy| policy.id.to_string())
            .collect();
        if verdict.isolating.len() > ISOLATING {
            let more = verdict.isolating.len() - ISOLATING;
            names.push(format!("{more} more"));
        }
        let (noun, verb) = if verdict.isolating.len() == 1 {
            ("policy", "isolates")
        } else {
            ("policies", "isolate")
        };
        format!(
            "{noun} {} {verb} {} for {}, and no rule admits {}",
            names.join(", "),
            self.governed,
            self.direction,
            self.peer
        )
    }

    /// The refused policies that may govern an end.
    fn refused(&self, snapshot: &Snapshot) -> String {
        let (End::Pod(entry) | End::Host(entry)) = self.end else {
            return "a refused policy".to_owned();
        };
        let namespace = &entry.pod.id.namespace;
        let refused = &snapshot.store.refused;
        let own = refused.of(namespace).iter();
        let of_cluster = refused.of(&Arc::from("")).iter();
        let names: Vec<_> = own
            .map(|name| format!("{namespace}/{name}"))
            .chain(of_cluster.map(|name| name.to_string()))
            .collect();
        let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
        let more = match names.len().saturating_sub(SHOWN) {
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
}
