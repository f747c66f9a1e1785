//! What the pods that a rule lets connections to declare: NP040, NP041 and NP042 ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::classes::{ClassId, Classes};
use super::cluster::Cluster;
use super::rules::RuleAt;
use crate::model::{Direction, Peer, PolicyPort, PortMatch, Protocol, Rule, Service, TargetPort};

/// The destination pods of a rule.
pub(super) enum Destinations<'a> {
    /// An egress rule with an ipBlock: nobody can say who is behind an address.
    Unknown,
    /// These; at least one.
    Known(Declared<'a>),
    /// None at all: NP030 and NP031 say so.
    Nobody,
}

/// What they declare.
pub(super) struct Declared<'a> {
    pub(super) classes: Vec<ClassId>,
    pub(super) pods: usize,
    /// Whether each declares at least one port.
    all_declare: bool,
    numbers: BTreeSet<(Protocol, u16)>,
    names: BTreeMap<&'a str, BTreeSet<Protocol>>,
}

/// The destinations of a rule: of an ingress rule the governed pods that its policy selects, of an egress rule those that
/// its peers match.
pub(super) fn destinations<'a>(cluster: &Cluster<'a>, at: RuleAt<'a>) -> Destinations<'a> {
    let classes = cluster.classes();
    let mut found = match at.direction {
        Direction::Ingress => classes.selected_by(at.policy),
        Direction::Egress if has_ip_block(at.rule) => return Destinations::Unknown,
        Direction::Egress if at.rule.peers.is_empty() => classes.iter().map(|(id, _)| id).collect(),
        Direction::Egress => {
            let namespace = &at.policy.id.namespace;
            let peers = at.rule.peers.iter();
            peers
                .flat_map(|peer| classes.of_peer(peer, namespace))
                .collect()
        }
    };
    found.sort_unstable();
    found.dedup();
    found.retain(|class| classes.is_governed(*class));
    if found.is_empty() {
        Destinations::Nobody
    } else {
        Destinations::Known(Declared::new(classes, found))
    }
}

fn has_ip_block(rule: &Rule) -> bool {
    let mut peers = rule.peers.iter();
    peers.any(|peer| matches!(peer, Peer::IpBlock { .. }))
}

impl<'a> Declared<'a> {
    fn new(classes: &Classes<'a>, found: Vec<ClassId>) -> Self {
        let mut declared = Self {
            classes: Vec::new(),
            pods: 0,
            all_declare: true,
            numbers: BTreeSet::new(),
            names: BTreeMap::new(),
        };
        // Thousands of pods have few different lists of ports.
        let mut seen = BTreeSet::new();
        for class in found.iter().filter_map(|class| classes.get(*class)) {
            declared.pods = declared.pods.saturating_add(class.pods.len());
            if !seen.insert(class.ports_id) {
                continue;
            }
            declared.all_declare &= !class.ports().is_empty();
            for port in class.ports() {
                declared.numbers.insert((port.protocol, port.number));
                if let Some(name) = &port.name {
                    declared
                        .names
                        .entry(name)
                        .or_default()
                        .insert(port.protocol);
                }
            }
        }
        declared.classes = found;
        declared
    }

    /// Whether it is sure, as far as declarations tell, that nobody listens there.
    fn nobody_exposes(&self, protocol: Protocol, first: u16, last: u16) -> bool {
        let mut exposed = self.numbers.range((protocol, first)..=(protocol, last));
        self.all_declare && exposed.next().is_none()
    }

    /// The protocols under which some pod defines a name.
    pub(super) fn protocols(&self, name: &str) -> impl Iterator<Item = Protocol> {
        self.names.get(name).into_iter().flatten().copied()
    }

    /// `TCP 8080, UDP 53`: what to compare a port with; the first few.
    pub(super) fn shown(&self) -> String {
        let first: Vec<String> = self
            .numbers
            .iter()
            .take(5)
            .map(|(protocol, number)| format!("{protocol} {number}"))
            .collect();
        let more = if self.numbers.len() > 5 { ", ..." } else { "" };
        format!("{}{more}", first.join(", "))
    }
}

/// Services by namespace, protocol and the number of a port whose target is another one.
struct Translations<'a>(BTreeMap<(&'a str, Protocol, u16), Vec<Translation<'a>>>);

/// A Service's port and where it leads.
#[derive(Clone, Copy)]
pub(super) struct Translation<'a> {
    pub(super) service: &'a Arc<Service>,
    pub(super) port: u16,
    pub(super) target: &'a TargetPort,
}

impl<'a> Translations<'a> {
    fn new(cluster: &Cluster<'a>) -> Self {
        let mut by_port: BTreeMap<_, Vec<Translation<'a>>> = BTreeMap::new();
        for service in cluster.snapshot.services() {
            if service.selector.is_none() {
                continue;
            }
            for port in &service.ports {
                if port.target == TargetPort::Number(port.port) {
                    continue;
                }
                let key = (&*service.id.namespace, port.protocol, port.port);
                by_port.entry(key).or_default().push(Translation {
                    service,
                    port: port.port,
                    target: &port.target,
                });
            }
        }
        Self(by_port)
    }

    /// The first by name that has one of these ports and selects one of the destinations.
    fn of(
        &self,
        cluster: &Cluster<'a>,
        declared: &Declared<'a>,
        protocol: Protocol,
        (first, last): (u16, u16),
    ) -> Option<Translation<'a>> {
        let classes = cluster.classes();
        let mut asked = "";
        for class in declared.classes.iter().filter_map(|id| classes.get(*id)) {
            let Some(pod) = class.pod() else { continue };
            // Classes of one namespace lie together.
            if asked == &*pod.id.namespace {
                continue;
            }
            asked = &pod.id.namespace;
            let in_range = self
                .0
                .range((asked, protocol, first)..=(asked, protocol, last));
            let found = in_range.flat_map(|(_, of)| of).find(|translation| {
                translation.service.selector.as_ref().is_some_and(|labels| {
                    classes
                        .behind(asked, labels)
                        .iter()
                        .any(|class| declared.classes.binary_search(class).is_ok())
                })
            });
            if let Some(found) = found {
                return Some(*found);
            }
        }
        None
    }
}

/// Every numeric port of an effective rule that no destination pod exposes, with the Service that explains it.
pub(super) fn each_idle_port<'a>(
    cluster: &Cluster<'a>,
    mut found: impl FnMut(&RuleAt<'a>, usize, &PolicyPort, &Declared<'a>, Option<Translation<'a>>),
) {
    let translations = Translations::new(cluster);
    for at in cluster.rules().filter(RuleAt::is_effective) {
        let numeric = |port: &PolicyPort| matches!(port.port, PortMatch::Range(..));
        if !at.rule.ports.iter().any(numeric) {
            continue;
        }
        let Destinations::Known(declared) = destinations(cluster, at) else {
            continue;
        };
        for (index, port) in at.ports() {
            let PortMatch::Range(first, last) = port.port else {
                continue;
            };
            if declared.nobody_exposes(port.protocol, first, last) {
                let translation = translations.of(cluster, &declared, port.protocol, (first, last));
                found(&at, index, port, &declared, translation);
            }
        }
    }
}

/// `TCP 8080`, `UDP 5000-5010`.
pub(super) fn shown(port: &PolicyPort) -> String {
    match &port.port {
        PortMatch::Any => format!("every {} port", port.protocol),
        PortMatch::Range(first, last) if first == last => format!("{} {first}", port.protocol),
        PortMatch::Range(first, last) => format!("{} {first}-{last}", port.protocol),
        PortMatch::Named(name) => format!("{} {name}", port.protocol),
    }
}
