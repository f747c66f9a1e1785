//! The lints of selectors and of the ways out, beside a reading of their definitions that looks at every object every
//! time: what the audit keeps, groups and indexes must not show.
//!
//! 2,000 random clusters; `PROPTEST_CASES` sets another number.

#![allow(
    dead_code,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

#[path = "properties/admin.rs"]
mod admin;
#[path = "properties/cluster.rs"]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::lint::{Input, Options, audit};
use polproof_policy::model::{ContainerPort, NetworkPolicy, Peer, Pod, Rule, Selector};
use polproof_policy::{
    Decision, Direction, Endpoint, Expectation, NamespacedName, Object, Protocol, Query, Snapshot,
    State, Uid,
};
use proptest::prelude::*;

const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

fn state_of(objects: &[Object]) -> State {
    let mut state = State::new();
    for object in objects {
        state.apply(object.clone());
    }
    state
}

fn isolates(policy: &NetworkPolicy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

fn empty(selector: &Selector) -> bool {
    *selector == Selector::default()
}

/// Everything that the definitions speak of, without an index.
struct Plain<'a> {
    snapshot: &'a Snapshot,
    living: Vec<&'a Arc<Pod>>,
    governed: Vec<&'a Arc<Pod>>,
    policies: Vec<&'a Arc<NetworkPolicy>>,
    namespaces: BTreeSet<Arc<str>>,
    options: &'a Options,
    found: BTreeSet<(String, String)>,
}

impl<'a> Plain<'a> {
    fn new(snapshot: &'a Snapshot, options: &'a Options) -> Self {
        let living: Vec<_> = snapshot.pods().filter(|pod| !pod.finished).collect();
        let policies: Vec<_> = snapshot.policies().collect();
        let named = snapshot.namespaces().map(|namespace| &namespace.name);
        Self {
            snapshot,
            namespaces: named
                .chain(living.iter().map(|pod| &pod.id.namespace))
                .chain(policies.iter().map(|policy| &policy.id.namespace))
                .cloned()
                .collect(),
            governed: living
                .iter()
                .copied()
                .filter(|pod| !pod.host_network)
                .collect(),
            living,
            policies,
            options,
            found: BTreeSet::new(),
        }
    }

    fn find(&mut self, lint: &str, subject: impl ToString) {
        self.found.insert((lint.to_owned(), subject.to_string()));
    }

    fn isolated(&self, pod: &Pod, direction: Direction) -> bool {
        self.policies.iter().any(|policy| {
            policy.id.namespace == pod.id.namespace
                && isolates(policy, direction)
                && policy.pod_selector.matches(&pod.labels)
        })
    }

    fn namespaces_of(&self, selector: &Selector) -> Vec<Arc<str>> {
        let matches = |name: &&Arc<str>| selector.matches(&self.snapshot.namespace_labels(name));
        self.namespaces.iter().filter(matches).cloned().collect()
    }

