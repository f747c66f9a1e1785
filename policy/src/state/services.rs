//! Who stands behind an address that no pod has.

use std::net::IpAddr;
use std::sync::Arc;

use super::Snapshot;
use crate::model::{NamespacedName, Node, Protocol, Service, ServicePort, Uid};

/// One end behind a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub ip: IpAddr,
    /// The port there.
    pub port: u16,
    /// The pod, if the EndpointSlice names one.
    pub pod: Option<Uid>,
    /// Whether it takes connections: it is ready, or it is terminating, which a proxy may fall back to or not know yet.
    pub live: bool,
}

impl Snapshot {
    /// The Service whose address this is, and the entry for the port. `None` also if several Services claim both.
    pub fn service_at(
        &self,
        ip: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<(&Arc<Service>, &ServicePort)> {
        let claimants = self.store.service_ips.of(&ip.to_canonical());
        self.only(claimants, |of| of.protocol == protocol && of.port == port)
    }

    /// The Service that every node forwards this port to. `None` also if several do.
    pub fn service_at_node_port(
        &self,
        protocol: Protocol,
        port: u16,
    ) -> Option<(&Arc<Service>, &ServicePort)> {
        let claimants = self.store.node_ports.of(&(protocol, port));
        self.only(claimants, |of| {
            of.protocol == protocol && of.node_port == Some(port)
        })
    }

    fn only(
        &self,
        claimants: &[NamespacedName],
        is_meant: impl Fn(&ServicePort) -> bool,
    ) -> Option<(&Arc<Service>, &ServicePort)> {
        let mut found = claimants.iter().filter_map(|id| {
            let service = self.store.services.get(id)?;
            let entry = service.ports.iter().find(|of| is_meant(of))?;
            Some((service, entry))
        });
        found.next().filter(|_| found.next().is_none())
    }

    /// The ends behind a port of a Service, by its EndpointSlices, of one address family or both.
    pub fn backends<'s>(
        &'s self,
        service: &'s Service,
        entry: &'s ServicePort,
    ) -> impl Iterator<Item = Backend> + 's {
        let slices = self.store.service_slices.of(&service.id).iter();
        slices
            .filter_map(|id| self.store.slices.get(id))
            .flat_map(move |slice| {
                let port = slice.ports.iter().find(|(name, _, protocol)| {
                    *protocol == entry.protocol
                        && name.as_deref().unwrap_or_default()
                            == entry.name.as_deref().unwrap_or_default()
                });
                let port = port.map(|(_, port, _)| *port);
                slice
                    .endpoints
                    .iter()
                    .filter_map(move |endpoint| Some((endpoint, port?)))
                    .flat_map(|(endpoint, port)| {
                        endpoint.addresses.iter().map(move |ip| Backend {
                            ip: ip.to_canonical(),
                            port,
                            pod: endpoint.pod.clone(),
                            live: endpoint.ready || endpoint.terminating,
                        })
                    })
            })
    }

    /// Whether a pod is ready, as the EndpointSlices say; `None` if none of them names it.
    pub fn is_ready(&self, pod: &Uid) -> Option<bool> {
        let namespace = &self.pod(pod)?.id.namespace;
        let first = NamespacedName::new(Arc::clone(namespace), "");
        self.store
            .slices
            .range(first..)
            .take_while(|(id, _)| id.namespace == *namespace)
            .flat_map(|(_, slice)| &slice.endpoints)
            .filter(|endpoint| endpoint.pod.as_ref() == Some(pod))
            .map(|endpoint| endpoint.ready)
            .reduce(|some, other| some || other)
    }

    /// The node in one of whose pod CIDRs an address lies: a bridge's, a tunnel's or a new pod's. `None` also if several
    /// nodes claim it.
    pub fn node_of_pod_cidr(&self, ip: IpAddr) -> Option<&Arc<str>> {
        let ip = ip.to_canonical();
        let mut found = self
            .store
            .nodes
            .values()
            .filter(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&ip)));
        let node: &Arc<Node> = found.next()?;
        found.next().is_none().then_some(&node.name)
    }

    /// A node by name.
    pub fn node_named(&self, name: &str) -> Option<&Arc<Node>> {
        self.store.nodes.get(name)
    }
}
