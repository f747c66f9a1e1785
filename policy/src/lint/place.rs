//! The rules of policies as the lints speak of them.

use std::sync::Arc;

use crate::model::{Direction, Kind, NamespacedName, NetworkPolicy, Peer, PolicyPort, Rule};

/// Both directions, in the order of the API.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Whether a direction is among the effective types of a policy.
pub(super) const fn isolates(policy: &NetworkPolicy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    }
}

/// One rule with where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleAt<'a> {
    pub(super) policy: &'a Arc<NetworkPolicy>,
    pub(super) direction: Direction,
    pub(super) index: usize,
    pub(super) rule: &'a Rule,
}

/// The rules of a policy as written, ineffective ones included.
pub(super) fn rules<'a>(policy: &'a Arc<NetworkPolicy>) -> impl Iterator<Item = RuleAt<'a>> {
    DIRECTIONS.into_iter().flat_map(move |direction| {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        rules.iter().enumerate().map(move |(index, rule)| RuleAt {
            policy,
            direction,
            index,
            rule,
        })
    })
}

impl<'a> RuleAt<'a> {
    /// Whether the rule does anything: its direction is among the policy's effective types.
    pub(super) fn is_effective(&self) -> bool {
        isolates(self.policy, self.direction)
    }

    /// The peers with their indices.
    pub(super) fn peers(&self) -> impl Iterator<Item = (usize, &'a Peer)> + use<'a> {
        self.rule.peers.iter().enumerate()
    }

    /// The port items with their indices.
    pub(super) fn ports(&self) -> impl Iterator<Item = (usize, &'a PolicyPort)> + use<'a> {
        self.rule.ports.iter().enumerate()
    }

    /// `ns/policy:ingress[0]`.
    pub(super) fn subject(&self) -> String {
        format!("{}:{}[{}]", self.policy.id, self.direction, self.index)
    }

    /// `ns/policy:ingress[0].from[1]`.
    pub(super) fn peer_subject(&self, peer: usize) -> String {
        let field = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        format!("{}.{field}[{peer}]", self.subject())
    }

    /// `ns/policy:ingress[0].ports[1]`.
    pub(super) fn port_subject(&self, port: usize) -> String {
        format!("{}.ports[{port}]", self.subject())
    }

    /// The policy as the object of a finding.
    pub(super) fn object(&self) -> (Kind, NamespacedName) {
        object(self.policy)
    }
}

/// A policy as the object of a finding.
pub(super) fn object(policy: &NetworkPolicy) -> (Kind, NamespacedName) {
    (Kind::NetworkPolicy, policy.id.clone())
}
