//! Finding the attempt that a question is about.
//!
//! The tag of TCP and SCTP survives every translation, but it is a number of 32 bits, and a busy node has seen many: a match must be near in
//! time, and what differs in its addresses must be explained by a translation, of which the result is never the address of another pod.
//!
//! UDP has no tag, and the kernel records a tuple (both addresses, the lower port, the crossing) at most once in a while (30 s, unless it is set
//! otherwise). So a record of that time hides the datagram asked about, a client that may be somebody else hides everybody, and what cannot be told apart is
//! unclear.

use std::net::{IpAddr, SocketAddr};

use polproof_policy::Protocol;

use super::{ENDS, Ends, NETNS, Recent, Remembered, TAG, WALK, by_ends, by_tag};
use crate::attempt::{Attempt, Outcome, Phase};
use crate::record::{Instant, NetnsCookie};
use crate::witness::{Gap, Question, Side};

/// How wrong the times in a question may be.
pub(crate) const SLACK: u64 = 2 * Instant::SECOND;
/// A match of the tag that misses the asked time by less is no chance, but the times are wrong.
const NEAR: u64 = 30 * Instant::SECOND;
/// The longest walk along the attempts of one namespace.
const NETNS_WALK: usize = 8_192;

/// What memory says of a question.
#[derive(Debug)]
pub(crate) enum Match {
    /// This is it.
    Seen(Remembered),
    /// Something may be it.
    Unclear(Gap),
    /// Nothing is like it.
    Nothing,
}

impl Recent {
    /// The attempt that a question is about, if it is remembered and there is no doubt. `stands` says whether an address may stand for
    /// somebody else behind it: any but that of a pod.
    pub(crate) fn find(
        &self,
        question: &Question,
        stands: &dyn Fn(IpAddr) -> bool,
    ) -> Option<Remembered> {
        match self.look(question, stands) {
            Match::Seen(found) => Some(found),
            Match::Unclear(_) | Match::Nothing => None,
        }
    }

    /// What memory says of a question; see [`Self::find`].
    pub(crate) fn look(&self, question: &Question, stands: &dyn Fn(IpAddr) -> bool) -> Match {
        match question.protocol {
            Protocol::Tcp | Protocol::Sctp => self.look_by_tag(question, stands),
            Protocol::Udp => self.look_by_client(question, stands),
        }
    }

    fn look_by_tag(&self, question: &Question, stands: &dyn Fn(IpAddr) -> bool) -> Match {
        let mut best: Option<(_, Remembered)> = None;
        let mut unclear = None;
        let tag = by_tag(question.protocol, question.tag, question.client);
        let mut left = WALK;
        for entry in self.walk(TAG, self.head(TAG, &tag)) {
            if left == 0 {
                unclear = Some(Gap::Overloaded);
                break;
            }
            left -= 1;
            if entry.tag != question.tag
                || entry.protocol != question.protocol
                || entry.client.is_ipv4() != question.client.is_ipv4()
                || !(overlaps(&entry, question, NEAR, NEAR) || is_same(&entry, question))
            {
                continue;
            }
            if !overlaps(&entry, question, SLACK, SLACK) {
                unclear = Some(Gap::TooOld);
            } else if !explained(&entry, question, stands) {
                unclear = Some(Gap::PodUnknown);
            } else {
                let rank = (
                    entry.client() == question.client,
                    entry.server() == question.server,
                    entry.client_port == question.client.port(),
                    entry.server_port == question.server.port(),
                    std::cmp::Reverse(entry.first.0.abs_diff(question.first.0)),
                );
                if best.as_ref().is_none_or(|(held, _)| rank > *held) {
                    best = Some((rank, entry));
                }
            }
        }
        match (best, unclear) {
            (Some((_, found)), _) => Match::Seen(found),
            (None, Some(gap)) => Match::Unclear(gap),
            (None, None) => Match::Nothing,
        }
    }

