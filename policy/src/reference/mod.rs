//! The naive evaluator that the engine is compared with: it answers from the objects as they
//! are, by trying out every reading that the API leaves open, and shares no code with the
//! engine but the types.
//!
//! A reading says how each open question is answered, one of them being in which order policies of one priority come. What all
//! readings agree on is known; where they differ, it is said which question alone makes the difference to the common reading,
//! or else which one the other end poses.

mod admin;
mod labels;
mod network_policy;

use std::net::IpAddr;
use std::sync::Arc;

use crate::evaluate::{Decision, DirectionVerdict, Endpoint, Expectation, Query, UnknownReason};
use crate::model::{
    Action, AdminPolicy, Direction, NamespacedName, NetworkPolicy, Object, Pod, Tier,
};

/// A [`DirectionVerdict`] without references, so that two can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Allowed, denied or left open.
    pub expectation: Expectation,
    /// Why.
    pub decision: Decided,
    /// The policies that isolate.
    pub isolating: Vec<NamespacedName>,
}

/// A [`Decision`] without references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// See [`Decision::NotGoverned`].
    NotGoverned,
    /// See [`Decision::NotIsolated`].
    NotIsolated,
    /// See [`Decision::Exempt`].
    Exempt,
    /// See [`Decision::Rule`].
    Rule(NamespacedName, Option<usize>),
    /// See [`Decision::Admin`]: the policy's name and the rule.
    Admin(Arc<str>, usize),
    /// See [`Decision::NoRule`].
    NoRule,
}

impl From<&DirectionVerdict<'_>> for Answer {
    fn from(verdict: &DirectionVerdict<'_>) -> Self {
        Self {
            expectation: verdict.expectation,
            decision: match verdict.decision {
                Decision::NotGoverned => Decided::NotGoverned,
                Decision::NotIsolated => Decided::NotIsolated,
                Decision::Exempt => Decided::Exempt,
                Decision::Rule(by) => Decided::Rule(by.policy.id.clone(), by.rule),
                Decision::Admin(by) => Decided::Admin(Arc::clone(&by.policy.name), by.rule),
                Decision::NoRule => Decided::NoRule,
            },
            isolating: verdict.isolating.iter().map(|p| p.id.clone()).collect(),
        }
    }
}

/// One reading of what the API leaves open.
#[derive(Clone, Copy)]
struct Reading {
    ip_blocks_match_pods: bool,
    own_node_is_reachable: bool,
    governed_host_pod_is_node: bool,
    peer_host_pod_is_node: bool,
    domain_names_match: bool,
}

/// The common reading.
const COMMON: Reading = Reading {
    ip_blocks_match_pods: true,
    own_node_is_reachable: true,
    governed_host_pod_is_node: true,
    peer_host_pod_is_node: true,
    domain_names_match: true,
};

fn readings() -> impl Iterator<Item = Reading> {
    (0..32).map(|bits: u8| Reading {
        ip_blocks_match_pods: bits & 1 == 0,
        own_node_is_reachable: bits & 2 == 0,
        governed_host_pod_is_node: bits & 4 == 0,
        peer_host_pod_is_node: bits & 8 == 0,
        domain_names_match: bits & 16 == 0,
    })
}

/// One direction of a query, from the governed end's point of view.
struct Case<'a> {
    objects: &'a [Object],
    query: &'a Query<'a>,
    direction: Direction,
    governed: Option<&'a Pod>,
    peer: Option<&'a Pod>,
    peer_node: Option<&'a str>,
    peer_ip: IpAddr,
    /// The NetworkPolicies that isolate the governed pod, by name.
    isolating: Vec<&'a NetworkPolicy>,
    /// Every order in which the policies of the other tiers may come that select it and have rules; by name first.
    orders: Vec<Vec<&'a AdminPolicy>>,
}

/// What comes out in one reading.
struct Outcome {
    allowed: bool,
    decision: Decided,
    /// Whether the Admin tier decided.
    by_admin_tier: bool,
}

