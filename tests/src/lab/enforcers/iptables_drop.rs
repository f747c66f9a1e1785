//! What Calico and kube-router do in their iptables modes, made simple: rules in FORWARD with ipsets, and DROP.
//!
//! The rules are computed from the manifests by the naive reference and never by the engine under test.
//! Established connections pass first. A connection to a pod is decided on the node of the pod, for both directions of the
//! policies; one to anything else on the node of its source. A node reaches its own pods by OUTPUT, so
//! FORWARD rightly never sees that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use polproof_policy::model::{Node, Pod, PortMatch};
use polproof_policy::{
    Direction, Endpoint, Expectation, Family, Object, Protocol, Query, compile, reference,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Enforcer, World};
use crate::lab::wiring::feed;
use crate::netns::Netns;

const CHAIN: &str = "POLPROOF-LAB";

/// An address that no manifest, and nothing in a lab, knows: stands for the rest of the world.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
];

/// See the module.
#[derive(Debug, Default)]
pub struct IptablesDrop {
    /// How often rules were loaded; part of the sets' names, since a set in use cannot be replaced.
    generation: u32,
    installed: bool,
}

impl Enforcer for IptablesDrop {
    fn name(&self) -> &'static str {
        "iptables-drop"
    }

    fn enforce(&mut self, world: &World<'_>) -> Result<()> {
        let cluster = Cluster::read(&world.objects, &world.outside)?;
        let next = self.generation + 1;
        for (name, netns) in &world.nodes {
            for family in [Family::V4, Family::V6] {
                let rules = Rules::compute(&cluster, name, family, next);
                rules
                    .load(netns, !self.installed)
                    .with_context(|| format!("load the {family:?} rules of {name}"))?;
            }
            destroy_sets(netns, |generation| generation != next)?;
        }
        self.generation = next;
        self.installed = true;
        Ok(())
    }

    fn withdraw(&mut self, world: &World<'_>) -> Result<()> {
        if !self.installed {
            return Ok(());
        }
        for (_, netns) in &world.nodes {
            for program in ["iptables-restore", "ip6tables-restore"] {
                let script = format!(
                    "*filter\n:{CHAIN} - [0:0]\n-D FORWARD -j {CHAIN}\n-X {CHAIN}\nCOMMIT\n"
                );
                feed(netns, program, &["--noflush"], &script)?;
            }
            destroy_sets(netns, |_| true)?;
        }
        self.installed = false;
        Ok(())
    }
}

/// Destroys our sets of the generations that `which` selects.
fn destroy_sets(netns: &Netns, which: impl Fn(u32) -> bool) -> Result<()> {
    let output = netns.command("ipset")?.args(["list", "-n"]).output()?;
    let script: String = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| {
            name.strip_prefix("polproof-")
                .and_then(|rest| rest.split('-').next()?.parse().ok())
                .is_some_and(&which)
        })
        .map(|name| format!("destroy {name}\n"))
        .collect();
    feed(netns, "ipset", &["restore"], &script)
}

/// The objects that matter, and who has which address.
struct Cluster {
    objects: Vec<Object>,
    pods: Vec<Arc<Pod>>,
    nodes: Vec<Arc<Node>>,
    outside: Vec<IpAddr>,
    /// Where the line of ports is cut: between two cuts every verdict is the same.
    cuts: BTreeSet<u16>,
}

