//! UDP flows: which datagram begins one.
//!
//! The kernel records a tuple (both addresses, the lower of the ports and whose it is, the crossing) at most once in half a minute (or what it is set to), so that
//! a stream costs nothing. Both crossings of a tuple are one flow here. Its first record after a long silence is an attempt, begun by whoever sent it; the
//! first one in the opposite crossing answers it; all others say that the flow goes on.
//!
//! The records of two CPUs may be read in the wrong order, and an answer taken for a beginning accuses the wrong end: so a flow is announced
//! only when nothing older can come any more. Where the beginning may have been missed (the flow was there before the programs were, or was
//! forgotten for want of room, or looks like an answer) the attempt is called unsure.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use polproof_policy::Protocol;

use crate::attempt::{
    AttemptKey, MARKER, Outcome, Side, Signal, Told, begun_marker, flow_bits, plain, record_of,
    unreachable,
};
use crate::early::SKEW;
use crate::record::{Crossing, Event, Instant, NetnsCookie, Record};
use crate::settings::Settings;

/// Namespaces that are attached to so soon after the start were there before.
const START: u64 = 30 * Instant::SECOND;
/// The lowest port that Linux gives to a client that asks for none.
const EPHEMERAL: u16 = 32_768;

/// What the kernel keys its records by, less the crossing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    netns: NetnsCookie,
    own: IpAddr,
    remote: IpAddr,
    port: u16,
    /// At which end the lower port is: two ends may be each other's clients.
    own_is_lower: bool,
}

impl Tuple {
    fn of(netns: NetnsCookie, own: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            netns,
            own: own.ip(),
            remote: remote.ip(),
            port: own.port().min(remote.port()),
            own_is_lower: own.port() <= remote.port(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Who sent first, and to whom.
    client: SocketAddr,
    server: SocketAddr,
    side: Side,
    begun: Instant,
    last: Instant,
    /// The first datagram back.
    answered: Option<Instant>,
    /// Not announced yet.
    young: bool,
    /// It may have begun before.
    unsure: bool,
}

impl Flow {
    fn key(&self, netns: NetnsCookie) -> AttemptKey {
        key(netns, self.client, self.server)
    }

    /// Whether it looks like the answer to something that was not seen: from a service's port to a client's.
    fn looks_like_an_answer(&self) -> bool {
        self.client.port() < self.server.port() && self.server.port() >= EPHEMERAL
    }

    /// Takes in a datagram while nothing is announced: the earliest one began.
    fn note(&mut self, client: SocketAddr, server: SocketAddr, side: Side, at: Instant) {
        let forward = client.ip() == self.client.ip();
        // Of two in the same nanosecond the one from the higher port, which is a client's.
        let earlier = (at, u16::MAX - client.port()) < (self.begun, u16::MAX - self.client.port());
        match (forward, earlier) {
            (true, false) => {}
            (false, false) => {
                self.answered = Some(self.answered.map_or(at, |held| held.min(at)));
            }
            (true, true) => {
                (self.client, self.server, self.begun) = (client, server, at);
            }
            (false, true) => {
                self.answered = Some(self.begun);
                (self.client, self.server, self.begun) = (client, server, at);
                self.side = side;
            }
        }
    }
}

fn key(netns: NetnsCookie, client: SocketAddr, server: SocketAddr) -> AttemptKey {
    AttemptKey {
        netns,
        protocol: Protocol::Udp,
        client,
        server,
        tag: 0,
    }
}

/// News of a flow.
pub(crate) type News = (Side, AttemptKey, Signal);

/// The bounded table of flows.
#[derive(Debug)]
pub(crate) struct Flows {
    bound: usize,
    /// How long nothing may have been recorded before a flow is a new one.
    idle: u64,
    /// For how long the kernel says nothing of a tuple after a record of it.
    held: u64,
    /// Written down over a restart.
    max_open: usize,
    flows: HashMap<Tuple, Flow>,
    /// Every flow once, with the time at which to look whether it went on; about in that order.
    order: VecDeque<(Instant, Tuple)>,
    /// Not announced yet, about in the order of their beginning.
    young: VecDeque<Tuple>,
    /// Namespaces that were there before anybody watched, since when they are watched.
    old: HashMap<NetnsCookie, Instant>,
    started: Option<Instant>,
    /// Flows that were alive before may be forgotten.
    forgotten: Option<Instant>,
    /// When records were lost last.
    lost: Option<Instant>,
    restored: usize,
    evicted: u64,
}

impl Flows {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            bound: settings.max_flows.max(1),
            idle: settings.udp_idle.saturating_add(settings.udp_window),
            held: settings.udp_window,
            max_open: settings.max_open_records,
            flows: HashMap::new(),
            order: VecDeque::new(),
            young: VecDeque::new(),
            old: HashMap::new(),
            started: None,
            forgotten: None,
            lost: None,
            restored: 0,
            evicted: 0,
        }
    }

