//! Small random clusters, in which much of what lints look for happens.

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, ContainerPort, Labels,
    Namespace, NamespacedName, NetworkPolicy, Node, Object, Peer, Pod, PolicyPort, PortMatch,
    Protocol, Requirement, Rule, Selector, Service, ServicePort, Subject, TargetPort, Tier, Uid,
};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const NAMESPACES: [&str; 2] = ["a", "b"];

/// Objects of one cluster, and the policies that were refused beside them.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) objects: Vec<Object>,
    pub(crate) refused: Vec<NamespacedName>,
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
        .collect()
}

fn pod_labels() -> impl Strategy<Value = Labels> {
    select(vec![
        labels(&[("app", "x")]),
        labels(&[("app", "x")]),
        labels(&[("app", "y")]),
        labels(&[("app", "y")]),
        labels(&[("app", "x"), ("tier", "t")]),
        labels(&[("app", "y"), ("tier", "t"), ("of-no-selector", "1")]),
        labels(&[]),
    ])
}

fn selector() -> impl Strategy<Value = Selector> {
    let by = |pairs: &[(&str, &str)]| Selector {
        match_labels: labels(pairs),
        match_expressions: Vec::new(),
    };
    let expression = |requirement| Selector {
        match_labels: Labels::new(),
        match_expressions: vec![requirement],
    };
    select(vec![
        Selector::default(),
        by(&[("app", "x")]),
        by(&[("app", "x")]),
        by(&[("app", "y")]),
        by(&[("app", "y")]),
        by(&[("tier", "t")]),
        expression(Requirement::DoesNotExist("tier".into())),
        expression(Requirement::In("app".into(), vec!["x".into(), "z".into()])),
    ])
}

fn namespaces() -> impl Strategy<Value = Selector> {
    let by = |pairs: &[(&str, &str)]| Selector {
        match_labels: labels(pairs),
        match_expressions: Vec::new(),
    };
    select(vec![
        Selector::default(),
        by(&[("kubernetes.io/metadata.name", "a")]),
        by(&[("kubernetes.io/metadata.name", "b")]),
        by(&[("team", "t")]),
    ])
}

fn protocol() -> impl Strategy<Value = Protocol> + Clone {
    prop_oneof![5 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp)]
}

fn ports() -> impl Strategy<Value = Vec<PolicyPort>> {
    let of = select(vec![
        PortMatch::Any,
        PortMatch::Range(80, 80),
        PortMatch::Range(80, 80),
        PortMatch::Range(81, 81),
        PortMatch::Range(70, 80),
        PortMatch::Named("p".into()),
        PortMatch::Named("q".into()),
    ]);
    let port = (protocol(), of).prop_map(|(protocol, port)| PolicyPort {
        protocol,
        port,
        end_port_written: false,
    });
    prop_oneof![2 => Just(Vec::new()), 5 => vec(port, 1..=2)]
}

fn block() -> impl Strategy<Value = Peer> {
    let cidr = select(vec![
        "10.0.0.0/28",
        "10.0.0.0/29",
        "10.0.0.8/29",
        "10.0.0.2/31",
        "10.0.0.32/28",
        "10.96.0.0/29",
        "0.0.0.0/0",
        "fd00::/124",
        "192.0.2.0/24",
    ]);
    let except = subsequence(
        vec![
            "10.0.0.0/30",
            "10.0.0.4/30",
            "10.0.0.8/30",
            "10.0.0.3/32",
            "10.96.0.1/32",
            "fd00::/126",
        ],
        0..=3,
    );
    (cidr, except).prop_map(|(cidr, except)| {
        let cidr: ipnet::IpNet = cidr.parse().unwrap();
        let except = except.iter().map(|net| net.parse().unwrap());
        Peer::IpBlock {
            cidr,
            except: except
                .filter(|net: &ipnet::IpNet| cidr.contains(net) && cidr != *net)
                .collect(),
        }
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        6 => selector().prop_map(|pods| Peer::Pods { namespaces: None, pods: Some(pods) }),
        5 => (namespaces(), weighted(0.7, selector()))
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Some(namespaces), pods }),
        3 => block(),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let peers = prop_oneof![1 => Just(Vec::new()), 12 => vec(peer(), 1..=2)];
    let rule = (peers, ports()).prop_map(|(peers, ports)| Rule { peers, ports });
    vec(rule, 0..=2)
}

fn id(names: &'static [&'static str]) -> impl Strategy<Value = NamespacedName> {
    (select(&NAMESPACES[..]), select(names))
        .prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (
        id(&["p", "q", "r", "s"]),
        selector(),
        select(vec![
            (true, false),
            (true, true),
            (true, true),
            (false, true),
        ]),
        rules(),
        rules(),
    )
        .prop_map(|(id, pod_selector, types, ingress, egress)| NetworkPolicy {
            uid: Uid(format!("policy/{id}").into()),
            id,
            generation: 1,
            pod_selector,
            isolates_ingress: types.0,
            isolates_egress: types.1,
            ingress,
            egress,
            written: Default::default(),
            annotations: Default::default(),
        })
}

