//! A simulated cluster: pods that come and go and inherit addresses, policies and labels that change, an enforcer that follows them, and
//! agents that hear of everything somewhat later. Times are milliseconds of true time.

pub mod agents;
pub mod wire;

use std::sync::Arc;

use polproof_policy::model::{
    EndpointSlice, Labels, Namespace, NetworkPolicy, Peer, Pod, Rule, Service, ServicePort,
    SliceEndpoint, TargetPort,
};
use polproof_policy::{
    Endpoint, Expectation, NamespacedName, Object, Protocol, Query, Snapshot, State, Uid,
};

use super::world::{ip, node, selector};

pub const NODES: [&str; 3] = ["a", "b", "c"];
pub const SERVICE: &str = "10.96.0.10";
pub const NODE_PORT: u16 = 30_080;
/// What listens everywhere, what refuses, and what says nothing.
pub const OPEN: u16 = 80;
pub const CLOSED: u16 = 81;
pub const FULL: u16 = 82;

/// Numbers at random, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// From `low` to `high`, without `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }
    /// So many times in a hundred.
    pub fn often(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.between(0, all.len() as u64) as usize]
    }
}

/// What kind of run it is.
#[derive(Clone, Debug)]
pub struct Plan {
    pub end: u64,
    /// How long the enforcer takes to follow.
    pub lag: u64,
    /// Whether it lets packets of connections that it knows pass.
    pub stateful: bool,
    /// What it does: drops, resets, says by ICMP.
    pub rejects: u64,
    /// From then on it does nothing for this pod's name, and never will.
    pub inert: Option<(u64, usize)>,
    /// Links between two nodes that are cut, from and to.
    pub cuts: Vec<(usize, usize, u64, u64)>,
    /// What befalls the agents.
    pub weather: bool,
    /// So many packets in a hundred never come from one node to another.
    pub loss: u64,
}

/// A pod as it really is.
#[derive(Clone, Debug)]
pub struct Body {
    /// Which of the places in the cluster it fills: its name.
    pub place: usize,
    pub uid: Uid,
    pub node: usize,
    pub ip: String,
    pub netns: u64,
    pub born: u64,
    pub died: Option<u64>,
}

/// Something that happens to the objects at a time.
#[derive(Clone, Debug)]
enum Change {
    Apply(Object),
    Delete(Object),
}

pub struct Town {
    pub dice: Dice,
    pub plan: Plan,
    pub state: State,
    /// The truth over time.
    pub log: Vec<(u64, Snapshot)>,
    pub bodies: Vec<Body>,
    /// When policies were changed.
    edits: Vec<u64>,
    later: Vec<(u64, Change)>,
    policies: Vec<(bool, i64, bool)>,
    teams: [bool; 2],
    labels: Vec<usize>,
    next: u64,
}

const APPS: [&str; 3] = ["web", "api", "db"];
const SPACES: [&str; 2] = ["x", "y"];
const PLACES: usize = 9;

