//! The judge: records, namespaces and views of the cluster go in, reports come out.
//!
//! It is a value that knows no clock. [`Judge::on_record`] only notes; [`Judge::tick`] gives the verdicts, so that
//! the order in which the records of several CPUs are read does not matter.
//!
//! # What can spoil which verdict
//!
//! A violation is a positive fact: the SYN was seen at the pod's eth0, and the pod's stack answered or nothing but the stack
//! could take it. Records lost around it do not make it untrue, nor does an attach that came late. What can make it
//! untrue is another program on eth0 that may have answered ([`InconclusiveReason::HookShared`]), a doubt about who the two ends
//! were, and an expectation that was not constant. Who the source was, the witness there says: `arrivals`.
//!
//! That something did *not* arrive is said by a complete witness alone, and held against anybody only if something else got
//! through at that time: `departures`.

mod again;
mod arrivals;
mod departures;
mod reports;
mod senders;
mod sockets;
mod witnesses;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::{Protocol, Snapshot};

use crate::answers::Answers;
use crate::attempt::{Attempt, AttemptKey, Outcome, Side, Signal, read};
use crate::control::Doubts;
use crate::exposure::Exposures;
use crate::finding::{FindingDelta, FindingKey, InconclusiveReason, Sample};
use crate::here::Here;
use crate::history::History;
use crate::inquiries::{Inquiries, Limit};
use crate::ledger::Ledger;
use crate::losses::{Losses, Missed};
use crate::namespaces::Namespaces;
use crate::netns::NetnsEvent;
use crate::record::{Instant, NetnsCookie, Record};
use crate::recovery::Standing;
use crate::restored::{Restored, asked};
use crate::settings::Settings;
use crate::survivor::{Connection, Survivors};
use crate::table::Attempts;
use crate::tally::Tally;
use crate::udp::{Flows, News};
use crate::witness::{Question, Testimony};

use departures::Way;
use senders::Sender;
use witnesses::Purpose;

/// How often attempts that wait are looked for.
const WALK: u64 = Instant::SECOND / 50;
/// How often what is too old is looked for.
const SWEEP: u64 = Instant::SECOND;

/// What limits our own questions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    netns: NetnsCookie,
    peer: IpAddr,
    protocol: Protocol,
    port: u16,
}

