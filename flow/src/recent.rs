//! The attempts of the last minutes at one side, for the questions of others, and to tell the repetition of a decided attempt from a new one.
//!
//! A ring of the latest attempts, oldest out first. Each entry points to the one before it with the same tag, the same ends and the same
//! namespace: three chains that need no upkeep, because a pointer out of the ring is the end of its chain. Memory grows to the bound and
//! stays; remembering allocates nothing then.
//!
//! An attempt that was repeated since it was written down is written down again before it would go, so what is forgotten is older than
//! [`Recent::complete_from`], and nobody says "not seen" of a time before that. So is one that has its verdict and was repeated, for as
//! long as it may be again: its next SYN is no new attempt.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};

use polproof_policy::Protocol;

use crate::attempt::{AttemptKey, Outcome, patience};
use crate::record::{Instant, NetnsCookie};
use crate::settings::Settings;
use crate::witness::{Question, Seen};

mod begun;
mod find;
mod packed;

pub(crate) use find::{Match, SLACK};
pub(crate) use packed::Packed;
use packed::Wide;

/// The longest walk along one chain: who sends a flood under one tag does not make every question expensive.
const WALK: usize = 512;
/// Decided attempts that may still be repeated and so stay, before one of them goes all the same.
const CHANCES: usize = 8;
/// Nanoseconds in a microsecond.
const MICRO: u64 = 1_000;
/// No answer yet.
const NEVER: u32 = u32::MAX;

/// Chains.
const TAG: usize = 0;
const ENDS: usize = 1;
const NETNS: usize = 2;

