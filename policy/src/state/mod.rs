//! The index: `apply`, `delete`, `reset`, and the immutable [`Snapshot`] they lead to.
//!
//! The state keeps, for each pod, the numbers of the peer selectors that select it and the
//! policies that isolate it. A change recomputes this for the pods that it can concern, which
//! the selectors' indexes tell; the rest of the cluster is not looked at.

mod claims;
mod groups;
mod index;
mod pods;
mod policies;
mod refused;
mod snapshot;

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::evaluate::{PodEntry, SeenAs};
use crate::model::{
    AdminPolicy, EndpointSlice, Family, ForeignPolicy, Key, Kind, Namespace, NamespacedName,
    NetworkPolicy, Node, Object, Pod, Selector, Service, Uid,
};
use groups::{GroupKey, Groups, Scope};
use policies::Policies;
pub(crate) use refused::RefusedPolicies;
pub use snapshot::Snapshot;
pub(crate) use snapshot::Store;

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
}

/// Pods whose entries must be computed anew.
#[derive(Debug, Default)]
struct Stale {
    all: bool,
    marks: usize,
    pods: HashSet<Uid>,
}

impl Stale {
    /// Whether it is still worth finding out which pods a selector concerns: past some number
    /// of selectors, looking at all pods once is cheaper.
    const fn counts(&mut self) -> bool {
        self.marks = self.marks.saturating_add(1);
        self.all = self.all || self.marks > 64;
        !self.all
    }
}

