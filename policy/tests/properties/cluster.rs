//! Random clusters from a small world, so that selectors, addresses and names meet often.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::model::{
    ContainerPort, Labels, Namespace, NetworkPolicy, Node, Peer, Pod, PolicyPort, PortMatch,
    Requirement, Rule, Selector, Service, ServicePort, TargetPort,
};
use polproof_policy::{Endpoint, NamespacedName, Object, Protocol, Query, Uid};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::admin::{admin_policy, foreign_policy};

pub(crate) const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
pub(crate) const KEYS: [&str; 3] = ["app", "tier", "legacy"];
const VALUES: [&str; 3] = ["a", "b", ""];
pub(crate) const PORTS: [u16; 5] = [53, 80, 81, 90, 8080];
pub(crate) const PORT_NAMES: [&str; 2] = ["web", "dns"];

pub(crate) fn text(of: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> + Clone {
    select(of).prop_map(Arc::from)
}

pub(crate) fn ip() -> impl Strategy<Value = IpAddr> + Clone {
    select(
        [
            "10.0.0.1",
            "10.0.0.2",
            "10.0.1.1",
            "10.0.1.2",
            "172.16.0.1",
            "172.16.0.2",
            "203.0.113.9",
            "fd00::1",
            "fd00::2",
            "fd00:1::1",
            "fd02::1",
            "2001:db8::9",
        ]
        .map(|ip| ip.parse::<IpAddr>().unwrap())
        .to_vec(),
    )
}

pub(crate) fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(text(&KEYS), text(&VALUES), 0..=3)
}

fn requirement(key: impl Strategy<Value = Arc<str>>) -> impl Strategy<Value = Requirement> {
    let values = subsequence(VALUES.to_vec(), 1..=2)
        .prop_map(|values| values.into_iter().map(Arc::from).collect::<Vec<_>>());
    (key, values, 0..4).prop_map(|(key, values, operator)| match operator {
        0 => Requirement::In(key, values),
        1 => Requirement::NotIn(key, values),
        2 => Requirement::Exists(key),
        _ => Requirement::DoesNotExist(key),
    })
}

/// 3 in 10 select everything.
pub(crate) fn selector() -> impl Strategy<Value = Selector> {
    let some = (
        proptest::collection::btree_map(text(&KEYS), text(&VALUES), 0..=2),
        vec(requirement(text(&KEYS)), 0..=2),
    )
        .prop_map(|(match_labels, match_expressions)| Selector {
            match_labels,
            match_expressions,
        });
    prop_oneof![3 => Just(Selector::default()), 7 => some]
}

pub(crate) fn namespace_selector() -> impl Strategy<Value = Selector> {
    let by_name = text(&NAMESPACES).prop_map(|name| Selector {
        match_labels: BTreeMap::from([(Arc::from("kubernetes.io/metadata.name"), name)]),
        match_expressions: Vec::new(),
    });
    prop_oneof![3 => by_name, 7 => selector()]
}

pub(crate) fn protocol() -> impl Strategy<Value = Protocol> + Clone {
    prop_oneof![4 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        2 => Just(PortMatch::Any),
        4 => select(PORTS.to_vec()).prop_map(|port| PortMatch::Range(port, port)),
        2 => (select(PORTS.to_vec()), 0..=20_u16)
            .prop_map(|(first, more)| PortMatch::Range(first, first + more)),
        3 => text(&PORT_NAMES).prop_map(PortMatch::Named),
    ]
}

fn ip_block() -> impl Strategy<Value = Peer> {
    let block = |cidr: &str, except: &[&str]| Peer::IpBlock {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    };
    select(vec![
        block("0.0.0.0/0", &[]),
        block("0.0.0.0/0", &["10.0.0.0/8"]),
        block("10.0.0.0/16", &["10.0.1.0/24", "10.0.0.2/32"]),
        block("10.0.0.1/32", &[]),
        block("172.16.0.0/24", &[]),
        block("::/0", &["fd00::/16"]),
        block("fd00::/16", &["fd00:1::/64"]),
    ])
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        3 => selector().prop_map(|pods| Peer::Pods { namespaces: None, pods: Some(pods) }),
        2 => namespace_selector()
            .prop_map(|namespaces| Peer::Pods { namespaces: Some(namespaces), pods: None }),
        3 => (namespace_selector(), selector()).prop_map(|(namespaces, pods)| Peer::Pods {
            namespaces: Some(namespaces),
            pods: Some(pods),
        }),
        3 => ip_block(),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let port = (protocol(), port_match()).prop_map(|(protocol, port)| PolicyPort {
        protocol,
        port,
        end_port_written: false,
    });
    let rule =
        (vec(peer(), 0..=2), vec(port, 0..=2)).prop_map(|(peers, ports)| Rule { peers, ports });
    vec(rule, 0..=3)
}