    /// Flows in memory.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Flows that went for want of room, ever.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The programs are attached to a namespace since then. One that came while we watched is new, and nothing went on in it before.
    pub(crate) fn attached(&mut self, netns: NetnsCookie, since: Instant) {
        if self
            .started
            .is_none_or(|started| since <= started.plus(START))
        {
            self.old.entry(netns).or_insert(since);
        }
    }

    /// What is written down has been read again, after a restart.
    pub(crate) fn restored(&mut self, now: Instant) {
        self.started = Some(now);
        if self.restored >= self.max_open {
            self.forget_before(now);
        }
    }

    /// Records were lost until then, of which any may have been a beginning: until the kernel tells of its tuple again, what comes may be the
    /// answer.
    pub(crate) fn lost(&mut self, at: Instant) {
        self.lost = self.lost.max(Some(at));
    }

    fn forget_before(&mut self, at: Instant) {
        self.forgotten = self.forgotten.max(Some(at));
    }

    /// Reads a record of UDP. A new flow is announced by [`Self::due`].
    pub(crate) fn read(&mut self, record: &Record) -> Option<News> {
        let (source, destination) = (plain(record.source), plain(record.destination));
        match record.event {
            Event::Datagram => self.datagram(record, source, destination),
            Event::Unreachable {
                icmp_type: MARKER,
                code,
                quoted_sequence,
                ..
            } => {
                self.restore(record, source, destination, code, quoted_sequence);
                None
            }
            Event::Unreachable {
                reporter,
                icmp_type,
                code,
                ..
            } => {
                let told = Told::Icmp {
                    reporter,
                    icmp_type,
                    code,
                };
                Some(self.error(record, source, destination, told))
            }
            _ => None,
        }
    }

    fn datagram(&mut self, record: &Record, from: SocketAddr, to: SocketAddr) -> Option<News> {
        let (side, tuple) = match record.crossing {
            Crossing::In => (Side::Destination, Tuple::of(record.netns, to, from)),
            Crossing::Out => (Side::Source, Tuple::of(record.netns, from, to)),
        };
        let at = record.at;
        let begun = Flow {
            client: from,
            server: to,
            side,
            begun: at,
            last: at,
            answered: None,
            young: true,
            unsure: self.is_unsure(record.netns, at),
        };
        let Some(flow) = self.flows.get_mut(&tuple) else {
            self.insert(tuple, begun);
            return None;
        };
        if at.since(flow.last) >= self.idle {
            if !flow.young {
                self.young.push_back(tuple);
            }
            *flow = begun;
            return None;
        }
        flow.last = flow.last.max(at);
        if flow.young {
            flow.note(from, to, side, at);
            return None;
        }
        let forward = from.ip() == flow.client.ip();
        if !forward && flow.answered.is_none() {
            flow.answered = Some(at);
            let signal = Signal::Answer(Outcome::Accepted, Told::Plain);
            return Some((flow.side, flow.key(tuple.netns), signal));
        }
        let begun = (!flow.unsure).then_some(flow.begun);
        let (client, server) = if forward { (from, to) } else { (to, from) };
        let signal = Signal::GoesOn { forward, begun };
        Some((flow.side, key(tuple.netns, client, server), signal))
    }

    /// An ICMP error about a datagram.
    fn error(&self, record: &Record, from: SocketAddr, to: SocketAddr, told: Told) -> News {
        // It goes the other way than what it quotes.
        let (side, tuple) = match record.crossing {
            Crossing::In => (Side::Source, Tuple::of(record.netns, from, to)),
            Crossing::Out => (Side::Destination, Tuple::of(record.netns, to, from)),
        };
        // The quoted one need not be the one that was recorded.
        let key = match self.flows.get(&tuple) {
            Some(flow) if flow.client.ip() == from.ip() => flow.key(record.netns),
            _ => key(record.netns, from, to),
        };
        let signal = unreachable(record.crossing, Protocol::Udp, to.ip(), told);
        (side, key, signal)
    }

    fn is_unsure(&self, netns: NetnsCookie, at: Instant) -> bool {
        [self.forgotten, self.old.get(&netns).copied()]
            .into_iter()
            .flatten()
            .any(|since| at < since.plus(self.idle))
            || self
                .lost
                .is_some_and(|lost| at <= lost.plus(self.held).plus(Instant::SECOND))
    }

    fn insert(&mut self, tuple: Tuple, flow: Flow) {
        while self.flows.len() >= self.bound {
            self.evict();
        }
        self.flows.insert(tuple, flow);
        self.order.push_back((flow.last.plus(self.idle), tuple));
        if flow.young {
            self.young.push_back(tuple);
        }
    }