impl State {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
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
        let gone: Vec<Key> = self
            .keys(kind)
            .into_iter()
            .filter(|key| !kept.contains(key))
            .collect();
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
        self.policies.prune();
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
            Object::AdminPolicy(policy) => self.put_admin(policy),
            Object::ForeignPolicy(policy) => self.put_foreign(policy),
        }
    }

    fn remove(&mut self, key: &Key, stale: &mut Stale) -> bool {
        if self.held(key.kind, &key.id) != Some(&key.uid) {
            return false;
        }
        match key.kind {
            Kind::Pod => self.drop_pod(&key.uid),
            Kind::Namespace => {
                self.store.namespaces.remove(&key.id.name);
                self.mark_namespace(&key.id.name, stale);
            }
            Kind::Node => self.drop_node(&key.id.name),
            Kind::NetworkPolicy => self.drop_policy(&key.id, stale),
            Kind::Service => self.drop_service(&key.id),
            Kind::EndpointSlice => {
                self.store.slices.remove(&key.id);
            }
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => {
                self.store
                    .admin_policies
                    .remove(&(key.kind, Arc::clone(&key.id.name)));
            }
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

    /// The UID of the object held under a name.
    fn held(&self, kind: Kind, id: &NamespacedName) -> Option<&Uid> {
        let store = &self.store;
        match kind {
            Kind::Pod => store.pod_names.get(id),
            Kind::Namespace => store.namespaces.get(&id.name).map(|held| &held.uid),
            Kind::Node => store.nodes.get(&id.name).map(|held| &held.uid),
            Kind::NetworkPolicy => store.policies.get(id).map(|held| &held.uid),
            Kind::Service => store.services.get(id).map(|held| &held.uid),
            Kind::EndpointSlice => store.slices.get(id).map(|held| &held.uid),
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => store
                .admin_policies
                .get(&(kind, Arc::clone(&id.name)))
                .map(|held| &held.uid),
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::CalicoGlobalNetworkPolicy => store
                .foreign_policies
                .get(&(kind, id.clone()))
                .map(|held| &held.uid),
        }
    }

    fn keys(&self, kind: Kind) -> Vec<Key> {
        let store = &self.store;
        let key = |id: NamespacedName, uid: &Uid| Key {
            kind,
            id,
            uid: uid.clone(),
        };
        let cluster_wide = |name: &Arc<str>| NamespacedName::new("", Arc::clone(name));
        match kind {
            Kind::Pod => {
                let names = store.pod_names.iter();
                names.map(|(id, uid)| key(id.clone(), uid)).collect()
            }
            Kind::Namespace => {
                let held = store.namespaces.values();
                held.map(|o| key(cluster_wide(&o.name), &o.uid)).collect()
            }
            Kind::Node => {
                let held = store.nodes.values();
                held.map(|o| key(cluster_wide(&o.name), &o.uid)).collect()
            }
            Kind::NetworkPolicy => {
                let held = store.policies.values();
                held.map(|o| key(o.id.clone(), &o.uid)).collect()
            }
            Kind::Service => {
                let held = store.services.values();
                held.map(|o| key(o.id.clone(), &o.uid)).collect()
            }
            Kind::EndpointSlice => {
                let held = store.slices.values();
                held.map(|o| key(o.id.clone(), &o.uid)).collect()
            }
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy => {
                let held = store.admin_policies.values();
                held.filter(|o| o.kind.kind() == kind)
                    .map(|o| key(cluster_wide(&o.name), &o.uid))
                    .collect()
            }
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::CalicoGlobalNetworkPolicy => {
                let held = store.foreign_policies.values();
                held.filter(|o| o.kind.kind() == kind)
                    .map(|o| key(o.id.clone(), &o.uid))
                    .collect()
            }
        }
    }

    /// A pod with what selects it now.
    fn entry(&mut self, pod: Arc<Pod>) -> PodEntry {
        if pod.finished {
            let nobody = self.policies.nobody();
            return PodEntry {
                uid: pod.uid.clone(),
                seen_as: SeenAs::of(&pod),
                pod,
                groups: SmallVec::new(),
                ingress: Arc::clone(&nobody),
                egress: nobody,
            };
        }
        let namespace = &pod.id.namespace;
        let store = &self.store;
        let groups =
            self.groups
                .of_pod(namespace, || store.namespace_labels(namespace), &pod.labels);
        let (ingress, egress) = self.policies.isolating(&pod);
        PodEntry {
            uid: pod.uid.clone(),
            seen_as: SeenAs::of(&pod),
            pod,
            groups,
            ingress,
            egress,
        }
    }

    fn put_pod(&mut self, pod: Arc<Pod>) -> bool {
        let held = self.store.pod_names.get(&pod.id).cloned();
        let old: Option<Arc<PodEntry>> = held
            .as_ref()
            .and_then(|uid| self.store.pods.get(uid).cloned());
        if let Some(old) = &old
            && *old.pod == *pod
        {
            return false;
        }
        if let Some(uid) = &held {
            if *uid == pod.uid {
                self.release_pod_ips(uid);
            } else {
                self.drop_pod(uid);
            }
        }
        // One UID under two names is no cluster's doing, but a folder of files may hold it.
        if held.as_ref() != Some(&pod.uid) {
            self.drop_pod(&pod.uid.clone());
            self.store.pod_names.insert(pod.id.clone(), pod.uid.clone());
        }
        if !pod.finished && !pod.host_network {
            for ip in &pod.ips {
                self.store.pod_ips.add(ip.to_canonical(), pod.uid.clone());
            }
        }
        let entry = match old {
            // Most updates of a pod touch nothing that selectors see.
            Some(old) if old.pod.labels == pod.labels && old.pod.finished == pod.finished => {
                PodEntry {
                    uid: pod.uid.clone(),
                    seen_as: SeenAs::of(&pod),
                    pod,
                    groups: old.groups.clone(),
                    ingress: Arc::clone(&old.ingress),
                    egress: Arc::clone(&old.egress),
                }
            }
            Some(_) | None => self.entry(pod),
        };
        self.store.pods.insert(Arc::new(entry));
        true
    }

    fn release_pod_ips(&mut self, uid: &Uid) {
        let Some(entry) = self.store.pods.get(uid).cloned() else {
            return;
        };
        for ip in &entry.pod.ips {
            self.store.pod_ips.remove(&ip.to_canonical(), uid);
        }
    }

    fn drop_pod(&mut self, uid: &Uid) {
        self.release_pod_ips(uid);
        if let Some(entry) = self.store.pods.remove(uid) {
            self.store.pod_names.remove(&entry.pod.id);
        }
    }

    fn put_namespace(&mut self, namespace: Arc<Namespace>, stale: &mut Stale) -> bool {
        if self.store.namespaces.get(&namespace.name) == Some(&namespace) {
            return false;
        }
        let name = Arc::clone(&namespace.name);
        let before = self.store.namespace_labels(&name);
        self.store.namespaces.insert(Arc::clone(&name), namespace);
        if self.store.namespace_labels(&name) != before {
            self.mark_namespace(&name, stale);
        }
        true
    }

    fn put_node(&mut self, node: Arc<Node>) -> bool {
        if self.store.nodes.get(&node.name) == Some(&node) {
            return false;
        }
        self.drop_node(&node.name);
        for ip in &node.addresses {
            let name = Arc::clone(&node.name);
            self.store.node_ips.add(ip.to_canonical(), name);
        }
        for cidr in &node.pod_cidrs {
            let name = Arc::clone(&node.name);
            self.store.pod_cidrs.add(cidr.trunc(), name);
            let length = (Family::of(cidr.addr()), cidr.prefix_len());
            let count = self.store.pod_cidr_lengths.entry(length).or_default();
            *count = count.saturating_add(1);
        }
        self.store.nodes.insert(Arc::clone(&node.name), node);
        true
    }

    fn drop_node(&mut self, name: &Arc<str>) {
        let Some(node) = self.store.nodes.remove(name) else {
            return;
        };
        for ip in &node.addresses {
            self.store.node_ips.remove(&ip.to_canonical(), name);
        }
        for cidr in &node.pod_cidrs {
            self.store.pod_cidrs.remove(&cidr.trunc(), name);
            let length = (Family::of(cidr.addr()), cidr.prefix_len());
            if let Some(count) = self.store.pod_cidr_lengths.get_mut(&length) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.store.pod_cidr_lengths.remove(&length);
                }
            }
        }
    }

    fn put_service(&mut self, service: Arc<Service>) -> bool {
        if self.store.services.get(&service.id) == Some(&service) {
            return false;
        }
        self.drop_service(&service.id);
        for ip in &service.addresses {
            let id = service.id.clone();
            self.store.service_ips.add(ip.to_canonical(), id);
        }
        self.store.services.insert(service.id.clone(), service);
        true
    }

    fn drop_service(&mut self, id: &NamespacedName) {
        if let Some(service) = self.store.services.remove(id) {
            for ip in &service.addresses {
                self.store.service_ips.remove(&ip.to_canonical(), id);
            }
        }
    }

    fn put_slice(&mut self, slice: Arc<EndpointSlice>) -> bool {
        if self.store.slices.get(&slice.id) == Some(&slice) {
            return false;
        }
        self.store.slices.insert(slice.id.clone(), slice);
        true
    }

    fn put_admin(&mut self, policy: Arc<AdminPolicy>) -> bool {
        let key = (policy.kind.kind(), Arc::clone(&policy.name));
        if self.store.admin_policies.get(&key) == Some(&policy) {
            return false;
        }
        self.store.admin_policies.insert(key, policy);
        true
    }

    fn put_foreign(&mut self, policy: Arc<ForeignPolicy>) -> bool {
        let key = (policy.kind.kind(), policy.id.clone());
        if self.store.foreign_policies.get(&key) == Some(&policy) {
            return false;
        }
        self.store.foreign_policies.insert(key, policy);
        true
    }

    fn put_policy(&mut self, policy: &Arc<NetworkPolicy>, stale: &mut Stale) -> bool {
        if self.store.policies.get(&policy.id) == Some(policy) {
            return false;
        }
        let old = self.policies.remove(&policy.id);
        let store = &mut self.store;
        // First the new, then the old: what both use is neither new nor gone.
        self.policies.insert(policy, &mut self.groups, |key| {
            mark_group(store, key, stale);
        });
        store.policies.insert(policy.id.clone(), Arc::clone(policy));
        mark_selected(store, policy, stale);
        if let Some(old) = old {
            mark_selected(store, &old.policy, stale);
            self.release_groups(&old.groups, stale);
        }
        true
    }

    fn drop_policy(&mut self, id: &NamespacedName, stale: &mut Stale) {
        self.store.policies.remove(id);
        if let Some(old) = self.policies.remove(id) {
            mark_selected(&self.store, &old.policy, stale);
            self.release_groups(&old.groups, stale);
        }
    }

    fn release_groups(&mut self, keys: &[GroupKey], stale: &mut Stale) {
        for key in keys {
            if self.groups.release(key) {
                mark_group(&self.store, key, stale);
            }
        }
    }

    fn mark_namespace(&mut self, namespace: &Arc<str>, stale: &mut Stale) {
        self.groups.forget_namespace(namespace);
        mark_pods(&self.store, namespace, &Selector::default(), stale);
    }
}

fn mark_selected(store: &Store, policy: &NetworkPolicy, stale: &mut Stale) {
    if stale.counts() {
        mark_pods(store, &policy.id.namespace, &policy.pod_selector, stale);
    }
}

fn mark_group(store: &Store, key: &GroupKey, stale: &mut Stale) {
    if !stale.counts() {
        return;
    }
    match &key.scope {
        Scope::Own(namespace) => mark_pods(store, namespace, &key.pods, stale),
        Scope::Selected(selector) => {
            for namespace in store.namespaces_of_pods() {
                if selector.matches(&store.namespace_labels(namespace)) {
                    mark_pods(store, namespace, &key.pods, stale);
                }
            }
        }
    }
}

fn mark_pods(store: &Store, namespace: &Arc<str>, selector: &Selector, stale: &mut Stale) {
    for entry in store.pods_in(namespace) {
        if selector.matches(&entry.pod.labels) {
            stale.pods.insert(entry.pod.uid.clone());
        }
    }
}
