//! Pods that no policy can tell apart, put together.
//!
//! A verdict has two halves. Each depends on how one end is *governed* (which rules count for it) and on what the
//! other is as a *peer* (which selectors and blocks hold for it). A class is all three: governed for egress, governed
//! for ingress, peer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::ports::CellId;
use super::rules::{Atom, Policies, Reach, RuleId};
use crate::model::{Direction, Family, Labels, Pod, Protocol, Selector};
use crate::state::Snapshot;

/// What an end is to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Seen {
    Pod,
    Host,
    External,
}

/// A pod with one address, or an address outside.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) ip: IpAddr,
}

impl Member {
    pub(super) fn node(&self) -> Option<&Arc<str>> {
        self.pod.as_ref()?.node.as_ref()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GovernedKey {
    seen: Seen,
    isolated: bool,
    refused: bool,
    rules: Vec<RuleId>,
    admin: Vec<usize>,
    /// Of the destination's names of ports, where a rule has one.
    profile: u32,
}

/// One half of the verdict, for pods with the same rules.
#[derive(Debug)]
pub(super) struct Governed {
    pub(super) reach: Reach,
    /// `reach.atoms`, sorted.
    pub(super) atoms: Vec<Atom>,
    /// What is known, by what the rules can tell of the peer.
    pub(super) known: Known,
}

/// Halves by signature.
pub(super) type Known = HashMap<Signature, CellId, BuildHasherDefault<Quick>>;

/// A hash for the small numbers of a signature, which nobody outside can choose.
#[derive(Default)]
pub(super) struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let word = chunk
                .iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.write_u64(word);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// A peer as far as some rules can tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    pub(super) family: Family,
    pub(super) seen: Seen,
    /// Both on one node.
    pub(super) own_node: bool,
    pub(super) profile: u32,
    pub(super) atoms: SmallVec<[Atom; 6]>,
}

/// An end as others' rules see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) seen: Seen,
    pub(super) atoms: Vec<Atom>,
    pub(super) profile: u32,
}

/// Members that no policy can tell apart, but for the node they are on.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) family: Family,
    pub(super) seen: Seen,
    pub(super) egress: usize,
    pub(super) ingress: usize,
    pub(super) peer: usize,
    pub(super) members: Vec<Member>,
}

/// All pods of one namespace with the same labels, as far as any selector looks at them.
#[derive(Debug)]
struct Identity {
    atoms: Vec<Atom>,
    isolated: [bool; 2],
    rules: [Vec<RuleId>; 2],
    admin: [Vec<usize>; 2],
    refused: bool,
}

/// Labels that some selector looks at.
type Seeable = Vec<(Arc<str>, Arc<str>)>;

/// Namespace and labels.
type IdentityKey = (Arc<str>, Seeable);

/// The names of a pod's ports, as far as a rule has them, with what they mean.
type Profile = Vec<(Arc<str>, Protocol, u16)>;

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Every class, found or made.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) policies: Policies,
    pub(super) egress: Vec<Governed>,
    pub(super) ingress: Vec<Governed>,
    pub(super) peers: Vec<Peer>,
    pub(super) classes: Vec<Class>,
    governed_ids: [HashMap<GovernedKey, usize>; 2],
    peer_ids: HashMap<Peer, usize>,
    class_ids: HashMap<(Family, usize, usize, usize), usize>,
    identities: Vec<Identity>,
    identity_ids: HashMap<IdentityKey, usize>,
    profiles: HashMap<Profile, u32>,
    refused: BTreeSet<Arc<str>>,
    namespace_labels: HashMap<Arc<str>, Arc<Labels>>,
    node_labels: BTreeMap<Arc<str>, Labels>,
    /// Namespace selectors by the namespace that they match, selectors of pods by the labels: both meet often.
    matching: HashMap<Arc<str>, Arc<[usize]>>,
    anywhere: Vec<(Selector, Vec<(Atom, usize)>)>,
    pod_selectors: Vec<Selector>,
    pods_matched: HashMap<Seeable, Arc<[bool]>>,
}

