//! The index: `apply`, `delete`, `reset`, and the immutable [`Snapshot`] they lead to.

use std::net::IpAddr;
use std::sync::Arc;

use crate::evaluate::{Query, Verdict};
use crate::explain::Explanation;
use crate::model::{Key, Kind, NamespacedName, NetworkPolicy, Object, Pod, Uid};

/// Whether a verb changed anything that a verdict can depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing changed.
    None,
    /// The state is another one now.
    Changed,
}

/// Who has an address.
#[derive(Clone, Debug)]
pub enum IpOwner {
    /// Nobody that we know.
    Nobody,
    /// Nobody, but it lies inside a node's pod CIDR: a tunnel or bridge address, or a pod
    /// that is too new.
    UnknownInPodCidr,
    /// One pod (not on the host network, not finished).
    Pod(Arc<Pod>),
    /// A node (and so also its hostNetwork pods).
    Node(Arc<str>),
    /// A Service address: never the source or final destination of a packet.
    Service(NamespacedName),
    /// Several living pods claim it at the moment.
    Ambiguous,
}

/// The mutable state. Not `Sync` by need: one task owns it and publishes snapshots.
#[derive(Debug, Default)]
pub struct State {}

impl State {
    /// An empty cluster.
    pub fn new() -> Self {
        todo!()
    }
    /// Adds or replaces an object. An object of the same name and another UID is replaced.
    pub fn apply(&mut self, _object: Object) -> Change {
        todo!()
    }
    /// Removes the object with exactly this key (UID included).
    pub fn delete(&mut self, _key: &Key) -> Change {
        todo!()
    }
    /// Replaces all objects of a kind by these, as a diff: what stays equal costs no recompute.
    pub fn reset(&mut self, _kind: Kind, _objects: Vec<Object>) -> Change {
        todo!()
    }
    /// The present state as an immutable value; O(1) or nearly.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
}

/// An immutable state of the cluster. Cheap to clone and to keep (structure is shared).
#[derive(Clone, Debug)]
pub struct Snapshot {}

impl Snapshot {
    /// Grows with every change of the state it came from.
    pub fn version(&self) -> u64 {
        todo!()
    }
    /// The verdict for a connection; no allocation, no lock.
    pub fn evaluate(&self, _query: &Query<'_>) -> Verdict<'_> {
        todo!()
    }
    /// The verdict with the walk that led to it.
    pub fn explain(&self, _query: &Query<'_>) -> Explanation {
        todo!()
    }
    /// The owner of an address.
    pub fn owner(&self, _ip: IpAddr) -> IpOwner {
        todo!()
    }
    /// A pod by UID.
    pub fn pod(&self, _uid: &Uid) -> Option<&Arc<Pod>> {
        todo!()
    }
    /// A pod by name.
    pub fn pod_named(&self, _id: &NamespacedName) -> Option<&Arc<Pod>> {
        todo!()
    }
    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        std::iter::empty()
    }
    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        std::iter::empty()
    }
    /// Every object, for keeping a snapshot on disk; `State::reset` of each kind restores it.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        std::iter::empty()
    }
    /// How many objects of a kind there are.
    pub fn count(&self, _kind: Kind) -> usize {
        todo!()
    }
}
