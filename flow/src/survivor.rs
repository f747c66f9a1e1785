//! Connections that are older than the policies that deny them: the API leaves to implementations whether those are cut.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use polproof_policy::Protocol;

use crate::attempt::MARKER;
use crate::finding::FindingKey;
use crate::record::{Crossing, Event, Instant, NetnsCookie, Record};

/// Code of a marker, which no other marker has with a reporter of IPv6.
const SAID: u8 = 8;

/// When a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// Its first packet was seen, and it was not denied then.
    Allowed(Instant),
    /// Its first packet was seen when it was denied already, and judged: it is no survivor.
    Denied,
    /// Its first packet was seen when nothing could be held against it, though it may have been denied.
    Open(Instant),
    /// Before anything that is remembered, and so at least as old as this.
    BeforeUs(Instant),
    /// No later than this; its first packet was missed.
    Missed(Instant),
}

impl Birth {
    /// Whether it began before what denies it, which has been so since then (or for longer, unless `begun`), and how old it
    /// is at least.
    pub(crate) fn before(self, since: Instant, begun: bool) -> Option<Instant> {
        match self {
            Self::Allowed(at) => Some(at),
            Self::Denied | Self::Open(_) => None,
            Self::BeforeUs(at) => (!begun || at <= since).then_some(at),
            Self::Missed(at) => (at <= since).then_some(at),
        }
    }
}

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Connection {
    /// A socket, by its cookie.
    Socket(NetnsCookie, u64),
    /// A UDP flow: who sends to which port.
    Flow(NetnsCookie, IpAddr, IpAddr, u16),
}

impl Connection {
    /// A record that no packet makes: "of this connection all is said".
    fn marker(&self, at: Instant) -> Record {
        let nowhere = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let (protocol, source, destination, cookie) = match *self {
            Self::Socket(_, cookie) => (Protocol::Tcp, nowhere, nowhere, cookie),
            Self::Flow(_, client, server, port) => (
                Protocol::Udp,
                SocketAddr::new(client, 0),
                SocketAddr::new(server, port),
                0,
            ),
        };
        Record {
            at,
            netns: self.netns(),
            crossing: Crossing::In,
            protocol,
            source,
            destination,
            event: Event::Unreachable {
                reporter: IpAddr::V6(Ipv6Addr::from_bits(u128::from(cookie))),
                icmp_type: MARKER,
                code: SAID,
                quoted_sequence: 0,
            },
        }
    }

    /// The connection that a marker tells of, if it is one.
    pub(crate) fn marked(record: &Record) -> Option<Self> {
        let Event::Unreachable {
            reporter: IpAddr::V6(reporter),
            icmp_type: MARKER,
            code: SAID,
            ..
        } = record.event
        else {
            return None;
        };
        // What was asked about has a marker of the other direction, whose code is a number.
        if record.crossing != Crossing::In {
            return None;
        }
        Some(match record.protocol {
            Protocol::Udp => Self::Flow(
                record.netns,
                record.source.ip(),
                record.destination.ip(),
                record.destination.port(),
            ),
            Protocol::Tcp | Protocol::Sctp => {
                Self::Socket(record.netns, u64::try_from(reporter.to_bits()).ok()?)
            }
        })
    }

    const fn netns(&self) -> NetnsCookie {
        match self {
            Self::Socket(netns, _) | Self::Flow(netns, ..) => *netns,
        }
    }
}

#[derive(Debug)]
struct Held {
    birth: Birth,
    seen: Instant,
    reported: Option<Arc<FindingKey>>,
    /// Nothing more is to be said of it.
    left: bool,
}

/// The established connections that are followed.
#[derive(Debug)]
pub(crate) struct Survivors {
    bound: usize,
    held: HashMap<Connection, Held>,
    /// How many connections of each finding are there.
    counts: HashMap<Arc<FindingKey>, u64>,
    /// Namespaces whose sockets were listed before.
    listed: HashSet<NetnsCookie>,
    /// Some are not followed, for want of room: of no finding it is known that it has none left.
    crowded: bool,
}