fn id(names: &'static [&'static str]) -> impl Strategy<Value = NamespacedName> {
    (text(&NAMESPACES), text(names))
        .prop_map(|(namespace, name)| NamespacedName { namespace, name })
}

/// UIDs differ by kind and name; `generation` tells two objects of one name apart.
pub(crate) fn uid(kind: &str, name: impl std::fmt::Display, generation: u8) -> Uid {
    Uid(Arc::from(format!("{kind}/{name}/{generation}")))
}

pub(crate) fn generation() -> impl Strategy<Value = u8> {
    prop_oneof![9 => Just(0_u8), 1 => Just(1_u8)]
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (
        id(&["p1", "p2", "p3", "p4"]),
        generation(),
        // More than half select everything, so that policies meet on one pod.
        prop_oneof![1 => Just(Selector::default()), 1 => selector()],
        // Neither type is what `policyTypes` cannot say, so at least one is true.
        select(vec![(true, false), (true, true), (false, true)]),
        rules(),
        rules(),
    )
        .prop_map(
            |(
                id,
                generation,
                pod_selector,
                (isolates_ingress, isolates_egress),
                ingress,
                egress,
            )| {
                NetworkPolicy {
                    uid: uid("policy", &id, generation),
                    id,
                    generation: 1,
                    pod_selector,
                    isolates_ingress,
                    isolates_egress,
                    ingress,
                    egress,
                    written: Default::default(),
                    annotations: Default::default(),
                }
            },
        )
}

/// 15% on the host network, 10% finished, 10% not scheduled.
fn pod() -> impl Strategy<Value = Pod> {
    let port = (
        weighted(0.8, text(&PORT_NAMES)),
        select(PORTS.to_vec()),
        protocol(),
    )
        .prop_map(|(name, number, protocol)| ContainerPort {
            name,
            number,
            protocol,
        });
    (
        id(&["x", "y", "z"]),
        generation(),
        labels(),
        vec(ip(), 0..=2),
        weighted(0.9, text(&NODES)),
        (
            proptest::bool::weighted(0.15),
            proptest::bool::weighted(0.1),
        ),
        vec(port, 0..=3),
    )
        .prop_map(
            |(id, generation, labels, ips, node, (host_network, finished), ports)| Pod {
                uid: uid("pod", &id, generation),
                id,
                labels,
                ips,
                node,
                host_network,
                finished,
                ports,
                owner: None,
                annotations: Default::default(),
            },
        )
}

/// Some lie about their name.
fn namespace() -> impl Strategy<Value = Namespace> {
    (
        text(&NAMESPACES),
        labels(),
        weighted(0.1, text(&NAMESPACES)),
        generation(),
    )
        .prop_map(|(name, mut labels, lie, generation)| {
            if let Some(lie) = lie {
                labels.insert(Arc::from("kubernetes.io/metadata.name"), lie);
            }
            Namespace {
                uid: uid("namespace", &name, generation),
                name,
                labels,
                annotations: Default::default(),
            }
        })
}

fn node() -> impl Strategy<Value = Node> {
    let cidrs = subsequence(vec!["10.0.0.0/24", "10.0.1.0/24", "fd00::/64"], 0..=2)
        .prop_map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect());
    (text(&NODES), labels(), vec(ip(), 0..=2), cidrs).prop_map(
        |(name, labels, addresses, pod_cidrs)| Node {
            uid: uid("node", &name, 0),
            name,
            labels,
            addresses,
            pod_cidrs,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    (id(&["s", "t"]), vec(ip(), 0..=2)).prop_map(|(id, addresses)| Service {
        uid: uid("service", &id, 0),
        id,
        cluster_ips: addresses.clone(),
        selector: None,
        addresses,
        ports: vec![ServicePort {
            name: None,
            port: 80,
            node_port: None,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(80),
        }],
    })
}

/// Any object.
pub(crate) fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        5 => pod().prop_map(|o| Object::Pod(Arc::new(o))),
        5 => policy().prop_map(|o| Object::NetworkPolicy(Arc::new(o))),
        2 => namespace().prop_map(|o| Object::Namespace(Arc::new(o))),
        1 => node().prop_map(|o| Object::Node(Arc::new(o))),
        1 => service().prop_map(|o| Object::Service(Arc::new(o))),
        4 => admin_policy().prop_map(|o| Object::AdminPolicy(Arc::new(o))),
        1 => foreign_policy().prop_map(|o| Object::ForeignPolicy(Arc::new(o))),
    ]
}

