//! Two nodes with clocks of their own, a network between their pods, and somebody who carries questions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use polproof_flow::finding::{
    Exposure, FindingDelta, FindingKey, FindingKind, InconclusiveReason, JudgedCounts, Recovery,
    Report,
};
use polproof_flow::netns::{Hook, InPod, NetnsEvent};
use polproof_flow::record::{Crossing, Event, Instant, NetnsCookie, Record};
use polproof_flow::witness::{Gap, Question, Testimony, Whom};
use polproof_flow::{Here, Judge, Restored, Settings};
use polproof_policy::model::{Namespace, Pod};
use polproof_policy::{NamespacedName, Object, Protocol, State, Uid};

use super::{SECOND, guard, ip, node, seconds};

/// Their names, and by how much the second one's clock is ahead.
pub const NODES: [&str; 2] = ["a", "b"];
const OFFSETS: [u64; 2] = [0, 7_777 * SECOND];

/// Pods of the small cluster: name, node, address, namespace.
pub const CLIENT: At = At(0, "10.1.0.1", 11);
pub const FRIEND: At = At(0, "10.1.0.3", 13);
pub const SERVER: At = At(1, "10.1.1.2", 12);
pub const NEIGHBOUR: At = At(1, "10.1.1.4", 14);

/// Where a pod is: node, address, namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub usize, pub &'static str, pub u64);

/// What becomes of an attempt on the way and in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    Refused,
    /// It arrives, and the pod says nothing.
    Unanswered,
    /// Nothing arrives, nothing comes back.
    Dropped,
    /// A RST comes from the network.
    Reset,
    /// An ICMP error comes from the network.
    Icmp,
    /// Accepted, and the acceptance is dropped.
    ReplyLost,
    /// Something on the way answers.
    Elsewhere,
}

pub const FATES: [Fate; 8] = [
    Fate::Accepted,
    Fate::Refused,
    Fate::Unanswered,
    Fate::Dropped,
    Fate::Reset,
    Fate::Icmp,
    Fate::ReplyLost,
    Fate::Elsewhere,
];

impl Fate {
    pub fn arrives(self) -> bool {
        matches!(
            self,
            Self::Accepted | Self::Refused | Self::Unanswered | Self::ReplyLost
        )
    }
}

pub fn a_pod(name: &str, uid: &str, at: At) -> Pod {
    Pod {
        node: Some(NODES[at.0].into()),
        ..super::pod(name, uid, at.1)
    }
}

/// The client may not, the friend may talk to the server.
pub fn two_nodes() -> State {
    let mut state = State::new();
    state.apply(Object::Namespace(Arc::new(Namespace {
        name: "shop".into(),
        uid: Uid("ns".into()),
        labels: BTreeMap::new(),
        annotations: Default::default(),
    })));
    for node in [
        node("a", "192.168.0.1", "10.1.0.0/24"),
        node("b", "192.168.0.2", "10.1.1.0/24"),
    ] {
        state.apply(Object::Node(Arc::new(node)));
    }
    for (name, at) in [
        ("client", CLIENT),
        ("friend", FRIEND),
        ("server", SERVER),
        ("neighbour", NEIGHBOUR),
    ] {
        state.apply(Object::Pod(Arc::new(a_pod(name, name, at))));
    }
    state.apply(Object::NetworkPolicy(Arc::new(guard(1))));
    state
}

/// What one judge has reported in all.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub findings: BTreeMap<Arc<FindingKey>, Sum>,
    pub inconclusive: BTreeMap<InconclusiveReason, u64>,
    pub judged: JudgedCounts,
    pub exposure: Exposure,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub observed: u64,
    pub settled: u64,
    pub retracted: u64,
    pub witnessed: u64,
    pub recovered: Vec<Recovery>,
    pub first: Instant,
    pub deltas: Vec<FindingDelta>,
}

impl Book {
    pub fn add(&mut self, report: Report) {
        for delta in report.findings {
            let sum = self.findings.entry(Arc::clone(&delta.key)).or_default();
            sum.observed += delta.observed;
            sum.settled += delta.settled;
            sum.retracted += delta.retracted;
            sum.witnessed += delta.witnessed;
            sum.recovered.extend(delta.recovered);
            if delta.observed > 0 && sum.first == Instant(0) {
                sum.first = delta.first;
            }
            sum.deltas.push(delta);
        }
        for (reason, count) in report.inconclusive {
            *self.inconclusive.entry(reason).or_default() += count;
        }
        let (sum, new) = (&mut self.judged, report.judged);
        sum.allowed_delivered += new.allowed_delivered;
        sum.denied_delivered += new.denied_delivered;
        sum.denied_unanswered += new.denied_unanswered;
        sum.denied_answered += new.denied_answered;
        sum.allowed_answered += new.allowed_answered;
        sum.denied_stopped += new.denied_stopped;
        sum.denied_in_grace += new.denied_in_grace;
        for (count, more) in self.exposure.counts.iter_mut().zip(report.exposure.counts) {
            *count += more;
        }
        self.exposure.sum_ms += report.exposure.sum_ms;
    }