    fn look_by_client(&self, question: &Question, stands: &dyn Fn(IpAddr) -> bool) -> Match {
        let exact = by_tag(Protocol::Udp, 0, question.client);
        let like = Ends::Like(question.client.ip(), question.server.port());
        let mut best: Option<(_, Remembered)> = None;
        let mut hidden = None;
        let mut other = None;
        let mut ambiguous = false;
        let mut left = WALK;
        // Who sent it is told by any packet of the flow; that it was delivered then, by one of that time only.
        let before = match question.side {
            Side::Source => self.udp_held,
            Side::Destination => SLACK,
        };
        let walks = [
            self.walk(TAG, self.head(TAG, &exact)),
            self.walk(ENDS, self.head(ENDS, &like)),
        ];
        for entry in walks.into_iter().flatten() {
            if left == 0 {
                return Match::Unclear(Gap::Overloaded);
            }
            left -= 1;
            if entry.protocol != Protocol::Udp
                || entry.client != question.client.ip()
                || !explained(&entry, question, stands)
                || !overlaps(&entry, question, self.udp_held, SLACK)
            {
                continue;
            }
            let same_port = entry.server_port == question.server.port();
            let same_client = entry.client_port == question.client.port();
            let translated = entry.server != question.server.ip();
            if !(same_port || translated && same_client) {
                continue;
            }
            if !overlaps(&entry, question, before, SLACK) {
                hidden = Some(Gap::NotSampled);
                continue;
            }
            let rank = (
                same_client && same_port,
                same_port,
                std::cmp::Reverse(entry.first.0.abs_diff(question.first.0)),
            );
            // One socket that talks to two servers behind one address: which of them was it?
            if !same_port && *other.get_or_insert(entry.server_port) != entry.server_port {
                ambiguous = true;
            }
            if best.as_ref().is_none_or(|(held, _)| rank > *held) {
                best = Some((rank, entry));
            }
        }
        match best {
            Some(((_, false, _), _)) if ambiguous => Match::Unclear(Gap::NotSampled),
            Some((_, found)) => Match::Seen(found),
            None => hidden.map_or(Match::Nothing, Match::Unclear),
        }
    }

    /// Whether something in a namespace may be the UDP flow that was asked about, though nothing says that it is.
    pub(crate) fn may_hide(
        &self,
        netns: NetnsCookie,
        question: &Question,
        stands: &dyn Fn(IpAddr) -> bool,
    ) -> Option<Gap> {
        let from = question.first.minus(self.udp_held);
        for (n, entry) in self.of(netns, from).enumerate() {
            if n >= NETNS_WALK {
                return Some(Gap::Overloaded);
            }
            if entry.protocol != Protocol::Udp || !overlaps(&entry, question, self.udp_held, SLACK)
            {
                continue;
            }
            let client = entry.client == question.client.ip() || stands(entry.client);
            let server = if entry.server == question.server.ip() {
                entry.server_port == question.server.port()
            } else {
                question.side == Side::Destination || stands(entry.server)
            };
            if client && server {
                return Some(Gap::NotSampled);
            }
        }
        None
    }

    /// Attempts that were delivered to a namespace between two moments, and answered there.
    pub(crate) fn controls(
        &self,
        netns: NetnsCookie,
        from: Instant,
        to: Instant,
    ) -> impl Iterator<Item = Remembered> {
        use crate::witness::Seen::{Accepted, Refused};
        self.of(netns, from).take(NETNS_WALK).filter(move |entry| {
            !entry.goes_on
                && matches!(entry.outcome, Accepted | Refused)
                && (from..=to).contains(&entry.first)
        })
    }

