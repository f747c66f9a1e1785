//! The policies as far as classes need them: which peers a rule can tell apart, and at which ports its verdict can
//! change. What a rule does with them is left to the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use super::ports::PROTOCOLS;
use crate::model::{
    AdminPeer, AdminPolicy, AdminPort, Direction, Labels, NetworkPolicy, Peer, PortMatch, Protocol,
    Rule, Selector, Subject,
};
use crate::state::Snapshot;

/// The number of something that a rule asks of its peer; every pod knows the numbers that hold for it, sorted.
pub(super) type Atom = u32;
/// The number of a rule; rules that mean the same have one.
pub(super) type RuleId = u32;

/// A selector of pods, wherever they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Anywhere {
    namespaces: Selector,
    pods: Selector,
}

/// What a rule is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    everyone: bool,
    atoms: Vec<Atom>,
    ports: Vec<(Protocol, PortMatch)>,
}

/// What one rule, or all that govern a pod, can tell apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    pub(super) atoms: BTreeSet<Atom>,
    /// Ports at which a verdict may change, by protocol.
    pub(super) cuts: [BTreeSet<u16>; 3],
    /// Names of ports, which every destination has its own numbers for.
    pub(super) names: BTreeSet<Arc<str>>,
}

impl Reach {
    pub(super) fn extend(&mut self, other: &Self) {
        self.atoms.extend(&other.atoms);
        for (to, from) in self.cuts.iter_mut().zip(&other.cuts) {
            to.extend(from);
        }
        self.names.extend(other.names.iter().cloned());
    }

    fn port(&mut self, protocol: Protocol, port: &PortMatch) {
        match port {
            PortMatch::Any => {}
            PortMatch::Range(first, last) => self.number(protocol, *first, *last),
            PortMatch::Named(name) => {
                self.names.insert(Arc::clone(name));
            }
        }
    }

    pub(super) fn number(&mut self, protocol: Protocol, first: u16, last: u16) {
        let at = PROTOCOLS.iter().position(|of| *of == protocol);
        if let Some(cuts) = at.and_then(|at| self.cuts.get_mut(at)) {
            cuts.insert(first);
            cuts.extend(last.checked_add(1));
        }
    }
}

/// A policy of a namespace.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) policy: Arc<NetworkPolicy>,
    /// `None` if it does not isolate in that direction.
    ingress: Option<Vec<RuleId>>,
    egress: Option<Vec<RuleId>>,
}

impl Compiled {
    pub(super) fn rules(&self, direction: Direction) -> Option<&[RuleId]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// A policy of the whole cluster.
#[derive(Debug)]
pub(super) struct Admin {
    policy: Arc<AdminPolicy>,
    ingress: Reach,
    egress: Reach,
}

impl Admin {
    pub(super) fn reach(&self, direction: Direction) -> &Reach {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    pub(super) fn has_rules(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => !self.policy.ingress.is_empty(),
            Direction::Egress => !self.policy.egress.is_empty(),
        }
    }

