//! A small cluster, and packets in it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

pub mod packets;
pub mod pair;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use polproof_flow::finding::{InconclusiveReason, Report};
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::{Crossing, Event, Instant, NetnsCookie, Record};
use polproof_flow::{Here, Judge, Settings};
use polproof_policy::model::{Namespace, NetworkPolicy, Node, Peer, Pod, Rule, Selector};
use polproof_policy::{Key, NamespacedName, Object, Snapshot, State, Uid};

pub const SECOND: u64 = Instant::SECOND;
pub const SERVER_NETNS: NetnsCookie = NetnsCookie(2);
pub const CLIENT_NETNS: NetnsCookie = NetnsCookie(1);
pub const SERVER: &str = "10.1.0.2";
pub const CLIENT: &str = "10.1.0.1";
pub const FRIEND: &str = "10.1.0.3";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn seconds(n: f64) -> Instant {
    Instant((n * SECOND as f64) as u64)
}

pub fn selector(labels: &[(&str, &str)]) -> Selector {
    Selector {
        match_labels: labels
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect(),
        match_expressions: Vec::new(),
    }
}

pub fn pod(name: &str, uid: &str, address: &str) -> Pod {
    Pod {
        id: NamespacedName::new("shop", name),
        uid: Uid(uid.into()),
        labels: BTreeMap::from([("app".into(), name.into())]),
        ips: vec![ip(address)],
        // The client's own witness is on another node, which cannot be asked: one witness has to do.
        node: Some(if name == "client" { "there" } else { "here" }.into()),
        host_network: false,
        finished: false,
        ports: Vec::new(),
        owner: None,
        annotations: Default::default(),
    }
}

pub fn node(name: &str, address: &str, cidr: &str) -> Node {
    Node {
        name: name.into(),
        uid: Uid(format!("node-{name}").into()),
        labels: Default::default(),
        addresses: vec![ip(address)],
        pod_cidrs: vec![cidr.parse().unwrap()],
    }
}

/// Isolates the server for ingress and admits the friend.
pub fn guard(generation: i64) -> NetworkPolicy {
    NetworkPolicy {
        id: NamespacedName::new("shop", "guard"),
        uid: Uid("guard".into()),
        generation,
        pod_selector: selector(&[("app", "server")]),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![Rule {
            peers: vec![Peer::Pods {
                namespaces: None,
                pods: Some(selector(&[("app", "friend")])),
            }],
            ports: Vec::new(),
        }],
        egress: Vec::new(),
        written: Default::default(),
        annotations: Default::default(),
    }
}

pub fn cluster() -> State {
    let mut state = State::new();
    state.apply(Object::Namespace(Arc::new(Namespace {
        name: "shop".into(),
        uid: Uid("ns".into()),
        labels: BTreeMap::new(),
        annotations: Default::default(),
    })));
    for node in [
        node("here", "192.168.0.1", "10.1.0.0/24"),
        node("there", "192.168.0.2", "10.1.1.0/24"),
    ] {
        state.apply(Object::Node(Arc::new(node)));
    }
    for pod in [
        pod("client", "client", CLIENT),
        pod("server", "server", SERVER),
        pod("friend", "friend", FRIEND),
    ] {
        state.apply(Object::Pod(Arc::new(pod)));
    }
    state.apply(Object::NetworkPolicy(Arc::new(guard(1))));
    state
}

pub fn apply_pod(state: &mut State, pod: Pod) {
    state.apply(Object::Pod(Arc::new(pod)));
}

pub fn apply_policy(state: &mut State, policy: NetworkPolicy) {
    state.apply(Object::NetworkPolicy(Arc::new(policy)));
}

pub fn delete_policy(state: &mut State) {
    let key: Key = Object::NetworkPolicy(Arc::new(guard(1))).key();
    state.delete(&key);
}

pub fn delete_pod(state: &mut State, pod: Pod) {
    state.delete(&Object::Pod(Arc::new(pod)).key());
}

/// An attempt, and the records that it makes at one end.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    pub netns: NetnsCookie,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub isn: u32,
    pub out: bool,
}

