//! The NetworkPolicy tier: rules add up, their order means nothing, and there is no deny rule.

use std::net::IpAddr;

use super::rules::{Admits, CompiledRule, Isolation, PodEntry};
use super::{Decision, DirectionVerdict, Expectation, PolicyRef, UnknownReason};
use crate::model::{Direction, Protocol};
use crate::state::RefusedPolicies;

/// One end of a connection, looked up: `'s` lives the snapshot, `'q` the query.
#[derive(Clone, Copy)]
pub(crate) enum End<'s, 'q> {
    /// A living pod with a network of its own.
    Pod(&'s PodEntry),
    /// A living pod on the network of its node.
    Host(&'s PodEntry),
    /// A node.
    Node(&'q str),
    /// Nothing of the cluster, or a pod that is no more.
    External,
}

/// What both directions are asked about.
#[derive(Clone, Copy)]
pub(crate) struct Connection<'s, 'q> {
    pub(crate) source: End<'s, 'q>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination: End<'s, 'q>,
    pub(crate) destination_ip: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) refused: &'s RefusedPolicies,
}

const fn allow(decision: Decision<'_>) -> DirectionVerdict<'_> {
    DirectionVerdict {
        expectation: Expectation::Allow,
        decision,
        isolating: &[],
    }
}

/// The verdict of one direction.
pub(crate) fn judge<'s>(direction: Direction, of: &Connection<'s, '_>) -> DirectionVerdict<'s> {
    let governed = match direction {
        Direction::Egress => of.source,
        Direction::Ingress => of.destination,
    };
    match governed {
        End::Node(_) | End::External => allow(Decision::NotGoverned),
        End::Pod(entry) => judge_pod(direction, entry, of),
        // Commonly not governed. Who sees the pod behind the node's address may govern it.
        End::Host(entry) => DirectionVerdict {
            expectation: match judge_pod(direction, entry, of).expectation {
                Expectation::Allow => Expectation::Allow,
                Expectation::Deny | Expectation::Unknown(_) => {
                    Expectation::Unknown(UnknownReason::HostNetworkPod)
                }
            },
            ..allow(Decision::NotGoverned)
        },
    }
}

fn judge_pod<'s>(
    direction: Direction,
    governed: &'s PodEntry,
    of: &Connection<'_, '_>,
) -> DirectionVerdict<'s> {
    let isolation = isolation_of(direction, governed);
    let peer = match direction {
        Direction::Egress => of.destination,
        Direction::Ingress => of.source,
    };
    if isolation.policies.is_empty() {
        return allow(Decision::NotIsolated);
    }
    let verdict = |expectation, decision| DirectionVerdict {
        expectation,
        decision,
        isolating: &isolation.policies,
    };
    let on_own_node = is_node_of(peer, governed);
    if is_same_pod(peer, governed) || (on_own_node && direction == Direction::Ingress) {
        return verdict(Expectation::Allow, Decision::Exempt);
    }

    let mut open = None;
    for rule in &isolation.rules {
        match admits(rule, direction, governed, peer, of) {
            Admits::No => {}
            Admits::Open => {
                open.get_or_insert(rule);
            }
            Admits::Sure => {
                return verdict(Expectation::Allow, by_rule(isolation, rule));
            }
        }
    }
    if on_own_node {
        return verdict(
            Expectation::Unknown(UnknownReason::OwnNodeEgress),
            Decision::NoRule,
        );
    }
    match (open, peer) {
        // What cannot be read may hold the rule that is missing here.
        (None, _) if of.refused.any_in(&governed.pod.id.namespace) => verdict(
            Expectation::Unknown(UnknownReason::RefusedPolicy),
            Decision::NoRule,
        ),
        (None, _) => verdict(Expectation::Deny, Decision::NoRule),
        // As a node, which is the common reading, no rule admits it.
        (Some(_), End::Host(_)) => verdict(
            Expectation::Unknown(UnknownReason::HostNetworkPod),
            Decision::NoRule,
        ),
        (Some(rule), End::Pod(_) | End::Node(_) | End::External) => verdict(
            Expectation::Unknown(UnknownReason::IpBlockOnPod),
            by_rule(isolation, rule),
        ),
    }
}

fn by_rule<'a>(isolation: &'a Isolation, rule: &CompiledRule) -> Decision<'a> {
    match isolation.policies.get(rule.policy) {
        Some(policy) => Decision::Rule(PolicyRef {
            policy,
            rule: Some(rule.rule),
        }),
        None => Decision::NoRule,
    }
}