    pub(super) fn selects(&self, namespace: &Labels, pod: &Labels) -> bool {
        match &self.policy.subject {
            Subject::Namespaces(of) => of.matches(namespace),
            Subject::Pods { namespaces, pods } => {
                namespaces.matches(namespace) && pods.matches(pod)
            }
        }
    }
}

/// All policies.
#[derive(Debug, Default)]
pub(super) struct Policies {
    by_namespace: BTreeMap<Arc<str>, Vec<Compiled>>,
    pub(super) admin: Vec<Admin>,
    atoms: Atom,
    own: HashMap<(Arc<str>, Selector), Atom>,
    own_of: HashMap<Arc<str>, Vec<(Atom, Selector)>>,
    anywhere: HashMap<Anywhere, Atom>,
    blocks: HashMap<(IpNet, Vec<IpNet>), Atom>,
    by_cidr: HashMap<IpNet, Vec<(Atom, Vec<IpNet>)>>,
    lengths: BTreeSet<u8>,
    nodes: HashMap<Selector, Atom>,
    shapes: HashMap<Shape, RuleId>,
    reaches: Vec<Reach>,
    /// Names of ports in any rule.
    pub(super) port_names: BTreeSet<Arc<str>>,
    /// Keys of labels of pods that any selector looks at.
    pub(super) label_keys: BTreeSet<Arc<str>>,
}

impl Policies {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut policies = Self::default();
        for policy in snapshot.policies() {
            policies.keys(&policy.pod_selector);
            let namespace = &policy.id.namespace;
            let mut rules = |isolates: bool, rules: &[Rule]| {
                isolates.then(|| {
                    let rules = rules.iter();
                    rules.map(|rule| policies.rule(namespace, rule)).collect()
                })
            };
            let compiled = Compiled {
                ingress: rules(policy.isolates_ingress, &policy.ingress),
                egress: rules(policy.isolates_egress, &policy.egress),
                policy: Arc::clone(policy),
            };
            policies
                .by_namespace
                .entry(Arc::clone(namespace))
                .or_default()
                .push(compiled);
        }
        for policy in snapshot.admin_policies() {
            if let Subject::Pods { pods, .. } = &policy.subject {
                policies.keys(pods);
            }
            let admin = Admin {
                ingress: policies.admin_rules(policy, Direction::Ingress),
                egress: policies.admin_rules(policy, Direction::Egress),
                policy: Arc::clone(policy),
            };
            policies.admin.push(admin);
        }
        policies
    }

    pub(super) fn in_namespace(&self, namespace: &Arc<str>) -> &[Compiled] {
        match self.by_namespace.get(namespace) {
            Some(policies) => policies,
            None => &[],
        }
    }

    pub(super) fn reach(&self, rule: RuleId) -> Option<&Reach> {
        self.reaches.get(rule as usize)
    }

    /// The selectors that mean pods of this namespace alone.
    pub(super) fn own_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = (Atom, &Selector)> {
        let own = self.own_of.get(namespace).into_iter().flatten();
        own.map(|(atom, selector)| (*atom, selector))
    }

    /// The selectors that mean pods of several namespaces: (atom, namespaces, pods).
    pub(super) fn anywhere(&self) -> impl Iterator<Item = (Atom, &Selector, &Selector)> {
        let all = self.anywhere.iter();
        all.map(|(of, atom)| (*atom, &of.namespaces, &of.pods))
    }