    fn pods_in(&self, namespaces: &[Arc<str>], pods: Option<&Selector>) -> Vec<&'a Arc<Pod>> {
        self.living
            .iter()
            .copied()
            .filter(|pod| namespaces.contains(&pod.id.namespace))
            .filter(|pod| pods.is_none_or(|pods| pods.matches(&pod.labels)))
            .collect()
    }

    fn coverage(&mut self) {
        for namespace in self.namespaces.clone() {
            let in_it = |pod: &&&Arc<Pod>| pod.id.namespace == namespace;
            let governed: Vec<_> = self.governed.iter().filter(in_it).copied().collect();
            if governed.is_empty() {
                continue;
            }
            let held = self.policies.iter().copied();
            let policies: Vec<_> = held.filter(|of| of.id.namespace == namespace).collect();
            if policies.is_empty() {
                self.find("NP001", &namespace);
                continue;
            }
            for direction in BOTH {
                if policies
                    .iter()
                    .any(|of| isolates(of, direction) && empty(&of.pod_selector))
                {
                    continue;
                }
                let lint = match direction {
                    Direction::Ingress => "NP002",
                    Direction::Egress => "NP003",
                };
                self.find(lint, &namespace);
                for pod in &governed {
                    if !self.isolated(pod, direction) {
                        self.find("NP004", format!("{}:{direction}", pod.id));
                    }
                }
            }
        }
    }

    fn rules(&mut self) {
        for policy in self.policies.clone() {
            let own = std::slice::from_ref(&policy.id.namespace);
            if self.pods_in(own, Some(&policy.pod_selector)).is_empty() {
                self.find("NP030", &policy.id);
            }
            for direction in BOTH {
                for (index, rule) in rules(policy, direction).iter().enumerate() {
                    let subject = format!("{}:{direction}[{index}]", policy.id);
                    if isolates(policy, direction) {
                        self.wide(&subject, direction, rule);
                    }
                    for (index, peer) in rule.peers.iter().enumerate() {
                        let list = match direction {
                            Direction::Ingress => "from",
                            Direction::Egress => "to",
                        };
                        let subject = format!("{subject}.{list}[{index}]");
                        self.peer(&subject, &policy.id.namespace, peer);
                        if let Some(next) = rule.peers.get(index + 1)
                            && let Peer::Pods {
                                namespaces: Some(namespaces),
                                pods: None,
                            } = peer
                            && let Peer::Pods {
                                namespaces: None,
                                pods: Some(pods),
                            } = next
                            && !empty(namespaces)
                            && !empty(pods)
                        {
                            self.find("NP034", subject);
                        }
                    }
                }
            }
        }
    }

    fn wide(&mut self, subject: &str, direction: Direction, rule: &Rule) {
        let whole = |excepted: bool| {
            rule.peers.iter().any(|peer| {
                matches!(peer, Peer::IpBlock { cidr, except }
                    if cidr.prefix_len() == 0 && (excepted || except.is_empty()))
            })
        };
        let every_pod = rule.peers.iter().any(|peer| {
            matches!(peer, Peer::Pods { namespaces: Some(namespaces), pods }
                if empty(namespaces) && pods.as_ref().is_none_or(empty))
        });
        if (rule.peers.is_empty() || whole(false)) && rule.ports.is_empty() {
            let lint = match direction {
                Direction::Ingress => "NP010",
                Direction::Egress => "NP011",
            };
            self.find(lint, subject);
            return;
        }
        if every_pod && rule.ports.is_empty() {
            self.find("NP012", subject);
        }
        if whole(true) {
            self.find("NP013", subject);
        }
    }

    fn peer(&mut self, subject: &str, own: &Arc<str>, peer: &Peer) {
        let Peer::Pods { namespaces, pods } = peer else {
            return;
        };
        match namespaces {
            Some(selector) => {
                let among = self.namespaces_of(selector);
                if among.is_empty() {
                    self.find("NP032", subject);
                } else if self.pods_in(&among, pods.as_ref()).is_empty() {
                    self.find("NP031", subject);
                }
            }
            None => {
                if self
                    .pods_in(std::slice::from_ref(own), pods.as_ref())
                    .is_empty()
                {
                    let all: Vec<_> = self.namespaces.iter().cloned().collect();
                    let elsewhere = !self.pods_in(&all, pods.as_ref()).is_empty();
                    self.find(if elsewhere { "NP033" } else { "NP031" }, subject);
                }
            }
        }
    }

    fn dns(&mut self) {
        let is_server = |pod: &Pod| {
            let mut of = self.options.dns.iter();
            of.any(|(namespace, labels)| {
                **namespace == *pod.id.namespace && labels.matches(&pod.labels)
            })
        };
        let held = self.governed.iter().copied().cloned();
        let mut servers: Vec<Arc<Pod>> = held.filter(|pod| is_server(pod)).collect();
        let mut snapshot = self.snapshot.clone();
        if servers.is_empty() {
            let server = stand_in(&self.options.dns[0]);
            let mut objects: Vec<Object> = snapshot.objects().collect();
            objects.push(Object::Pod(Arc::clone(&server)));
            let refused: Vec<NamespacedName> = snapshot.refused_policies().collect();
            let mut state = state_of(&objects);
            state.set_refused_policies(refused);
            snapshot = state.snapshot();
            servers = vec![server];
        }
        for pod in self.governed.clone() {
            if servers.iter().any(|server| server.id == pod.id)
                || !self.isolated(pod, Direction::Egress)
            {
                continue;
            }
            let udp = verdicts(&snapshot, pod, &servers, Protocol::Udp, &["dns"]);
            let tcp = verdicts(&snapshot, pod, &servers, Protocol::Tcp, &["dns-tcp", "dns"]);
            let denied =
                |of: &[Expectation]| !of.is_empty() && of.iter().all(|of| *of == Expectation::Deny);
            if denied(&udp) {
                self.find("NP020", &pod.id);
            } else if udp.contains(&Expectation::Allow) && denied(&tcp) {
                self.find("NP021", &pod.id);
            }
        }
    }

    fn metadata(&mut self) -> BTreeMap<String, &'static str> {
        let mut by = BTreeMap::new();
        for pod in self.governed.clone() {
            for to in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"] {
                let to: IpAddr = to.parse().unwrap();
                let from = match pod.ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()) {
                    Some(from) => *from,
                    None if pod.ips.is_empty() && to.is_ipv4() => "192.0.2.53".parse().unwrap(),
                    None => continue,
                };
                let egress = self
                    .snapshot
                    .evaluate(&Query {
                        source: Endpoint::Pod(pod),
                        source_ip: from,
                        destination: Endpoint::External,
                        destination_ip: to,
                        protocol: Protocol::Tcp,
                        port: 80,
                    })
                    .egress;
                if egress.expectation == Expectation::Allow {
                    let subject = format!("{}->{to}", pod.id);
                    self.find("NP022", &subject);
                    let rule = matches!(egress.decision, Decision::Rule(_) | Decision::Admin(_));
                    by.insert(subject, if rule { "rule" } else { "no-egress-isolation" });
                }
            }
        }
        by
    }
}

