//! The NetworkPolicy tier: rules add up, their order means nothing, and there is no deny rule.

use super::connection::{Connection, End, isolation_of};
use super::rules::{Admits, CompiledRule, Isolation, PodEntry};
use super::{Decision, DirectionVerdict, Expectation, PolicyRef, UnknownReason};
use crate::model::Direction;

/// What the tier says of a connection, before it is said in which reading.
#[derive(Clone, Copy)]
pub(super) enum Standing<'s> {
    /// No policy isolates the pod: this tier says nothing.
    NotIsolated,
    /// Let through whatever the rules say.
    Exempt,
    /// Isolated.
    Isolated {
        /// The first rule that admits in every reading.
        sure: Option<&'s CompiledRule>,
        /// The first that admits in one only; sought while there is no sure one.
        open: Option<&'s CompiledRule>,
        /// A pod to its own node.
        own_node: bool,
    },
}

/// What the tier says of a pod with or without isolation.
#[inline]
pub(super) fn standing<'s>(
    direction: Direction,
    governed: &'s PodEntry,
    of: &Connection<'_, '_>,
) -> Standing<'s> {
    let isolation = isolation_of(direction, governed);
    if isolation.policies.is_empty() {
        return Standing::NotIsolated;
    }
    let peer = of.peer(direction);
    let on_own_node = peer.is_node_of(governed);
    if peer.is_pod(governed) || (on_own_node && direction == Direction::Ingress) {
        return Standing::Exempt;
    }
    let mut open = None;
    for rule in &isolation.rules {
        match admits(rule, direction, governed, of) {
            Admits::No => {}
            Admits::Open => {
                open.get_or_insert(rule);
            }
            Admits::Sure => {
                return Standing::Isolated {
                    sure: Some(rule),
                    open,
                    own_node: on_own_node,
                };
            }
        }
    }
    Standing::Isolated {
        sure: None,
        open,
        own_node: on_own_node,
    }
}

/// The verdict on a pod that no other tier says anything of.
#[inline]
pub(super) fn judge<'s>(
    direction: Direction,
    governed: &'s PodEntry,
    of: &Connection<'_, '_>,
) -> DirectionVerdict<'s> {
    let isolation = isolation_of(direction, governed);
    let verdict = |expectation, decision| DirectionVerdict {
        expectation,
        decision,
        isolating: &isolation.policies,
    };
    let unknown = |reason, decision| verdict(Expectation::Unknown(reason), decision);
    match standing(direction, governed, of) {
        Standing::NotIsolated => verdict(Expectation::Allow, Decision::NotIsolated),
        Standing::Exempt => verdict(Expectation::Allow, Decision::Exempt),
        Standing::Isolated {
            sure: Some(rule), ..
        } => verdict(Expectation::Allow, by_rule(isolation, rule)),
        Standing::Isolated { own_node: true, .. } => {
            unknown(UnknownReason::OwnNodeEgress, Decision::NoRule)
        }
        Standing::Isolated {
            open: Some(rule), ..
        } => match of.peer(direction) {
            // As a node, which is the common reading, no rule admits it.
            End::Host(_) => unknown(UnknownReason::HostNetworkPod, Decision::NoRule),
            End::Pod(_) | End::Node(_) | End::External => {
                unknown(UnknownReason::IpBlockOnPod, by_rule(isolation, rule))
            }
        },
        // What cannot be read may hold the rule that is missing here.
        Standing::Isolated { .. }
            if of.refused.any_in(&governed.pod.id.namespace) || of.refused.any_cluster_wide() =>
        {
            unknown(UnknownReason::RefusedPolicy, Decision::NoRule)
        }
        Standing::Isolated { .. } => verdict(Expectation::Deny, Decision::NoRule),
    }
}

#[inline]
pub(super) fn by_rule<'a>(isolation: &'a Isolation, rule: &CompiledRule) -> Decision<'a> {
    match isolation.policies.get(rule.policy) {
        Some(policy) => Decision::Rule(PolicyRef {
            policy,
            rule: Some(rule.rule),
        }),
        None => Decision::NoRule,
    }
}

#[inline]
fn admits(
    rule: &CompiledRule,
    direction: Direction,
    governed: &PodEntry,
    of: &Connection<'_, '_>,
) -> Admits {
    let ports = admits_port(rule, direction, governed, of);
    if ports == Admits::No {
        return Admits::No;
    }
    let in_block = || rule.peers.contain(of.peer_ip(direction));
    let peers = match of.peer(direction) {
        End::Pod(entry) if rule.peers.select(entry) => Admits::Sure,
        // Some implementations compare ipBlocks with addresses outside the cluster only.
        End::Pod(_) if in_block() => Admits::Open,
        End::Pod(_) => Admits::No,
        End::Host(_) | End::Node(_) | End::External if in_block() => Admits::Sure,
        // Some implementations see the pod's labels behind the node's address.
        End::Host(entry) if rule.peers.select(entry) => Admits::Open,
        End::Host(_) | End::Node(_) | End::External => Admits::No,
    };
    ports.min(peers)
}

/// Named ports are those of the destination, which must be a pod for that.
#[inline]
fn admits_port(
    rule: &CompiledRule,
    direction: Direction,
    governed: &PodEntry,
    of: &Connection<'_, '_>,
) -> Admits {
    if rule.ports.admit_number(of.protocol, of.port) {
        return Admits::Sure;
    }
    let (entry, admits) = match (direction, of.destination) {
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

/// Every rule that counts for a pod with how far it admits: position of the policy among those
/// that isolate, index of the rule in the policy as written.
pub(crate) fn walk(
    direction: Direction,
    governed: &PodEntry,
    of: &Connection<'_, '_>,
) -> impl Iterator<Item = (usize, usize, Admits)> {
    isolation_of(direction, governed)
        .rules
        .iter()
        .map(move |rule| {
            let level = admits(rule, direction, governed, of);
            (rule.policy, rule.rule, level)
        })
}
