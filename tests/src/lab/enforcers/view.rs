//! What an agent believes: the objects that it was last told, who has which address, and what follows by the naive reference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use nix::ifaddrs::getifaddrs;
use polproof_policy::model::{NetworkPolicy, Node, Peer, Pod, PolicyPort, PortMatch, Rule};
use polproof_policy::{
    Direction, Endpoint, Expectation, Family, NamespacedName, Object, Protocol, Query, Uid,
    compile, reference,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::World;
use super::kind::Fault;
use super::services::{self, Service};
use crate::netns::Netns;

/// An address that no manifest, and nothing in a lab, knows: stands for the rest of the world.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
];

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    /// Namespaces, nodes, pods and the policies as the enforcer understands them.
    objects: Vec<Object>,
    /// The same without ipBlock peers, if those never match pods.
    for_pods: Option<Vec<Object>>,
    /// Every policy as written, by name.
    pub(super) policies: BTreeMap<NamespacedName, Arc<NetworkPolicy>>,
    /// Pods that have a network of their own and are not finished.
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) nodes: Vec<Arc<Node>>,
    /// Who has an address: pods and nodes. What is not in here is outside.
    owners: BTreeMap<IpAddr, Owner>,
    /// All addresses of a node's own interfaces.
    pub(super) own: BTreeMap<String, BTreeSet<IpAddr>>,
    strangers: BTreeSet<IpAddr>,
    services: Vec<Service>,
    shared_rules: bool,
    /// Where the line of ports is cut: between two cuts every verdict is the same.
    cuts: BTreeSet<u16>,
}

#[derive(Debug)]
enum Owner {
    Pod(Arc<Pod>),
    Node(String),
}

impl View {
    /// What an agent that was told of `world` believes. `gone` are policies that it cannot forget.
    pub(super) fn read(
        world: &World<'_>,
        faults: &[Fault],
        gone: &BTreeMap<NamespacedName, Arc<NetworkPolicy>>,
    ) -> Result<Self> {
        let mut view = Self {
            objects: Vec::new(),
            for_pods: None,
            policies: if faults.contains(&Fault::DeniesStay) {
                gone.clone()
            } else {
                BTreeMap::new()
            },
            pods: Vec::new(),
            nodes: Vec::new(),
            owners: BTreeMap::new(),
            own: BTreeMap::new(),
            strangers: world.outside.iter().copied().collect(),
            services: services::read(&world.objects)?,
            shared_rules: faults.contains(&Fault::SharedRules),
            cuts: BTreeSet::from([1]),
        };
        for value in &world.objects {
            match object(value)? {
                Some(Object::NetworkPolicy(policy)) => {
                    view.policies.insert(policy.id.clone(), policy);
                }
                Some(Object::Pod(pod)) => {
                    if !pod.host_network && !pod.finished {
                        view.pods.push(Arc::clone(&pod));
                    }
                    view.objects.push(Object::Pod(pod));
                }
                Some(Object::Node(node)) => {
                    view.nodes.push(Arc::clone(&node));
                    view.objects.push(Object::Node(node));
                }
                Some(other) => view.objects.push(other),
                None => {}
            }
        }
        view.find_owners(world)?;
        view.adopt_policies(faults);
        view.cut_ports();
        Ok(view)
    }

    fn find_owners(&mut self, world: &World<'_>) -> Result<()> {
        for (name, netns) in &world.nodes {
            let own = addresses(netns).with_context(|| format!("addresses of {name}"))?;
            for ip in &own {
                self.owners.insert(*ip, Owner::Node((*name).to_owned()));
            }
            self.own.insert((*name).to_owned(), own);
        }
        for node in &self.nodes {
            for ip in &node.addresses {
                self.owners.insert(*ip, Owner::Node(node.name.to_string()));
            }
        }
        for pod in &self.pods {
            for ip in &pod.ips {
                self.owners.insert(*ip, Owner::Pod(Arc::clone(pod)));
            }
        }
        let seated = world.seats.iter().flat_map(|seat| &seat.addresses);
        let fronts = self.services.iter().map(|service| service.at.ip());
        let known: BTreeSet<IpAddr> = seated.copied().chain(fronts).collect();
        self.strangers.extend(known);
        self.strangers.retain(|ip| !self.owners.contains_key(ip));
        Ok(())
    }

