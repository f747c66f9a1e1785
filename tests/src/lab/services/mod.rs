//! Services: the objects, and what kube-proxy makes of them on every node.
//!
//! ```text
//! ServiceSpec --manifests--> Service, EndpointSlice (one a family)
//!      '--------rules------> nat: clusterIP, nodePort, externalIP -> a ready backend by chance -> DNAT, masquerade
//! ```
//!
//! Backends are named by `namespace/pod`; a pod that is made again stays one, at its new addresses.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use polproof_policy::Protocol;
use serde_json::{Value, json};

use super::Lab;
use super::manifests::ObjectName;

/// Services that a lab may have.
const MOST: u8 = 200;

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// At the Service's addresses.
    pub port: u16,
    /// At the backends.
    pub target: u16,
    /// At every node's addresses.
    pub node_port: Option<u16>,
}

impl ServicePort {
    /// A port without a nodePort.
    pub fn new(protocol: Protocol, port: u16, target: u16) -> Self {
        Self {
            name: format!("{}-{port}", name(protocol)),
            protocol,
            port,
            target,
            node_port: None,
        }
    }

    /// Reached at the nodes' addresses, too.
    #[must_use]
    pub const fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }
}

/// A pod behind a Service, and its conditions.
#[derive(Clone, Debug)]
pub struct Backend {
    pod: String,
    ready: bool,
    terminating: bool,
}

impl Backend {
    /// A pod that is ready.
    pub fn ready(pod: &str) -> Self {
        Self {
            pod: pod.to_owned(),
            ready: true,
            terminating: false,
        }
    }

    /// A pod that is not: nobody is sent to it.
    pub fn not_ready(pod: &str) -> Self {
        Self {
            ready: false,
            ..Self::ready(pod)
        }
    }

    /// A pod that ends and still serves: used where no other is ready.
    pub fn terminating(pod: &str) -> Self {
        Self {
            ready: false,
            terminating: true,
            ..Self::ready(pod)
        }
    }
}

/// A Service to be made or changed.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    namespace: String,
    name: String,
    ports: Vec<ServicePort>,
    backends: Vec<Backend>,
    headless: bool,
    external_ips: Vec<IpAddr>,
    local: bool,
}

impl ServiceSpec {
    /// A Service with addresses of its own in both families.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ports: Vec::new(),
            backends: Vec::new(),
            headless: false,
            external_ips: Vec::new(),
            local: false,
        }
    }

    /// One more port.
    #[must_use]
    pub fn port(mut self, port: ServicePort) -> Self {
        self.ports.push(port);
        self
    }

    /// One more backend.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backends.push(backend);
        self
    }

    /// `clusterIP: None`: a name for its pods' own addresses.
    #[must_use]
    pub const fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    /// One more of `externalIPs`.
    #[must_use]
    pub fn external_ip(mut self, ip: IpAddr) -> Self {
        self.external_ips.push(ip);
        self
    }

    /// `externalTrafficPolicy: Local`: a node sends what comes from outside to its own pods only, and leaves the source as it is.
    #[must_use]
    pub const fn local(mut self) -> Self {
        self.local = true;
        self
    }

    fn is_external(&self) -> bool {
        self.ports.iter().any(|port| port.node_port.is_some()) || !self.external_ips.is_empty()
    }
}

/// A container's port at its node's addresses, as the portmap plugin makes it.
#[derive(Clone, Debug)]
pub(super) struct HostPort {
    pub(super) pod: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) target: u16,
}

/// All Services of a lab.
#[derive(Debug, Default)]
pub(super) struct Services {
    known: BTreeMap<(String, String), (ServiceSpec, u8)>,
    host_ports: Vec<HostPort>,
    next: u8,
    /// Chains of the rules that are loaded.
    chains: BTreeSet<String>,
}

/// Where a backend is, and whether it is sent anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) node: usize,
    pub(super) addresses: [IpAddr; 2],
}