impl Outcome {
    const fn of(allowed: bool, decision: Decided) -> Self {
        Self {
            allowed,
            decision,
            by_admin_tier: false,
        }
    }
}

/// The verdict of one direction, from the objects of a cluster.
pub fn evaluate(objects: &[Object], query: &Query<'_>, direction: Direction) -> Answer {
    evaluate_beside(objects, &[], query, direction)
}

/// The verdict of one direction, from the objects of a cluster that also has policies that were refused; those of the tiers
/// around NetworkPolicy have the empty namespace.
pub fn evaluate_beside(
    objects: &[Object],
    refused: &[NamespacedName],
    query: &Query<'_>,
    direction: Direction,
) -> Answer {
    let (governed, peer, peer_ip) = match direction {
        Direction::Egress => (query.source, query.destination, query.destination_ip),
        Direction::Ingress => (query.destination, query.source, query.source_ip),
    };
    let peer_pod = living(objects, peer);
    let mut case = Case {
        objects,
        query,
        direction,
        governed: living(objects, governed),
        peer: peer_pod,
        peer_node: match (peer, peer_pod) {
            (Endpoint::Node(node), _) => Some(node),
            (_, Some(pod)) if pod.host_network => pod.node.as_deref(),
            _ => None,
        },
        peer_ip,
        isolating: Vec::new(),
        orders: vec![Vec::new()],
    };
    if let Some(governed) = case.governed {
        case.isolating = network_policy::isolating(objects, governed, direction);
        case.orders = admin::orders(admin::selecting(objects, governed, direction));
    }
    let mut answer = case.answer(refused);
    if query.source_ip.is_ipv4() != query.destination_ip.is_ipv4() {
        answer.expectation = Expectation::Unknown(UnknownReason::MixedFamilies);
    }
    answer
}

/// The pod of an endpoint, if it is one, is known and is not finished.
fn living<'a>(objects: &'a [Object], endpoint: Endpoint<'_>) -> Option<&'a Pod> {
    let Endpoint::Pod(given) = endpoint else {
        return None;
    };
    objects.iter().find_map(|object| match object {
        Object::Pod(pod) if pod.uid == given.uid && !pod.finished => Some(&**pod),
        _ => None,
    })
}

impl<'a> Case<'a> {
    fn answer(&self, refused: &[NamespacedName]) -> Answer {
        let outcomes: Vec<Outcome> = readings()
            .flat_map(|reading| self.in_every_order(reading))
            .collect();
        let expectation = if outcomes.iter().all(|outcome| outcome.allowed) {
            Expectation::Allow
        } else if outcomes.iter().any(|outcome| outcome.allowed) {
            Expectation::Unknown(self.reason())
        } else if self.may_be_admitted(refused, &outcomes) {
            Expectation::Unknown(UnknownReason::RefusedPolicy)
        } else {
            Expectation::Deny
        };
        // What is certain whatever a name of a domain means is not decided by that name.
        let reading = match expectation {
            Expectation::Unknown(reason) if reason != UnknownReason::RefusedPolicy => COMMON,
            _ => Reading {
                domain_names_match: false,
                ..COMMON
            },
        };
        let decision = self.outcome(reading, self.by_name()).decision;
        let isolating = match decision {
            Decided::NotGoverned => Vec::new(),
            _ => self.isolating.iter().map(|p| p.id.clone()).collect(),
        };
        Answer {
            expectation,
            decision,
            isolating,
        }
    }

    /// Denied by every reading of what is known: whether a policy that is not known may allow it.
    fn may_be_admitted(&self, refused: &[NamespacedName], outcomes: &[Outcome]) -> bool {
        let by_admin_tier = outcomes.iter().all(|outcome| outcome.by_admin_tier);
        self.governed.is_some_and(|governed| {
            refused.iter().any(|policy| {
                policy.namespace.is_empty()
                    || (policy.namespace == governed.id.namespace && !by_admin_tier)
            })
        })
    }

