//! The tiers around NetworkPolicy: rules in order of priority, of which the first that matches decides.

use std::sync::Arc;

use super::connection::{Connection, End};
use super::ports::Ports;
use super::rules::{Peers, PodEntry};
use crate::model::{Action, AdminKind, AdminPolicy, Direction, Protocol, Selector};

/// The rules of both tiers that count for a pod in one direction.
#[derive(Debug)]
pub(crate) struct AdminRules {
    pub(crate) policies: Box<[Arc<AdminPolicy>]>,
    /// In order of rank, kind and name of the policy, and index.
    pub(crate) admin: Box<[CompiledAdminRule]>,
    /// In the same order.
    pub(crate) baseline: Box<[CompiledAdminRule]>,
}

/// A rule with the position of its policy in the [`AdminRules`] that hold it.
#[derive(Clone, Debug)]
pub(crate) struct CompiledAdminRule {
    pub(crate) policy: usize,
    pub(crate) rule: usize,
    pub(crate) rank: u16,
    pub(crate) action: Action,
    pub(crate) ports: Ports,
    pub(crate) peers: Peers,
    pub(crate) nodes: Arc<[Selector]>,
    pub(crate) domain_names: bool,
}

/// The place of a policy in its tier, lower numbers first. A BaselineAdminNetworkPolicy, which has no priority, comes after
/// every ClusterNetworkPolicy.
pub(crate) const fn rank(policy: &AdminPolicy) -> u16 {
    match policy.kind {
        AdminKind::AdminNetworkPolicy | AdminKind::ClusterNetworkPolicy => policy.priority,
        AdminKind::BaselineAdminNetworkPolicy => u16::MAX,
    }
}

/// How the API is read where it leaves open what the other end is. What can be open differs by end (an address of a pod, a
/// pod on the host network, a name of a domain), and one end has one such question at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Networks match pods, hostNetwork pods are their node, domain names mean the address.
    Common,
    /// The contrary.
    Other,
}

/// In which readings something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holds {
    common: bool,
    other: bool,
}

impl Holds {
    const SURELY: Self = Self::new(true, true);
    const NEVER: Self = Self::new(false, false);

    const fn new(common: bool, other: bool) -> Self {
        Self { common, other }
    }

    const fn and(self, that: Self) -> Self {
        Self::new(self.common && that.common, self.other && that.other)
    }
}

/// What the rules of one tier may do to a connection. Of several policies of one rank the order is open, so that each one that
/// matches may be the first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found<'s> {
    pub(super) allow: bool,
    pub(super) deny: bool,
    pub(super) pass: bool,
    /// The first in order of name.
    pub(super) first: Option<&'s CompiledAdminRule>,
}

/// What a rule is held against.
#[derive(Clone, Copy)]
pub(super) struct Asked<'s, 'c> {
    pub(super) direction: Direction,
    pub(super) governed: &'s PodEntry,
    pub(super) of: &'c Connection<'c, 'c>,
}

/// What the rules of a tier do in a reading. `open` is set if a rule that was looked at matches in one reading only.
pub(super) fn find<'r>(
    rules: &'r [CompiledAdminRule],
    asked: &Asked<'_, '_>,
    reading: Reading,
    open: &mut bool,
) -> Found<'r> {
    let mut found = Found::default();
    let mut decided = None;
    for rule in rules {
        if found.first.is_some_and(|first| first.rank != rule.rank) {
            break;
        }
        if decided == Some(rule.policy) {
            continue;
        }
        let holds = rule.matches(asked);
        *open |= holds.common != holds.other;
        let matches = match reading {
            Reading::Common => holds.common,
            Reading::Other => holds.other,
        };
        if matches {
            decided = Some(rule.policy);
            found.first.get_or_insert(rule);
            match rule.action {
                Action::Allow => found.allow = true,
                Action::Deny => found.deny = true,
                Action::Pass => found.pass = true,
            }
        }
    }
    found
}