    /// The selectors of nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (Atom, &Selector)> {
        self.nodes.iter().map(|(selector, atom)| (*atom, selector))
    }

    /// The blocks that hold an address.
    pub(super) fn holding(&self, ip: std::net::IpAddr, mut found: impl FnMut(Atom)) {
        for length in &self.lengths {
            let Some(blocks) = IpNet::new(ip, *length)
                .ok()
                .and_then(|net| self.by_cidr.get(&net.trunc()))
            else {
                continue;
            };
            for (atom, except) in blocks {
                if !except.iter().any(|hole| hole.contains(&ip)) {
                    found(*atom);
                }
            }
        }
    }

    fn keys(&mut self, pods: &Selector) {
        use crate::model::Requirement::{DoesNotExist, Exists, In, NotIn};
        self.label_keys.extend(pods.match_labels.keys().cloned());
        let keys = pods.match_expressions.iter().map(|of| match of {
            In(key, _) | NotIn(key, _) | Exists(key) | DoesNotExist(key) => Arc::clone(key),
        });
        self.label_keys.extend(keys);
    }

    fn next(&mut self) -> Atom {
        let atom = self.atoms;
        self.atoms = self.atoms.saturating_add(1);
        atom
    }

    fn own(&mut self, namespace: &Arc<str>, pods: &Selector) -> Atom {
        self.keys(pods);
        let key = (Arc::clone(namespace), pods.clone());
        if let Some(atom) = self.own.get(&key) {
            return *atom;
        }
        let atom = self.next();
        let of = self.own_of.entry(Arc::clone(namespace)).or_default();
        of.push((atom, pods.clone()));
        self.own.insert(key, atom);
        atom
    }

    fn pods(&mut self, namespaces: &Selector, pods: Option<&Selector>) -> Atom {
        let key = Anywhere {
            namespaces: namespaces.clone(),
            pods: pods.cloned().unwrap_or_default(),
        };
        self.keys(&key.pods);
        if let Some(atom) = self.anywhere.get(&key) {
            return *atom;
        }
        let atom = self.next();
        self.anywhere.insert(key, atom);
        atom
    }

    fn block(&mut self, cidr: IpNet, except: &[IpNet]) -> Atom {
        let key = (cidr.trunc(), except.to_vec());
        if let Some(atom) = self.blocks.get(&key) {
            return *atom;
        }
        let atom = self.next();
        self.lengths.insert(key.0.prefix_len());
        let of = self.by_cidr.entry(key.0).or_default();
        of.push((atom, key.1.clone()));
        self.blocks.insert(key, atom);
        atom
    }

    fn node(&mut self, selector: &Selector) -> Atom {
        if let Some(atom) = self.nodes.get(selector) {
            return *atom;
        }
        let atom = self.next();
        self.nodes.insert(selector.clone(), atom);
        atom
    }

    fn rule(&mut self, namespace: &Arc<str>, rule: &Rule) -> RuleId {
        let mut atoms: Vec<Atom> = rule
            .peers
            .iter()
            .map(|peer| match peer {
                Peer::Pods {
                    namespaces: None,
                    pods,
                } => self.own(namespace, &pods.clone().unwrap_or_default()),
                Peer::Pods {
                    namespaces: Some(namespaces),
                    pods,
                } => self.pods(namespaces, pods.as_ref()),
                Peer::IpBlock { cidr, except } => self.block(*cidr, except),
            })
            .collect();
        atoms.sort_unstable();
        atoms.dedup();
        let ports = rule.ports.iter();
        let shape = Shape {
            everyone: rule.peers.is_empty(),
            atoms,
            ports: ports.map(|of| (of.protocol, of.port.clone())).collect(),
        };
        if let Some(id) = self.shapes.get(&shape) {
            return *id;
        }
        let mut reach = Reach {
            atoms: shape.atoms.iter().copied().collect(),
            ..Reach::default()
        };
        for (protocol, port) in &shape.ports {
            reach.port(*protocol, port);
        }
        self.port_names.extend(reach.names.iter().cloned());
        let id = RuleId::try_from(self.reaches.len()).unwrap_or(RuleId::MAX);
        self.reaches.push(reach);
        self.shapes.insert(shape, id);
        id
    }

    fn admin_rules(&mut self, policy: &AdminPolicy, direction: Direction) -> Reach {
        let mut reach = Reach::default();
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        for rule in rules {
            for peer in &rule.peers {
                match peer {
                    AdminPeer::Namespaces(namespaces) => {
                        reach.atoms.insert(self.pods(namespaces, None));
                    }
                    AdminPeer::Pods { namespaces, pods } => {
                        reach.atoms.insert(self.pods(namespaces, Some(pods)));
                    }
                    AdminPeer::Nodes(selector) => {
                        reach.atoms.insert(self.node(selector));
                    }
                    AdminPeer::Networks(networks) => {
                        let networks = networks.iter();
                        reach
                            .atoms
                            .extend(networks.map(|net| self.block(*net, &[])));
                    }
                    // The same for all peers of one sort.
                    AdminPeer::DomainNames(_) | AdminPeer::Unrecognised => {}
                }
            }
            for port in &rule.ports {
                match port {
                    AdminPort::Of(protocol, port) => reach.port(*protocol, port),
                    AdminPort::Named(name) => {
                        reach.names.insert(Arc::clone(name));
                    }
                }
            }
        }
        self.port_names.extend(reach.names.iter().cloned());
        reach
    }
}