impl Town {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut town = Self {
            dice: Dice::new(seed),
            plan,
            state: State::new(),
            log: Vec::new(),
            bodies: Vec::new(),
            edits: Vec::new(),
            later: Vec::new(),
            policies: vec![(true, 1, false), (true, 1, false), (false, 1, false)],
            teams: [true, false],
            labels: (0..PLACES).map(|n| n % APPS.len()).collect(),
            next: 1,
        };
        for (n, name) in NODES.iter().enumerate() {
            let made = node(name, &node_ip(n), &format!("10.1.{n}.0/24"));
            town.state.apply(Object::Node(Arc::new(made)));
        }
        for n in 0..SPACES.len() {
            town.label_namespace(n);
        }
        for n in 0..town.policies.len() {
            town.put_policy(n);
        }
        for place in 0..PLACES {
            town.birth(place, 500, None);
        }
        town.endpoints();
        town.settle_objects(1_000);
        town.log.push((0, town.state.snapshot()));
        town
    }

    fn label_namespace(&mut self, n: usize) {
        let team = if self.teams[n] { "red" } else { "blue" };
        let object = Object::Namespace(Arc::new(Namespace {
            name: SPACES[n].into(),
            uid: Uid(format!("ns-{n}").into()),
            labels: [("team".into(), team.into())].into(),
            annotations: Default::default(),
        }));
        self.state.apply(object);
    }

    fn put_policy(&mut self, n: usize) {
        let (present, generation, variant) = self.policies[n];
        let pods = |app| Peer::Pods {
            namespaces: None,
            pods: Some(selector(&[("app", app)])),
        };
        let red = Peer::Pods {
            namespaces: Some(selector(&[("team", "red")])),
            pods: None,
        };
        let (space, app, egress, peers) = match (n, variant) {
            (0, false) => (0, "web", false, vec![pods("api")]),
            (0, true) => (0, "web", false, vec![pods("api"), pods("db")]),
            (1, false) => (1, "db", false, vec![red]),
            (1, true) => (1, "db", false, vec![red, pods("api")]),
            (_, false) => (0, "api", true, vec![pods("web"), red]),
            (_, true) => (0, "api", true, vec![pods("web")]),
        };
        let rules = vec![Rule {
            peers,
            ports: Vec::new(),
        }];
        let policy = NetworkPolicy {
            id: NamespacedName::new(SPACES[space], format!("p{n}")),
            uid: Uid(format!("p{n}").into()),
            generation,
            pod_selector: selector(&[("app", app)]),
            isolates_ingress: !egress,
            isolates_egress: egress,
            ingress: if egress { Vec::new() } else { rules.clone() },
            egress: if egress { rules } else { Vec::new() },
            written: Default::default(),
            annotations: Default::default(),
        };
        let object = Object::NetworkPolicy(Arc::new(policy));
        if present {
            self.state.apply(object);
        } else {
            self.state.delete(&object.key());
        }
    }

    fn object(&self, body: &Body, known: bool) -> Object {
        Object::Pod(Arc::new(Pod {
            id: NamespacedName::new(SPACES[body.place % 2], format!("pod-{}", body.place)),
            uid: body.uid.clone(),
            labels: [("app".into(), APPS[self.labels[body.place]].into())].into(),
            ips: if known {
                vec![ip(&body.ip)]
            } else {
                Vec::new()
            },
            node: Some(NODES[body.node].into()),
            host_network: false,
            finished: false,
            ports: Vec::new(),
            owner: None,
            annotations: Default::default(),
        }))
    }

    /// A pod comes, at its own address or at that of one before.
    fn birth(&mut self, place: usize, at: u64, address: Option<(usize, String)>) {
        self.next += 1;
        let (node, ip) = address.unwrap_or_else(|| {
            let node = place % NODES.len();
            (node, format!("10.1.{node}.{}", 10 + self.next % 200))
        });
        let body = Body {
            place,
            uid: Uid(format!("pod-{place}-{}", self.next).into()),
            node,
            ip,
            netns: 1_000 + self.next,
            born: at,
            died: None,
        };
        // Created before it runs; its address is told afterwards.
        let bare = self.object(&body, false);
        let whole = self.object(&body, true);
        let created = at.saturating_sub(self.dice.between(0, 400));
        let known = at + self.dice.between(50, 1_500);
        self.later.push((created, Change::Apply(bare)));
        self.later.push((known, Change::Apply(whole)));
        self.bodies.push(body);
    }

    /// Objects that change by then.
    fn settle_objects(&mut self, now: u64) -> bool {
        self.later.sort_by_key(|(at, _)| *at);
        let due = self.later.partition_point(|(at, _)| *at <= now);
        for (_, change) in self.later.drain(..due) {
            match change {
                Change::Apply(object) => self.state.apply(object),
                Change::Delete(object) => self.state.delete(&object.key()),
            };
        }
        due > 0
    }

    fn endpoints(&mut self) {
        let ends: Vec<_> = self
            .bodies
            .iter()
            .filter(|body| body.died.is_none() && self.labels[body.place] == 0)
            .filter(|body| body.place % 2 == 0)
            .map(|body| SliceEndpoint {
                addresses: vec![ip(&body.ip)],
                pod: Some(body.uid.clone()),
                ready: true,
                terminating: false,
            })
            .collect();
        self.state.apply(Object::Service(Arc::new(Service {
            id: NamespacedName::new("x", "web"),
            uid: Uid("web".into()),
            addresses: vec![ip(SERVICE)],
            cluster_ips: vec![ip(SERVICE)],
            selector: None,
            ports: vec![ServicePort {
                name: None,
                port: OPEN,
                node_port: Some(NODE_PORT),
                protocol: Protocol::Tcp,
                target: TargetPort::Number(OPEN),
            }],
        })));
        self.state
            .apply(Object::EndpointSlice(Arc::new(EndpointSlice {
                id: NamespacedName::new("x", "web-1"),
                uid: Uid("web-1".into()),
                service: Some("web".into()),
                ports: vec![(None, OPEN, Protocol::Tcp)],
                endpoints: ends,
            })));
    }

    /// Those behind the Service.
    pub fn ends(&self, now: u64) -> Vec<usize> {
        self.alive(now)
            .into_iter()
            .filter(|n| self.labels[self.bodies[*n].place] == 0)
            .filter(|n| self.bodies[*n].place.is_multiple_of(2))
            .collect()
    }

    pub fn alive(&self, now: u64) -> Vec<usize> {
        (0..self.bodies.len())
            .filter(|n| {
                let body = &self.bodies[*n];
                body.born <= now && body.died.is_none_or(|died| died > now)
            })
            .collect()
    }

    /// Changes something; says who was born or died.
    pub fn change(&mut self, now: u64) -> Option<usize> {
        let mut born = None;
        match self.dice.between(0, 10) {
            0..=2 => {
                let n = self.dice.between(0, 3) as usize;
                self.edits.push(now);
                self.policies[n].0 = !self.policies[n].0;
                self.policies[n].1 += 1;
                self.put_policy(n);
            }
            3 => {
                let n = self.dice.between(0, 3) as usize;
                self.edits.push(now);
                self.policies[n].1 += 1;
                self.policies[n].2 = !self.policies[n].2;
                self.put_policy(n);
            }
            4 => {
                let n = self.dice.between(0, 2) as usize;
                self.teams[n] = !self.teams[n];
                self.label_namespace(n);
            }
            5 => {
                let alive = self.alive(now);
                let n = self.dice.of(&alive);
                let body = self.bodies[n].clone();
                if body.born + 3_000 < now {
                    self.labels[body.place] = self.dice.between(0, 3) as usize;
                    let object = self.object(&body, true);
                    self.state.apply(object);
                    self.endpoints();
                }
            }
            _ => born = self.replace(now),
        }
        born
    }

    /// A pod dies, and another one comes in its place, often at its address, or at that of one that died lately.
    fn replace(&mut self, now: u64) -> Option<usize> {
        let alive = self.alive(now);
        let n = self.dice.of(&alive);
        let old = self.bodies[n].clone();
        if old.born + 4_000 > now || alive.len() < 6 {
            return None;
        }
        self.bodies[n].died = Some(now);
        let gone = now + self.dice.between(0, 2_000);
        let object = self.object(&old, true);
        self.later.push((gone, Change::Delete(object)));
        let born = now + self.dice.between(100, 3_000);
        let address = if self.dice.often(60) {
            Some((old.node, old.ip.clone()))
        } else {
            None
        };
        // Another name often gets the address.
        let place = old.place;
        self.labels[place] = self.dice.between(0, 3) as usize;
        // A name is free when its object is gone.
        self.birth(place, born.max(gone + 401), address);
        self.endpoints();
        Some(n)
    }

    /// Notes what is true now.
    pub fn tick(&mut self, now: u64) -> bool {
        self.settle_objects(now);
        let snapshot = self.state.snapshot();
        let version = |(_, held): &(u64, Snapshot)| held.version();
        let new = self.log.last().map(version) != Some(snapshot.version());
        if new {
            self.log.push((now, snapshot));
        }
        new
    }

    pub fn truth(&self, at: u64) -> &Snapshot {
        let then = self.log.partition_point(|(since, _)| *since <= at);
        &self.log[then.saturating_sub(1)].1
    }

    /// What the policies say of a connection between two bodies by one view; `None` where it does not know them.
    pub fn says(
        &self,
        view: &Snapshot,
        ends: (usize, usize),
        way: (Protocol, u16),
    ) -> Option<bool> {
        let (source, destination) = (&self.bodies[ends.0], &self.bodies[ends.1]);
        if ends.0 == ends.1 {
            return Some(true);
        }
        let verdict = view.evaluate(&Query {
            source: Endpoint::Pod(view.pod(&source.uid)?),
            source_ip: ip(&source.ip),
            destination: Endpoint::Pod(view.pod(&destination.uid)?),
            destination_ip: ip(&destination.ip),
            protocol: way.0,
            port: way.1,
        });
        Some(verdict.expectation() != Expectation::Deny)
    }

    /// Whether the enforcer lets it pass.
    pub fn passes(&self, now: u64, ends: (usize, usize), way: (Protocol, u16)) -> bool {
        if let Some((since, place)) = self.plan.inert
            && now >= since
            && self.bodies[ends.1].place == place
        {
            return true;
        }
        let lagging = self.truth(now.saturating_sub(self.plan.lag));
        self.says(lagging, ends, way)
            .or_else(|| self.says(self.truth(now), ends, way))
            .unwrap_or(false)
    }

    /// What selectors see of two bodies.
    fn labels_of(&self, view: &Snapshot, ends: (usize, usize)) -> Vec<Labels> {
        let known = [ends.0, ends.1].map(|n| view.pod(&self.bodies[n].uid));
        let labels = known.into_iter().flatten();
        labels
            .flat_map(|pod| [pod.labels.clone(), view.namespace_labels(&pod.id.namespace)])
            .collect()
    }

    /// Whether it was denied throughout these times, by policies that nobody changed, to ends of which nobody changed the labels: another
    /// policy may deny since then, and one view may hide several changes.
    pub fn denied(&self, from: u64, to: u64, ends: (usize, usize), way: (Protocol, u16)) -> bool {
        if self.edits.iter().any(|at| (from..=to).contains(at)) {
            return false;
        }
        let first = self.log.partition_point(|(since, _)| *since <= from);
        let mut held = None;
        self.log[first.saturating_sub(1)..]
            .iter()
            .take_while(|(since, _)| *since <= to)
            .all(|(_, view)| {
                let labels = self.labels_of(view, ends);
                let same = *held.get_or_insert_with(|| labels.clone()) == labels;
                same && self.says(view, ends, way) == Some(false)
            })
    }

    /// Whether labels of two ends were others for a while between these times: who looks at their ends only does not see it.
    pub fn relabelled(&self, from: u64, to: u64, ends: (usize, usize)) -> bool {
        let first = self.log.partition_point(|(since, _)| *since <= from);
        let labels: Vec<_> = self.log[first.saturating_sub(1)..]
            .iter()
            .take_while(|(since, _)| *since <= to)
            .map(|(_, view)| self.labels_of(view, ends))
            .collect();
        let ends = [labels.first(), labels.last()];
        labels.iter().any(|held| !ends.contains(&Some(held)))
    }

    pub fn loses(&mut self, ends: (usize, usize)) -> bool {
        let across = self.bodies[ends.0].node != self.bodies[ends.1].node;
        across && self.plan.loss > 0 && self.dice.often(self.plan.loss)
    }

    pub fn is_cut(&self, now: u64, ends: (usize, usize)) -> bool {
        let (a, b) = (self.bodies[ends.0].node, self.bodies[ends.1].node);
        self.plan.cuts.iter().any(|(one, other, from, to)| {
            (*from..*to).contains(&now) && ((a, b) == (*one, *other) || (b, a) == (*one, *other))
        })
    }
}

pub fn node_ip(n: usize) -> String {
    format!("192.168.0.{}", n + 1)
}
