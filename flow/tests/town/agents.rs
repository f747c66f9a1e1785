//! The agents of the nodes: each hears of everything somewhat later, in another order, and by its own clock; they ask each other, are
//! killed and come back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use polproof_flow::finding::FindingDelta;
use polproof_flow::netns::{Hook, InPod, NetnsEvent};
use polproof_flow::record::{Instant, NetnsCookie, Record};
use polproof_flow::witness::{Gap, Question, Testimony, Whom};
use polproof_flow::{Here, Judge, Restored, Settings};
use polproof_policy::Snapshot;

use super::super::world::ip;
use super::super::world::pair::Book;
use super::{Body, Dice, NODES, Town, node_ip};

const MS: u64 = 1_000_000;

enum Item {
    Record(Record),
    Netns(NetnsEvent),
    View(Snapshot),
    Lost(Instant, Instant),
    Question(u64, Question),
    Said(u64, Testimony),
}

struct Agent {
    judge: Judge,
    book: Book,
    inbox: BinaryHeap<Reverse<(u64, u64)>>,
    items: BTreeMap<u64, Item>,
    offset: u64,
    /// How wrong the others' times are here, in milliseconds.
    wrong: u64,
    /// Nothing is read before.
    busy: u64,
    /// Killed, and not back before.
    down: Option<u64>,
    connected: bool,
    /// Records are lost between these times.
    losing: Option<(u64, u64)>,
    views: Vec<(Instant, Snapshot)>,
    deltas: Vec<FindingDelta>,
}

pub struct Agents {
    all: Vec<Agent>,
    next: u64,
    /// Who asked what of how many, by the number that they were asked under.
    asked: BTreeMap<u64, (usize, u64, usize, Vec<Testimony>)>,
    /// Which node's agent was killed, when, and when it was back.
    pub restarts: Vec<(usize, u64, u64)>,
}

impl Agents {
    pub fn new(dice: &mut Dice) -> Self {
        let all = (0..NODES.len())
            .map(|n| Agent {
                judge: judge(n),
                book: Book::default(),
                inbox: BinaryHeap::new(),
                items: BTreeMap::new(),
                offset: dice.between(0, 100_000_000),
                wrong: dice.between(0, 300),
                busy: 0,
                down: None,
                connected: true,
                losing: None,
                views: Vec::new(),
                deltas: Vec::new(),
            })
            .collect();
        let mut agents = Self {
            all,
            next: 1,
            asked: BTreeMap::new(),
            restarts: Vec::new(),
        };
        for agent in &mut agents.all {
            agent.judge.on_collector(true);
        }
        agents
    }

    pub fn books(&self) -> impl Iterator<Item = &Book> {
        self.all.iter().map(|agent| &agent.book)
    }

    pub fn clock(&self, node: usize, at: u64) -> Instant {
        Instant((at + self.all[node].offset) * MS)
    }

    /// True time of a moment on a node's clock.
    pub fn true_time(&self, node: usize, at: Instant) -> u64 {
        (at.0 / MS).saturating_sub(self.all[node].offset)
    }

    fn put(&mut self, node: usize, at: u64, item: Item) {
        self.next += 1;
        let agent = &mut self.all[node];
        agent.inbox.push(Reverse((at, self.next)));
        agent.items.insert(self.next, item);
    }

    /// Records of several CPUs are read in another order.
    pub fn record(&mut self, dice: &mut Dice, node: usize, at: u64, record: Record) {
        let lost = self.all[node].losing;
        if lost.is_some_and(|(from, to)| (from..to).contains(&at)) && dice.often(50) {
            return;
        }
        let late = dice.between(0, 80);
        self.put(node, at + late, Item::Record(record));
    }

    /// A pod has come.
    pub fn born(&mut self, dice: &mut Dice, body: &Body) {
        let since = self.clock(body.node, body.born);
        self.attach(dice, body, body.born, since);
    }