    /// The one that is looked at first goes; if it went on meanwhile it may have another chance, a few times.
    fn evict(&mut self) {
        for chance in 0.. {
            let Some((look, tuple)) = self.order.pop_front() else {
                return;
            };
            let Some(flow) = self.flows.get(&tuple) else {
                return;
            };
            let again = flow.last.plus(self.idle);
            if again > look && chance < 8 {
                self.order.push_back((again, tuple));
                continue;
            }
            let last = flow.last;
            self.flows.remove(&tuple);
            self.forget_before(last.plus(1));
            self.evicted += 1;
            return;
        }
    }

    /// Announces the flows that began: their attempts, and the answers to them. Nothing older than `horizon` may come any more, but for
    /// [`SKEW`].
    pub(crate) fn due(&mut self, horizon: Instant, announce: &mut dyn FnMut(News, Instant)) {
        if self.started.is_none() {
            self.started = self.old.values().copied().max().max(Some(horizon));
        }
        while let Some(tuple) = self.young.front() {
            if let Some(flow) = self.flows.get_mut(tuple) {
                if flow.begun.plus(SKEW) > horizon {
                    break;
                }
                flow.young = false;
                flow.unsure |= flow.looks_like_an_answer();
                let key = flow.key(tuple.netns);
                let begun = Signal::Begun {
                    unsure: flow.unsure,
                };
                announce((flow.side, key, begun), flow.begun);
                if let Some(at) = flow.answered {
                    let signal = Signal::Answer(Outcome::Accepted, Told::Plain);
                    announce((flow.side, key, signal), at);
                }
            }
            self.young.pop_front();
        }
        self.expire(horizon);
    }

    fn expire(&mut self, now: Instant) {
        while let Some((look, tuple)) = self.order.front().copied()
            && look < now
        {
            self.order.pop_front();
            let Some(flow) = self.flows.get(&tuple) else {
                continue;
            };
            let again = flow.last.plus(self.idle);
            if again < now {
                self.flows.remove(&tuple);
            } else {
                self.order.push_back((again, tuple));
            }
        }
        let idle = self.idle;
        self.old.retain(|_, since| since.plus(idle) >= now);
    }

    /// When there is something to announce.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let flow = self.flows.get(self.young.front()?)?;
        Some(flow.begun.plus(SKEW))
    }

    /// Records that lead to this state again; to be read after those of the attempts.
    pub(crate) fn open(&self, out: &mut Vec<Record>) {
        let latest = self.order.iter().rev().take(self.max_open);
        for (tuple, flow) in latest.filter_map(|(_, tuple)| Some((tuple, self.flows.get(tuple)?))) {
            let key = flow.key(tuple.netns);
            if flow.young {
                out.push(begun_marker(&key, flow.side, flow.begun, flow.unsure));
            }
            let bits = if flow.unsure { flow_bits::UNSURE } else { 0 }
                | if flow.answered.is_some() {
                    flow_bits::ANSWERED
                } else {
                    0
                };
            let crossing = match flow.side {
                Side::Destination => Crossing::In,
                Side::Source => Crossing::Out,
            };
            let seconds = flow.last.since(flow.begun) / Instant::SECOND;
            let event = Event::Unreachable {
                reporter: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
                icmp_type: MARKER,
                code: bits,
                quoted_sequence: u32::try_from(seconds).unwrap_or(u32::MAX),
            };
            out.push(record_of(&key, crossing, flow.last, event));
        }
    }

    fn restore(
        &mut self,
        record: &Record,
        client: SocketAddr,
        server: SocketAddr,
        bits: u8,
        seconds: u32,
    ) {
        let (side, tuple) = match record.crossing {
            Crossing::In => (Side::Destination, Tuple::of(record.netns, server, client)),
            Crossing::Out => (Side::Source, Tuple::of(record.netns, client, server)),
        };
        let open = bits & flow_bits::OPEN != 0;
        if !open {
            self.restored += 1;
        }
        let answered = (bits & flow_bits::ANSWERED != 0).then_some(record.at);
        if let Some(flow) = self.flows.get_mut(&tuple) {
            flow.last = flow.last.max(record.at);
            if flow.answered.is_none() {
                flow.answered = answered;
            }
            return;
        }
        let flow = Flow {
            client,
            server,
            side,
            begun: record
                .at
                .minus(u64::from(seconds).saturating_mul(Instant::SECOND)),
            last: record.at,
            answered,
            young: open,
            unsure: bits & flow_bits::UNSURE != 0,
        };
        self.insert(tuple, flow);
    }
}

#[cfg(test)]
mod tests;
