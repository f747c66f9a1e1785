//! Rules that admit what the other end denies: NP100 and NP101.
//!
//! What a rule admits is a set of tuples (source, destination, protocol, port), and the engine is asked for the verdict at
//! the other end. It is asked once a pair of classes, and only where a policy could let the pair in at all: of a rule
//! "to every pod of the cluster" that everybody denies, nearly nothing is left to ask.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::admits::{Admits, Places};
use super::classes::{Class, ClassId, Classes};
use super::cluster::Cluster;
use super::finding::Findings;
use super::rules::{RuleAt, isolates};
use crate::ask::address;
use crate::evaluate::{DirectionVerdict, Endpoint, Expectation, Query};
use crate::model::{ContainerPort, Direction, Family, Peer, Pod, PortMatch, Protocol, Rule};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A rule none of whose tuples comes through.
pub(super) struct Futile<'a> {
    pub(super) source: &'a Pod,
    pub(super) destination: &'a Pod,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// The policies that deny this first tuple, by name; none if another tier does.
    pub(super) denied_by: Vec<String>,
}

/// All that is asked about verdicts in one direction.
pub(super) struct Reach<'c, 'a> {
    cluster: &'c Cluster<'a>,
    classes: &'c Classes<'a>,
    /// The direction of the verdicts: the other one than that of the rules.
    asked: Direction,
    admits: Vec<Admits<'a>>,
    /// For each class, which of `admits` isolate it.
    isolating: Vec<Vec<u32>>,
    /// What the admin and baseline tiers may let in.
    admin: Admits<'a>,
    /// Namespaces with a policy that was refused: what is denied there is not known.
    refused: BTreeSet<Arc<str>>,
}

/// Reports the rules of a direction that open one half of connections whose other half is denied: "the rule `does`".
pub(super) fn report(
    cluster: &Cluster<'_>,
    direction: Direction,
    does: &str,
    findings: &mut Findings,
) {
    each_futile_rule(cluster, direction, |at, futile| {
        let by = match futile.denied_by.as_slice() {
            [] => String::new(),
            [policy] => format!(" by {policy}"),
            [policy, more @ ..] => format!(" by {policy} and {} more", more.len()),
        };
        let found = findings.add(
            at.subject(),
            at.object(),
            format!(
                "the rule {does}{by}, such as {} to {} port {}/{}",
                futile.source.id, futile.destination.id, futile.port, futile.protocol
            ),
        );
        if let Some(found) = found {
            found.policies = futile.denied_by;
        }
    });
}

/// Every rule that admits selector peers only and none of whose tuples the other end lets through.
fn each_futile_rule<'a>(
    cluster: &Cluster<'a>,
    direction: Direction,
    mut found: impl FnMut(&RuleAt<'a>, Futile<'a>),
) {
    let mut reach = None;
    for at in cluster.rules() {
        let selectors_only = |rule: &Rule| {
            let is_selector = |peer: &Peer| matches!(peer, Peer::Pods { .. });
            !rule.peers.is_empty() && rule.peers.iter().all(is_selector)
        };
        if at.direction != direction || !at.is_effective() || !selectors_only(at.rule) {
            continue;
        }
        let reach = reach.get_or_insert_with(|| Reach::new(cluster, direction));
        if let Some(futile) = reach.futile(&at) {
            found(&at, futile);
        }
    }
}

impl<'c, 'a> Reach<'c, 'a> {
    fn new(cluster: &'c Cluster<'a>, of_rules: Direction) -> Self {
        let asked = match of_rules {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        };
        let classes = cluster.classes();
        let mut places = Places::new(classes);
        let mut isolating = vec![Vec::new(); classes.len()];
        let mut admits = Vec::new();
        for policy in cluster.policies.values().flatten() {
            if !isolates(policy, asked) {
                continue;
            }
            let number = u32::try_from(admits.len()).unwrap_or(u32::MAX);
            for class in classes.selected_by(policy) {
                if let Some(isolating) = isolating.get_mut(class as usize) {
                    isolating.push(number);
                }
            }
            admits.push(Admits::of_policy(policy, asked, classes, &mut places));
        }
        Self {
            cluster,
            classes,
            asked,
            admits,
            isolating,
            admin: Admits::of_admin_tiers(cluster, asked, classes, &mut places),
            refused: cluster
                .snapshot
                .refused_policies()
                .map(|id| id.namespace)
                .collect(),
        }
    }