const fn cluster_ips(number: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 96, 0, number)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number as u16)),
    ]
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl Lab {
    /// Makes or changes a Service: its objects, and the rules of every node. Gives its addresses, IPv4 first.
    ///
    /// # Errors
    /// When the objects cannot be written or the rules cannot be loaded.
    pub fn apply_service(&mut self, spec: ServiceSpec) -> Result<[IpAddr; 2]> {
        let key = (spec.namespace.clone(), spec.name.clone());
        let number = match self.services.known.get(&key) {
            Some((_, number)) => *number,
            None if self.services.next == MOST => bail!("a lab has at most {MOST} Services"),
            None => {
                self.services.next += 1;
                // .1 is the API server's in most clusters.
                self.services.next + 1
            }
        };
        self.services.known.insert(key, (spec, number));
        self.refresh_services()?;
        self.enforce()?;
        Ok(cluster_ips(number))
    }

    /// Deletes a Service.
    ///
    /// # Errors
    /// When there is none, or something of it stays.
    pub fn delete_service(&mut self, namespace: &str, name: &str) -> Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        if self.services.known.remove(&key).is_none() {
            bail!("the lab has no Service {namespace}/{name}");
        }
        self.manifests
            .delete(&ObjectName::new("Service", namespace, name))?;
        for family in ["ipv4", "ipv6"] {
            let slice = ObjectName::new("EndpointSlice", namespace, &format!("{name}-{family}"));
            self.manifests.delete(&slice)?;
        }
        self.refresh_services()?;
        self.enforce()
    }

    /// Opens a pod's port at its node's addresses.
    ///
    /// # Errors
    /// When there is no such pod, or the rules cannot be loaded.
    pub fn add_host_port(
        &mut self,
        pod: &str,
        protocol: Protocol,
        port: u16,
        target: u16,
    ) -> Result<()> {
        self.pod(pod)?;
        self.services.host_ports.push(HostPort {
            pod: pod.to_owned(),
            protocol,
            port,
            target,
        });
        self.refresh_services()
    }

    /// Makes objects and rules follow the pods as they are now.
    pub(super) fn refresh_services(&mut self) -> Result<()> {
        if self.services.known.is_empty()
            && self.services.host_ports.is_empty()
            && self.services.chains.is_empty()
        {
            return Ok(());
        }
        for (spec, number) in self.services.known.values() {
            for object in self.service_objects(spec, *number)? {
                self.manifests.apply_object(object)?;
            }
        }
        let mut loaded = BTreeSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for family in 0..2 {
                let rules = self.service_rules(index, family);
                rules.load(node.netns(), &self.services.chains)?;
                loaded.extend(rules.chains());
            }
        }
        self.services.chains = loaded;
        Ok(())
    }

    fn service_rules(&self, node: usize, family: usize) -> rules::Rules {
        let mut rules = rules::Rules::new(node, family);
        for (number, host_port) in self.services.host_ports.iter().enumerate() {
            if let Some(pod) = self.target(&host_port.pod)
                && pod.node == node
            {
                rules.host_port(number, host_port, pod);
            }
        }
        for (spec, number) in self.services.known.values() {
            if spec.headless {
                continue;
            }
            let targets = self.usable(spec);
            for (index, port) in spec.ports.iter().enumerate() {
                let chain = format!("{number}-{index}");
                rules.service(&chain, spec, port, cluster_ips(*number), &targets);
            }
        }
        rules
    }

    fn target(&self, pod: &str) -> Option<Target> {
        let pod = self.pods.get(pod)?;
        Some(Target {
            node: pod.node(),
            addresses: pod.addresses(),
        })
    }

    /// Where kube-proxy sends to: who is ready, else who ends and still serves.
    fn usable(&self, spec: &ServiceSpec) -> Vec<Target> {
        let which = |wanted: fn(&Backend) -> bool| -> Vec<Target> {
            spec.backends
                .iter()
                .filter(|backend| wanted(backend))
                .filter_map(|backend| self.target(&backend.pod))
                .collect()
        };
        let ready = which(|backend| backend.ready);
        if ready.is_empty() {
            return which(|backend| backend.terminating);
        }
        ready
    }

    fn service_objects(&self, spec: &ServiceSpec, number: u8) -> Result<Vec<Value>> {
        let ports: Vec<Value> = spec
            .ports
            .iter()
            .map(|port| {
                let mut value = json!({
                    "name": port.name,
                    "protocol": name(port.protocol).to_uppercase(),
                    "port": port.port,
                    "targetPort": port.target,
                });
                if let (Some(number), Some(map)) = (port.node_port, value.as_object_mut()) {
                    map.insert("nodePort".to_owned(), json!(number));
                }
                value
            })
            .collect();
        let [v4, v6] = cluster_ips(number).map(|ip| ip.to_string());
        let ips = if spec.headless {
            vec!["None".to_owned()]
        } else {
            vec![v4, v6]
        };
        let node_port = spec.ports.iter().any(|port| port.node_port.is_some());
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": spec.namespace, "name": spec.name},
            "spec": {
                "type": if node_port { "NodePort" } else { "ClusterIP" },
                "clusterIP": ips.first(),
                "clusterIPs": ips,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "ports": ports,
            },
        });
        if let Some(map) = service.get_mut("spec").and_then(Value::as_object_mut) {
            if spec.is_external() {
                let policy = if spec.local { "Local" } else { "Cluster" };
                map.insert("externalTrafficPolicy".to_owned(), json!(policy));
            }
            if !spec.external_ips.is_empty() {
                map.insert("externalIPs".to_owned(), json!(spec.external_ips));
            }
        }
        let mut objects = vec![service];
        for (family, kind) in ["IPv4", "IPv6"].into_iter().enumerate() {
            objects.push(self.slice(spec, family, kind)?);
        }
        Ok(objects)
    }

    fn slice(&self, spec: &ServiceSpec, family: usize, kind: &str) -> Result<Value> {
        let mut endpoints = Vec::new();
        for backend in &spec.backends {
            let Some((namespace, pod)) = backend.pod.split_once('/') else {
                bail!("{}: a backend is named namespace/pod", backend.pod);
            };
            let Some(target) = self.target(&backend.pod) else {
                continue;
            };
            let uid = self
                .manifests
                .uid(&ObjectName::new("Pod", namespace, pod))?;
            endpoints.push(json!({
                "addresses": [target.addresses.get(family)],
                "conditions": {
                    "ready": backend.ready,
                    "serving": backend.ready || backend.terminating,
                    "terminating": backend.terminating,
                },
                "nodeName": self.node(target.node)?.name(),
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": uid},
            }));
        }
        let ports: Vec<Value> = spec
            .ports
            .iter()
            .map(|port| {
                json!({
                    "name": port.name,
                    "protocol": name(port.protocol).to_uppercase(),
                    "port": port.target,
                })
            })
            .collect();
        Ok(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": spec.namespace,
                "name": format!("{}-{}", spec.name, kind.to_lowercase()),
                "labels": {"kubernetes.io/service-name": spec.name},
            },
            "addressType": kind,
            "endpoints": endpoints,
            "ports": ports,
        }))
    }
}
