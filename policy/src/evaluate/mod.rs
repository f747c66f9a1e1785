//! The verdict: may this connection be made?
//!
//! Each tier answers for itself: networking.k8s.io/v1 in `network_policy`, those before and after it in `admin`. `tiers` puts
//! their answers together.

mod admin;
mod blocks;
mod connection;
mod network_policy;
mod ports;
mod rules;
mod tiers;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{AdminPolicy, Direction, Family, NetworkPolicy, Pod, Protocol};

pub(crate) use admin::{AdminRules, CompiledAdminRule, ingress_depends_on_source, rank};
pub(crate) use blocks::Blocks;
pub(crate) use connection::{Connection, End, isolation_of};
pub(crate) use network_policy::walk;
pub(crate) use ports::Ports;
pub(crate) use rules::{
    Admits, CompiledRule, GroupId, Isolation, Peers, PodEntry, SeenAs, are_all,
};

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint<'a> {
    /// A pod with a network of its own. It need not be the one held in the snapshot, but its
    /// UID is looked up there: an unknown UID is evaluated as external address.
    Pod(&'a Pod),
    /// A node (or a hostNetwork pod, which counts as its node).
    Node(&'a str),
    /// An address outside the cluster.
    External,
}

/// A question: a connection from `source` at `source_ip` to `destination` at
/// `destination_ip`, after any Service address was rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who connects.
    pub source: Endpoint<'a>,
    /// From which address.
    pub source_ip: IpAddr,
    /// To whom.
    pub destination: Endpoint<'a>,
    /// To which address; of the same family as the source's.
    pub destination_ip: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
}

/// What must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expectation {
    /// The connection must be let through.
    Allow,
    /// The connection must not be let through.
    Deny,
    /// The API leaves it open, for this reason.
    Unknown(UnknownReason),
}

/// Why there is no expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnknownReason {
    /// A pod connects to its own node: documented as allowed, enforced by several CNIs.
    OwnNodeEgress,
    /// The verdict depends on an ipBlock that holds a pod's address: CNIs differ.
    IpBlockOnPod,
    /// The verdict depends on how a hostNetwork pod is seen.
    HostNetworkPod,
    /// The two ends are of different address families.
    MixedFamilies,
    /// No rule that we could read admits it, but a NetworkPolicy of the pod's namespace was refused, and the rules by
    /// which it admits are not known.
    RefusedPolicy,
    /// Two admin or two baseline policies of one priority disagree, and the API leaves their order open.
    EqualPriority,
    /// The verdict depends on what a domain name means at the moment.
    DomainName,
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnNodeEgress => "a pod to its own node",
            Self::IpBlockOnPod => "an ipBlock on a pod's address",
            Self::HostNetworkPod => "a hostNetwork pod",
            Self::MixedFamilies => "addresses of different families",
            Self::RefusedPolicy => "a refused policy may admit it",
            Self::EqualPriority => "policies of equal priority disagree",
            Self::DomainName => "a rule by domain name",
        })
    }
}

/// A policy and, if a rule of it decided, the rule's index in the object as written.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRef<'a> {
    /// The policy.
    pub policy: &'a Arc<NetworkPolicy>,
    /// Rule index in `spec.ingress` or `spec.egress`; `None` for a policy that isolates but
    /// has no matching rule.
    pub rule: Option<usize>,
}

/// A rule of the admin or baseline tier.
#[derive(Clone, Copy, Debug)]
pub struct AdminRef<'a> {
    /// The policy.
    pub policy: &'a Arc<AdminPolicy>,
    /// Rule index in `spec.ingress` or `spec.egress`.
    pub rule: usize,
}

/// Why a direction came out as it did.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// The end is not a governed pod (external, node, hostNetwork): no policy applies.
    NotGoverned,
    /// No policy selects the pod in this direction.
    NotIsolated,
    /// A pod reaches itself, or its own node reaches it.
    Exempt,
    /// This rule admits it (the first in order of policy name and rule index).
    Rule(PolicyRef<'a>),
    /// This rule of the admin or baseline tier allows or denies it.
    Admin(AdminRef<'a>),
    /// Isolated, and no rule admits it. The policies that isolate are listed by
    /// [`DirectionVerdict::isolating`].
    NoRule,
}

/// The verdict of one direction.
#[derive(Clone, Copy, Debug)]
pub struct DirectionVerdict<'a> {
    /// Allowed, denied or left open.
    pub expectation: Expectation,
    /// Why.
    pub decision: Decision<'a>,
    /// The policies that isolate the pod in this direction, ordered by name.
    pub isolating: &'a [Arc<NetworkPolicy>],
}

/// The verdict of both directions: egress of the source AND ingress of the destination.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// At the source.
    pub egress: DirectionVerdict<'a>,
    /// At the destination.
    pub ingress: DirectionVerdict<'a>,
}

impl Verdict<'_> {
    /// The combination: Deny if either denies; else Unknown if either is unknown; else Allow.
    pub fn expectation(&self) -> Expectation {
        match (self.egress.expectation, self.ingress.expectation) {
            (Expectation::Deny, _) | (_, Expectation::Deny) => Expectation::Deny,
            (Expectation::Unknown(reason), _) | (_, Expectation::Unknown(reason)) => {
                Expectation::Unknown(reason)
            }
            (Expectation::Allow, Expectation::Allow) => Expectation::Allow,
        }
    }
}

/// The verdict for two ends that have been looked up.
pub(crate) fn evaluate<'s>(connection: &Connection<'s, '_>) -> Verdict<'s> {
    let mut verdict = Verdict {
        egress: tiers::judge(Direction::Egress, connection),
        ingress: tiers::judge(Direction::Ingress, connection),
    };
    if Family::of(connection.source_ip) != Family::of(connection.destination_ip) {
        // No packet can look like that; whatever the rules say, nothing follows from it.
        let unknown = Expectation::Unknown(UnknownReason::MixedFamilies);
        verdict.egress.expectation = unknown;
        verdict.ingress.expectation = unknown;
    }
    verdict
}
