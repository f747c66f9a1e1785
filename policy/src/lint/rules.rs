//! The rules of policies as the lints speak of them.

use std::sync::Arc;

use crate::model::{
    Direction, Kind, NamespacedName, NetworkPolicy, Peer, PolicyPort, Rule, Selector,
};

/// Both directions, in the order of the API.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Whether a direction is among the effective types of a policy.
pub(super) const fn isolates(policy: &NetworkPolicy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    }
}

/// Whether a policy isolates every pod of its namespace in a direction, whatever it then admits.
pub(super) fn is_default_deny(policy: &NetworkPolicy, direction: Direction) -> bool {
    isolates(policy, direction) && policy.pod_selector.is_empty()
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

    /// `from` absent or empty, or one of the peers is an ipBlock of everything without exceptions.
    pub(super) fn no_peer_restriction(&self) -> bool {
        self.rule.peers.is_empty()
            || self.rule.peers.iter().any(|peer| match peer {
                Peer::IpBlock { cidr, except } => cidr.prefix_len() == 0 && except.is_empty(),
                Peer::Pods { .. } => false,
            })
    }

    /// `ports` absent or empty.
    pub(super) const fn no_port_restriction(&self) -> bool {
        self.rule.ports.is_empty()
    }

    /// An effective rule that admits everybody to everything, or everything to everybody: NP010 and NP011.
    pub(super) fn allows_all(&self) -> bool {
        self.is_effective() && self.no_peer_restriction() && self.no_port_restriction()
    }

    /// The field that holds the peers.
    pub(super) const fn peers_field(&self) -> &'static str {
        match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        }
    }

    /// The peers with their indices.
    pub(super) fn peers(&self) -> impl Iterator<Item = (usize, &'a Peer)> + use<'a> {
        self.rule.peers.iter().enumerate()
    }

    /// The port items with their indices.
    pub(super) fn ports(&self) -> impl Iterator<Item = (usize, &'a PolicyPort)> + use<'a> {
        self.rule.ports.iter().enumerate()
    }

    /// `ns/policy:ingress[0].ports[1]`.
    pub(super) fn port_subject(&self, port: usize) -> String {
        format!("{}.ports[{port}]", self.subject())
    }

    /// The policy as the object of a finding.
    pub(super) fn object(&self) -> (Kind, NamespacedName) {
        object(self.policy)
    }

    /// `ingress[0]`: where to look in the policy.
    pub(super) fn place(&self) -> String {
        format!("{}[{}]", self.direction, self.index)
    }

    /// `ingress[0].from[1]`.
    pub(super) fn peer_place(&self, peer: usize) -> String {
        format!("{}.{}[{peer}]", self.place(), self.peers_field())
    }

    /// `ns/policy:ingress[0]`.
    pub(super) fn subject(&self) -> String {
        format!("{}:{}", self.policy.id, self.place())
    }

    /// `ns/policy:ingress[0].from[1]`.
    pub(super) fn peer_subject(&self, peer: usize) -> String {
        format!("{}:{}", self.policy.id, self.peer_place(peer))
    }
}

/// A policy as the object of a finding.
pub(super) fn object(policy: &NetworkPolicy) -> (Kind, NamespacedName) {
    (Kind::NetworkPolicy, policy.id.clone())
}

/// Whether a peer is every pod of every namespace.
pub(super) fn is_every_pod(peer: &Peer) -> bool {
    match peer {
        Peer::Pods {
            namespaces: Some(namespaces),
            pods,
        } => namespaces.is_empty() && pods.as_ref().is_none_or(Selector::is_empty),
        Peer::Pods {
            namespaces: None, ..
        }
        | Peer::IpBlock { .. } => false,
    }
}

/// The pods that a policy selects, in words.
pub(super) fn whom(policy: &NetworkPolicy) -> String {
    if policy.pod_selector.is_empty() {
        format!("every pod of namespace {}", policy.id.namespace)
    } else {
        format!("the pods with labels {}", policy.pod_selector)
    }
}

/// The names of policies, for a finding.
pub(super) fn names(policies: &[Arc<NetworkPolicy>]) -> Vec<String> {
    let names = policies.iter().map(|policy| policy.id.to_string());
    names.collect()
}

/// `1 pod`, `3 pods`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 {
        one.to_owned()
    } else {
        format!("{number} {many}")
    }
}