    pub fn of(&self, kind: FindingKind) -> Vec<(&FindingKey, &Sum)> {
        self.findings
            .iter()
            .filter(|(key, _)| key.kind == kind)
            .map(|(key, sum)| (&**key, sum))
            .collect()
    }

    /// The only finding.
    pub fn only(&self) -> (&FindingKey, &Sum) {
        assert_eq!(self.findings.len(), 1, "{self:#?}");
        let (key, sum) = self.findings.iter().next().unwrap();
        (key, sum)
    }

    pub fn reasons(&self) -> Vec<(InconclusiveReason, u64)> {
        self.inconclusive.iter().map(|(r, n)| (*r, *n)).collect()
    }
}

/// Two judges, who hear each other.
pub struct Nodes {
    pub judges: Vec<Judge>,
    pub books: Vec<Book>,
    pub now: f64,
    /// Whether questions are carried to a node.
    pub reachable: [bool; 2],
    /// Questions wait so many ticks.
    pub delay: usize,
    carried: Vec<(usize, usize, u64, Question, usize)>,
    waiting: BTreeMap<(usize, u64), Waiting>,
    next: u64,
    pub(super) tag: u32,
}

struct Waiting {
    from: usize,
    id: u64,
    /// How many are asked, and what the others said.
    left: usize,
    said: Vec<Testimony>,
}

/// A moment of true time on a node's clock.
pub fn on(node: usize, at: f64) -> Instant {
    seconds(at).plus(OFFSETS[node])
}

fn translate(from: usize, to: usize, at: Instant) -> Instant {
    at.minus(OFFSETS[from]).plus(OFFSETS[to])
}

impl Nodes {
    pub fn new(state: &State) -> Self {
        Self::with(state, Settings::default())
    }

    pub fn with(state: &State, settings: Settings) -> Self {
        let mut nodes = Self {
            judges: (0..2)
                .map(|n| {
                    let addresses = vec![ip(["192.168.0.1", "192.168.0.2"][n])];
                    Judge::new(Here::new(NODES[n], addresses), settings)
                })
                .collect(),
            books: vec![Book::default(), Book::default()],
            now: 1.0,
            reachable: [true, true],
            delay: 1,
            carried: Vec::new(),
            waiting: BTreeMap::new(),
            next: 1,
            tag: 1_000,
        };
        for (name, at) in [
            ("client", CLIENT),
            ("friend", FRIEND),
            ("server", SERVER),
            ("neighbour", NEIGHBOUR),
        ] {
            nodes.attach(at, 0.5);
            nodes.identify(at, name);
        }
        nodes.view(state, 1.0);
        for judge in &mut nodes.judges {
            judge.on_collector(true);
        }
        nodes
    }

    pub fn attach(&mut self, at: At, since: f64) {
        let netns = NetnsCookie(at.2);
        let time = on(at.0, since);
        self.judges[at.0].on_netns(&NetnsEvent::Attached {
            netns,
            since: time,
            addresses: vec![ip(at.1)],
            hook: Hook::Exclusive,
        });
        self.judges[at.0].on_netns(&NetnsEvent::InPod {
            netns,
            at: time,
            filter: InPod::Plain,
        });
    }

    pub fn identify(&mut self, at: At, uid: &str) {
        self.judges[at.0].on_netns(&NetnsEvent::Identified {
            netns: NetnsCookie(at.2),
            pod: Uid(uid.into()),
        });
    }

    pub fn view(&mut self, state: &State, at: f64) {
        for (n, judge) in self.judges.iter_mut().enumerate() {
            judge.on_snapshot(on(n, at), state.snapshot(), true);
        }
    }

    pub fn record(&mut self, node: usize, record: Record) {
        self.judges[node].on_record(record);
    }

    /// A datagram to port 53, as each of these witnesses, one end or both, sees it now.
    pub fn datagram(&mut self, from: At, to: At, witnesses: &[At]) {
        for witness in witnesses {
            let record = Record {
                at: on(witness.0, self.now),
                netns: NetnsCookie(witness.2),
                crossing: if *witness == from {
                    Crossing::Out
                } else {
                    Crossing::In
                },
                protocol: Protocol::Udp,
                source: SocketAddr::new(ip(from.1), 40_000),
                destination: SocketAddr::new(ip(to.1), 53),
                event: Event::Datagram,
            };
            self.record(witness.0, record);
        }
    }

