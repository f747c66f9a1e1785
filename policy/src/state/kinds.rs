//! Objects of the kinds that select nothing, as they come and go.

use std::sync::Arc;

use super::State;
use super::stale::{Stale, mark_pods};
use crate::model::{
    EndpointSlice, Family, ForeignPolicy, Namespace, NamespacedName, Node, Selector, Service,
};

/// The Service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.service.as_ref()?;
    Some(NamespacedName::new(
        Arc::clone(&slice.id.namespace),
        Arc::clone(name),
    ))
}

impl State {
    pub(super) fn put_namespace(&mut self, namespace: Arc<Namespace>, stale: &mut Stale) -> bool {
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

    pub(super) fn put_node(&mut self, node: Arc<Node>) -> bool {
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

    pub(super) fn drop_node(&mut self, name: &Arc<str>) {
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

    pub(super) fn put_service(&mut self, service: Arc<Service>) -> bool {
        if self.store.services.get(&service.id) == Some(&service) {
            return false;
        }
        self.drop_service(&service.id);
        for ip in &service.addresses {
            let id = service.id.clone();
            self.store.service_ips.add(ip.to_canonical(), id);
        }
        for port in &service.ports {
            if let Some(number) = port.node_port {
                let id = service.id.clone();
                self.store.node_ports.add((port.protocol, number), id);
            }
        }
        self.store.services.insert(service.id.clone(), service);
        true
    }

    pub(super) fn drop_service(&mut self, id: &NamespacedName) {
        if let Some(service) = self.store.services.remove(id) {
            for ip in &service.addresses {
                self.store.service_ips.remove(&ip.to_canonical(), id);
            }
            for port in &service.ports {
                if let Some(number) = port.node_port {
                    self.store.node_ports.remove(&(port.protocol, number), id);
                }
            }
        }
    }

    pub(super) fn put_slice(&mut self, slice: Arc<EndpointSlice>) -> bool {
        if self.store.slices.get(&slice.id) == Some(&slice) {
            return false;
        }
        self.drop_slice(&slice.id);
        if let Some(service) = service_of(&slice) {
            self.store.service_slices.add(service, slice.id.clone());
        }
        self.store.slices.insert(slice.id.clone(), slice);
        true
    }

    pub(super) fn drop_slice(&mut self, id: &NamespacedName) {
        if let Some(slice) = self.store.slices.remove(id)
            && let Some(service) = service_of(&slice)
        {
            self.store.service_slices.remove(&service, id);
        }
    }

    pub(super) fn drop_namespace(&mut self, name: &Arc<str>, stale: &mut Stale) {
        self.store.namespaces.remove(name);
        self.mark_namespace(name, stale);
    }

    fn mark_namespace(&mut self, namespace: &Arc<str>, stale: &mut Stale) {
        self.groups.forget_namespace(namespace);
        mark_pods(&self.store, namespace, &Selector::default(), stale);
    }

    pub(super) fn put_foreign(&mut self, policy: Arc<ForeignPolicy>) -> bool {
        let key = (policy.kind.kind(), policy.id.clone());
        if self.store.foreign_policies.get(&key) == Some(&policy) {
            return false;
        }
        self.store.foreign_policies.insert(key, policy);
        true
    }
}