impl Asked {
    /// The connection of an attempt, without its ephemeral port.
    fn of(side: Side, key: &AttemptKey) -> Self {
        Self {
            netns: key.netns,
            peer: match side {
                Side::Destination => key.client.ip(),
                Side::Source => key.server.ip(),
            },
            protocol: key.protocol,
            port: key.server.port(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Judge {
    settings: Settings,
    here: Here,
    destination: Attempts,
    source: Attempts,
    flows: Flows,
    history: History,
    /// Whether the view of the cluster is complete now.
    ready: bool,
    /// When a restart was overcome, or the view became stale.
    restored_at: Option<Instant>,
    namespaces: Namespaces,
    ledger: Ledger,
    losses: Losses,
    now: Instant,
    /// Something came that attempts may have waited for.
    news: bool,
    waiting: bool,
    /// When those may be looked for again.
    next_walk: Instant,
    /// When what is too old is looked for again.
    next_sweep: Instant,
    due: Vec<u32>,
    /// Questions of others.
    answers: Answers,
    testimonies: Vec<(u64, Testimony)>,
    /// Those about what a pod here may have been sent, until they are answered: that tells us something, too.
    questioned: HashMap<u64, Question>,
    /// Our own.
    inquiries: Inquiries<Purpose>,
    confirming: Limit<Asked>,
    identifying: Limit<Asked>,
    shouting: Limit<()>,
    learned: Limit<AttemptKey>,
    doubting: Limit<Asked>,
    proving: Limit<Asked>,
    /// Findings of before a restart, whose other witnesses are to be asked again.
    unconfirmed: Vec<(Arc<FindingKey>, Sample)>,
    /// Attempts that left before a restart, and how they ended there: the witnesses at the other ends are to be asked again.
    unheard: Vec<(Attempt, Outcome)>,
    /// Who sent what arrived, where the address does not tell: as far as witnesses have said.
    senders: HashMap<AttemptKey, Sender>,
    /// Addresses inside a pod CIDR that nobody is known to have, since when and until when they send: a new pod's is known
    /// soon.
    strangers: HashMap<IpAddr, (Instant, Instant)>,
    /// When a connection to a Service last worked.
    ways: HashMap<Way, Instant>,
    doubts: Doubts,
    standing: Standing,
    exposures: Exposures,
    survivors: Survivors,
    /// Datagrams of flows that go on, since the last tick.
    ongoing: Vec<(AttemptKey, Option<Instant>, Instant)>,
    tally: Tally,
}

impl Judge {
    /// A judge that knows nothing yet.
    pub fn new(here: Here, settings: Settings) -> Self {
        let second = Instant::SECOND;
        let limits = settings.max_tuples;
        Self {
            here,
            destination: Attempts::new(Side::Destination, &settings),
            source: Attempts::new(Side::Source, &settings),
            flows: Flows::new(&settings),
            history: History::new(&settings),
            ready: false,
            restored_at: None,
            namespaces: Namespaces::default(),
            ledger: Ledger::new(settings.max_keys, settings.max_unsettled),
            losses: Losses::default(),
            now: Instant(0),
            news: false,
            waiting: false,
            next_walk: Instant(0),
            next_sweep: Instant(0),
            due: Vec::new(),
            answers: Answers::new(settings.max_questions, settings.testimony),
            testimonies: Vec::new(),
            questioned: HashMap::new(),
            inquiries: Inquiries::new(settings.max_inquiries, settings.testimony),
            confirming: Limit::new(limits, second, 1),
            identifying: Limit::new(limits, second, 2),
            shouting: Limit::new(1, second, 8),
            learned: Limit::new(limits, settings.remember, 1),
            doubting: Limit::new(limits, 5 * second, 5),
            proving: Limit::new(limits, 5 * second, 1),
            unconfirmed: Vec::new(),
            unheard: Vec::new(),
            senders: HashMap::new(),
            strangers: HashMap::new(),
            ways: HashMap::new(),
            doubts: Doubts::new(settings.max_watched),
            standing: Standing::new(settings.max_watched),
            exposures: Exposures::default(),
            survivors: Survivors::new(settings.max_watched),
            ongoing: Vec::new(),
            tally: Tally::default(),
            settings,
        }
    }

    /// Takes over what is left of before a restart. Call it first, then feed the records after the position of
    /// the last written report.
    pub fn restore(&mut self, restored: Restored, now: Instant) {
        for (at, snapshot) in restored.views {
            self.history.restore(at, snapshot);
        }
        for binding in restored.bindings {
            self.flows.attached(binding.netns, binding.since);
            self.namespaces.restore(binding, now);
        }
        for record in restored.open {
            if let Some(connection) = Connection::marked(&record) {
                self.survivors.said(connection, record.at);
                continue;
            }
            if let Some((attempt, outcome)) = asked(&record) {
                self.unheard(attempt, outcome);
                // The table of flows has a marker of its own.
                if record.protocol == Protocol::Udp {
                    continue;
                }
            }
            match read(&record) {
                Some((side, key, Signal::Counted(syns))) => {
                    self.side(side).counted(key, record.at, syns);
                }
                _ => self.on_record(record),
            }
        }
        self.flows.restored(now);
        self.destination.forget_before(now);
        self.source.forget_before(now);
        for delta in &restored.unsettled {
            self.standing.stand(&delta.key, delta.last);
            let samples = delta
                .samples
                .first()
                .map(|sample| (Arc::clone(&delta.key), *sample));
            if self.unconfirmed.len() < self.settings.max_inquiries {
                self.unconfirmed.extend(samples);
            }
        }
        self.ledger
            .restore(restored.unsettled, restored.settled_until);
        self.restored_at = Some(now);
        self.news = true;
    }

    /// Takes back observed attempts that can never be judged for good: the node was rebooted, and nothing that
    /// is known now tells of their time.
    pub fn retract(&mut self, unsettled: Vec<FindingDelta>) {
        self.ledger.retract(unsettled);
    }

    fn side(&mut self, side: Side) -> &mut Attempts {
        match side {
            Side::Destination => &mut self.destination,
            Side::Source => &mut self.source,
        }
    }

    /// Notes a record.
    pub fn on_record(&mut self, record: Record) {
        self.tally.records += 1;
        let news = match record.protocol {
            Protocol::Udp => self.flows.read(&record),
            Protocol::Tcp | Protocol::Sctp => read(&record),
        };
        if let Some(news) = news {
            self.on_news(news, record.at);
        }
    }

    fn on_news(&mut self, (side, key, signal): News, at: Instant) {
        let attempts = self.side(side);
        match signal {
            Signal::Syn => attempts.syn(key, at),
            Signal::Begun { unsure } => attempts.flow(key, at, unsure),
            Signal::Answer(outcome, told) => attempts.answer(key, outcome, told, at),
            Signal::GoesOn { forward, begun } => {
                attempts.goes_on(key, at, forward);
                if forward
                    && side == Side::Destination
                    && self.ongoing.len() < self.settings.max_early
                {
                    self.ongoing.push((key, begun, at));
                }
            }
            // Only a restart makes these.
            Signal::Counted(_) => {}
        }
    }

    /// Notes news of a namespace.
    pub fn on_netns(&mut self, event: &NetnsEvent) {
        if let NetnsEvent::Attached { netns, since, .. } = event {
            self.flows.attached(*netns, *since);
        }
        if self.namespaces.on_event(event) {
            self.history.forget();
        }
        match event {
            NetnsEvent::Sockets {
                netns,
                at,
                sockets,
                complete,
            } => self.on_sockets(*netns, *at, sockets, *complete),
            NetnsEvent::Gone { netns, .. } => self.survivors.gone(*netns),
            _ => {}
        }
        self.news = true;
    }

    /// Notes a view of the cluster, in force from `at` on. One that is not `ready` is not believed.
    pub fn on_snapshot(&mut self, at: Instant, snapshot: Snapshot, ready: bool) {
        self.ready = ready;
        if ready {
            self.history.add(at, snapshot, &self.settings);
        } else if self.history.lose_sight() {
            // As if the source were away: what changes meanwhile is not told.
            self.restored_at = Some(at);
        }
        self.news = true;
    }

    /// Notes that the view may be behind the cluster since `at` (the API server is away), with what is known of
    /// the cluster. As over a restart, attempts are shown provisionally for a while, and settled only when a view
    /// that is up to date agrees: a policy may have been changed meanwhile, and the enforcer may know.
    pub fn on_stale(&mut self, at: Instant, snapshot: Snapshot) {
        if self.history.grow_stale(at, snapshot) {
            self.restored_at = Some(at);
        }
        self.news = true;
    }

    /// Notes the addresses of the node's own network namespace: bridges come with the first pod. One that is missing
    /// stays the node's for as long as an attempt from it may have to be judged; in doubt nobody is accused.
    pub fn on_here(&mut self, at: Instant, addresses: Vec<IpAddr>) {
        if self.here.set(at, addresses) {
            self.history.forget();
            self.news = true;
        }
    }

    /// Notes that records may have been lost that were written between two moments. The spans of this and the next two come
    /// in any order, and may overlap.
    pub fn on_lost(&mut self, from: Instant, to: Instant) {
        self.missed(Missed::Records, from, to);
    }

    /// Notes that packets came between two moments that could not be read.
    pub fn on_unparsed(&mut self, from: Instant, to: Instant) {
        self.missed(Missed::Unparsed, from, to);
    }

    /// Notes that datagrams of new tuples were left out between two moments.
    pub fn on_sampled(&mut self, from: Instant, to: Instant) {
        self.missed(Missed::Sampled, from, to);
    }

    fn missed(&mut self, missed: Missed, from: Instant, to: Instant) {
        self.flows.lost(to.max(from));
        self.losses.note(missed, from, to);
    }

    /// Whether something that belongs to an attempt may have gone unseen.
    fn lost_around(&self, attempt: &Attempt) -> bool {
        let from = self.hidden_from(attempt);
        let until = attempt.last.plus(2 * Instant::SECOND);
        let protocol = attempt.key.protocol;
        self.losses.between(protocol, from, until).is_some()
    }

    /// Whether only one direction of an attempt may have been seen: packets come and go while the programs are attached.
    fn is_deaf(&self, attempt: &Attempt) -> bool {
        let until = attempt.last.plus(2 * Instant::SECOND);
        self.namespaces
            .is_deaf(attempt.key.netns, attempt.first, until)
    }

    /// Why an attempt that was denied since then may be part of something older, of which the beginning went unseen. Of a loss it
    /// may be told only after the attempt was announced.
    fn may_be_older(&self, attempt: &Attempt, denied_since: Instant) -> Option<InconclusiveReason> {
        if attempt.unsure {
            return Some(InconclusiveReason::FlowBegunBefore);
        }
        let protocol = attempt.key.protocol;
        if protocol != Protocol::Udp {
            return None;
        }
        // What goes on in between is told of by a record now and then. What says nothing for longer goes on all the same, as
        // long as a connection tracker remembers it; but what began under the policy has no right to.
        let idle = self
            .settings
            .udp_idle
            .saturating_add(self.settings.udp_window);
        let settled = denied_since.plus(self.settings.grace).min(attempt.first);
        let spans = [
            (self.hidden_from(attempt), attempt.first),
            (attempt.first.minus(idle), settled),
        ];
        spans.into_iter().find_map(|(from, to)| {
            if from > to {
                None
            } else if self.losses.between(protocol, from, to).is_some() {
                Some(InconclusiveReason::RecordsLost)
            } else {
                let away = self.namespaces.was_away(attempt.key.netns, from, to);
                away.then_some(InconclusiveReason::FlowBegunBefore)
            }
        })
    }

    /// From when on what went unseen may have to do with an attempt: the first datagram of a flow hides those that follow.
    fn hidden_from(&self, attempt: &Attempt) -> Instant {
        match attempt.key.protocol {
            Protocol::Udp => attempt
                .first
                .minus(self.settings.udp_window)
                .minus(Instant::SECOND),
            Protocol::Tcp | Protocol::Sctp => attempt.first,
        }
    }

    /// Gives the verdicts that are due. `now` is the time; `horizon` is the time up to which all records have
    /// been read (but for some milliseconds): the same, unless records are waiting.
    pub fn tick(&mut self, now: Instant, horizon: Instant) {
        self.now = self.now.max(now);
        self.announce_flows(horizon);
        self.hear(horizon);
        let mut due = std::mem::take(&mut self.due);
        self.destination.due(horizon, &mut due);
        // Looking for those that wait is a walk over the whole table.
        if self.news && self.waiting && self.now >= self.next_walk {
            self.next_walk = self.now.plus(WALK);
            self.waiting = false;
            self.news = false;
            self.destination.waiting(&mut due);
            due.dedup();
        } else if !self.waiting {
            self.news = false;
        }
        for slot in &due {
            self.decide(*slot);
        }
        self.source.due(horizon, &mut due);
        for slot in &due {
            if let Some(attempt) = self.source.slot(*slot).copied() {
                self.depart(&attempt);
            }
            self.source.close(*slot);
        }
        self.due = due;
        self.follow_flows();
        // What can be answered from our own memory needs no further tick.
        self.hear(horizon);
        self.look_after();
        let evicted = self.destination.take_evicted();
        self.ledger
            .inconclusive(InconclusiveReason::StateEvicted, evicted);
        self.tally.evicted += evicted + self.source.take_evicted();
    }

    fn announce_flows(&mut self, horizon: Instant) {
        let Self {
            flows,
            destination,
            source,
            ..
        } = self;
        flows.due(horizon, &mut |(side, key, signal), at| {
            let attempts = match side {
                Side::Destination => &mut *destination,
                Side::Source => &mut *source,
            };
            match signal {
                Signal::Begun { unsure } => attempts.flow(key, at, unsure),
                Signal::Answer(outcome, told) => attempts.answer(key, outcome, told, at),
                Signal::Syn | Signal::GoesOn { .. } | Signal::Counted(_) => {}
            }
        });
    }

    /// What is to be done now and then, whatever came.
    fn look_after(&mut self) {
        let now = self.now;
        self.exposures
            .close(now, self.settings.grace, self.ledger.exposure());
        self.check_standing();
        self.namespaces.expire(now);
        if self.here.expire(now.minus(self.settings.retention())) {
            self.history.forget();
        }
        self.ask_again();
        self.inquire_again();
        if now >= self.next_sweep {
            self.next_sweep = now.plus(SWEEP);
            self.sweep();
        }
    }

    /// Forgets what is too old.
    fn sweep(&mut self) {
        let now = self.now;
        let forget = now.minus(self.settings.retention());
        self.strangers.retain(|_, (_, last)| *last >= forget);
        self.doubts.expire(now);
        self.forget_unheard(now);
        let told = self
            .settings
            .remember
            .saturating_add(self.settings.udp_window);
        self.losses.expire(forget.minus(told));
        self.end_flows();
        let destination = &self.destination;
        if self.senders.len() >= self.settings.max_inquiries {
            // Those of attempts that were evicted.
            self.senders.retain(|key, _| destination.has(key));
        }
    }

    /// Whether there is a view to judge an attempt of that time by.
    fn has_view(&self, at: Instant) -> bool {
        if self.history.is_empty() {
            return false;
        }
        match (self.history.live_from(), self.restored_at) {
            (Some(_), _) => self.ready,
            // Provisionally, by the last view there was: it is settled under a live one only.
            (None, Some(restored)) => at <= restored.plus(self.settings.stale_view),
            (None, None) => false,
        }
    }
}
