//! The DNS servers of a cluster, and which pods policies keep from them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Cluster;
use crate::ask::address;
use crate::evaluate::{Endpoint, Expectation, Query};
use crate::model::NAMESPACE_NAME_LABEL;
use crate::model::{
    ContainerPort, Direction, Family, Kind, Labels, NamespacedName, NetworkPolicy, Object, Peer,
    Pod, Protocol, Requirement, Selector, Uid,
};
use crate::state::{Snapshot, State};

const PORT: u16 = 53;

/// What the policies of a pod make of its way to a server, or to all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Allowed to some server.
    pub(super) allowed: bool,
    /// Denied to every server that the pod shares an address family with, of which there is at least one.
    pub(super) denied: bool,
}

/// The DNS servers: pods, and addresses that an option gives.
pub(super) struct Dns {
    /// That of the audit, or what of it the egress of its pods to assumed servers depends on.
    snapshot: Snapshot,
    servers: Vec<Arc<Pod>>,
    addresses: Vec<IpAddr>,
    /// Whether the servers are assumed, because the input has none.
    assumed: bool,
}

impl Dns {
    /// Finds them, or assumes one for each selector of the options.
    pub(super) fn new(cluster: &Cluster<'_>) -> Self {
        let options = cluster.options;
        let addresses: Vec<IpAddr> = options.dns_addresses.clone();
        let found: Vec<Arc<Pod>> = cluster
            .all_governed()
            .filter(|pod| {
                let is = |(namespace, labels): &(String, Selector)| {
                    **namespace == *pod.id.namespace && labels.matches(&pod.labels)
                };
                options.dns.iter().any(is)
            })
            .cloned()
            .collect();
        if !found.is_empty() || options.dns.is_empty() {
            return Self {
                snapshot: cluster.snapshot.clone(),
                servers: found,
                addresses,
                assumed: false,
            };
        }
        let servers: Vec<Arc<Pod>> = options
            .dns
            .iter()
            .enumerate()
            .map(|(number, (namespace, labels))| Arc::new(stand_in(number, namespace, labels)))
            .collect();
        Self {
            snapshot: with_servers(cluster, &servers),
            servers,
            addresses,
            assumed: true,
        }
    }

    /// The governed pods, other than the servers, that a policy isolates for egress: in groups that have the same labels, with
    /// the policies.
    pub(super) fn clients<'c, 'a>(
        &'c self,
        cluster: &'c Cluster<'a>,
    ) -> impl Iterator<Item = (&'c [&'a Arc<Pod>], &'a [Arc<NetworkPolicy>])> {
        let known = !self.servers.is_empty() || !self.addresses.is_empty();
        cluster.twins().filter_map(move |twins| {
            let first = twins.first()?;
            let isolating = cluster.isolating(first, Direction::Egress);
            let asks = known && !isolating.is_empty() && !self.is_server(first);
            asks.then_some((twins, isolating))
        })
    }

    /// Whether a pod is one of the servers.
    fn is_server(&self, pod: &Pod) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| server.uid == pod.uid)
    }

    /// The way of a pod to the servers.
    pub(super) fn reach(&self, pod: &Pod, protocol: Protocol) -> Reach {
        let to_pods = self.servers.iter().flat_map(|server| {
            families(pod, server).iter().filter_map(move |family| {
                Some(self.egress(&Query {
                    source: Endpoint::Pod(pod),
                    source_ip: address(pod, *family)?,
                    destination: Endpoint::Pod(server),
                    destination_ip: address(server, *family)?,
                    protocol,
                    port: port(server, protocol),
                }))
            })
        });
        let to_addresses = self.addresses.iter().filter_map(|server| {
            Some(self.egress(&Query {
                source: Endpoint::Pod(pod),
                source_ip: address(pod, Family::of(*server))?,
                destination: Endpoint::External,
                destination_ip: *server,
                protocol,
                port: PORT,
            }))
        });
        let mut reach = Reach::default();
        for (number, expectation) in to_pods.chain(to_addresses).enumerate() {
            reach.denied = (number == 0 || reach.denied) && expectation == Expectation::Deny;
            reach.allowed |= expectation == Expectation::Allow;
            if reach.allowed {
                break;
            }
        }
        reach
    }

    fn egress(&self, query: &Query<'_>) -> Expectation {
        self.snapshot.evaluate(query).egress.expectation
    }

    /// Whether a namespace selector names the namespace of an assumed server: it is then no mistake that the input lacks it.
    pub(super) fn assumes_namespace(&self, selector: &Selector) -> bool {
        self.assumed
            && selector.match_labels.contains_key(NAMESPACE_NAME_LABEL)
            && self.servers.iter().any(|server| {
                let labels = self.snapshot.namespace_labels(&server.id.namespace);
                selector.matches(&labels)
            })
    }

    /// Whether a peer means an assumed server, by the name of its namespace or by its labels.
    pub(super) fn assumes(&self, peer: &Peer, policy_namespace: &Arc<str>) -> bool {
        let Peer::Pods { namespaces, pods } = peer else {
            return false;
        };
        let named = namespaces
            .as_ref()
            .is_some_and(|of| of.match_labels.contains_key(NAMESPACE_NAME_LABEL));
        let labels = pods.as_ref().map(|pods| &pods.match_labels);
        let labelled = labels.is_some_and(|labels| !labels.is_empty());
        let selects = |server: &Arc<Pod>| {
            let namespace = &server.id.namespace;
            pods.as_ref().is_none_or(|of| of.matches(&server.labels))
                && match namespaces {
                    None => namespace == policy_namespace,
                    Some(of) => of.matches(&self.snapshot.namespace_labels(namespace)),
                }
        };
        self.assumed && (named || labelled) && self.servers.iter().any(selects)
    }

    /// The namespaces of assumed servers: every cluster has them.
    pub(super) fn assumed_namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        let servers = self.servers.iter().filter(|_| self.assumed);
        servers.map(|server| &server.id.namespace)
    }

    /// Where to ask, as a sentence names it: `kube-system/coredns-7d4b9 UDP 53`.
    pub(super) fn describe(&self, protocol: Protocol) -> String {
        match (self.servers.as_slice(), self.addresses.as_slice()) {
            ([server, ..], _) if self.assumed => format!(
                "{protocol} {} to the DNS pods of namespace {}",
                port(server, protocol),
                server.id.namespace
            ),
            ([server], []) => format!("{protocol} {} to {}", port(server, protocol), server.id),
            ([server, others @ ..], addresses) => format!(
                "{protocol} {} to {} or {}",
                port(server, protocol),
                server.id,
                match others.len() + addresses.len() {
                    1 => "the other DNS server".to_owned(),
                    number => format!("one of the {number} other DNS servers"),
                }
            ),
            ([], [address, ..]) => format!("{protocol} {PORT} to {address}"),
            ([], []) => format!("{protocol} {PORT}"),
        }
    }
}