/// Both ends come from one snapshot, which has one entry a pod.
fn is_same_pod(peer: End<'_, '_>, governed: &PodEntry) -> bool {
    match peer {
        End::Pod(entry) | End::Host(entry) => std::ptr::eq(entry, governed),
        End::Node(_) | End::External => false,
    }
}

fn is_node_of(peer: End<'_, '_>, governed: &PodEntry) -> bool {
    let node = match peer {
        End::Node(node) => Some(node),
        End::Host(entry) => entry.pod.node.as_deref(),
        End::Pod(_) | End::External => None,
    };
    node.is_some() && node == governed.pod.node.as_deref()
}

fn admits(
    rule: &CompiledRule,
    direction: Direction,
    governed: &PodEntry,
    peer: End<'_, '_>,
    of: &Connection<'_, '_>,
) -> Admits {
    let ports = admits_port(rule, direction, governed, peer, of);
    if ports == Admits::No {
        return Admits::No;
    }
    let peer_ip = match direction {
        Direction::Egress => of.destination_ip,
        Direction::Ingress => of.source_ip,
    };
    let peers = match peer {
        End::Pod(entry) if rule.peers.select(entry) => Admits::Sure,
        // Some implementations compare ipBlocks with addresses outside the cluster only.
        End::Pod(_) if rule.peers.contain(peer_ip) => Admits::Open,
        End::Pod(_) => Admits::No,
        End::Host(_) | End::Node(_) | End::External if rule.peers.contain(peer_ip) => Admits::Sure,
        // Some implementations see the pod's labels behind the node's address.
        End::Host(entry) if rule.peers.select(entry) => Admits::Open,
        End::Host(_) | End::Node(_) | End::External => Admits::No,
    };
    ports.min(peers)
}

/// Named ports are those of the destination, which must be a pod for that.
fn admits_port(
    rule: &CompiledRule,
    direction: Direction,
    governed: &PodEntry,
    peer: End<'_, '_>,
    of: &Connection<'_, '_>,
) -> Admits {
    if rule.ports.admit_number(of.protocol, of.port) {
        return Admits::Sure;
    }
    let (entry, admits) = match (direction, peer) {
        (Direction::Ingress, _) => (governed, Admits::Sure),
        (Direction::Egress, End::Pod(entry)) => (entry, Admits::Sure),
        (Direction::Egress, End::Host(entry)) => (entry, Admits::Open),
        (Direction::Egress, End::Node(_) | End::External) => return Admits::No,
    };
    if rule.ports.admit_name(of.protocol, of.port, &entry.pod) {
        admits
    } else {
        Admits::No
    }
}

/// What isolates a pod in one direction.
pub(crate) fn isolation_of(direction: Direction, pod: &PodEntry) -> &Isolation {
    match direction {
        Direction::Egress => &pod.egress,
        Direction::Ingress => &pod.ingress,
    }
}

/// Every rule that counts for a pod with how far it admits: position of the policy among those
/// that isolate, index of the rule in the policy as written.
pub(crate) fn walk(
    direction: Direction,
    governed: &PodEntry,
    of: &Connection<'_, '_>,
) -> impl Iterator<Item = (usize, usize, Admits)> {
    let peer = match direction {
        Direction::Egress => of.destination,
        Direction::Ingress => of.source,
    };
    isolation_of(direction, governed)
        .rules
        .iter()
        .map(move |rule| {
            let level = admits(rule, direction, governed, peer, of);
            (rule.policy, rule.rule, level)
        })
}