impl CompiledAdminRule {
    fn matches(&self, asked: &Asked<'_, '_>) -> Holds {
        let ports = self.matches_port(asked);
        if ports == Holds::NEVER {
            return ports;
        }
        ports.and(self.matches_peer(asked))
    }

    fn matches_port(&self, asked: &Asked<'_, '_>) -> Holds {
        let of = asked.of;
        if self.ports.admit_number(of.protocol, of.port) {
            return Holds::SURELY;
        }
        let (entry, holds) = match (asked.direction, of.destination) {
            (Direction::Ingress, _) => (asked.governed, Holds::SURELY),
            (Direction::Egress, End::Pod(entry)) => (entry, Holds::SURELY),
            (Direction::Egress, End::Host(entry)) => (entry, Holds::new(false, true)),
            (Direction::Egress, End::Node(_) | End::External) => return Holds::NEVER,
        };
        if self.ports.admit_name(of.protocol, of.port, &entry.pod) {
            holds
        } else {
            Holds::NEVER
        }
    }

    fn matches_peer(&self, asked: &Asked<'_, '_>) -> Holds {
        let peer = asked.of.peer(asked.direction);
        let ip = asked.of.peer_ip(asked.direction);
        match peer {
            End::Pod(entry) => {
                if self.peers.select(entry) {
                    Holds::SURELY
                } else {
                    Holds::new(self.peers.contain(ip), false)
                }
            }
            End::Host(_) | End::Node(_) | End::External if self.peers.contain(ip) => Holds::SURELY,
            End::Host(entry) => Holds::new(
                self.matches_node(entry.pod.node.as_deref(), asked.of),
                self.peers.select(entry),
            ),
            End::Node(name) => {
                let matches = self.matches_node(Some(name), asked.of);
                Holds::new(matches, matches)
            }
            End::External => Holds::new(self.domain_names, false),
        }
    }

    fn matches_node(&self, name: Option<&str>, of: &Connection<'_, '_>) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        let labels = name.and_then(|name| of.node_labels(name));
        self.nodes.iter().any(|selector| match labels {
            Some(labels) => selector.matches(labels),
            None => selector.matches(&Default::default()),
        })
    }

    /// Whether one of its ports is this one, on this pod.
    fn has_port(&self, protocol: Protocol, port: u16, on: &PodEntry) -> bool {
        self.ports.admit_number(protocol, port) || self.ports.admit_name(protocol, port, &on.pod)
    }

    /// Whether it matches whoever the other end is.
    const fn matches_everyone(&self) -> bool {
        matches!(self.peers, Peers::Everyone)
    }
}

/// Whether ingress to a port may come out differently for different sources, and be let through for one of them.
pub(crate) fn ingress_depends_on_source(pod: &PodEntry, protocol: Protocol, port: u16) -> bool {
    let isolation = &pod.ingress;
    let by_policies = || {
        isolation.rules.iter().any(|rule| {
            rule.ports.admit_number(protocol, port)
                || rule.ports.admit_name(protocol, port, &pod.pod)
        })
    };
    let Some(admin) = &isolation.admin else {
        return by_policies();
    };
    let mut chooses = false;
    // Whether a source may come past the rules of a tier; `None` if a rule lets one through.
    let mut may_come_past = |rules: &[CompiledAdminRule]| {
        let mut passes = false;
        for rule in rules {
            if !rule.has_port(protocol, port, pod) {
                continue;
            }
            match rule.action {
                Action::Allow => return None,
                Action::Deny if rule.matches_everyone() => return Some(passes),
                Action::Pass if rule.matches_everyone() => return Some(true),
                Action::Pass => passes = true,
                Action::Deny => {}
            }
            chooses = true;
        }
        Some(true)
    };
    match may_come_past(&admin.admin) {
        None => true,
        Some(false) => false,
        Some(true) if !isolation.policies.is_empty() => by_policies(),
        Some(true) => match may_come_past(&admin.baseline) {
            None => true,
            Some(past) => past && chooses,
        },
    }
}