    fn attach(&mut self, dice: &mut Dice, body: &Body, now: u64, since: Instant) {
        let netns = NetnsCookie(body.netns);
        let attached = NetnsEvent::Attached {
            netns,
            since,
            addresses: vec![ip(&body.ip)],
            hook: Hook::Exclusive,
        };
        self.put(body.node, now + 10, Item::Netns(attached));
        let inside = now + dice.between(20, 900);
        let filter = NetnsEvent::InPod {
            netns,
            at: self.clock(body.node, inside),
            filter: InPod::Plain,
        };
        self.put(body.node, inside, Item::Netns(filter));
        let pod = body.uid.clone();
        let known = now + dice.between(20, 2_000);
        self.put(
            body.node,
            known,
            Item::Netns(NetnsEvent::Identified { netns, pod }),
        );
    }

    pub fn died(&mut self, dice: &mut Dice, body: &Body, now: u64) {
        let noticed = now + dice.between(0, 800);
        let gone = NetnsEvent::Gone {
            netns: NetnsCookie(body.netns),
            at: self.clock(body.node, noticed),
        };
        self.put(body.node, noticed, Item::Netns(gone));
    }

    /// The watches tell of what has changed.
    pub fn view(&mut self, dice: &mut Dice, now: u64, view: &Snapshot) {
        for node in 0..self.all.len() {
            let late = dice.between(0, 1_500);
            self.put(node, now + late, Item::View(view.clone()));
        }
    }

    /// Something befalls one of them.
    pub fn befall(&mut self, town: &mut Town, now: u64) {
        let node = town.dice.between(0, 3) as usize;
        let dice = &mut town.dice;
        match dice.between(0, 4) {
            // Never for as long as the aftermath: what it is told then is told too late.
            0 if self.all[node].busy + 1_000 < now => {
                self.all[node].busy = now + dice.between(500, 3_000);
            }
            1 => {
                let agent = &mut self.all[node];
                agent.connected = !agent.connected;
                let connected = agent.connected;
                agent.judge.on_collector(connected);
            }
            2 => {
                let to = now + dice.between(10, 300);
                self.all[node].losing = Some((now, to));
                let span = Item::Lost(self.clock(node, now), self.clock(node, to));
                self.put(node, to + 100, span);
            }
            _ if self.all[node].down.is_none() => {
                let back = now + dice.between(300, 4_000);
                self.all[node].down = Some(back);
                self.restarts.push((node, now, back));
            }
            _ => {}
        }
    }

    /// Everything until then is heard and judged.
    pub fn tick(&mut self, town: &mut Town, now: u64) {
        for node in 0..self.all.len() {
            if let Some(until) = self.all[node].down {
                if until > now {
                    continue;
                }
                self.come_back(town, node, now);
            }
            if self.all[node].busy > now {
                continue;
            }
            self.hear(node, now);
            let at = self.clock(node, now);
            let agent = &mut self.all[node];
            agent.judge.tick(at, at);
            self.carry(node, now);
            self.commit(node, at);
        }
    }

    fn hear(&mut self, node: usize, now: u64) {
        let agent = &mut self.all[node];
        while let Some(&Reverse((at, number))) = agent.inbox.peek()
            && at <= now
        {
            agent.inbox.pop();
            let Some(item) = agent.items.remove(&number) else {
                continue;
            };
            let judge = &mut agent.judge;
            match item {
                Item::Record(record) => judge.on_record(record),
                Item::Netns(event) => judge.on_netns(&event),
                Item::View(view) => {
                    // The watch may have been overtaken.
                    let newest = agent.views.last().map(|(_, held)| held.version());
                    if newest.is_none_or(|newest| newest < view.version()) {
                        let at = Instant((now + agent.offset) * MS);
                        judge.on_snapshot(at, view.clone(), true);
                        agent.views.push((at, view));
                    }
                }
                Item::Lost(from, to) => judge.on_lost(from, to),
                Item::Question(id, question) => judge.on_question(id, question),
                Item::Said(id, said) => judge.on_testimony(id, said),
            }
        }
    }

    fn commit(&mut self, node: usize, at: Instant) {
        let agent = &mut self.all[node];
        let report = agent.judge.take_report(at);
        agent.deltas.extend(report.findings.iter().cloned());
        let settled = agent.judge.settled_until();
        agent
            .deltas
            .retain(|delta| delta.observed > 0 && delta.last > settled);
        agent.book.add(report);
    }