impl Cluster {
    fn read(values: &[Value], outside: &[IpAddr]) -> Result<Self> {
        let mut objects = Vec::new();
        for value in values {
            objects.extend(object(value)?);
        }
        let mut cuts = BTreeSet::from([1]);
        let mut cut = |first: u16, last: u16| {
            cuts.insert(first);
            cuts.extend(last.checked_add(1));
        };
        let mut pods = Vec::new();
        let mut nodes = Vec::new();
        for object in &objects {
            match object {
                Object::Pod(pod) if !pod.host_network && !pod.finished => {
                    pod.ports
                        .iter()
                        .for_each(|port| cut(port.number, port.number));
                    pods.push(Arc::clone(pod));
                }
                Object::Node(node) => nodes.push(Arc::clone(node)),
                Object::NetworkPolicy(policy) => {
                    for port in policy
                        .ingress
                        .iter()
                        .chain(&policy.egress)
                        .flat_map(|rule| &rule.ports)
                    {
                        if let PortMatch::Range(first, last) = port.port {
                            cut(first, last);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            objects,
            pods,
            nodes,
            outside: outside.to_vec(),
            cuts,
        })
    }

    /// Ranges of ports within which every verdict is the same.
    fn ranges(&self) -> Vec<(u16, u16)> {
        let ends = self
            .cuts
            .iter()
            .skip(1)
            .map(|cut| cut - 1)
            .chain([u16::MAX]);
        self.cuts.iter().copied().zip(ends).collect()
    }

    fn allows(
        &self,
        source: (Endpoint<'_>, IpAddr),
        to: (Endpoint<'_>, IpAddr),
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let query = Query {
            source: source.0,
            source_ip: source.1,
            destination: to.0,
            destination_ip: to.1,
            protocol,
            port,
        };
        // What the API leaves open, this enforcer lets pass.
        [Direction::Egress, Direction::Ingress]
            .into_iter()
            .all(|direction| {
                reference::evaluate(&self.objects, &query, direction).expectation
                    != Expectation::Deny
            })
    }

    /// Everything that is no pod and has an address of the family, except a node's own pods' view of it.
    fn others(&self, family: Family) -> Vec<(Endpoint<'_>, IpAddr)> {
        let nodes = self.nodes.iter().flat_map(|node| {
            node.addresses
                .iter()
                .map(move |ip| (Endpoint::Node(&node.name), *ip))
        });
        let outside = self.outside.iter().map(|ip| (Endpoint::External, *ip));
        nodes
            .chain(outside)
            .filter(|(_, ip)| Family::of(*ip) == family)
            .collect()
    }

    fn pod_ends(&self, family: Family) -> Vec<(Endpoint<'_>, IpAddr)> {
        self.pods
            .iter()
            .flat_map(|pod| pod.ips.iter().map(move |ip| (Endpoint::Pod(pod), *ip)))
            .filter(|(_, ip)| Family::of(*ip) == family)
            .collect()
    }
}

fn object(value: &Value) -> Result<Option<Object>> {
    fn read<T: DeserializeOwned>(value: &Value) -> Result<T> {
        serde_json::from_value(value.clone()).context("read an object of the lab")
    }
    let refused = |refusal: compile::Refusal| anyhow!("{refusal}");
    Ok(match value.get("kind").and_then(Value::as_str) {
        Some("Pod") => Some(Object::Pod(Arc::new(
            compile::pod(&read(value)?).map_err(refused)?,
        ))),
        Some("Namespace") => Some(Object::Namespace(Arc::new(
            compile::namespace(&read(value)?).map_err(refused)?,
        ))),
        Some("Node") => Some(Object::Node(Arc::new(
            compile::node(&read(value)?).map_err(refused)?,
        ))),
        Some("NetworkPolicy") => Some(Object::NetworkPolicy(Arc::new(
            compile::network_policy(&read(value)?).map_err(refused)?,
        ))),
        _ => None,
    })
}

/// The rules of one node and family.
struct Rules {
    family: Family,
    generation: u32,
    sets: BTreeMap<BTreeSet<IpAddr>, String>,
    lines: String,
}

/// What happens to the ports of a range: the rest of the world's lot, and the addresses with the other one.
#[derive(PartialEq)]
struct Lot {
    rest_allowed: bool,
    exceptions: BTreeSet<IpAddr>,
}

impl Rules {
    fn compute(cluster: &Cluster, node: &str, family: Family, generation: u32) -> Self {
        let mut rules = Self {
            family,
            generation,
            sets: BTreeMap::new(),
            lines: String::new(),
        };
        rules.line("-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        let pods = cluster.pod_ends(family);
        let others = cluster.others(family);
        let local: Vec<_> = pods
            .iter()
            .filter(
                |(end, _)| matches!(end, Endpoint::Pod(pod) if pod.node.as_deref() == Some(node)),
            )
            .collect();
        let elsewhere = ELSEWHERE
            .into_iter()
            .find(|ip| Family::of(*ip) == family)
            .map(|ip| (Endpoint::External, ip));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for &&to in &local {
                let sources: Vec<_> = pods
                    .iter()
                    .chain(&others)
                    .copied()
                    .filter(|(_, ip)| *ip != to.1)
                    .collect();
                rules.guard(
                    cluster,
                    protocol,
                    &format!("-d {}", to.1),
                    "src",
                    &sources,
                    |source, port| {
                        cluster
                            .allows(source.or(elsewhere)?, to, protocol, port)
                            .into()
                    },
                );
            }
        }
        // What is left is no pod's business, or goes to a pod of another node, which decides it.
        let all_pods = rules.set(pods.iter().map(|(_, ip)| *ip).collect());
        rules.line(&format!("-m set --match-set {all_pods} dst -j ACCEPT"));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for &&from in &local {
                rules.guard(
                    cluster,
                    protocol,
                    &format!("-s {}", from.1),
                    "dst",
                    &others,
                    |to, port| {
                        cluster
                            .allows(from, to.or(elsewhere)?, protocol, port)
                            .into()
                    },
                );
            }
        }
        rules
    }

    /// Rules for what matches `what`: ask `allowed` for each of `peers` and, with `None`, for the rest of the world.
    fn guard(
        &mut self,
        cluster: &Cluster,
        protocol: Protocol,
        what: &str,
        side: &str,
        peers: &[(Endpoint<'_>, IpAddr)],
        allowed: impl Fn(Option<(Endpoint<'_>, IpAddr)>, u16) -> Option<bool>,
    ) {
        let mut lots: Vec<(u16, u16, Lot)> = Vec::new();
        for (first, last) in cluster.ranges() {
            let rest_allowed = allowed(None, first).unwrap_or(true);
            let exceptions = peers
                .iter()
                .filter(|peer| allowed(Some(**peer), first).unwrap_or(true) != rest_allowed)
                .map(|(_, ip)| *ip)
                .collect();
            let lot = Lot {
                rest_allowed,
                exceptions,
            };
            match lots.last_mut() {
                Some((_, end, before)) if *before == lot => *end = last,
                _ => lots.push((first, last, lot)),
            }
        }
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        for (first, last, lot) in lots {
            let what = format!("{what} -p {protocol} --dport {first}:{last}");
            let target = if lot.rest_allowed { "DROP" } else { "ACCEPT" };
            if !lot.exceptions.is_empty() {
                let set = self.set(lot.exceptions);
                self.line(&format!(
                    "{what} -m set --match-set {set} {side} -j {target}"
                ));
            }
            if !lot.rest_allowed {
                self.line(&format!("{what} -j DROP"));
            }
        }
    }

    fn line(&mut self, rule: &str) {
        let _ = writeln!(self.lines, "-A {CHAIN} {rule}");
    }

    fn set(&mut self, members: BTreeSet<IpAddr>) -> String {
        let number = self.sets.len();
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let name = format!("polproof-{}-{family}-{number}", self.generation);
        self.sets.entry(members).or_insert(name).clone()
    }

    fn load(&self, netns: &Netns, first: bool) -> Result<()> {
        let (program, inet) = match self.family {
            Family::V4 => ("iptables-restore", "inet"),
            Family::V6 => ("ip6tables-restore", "inet6"),
        };
        let mut sets = String::new();
        for (members, name) in &self.sets {
            let _ = writeln!(sets, "create {name} hash:ip family {inet}");
            for ip in members {
                let _ = writeln!(sets, "add {name} {ip}");
            }
        }
        feed(netns, "ipset", &["restore"], &sets)?;
        // Naming the chain empties it; all of it takes effect at once with COMMIT.
        let jump = if first {
            format!("-I FORWARD -j {CHAIN}\n")
        } else {
            String::new()
        };
        let script = format!("*filter\n:{CHAIN} - [0:0]\n{jump}{}COMMIT\n", self.lines);
        feed(netns, program, &["--noflush"], &script)
    }
}
