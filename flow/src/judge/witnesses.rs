//! The traffic between witnesses: what others ask us, and what we ask them.

use std::net::IpAddr;

use polproof_policy::{IpOwner, NamespacedName, Protocol, Snapshot, Uid};

use crate::answers::{Knowledge, Memories};
use crate::attempt::{Attempt, AttemptKey, Outcome, Side, read};
use crate::control::{NEAR, shows_the_way};
use crate::finding::Answer;
use crate::here::Here;
use crate::history::History;
use crate::inquiries::OWN;
use crate::losses::Losses;
use crate::namespaces::Namespaces;
use crate::recent::SLACK;
use crate::record::{Instant, NetnsCookie};
use crate::recovery::Pair;
use crate::services;
use crate::witness::{Absence, Gap, Inquiry, Question, Testimony};

use super::Judge;
use super::arrivals::Accused;
use super::departures::Departed;

/// Why we ask.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Who sent what arrived.
    Identify(AttemptKey),
    /// Whether the source of a finding knows it.
    Confirm(Box<Accused>),
    /// Whether what left arrived.
    Departure(Box<Departed>),
    /// To tell who called a node, whoever took the call.
    Tell,
}

impl Judge {
    /// A question of another witness: an answer follows, at once or when the time that it asks about is over.
    pub fn on_question(&mut self, id: u64, question: Question) {
        self.ask(id & !OWN, question);
    }

    fn ask(&mut self, id: u64, question: Question) {
        if question.side == Side::Destination
            && question.asker.is_some()
            && self.questioned.len() < self.settings.max_questions
        {
            self.questioned.insert(id, question.clone());
        }
        let mut refused = Vec::new();
        self.answers.ask(id, question, self.now, &mut refused);
        for (id, said) in refused {
            self.answered(id, said);
        }
    }

    /// Answers to questions, by the number of the question.
    pub fn take_testimonies(&mut self) -> Vec<(u64, Testimony)> {
        std::mem::take(&mut self.testimonies)
    }

    /// Questions to other witnesses.
    pub fn take_inquiries(&mut self) -> Vec<Inquiry> {
        self.inquiries.take()
    }

    /// The answer to one of our inquiries.
    pub fn on_testimony(&mut self, id: u64, testimony: Testimony) {
        self.inquiries.answer(id & !OWN, testimony, &mut self.tally);
    }

    /// Whether other witnesses can be asked now: the collector is connected.
    pub fn on_collector(&mut self, connected: bool) {
        self.inquiries.connect(connected);
    }

    /// Asks again about what was asked before a restart, since who was to hear the answer is gone.
    pub(super) fn ask_again(&mut self) {
        if self.unconfirmed.is_empty()
            || !self.inquiries.is_connected()
            || self.history.newest().is_none()
        {
            return;
        }
        for (key, sample) in std::mem::take(&mut self.unconfirmed) {
            let outcome = match sample.answer {
                Answer::Accepted => Outcome::Accepted,
                Answer::Refused => Outcome::Refused,
                Answer::Delivered => Outcome::Silent,
                _ => continue,
            };
            if let Some((Side::Destination, attempt, _)) = read(&sample.syn) {
                let attempt = Attempt::begin(attempt, sample.syn.at);
                self.confirm(&key, &attempt, outcome);
            }
        }
    }

    /// Answers what can be answered, and draws the conclusions from what was.
    pub(super) fn hear(&mut self, horizon: Instant) {
        for (id, question) in self.inquiries.take_own() {
            self.ask(id, question);
        }
        let mut said = Vec::new();
        let known = Known {
            namespaces: &self.namespaces,
            history: &self.history,
            losses: &self.losses,
            here: &self.here,
        };
        let memories = Memories {
            destination: self.destination.recent(),
            source: self.source.recent(),
        };
        self.answers
            .tick(self.now, horizon, memories, &known, &mut said);
        for (id, testimony) in said {
            self.answered(id, testimony);
        }
        self.inquiries.expire(self.now, &mut self.tally);
        while let Some((purpose, said)) = self.inquiries.finished() {
            match purpose {
                Purpose::Identify(key) => self.identified(key, &said),
                Purpose::Confirm(accused) => self.confirmed(&accused, &said),
                Purpose::Departure(departed) => self.departed(&departed, &said),
                Purpose::Tell => {}
            }
        }
    }

    /// We have said something, to others or to ourselves.
    fn answered(&mut self, id: u64, said: Testimony) {
        if let Some(question) = self.questioned.remove(&id)
            && let Some(asker) = &question.asker
        {
            match &said {
                Testimony::Seen(_) => self.learn(&question, asker),
                Testimony::NotSeen(absence) => self.stopped(&question, asker, absence),
                Testimony::Incomplete(_) => {}
            }
        }
        if id & OWN == 0 {
            match &said {
                Testimony::Seen(_) => self.tally.answered_seen += 1,
                Testimony::NotSeen(_) => self.tally.answered_not_seen += 1,
                Testimony::Incomplete(_) => self.tally.answered_incomplete += 1,
            }
            self.testimonies.push((id, said));
        } else {
            self.inquiries.answer(id, said, &mut self.tally);
        }
    }