/// The families to try. A pod without an address counts as IPv4 only where the server leaves the choice.
fn families(pod: &Pod, server: &Pod) -> &'static [Family] {
    if !pod.ips.is_empty() {
        &[Family::V4, Family::V6]
    } else if address(server, Family::V4).is_some() {
        &[Family::V4]
    } else {
        &[Family::V6]
    }
}

/// The port that a server serves: the one named after the service, else 53. A name may be declared for the other
/// protocol only, and the number is then the same.
fn port(server: &Pod, protocol: Protocol) -> u16 {
    let names: &[&str] = match protocol {
        Protocol::Tcp => &["dns-tcp", "dns"],
        Protocol::Udp | Protocol::Sctp => &["dns"],
    };
    let declared = |name: &str| {
        let named = |port: &&ContainerPort| port.name.as_deref() == Some(name);
        let mut ports = server.ports.iter().filter(named);
        let mut same = ports.clone().filter(|port| port.protocol == protocol);
        same.next().or_else(|| ports.next()).map(|port| port.number)
    };
    names.iter().find_map(|name| declared(name)).unwrap_or(PORT)
}

/// A server with the labels that a selector asks for, at an unknown address.
fn stand_in(number: usize, namespace: &str, selector: &Selector) -> Pod {
    let mut labels: Labels = selector.match_labels.clone();
    for requirement in &selector.match_expressions {
        let (key, value) = match requirement {
            Requirement::In(key, values) => (key, values.first().cloned().unwrap_or_default()),
            Requirement::Exists(key) => (key, Arc::default()),
            Requirement::NotIn(..) | Requirement::DoesNotExist(_) => continue,
        };
        labels.entry(Arc::clone(key)).or_insert(value);
    }
    let port = |name: &str, protocol| ContainerPort {
        name: Some(Arc::from(name)),
        number: PORT,
        protocol,
    };
    Pod {
        // No pod can have this name, so it takes nobody's place.
        id: NamespacedName::new(namespace, format!("(assumed DNS server {number})")),
        uid: Uid(Arc::from(format!("assumed DNS server {number}"))),
        labels,
        ips: Vec::new(),
        node: None,
        host_network: false,
        finished: false,
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        owner: None,
        annotations: BTreeMap::new(),
    }
}

/// The same cluster with these servers and only what the egress of the pods that ask depends on: one pod for each group of
/// twins, and the policies that isolate for egress.
fn with_servers(cluster: &Cluster<'_>, servers: &[Arc<Pod>]) -> Snapshot {
    let snapshot = cluster.snapshot;
    let asks = |pod: &&&Arc<Pod>| !cluster.isolating(pod, Direction::Egress).is_empty();
    let clients = cluster.twins().filter_map(|twins| twins.first());
    let pods = clients
        .filter(asks)
        .copied()
        .chain(servers)
        .map(|pod| Object::Pod(Arc::clone(pod)));
    let namespaces = snapshot.namespaces().cloned().map(Object::Namespace);
    let policies = snapshot
        .policies()
        .filter(|policy| policy.isolates_egress)
        .cloned()
        .map(Object::NetworkPolicy);
    let admin: Vec<Object> = snapshot
        .admin_policies()
        .cloned()
        .map(Object::AdminPolicy)
        .collect();
    let mut state = State::new();
    state.reset(Kind::Namespace, namespaces.collect());
    state.reset(Kind::NetworkPolicy, policies.collect());
    for kind in [
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ] {
        state.reset(kind, admin.clone());
    }
    // Pods come last: what selects them is known by then.
    state.reset(Kind::Pod, pods.collect());
    state.set_refused_policies(snapshot.refused_policies());
    state.snapshot()
}
