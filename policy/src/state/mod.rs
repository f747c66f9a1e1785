//! The index: `apply`, `delete`, `reset`, and the immutable [`Snapshot`] they lead to.
//!
//! The state keeps, for each pod, the numbers of the peer selectors that select it and the
//! policies that isolate it. A change recomputes this for the pods that it can concern, which
//! the selectors' indexes tell; the rest of the cluster is not looked at.

mod admin;
mod claims;
mod entry;
mod groups;
mod index;
mod kinds;
mod pods;
mod policies;
mod refused;
mod renewed;
mod selecting;
mod services;
mod snapshot;
mod stale;
mod store;
mod texts;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::evaluate::PodEntry;
use crate::model::{Key, Kind, NamespacedName, Object, Pod};
use admin::AdminPolicies;
use groups::Groups;
use policies::Policies;
pub(crate) use refused::RefusedPolicies;
pub use services::Backend;
pub use snapshot::Snapshot;
use stale::Stale;
pub(crate) use store::Store;
use texts::Texts;

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
    /// Several living pods or nodes claim it at the moment.
    Ambiguous,
}

/// The mutable state. Not `Sync` by need: one task owns it and publishes snapshots.
#[derive(Debug, Default)]
pub struct State {
    store: Store,
    groups: Groups,
    policies: Policies,
    admin: AdminPolicies,
    texts: Texts,
}

impl State {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cluster of these objects and these refused policies, such as those of a [`Snapshot`].
    pub fn of(
        objects: impl IntoIterator<Item = Object>,
        refused: impl IntoIterator<Item = NamespacedName>,
    ) -> Self {
        let mut state = Self::new();
        let mut by_kind: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
        for object in objects {
            by_kind.entry(object.key().kind).or_default().push(object);
        }
        for kind in Kind::ALL {
            state.reset(kind, by_kind.remove(&kind).unwrap_or_default());
        }
        state.set_refused_policies(refused);
        state
    }

    /// Adds or replaces an object. An object of the same name and another UID is replaced.
    pub fn apply(&mut self, object: Object) -> Change {
        let mut stale = Stale::default();
        let changed = self.put(object, &mut stale);
        self.finish(changed, &stale)
    }

    /// Removes the object with exactly this key (UID included).
    pub fn delete(&mut self, key: &Key) -> Change {
        let mut stale = Stale::default();
        let changed = self.remove(key, &mut stale);
        self.finish(changed, &stale)
    }

    /// Replaces all objects of a kind by these, as a diff: what stays equal costs no
    /// recompute. Objects of other kinds among them are left out.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) -> Change {
        let mut stale = Stale::default();
        let mut changed = false;
        let objects: Vec<_> = objects
            .into_iter()
            .map(|object| (object.key(), object))
            .filter(|(key, _)| key.kind == kind)
            .collect();
        let kept: HashSet<&Key> = objects.iter().map(|(key, _)| key).collect();
        let held = self.store.objects(kind).map(|held| held.key());
        let gone: Vec<Key> = held.filter(|key| !kept.contains(key)).collect();
        drop(kept);
        for key in &gone {
            changed |= self.remove(key, &mut stale);
        }
        for (_, object) in objects {
            changed |= self.put(object, &mut stale);
        }
        self.finish(changed, &stale)
    }

    /// The present state as an immutable value; O(1) or nearly.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            store: Arc::new(self.store.clone()),
        }
    }

    fn finish(&mut self, changed: bool, stale: &Stale) -> Change {
        if !changed {
            return Change::None;
        }
        let pods: Vec<Arc<PodEntry>> = if stale.all {
            self.store.pods.values().cloned().collect()
        } else {
            let entries = stale.pods.iter().filter_map(|uid| self.store.pods.get(uid));
            entries.cloned().collect()
        };
        for entry in pods {
            let new = self.entry(Arc::clone(&entry.pod));
            if !entry.is_same(&new) {
                self.store.pods.insert(Arc::new(new));
            }
        }
        if !stale.all && !stale.renewed.is_empty() {
            self.renew(&stale.renewed);
        }
        self.policies.prune();
        self.texts.prune();
        self.store.version = self.store.version.wrapping_add(1);
        Change::Changed
    }

    fn put(&mut self, object: Object, stale: &mut Stale) -> bool {
        match object {
            Object::Pod(pod) => self.put_pod(pod),
            Object::Namespace(namespace) => self.put_namespace(namespace, stale),
            Object::Node(node) => self.put_node(node),
            Object::NetworkPolicy(policy) => self.put_policy(&policy, stale),
            Object::Service(service) => self.put_service(service),
            Object::EndpointSlice(slice) => self.put_slice(slice),
            Object::AdminPolicy(policy) => self.put_admin(&policy, stale),
            Object::ForeignPolicy(policy) => self.put_foreign(policy),
        }
    }

    fn remove(&mut self, key: &Key, stale: &mut Stale) -> bool {
        if self.store.held(key.kind, &key.id) != Some(&key.uid) {
            return false;
        }
        match key.kind {
            Kind::Pod => self.drop_pod(&key.uid),
            Kind::Namespace => self.drop_namespace(&key.id.name, stale),
            Kind::Node => self.drop_node(&key.id.name),
            Kind::NetworkPolicy => self.drop_policy(&key.id, stale),
            Kind::Service => self.drop_service(&key.id),
            Kind::EndpointSlice => self.drop_slice(&key.id),
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => self.drop_admin(&(key.kind, key.id.clone()), stale),
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::CalicoGlobalNetworkPolicy => {
                self.store
                    .foreign_policies
                    .remove(&(key.kind, key.id.clone()));
            }
        }
        true
    }
}
