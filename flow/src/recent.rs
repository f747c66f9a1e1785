//! The attempts of the last minutes at one side, for the questions of others.
//!
//! A ring of the latest attempts, oldest out first. Each entry points to the one before it with the same tag, the same client and the same
//! namespace: three chains that need no upkeep, because a pointer out of the ring is the end of its chain. Memory grows to the bound and
//! stays; remembering allocates nothing then.
//!
//! An attempt that was repeated since it was written down is written down again before it would go, so what is forgotten is older than
//! [`Recent::complete_from`], and nobody says "not seen" of a time before that.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};

use polproof_policy::Protocol;

use crate::attempt::{AttemptKey, Outcome};
use crate::record::{Instant, NetnsCookie};
use crate::settings::Settings;
use crate::witness::Seen;

mod begun;
mod find;

pub(crate) use find::{Match, SLACK};

/// The longest walk along one chain: who sends a flood under one tag does not make every question expensive.
const WALK: usize = 512;
/// Nanoseconds in a microsecond.
const MICRO: u64 = 1_000;
/// No answer yet.
const NEVER: u32 = u32::MAX;

/// Chains.
const TAG: usize = 0;
const CLIENT: usize = 1;
const NETNS: usize = 2;

/// An attempt that is remembered. Times after the first are kept in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remembered {
    netns: NetnsCookie,
    first: Instant,
    last: u32,
    answered: u32,
    /// `last` when it was written down.
    written: u32,
    /// The entry before it, of each chain.
    older: [u32; 3],
    tag: u32,
    client: IpAddr,
    server: IpAddr,
    client_port: u16,
    server_port: u16,
    protocol: Protocol,
    outcome: Seen,
    /// Saturating.
    syns: u8,
    /// A UDP flow that went on, and no attempt.
    goes_on: bool,
}