    /// Killed after its last commit, and started anew.
    fn come_back(&mut self, town: &mut Town, node: usize, now: u64) {
        let at = self.clock(node, now);
        let agent = &mut self.all[node];
        agent.down = None;
        let keep_from = at.minus(150 * Instant::SECOND);
        let first = agent
            .views
            .partition_point(|(since, _)| *since <= keep_from);
        let views = agent.views.split_off(first.saturating_sub(1));
        agent.views = views;
        let restored = Restored {
            views: agent.views.clone(),
            bindings: agent.judge.bindings(),
            open: agent.judge.open_attempts(),
            unsettled: agent.deltas.clone(),
            settled_until: agent.judge.settled_until(),
        };
        let mut new = judge(node);
        new.restore(restored, at);
        new.on_collector(agent.connected);
        agent.judge = new;
        // What was told meanwhile, but for the records, was told to nobody.
        agent
            .items
            .retain(|_, item| matches!(item, Item::Record(_) | Item::Netns(_) | Item::Lost(..)));
        let newest = town.log.last().map(|(_, view)| view.clone()).unwrap();
        agent.views.push((at, newest.clone()));
        agent.judge.on_snapshot(at, newest, true);
        for n in town.alive(now) {
            let body = town.bodies[n].clone();
            if body.node == node {
                let since = self.clock(node, body.born);
                self.attach(&mut town.dice, &body, now, since);
            }
        }
    }

    /// Times of another node's clock, as far as they are known.
    fn translate(&self, from: usize, to: usize, at: Instant) -> Instant {
        let (from, to) = (&self.all[from], &self.all[to]);
        at.minus(from.offset * MS)
            .plus((to.offset + to.wrong) * MS)
            .minus(from.wrong * MS)
    }

    fn carry(&mut self, node: usize, now: u64) {
        for (number, said) in self.all[node].judge.take_testimonies() {
            self.said(node, number, said, now);
        }
        for inquiry in self.all[node].judge.take_inquiries() {
            let named = |whom: &str| NODES.iter().position(|name| *name == whom);
            let whom: Vec<usize> = match &inquiry.whom {
                Whom::Node(name) => named(name).into_iter().collect(),
                Whom::Everybody => (0..NODES.len()).collect(),
            };
            let whom: Vec<_> = whom
                .into_iter()
                .filter(|n| self.all[*n].connected && self.all[*n].down.is_none())
                .collect();
            if whom.is_empty() {
                let said = Testimony::Incomplete(Gap::NoAgent);
                self.put(node, now + 50, Item::Said(inquiry.id, said));
                continue;
            }
            self.next += 1;
            let number = self.next;
            self.asked
                .insert(number, (node, inquiry.id, whom.len(), Vec::new()));
            for to in whom {
                let mut question = inquiry.question.clone();
                question.first = self.translate(node, to, question.first);
                question.last = self.translate(node, to, question.last);
                self.put(to, now + 40, Item::Question(number, question));
            }
        }
    }

    fn said(&mut self, from: usize, number: u64, said: Testimony, now: u64) {
        let Some((asker, ..)) = self.asked.get(&number) else {
            return;
        };
        let asker = *asker;
        let said = match said {
            Testimony::Seen(mut sighting) => {
                sighting.first = self.translate(from, asker, sighting.first);
                Testimony::Seen(sighting)
            }
            Testimony::NotSeen(mut absence) => {
                if let Some(control) = &mut absence.control {
                    control.at = self.translate(from, asker, control.at);
                }
                Testimony::NotSeen(absence)
            }
            said @ Testimony::Incomplete(_) => said,
        };
        let (_, id, left, others) = self.asked.get_mut(&number).unwrap();
        let seen = matches!(said, Testimony::Seen(_));
        others.push(said);
        *left -= 1;
        if seen || *left == 0 {
            let id = *id;
            let (.., others) = self.asked.remove(&number).unwrap();
            let best = others.into_iter().min_by_key(|said| match said {
                Testimony::Seen(_) => 0,
                Testimony::Incomplete(_) => 1,
                Testimony::NotSeen(_) => 2,
            });
            self.put(asker, now + 40, Item::Said(id, best.unwrap()));
        }
    }
}

fn judge(node: usize) -> Judge {
    let here = Here::new(NODES[node], vec![ip(&node_ip(node))]);
    Judge::new(here, Settings::default())
}
