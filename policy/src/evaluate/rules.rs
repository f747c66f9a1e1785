//! The compiled form of rules: selectors are numbers, ports and blocks are ranges.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::admin::AdminRules;
use super::blocks::Blocks;
use super::ports::Ports;
use crate::model::{NetworkPolicy, Peer, Pod, Selector, Uid};

/// The number of a distinct (namespaces, pods) peer selector. Each pod carries the sorted
/// numbers of those that select it.
pub(crate) type GroupId = u32;

/// How far a rule (or a part of it) admits. The order counts: two parts that must both
/// admit do so as far as the lesser one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Admits {
    /// In no reading of the API.
    No,
    /// In one reading that the API leaves open and not in the other.
    Open,
    /// In every reading.
    Sure,
}

/// A rule with the position of its policy in the [`Isolation`] that holds it.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) policy: usize,
    pub(crate) rule: usize,
    pub(crate) ports: Ports,
    pub(crate) peers: Peers,
}

/// The peers of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    /// Nodes, external addresses and all pods.
    Everyone,
    /// These.
    Some {
        /// Every pod of every namespace.
        any_pod: bool,
        /// Sorted.
        groups: SmallVec<[GroupId; 4]>,
        blocks: Blocks,
    },
}

/// All rules that count for a pod in one direction, in one piece of memory: those of the NetworkPolicies that isolate it, in
/// order of policy name and rule index, and those of the tiers around them. Pods that the same policies select share it.
#[derive(Debug, Default)]
pub(crate) struct Isolation {
    pub(crate) policies: Box<[Arc<NetworkPolicy>]>,
    pub(crate) rules: Box<[CompiledRule]>,
    /// Only where one selects the pod and has a rule of this direction.
    pub(crate) admin: Option<Arc<AdminRules>>,
}

/// A pod with all that a verdict needs of it, in one piece: verdicts spend their time waiting
/// for memory.
#[derive(Debug)]
pub(crate) struct PodEntry {
    pub(crate) uid: Uid,
    pub(crate) seen_as: SeenAs,
    /// Sorted. A hostNetwork pod has those that would select it if it were visible; a
    /// finished one none.
    pub(crate) groups: SmallVec<[GroupId; 12]>,
    pub(crate) ingress: Arc<Isolation>,
    pub(crate) egress: Arc<Isolation>,
    pub(crate) pod: Arc<Pod>,
}

/// What a pod is to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenAs {
    /// A pod with a network of its own.
    Pod,
    /// A process on its node's network.
    Host,
    /// Finished: nothing any more.
    Nothing,
}

impl SeenAs {
    pub(crate) const fn of(pod: &Pod) -> Self {
        if pod.finished {
            Self::Nothing
        } else if pod.host_network {
            Self::Host
        } else {
            Self::Pod
        }
    }
}

impl PodEntry {
    /// Whether nothing that a verdict needs has changed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pod, &other.pod)
            && Arc::ptr_eq(&self.ingress, &other.ingress)
            && Arc::ptr_eq(&self.egress, &other.egress)
            && self.groups == other.groups
    }
}

impl Peers {
    /// `group` gives the number of a selector peer that is not simply every pod.
    pub(crate) fn compile(peers: &[Peer], mut group: impl FnMut(&Peer) -> Option<GroupId>) -> Self {
        if peers.is_empty() {
            return Self::Everyone;
        }
        let mut any_pod = false;
        let mut groups = SmallVec::new();
        let mut blocks = Vec::new();
        for peer in peers {
            match peer {
                Peer::IpBlock { cidr, except } => blocks.push((cidr, &**except)),
                Peer::Pods {
                    namespaces: Some(namespaces),
                    pods,
                } if are_all(namespaces, pods.as_ref()) => any_pod = true,
                Peer::Pods { .. } => groups.extend(group(peer)),
            }
        }
        Self::some(any_pod, groups, Blocks::compile(blocks))
    }

    pub(crate) fn some(any_pod: bool, mut groups: SmallVec<[GroupId; 4]>, blocks: Blocks) -> Self {
        groups.sort_unstable();
        groups.dedup();
        groups.shrink_to_fit();
        Self::Some {
            any_pod,
            groups,
            blocks,
        }
    }

    #[inline]
    pub(crate) fn select(&self, entry: &PodEntry) -> bool {
        match self {
            Self::Everyone => true,
            Self::Some { any_pod: true, .. } => true,
            // The shorter list is walked, the longer one bisected.
            Self::Some { groups, .. } if groups.len() <= entry.groups.len() => groups
                .iter()
                .any(|group| entry.groups.binary_search(group).is_ok()),
            Self::Some { groups, .. } => entry
                .groups
                .iter()
                .any(|group| groups.binary_search(group).is_ok()),
        }
    }

    #[inline]
    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        match self {
            Self::Everyone => true,
            Self::Some { blocks, .. } => blocks.contain(ip),
        }
    }
}

/// `namespaceSelector: {}` without a restriction on pods.
pub(crate) fn are_all(namespaces: &Selector, pods: Option<&Selector>) -> bool {
    namespaces.is_empty() && pods.is_none_or(Selector::is_empty)
}
