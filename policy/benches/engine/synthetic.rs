//! A cluster that looks like one: namespaces of several sizes, applications with tiers and
//! replicas, default-deny in most namespaces, and rules of every kind on top.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, ContainerPort, Namespace,
    NetworkPolicy, Node, Peer, Pod, PolicyPort, PortMatch, Requirement, Rule, Selector, Subject,
    Tier,
};
use polproof_policy::{Kind, NamespacedName, Object, Protocol, Uid};

/// xorshift64*: the same cluster in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }
}

pub(crate) struct Sizes {
    pub(crate) policies: usize,
    pub(crate) pods: usize,
    pub(crate) namespaces: usize,
    pub(crate) verdicts: usize,
    /// Policies of the admin and baseline tiers; at most 8.
    pub(crate) admin: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            policies: 1_000,
            pods: 10_000,
            namespaces: 200,
            verdicts: 10_000_000,
            admin: 0,
        }
    }
}

impl Sizes {
    /// `None` if no size is asked for.
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut sizes = Self::default();
        let mut asked = false;
        while let Some(arg) = args.next() {
            let field = match arg.as_str() {
                "--policies" => &mut sizes.policies,
                "--pods" => &mut sizes.pods,
                "--namespaces" => &mut sizes.namespaces,
                "--verdicts" => &mut sizes.verdicts,
                "--admin" => &mut sizes.admin,
                // Cargo's own.
                "--bench" => continue,
                other => {
                    eprintln!(
                        "{other}: use --policies, --pods, --namespaces, --verdicts, --admin NUMBER"
                    );
                    std::process::exit(2);
                }
            };
            match args.next().and_then(|value| value.parse().ok()) {
                Some(value) if value > 0 => {
                    *field = value;
                    asked = true;
                }
                _ => {
                    eprintln!("{arg}: a number above 0 is missing");
                    std::process::exit(2);
                }
            }
        }
        asked.then_some(sizes)
    }
}

const TIERS: [&str; 5] = ["web", "api", "db", "cache", "worker"];
const TEAMS: [&str; 12] = [
    "ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx",
];

pub(crate) fn uid(random: &mut Random) -> Uid {
    let (a, b) = (random.next(), random.next());
    Uid(Arc::from(format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )))
}