    /// What was written down of a namespace since `from`, the latest first.
    pub(super) fn of(&self, netns: NetnsCookie, from: Instant) -> impl Iterator<Item = Remembered> {
        let latest = self.latest.get(&netns).copied();
        let start = latest.unwrap_or_else(|| self.next.wrapping_sub(u32::MAX / 2));
        // Records of two CPUs, and those read again after a restart, are not quite in order.
        let from = from.minus(Instant::SECOND);
        self.walk_packed(NETNS, start)
            .map(|(_, entry)| entry)
            .take_while(move |entry| {
                entry.netns == netns && (entry.last() >= from || entry.is_again())
            })
            .map(|entry| entry.open(&self.wide))
    }

    /// Of the memory of departures: whether a SYN into a pod at that time crossed one that the pod had sent itself between the same two
    /// ports. The two ends open one connection together, and this is no second one.
    pub(crate) fn crossed(
        &self,
        netns: NetnsCookie,
        protocol: Protocol,
        own: SocketAddr,
        peer: SocketAddr,
        at: Instant,
    ) -> bool {
        self.between(netns, protocol, own, peer).any(|entry| {
            let over = entry
                .answered()
                .unwrap_or_else(|| given_up(entry.first(), entry.last()));
            (entry.first()..=over).contains(&at)
        })
    }

    /// Of the memory of arrivals: whether a SYN out of a pod was crossed by one from the other end, before anything answered it.
    pub(crate) fn crosses(&self, departure: &Attempt) -> bool {
        let over = match departure.phase {
            Phase::Ended(outcome) | Phase::Waiting(outcome, _) if outcome != Outcome::Silent => {
                departure.answered
            }
            _ => given_up(departure.first, departure.last),
        };
        let key = &departure.key;
        self.between(key.netns, key.protocol, key.server, key.client)
            .any(|other| (departure.first..=over).contains(&other.first()))
    }

    /// Attempts with a handshake between these two ends, the latest first.
    fn between(
        &self,
        netns: NetnsCookie,
        protocol: Protocol,
        client: SocketAddr,
        server: SocketAddr,
    ) -> impl Iterator<Item = Remembered> {
        self.with_ends(netns, protocol, client, server)
            .filter(move |_| protocol != Protocol::Udp)
    }

    /// Attempts between these two ends, the latest first.
    pub(super) fn with_ends(
        &self,
        netns: NetnsCookie,
        protocol: Protocol,
        client: SocketAddr,
        server: SocketAddr,
    ) -> impl Iterator<Item = Remembered> {
        let chain = by_ends(netns, protocol, client, server);
        self.walk(ENDS, self.head(ENDS, &chain))
            .take(WALK)
            .filter(move |entry| {
                entry.netns == netns
                    && entry.protocol == protocol
                    && entry.client() == client
                    && entry.server() == server
            })
    }
}

/// Whether number and addresses are the same: whatever the times say (a clock that stood still, say), it is no chance.
fn is_same(entry: &Remembered, question: &Question) -> bool {
    entry.client() == question.client || entry.server() == question.server
}

/// When a sender that was not answered has surely given up: it waits 1 s (of SCTP 3 s), then twice as long each time.
fn given_up(first: Instant, last: Instant) -> Instant {
    last.plus(last.since(first).saturating_mul(2))
        .plus(4 * Instant::SECOND)
}

/// Whether an attempt was there between the asked moments, give or take.
fn overlaps(entry: &Remembered, question: &Question, before: u64, after: u64) -> bool {
    entry.last().plus(before) >= question.first && entry.first <= question.last.plus(after)
}

/// Whether the addresses are the same, or translated on the way: the destination sees a translated client, the source a translated server.
fn explained(entry: &Remembered, question: &Question, stands: &dyn Fn(IpAddr) -> bool) -> bool {
    let (client, server) = (question.client.ip(), question.server.ip());
    let (seen_client, called_server) = match question.side {
        Side::Destination => (entry.client, server),
        Side::Source => (client, entry.server),
    };
    (entry.client == client || stands(seen_client))
        && (entry.server == server || stands(called_server))
}