impl Classes {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let policies = Policies::of(snapshot);
        let mut anywhere: HashMap<&Selector, Vec<(Atom, usize)>> = HashMap::new();
        let mut pod_selectors: Vec<Selector> = Vec::new();
        let mut places: HashMap<&Selector, usize> = HashMap::new();
        for (atom, namespaces, pods) in policies.anywhere() {
            let place = *places.entry(pods).or_insert_with(|| {
                pod_selectors.push(pods.clone());
                pod_selectors.len() - 1
            });
            anywhere.entry(namespaces).or_default().push((atom, place));
        }
        let anywhere = anywhere
            .into_iter()
            .map(|(namespaces, atoms)| (namespaces.clone(), atoms))
            .collect();
        let nodes = snapshot.nodes();
        Self {
            egress: Vec::new(),
            ingress: Vec::new(),
            peers: Vec::new(),
            classes: Vec::new(),
            governed_ids: Default::default(),
            peer_ids: HashMap::new(),
            class_ids: HashMap::new(),
            identities: Vec::new(),
            identity_ids: HashMap::new(),
            // 0 means that names do not matter.
            profiles: HashMap::from([(Profile::new(), 0)]),
            refused: snapshot.refused_policies().map(|id| id.namespace).collect(),
            namespace_labels: HashMap::new(),
            node_labels: nodes
                .map(|node| (Arc::clone(&node.name), node.labels.clone()))
                .collect(),
            matching: HashMap::new(),
            anywhere,
            pod_selectors,
            pods_matched: HashMap::new(),
            policies,
        }
    }

    /// The class of a pod at an address.
    pub(super) fn pod(&mut self, snapshot: &Snapshot, pod: &Arc<Pod>, ip: IpAddr) -> usize {
        let identity = self.identity(snapshot, pod);
        let profile = self.profile(pod);
        let seen = if pod.host_network {
            Seen::Host
        } else {
            Seen::Pod
        };
        let egress = self.governed(Direction::Egress, seen, Some(identity), profile);
        let ingress = self.governed(Direction::Ingress, seen, Some(identity), profile);
        let of = self.identities.get(identity);
        let mut atoms = of.map(|of| of.atoms.clone()).unwrap_or_default();
        self.policies.holding(ip, |atom| atoms.push(atom));
        if seen == Seen::Host {
            // A node whose object is not known has no labels, which some selectors select.
            let none = Labels::new();
            let node = pod.node.as_ref();
            let labels = node.and_then(|node| self.node_labels.get(node));
            let labels = labels.unwrap_or(&none);
            let nodes = self.policies.nodes();
            let selecting = nodes.filter(|(_, selector)| selector.matches(labels));
            atoms.extend(selecting.map(|(atom, _)| atom));
        }
        let member = Member {
            pod: Some(Arc::clone(pod)),
            ip,
        };
        self.class(seen, egress, ingress, atoms, profile, member)
    }

    /// The class of an address outside.
    pub(super) fn outside(&mut self, ip: IpAddr) -> usize {
        let egress = self.governed(Direction::Egress, Seen::External, None, 0);
        let ingress = self.governed(Direction::Ingress, Seen::External, None, 0);
        let mut atoms = Vec::new();
        self.policies.holding(ip, |atom| atoms.push(atom));
        let member = Member { pod: None, ip };
        self.class(Seen::External, egress, ingress, atoms, 0, member)
    }

    fn class(
        &mut self,
        seen: Seen,
        egress: usize,
        ingress: usize,
        mut atoms: Vec<Atom>,
        profile: u32,
        member: Member,
    ) -> usize {
        atoms.sort_unstable();
        atoms.dedup();
        let peer = Peer {
            seen,
            atoms,
            profile,
        };
        let peers = &mut self.peers;
        let peer = *self.peer_ids.entry(peer).or_insert_with_key(|peer| {
            peers.push(peer.clone());
            peers.len() - 1
        });
        let family = Family::of(member.ip);
        let key = (family, egress, ingress, peer);
        let classes = &mut self.classes;
        let id = *self.class_ids.entry(key).or_insert_with(|| {
            classes.push(Class {
                family,
                seen,
                egress,
                ingress,
                peer,
                members: Vec::new(),
            });
            classes.len() - 1
        });
        if let Some(class) = self.classes.get_mut(id) {
            class.members.push(member);
        }
        id
    }

    fn profile(&mut self, pod: &Pod) -> u32 {
        let names = &self.policies.port_names;
        let mut profile: Profile = pod
            .ports
            .iter()
            .filter_map(|port| {
                let name = port.name.as_ref().filter(|name| names.contains(*name))?;
                Some((Arc::clone(name), port.protocol, port.number))
            })
            .collect();
        profile.sort();
        profile.dedup();
        let next = u32::try_from(self.profiles.len()).unwrap_or(u32::MAX);
        *self.profiles.entry(profile).or_insert(next)
    }

    fn governed(
        &mut self,
        direction: Direction,
        seen: Seen,
        identity: Option<usize>,
        profile: u32,
    ) -> usize {
        let at = usize::from(direction == Direction::Ingress);
        let mut key = GovernedKey {
            seen,
            isolated: false,
            refused: false,
            rules: Vec::new(),
            admin: Vec::new(),
            profile: 0,
        };
        let mut reach = Reach::default();
        if let Some(of) = identity.and_then(|identity| self.identities.get(identity)) {
            key.isolated = of.isolated.get(at).copied().unwrap_or_default();
            key.refused = of.refused;
            key.rules = of.rules.get(at).cloned().unwrap_or_default();
            key.admin = of.admin.get(at).cloned().unwrap_or_default();
            let rules = key
                .rules
                .iter()
                .filter_map(|rule| self.policies.reach(*rule));
            let admin = key
                .admin
                .iter()
                .filter_map(|at| self.policies.admin.get(*at));
            for of in rules.chain(admin.map(|of| of.reach(direction))) {
                reach.extend(of);
            }
            if direction == Direction::Ingress && !reach.names.is_empty() {
                key.profile = profile;
            }
        }
        let governed = match direction {
            Direction::Egress => &mut self.egress,
            Direction::Ingress => &mut self.ingress,
        };
        let Some(ids) = self.governed_ids.get_mut(at) else {
            return 0;
        };
        *ids.entry(key).or_insert_with(|| {
            governed.push(Governed {
                atoms: reach.atoms.iter().copied().collect(),
                reach,
                known: Known::default(),
            });
            governed.len() - 1
        })
    }

    fn identity(&mut self, snapshot: &Snapshot, pod: &Pod) -> usize {
        let keys = &self.policies.label_keys;
        let labels: Vec<_> = pod
            .labels
            .iter()
            .filter(|(key, _)| keys.contains(*key))
            .map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
            .collect();
        let namespace = &pod.id.namespace;
        let key = (Arc::clone(namespace), labels);
        if let Some(identity) = self.identity_ids.get(&key) {
            return *identity;
        }
        let namespace_labels = self
            .namespace_labels
            .entry(Arc::clone(namespace))
            .or_insert_with(|| Arc::new(snapshot.namespace_labels(namespace)));
        let namespace_labels = Arc::clone(namespace_labels);
        let identity = Identity {
            atoms: self.label_atoms(namespace, &namespace_labels, &key.1, &pod.labels),
            refused: self.refused.contains(namespace),
            ..self.governing(namespace, &namespace_labels, &pod.labels)
        };
        self.identities.push(identity);
        let id = self.identities.len() - 1;
        self.identity_ids.insert(key, id);
        id
    }

    fn governing(&self, namespace: &Arc<str>, of_namespace: &Labels, labels: &Labels) -> Identity {
        let mut identity = Identity {
            atoms: Vec::new(),
            isolated: [false; 2],
            rules: Default::default(),
            admin: Default::default(),
            refused: false,
        };
        let selecting: Vec<_> = self
            .policies
            .in_namespace(namespace)
            .iter()
            .filter(|of| of.policy.pod_selector.matches(labels))
            .collect();
        let admin: Vec<_> = self
            .policies
            .admin
            .iter()
            .enumerate()
            .filter(|(_, admin)| admin.selects(of_namespace, labels))
            .collect();
        for (at, direction) in DIRECTIONS.into_iter().enumerate() {
            let isolating = || selecting.iter().filter_map(|of| of.rules(direction));
            // Their order means nothing, and neither does how often a rule is there.
            let rules: BTreeSet<RuleId> = isolating().flatten().copied().collect();
            let with_rules = admin.iter().filter(|(_, of)| of.has_rules(direction));
            if let (Some(isolated), Some(to), Some(admin)) = (
                identity.isolated.get_mut(at),
                identity.rules.get_mut(at),
                identity.admin.get_mut(at),
            ) {
                *isolated = isolating().next().is_some();
                to.extend(rules);
                admin.extend(with_rules.map(|(at, _)| *at));
            }
        }
        identity
    }

    /// The selectors that hold for labels in a namespace.
    fn label_atoms(
        &mut self,
        namespace: &Arc<str>,
        of_namespace: &Labels,
        seen: &[(Arc<str>, Arc<str>)],
        labels: &Labels,
    ) -> Vec<Atom> {
        let own = self.policies.own_of(namespace);
        let mut atoms: Vec<Atom> = own
            .filter(|(_, selector)| selector.matches(labels))
            .map(|(atom, _)| atom)
            .collect();
        let anywhere = &self.anywhere;
        let matching = self
            .matching
            .entry(Arc::clone(namespace))
            .or_insert_with(|| {
                let selectors = anywhere.iter().enumerate();
                selectors
                    .filter(|(_, (selector, _))| selector.matches(of_namespace))
                    .map(|(at, _)| at)
                    .collect()
            });
        let selectors = &self.pod_selectors;
        let matched = self
            .pods_matched
            .entry(seen.to_vec())
            .or_insert_with(|| selectors.iter().map(|of| of.matches(labels)).collect());
        for (atom, place) in matching
            .iter()
            .filter_map(|at| anywhere.get(*at))
            .flat_map(|(_, atoms)| atoms)
        {
            if matched.get(*place).copied().unwrap_or_default() {
                atoms.push(*atom);
            }
        }
        atoms
    }
}
