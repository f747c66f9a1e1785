//! The naive evaluator that the engine is compared with: it answers from the objects as they
//! are, by trying out every reading that the API leaves open, and shares no code with the
//! engine but the types.

use std::net::IpAddr;
use std::sync::Arc;

use crate::evaluate::{Decision, DirectionVerdict, Endpoint, Expectation, Query, UnknownReason};
use crate::model::{
    Direction, NamespacedName, NetworkPolicy, Object, Peer, Pod, PolicyPort, PortMatch,
    Requirement, Rule, Selector,
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
}

/// The common reading.
const COMMON: Reading = Reading {
    ip_blocks_match_pods: true,
    own_node_is_reachable: true,
    governed_host_pod_is_node: true,
    peer_host_pod_is_node: true,
};

fn readings() -> impl Iterator<Item = Reading> {
    (0..16).map(|bits: u8| Reading {
        ip_blocks_match_pods: bits & 1 == 0,
        own_node_is_reachable: bits & 2 == 0,
        governed_host_pod_is_node: bits & 4 == 0,
        peer_host_pod_is_node: bits & 8 == 0,
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
}

/// The verdict of one direction, from the objects of a cluster.
pub fn evaluate(objects: &[Object], query: &Query<'_>, direction: Direction) -> Answer {
    evaluate_beside(objects, &[], query, direction)
}

/// The verdict of one direction, from the objects of a cluster that also has policies that were refused.
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
    let case = Case {
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
    };
    let mut answer = case.answer();
    // Denied by every reading of what is known; a rule that is not known may allow it.
    if answer.expectation == Expectation::Deny
        && case.governed.is_some_and(|pod| {
            refused
                .iter()
                .any(|policy| policy.namespace == pod.id.namespace)
        })
    {
        answer.expectation = Expectation::Unknown(UnknownReason::RefusedPolicy);
    }
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

impl Case<'_> {
    fn answer(&self) -> Answer {
        let allowed: Vec<bool> = readings().map(|reading| self.allowed(reading)).collect();
        let expectation = if allowed.iter().all(|allowed| *allowed) {
            Expectation::Allow
        } else if allowed.iter().all(|allowed| !*allowed) {
            Expectation::Deny
        } else {
            Expectation::Unknown(self.reason())
        };
        let Some(governed) = self.governed.filter(|pod| !pod.host_network) else {
            return Answer {
                expectation,
                decision: Decided::NotGoverned,
                isolating: Vec::new(),
            };
        };
        let isolating = self.isolating(governed);
        let decision = if isolating.is_empty() {
            Decided::NotIsolated
        } else if self.is_self(governed)
            || (self.direction == Direction::Ingress && self.is_own_node(governed))
        {
            Decided::Exempt
        } else {
            let deciding: Vec<Reading> = match expectation {
                Expectation::Allow => readings().collect(),
                Expectation::Unknown(UnknownReason::IpBlockOnPod) => vec![COMMON],
                Expectation::Unknown(_) | Expectation::Deny => Vec::new(),
            };
            self.first_rule(governed, &isolating, &deciding)
        };
        Answer {
            expectation,
            decision,
            isolating: isolating.iter().map(|policy| policy.id.clone()).collect(),
        }
    }

    /// Why readings disagree.
    fn reason(&self) -> UnknownReason {
        let enforced = Reading {
            own_node_is_reachable: false,
            ..COMMON
        };
        if self.allowed(COMMON) != self.allowed(enforced) {
            UnknownReason::OwnNodeEgress
        } else if [self.governed, self.peer]
            .into_iter()
            .flatten()
            .any(|pod| pod.host_network)
        {
            UnknownReason::HostNetworkPod
        } else {
            UnknownReason::IpBlockOnPod
        }
    }

    fn allowed(&self, reading: Reading) -> bool {
        let Some(governed) = self.governed else {
            return true;
        };
        if governed.host_network && reading.governed_host_pod_is_node {
            return true;
        }
        let isolating = self.isolating(governed);
        if isolating.is_empty() || self.is_self(governed) {
            return true;
        }
        if self.is_own_node(governed)
            && (self.direction == Direction::Ingress || reading.own_node_is_reachable)
        {
            return true;
        }
        isolating.iter().any(|policy| {
            self.rules(policy)
                .iter()
                .any(|rule| self.admits(governed, policy, rule, reading))
        })
    }

    /// The first rule that admits in each of the readings.
    fn first_rule(
        &self,
        governed: &Pod,
        isolating: &[&NetworkPolicy],
        readings: &[Reading],
    ) -> Decided {
        if readings.is_empty() {
            return Decided::NoRule;
        }
        for policy in isolating {
            for (index, rule) in self.rules(policy).iter().enumerate() {
                let admits = |reading: &Reading| self.admits(governed, policy, rule, *reading);
                if readings.iter().all(admits) {
                    return Decided::Rule(policy.id.clone(), Some(index));
                }
            }
        }
        Decided::NoRule
    }

    fn isolating(&self, governed: &Pod) -> Vec<&NetworkPolicy> {
        let mut isolating: Vec<&NetworkPolicy> = self
            .objects
            .iter()
            .filter_map(|object| match object {
                Object::NetworkPolicy(policy) => Some(&**policy),
                _ => None,
            })
            .filter(|policy| match self.direction {
                Direction::Ingress => policy.isolates_ingress,
                Direction::Egress => policy.isolates_egress,
            })
            .filter(|policy| policy.id.namespace == governed.id.namespace)
            .filter(|policy| selects(&policy.pod_selector, |key| label(governed, key)))
            .collect();
        isolating.sort_by(|a, b| a.id.name.cmp(&b.id.name));
        isolating
    }

    fn rules<'p>(&self, policy: &'p NetworkPolicy) -> &'p [Rule] {
        match self.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        }
    }

    fn is_self(&self, governed: &Pod) -> bool {
        self.peer.is_some_and(|peer| peer.uid == governed.uid)
    }

    fn is_own_node(&self, governed: &Pod) -> bool {
        self.peer_node.is_some() && self.peer_node == governed.node.as_deref()
    }

    /// The peer as a pod, if this reading sees one.
    fn visible_peer(&self, reading: Reading) -> Option<&Pod> {
        self.peer
            .filter(|pod| !pod.host_network || !reading.peer_host_pod_is_node)
    }

    fn admits(
        &self,
        governed: &Pod,
        policy: &NetworkPolicy,
        rule: &Rule,
        reading: Reading,
    ) -> bool {
        let destination = match self.direction {
            Direction::Ingress => Some(governed),
            Direction::Egress => self.visible_peer(reading),
        };
        let port =
            rule.ports.is_empty() || rule.ports.iter().any(|port| self.port(port, destination));
        let peer = rule.peers.is_empty()
            || rule
                .peers
                .iter()
                .any(|peer| self.peer(peer, policy, reading));
        port && peer
    }

    fn port(&self, port: &PolicyPort, destination: Option<&Pod>) -> bool {
        let asked = self.query.port;
        port.protocol == self.query.protocol
            && match &port.port {
                PortMatch::Any => true,
                PortMatch::Range(first, last) => *first <= asked && asked <= *last,
                PortMatch::Named(name) => destination.is_some_and(|pod| {
                    pod.ports.iter().any(|declared| {
                        declared.name.as_deref() == Some(&**name)
                            && declared.protocol == self.query.protocol
                            && declared.number == asked
                    })
                }),
            }
    }

    fn peer(&self, peer: &Peer, policy: &NetworkPolicy, reading: Reading) -> bool {
        match peer {
            Peer::IpBlock { cidr, except } => {
                let is_pod_address = self.peer.is_some_and(|pod| !pod.host_network);
                cidr.contains(&self.peer_ip)
                    && !except.iter().any(|net| net.contains(&self.peer_ip))
                    && (!is_pod_address || reading.ip_blocks_match_pods)
            }
            Peer::Pods { namespaces, pods } => {
                let Some(pod) = self.visible_peer(reading) else {
                    return false;
                };
                let namespace = match namespaces {
                    None => pod.id.namespace == policy.id.namespace,
                    Some(selector) => {
                        selects(selector, |key| self.namespace_label(&pod.id.namespace, key))
                    }
                };
                namespace
                    && pods
                        .as_ref()
                        .is_none_or(|selector| selects(selector, |key| label(pod, key)))
            }
        }
    }

    fn namespace_label(&self, name: &Arc<str>, key: &str) -> Option<Arc<str>> {
        if key == "kubernetes.io/metadata.name" {
            return Some(Arc::clone(name));
        }
        self.objects.iter().find_map(|object| match object {
            Object::Namespace(namespace) if namespace.name == *name => {
                namespace.labels.get(key).cloned()
            }
            _ => None,
        })
    }
}

fn label(pod: &Pod, key: &str) -> Option<Arc<str>> {
    pod.labels.get(key).cloned()
}

fn selects(selector: &Selector, label: impl Fn(&str) -> Option<Arc<str>>) -> bool {
    for (key, value) in &selector.match_labels {
        if label(key).as_ref() != Some(value) {
            return false;
        }
    }
    for requirement in &selector.match_expressions {
        let met = match requirement {
            Requirement::In(key, values) => match label(key) {
                Some(value) => values.contains(&value),
                None => false,
            },
            Requirement::NotIn(key, values) => match label(key) {
                Some(value) => !values.contains(&value),
                None => true,
            },
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::DoesNotExist(key) => label(key).is_none(),
        };
        if !met {
            return false;
        }
    }
    true
}
