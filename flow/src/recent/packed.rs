//! How an attempt is kept: in as few bytes as its addresses allow, for there are very many.

use std::net::{IpAddr, Ipv4Addr};

use polproof_policy::Protocol;

use super::{MICRO, NEVER, Remembered};
use crate::attempt::AttemptKey;
use crate::record::{Instant, NetnsCookie};
use crate::witness::Seen;

/// A UDP flow that went on, and no attempt.
const GOES_ON: u8 = 1;
/// Its verdict was given.
const DECIDED: u8 = 2;
/// It was repeated since it was written down.
const RENEWED: u8 = 4;
/// It was written down again, and stands among younger ones.
const AGAIN: u8 = 8;
/// Its addresses are among the wide ones.
const WIDE: u8 = 16;

/// An attempt in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub(super) netns: NetnsCookie,
    pub(super) first: Instant,
    /// In microseconds after the first.
    last: u32,
    /// Likewise.
    answered: u32,
    /// The entry before it, of each chain.
    pub(super) older: [u32; 3],
    pub(super) tag: u32,
    /// The client's and the server's; of wide ones only the first says something: where they are.
    addresses: [u32; 2],
    client_port: u16,
    server_port: u16,
    pub(super) protocol: Protocol,
    pub(super) outcome: Seen,
    /// Saturating.
    pub(super) syns: u8,
    flags: u8,
}

/// Addresses of which one at least is no IPv4 address, of the entries that are held.
#[derive(Debug, Default)]
pub(super) struct Wide {
    pairs: Vec<(IpAddr, IpAddr)>,
    free: Vec<u32>,
}

impl Wide {
    fn put(&mut self, pair: (IpAddr, IpAddr)) -> u32 {
        if let Some(place) = self.free.pop()
            && let Some(held) = self.pairs.get_mut(place as usize)
        {
            *held = pair;
            return place;
        }
        self.pairs.push(pair);
        // There are never more than entries in the ring.
        u32::try_from(self.pairs.len() - 1).unwrap_or(u32::MAX)
    }

    /// An entry goes.
    pub(super) fn free(&mut self, entry: &Packed) {
        if entry.has(WIDE) {
            let [place, _] = entry.addresses;
            self.free.push(place);
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.pairs.len() - self.free.len()
    }
}

impl Packed {
    pub(super) fn new(key: &AttemptKey, first: Instant, goes_on: bool, wide: &mut Wide) -> Self {
        let flags = if goes_on { GOES_ON } else { 0 };
        let (addresses, flags) = match (key.client.ip(), key.server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                ([client.to_bits(), server.to_bits()], flags)
            }
            pair => ([wide.put(pair), 0], flags | WIDE),
        };
        Self {
            netns: key.netns,
            first,
            last: 0,
            answered: NEVER,
            older: [0; 3],
            tag: key.tag,
            addresses,
            client_port: key.client.port(),
            server_port: key.server.port(),
            protocol: key.protocol,
            outcome: Seen::Unanswered,
            syns: 1,
            flags,
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn pair(&self, wide: &Wide) -> (IpAddr, IpAddr) {
        let [client, server] = self.addresses;
        if self.has(WIDE) {
            let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let pair = wide.pairs.get(client as usize).copied();
            return pair.unwrap_or((nobody, nobody));
        }
        let plain = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
        (plain(client), plain(server))
    }

    pub(super) fn open(&self, wide: &Wide) -> Remembered {
        let (client, server) = self.pair(wide);
        Remembered {
            netns: self.netns,
            first: self.first,
            last: self.last(),
            answered: self.answered(),
            tag: self.tag,
            client,
            server,
            client_port: self.client_port,
            server_port: self.server_port,
            protocol: self.protocol,
            outcome: self.outcome,
            goes_on: self.has(GOES_ON),
        }
    }

    pub(super) fn is(&self, key: &AttemptKey, wide: &Wide) -> bool {
        self.tag == key.tag
            && self.netns == key.netns
            && self.protocol == key.protocol
            && self.client_port == key.client.port()
            && self.server_port == key.server.port()
            && self.pair(wide) == (key.client.ip(), key.server.ip())
    }

    fn after_first(&self, at: Instant) -> u32 {
        u32::try_from(at.since(self.first) / MICRO)
            .unwrap_or(NEVER - 1)
            .min(NEVER - 1)
    }

    pub(super) fn last(&self) -> Instant {
        self.first.plus(u64::from(self.last) * MICRO)
    }

    fn answered(&self) -> Option<Instant> {
        (self.answered != NEVER).then(|| self.first.plus(u64::from(self.answered) * MICRO))
    }

    /// A further SYN.
    pub(super) fn repeat(&mut self, at: Instant) {
        if at < self.first {
            let (last, answered) = (self.last(), self.answered());
            self.first = at;
            self.last = self.after_first(last);
            self.answered = answered.map_or(NEVER, |when| self.after_first(when));
        } else {
            let last = self.after_first(at);
            if last > self.last {
                self.last = last;
                self.flags |= RENEWED;
            }
        }
        self.syns = self.syns.saturating_add(1);
    }

    /// An answer.
    pub(super) fn answer(&mut self, seen: Seen, at: Instant) {
        if seen < self.outcome {
            self.outcome = seen;
            self.answered = self.after_first(at);
        }
    }

    /// The verdict is given.
    pub(super) fn decide(&mut self) {
        self.flags |= DECIDED;
    }

    pub(super) fn is_decided(&self) -> bool {
        self.has(DECIDED)
    }

    pub(super) fn is_renewed(&self) -> bool {
        self.has(RENEWED)
    }

    /// Whether it stands among younger ones.
    pub(super) fn is_again(&self) -> bool {
        self.has(AGAIN)
    }

    /// As it is written down again.
    pub(super) fn again(&self) -> Self {
        Self {
            flags: self.flags & !RENEWED | AGAIN,
            ..*self
        }
    }
}
