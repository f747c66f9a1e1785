//! UDP flows: which datagram begins one.
//!
//! The kernel records a tuple (both addresses, the lower of the ports, the crossing) at most once in half a minute, so that a stream costs
//! nothing. Both crossings of a tuple are one flow here. Its first record after a long silence is an attempt, begun by whoever sent it; the
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

/// For how long the kernel says nothing of a tuple after a record of it.
const HELD: u64 = 30 * Instant::SECOND;
/// Namespaces that are attached to so soon after the start were there before.
const START: u64 = 10 * Instant::SECOND;
/// The lowest port that Linux gives to a client that asks for none.
const EPHEMERAL: u16 = 32_768;

/// What the kernel keys its records by, less the crossing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    netns: NetnsCookie,
    own: IpAddr,
    remote: IpAddr,
    port: u16,
}

impl Tuple {
    fn of(netns: NetnsCookie, own: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            netns,
            own: own.ip(),
            remote: remote.ip(),
            port: own.port().min(remote.port()),
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
    /// Written down over a restart.
    max_open: usize,
    flows: HashMap<Tuple, Flow>,
    /// Every flow once, about in the order of the last datagram.
    order: VecDeque<Tuple>,
    young: Vec<Tuple>,
    /// Namespaces that were there before anybody watched, since when they are watched.
    old: HashMap<NetnsCookie, Instant>,
    started: Option<Instant>,
    /// Flows that were alive before may be forgotten.
    forgotten: Option<Instant>,
    restored: usize,
    evicted: u64,
}

impl Flows {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            bound: settings.max_flows.max(1),
            idle: settings.udp_idle.saturating_add(HELD),
            max_open: settings.max_open_records,
            flows: HashMap::new(),
            order: VecDeque::new(),
            young: Vec::new(),
            old: HashMap::new(),
            started: None,
            forgotten: None,
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
                self.young.push(tuple);
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
    }

    fn insert(&mut self, tuple: Tuple, flow: Flow) {
        while self.flows.len() >= self.bound {
            self.evict();
        }
        self.flows.insert(tuple, flow);
        self.order.push_back(tuple);
        if flow.young {
            self.young.push(tuple);
        }
    }

    /// The oldest goes; one that went on meanwhile has a few more chances.
    fn evict(&mut self) {
        for chance in 0.. {
            let Some(tuple) = self.order.pop_front() else {
                return;
            };
            let Some(flow) = self.flows.get(&tuple) else {
                return;
            };
            let active = flow.last.since(flow.begun) > HELD || flow.young;
            if active && chance < 8 {
                self.order.push_back(tuple);
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
        self.started.get_or_insert(horizon);
        let flows = &mut self.flows;
        self.young.retain(|tuple| {
            let Some(flow) = flows.get_mut(tuple) else {
                return false;
            };
            if flow.begun.plus(SKEW) > horizon {
                return true;
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
            false
        });
        self.expire(horizon);
    }

    fn expire(&mut self, now: Instant) {
        // A few at a time: nobody waits for it.
        for _ in 0..256 {
            let Some(tuple) = self.order.front().copied() else {
                break;
            };
            let Some(flow) = self.flows.get(&tuple) else {
                self.order.pop_front();
                continue;
            };
            if flow.begun.plus(self.idle) >= now {
                break;
            }
            self.order.pop_front();
            if flow.last.plus(self.idle) < now {
                self.flows.remove(&tuple);
            } else {
                self.order.push_back(tuple);
            }
        }
        let idle = self.idle;
        self.old.retain(|_, since| since.plus(idle) >= now);
    }

    /// When there is something to announce.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let flows = self.young.iter().filter_map(|tuple| self.flows.get(tuple));
        flows.map(|flow| flow.begun.plus(SKEW)).min()
    }

    /// Records that lead to this state again; to be read after those of the attempts.
    pub(crate) fn open(&self, out: &mut Vec<Record>) {
        let latest = self.order.iter().rev().take(self.max_open);
        for (tuple, flow) in latest.filter_map(|tuple| Some((tuple, self.flows.get(tuple)?))) {
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