/// Objects of which no two have one name (or one kind and name).
pub(crate) fn cluster() -> impl Strategy<Value = Vec<Object>> {
    (
        vec(pod(), 2..=7),
        vec(policy(), 1..=6),
        vec(namespace(), 0..=3),
        vec(node(), 0..=2),
        vec(service(), 0..=2),
        // 4 in 10 clusters have none, as most of the world.
        weighted(0.6, vec(admin_policy(), 1..=6)),
        vec(foreign_policy(), 0..=1),
    )
        .prop_map(
            |(pods, policies, namespaces, nodes, services, admin, foreign)| {
                let mut objects = BTreeMap::new();
                let all = pods
                    .into_iter()
                    .map(|o| Object::Pod(Arc::new(o)))
                    .chain(
                        policies
                            .into_iter()
                            .map(|o| Object::NetworkPolicy(Arc::new(o))),
                    )
                    .chain(
                        namespaces
                            .into_iter()
                            .map(|o| Object::Namespace(Arc::new(o))),
                    )
                    .chain(nodes.into_iter().map(|o| Object::Node(Arc::new(o))))
                    .chain(services.into_iter().map(|o| Object::Service(Arc::new(o))))
                    .chain(
                        admin
                            .into_iter()
                            .flatten()
                            .map(|o| Object::AdminPolicy(Arc::new(o))),
                    )
                    .chain(
                        foreign
                            .into_iter()
                            .map(|o| Object::ForeignPolicy(Arc::new(o))),
                    );
                for object in all {
                    let key = object.key();
                    objects.insert((key.kind, key.id), object);
                }
                objects.into_values().collect()
            },
        )
}

/// Names of policies that were refused: in 4 of 10 clusters, in one or two of the three namespaces, or (1 in 8) of a tier
/// that has none.
pub(crate) fn refused() -> impl Strategy<Value = Vec<NamespacedName>> {
    let cluster_wide = Just(NamespacedName::new("", "r3"));
    let name = prop_oneof![7 => id(&["r1", "r2"]), 1 => cluster_wide];
    weighted(0.4, vec(name, 1..=2)).prop_map(Option::unwrap_or_default)
}

/// A question whose ends are picked when the cluster is known.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    source: usize,
    destination: usize,
    source_ip: IpAddr,
    destination_ip: IpAddr,
    protocol: Protocol,
    port: u16,
}

pub(crate) fn questions(number: usize) -> impl Strategy<Value = Vec<Question>> {
    let question = (
        0..24_usize,
        0..24_usize,
        ip(),
        ip(),
        protocol(),
        select(PORTS.to_vec()),
    )
        .prop_map(
            |(source, destination, source_ip, destination_ip, protocol, port)| Question {
                source,
                destination,
                source_ip,
                destination_ip,
                protocol,
                port,
            },
        );
    vec(question, number)
}

impl Question {
    /// Ends: 0 is external, 1 and 2 are the nodes, the rest pods. A pod's address is one of
    /// its own where it has one of the family, so most questions are real ones.
    pub(crate) fn query<'a>(&self, pods: &'a [Arc<Pod>]) -> Query<'a> {
        let end = |number: usize| match number {
            0 => Endpoint::External,
            1 => Endpoint::Node("n1"),
            2 => Endpoint::Node("n2"),
            _ if pods.is_empty() => Endpoint::External,
            _ => Endpoint::Pod(&pods[number % pods.len()]),
        };
        let address = |end: Endpoint<'_>, other: IpAddr| match end {
            Endpoint::Pod(pod) => *pod
                .ips
                .iter()
                .find(|ip| ip.is_ipv4() == other.is_ipv4())
                .unwrap_or(&other),
            Endpoint::Node(_) | Endpoint::External => other,
        };
        let (source, destination) = (end(self.source), end(self.destination));
        // 9 in 10 have one family.
        let mut destination_ip = self.destination_ip;
        if self.source_ip.is_ipv4() != destination_ip.is_ipv4() && self.port != 81 {
            destination_ip = self.source_ip;
        }
        Query {
            source,
            source_ip: address(source, self.source_ip),
            destination,
            destination_ip: address(destination, destination_ip),
            protocol: self.protocol,
            port: self.port,
        }
    }
}