/// An attempt that is remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remembered {
    netns: NetnsCookie,
    first: Instant,
    last: Instant,
    answered: Option<Instant>,
    tag: u32,
    client: IpAddr,
    server: IpAddr,
    client_port: u16,
    server_port: u16,
    protocol: Protocol,
    outcome: Seen,
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
        self.last
    }
    /// When it was answered, if it was.
    pub(crate) fn answered(&self) -> Option<Instant> {
        self.answered
    }
    /// What became of it, so far.
    pub(crate) fn outcome(&self) -> Seen {
        self.outcome
    }

    /// Whether what became of it tells of the way that was asked about: of its family and transport.
    pub(crate) fn is_like(&self, question: &Question) -> bool {
        self.protocol == question.protocol && self.client.is_ipv4() == question.client.is_ipv4()
    }

    fn key(&self) -> AttemptKey {
        AttemptKey {
            netns: self.netns,
            protocol: self.protocol,
            client: self.client(),
            server: self.server(),
            tag: self.tag,
        }
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
    ring: Vec<Packed>,
    wide: Wide,
    /// Number of the next entry; they wrap.
    next: u32,
    held: usize,
    /// The latest entry of every tag and of every pair of ends, by hash.
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
            wide: Wide::default(),
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
            && let keep = self.remember.max(patience(oldest.protocol, oldest.syns))
            && oldest.last().plus(keep) < now
        {
            let oldest = *oldest;
            self.forget(&oldest);
        }
        if self.latest.len() > 64 && self.latest.len() > 2 * self.held {
            let (next, held) = (self.next, self.held);
            self.latest.retain(|_, number| is_held(next, held, *number));
        }
    }

    /// The oldest one goes for good.
    fn forget(&mut self, oldest: &Packed) {
        self.held -= 1;
        self.wide.free(oldest);
        self.complete_from = self.complete_from.max(oldest.last().plus(1));
    }

    /// Remembers an attempt; where it is.
    pub(crate) fn begin(&mut self, key: &AttemptKey, first: Instant, goes_on: bool) -> u32 {
        if self.held >= self.bound {
            self.evict(first);
        }
        let entry = Packed::new(key, first, goes_on, &mut self.wide);
        self.push(key, entry)
    }

    /// A further SYN; where the attempt is now.
    pub(crate) fn repeated(&mut self, place: u32, key: &AttemptKey, at: Instant) -> u32 {
        let Some(place) = self.place(place, key) else {
            return self.begin(key, at, false);
        };
        if let Some(entry) = self.entry_mut(place) {
            entry.repeat(at);
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
        {
            entry.answer(seen, at);
        }
    }

    /// The verdict is given.
    pub(crate) fn decide(&mut self, place: u32, key: &AttemptKey) {
        if let Some(place) = self.place(place, key)
            && let Some(entry) = self.entry_mut(place)
        {
            entry.decide();
        }
    }

    /// An attempt of before a restart, of which the verdict was given after so many SYNs.
    pub(crate) fn restore(&mut self, key: &AttemptKey, last: Instant, syns: u8) {
        let place = self.begin(key, last, false);
        if let Some(entry) = self.entry_mut(place) {
            entry.syns = syns;
            entry.decide();
        }
    }

    /// Where the attempt is of which a SYN or an answer of that time is news, if its verdict is given. What comes long after is of another
    /// attempt with the same number.
    pub(crate) fn decided(&self, key: &AttemptKey, at: Instant) -> Option<u32> {
        let place = self.latest(key, WALK)?;
        let entry = self.entry(place)?;
        let patience = patience(entry.protocol, entry.syns);
        (entry.is_decided() && at <= entry.last().plus(patience)).then_some(place)
    }

    /// Decided attempts of which a repetition may come after a restart: each with its last SYN, and how many there were.
    pub(crate) fn repeatable(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (AttemptKey, Instant, u8)> {
        self.latest_first()
            .filter(move |entry| {
                let patience = patience(entry.protocol, entry.syns);
                entry.is_decided()
                    && entry.last().plus(patience) >= now
                    && (entry.syns >= 2 || entry.first.plus(patience / 2) >= now)
            })
            .map(|entry| (entry.open(&self.wide).key(), entry.last(), entry.syns))
    }

    /// Every entry.
    fn latest_first(&self) -> impl Iterator<Item = &Packed> {
        let held = u32::try_from(self.held).unwrap_or(u32::MAX);
        (1..=held).filter_map(|back| self.entry(self.next.wrapping_sub(back)))
    }

    /// Where an attempt is that was at `place`.
    fn place(&self, place: u32, key: &AttemptKey) -> Option<u32> {
        let there = self.entry(place);
        if there.is_some_and(|entry| entry.is(key, &self.wide)) {
            return Some(place);
        }
        self.latest(key, self.bound)
    }

    /// Where the latest attempt of a key is. It is on the chain of its tag and on that of its ends, and only one of the two is long, if
    /// somebody floods us with one tag or between the same ends: so the shorter one is enough.
    fn latest(&self, key: &AttemptKey, most: usize) -> Option<u32> {
        let tag = by_tag(key.protocol, key.tag, key.client);
        let ends = by_ends(key.netns, key.protocol, key.client, key.server);
        let tagged = self.walk_packed(TAG, self.head(TAG, &tag));
        let between = self.walk_packed(ENDS, self.head(ENDS, &ends));
        tagged
            .zip(between)
            .take(most)
            .flat_map(|(one, other)| [one, other])
            .find(|(_, entry)| entry.is(key, &self.wide))
            .map(|(place, _)| place)
    }

    fn push(&mut self, key: &AttemptKey, mut entry: Packed) -> u32 {
        let place = self.next;
        let tag = self.bucket(&by_tag(key.protocol, key.tag, key.client));
        let ends = self.bucket(&by_ends(key.netns, key.protocol, key.client, key.server));
        let head = |heads: Option<&mut u32>| heads.map_or(0, |head| std::mem::replace(head, place));
        let [tags, pairs] = &mut self.heads;
        // Nothing before it in its namespace: the end of the chain.
        let end = place.wrapping_sub(u32::MAX / 2);
        entry.older = [
            head(tags.get_mut(tag)),
            head(pairs.get_mut(ends)),
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

    /// Makes room for one that is new now.
    fn evict(&mut self, now: Instant) {
        let mut chances = CHANCES;
        while let Some(oldest) = self.oldest().copied() {
            let patient = oldest.is_decided()
                && oldest.syns >= 2
                && oldest.last().plus(patience(oldest.protocol, oldest.syns)) >= now;
            if !oldest.is_renewed() {
                if !patient || chances == 0 {
                    self.forget(&oldest);
                    self.evicted += 1;
                    return;
                }
                chances -= 1;
            }
            self.held -= 1;
            let key = oldest.open(&self.wide).key();
            self.push(&key, oldest.again());
        }
    }

    fn oldest(&self) -> Option<&Packed> {
        if self.held == 0 {
            return None;
        }
        let held = u32::try_from(self.held).ok()?;
        self.entry(self.next.wrapping_sub(held))
    }

    fn slot(&self, place: u32) -> usize {
        place as usize & (self.bound - 1)
    }

    fn entry(&self, place: u32) -> Option<&Packed> {
        if !is_held(self.next, self.held, place) {
            return None;
        }
        self.ring.get(self.slot(place))
    }

    fn entry_mut(&mut self, place: u32) -> Option<&mut Packed> {
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

    /// The entries of a chain, the latest first. Chains of one hash are one.
    fn walk(&self, chain: usize, from: u32) -> impl Iterator<Item = Remembered> {
        self.walk_packed(chain, from)
            .map(|(_, entry)| entry.open(&self.wide))
    }

    /// The same with their places.
    fn walk_packed(&self, chain: usize, from: u32) -> impl Iterator<Item = (u32, &Packed)> {
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

/// What the hashed chain of ends is called.
#[derive(Debug, Hash)]
enum Ends {
    /// With a handshake: both ends, in one namespace.
    Both(NetnsCookie, Protocol, SocketAddr, SocketAddr),
    /// Of UDP, in any namespace: the client's address and the server's port.
    Like(IpAddr, u16),
}

/// What the chain of an attempt's tag is called; of UDP, which has none, that of its client.
fn by_tag(protocol: Protocol, tag: u32, client: SocketAddr) -> impl Hash {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => (protocol, tag, None),
        Protocol::Udp => (protocol, 0, Some(client)),
    }
}

fn by_ends(netns: NetnsCookie, protocol: Protocol, client: SocketAddr, server: SocketAddr) -> Ends {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => Ends::Both(netns, protocol, client, server),
        Protocol::Udp => Ends::Like(client.ip(), server.port()),
    }
}

#[cfg(test)]
mod tests;