    fn futile(&self, at: &RuleAt<'a>) -> Option<Futile<'a>> {
        let governed = |classes: &mut Vec<ClassId>| {
            classes.sort_unstable();
            classes.dedup();
            classes.retain(|class| self.classes.is_governed(*class));
        };
        let mut near = self.classes.selected_by(at.policy);
        governed(&mut near);
        let peers = at.rule.peers.iter();
        let mut far: Vec<ClassId> = peers
            .flat_map(|peer| self.classes.of_peer(peer, &at.policy.id.namespace))
            .collect();
        governed(&mut far);

        let mut ports = TupleOf::new(at.rule);
        let (Some(first), Some(last)) = (near.first(), near.last()) else {
            return None;
        };
        let mut near_ports = Vec::new();
        for class in near.iter().filter_map(|id| self.classes.get(*id)) {
            near_ports.extend_from_slice(ports.at(class));
        }
        near_ports.sort_unstable();
        near_ports.dedup();
        for (asked, class) in far
            .iter()
            .filter_map(|id| Some((*id, self.classes.get(*id)?)))
        {
            let wanted = match self.asked {
                Direction::Ingress => ports.at(class),
                Direction::Egress => near_ports.as_slice(),
            };
            if !self.may_admit_some(asked, class, (*first, *last), wanted) {
                continue;
            }
            for (peer, peer_class) in near
                .iter()
                .filter_map(|id| Some((*id, self.classes.get(*id)?)))
            {
                let destination = match self.asked {
                    Direction::Ingress => class,
                    Direction::Egress => peer_class,
                };
                let tuples = ports.at(destination);
                let how = self.may_admit(asked, class, peer, tuples);
                if how != May::Not && !self.all_denied(class, peer_class, how, tuples) {
                    return None;
                }
            }
        }
        self.first(&near, &far, &mut ports)
    }

    /// The policies that isolate a class.
    fn isolating(&self, class: ClassId) -> impl Iterator<Item = &Admits<'a>> + Clone {
        let numbers = self.isolating.get(class as usize).into_iter().flatten();
        numbers.filter_map(|number| self.admits.get(*number as usize))
    }

    /// Whether there is more to a class than its NetworkPolicies that we can read.
    fn is_open(&self, id: ClassId, class: &Class<'a>) -> bool {
        self.admin.everybody
            || self.isolating(id).next().is_none()
            || class
                .pod()
                .is_some_and(|pod| self.refused.contains(&pod.id.namespace))
    }

    /// Whether a pod of a class may let in (out to) any of the classes from first to last at one of these ports.
    fn may_admit_some(
        &self,
        id: ClassId,
        class: &Class<'a>,
        (first, last): (ClassId, ClassId),
        tuples: &[(Protocol, u16)],
    ) -> bool {
        let some = |of: &Admits<'a>| {
            of.everybody || of.classes.may_have(first, last) || of.by_address.may_have(first, last)
        };
        self.is_open(id, class)
            || some(&self.admin)
            || self
                .isolating(id)
                .any(|of| some(of) && of.at_some_port(tuples))
    }

    /// Whether a pod of a class may let in (out to) one of `peer` at one of these ports, as far as policies' text tells.
    fn may_admit(
        &self,
        id: ClassId,
        class: &Class<'a>,
        peer: ClassId,
        tuples: &[(Protocol, u16)],
    ) -> May {
        let mut how = if self.is_open(id, class) || self.admin.classes.contains(peer) {
            May::Alike
        } else {
            May::Not
        };
        if self.admin.by_address.contains(peer) {
            return May::ByAddress;
        }
        for of in self.isolating(id) {
            let by_address = of.by_address.contains(peer);
            let admits = of.everybody || of.classes.contains(peer);
            if (by_address || (admits && how == May::Not)) && of.at_some_port(tuples) {
                if by_address {
                    return May::ByAddress;
                }
                how = May::Alike;
            }
        }
        how
    }

    /// Whether the engine denies every tuple between pods of two classes. Where addresses make a difference every pod of
    /// `peer` is asked about, else one.
    fn all_denied(
        &self,
        asked: &Class<'a>,
        peer: &Class<'a>,
        how: May,
        tuples: &[(Protocol, u16)],
    ) -> bool {
        let peers = match how {
            May::ByAddress => peer.pods.as_slice(),
            May::Alike | May::Not => peer.pods.get(..1).unwrap_or_default(),
        };
        peers.iter().all(|peer| {
            let other = |pod: &&&Arc<Pod>| pod.uid != peer.uid;
            let Some(pod) = asked.pods.iter().find(other) else {
                return true;
            };
            tuples.iter().all(|(protocol, port)| {
                let mut verdicts = self.verdicts(pod, peer, *protocol, *port);
                verdicts.all(|verdict| verdict.expectation == Expectation::Deny)
            })
        })
    }

    /// At `asked`, for each family that both pods have.
    fn verdicts(
        &self,
        asked: &'a Pod,
        peer: &'a Pod,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = DirectionVerdict<'a>> {
        let (source, destination) = match self.asked {
            Direction::Ingress => (peer, asked),
            Direction::Egress => (asked, peer),
        };
        let (snapshot, direction) = (self.cluster.snapshot, self.asked);
        FAMILIES.into_iter().filter_map(move |family| {
            let verdict = snapshot.evaluate(&Query {
                source: Endpoint::Pod(source),
                source_ip: address(source, family)?,
                destination: Endpoint::Pod(destination),
                destination_ip: address(destination, family)?,
                protocol,
                port,
            });
            Some(match direction {
                Direction::Ingress => verdict.ingress,
                Direction::Egress => verdict.egress,
            })
        })
    }

    /// A tuple of the rule, if it has any.
    fn first(
        &self,
        near: &[ClassId],
        far: &[ClassId],
        ports: &mut TupleOf<'a>,
    ) -> Option<Futile<'a>> {
        for asked in far.iter().filter_map(|class| self.classes.get(*class)) {
            for peer in near.iter().filter_map(|class| self.classes.get(*class)) {
                let destination = match self.asked {
                    Direction::Ingress => asked,
                    Direction::Egress => peer,
                };
                let Some((protocol, port)) = ports.at(destination).first().copied() else {
                    continue;
                };
                if !common_family(asked, peer) {
                    continue;
                }
                let Some((asked, peer)) = two_pods(asked, peer) else {
                    continue;
                };
                let verdict = self.verdicts(asked, peer, protocol, port).next()?;
                let policies = verdict.isolating.iter();
                let (source, destination) = match self.asked {
                    Direction::Ingress => (peer, asked),
                    Direction::Egress => (asked, peer),
                };
                return Some(Futile {
                    source,
                    destination,
                    protocol,
                    port,
                    denied_by: policies.map(|policy| policy.id.to_string()).collect(),
                });
            }
        }
        None
    }
}

