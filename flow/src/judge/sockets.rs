//! Connections that are established, and UDP flows that go on: are they older than the policies that deny them?

use std::net::SocketAddr;
use std::sync::Arc;

use polproof_policy::{IpOwner, Protocol, Uid};

use crate::attempt::Side;
use crate::expectation::{Call, Tuple};
use crate::finding::{Answer, FindingKey, FindingKind, InconclusiveReason, Sample};
use crate::namespaces::Witness;
use crate::netns::OpenSocket;
use crate::record::{Crossing, Event, Instant, NetnsCookie, Record};
use crate::survivor::{Birth, Connection};

use super::Judge;

/// A connection that is there.
struct There {
    netns: NetnsCookie,
    side: Side,
    protocol: Protocol,
    client: SocketAddr,
    server: SocketAddr,
}

impl There {
    fn tuple(&self) -> Tuple {
        let (own, peer) = match self.side {
            Side::Destination => (self.server, self.client),
            Side::Source => (self.client, self.server),
        };
        Tuple {
            side: self.side,
            netns: self.netns,
            protocol: self.protocol,
            own: own.ip(),
            peer: peer.ip(),
            port: self.server.port(),
            who: None,
            seen_as: None,
        }
    }

    fn sample(&self, birth: Instant) -> Sample {
        Sample {
            syn: Record {
                at: birth,
                netns: self.netns,
                crossing: match self.side {
                    Side::Destination => Crossing::In,
                    Side::Source => Crossing::Out,
                },
                protocol: self.protocol,
                source: self.client,
                destination: self.server,
                event: match self.protocol {
                    Protocol::Tcp => Event::Syn { isn: 0 },
                    Protocol::Sctp => Event::Init { tag: 0 },
                    Protocol::Udp => Event::Datagram,
                },
            },
            answer: Answer::Established,
        }
    }
}

impl Judge {
    /// The established connections of a pod have been listed; all of them if the list is `complete`.
    pub(super) fn on_sockets(
        &mut self,
        netns: NetnsCookie,
        at: Instant,
        sockets: &[OpenSocket],
        complete: bool,
    ) {
        self.now = self.now.max(at);
        let again = self.survivors.was_listed(netns);
        for socket in sockets {
            let plain = crate::attempt::plain;
            let (local, remote) = (plain(socket.local), plain(socket.remote));
            let there = if socket.inbound {
                There {
                    netns,
                    side: Side::Destination,
                    protocol: socket.protocol,
                    client: remote,
                    server: local,
                }
            } else if self.is_outside(remote) {
                There {
                    netns,
                    side: Side::Source,
                    protocol: socket.protocol,
                    client: local,
                    server: remote,
                }
            } else {
                // The witness at the other end lists it.
                continue;
            };
            let connection = Connection::Socket(netns, socket.cookie);
            self.goes_on(connection, &there, at, again, socket.heard);
        }
        let ended = self.survivors.listed(netns, at, complete);
        self.close(ended, at);
    }

    fn is_outside(&self, remote: SocketAddr) -> bool {
        !self.here.has(remote.ip())
            && self
                .history
                .newest()
                .is_some_and(|newest| matches!(newest.owner(remote.ip()), IpOwner::Nobody))
    }

    /// UDP flows that went on since the last tick.
    pub(super) fn follow_flows(&mut self) {
        for (key, begun, at) in std::mem::take(&mut self.ongoing) {
            // When it began is not known: neither is what it is.
            let Some(begun) = begun else {
                continue;
            };
            let there = There {
                netns: key.netns,
                side: Side::Destination,
                protocol: Protocol::Udp,
                client: key.client,
                server: key.server,
            };
            let flow = Connection::Flow(
                key.netns,
                key.client.ip(),
                key.server.ip(),
                key.server.port(),
            );
            let Witness::Of(uid) = self.namespaces.witness(key.netns, at) else {
                continue;
            };
            let uid = uid.clone();
            let birth = self.birth(&there.tuple(), &uid, begun);
            self.judge_ongoing(flow, &there, &uid, (at, Some(at)), birth);
        }
    }