fn verdicts(
    snapshot: &Snapshot,
    pod: &Pod,
    servers: &[Arc<Pod>],
    protocol: Protocol,
    names: &[&str],
) -> Vec<Expectation> {
    let mut found = Vec::new();
    for server in servers {
        let port = names
            .iter()
            .find_map(|name| {
                let named = |port: &&ContainerPort| port.name.as_deref() == Some(*name);
                let of_protocol = |port: &&ContainerPort| port.protocol == protocol;
                let same = server.ports.iter().filter(named).find(of_protocol);
                same.or(server.ports.iter().find(named))
            })
            .map_or(53, |port| port.number);
        for (v4, unknown) in [(true, "192.0.2.53"), (false, "2001:db8::53")] {
            let unknown: IpAddr = unknown.parse().unwrap();
            let of = |pod: &Pod| pod.ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
            let (source_ip, destination_ip) = match (pod.ips.is_empty(), server.ips.is_empty()) {
                (false, false) => (of(pod), of(server)),
                (false, true) => (of(pod), Some(unknown)),
                (true, true) => (v4.then_some(unknown), v4.then_some(unknown)),
                // IPv4 unless the server has none.
                (true, false) => {
                    let only_v6 = server.ips.iter().all(IpAddr::is_ipv6);
                    ((v4 || only_v6).then_some(unknown), of(server))
                }
            };
            if let (Some(source_ip), Some(destination_ip)) = (source_ip, destination_ip) {
                let query = Query {
                    source: Endpoint::Pod(pod),
                    source_ip,
                    destination: Endpoint::Pod(server),
                    destination_ip,
                    protocol,
                    port,
                };
                found.push(snapshot.evaluate(&query).egress.expectation);
            }
        }
    }
    found
}

fn stand_in((namespace, labels): &(String, Selector)) -> Arc<Pod> {
    let port = |name: &str, protocol| ContainerPort {
        name: Some(Arc::from(name)),
        number: 53,
        protocol,
    };
    Arc::new(Pod {
        id: NamespacedName::new(namespace.as_str(), "stand-in"),
        uid: Uid(Arc::from("stand-in")),
        labels: labels.match_labels.clone(),
        ips: Vec::new(),
        node: None,
        host_network: false,
        finished: false,
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        owner: None,
        annotations: BTreeMap::new(),
    })
}

/// DNS servers of the small world, where it has one; else the usual ones, which it never has.
fn options(snapshot: &Snapshot) -> Options {
    let mut labels = Selector::default();
    labels.match_labels.insert("app".into(), "a".into());
    let is = |pod: &Arc<Pod>| {
        *pod.id.namespace == *"red"
            && !pod.finished
            && !pod.host_network
            && labels.matches(&pod.labels)
    };
    if !snapshot.pods().any(is) {
        return Options::default();
    }
    Options {
        dns: vec![("red".to_owned(), labels)],
        ..Options::default()
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|cases| cases.parse().ok()).unwrap_or(2_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn audit_finds_what_the_definitions_say(
        objects in cluster::cluster(),
        refused in cluster::refused(),
    ) {
        let mut state = state_of(&objects);
        state.set_refused_policies(refused);
        let snapshot = state.snapshot();
        let options = options(&snapshot);
        let mut plain = Plain::new(&snapshot, &options);
        plain.coverage();
        plain.rules();
        plain.dns();
        let by = plain.metadata();

        let audit = audit(Input { snapshot: &snapshot, refused: &[] }, &options);
        let found: Vec<_> = audit.findings.iter().filter(|of| of.lint < "NP040").collect();
        let subjects: BTreeSet<(String, String)> = found
            .iter()
            .map(|finding| (finding.lint.to_owned(), finding.subject.clone()))
            .collect();
        prop_assert_eq!(&subjects, &plain.found);
        prop_assert_eq!(subjects.len(), found.len(), "a finding is there once");
        for finding in found.iter().filter(|of| of.lint == "NP022") {
            prop_assert_eq!(finding.by, by.get(&finding.subject).copied());
        }
        for posture in &audit.namespaces {
            let pods = || plain.governed.iter().filter(|pod| pod.id.namespace == posture.namespace);
            let covered = |direction| pods().filter(|pod| plain.isolated(pod, direction)).count();
            prop_assert_eq!(posture.governed_pods, pods().count());
            prop_assert_eq!(posture.covered_ingress, covered(Direction::Ingress));
            prop_assert_eq!(posture.covered_egress, covered(Direction::Egress));
        }
    }
}