    fn adopt_policies(&mut self, faults: &[Fault]) {
        let named = |rule: &Rule| {
            let is_named = |port: &PolicyPort| matches!(port.port, PortMatch::Named(_));
            rule.ports.iter().any(is_named)
        };
        let refuses = faults.contains(&Fault::NamedPortsRefused);
        let policies: Vec<Arc<NetworkPolicy>> = self
            .policies
            .values()
            .filter(|policy| !(refuses && policy.ingress.iter().chain(&policy.egress).any(named)))
            .cloned()
            .collect();
        if faults.contains(&Fault::IpBlocksMissPods) {
            let mut objects = self.objects.clone();
            let stripped = policies
                .iter()
                .map(|policy| Object::NetworkPolicy(Arc::new(without_blocks(policy))));
            objects.extend(stripped);
            self.for_pods = Some(objects);
        }
        let adopted = policies.into_iter().map(Object::NetworkPolicy);
        self.objects.extend(adopted);
    }

    fn cut_ports(&mut self) {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for pod in &self.pods {
            ranges.extend(pod.ports.iter().map(|port| (port.number, port.number)));
        }
        for policy in self.policies.values() {
            let rules = policy.ingress.iter().chain(&policy.egress);
            for port in rules.flat_map(|rule| &rule.ports) {
                if let PortMatch::Range(first, last) = port.port {
                    ranges.push((first, last));
                }
            }
        }
        for service in &self.services {
            ranges.push((service.at.port(), service.at.port()));
        }
        for (first, last) in ranges {
            self.cuts.insert(first);
            self.cuts.extend(last.checked_add(1));
        }
    }

    /// Ranges of ports within which every verdict is the same.
    pub(super) fn ranges(&self) -> Vec<(u16, u16)> {
        let ends = self
            .cuts
            .iter()
            .skip(1)
            .map(|cut| cut - 1)
            .chain([u16::MAX]);
        self.cuts.iter().copied().zip(ends).collect()
    }

    /// The pod that has the address.
    pub(super) fn pod_at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        match self.owners.get(&ip) {
            Some(Owner::Pod(pod)) => Some(pod),
            _ => None,
        }
    }

    /// The node that has the address on an interface of its own.
    pub(super) fn node_at(&self, ip: IpAddr) -> Option<&str> {
        match self.owners.get(&ip) {
            Some(Owner::Node(name)) => Some(name),
            _ => None,
        }
    }

    /// The addresses of pods on a node, with the pod.
    pub(super) fn local(
        &self,
        node: &str,
        family: Family,
    ) -> impl Iterator<Item = (&Arc<Pod>, IpAddr)> {
        self.pods
            .iter()
            .filter(move |pod| pod.node.as_deref() == Some(node))
            .flat_map(|pod| pod.ips.iter().map(move |ip| (pod, *ip)))
            .filter(move |(_, ip)| Family::of(*ip) == family)
    }

    /// Every address of the family about which anything in particular is known.
    pub(super) fn known(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.owners
            .keys()
            .chain(&self.strangers)
            .copied()
            .filter(move |ip| Family::of(*ip) == family)
    }

    /// The address that stands for all others.
    pub(super) fn elsewhere(family: Family) -> IpAddr {
        match family {
            Family::V4 => ELSEWHERE[0],
            Family::V6 => ELSEWHERE[1],
        }
    }

    /// Whether any policy isolates the pod at that address in that direction; if none does, all is allowed.
    pub(super) fn isolates(&self, pod: &Pod, own: IpAddr, direction: Direction) -> bool {
        let pod = self.stand_in(pod);
        let peer = Self::elsewhere(Family::of(own));
        let query = self.query(direction, (pod, own), peer, Protocol::Tcp, 1);
        !reference::evaluate(&self.objects, &query, direction)
            .isolating
            .is_empty()
    }

    /// Whether the policies let the pod at `own` send to (or receive from) `peer`, on that destination port.
    pub(super) fn allows(
        &self,
        direction: Direction,
        own: IpAddr,
        peer: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let Some(pod) = self.pod_at(own) else {
            return true;
        };
        let pod = self.stand_in(pod);
        let own = pod
            .ips
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == Family::of(own))
            .unwrap_or(own);
        let to = SocketAddr::new(peer, port);
        let service = |service: &&Service| service.at == to && service.protocol == protocol;
        if direction == Direction::Egress
            && let Some(service) = self.services.iter().find(service)
        {
            // As AWS's agent: a Service may be reached if any of its pods may.
            return service
                .backends
                .iter()
                .any(|to| self.asks(direction, (pod, own), to.ip(), protocol, to.port()));
        }
        self.asks(direction, (pod, own), peer, protocol, port)
    }

    fn asks(
        &self,
        direction: Direction,
        governed: (&Pod, IpAddr),
        peer: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let query = self.query(direction, governed, peer, protocol, port);
        let objects = match &self.for_pods {
            Some(objects) if self.pod_at(peer).is_some() => objects,
            _ => &self.objects,
        };
        // What the API leaves open passes.
        reference::evaluate(objects, &query, direction).expectation != Expectation::Deny
    }

    fn query<'a>(
        &'a self,
        direction: Direction,
        (pod, own): (&'a Pod, IpAddr),
        peer: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Query<'a> {
        let governed = (Endpoint::Pod(pod), own);
        let peer = (self.endpoint(peer), peer);
        let (source, destination) = match direction {
            Direction::Egress => (governed, peer),
            Direction::Ingress => (peer, governed),
        };
        Query {
            source: source.0,
            source_ip: source.1,
            destination: destination.0,
            destination_ip: destination.1,
            protocol,
            port,
        }
    }

    fn endpoint(&self, ip: IpAddr) -> Endpoint<'_> {
        match self.owners.get(&ip) {
            Some(Owner::Pod(pod)) => Endpoint::Pod(pod),
            Some(Owner::Node(name)) => Endpoint::Node(name),
            None => Endpoint::External,
        }
    }

    /// The pod whose rules the pod gets.
    fn stand_in<'a>(&'a self, pod: &'a Pod) -> &'a Pod {
        if !self.shared_rules {
            return pod;
        }
        let stem = |pod: &Pod| {
            let name = pod.id.name.to_string();
            name.rsplit_once('-')
                .map_or(name.clone(), |(stem, _)| stem.to_owned())
        };
        self.pods
            .iter()
            .filter(|other| {
                other.id.namespace == pod.id.namespace
                    && other.node == pod.node
                    && stem(other) == stem(pod)
            })
            .min_by(|a, b| a.id.name.cmp(&b.id.name))
            .map_or(pod, |first| first)
    }

    /// UIDs of all pods.
    pub(super) fn uids(&self) -> BTreeSet<Uid> {
        self.pods.iter().map(|pod| pod.uid.clone()).collect()
    }
}