pub fn attempt(client: &str, isn: u32) -> Try {
    Try {
        netns: SERVER_NETNS,
        client: SocketAddr::new(ip(client), 40_000),
        server: SocketAddr::new(ip(SERVER), 80),
        isn,
        out: false,
    }
}

pub fn departure(server: &str, isn: u32) -> Try {
    Try {
        netns: CLIENT_NETNS,
        client: SocketAddr::new(ip(CLIENT), 40_000),
        server: SocketAddr::new(ip(server), 80),
        isn,
        out: true,
    }
}

impl Try {
    fn there(&self) -> Crossing {
        if self.out {
            Crossing::Out
        } else {
            Crossing::In
        }
    }
    fn back(&self) -> Crossing {
        if self.out {
            Crossing::In
        } else {
            Crossing::Out
        }
    }
    pub fn syn(&self, at: Instant) -> Record {
        Record {
            at,
            netns: self.netns,
            crossing: self.there(),
            protocol: polproof_policy::Protocol::Tcp,
            source: self.client,
            destination: self.server,
            event: Event::Syn { isn: self.isn },
        }
    }
    pub fn syn_ack(&self, at: Instant) -> Record {
        Record {
            at,
            netns: self.netns,
            crossing: self.back(),
            protocol: polproof_policy::Protocol::Tcp,
            source: self.server,
            destination: self.client,
            event: Event::SynAck {
                acknowledgement: self.isn.wrapping_add(1),
            },
        }
    }
    pub fn rst(&self, at: Instant) -> Record {
        Record {
            event: Event::Rst {
                sequence: 0,
                acknowledgement: self.isn.wrapping_add(1),
                ack: true,
                ttl: 64,
            },
            ..self.syn_ack(at)
        }
    }
    pub fn unreachable(&self, at: Instant) -> Record {
        Record {
            at,
            netns: self.netns,
            crossing: self.back(),
            protocol: polproof_policy::Protocol::Tcp,
            source: self.client,
            destination: self.server,
            event: Event::Unreachable {
                reporter: ip("192.168.0.1"),
                icmp_type: 3,
                code: 13,
                quoted_sequence: self.isn,
            },
        }
    }
}

pub fn here() -> Here {
    Here::new("here", vec![ip("192.168.0.1"), ip("10.1.0.254")])
}

/// A judge that has seen the cluster since 1 s, with both namespaces identified.
pub fn judge_with(state: &State, settings: Settings) -> Judge {
    let mut judge = Judge::new(here(), settings);
    identify(&mut judge);
    judge.on_snapshot(seconds(1.0), state.snapshot(), true);
    judge
}

pub fn judge(state: &State) -> Judge {
    judge_with(state, Settings::default())
}

pub fn attach(judge: &mut Judge, netns: NetnsCookie, hook: Hook) {
    judge.on_netns(&NetnsEvent::Attached {
        netns,
        since: seconds(0.5),
        addresses: Vec::new(),
        hook,
    });
}

pub fn identify(judge: &mut Judge) {
    for (netns, pod) in [(CLIENT_NETNS, "client"), (SERVER_NETNS, "server")] {
        attach(judge, netns, Hook::Exclusive);
        judge.on_netns(&NetnsEvent::Identified {
            netns,
            pod: Uid(pod.into()),
        });
    }
}

pub fn tick(judge: &mut Judge, at: Instant) {
    judge.tick(at, at);
}

/// Feeds records, ticks at `at` and takes the report.
pub fn feed(judge: &mut Judge, at: Instant, records: &[Record]) -> Report {
    for record in records {
        judge.on_record(*record);
    }
    tick(judge, at);
    judge.take_report(at)
}

pub fn inconclusive(report: &Report, reason: InconclusiveReason) -> u64 {
    report
        .inconclusive
        .iter()
        .filter(|(held, _)| *held == reason)
        .map(|(_, count)| count)
        .sum()
}

/// (observed, settled, retracted) over all findings.
pub fn counts(report: &Report) -> (u64, u64, u64) {
    report.findings.iter().fold((0, 0, 0), |sum, delta| {
        (
            sum.0 + delta.observed,
            sum.1 + delta.settled,
            sum.2 + delta.retracted,
        )
    })
}

pub fn snapshot(state: &State) -> Snapshot {
    state.snapshot()
}
