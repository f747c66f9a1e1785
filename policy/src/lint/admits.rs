//! Whom the policies of an end may let in, judged by their peers alone: a wide answer that costs no verdict.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::classes::{ClassId, Classes};
use super::cluster::Cluster;
use crate::ask::{UNKNOWN_V4, UNKNOWN_V6};
use crate::model::{
    Action, AdminPeer, AdminRule, Direction, NetworkPolicy, Peer, PortMatch, Protocol, Rule,
};

/// A set of classes.
#[derive(Clone)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn none(classes: usize) -> Self {
        Self(vec![0; classes.div_ceil(64)])
    }

    fn add(&mut self, others: &Self) {
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            *word |= other;
        }
    }

    fn insert(&mut self, class: ClassId) {
        if let Some(word) = self.0.get_mut(class as usize / 64) {
            *word |= 1 << (class % 64);
        }
    }

    pub(super) fn contains(&self, class: ClassId) -> bool {
        let word = self.0.get(class as usize / 64);
        word.is_some_and(|word| word & (1 << (class % 64)) != 0)
    }

    /// Whether it may have a class from `first` to `last`; those of one namespace lie together.
    pub(super) fn may_have(&self, first: ClassId, last: ClassId) -> bool {
        let words = self.0.get(first as usize / 64..=last as usize / 64);
        words.is_none_or(|words| words.iter().any(|word| *word != 0))
    }
}

/// Whom a policy may let in (or out to) in one direction, whatever the port: never fewer than it does.
pub(super) struct Admits<'a> {
    rules: &'a [Rule],
    pub(super) everybody: bool,
    pub(super) classes: Bits,
    /// Of these, those of which an ipBlock holds some pod.
    pub(super) by_address: Bits,
}

/// The addresses of governed pods with their classes.
pub(super) struct Places<'a> {
    classes: usize,
    by_address: BTreeMap<IpAddr, Vec<ClassId>>,
    /// Clusters say the same blocks in many policies.
    known: HashMap<(IpNet, &'a [IpNet]), Bits>,
}

impl<'a> Places<'a> {
    pub(super) fn new(classes: &Classes<'_>) -> Self {
        let mut by_address: BTreeMap<IpAddr, Vec<ClassId>> = BTreeMap::new();
        for (id, class) in classes.iter().filter(|(_, class)| class.governed) {
            for pod in &class.pods {
                let addresses = if pod.ips.is_empty() {
                    [UNKNOWN_V4, UNKNOWN_V6].as_slice()
                } else {
                    &pod.ips
                };
                for ip in addresses {
                    let at = by_address.entry(ip.to_canonical()).or_default();
                    if at.last() != Some(&id) {
                        at.push(id);
                    }
                }
            }
        }
        Self {
            classes: classes.len(),
            by_address,
            known: HashMap::new(),
        }
    }

    /// The classes of which a block holds some pod.
    fn within(&mut self, cidr: &IpNet, except: &'a [IpNet]) -> &Bits {
        self.known.entry((*cidr, except)).or_insert_with(|| {
            let mut held = Bits::none(self.classes);
            for (ip, classes) in self.by_address.range(cidr.network()..=cidr.broadcast()) {
                if !except.iter().any(|net| net.contains(ip)) {
                    classes.iter().for_each(|class| held.insert(*class));
                }
            }
            held
        })
    }
}

impl<'a> Admits<'a> {
    fn none(classes: &Classes<'_>) -> Self {
        Self {
            rules: &[],
            everybody: false,
            classes: Bits::none(classes.len()),
            by_address: Bits::none(classes.len()),
        }
    }

    pub(super) fn of_policy(
        policy: &'a NetworkPolicy,
        direction: Direction,
        classes: &Classes<'a>,
        places: &mut Places<'a>,
    ) -> Self {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let mut admits = Self::none(classes);
        admits.rules = rules;
        for rule in rules {
            admits.everybody |= rule.peers.is_empty();
            for peer in &rule.peers {
                match peer {
                    Peer::Pods { .. } => {
                        for class in classes.of_peer(peer, &policy.id.namespace) {
                            admits.classes.insert(class);
                        }
                    }
                    Peer::IpBlock { cidr, except } => {
                        admits.by_address.add(places.within(cidr, except));
                    }
                }
            }
        }
        admits
    }

    /// Whether some rule, whoever its peers are, may be about one of these ports; a name may mean any.
    pub(super) fn at_some_port(&self, tuples: &[(Protocol, u16)]) -> bool {
        self.rules.iter().any(|rule| {
            rule.ports.is_empty()
                || rule.ports.iter().any(|item| {
                    tuples.iter().any(|(protocol, port)| {
                        item.protocol == *protocol
                            && match item.port {
                                PortMatch::Any | PortMatch::Named(_) => true,
                                PortMatch::Range(first, last) => first <= *port && *port <= last,
                            }
                    })
                })
        })
    }

    pub(super) fn of_admin_tiers(
        cluster: &Cluster<'a>,
        direction: Direction,
        classes: &Classes<'a>,
        places: &mut Places<'a>,
    ) -> Self {
        let mut admits = Self::none(classes);
        let mut priorities = BTreeSet::new();
        for policy in cluster.snapshot.admin_policies() {
            // Two that disagree deny nothing for sure.
            admits.everybody |= !priorities.insert((policy.tier, policy.priority));
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let allowing = |rule: &&AdminRule| rule.action == Action::Allow;
            for peer in rules.iter().filter(allowing).flat_map(|rule| &rule.peers) {
                let selected = match peer {
                    AdminPeer::Namespaces(namespaces) => classes.of_namespaces(namespaces, None),
                    AdminPeer::Pods { namespaces, pods } => {
                        classes.of_namespaces(namespaces, Some(pods))
                    }
                    AdminPeer::DomainNames(_) => {
                        admits.everybody = true;
                        continue;
                    }
                    AdminPeer::Networks(_) | AdminPeer::Nodes(_) | AdminPeer::Unrecognised => {
                        continue;
                    }
                };
                for class in selected {
                    admits.classes.insert(class);
                }
            }
            // Whatever the action: what it does to one pod of a class says nothing of the next.
            for peer in rules.iter().flat_map(|rule| &rule.peers) {
                if let AdminPeer::Networks(nets) = peer {
                    for net in nets {
                        admits.by_address.add(places.within(net, &[]));
                    }
                }
            }
        }
        admits
    }
}