pub(crate) fn protocol(random: &mut Random) -> Protocol {
    match random.below(10) {
        0 => Protocol::Udp,
        1 => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<str>> {
    pairs
        .iter()
        .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
        .collect()
}

fn labelled(labels: &[(&str, &str)]) -> Selector {
    Selector {
        match_labels: pairs(labels),
        match_expressions: Vec::new(),
    }
}

/// Every object, by kind: namespaces, nodes, policies of the three tiers, pods.
pub(crate) fn cluster(sizes: &Sizes) -> Vec<(Kind, Vec<Object>)> {
    let mut random = Random::new(42);
    let mut namespaces = Vec::new();
    for number in 0..sizes.namespaces {
        namespaces.push(Object::Namespace(Arc::new(Namespace {
            name: Arc::from(format!("ns-{number}")),
            uid: uid(&mut random),
            labels: pairs(&[
                ("team", TEAMS[number % TEAMS.len()]),
                ("env", ["prod", "test", "dev"][number % 3]),
            ]),
            annotations: Default::default(),
        })));
    }
    let mut nodes = Vec::new();
    for number in 0..100_u8 {
        nodes.push(Object::Node(Arc::new(Node {
            name: Arc::from(format!("node-{number}")),
            uid: uid(&mut random),
            labels: Default::default(),
            addresses: vec![IpAddr::from([192, 168, 0, number])],
            pod_cidrs: vec![format!("10.{number}.0.0/16").parse().unwrap()],
        })));
    }
    let pods = (0..sizes.pods).map(|number| pod(number, sizes, &mut random));
    let pods = pods.map(|pod| Object::Pod(Arc::new(pod))).collect();
    let policies = (0..sizes.policies).map(|number| policy(number, sizes, &mut random));
    let policies = policies
        .map(|policy| Object::NetworkPolicy(Arc::new(policy)))
        .collect();
    vec![
        (Kind::Namespace, namespaces),
        (Kind::Node, nodes),
        (Kind::NetworkPolicy, policies),
        (
            Kind::ClusterNetworkPolicy,
            admin_policies(sizes, &mut random),
        ),
        (Kind::Pod, pods),
    ]
}

/// What administrators write: metadata services closed, monitoring and DNS open, tenants apart, and a baseline.
fn admin_policies(sizes: &Sizes, random: &mut Random) -> Vec<Object> {
    use Action::{Allow, Deny, Pass};
    let of = |labels: &[(&str, &str)]| AdminPeer::Namespaces(labelled(labels));
    let everyone = || AdminPeer::Namespaces(Selector::default());
    let tcp = |port| vec![AdminPort::Of(Protocol::Tcp, PortMatch::Range(port, port))];
    let rule = |action, peer, ports| AdminRule {
        name: None,
        action,
        peers: vec![peer],
        ports,
    };
    let metadata = AdminPeer::Networks(vec!["169.254.169.254/32".parse().unwrap()]);
    let prod = || Subject::Namespaces(labelled(&[("env", "prod")]));
    let all = || Subject::Namespaces(Selector::default());
    let policies = [
        (
            Tier::Admin,
            10,
            all(),
            vec![],
            vec![rule(Deny, metadata, Vec::new())],
        ),
        (
            Tier::Admin,
            20,
            all(),
            vec![rule(Allow, of(&[("team", "ant")]), tcp(9090))],
            vec![],
        ),
        (
            Tier::Admin,
            30,
            prod(),
            vec![rule(Deny, of(&[("env", "dev")]), Vec::new())],
            vec![],
        ),
        (
            Tier::Admin,
            40,
            prod(),
            vec![rule(Pass, everyone(), tcp(80))],
            vec![],
        ),
        (
            Tier::Admin,
            50,
            prod(),
            vec![rule(Deny, everyone(), tcp(22))],
            vec![],
        ),
        (
            Tier::Admin,
            60,
            all(),
            vec![],
            vec![rule(
                Allow,
                AdminPeer::Pods {
                    namespaces: labelled(&[("kubernetes.io/metadata.name", "ns-0")]),
                    pods: labelled(&[("app.kubernetes.io/name", "app-0")]),
                },
                vec![AdminPort::Of(Protocol::Udp, PortMatch::Range(53, 53))],
            )],
        ),
        (
            Tier::Baseline,
            10,
            all(),
            vec![rule(Allow, of(&[("env", "prod")]), Vec::new())],
            vec![],
        ),
        (
            Tier::Baseline,
            20,
            all(),
            vec![rule(Deny, everyone(), Vec::new())],
            vec![],
        ),
    ];
    policies
        .into_iter()
        .take(sizes.admin)
        .enumerate()
        .map(|(number, (tier, priority, subject, ingress, egress))| {
            Object::AdminPolicy(Arc::new(AdminPolicy {
                kind: AdminKind::ClusterNetworkPolicy,
                name: Arc::from(format!("admin-{number}")),
                uid: uid(random),
                generation: 1,
                tier,
                priority,
                subject,
                ingress,
                egress,
                annotations: Default::default(),
            }))
        })
        .collect()
}

fn pod(number: usize, sizes: &Sizes, random: &mut Random) -> Pod {
    let tier = TIERS[random.below(TIERS.len())];
    let app = format!("app-{}", random.below(8));
    let node = random.below(100);
    let name = format!("{app}-{tier}-{number}");
    let port = match tier {
        "web" => 80,
        "api" => 8080,
        "db" => 5432,
        "cache" => 6379,
        _ => 9090,
    };
    let mut labels = pairs(&[
        ("app.kubernetes.io/name", &app),
        ("tier", tier),
        ("version", ["v1", "v2"][random.below(2)]),
        ("pod-template-hash", &format!("{:x}", random.below(1 << 20))),
    ]);
    if tier == "db" {
        labels.insert(
            Arc::from("statefulset.kubernetes.io/pod-name"),
            Arc::from(name.as_str()),
        );
    }
    Pod {
        id: NamespacedName::new(format!("ns-{}", number % sizes.namespaces), name),
        uid: uid(random),
        labels,
        ips: vec![IpAddr::V4(Ipv4Addr::from_bits(
            0x0a00_0000 + ((node as u32) << 16) + 2 + (number as u32 % 65_000),
        ))],
        node: Some(Arc::from(format!("node-{node}"))),
        host_network: random.below(100) == 0,
        finished: random.below(100) == 0,
        ports: vec![
            ContainerPort {
                name: Some(Arc::from("main")),
                number: port,
                protocol: Protocol::Tcp,
            },
            ContainerPort {
                name: Some(Arc::from("metrics")),
                number: 9090,
                protocol: Protocol::Tcp,
            },
        ],
        owner: Some((Arc::from("ReplicaSet"), Arc::from(format!("{app}-{tier}")))),
        annotations: Default::default(),
    }
}

/// The first policy of a namespace is default-deny for both directions, the second lets DNS
/// out, the rest admit this and that.
fn policy(number: usize, sizes: &Sizes, random: &mut Random) -> NetworkPolicy {
    // Where there are many namespaces, some have none, and the others enough to be of every kind.
    let governed = sizes.namespaces.min(sizes.policies.div_ceil(5));
    let (namespace, nth) = (number % governed, number / governed);
    let mut policy = NetworkPolicy {
        id: NamespacedName::new(format!("ns-{namespace}"), format!("policy-{nth}")),
        uid: uid(random),
        generation: 1,
        pod_selector: Selector::default(),
        isolates_ingress: true,
        isolates_egress: nth < 2,
        ingress: Vec::new(),
        egress: Vec::new(),
        written: Default::default(),
        annotations: Default::default(),
    };
    match nth {
        0 => {}
        1 => {
            policy.isolates_ingress = false;
            policy.egress = vec![
                Rule {
                    peers: vec![Peer::Pods {
                        namespaces: Some(labelled(&[("kubernetes.io/metadata.name", "ns-0")])),
                        pods: Some(labelled(&[("app.kubernetes.io/name", "app-0")])),
                    }],
                    ports: vec![
                        port(Protocol::Udp, PortMatch::Range(53, 53)),
                        port(Protocol::Tcp, PortMatch::Range(53, 53)),
                    ],
                },
                Rule {
                    peers: vec![Peer::Pods {
                        namespaces: Some(Selector::default()),
                        pods: None,
                    }],
                    ports: vec![port(Protocol::Tcp, PortMatch::Range(1, 10_000))],
                },
            ];
        }
        _ => {
            policy.pod_selector = labelled(&[("tier", TIERS[random.below(TIERS.len())])]);
            policy.ingress = (0..1 + random.below(3)).map(|_| rule(random)).collect();
        }
    }
    policy
}

const fn port(protocol: Protocol, port: PortMatch) -> PolicyPort {
    PolicyPort {
        protocol,
        port,
        end_port_written: false,
    }
}

fn rule(random: &mut Random) -> Rule {
    let app = format!("app-{}", random.below(8));
    let tier = TIERS[random.below(TIERS.len())];
    let team = TEAMS[random.below(TEAMS.len())];
    let peers = match random.below(7) {
        0 => Vec::new(),
        1 | 2 => vec![Peer::Pods {
            namespaces: None,
            pods: Some(labelled(&[("tier", tier)])),
        }],
        3 => vec![Peer::Pods {
            namespaces: Some(labelled(&[("team", team)])),
            pods: Some(labelled(&[
                ("app.kubernetes.io/name", &app),
                ("tier", tier),
            ])),
        }],
        4 => vec![
            Peer::Pods {
                namespaces: Some(labelled(&[("env", "prod")])),
                pods: None,
            },
            Peer::IpBlock {
                cidr: "203.0.113.0/24".parse().unwrap(),
                except: vec!["203.0.113.128/25".parse().unwrap()],
            },
        ],
        5 => vec![Peer::Pods {
            namespaces: Some(Selector::default()),
            pods: Some(Selector {
                match_labels: BTreeMap::new(),
                match_expressions: vec![Requirement::In(
                    Arc::from("version"),
                    vec![Arc::from("v1"), Arc::from("v3")],
                )],
            }),
        }],
        _ => vec![Peer::IpBlock {
            cidr: format!("10.{}.0.0/16", random.below(100)).parse().unwrap(),
            except: Vec::new(),
        }],
    };
    let ports = match random.below(5) {
        0 => Vec::new(),
        1 => vec![port(Protocol::Tcp, PortMatch::Named(Arc::from("main")))],
        2 => vec![port(Protocol::Tcp, PortMatch::Range(8000, 9000))],
        3 => vec![
            port(Protocol::Tcp, PortMatch::Range(80, 80)),
            port(Protocol::Tcp, PortMatch::Range(443, 443)),
        ],
        _ => vec![port(Protocol::Tcp, PortMatch::Range(5432, 5432))],
    };
    Rule { peers, ports }
}