    /// Something was sent to a pod here and did not arrive: a finding that such things do may be over.
    fn stopped(&mut self, question: &Question, asker: &Uid, absence: &Absence) {
        let newest = self.history.newest();
        let Some((destination, port)) = newest.and_then(|newest| meant(newest, question)) else {
            return;
        };
        let pair = Pair {
            source: asker.clone(),
            destination,
            protocol: question.protocol,
            port,
        };
        // The asker's clock may be somewhat wrong: what was delivered need not have come before it.
        let at = question.first.minus(SLACK);
        if !self.standing.may_end(&pair, at) || !self.way_was_open(question, asker, absence) {
            return;
        }
        // Who forwards to the ends of a Service hears of a change sooner or later than we.
        let always = |view: &Snapshot| {
            meant(view, question).is_some_and(|(pod, at)| pod == pair.destination && at == port)
        };
        if !self.history.since(question.first.minus(NEAR)).all(always) {
            return;
        }
        let over = self.standing.tried(&pair, at, false);
        self.end(over, question.first);
    }

    /// Whether anything got through from the asker's node to a pod of this one at that time: else a cut cable would be enforcement.
    fn way_was_open(&self, question: &Question, asker: &Uid, absence: &Absence) -> bool {
        if shows_the_way(absence, question.first) {
            return true;
        }
        let (from, to) = (question.first.minus(NEAR), question.first.plus(NEAR));
        let known = Known {
            namespaces: &self.namespaces,
            history: &self.history,
            losses: &self.losses,
            here: &self.here,
        };
        let memory = self.destination.recent();
        let mut any = false;
        self.namespaces.between(None, from, to, &mut |netns| {
            any = any
                || memory.controls(netns, from, to).any(|entry| {
                    entry.is_like(question)
                        && known.same_node(entry.client().ip(), asker, entry.first())
                });
        });
        any
    }

    pub(super) fn stands_for_others(&self, ip: IpAddr) -> bool {
        stands_for_others(self.history.newest(), ip)
    }
}

/// The pod that is asked about, and the port at which it would have got what was sent, if nobody else could have got it: behind an
/// address of a Service there may be others.
fn meant(view: &Snapshot, question: &Question) -> Option<(Uid, u16)> {
    let pod = question.pod.as_ref()?;
    let (ip, port) = (question.server.ip(), question.server.port());
    if view.pod(pod)?.ips.contains(&ip.to_canonical()) {
        return Some((pod.clone(), port));
    }
    // What the asker's node has of its own is not known here.
    let forwarded = services::forwarded(view, ip, question.protocol, port, |ip| {
        services::is_node(view, ip)
    });
    let (service, entry) = forwarded?;
    let ends = services::behind(view, question.client.ip(), service, entry)?;
    match ends.as_slice() {
        [end] if end.pod.uid == *pod => Some((pod.clone(), end.port)),
        _ => None,
    }
}

/// Whether an address may stand for somebody behind it: any but that of a pod.
fn stands_for_others(newest: Option<&Snapshot>, ip: IpAddr) -> bool {
    newest.is_none_or(|newest| !matches!(newest.owner(ip), IpOwner::Pod(_) | IpOwner::Ambiguous))
}

/// What answering needs to know.
struct Known<'a> {
    namespaces: &'a Namespaces,
    history: &'a History,
    losses: &'a Losses,
    here: &'a Here,
}

impl Known<'_> {
    /// Whether every pod of this node has a namespace that is known to be its.
    fn knows_all(&self) -> bool {
        self.history.newest().is_some_and(|newest| {
            newest
                .pods()
                .filter(|pod| {
                    pod.node.as_ref() == Some(&self.here.node) && !pod.host_network && !pod.finished
                })
                .all(|pod| self.namespaces.has(&pod.uid))
        })
    }
}

impl Knowledge for Known<'_> {
    fn pod(&self, netns: NetnsCookie) -> Option<(NamespacedName, Uid)> {
        let pod = self.history.newest()?.pod(self.namespaces.pod(netns)?)?;
        Some((pod.id.clone(), pod.uid.clone()))
    }

    fn namespaces(
        &self,
        pod: Option<&Uid>,
        from: Instant,
        to: Instant,
        each: &mut dyn FnMut(NetnsCookie),
    ) -> bool {
        self.namespaces.between(pod, from, to, each) && (pod.is_some() || self.knows_all())
    }

    fn gap(&self, netns: NetnsCookie, from: Instant, to: Instant) -> Option<Gap> {
        self.namespaces.gap(netns, from, to)
    }

    fn lost(&self, protocol: Protocol, from: Instant, to: Instant) -> Option<Gap> {
        self.losses.between(protocol, from, to)
    }

    fn same_node(&self, client: IpAddr, asker: &Uid, at: Instant) -> bool {
        let (Some(then), Some(newest)) = (self.history.in_force(at), self.history.newest()) else {
            return false;
        };
        let Some(node) = newest.pod(asker).and_then(|asker| asker.node.as_ref()) else {
            return false;
        };
        // An address may have come from another node since then.
        [then, newest]
            .into_iter()
            .all(|view| match view.owner(client) {
                IpOwner::Pod(pod) => pod.uid == *asker || pod.node.as_ref() == Some(node),
                _ => false,
            })
    }

    fn stands_for_others(&self, ip: IpAddr) -> bool {
        stands_for_others(self.history.newest(), ip)
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        self.here.has(ip)
            || self
                .history
                .newest()
                .is_some_and(|newest| match newest.owner(ip) {
                    IpOwner::Node(node) => node == self.here.node,
                    IpOwner::Pod(pod) => pod.node.as_ref() == Some(&self.here.node),
                    _ => false,
                })
    }
}