/// The policy as if its ipBlock peers matched nothing; a rule that has no other peers admits nobody.
fn without_blocks(policy: &NetworkPolicy) -> NetworkPolicy {
    let strip = |rules: &[Rule]| {
        rules
            .iter()
            .filter_map(|rule| {
                let mut kept = rule.clone();
                kept.peers
                    .retain(|peer| !matches!(peer, Peer::IpBlock { .. }));
                (rule.peers.is_empty() || !kept.peers.is_empty()).then_some(kept)
            })
            .collect()
    };
    let mut stripped = policy.clone();
    stripped.ingress = strip(&policy.ingress);
    stripped.egress = strip(&policy.egress);
    stripped
}

/// The addresses of all interfaces in the namespace that others may know.
fn addresses(netns: &Netns) -> Result<BTreeSet<IpAddr>> {
    netns.run(|| -> Result<BTreeSet<IpAddr>> {
        let all = getifaddrs()?.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
            let v6 = || address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip()));
            v4.or_else(v6).filter(|ip| {
                let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
                !ip.is_loopback() && !link_local
            })
        });
        Ok(all.collect())
    })?
}

/// A manifest as what it describes, if that is anything that enforcers look at.
///
/// # Errors
/// When it is not what its kind says.
pub fn object(value: &Value) -> Result<Option<Object>> {
    let refused = |refusal: compile::Refusal| anyhow!("{refusal}");
    Ok(match value.get("kind").and_then(Value::as_str) {
        Some("Pod") => Some(Object::Pod(Arc::new(
            compile::pod(&parse(value)?).map_err(refused)?,
        ))),
        Some("Namespace") => Some(Object::Namespace(Arc::new(
            compile::namespace(&parse(value)?).map_err(refused)?,
        ))),
        Some("Node") => Some(Object::Node(Arc::new(
            compile::node(&parse(value)?).map_err(refused)?,
        ))),
        Some("NetworkPolicy") => Some(Object::NetworkPolicy(Arc::new(
            compile::network_policy(&parse(value)?).map_err(refused)?,
        ))),
        _ => None,
    })
}

/// Reads a manifest of a known kind.
pub(super) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_json::from_value(value.clone()).context("read an object of the lab")
}