    /// Goes on until then, in steps of 100 ms.
    pub fn run(&mut self, until: f64) {
        while self.now < until {
            self.now += 0.1;
            self.step();
        }
    }

    fn step(&mut self) {
        for n in 0..self.judges.len() {
            let at = on(n, self.now);
            self.judges[n].tick(at, at);
            self.carry(n);
            let report = self.judges[n].take_report(at);
            self.books[n].add(report);
        }
        self.deliver();
    }

    fn carry(&mut self, from: usize) {
        for inquiry in self.judges[from].take_inquiries() {
            let to: Vec<usize> = match &inquiry.whom {
                Whom::Node(name) => NODES
                    .iter()
                    .position(|n| *n == &**name)
                    .into_iter()
                    .collect(),
                Whom::Everybody => (0..2).collect(),
            };
            let to: Vec<_> = to.into_iter().filter(|n| self.reachable[*n]).collect();
            if to.is_empty() {
                self.judges[from].on_testimony(inquiry.id, Testimony::Incomplete(Gap::NoAgent));
                continue;
            }
            for node in &to {
                let mut question = inquiry.question.clone();
                question.first = translate(from, *node, question.first);
                question.last = translate(from, *node, question.last);
                let number = self.next;
                self.carried
                    .push((*node, from, number, question, self.delay));
            }
            // One number for all who are asked.
            self.waiting.insert(
                (usize::MAX, self.next),
                Waiting {
                    from,
                    id: inquiry.id,
                    left: to.len(),
                    said: Vec::new(),
                },
            );
            self.next += 1;
        }
    }

    fn deliver(&mut self) {
        let mut later = Vec::new();
        for (to, from, number, question, delay) in std::mem::take(&mut self.carried) {
            if delay > 0 {
                later.push((to, from, number, question, delay - 1));
            } else {
                self.judges[to].on_question(number, question);
            }
        }
        self.carried = later;
        for n in 0..self.judges.len() {
            for (number, said) in self.judges[n].take_testimonies() {
                let Some(waiting) = self.waiting.get_mut(&(usize::MAX, number)) else {
                    continue;
                };
                waiting.left -= 1;
                let said = translated(n, waiting.from, said);
                let seen = matches!(said, Testimony::Seen(_));
                waiting.said.push(said);
                if seen || waiting.left == 0 {
                    let waiting = self.waiting.remove(&(usize::MAX, number)).unwrap();
                    let best = waiting
                        .said
                        .into_iter()
                        .min_by_key(|said| match said {
                            Testimony::Seen(_) => 0,
                            Testimony::Incomplete(_) => 1,
                            Testimony::NotSeen(_) => 2,
                        })
                        .unwrap();
                    self.judges[waiting.from].on_testimony(waiting.id, best);
                }
            }
        }
    }

    /// The agent of a node is killed, and goes on with what it had written.
    pub fn restart(&mut self, node: usize, state: &State, unsettled: Vec<FindingDelta>) {
        self.restart_with(node, state, 1.0, unsettled);
    }

    /// The same, with nothing unsettled, when the cluster is so since then.
    pub fn restart_at(&mut self, node: usize, state: &State, since: f64) {
        self.restart_with(node, state, since, Vec::new());
    }

    fn restart_with(
        &mut self,
        node: usize,
        state: &State,
        since: f64,
        unsettled: Vec<FindingDelta>,
    ) {
        let old = &self.judges[node];
        let mut new = Judge::new(
            Here::new(NODES[node], vec![ip(["192.168.0.1", "192.168.0.2"][node])]),
            Settings::default(),
        );
        let now = on(node, self.now);
        new.restore(
            Restored {
                views: vec![(on(node, since), state.snapshot())],
                bindings: old.bindings(),
                open: old.open_attempts(),
                unsettled,
                settled_until: old.settled_until(),
            },
            now,
        );
        new.on_snapshot(now, state.snapshot(), true);
        new.on_collector(true);
        self.judges[node] = new;
    }
}

fn translated(from: usize, to: usize, said: Testimony) -> Testimony {
    match said {
        Testimony::Seen(mut sighting) => {
            sighting.first = translate(from, to, sighting.first);
            Testimony::Seen(sighting)
        }
        Testimony::NotSeen(mut absence) => {
            if let Some(control) = &mut absence.control {
                control.at = translate(from, to, control.at);
            }
            Testimony::NotSeen(absence)
        }
        said @ Testimony::Incomplete(_) => said,
    }
}

pub fn id(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}