fn pod() -> impl Strategy<Value = Pod> {
    let port = (
        weighted(0.8, select(vec!["p", "q"])),
        select(vec![80, 81, 75]),
        protocol(),
    )
        .prop_map(|(name, number, protocol)| ContainerPort {
            name: name.map(Arc::from),
            number,
            protocol,
        });
    let ips = prop_oneof![
        2 => Just(Vec::new()),
        8 => (0..16_u8).prop_map(|last| vec![IpAddr::from([10, 0, 0, last])]),
        3 => (0..16_u8, 0..16_u16).prop_map(|(four, six)| vec![
            IpAddr::from([10, 0, 0, four]),
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, six]),
        ]),
        1 => (0..16_u16).prop_map(|six| vec![IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, six])]),
    ];
    (
        id(&["1", "2", "3", "4", "5"]),
        pod_labels(),
        ips,
        vec(port, 0..=2),
        proptest::bool::weighted(0.15),
        proptest::bool::weighted(0.05),
    )
        .prop_map(|(id, labels, ips, ports, host_network, finished)| Pod {
            uid: Uid(format!("pod/{id}").into()),
            id,
            labels,
            ips,
            node: Some("n".into()),
            host_network,
            finished,
            ports,
            owner: None,
            annotations: Default::default(),
        })
}

fn admin() -> impl Strategy<Value = AdminPolicy> {
    let peer = prop_oneof![
        2 => namespaces().prop_map(AdminPeer::Namespaces),
        2 => (namespaces(), selector())
            .prop_map(|(namespaces, pods)| AdminPeer::Pods { namespaces, pods }),
        1 => Just(AdminPeer::Networks(vec!["10.0.0.0/30".parse().unwrap()])),
        1 => Just(AdminPeer::Unrecognised),
    ];
    let ports = prop_oneof![
        2 => Just(Vec::new()),
        1 => Just(vec![AdminPort::Of(Protocol::Tcp, PortMatch::Range(80, 80))]),
        1 => Just(vec![AdminPort::Named("p".into())]),
    ];
    let action = select(vec![
        Action::Allow,
        Action::Deny,
        Action::Deny,
        Action::Pass,
    ]);
    let rule = (action, peer, ports).prop_map(|(action, peer, ports)| AdminRule {
        name: None,
        action,
        peers: vec![peer],
        ports,
    });
    (
        select(vec!["k", "l"]),
        select(vec![Tier::Admin, Tier::Baseline]),
        0..=1_u16,
        (namespaces(), weighted(0.5, selector())),
        (vec(rule.clone(), 0..=2), vec(rule, 0..=2)),
    )
        .prop_map(
            |(name, tier, priority, subject, (ingress, egress))| AdminPolicy {
                kind: AdminKind::ClusterNetworkPolicy,
                name: name.into(),
                uid: Uid(format!("admin/{name}").into()),
                generation: 1,
                tier,
                priority,
                subject: match subject {
                    (namespaces, None) => Subject::Namespaces(namespaces),
                    (namespaces, Some(pods)) => Subject::Pods { namespaces, pods },
                },
                // Networks are an egress peer.
                ingress: ingress
                    .into_iter()
                    .filter(|rule: &AdminRule| !matches!(rule.peers[0], AdminPeer::Networks(_)))
                    .collect(),
                egress,
                annotations: Default::default(),
            },
        )
}

fn service() -> impl Strategy<Value = Service> {
    let target = prop_oneof![
        Just(TargetPort::Number(80)),
        Just(TargetPort::Number(75)),
        Just(TargetPort::Name("p".into()))
    ];
    let wanted = prop_oneof![Just(labels(&[("app", "x")])), Just(labels(&[("app", "y")]))];
    (
        id(&["s", "t"]),
        vec(
            (0..8_u8).prop_map(|last| IpAddr::from([10, 96, 0, last])),
            0..=1,
        ),
        weighted(0.9, wanted),
        select(vec![80, 80, 81, 70]),
        target,
    )
        .prop_map(|(id, cluster_ips, selector, port, target)| Service {
            uid: Uid(format!("service/{id}").into()),
            id,
            addresses: cluster_ips.clone(),
            cluster_ips,
            selector,
            ports: vec![ServicePort {
                name: None,
                port,
                node_port: None,
                protocol: Protocol::Tcp,
                target,
            }],
        })
}

/// A cluster. No two objects have one kind and name.
pub(crate) fn world() -> impl Strategy<Value = World> {
    let cidrs = subsequence(vec!["10.0.0.0/29", "10.0.0.40/30", "fd00::/126"], 0..=2);
    (
        vec(pod(), 2..=10),
        vec(policy(), 1..=6),
        prop_oneof![3 => Just(Vec::new()), 1 => vec(admin(), 1..=2)],
        vec(service(), 0..=4),
        cidrs,
        weighted(0.1, id(&["refused"])),
    )
        .prop_map(|(pods, policies, admin, services, cidrs, refused)| {
            let node = Node {
                name: "n".into(),
                uid: Uid("node/n".into()),
                labels: Labels::new(),
                addresses: Vec::new(),
                pod_cidrs: cidrs.iter().map(|net| net.parse().unwrap()).collect(),
            };
            let namespace = Namespace {
                name: "b".into(),
                uid: Uid("namespace/b".into()),
                labels: labels(&[("team", "t")]),
                annotations: Default::default(),
            };
            let all = [
                Object::Node(Arc::new(node)),
                Object::Namespace(Arc::new(namespace)),
            ];
            let all = all
                .into_iter()
                .chain(pods.into_iter().map(|o| Object::Pod(Arc::new(o))))
                .chain(
                    policies
                        .into_iter()
                        .map(|o| Object::NetworkPolicy(Arc::new(o))),
                )
                .chain(admin.into_iter().map(|o| Object::AdminPolicy(Arc::new(o))))
                .chain(services.into_iter().map(|o| Object::Service(Arc::new(o))));
            let mut objects = std::collections::BTreeMap::new();
            for object in all {
                let key = object.key();
                objects.insert((key.kind, key.id), object);
            }
            World {
                objects: objects.into_values().collect(),
                refused: refused.into_iter().collect(),
            }
        })
}