impl Remembered {
    /// In which namespace.
    pub(crate) fn netns(&self) -> NetnsCookie {
        self.netns
    }
    /// Who connected, as seen there.
    pub(crate) fn client(&self) -> SocketAddr {
        SocketAddr::new(self.client, self.client_port)
    }
    /// To whom, as seen there.
    pub(crate) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.server, self.server_port)
    }
    /// First packet.
    pub(crate) fn first(&self) -> Instant {
        self.first
    }
    /// Last packet.
    pub(crate) fn last(&self) -> Instant {
        self.first.plus(u64::from(self.last) * MICRO)
    }
    /// When it was answered, if it was.
    pub(crate) fn answered(&self) -> Option<Instant> {
        (self.answered != NEVER).then(|| self.first.plus(u64::from(self.answered) * MICRO))
    }
    /// What became of it, so far.
    pub(crate) fn outcome(&self) -> Seen {
        self.outcome
    }
    /// SYNs, saturating.
    #[cfg(test)]
    fn syns(&self) -> u8 {
        self.syns
    }

    fn is(&self, key: &AttemptKey) -> bool {
        self.tag == key.tag
            && self.netns == key.netns
            && self.protocol == key.protocol
            && self.client() == key.client
            && self.server() == key.server
    }

    fn after_first(&self, at: Instant) -> u32 {
        u32::try_from(at.since(self.first) / MICRO)
            .unwrap_or(NEVER - 1)
            .min(NEVER - 1)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recent {
    hash: RandomState,
    /// A power of two.
    bound: usize,
    remember: u64,
    /// For how long the kernel says nothing of a UDP tuple after a record of it, if the times in a question are as wrong as
    /// they may be.
    udp_held: u64,
    ring: Vec<Remembered>,
    /// Number of the next entry; they wrap.
    next: u32,
    held: usize,
    /// The latest entry of every tag and client, by hash.
    heads: [Vec<u32>; 2],
    /// And of every namespace.
    latest: HashMap<NetnsCookie, u32>,
    complete_from: Instant,
    evicted: u64,
}

impl Recent {
    pub(crate) fn new(bound: usize, remember: u64) -> Self {
        let bound = 1_usize << bound.clamp(1, 1 << 24).ilog2();
        Self {
            hash: RandomState::new(),
            bound,
            remember,
            udp_held: Settings::default().udp_window.saturating_add(SLACK),
            ring: Vec::new(),
            next: 0,
            held: 0,
            heads: [vec![0; bound], vec![0; bound]],
            latest: HashMap::new(),
            complete_from: Instant(0),
            evicted: 0,
        }
    }

    /// The kernel says nothing of a UDP tuple for so long after a record of it.
    pub(crate) fn with_udp_window(self, window: u64) -> Self {
        Self {
            udp_held: window.saturating_add(SLACK),
            ..self
        }
    }

    /// How long before a datagram another one may have hidden it.
    pub(crate) fn udp_held(&self) -> u64 {
        self.udp_held
    }

    /// Attempts in memory.
    pub(crate) fn len(&self) -> usize {
        self.held
    }

    /// Attempts that went for want of room, ever.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// From when on nothing is forgotten.
    pub(crate) fn complete_from(&self) -> Instant {
        self.complete_from
    }

    /// What was before is not known: a restart.
    pub(crate) fn forget_before(&mut self, at: Instant) {
        self.complete_from = self.complete_from.max(at);
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.oldest()
            && oldest.last().plus(self.remember) < now
        {
            self.complete_from = self.complete_from.max(oldest.last().plus(1));
            self.held -= 1;
        }
        if self.latest.len() > 64 && self.latest.len() > 2 * self.held {
            let (next, held) = (self.next, self.held);
            self.latest.retain(|_, number| is_held(next, held, *number));
        }
    }

    /// Remembers an attempt; where it is.
    pub(crate) fn begin(&mut self, key: &AttemptKey, first: Instant, goes_on: bool) -> u32 {
        let entry = Remembered {
            netns: key.netns,
            first,
            last: 0,
            answered: NEVER,
            written: 0,
            older: [0; 3],
            tag: key.tag,
            client: key.client.ip(),
            server: key.server.ip(),
            client_port: key.client.port(),
            server_port: key.server.port(),
            protocol: key.protocol,
            outcome: Seen::Unanswered,
            syns: 1,
            goes_on,
        };
        self.push(entry)
    }

    /// A further SYN; where the attempt is now.
    pub(crate) fn repeated(&mut self, place: u32, key: &AttemptKey, at: Instant) -> u32 {
        let Some(place) = self.place(place, key) else {
            return self.begin(key, at, false);
        };
        if let Some(entry) = self.entry_mut(place) {
            if at < entry.first {
                let (last, answered) = (entry.last(), entry.answered());
                entry.first = at;
                entry.last = entry.after_first(last);
                entry.answered = answered.map_or(NEVER, |when| entry.after_first(when));
            } else {
                entry.last = entry.last.max(entry.after_first(at));
            }
            entry.syns = entry.syns.saturating_add(1);
        }
        place
    }

    /// An answer.
    pub(crate) fn answered(&mut self, place: u32, key: &AttemptKey, outcome: Outcome, at: Instant) {
        let seen = match outcome {
            Outcome::Accepted => Seen::Accepted,
            Outcome::Refused => Seen::Refused,
            Outcome::Unreachable => Seen::Unreachable,
            Outcome::Silent => return,
        };
        if let Some(place) = self.place(place, key)
            && let Some(entry) = self.entry_mut(place)
            && seen < entry.outcome
        {
            entry.outcome = seen;
            entry.answered = entry.after_first(at);
        }
    }

    /// Where an attempt is that was at `place`.
    fn place(&self, place: u32, key: &AttemptKey) -> Option<u32> {
        if self.entry(place).is_some_and(|entry| entry.is(key)) {
            return Some(place);
        }
        let (tag, _) = chains(key.protocol, key.tag, key.client, key.server);
        self.walk(TAG, self.head(TAG, &tag))
            .find(|(_, entry)| entry.is(key))
            .map(|(place, _)| place)
    }

    fn push(&mut self, mut entry: Remembered) -> u32 {
        while self.held >= self.bound {
            self.evict();
        }
        let (tag, client) = chains(entry.protocol, entry.tag, entry.client(), entry.server());
        let place = self.next;
        let (tag, client) = (self.bucket(&tag), self.bucket(&client));
        let head = |heads: Option<&mut u32>| heads.map_or(0, |head| std::mem::replace(head, place));
        let [tags, clients] = &mut self.heads;
        // Nothing before it in its namespace: the end of the chain.
        let end = place.wrapping_sub(u32::MAX / 2);
        entry.older = [
            head(tags.get_mut(tag)),
            head(clients.get_mut(client)),
            self.latest.insert(entry.netns, place).unwrap_or(end),
        ];
        let slot = self.slot(place);
        match self.ring.get_mut(slot) {
            Some(old) => *old = entry,
            None => self.ring.push(entry),
        }
        self.next = self.next.wrapping_add(1);
        self.held += 1;
        place
    }

    fn evict(&mut self) {
        let Some(oldest) = self.oldest().copied() else {
            return;
        };
        self.held -= 1;
        if oldest.last > oldest.written {
            self.push(Remembered {
                written: oldest.last,
                ..oldest
            });
            return;
        }
        self.complete_from = self.complete_from.max(oldest.last().plus(1));
        self.evicted += 1;
    }

    fn oldest(&self) -> Option<&Remembered> {
        if self.held == 0 {
            return None;
        }
        let held = u32::try_from(self.held).ok()?;
        self.entry(self.next.wrapping_sub(held))
    }

    fn slot(&self, place: u32) -> usize {
        place as usize & (self.bound - 1)
    }

    fn entry(&self, place: u32) -> Option<&Remembered> {
        if !is_held(self.next, self.held, place) {
            return None;
        }
        self.ring.get(self.slot(place))
    }

    fn entry_mut(&mut self, place: u32) -> Option<&mut Remembered> {
        if !is_held(self.next, self.held, place) {
            return None;
        }
        let slot = self.slot(place);
        self.ring.get_mut(slot)
    }

    fn bucket(&self, chain: &impl Hash) -> usize {
        // The low bits choose: the bound is a power of two.
        let bits = self.hash.hash_one(chain) & (self.bound as u64 - 1);
        usize::try_from(bits).unwrap_or(0)
    }

    fn head(&self, chain: usize, value: &impl Hash) -> u32 {
        let bucket = self.bucket(value);
        let head = self.heads.get(chain).and_then(|heads| heads.get(bucket));
        head.copied().unwrap_or(0)
    }

    /// The entries of a chain, the latest first, with their places. Chains of one hash are one.
    fn walk(&self, chain: usize, from: u32) -> impl Iterator<Item = (u32, &Remembered)> {
        let mut place = Some(from);
        std::iter::from_fn(move || {
            let here = place?;
            let entry = self.entry(here)?;
            let older = entry.older.get(chain).copied();
            // Each is older than the one before, or the chain would not end.
            place =
                older.filter(|older| self.next.wrapping_sub(*older) > self.next.wrapping_sub(here));
            Some((here, entry))
        })
    }
}

fn is_held(next: u32, held: usize, place: u32) -> bool {
    (1..=held).contains(&(next.wrapping_sub(place) as usize))
}

/// What the two hashed chains of an attempt are called: by tag and by client; of UDP, which has no tag, by client and by the client's
/// address and the server's port.
type Chains = ((Protocol, u32, Option<SocketAddr>), (Protocol, IpAddr, u16));

fn chains(protocol: Protocol, tag: u32, client: SocketAddr, server: SocketAddr) -> Chains {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => (
            (protocol, tag, None),
            (protocol, client.ip(), client.port()),
        ),
        Protocol::Udp => (
            (protocol, 0, Some(client)),
            (protocol, client.ip(), server.port()),
        ),
    }
}

#[cfg(test)]
mod tests;