impl Survivors {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(1),
            held: HashMap::new(),
            counts: HashMap::new(),
            listed: HashSet::new(),
            crowded: false,
        }
    }

    /// Records by which a judge after a restart knows what need not be said again, at most so many.
    pub(crate) fn open(&self, bound: usize, out: &mut Vec<Record>) {
        let said = self.held.iter().filter(|(_, held)| {
            held.left || held.reported.is_some() || held.birth == Birth::Denied
        });
        let markers = said.map(|(connection, held)| connection.marker(held.seen));
        out.extend(markers.take(bound));
    }

    /// All was said of a connection before a restart.
    pub(crate) fn said(&mut self, connection: Connection, at: Instant) {
        if self.see(connection, at, || Birth::Denied).is_some() {
            self.leave(&connection);
        }
    }

    /// Connections that are followed.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the sockets of a namespace were listed before.
    pub(crate) fn was_listed(&self, netns: NetnsCookie) -> bool {
        self.listed.contains(&netns)
    }

    /// A connection is there; `birth` finds out when it began if it is a new one. Gives that, unless it was reported.
    pub(crate) fn see(
        &mut self,
        connection: Connection,
        at: Instant,
        birth: impl FnOnce() -> Birth,
    ) -> Option<Birth> {
        if let Some(held) = self.held.get_mut(&connection) {
            held.seen = held.seen.max(at);
            return (held.reported.is_none() && !held.left).then_some(held.birth);
        }
        if self.held.len() >= self.bound {
            self.crowded = true;
            return None;
        }
        let birth = birth();
        let held = Held {
            birth,
            seen: at,
            reported: None,
            left: false,
        };
        self.held.insert(connection, held);
        Some(birth)
    }

    /// Nothing more is to be said of a connection.
    pub(crate) fn leave(&mut self, connection: &Connection) {
        if let Some(held) = self.held.get_mut(connection) {
            held.left = true;
        }
    }

    /// The finding that tells of a connection.
    pub(crate) fn report(&mut self, connection: &Connection, key: &Arc<FindingKey>) {
        if let Some(held) = self.held.get_mut(connection)
            && held.reported.is_none()
        {
            held.reported = Some(Arc::clone(key));
            *self.counts.entry(Arc::clone(key)).or_default() += 1;
        }
    }

    /// The sockets of a namespace have been listed at `at`: if the list is `complete`, those that were not seen have ended.
    /// Gives the findings of which none is left.
    pub(crate) fn listed(
        &mut self,
        netns: NetnsCookie,
        at: Instant,
        complete: bool,
    ) -> Vec<Arc<FindingKey>> {
        if self.listed.len() < self.bound {
            self.listed.insert(netns);
        }
        if !complete {
            return Vec::new();
        }
        self.end(|connection, held| {
            matches!(connection, Connection::Socket(of, _) if *of == netns) && held.seen < at
        })
    }

    /// A namespace is gone with everything in it.
    pub(crate) fn gone(&mut self, netns: NetnsCookie) {
        self.listed.remove(&netns);
        self.end(|connection, _| connection.netns() == netns);
    }

    /// UDP flows of which nothing was recorded since then have ended, if it `would_have_been` since they were seen last; others are
    /// waited for once more.
    pub(crate) fn silent(
        &mut self,
        since: Instant,
        now: Instant,
        would_have_been: impl Fn(NetnsCookie, Instant) -> bool,
    ) -> Vec<Arc<FindingKey>> {
        for (connection, held) in &mut self.held {
            if matches!(connection, Connection::Flow(..))
                && held.seen < since
                && !would_have_been(connection.netns(), held.seen)
            {
                held.seen = now;
            }
        }
        self.end(|connection, held| matches!(connection, Connection::Flow(..)) && held.seen < since)
    }

    fn end(&mut self, ended: impl Fn(&Connection, &Held) -> bool) -> Vec<Arc<FindingKey>> {
        let mut last = Vec::new();
        let counts = &mut self.counts;
        self.held.retain(|connection, held| {
            if !ended(connection, held) {
                return true;
            }
            if let Some(key) = &held.reported
                && let Some(count) = counts.get_mut(key)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(key);
                    last.push(Arc::clone(key));
                }
            }
            false
        });
        if self.crowded {
            self.crowded = self.held.len() > self.bound / 2;
            return Vec::new();
        }
        last.sort();
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_came_first() {
        let at = Instant(100);
        for (birth, since, begun, older) in [
            (Birth::Allowed(at), Instant(200), true, true),
            (Birth::Denied, Instant(200), true, false),
            (Birth::BeforeUs(at), Instant(200), true, true),
            (Birth::BeforeUs(at), Instant(50), true, false),
            // What was first is not known; both are older than we are.
            (Birth::BeforeUs(at), Instant(50), false, true),
            (Birth::Missed(at), Instant(200), true, true),
            (Birth::Missed(at), Instant(50), false, false),
        ] {
            let before = birth.before(since, begun);
            assert_eq!(before.is_some(), older, "{birth:?} {since:?} {begun}");
            assert!(before.is_none_or(|before| before == at));
        }
    }
}