    fn by_name(&self) -> &[&'a AdminPolicy] {
        self.orders.first().map_or(&[], Vec::as_slice)
    }

    fn in_every_order(&self, reading: Reading) -> Vec<Outcome> {
        let orders = self.orders.iter();
        orders.map(|order| self.outcome(reading, order)).collect()
    }

    /// Why readings disagree.
    fn reason(&self) -> UnknownReason {
        let enforced = Reading {
            own_node_is_reachable: false,
            ..COMMON
        };
        let common = self.outcome(COMMON, self.by_name()).allowed;
        if common != self.outcome(enforced, self.by_name()).allowed {
            return UnknownReason::OwnNodeEgress;
        }
        let mut in_every_order = self.in_every_order(COMMON).into_iter();
        if in_every_order.any(|outcome| outcome.allowed != common) {
            return UnknownReason::EqualPriority;
        }
        let mut pods = [self.governed, self.peer].into_iter().flatten();
        if pods.any(|pod| pod.host_network) {
            UnknownReason::HostNetworkPod
        } else if self.peer.is_some() {
            UnknownReason::IpBlockOnPod
        } else if self.peer_node.is_some() {
            UnknownReason::OwnNodeEgress
        } else {
            UnknownReason::DomainName
        }
    }

    fn outcome(&self, reading: Reading, order: &[&AdminPolicy]) -> Outcome {
        let Some(governed) = self.governed else {
            return Outcome::of(true, Decided::NotGoverned);
        };
        if governed.host_network && reading.governed_host_pod_is_node {
            return Outcome::of(true, Decided::NotGoverned);
        }
        if self.is_self(governed) && !(self.isolating.is_empty() && order.is_empty()) {
            return Outcome::of(true, Decided::Exempt);
        }
        if let Some((action, decision)) = self.first_match(governed, order, Tier::Admin, reading)
            && action != Action::Pass
        {
            return Outcome {
                by_admin_tier: true,
                ..Outcome::of(action == Action::Allow, decision)
            };
        }
        if !self.isolating.is_empty() {
            return self.by_policies(governed, reading);
        }
        match self.first_match(governed, order, Tier::Baseline, reading) {
            Some((Action::Allow, decision)) => Outcome::of(true, decision),
            Some((Action::Deny, decision)) => Outcome::of(false, decision),
            Some((Action::Pass, _)) | None => Outcome::of(true, Decided::NotIsolated),
        }
    }

    fn is_self(&self, governed: &Pod) -> bool {
        self.peer.is_some_and(|peer| peer.uid == governed.uid)
    }

    fn is_own_node(&self, governed: &Pod) -> bool {
        self.peer_node.is_some() && self.peer_node == governed.node.as_deref()
    }

    fn is_external(&self) -> bool {
        self.peer.is_none() && self.peer_node.is_none()
    }

    /// The peer as a pod, if this reading sees one.
    fn visible_peer(&self, reading: Reading) -> Option<&Pod> {
        self.peer
            .filter(|pod| !pod.host_network || !reading.peer_host_pod_is_node)
    }

    /// The destination as a pod, if this reading sees one.
    fn visible_destination<'p>(&'p self, governed: &'p Pod, reading: Reading) -> Option<&'p Pod> {
        match self.direction {
            Direction::Ingress => Some(governed),
            Direction::Egress => self.visible_peer(reading),
        }
    }

    /// Whether a container port of this name is the one asked for.
    fn is_named(&self, name: &str, pod: &Pod) -> bool {
        pod.ports.iter().any(|declared| {
            declared.name.as_deref() == Some(name)
                && declared.protocol == self.query.protocol
                && declared.number == self.query.port
        })
    }

    fn namespace_label(&self, name: &Arc<str>, key: &str) -> Option<Arc<str>> {
        labels::of_namespace(self.objects, name, key)
    }
}
