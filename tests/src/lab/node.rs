//! A node of the lab: its namespace, its agent, and the pods on it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use polproof_policy::Protocol;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::process::Process;
use super::resident::Resident;
use super::topology::Topology;
use super::{Setup, manifests, wiring};
use crate::netns::Netns;

/// Text of the CNI configuration that flannel installs.
const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

/// A node. Its agent may be running or not.
#[derive(Debug)]
pub struct Node {
    /// The agent's process, if it was started.
    pub agent: Option<Process>,
    /// Where threads of the node itself (a kubelet, say) live.
    pub resident: Resident,
    name: String,
    index: u8,
    dir: PathBuf,
    netns: Netns,
    topology: Topology,
    next_host: u8,
}

impl Node {
    pub(super) fn create(dir: &Path, index: u8, setup: &Setup, fabric: &Netns) -> Result<Self> {
        let name = format!("node-{index}");
        let dir = dir.join(&name);
        for folder in ["netns", "state", "cni"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        std::fs::write(dir.join("cni/10-flannel.conflist"), FLANNEL)?;
        let netns = Netns::create(&dir, "host")?;
        wiring::plug(
            fabric,
            &format!("n{index}"),
            &netns,
            wiring::node_addresses(index),
        )?;
        wiring::node(setup.topology, &netns, index, setup.nodes)?;
        Ok(Self {
            agent: None,
            resident: Resident::enter(netns.path(), &name)?,
            name,
            index,
            dir,
            netns,
            topology: setup.topology,
            // .1 is the bridge.
            next_host: 2,
        })
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder: netns/, state/, cni/, agent.log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// InternalIPs.
    pub const fn addresses(&self) -> [IpAddr; 2] {
        wiring::node_addresses(self.index)
    }

    pub(super) fn manifest(&self) -> Value {
        let addresses: Vec<Value> = self
            .addresses()
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
            "spec": {"podCIDRs": wiring::pod_cidrs(self.index)},
            "status": {"addresses": addresses},
        })
    }

    /// A page of the agent's HTTP server on the node's loopback: "/metrics", "/readyz".
    ///
    /// # Errors
    /// When it does not answer.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        let text = self
            .resident
            .call(Duration::from_secs(10), move || async move {
                let to = SocketAddr::from(([127, 0, 0, 1], 9464));
                let mut stream = tokio::net::TcpStream::connect(to).await?;
                stream.write_all(request.as_bytes()).await?;
                let mut text = Vec::new();
                stream.read_to_end(&mut text).await?;
                Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
            })?
            .with_context(|| format!("ask the agent of {} for {path}", self.name))?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        Ok((status, body.to_owned()))
    }

    /// The sum of all samples of a metric whose line holds every one of `labels`.
    ///
    /// # Errors
    /// When the agent does not answer, or has no such metric.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, text) = self.http("/metrics")?;
        let mut sum = None;
        for line in text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        }) {
            let value: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            sum = Some(sum.unwrap_or(0.0) + value);
        }
        sum.with_context(|| format!("the agent of {} has no metric {name} {labels:?}", self.name))
    }

    pub(super) fn new_host(&mut self) -> Result<u8> {
        if self.next_host >= wiring::MOST_PODS {
            bail!(
                "{} has had {} pods; a lab is bounded",
                self.name,
                wiring::MOST_PODS
            );
        }
        self.next_host += 1;
        Ok(self.next_host - 1)
    }

    pub(super) const fn index(&self) -> u8 {
        self.index
    }
}

/// A pod to be created.
#[derive(Clone, Debug)]
pub struct PodSpec {
    namespace: String,
    name: String,
    node: usize,
    labels: Value,
    ports: Vec<(String, u16, Protocol)>,
    host: Option<u8>,
    listed: bool,
}