/// How a pair of classes may be admitted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    /// By nothing: it is denied without asking.
    Not,
    /// By what is the same for all pods of the classes.
    Alike,
    /// By the address of some pod.
    ByAddress,
}

fn common_family(one: &Class<'_>, other: &Class<'_>) -> bool {
    let mut both = one.families.iter().zip(&other.families);
    both.any(|(one, other)| *one && *other)
}

/// A pod of each class, not the same one.
fn two_pods<'a>(one: &Class<'a>, other: &Class<'a>) -> Option<(&'a Pod, &'a Pod)> {
    let second = other.pod()?;
    let mut firsts = one.pods.iter().filter(|first| first.uid != second.uid);
    firsts.next().map(|first| (&***first, &**second))
}

/// The protocols and ports of a rule's tuples at a destination.
struct TupleOf<'a> {
    rule: &'a Rule,
    /// By the destination's declared ports.
    known: HashMap<u32, Vec<(Protocol, u16)>>,
}

impl<'a> TupleOf<'a> {
    fn new(rule: &'a Rule) -> Self {
        Self {
            rule,
            known: HashMap::new(),
        }
    }

    fn at(&mut self, destination: &Class<'_>) -> &[(Protocol, u16)] {
        let rule = self.rule;
        self.known
            .entry(destination.ports_id)
            .or_insert_with(|| tuples(rule, destination.ports()))
    }
}

/// The rule's numbers, its names as the destination has them, and the destination's own ports where the rule has none: port
/// 80 if it declares none.
fn tuples(rule: &Rule, declared: &[ContainerPort]) -> Vec<(Protocol, u16)> {
    let mut found = BTreeSet::new();
    let add_declared = |wanted: Option<Protocol>| {
        let of = declared
            .iter()
            .filter(|port| wanted.is_none_or(|protocol| port.protocol == protocol));
        let mut some: BTreeSet<_> = of.map(|port| (port.protocol, port.number)).collect();
        if some.is_empty() {
            some.insert((wanted.unwrap_or(Protocol::Tcp), 80));
        }
        some
    };
    if rule.ports.is_empty() {
        found.extend(add_declared(None));
    }
    for item in &rule.ports {
        match &item.port {
            PortMatch::Any => found.extend(add_declared(Some(item.protocol))),
            PortMatch::Range(first, last) => {
                found.extend([(item.protocol, *first), (item.protocol, *last)]);
            }
            PortMatch::Named(name) => found.extend(
                declared
                    .iter()
                    .filter(|port| {
                        port.protocol == item.protocol && port.name.as_ref() == Some(name)
                    })
                    .map(|port| (port.protocol, port.number)),
            ),
        }
    }
    found.into_iter().collect()
}