    /// UDP flows that went on and do so no longer.
    pub(super) fn end_flows(&mut self) {
        // A flow that goes on is recorded now and then only.
        let idle = self
            .settings
            .udp_idle
            .saturating_add(self.settings.udp_window);
        let now = self.now;
        let (namespaces, losses) = (&self.namespaces, &self.losses);
        let ended = self.survivors.silent(now.minus(idle), now, |netns, seen| {
            namespaces.gap(netns, seen, now).is_none()
                && losses.between(Protocol::Udp, seen, now).is_none()
        });
        self.close(ended, now);
    }

    fn goes_on(
        &mut self,
        connection: Connection,
        there: &There,
        at: Instant,
        again: bool,
        heard: Option<Instant>,
    ) {
        let Witness::Of(uid) = self.namespaces.witness(there.netns, at) else {
            return;
        };
        let uid = uid.clone();
        if !self.has_view(at) {
            return;
        }
        let memory = match there.side {
            Side::Destination => self.destination.recent(),
            Side::Source => self.source.recent(),
        };
        let begun = memory.begun(there.netns, there.protocol, there.client, there.server);
        let from = self
            .namespaces
            .since(there.netns)
            .unwrap_or(at)
            .max(memory.complete_from());
        let birth = match begun {
            Some(begun) => self.birth(&there.tuple(), &uid, begun),
            None if again => Birth::Missed(at),
            None => Birth::BeforeUs(from.min(at)),
        };
        self.judge_ongoing(connection, there, &uid, (at, heard), birth);
    }

    /// What was expected when a connection began.
    fn birth(&mut self, tuple: &Tuple, uid: &Uid, begun: Instant) -> Birth {
        let expected = self
            .history
            .expect(tuple, uid, begun, &self.here, &self.settings);
        match expected {
            Ok(expected) if matches!(expected.call, Call::Deny(_)) => Birth::Denied,
            Ok(_) => Birth::Allowed(begun),
            Err(_) => Birth::Open(begun),
        }
    }

    fn judge_ongoing(
        &mut self,
        connection: Connection,
        there: &There,
        uid: &Uid,
        (at, heard): (Instant, Option<Instant>),
        birth: Birth,
    ) {
        let Some(birth) = self.survivors.see(connection, at, || birth) else {
            return;
        };
        let expected = self
            .history
            .expect(&there.tuple(), uid, at, &self.here, &self.settings);
        let Ok(expected) = expected else {
            return;
        };
        let Call::Deny(denial) = &expected.call else {
            return;
        };
        let first = match birth {
            // It may have begun within the grace time, or have been another's.
            Birth::Open(begun) if begun >= expected.since || !expected.begun => {
                self.survivors.leave(&connection);
                self.ledger
                    .inconclusive(InconclusiveReason::FlowBegunBefore, 1);
                return;
            }
            Birth::Open(begun) => begun,
            birth => match birth.before(expected.since, expected.begun) {
                Some(first) => first,
                None => return,
            },
        };
        if expected.kind == FindingKind::StartupGap || !expected.steady {
            return;
        }
        let Some(heard) = heard else {
            self.survivors.leave(&connection);
            self.ledger
                .inconclusive(InconclusiveReason::FlowBegunBefore, 1);
            return;
        };
        // One that was cut stays established for long. What came within the grace time is propagation.
        if heard < expected.since.plus(self.settings.grace) {
            return;
        }
        let key = Arc::new(FindingKey {
            kind: FindingKind::Survivor,
            ..FindingKey::clone(&denial.key)
        });
        self.survivors.report(&connection, &key);
        self.ledger
            .observe(&key, there.sample(first), at, false, self.now);
        self.standing.stand(&key, at);
    }

    fn close(&mut self, ended: Vec<Arc<FindingKey>>, at: Instant) {
        for key in ended {
            let over = self.standing.closed(&key);
            self.end(over, at);
        }
    }
}