impl PodSpec {
    /// A pod `namespace/name` on the node at `node` (from 0).
    pub fn new(namespace: &str, name: &str, node: usize) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node,
            labels: json!({}),
            ports: Vec::new(),
            host: None,
            listed: true,
        }
    }

    /// The pod that a manifest describes, on the node that it names, serving the ports that it declares.
    ///
    /// # Errors
    /// When a name is missing, or the node is none of the lab's.
    pub fn from_manifest(manifest: &Value) -> Result<Self> {
        let text = |pointer: &str| {
            manifest
                .pointer(pointer)
                .and_then(Value::as_str)
                .with_context(|| format!("a Pod has no {pointer}"))
        };
        let node = text("/spec/nodeName")?;
        let index: usize = node
            .strip_prefix("node-")
            .and_then(|number| number.parse().ok())
            .filter(|number| *number > 0)
            .with_context(|| {
                format!("{node} is no node of a lab: they are called node-1, node-2, ...")
            })?;
        let namespace = text("/metadata/namespace").unwrap_or("default");
        let mut spec = Self::new(namespace, text("/metadata/name")?, index - 1);
        if let Some(labels) = manifest.pointer("/metadata/labels") {
            spec.labels = labels.clone();
        }
        let ips = manifest.pointer("/status/podIPs").and_then(Value::as_array);
        if let Some(ip) = ips.and_then(|ips| ips.first()?.get("ip")?.as_str()) {
            let host = ip.rsplit('.').next().and_then(|last| last.parse().ok());
            let host = host.with_context(|| format!("{ip}: the first of podIPs must be IPv4"))?;
            let [v4, _] = wiring::pod_addresses(u8::try_from(index)?, host);
            if v4.to_string() != ip {
                bail!("{ip} is not in the pod CIDR of {node}");
            }
            spec.host = Some(host);
        }
        let containers = manifest
            .pointer("/spec/containers")
            .and_then(Value::as_array);
        for port in containers
            .into_iter()
            .flatten()
            .filter_map(|container| container.get("ports").and_then(Value::as_array))
            .flatten()
        {
            let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
            let number = port
                .get("containerPort")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            let number = u16::try_from(number).with_context(|| format!("port {number}"))?;
            let protocol = match port.get("protocol").and_then(Value::as_str) {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                Some(other) => bail!("{other} is no protocol of a port"),
            };
            spec.ports.push((name.to_owned(), number, protocol));
        }
        Ok(spec)
    }

    /// Its `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its labels.
    #[must_use]
    pub fn labels(mut self, labels: &[(&str, &str)]) -> Self {
        self.labels = manifests::labels(labels);
        self
    }

    /// A TCP port that it declares and serves.
    #[must_use]
    pub fn port(self, name: &str, number: u16) -> Self {
        self.port_of(Protocol::Tcp, name, number)
    }

    /// A port that it declares and serves.
    #[must_use]
    pub fn port_of(mut self, protocol: Protocol, name: &str, number: u16) -> Self {
        self.ports.push((name.to_owned(), number, protocol));
        self
    }

    /// The last number of its addresses, instead of the next that is free.
    #[must_use]
    pub const fn host(mut self, host: u8) -> Self {
        self.host = Some(host);
        self
    }

    /// Makes only the network, and no Pod object: an address that nobody owns.
    #[must_use]
    pub const fn unlisted(mut self) -> Self {
        self.listed = false;
        self
    }
}

/// A pod: a namespace with an eth0, and something in it that serves and connects.
#[derive(Debug)]
pub struct Pod {
    // Before the namespace's file goes, whoever lives in it must have left.
    resident: Resident,
    netns: Netns,
    node: usize,
    host: u8,
    addresses: [IpAddr; 2],
}

impl Pod {
    pub(super) fn create(nodes: &mut [Node], spec: &PodSpec) -> Result<(Self, Option<Value>)> {
        let Some(node) = nodes.get_mut(spec.node) else {
            bail!("the lab has no node {}", spec.node);
        };
        let host = match spec.host {
            Some(host) => {
                node.next_host = node.next_host.max(host.saturating_add(1));
                host
            }
            None => node.new_host()?,
        };
        let file = format!("cni-{}-{}-{host}", spec.namespace, spec.name);
        let netns = Netns::create(&node.dir.join("netns"), &file)?;
        wiring::pod(node.topology, &node.netns, node.index(), &netns, host)?;
        let resident = Resident::enter(netns.path(), &spec.name)?;
        for (_, port, protocol) in &spec.ports {
            match protocol {
                Protocol::Tcp => resident.serve(*port)?,
                Protocol::Udp => resident.serve_udp(*port)?,
                Protocol::Sctp => {}
            }
        }
        let sctp = spec.ports.iter().filter(|port| port.2 == Protocol::Sctp);
        let sctp: Vec<u16> = sctp.map(|port| port.1).collect();
        if !sctp.is_empty() {
            resident.serve_sctp(&sctp)?;
        }
        let addresses = wiring::pod_addresses(node.index(), host);
        let pod = Self {
            resident,
            netns,
            node: spec.node,
            host,
            addresses,
        };
        let manifest = spec.listed.then(|| manifest(spec, &node.name, addresses));
        Ok((pod, manifest))
    }

    pub(super) fn unplug(self, nodes: &[Node]) -> Result<()> {
        let Self {
            resident,
            netns,
            node,
            host,
            ..
        } = self;
        drop(resident);
        if let Some(node) = nodes.get(node) {
            wiring::unplug_pod(&node.netns, host)?;
        }
        drop(netns);
        Ok(())
    }

    /// What lives in it: connects, bursts, serves.
    pub const fn resident(&self) -> &Resident {
        &self.resident
    }

    /// Its network namespace.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node it is on (from 0).
    pub const fn node(&self) -> usize {
        self.node
    }

    /// The host's end of its eth0.
    pub fn veth(&self) -> String {
        format!("veth{}", self.host)
    }

    /// Its addresses, IPv4 first.
    pub const fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Its IPv4 address with a port.
    pub const fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[0], port)
    }

    /// Its IPv6 address with a port.
    pub const fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[1], port)
    }
}

fn manifest(spec: &PodSpec, node: &str, addresses: [IpAddr; 2]) -> Value {
    let ports: Vec<Value> = spec
        .ports
        .iter()
        .map(|(name, number, protocol)| {
            let protocol = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            match name.as_str() {
                "" => json!({"containerPort": number, "protocol": protocol}),
                name => json!({"name": name, "containerPort": number, "protocol": protocol}),
            }
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": spec.namespace,
            "name": spec.name,
            "labels": spec.labels,
            // A pod that is made again is another one.
            "uid": uuid::Uuid::new_v4().to_string(),
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "lab", "ports": ports}],
        },
        "status": {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        },
    })
}
