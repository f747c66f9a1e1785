//! One connection attempt, from its SYN to its answer or silence.
//!
//! ```text
//! destination:  SYN in  -> Open -> SYN-ACK out: Accepted | RST out: Refused | ICMP out: Unreachable | 2 s of nothing: Silent
//! source:       SYN out -> Open -> SYN-ACK in: Accepted | RST in: Refused | ICMP in: Unreachable | 8 s: Silent
//! ```
//!
//! SCTP has INIT, INIT ACK and ABORT for these, and a pod without SCTP refuses by ICMP (protocol unreachable). UDP has the first datagram of a
//! [flow](crate::udp), a datagram back, and the ICMP port unreachable of the pod's own stack.
//!
//! A SYN is repeated by its sender with the same initial sequence number: that is the same attempt, and a
//! decided attempt is known by its [memory](crate::recent) for as long as a repetition can still come. The same number long after is
//! another attempt.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use polproof_policy::Protocol;

use crate::record::{Crossing, Event, Instant, NetnsCookie, Record};
pub(crate) use crate::witness::Side;

/// What makes two SYNs the same attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttemptKey {
    /// Where it was seen.
    pub(crate) netns: NetnsCookie,
    /// Transport.
    pub(crate) protocol: Protocol,
    /// Who connects, as seen there.
    pub(crate) client: SocketAddr,
    /// To whom, as seen there.
    pub(crate) server: SocketAddr,
    /// Initial sequence number of the SYN, initiate tag of the INIT, 0 for UDP.
    pub(crate) tag: u32,
}

/// How an attempt ended, as the witness saw it. The smaller one holds, if several came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// SYN-ACK, INIT ACK, a datagram back.
    Accepted,
    /// RST that acknowledges the SYN, ABORT, or (out of the pod) the ICMP error by which a stack says that nobody listens: port unreachable
    /// for UDP, protocol unreachable for SCTP. A filter of the pod can say the same.
    Refused,
    /// ICMP destination unreachable that quotes the attempt. At the source it came from the network (or from a filter of the other pod); at
    /// the destination it left, and a filter of the pod speaks: the stack answers otherwise.
    Unreachable,
    /// Nothing in time.
    Silent,
}

/// What an answer tells beside its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Plain,
    /// TTL or hop limit of a RST or ABORT; 0 if it is not known.
    Ttl(u8),
    /// An ICMP error.
    Icmp {
        /// Who sent it.
        reporter: IpAddr,
        /// Type.
        icmp_type: u8,
        /// Code.
        code: u8,
    },
}

/// What a record says about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It began, or was repeated.
    Syn,
    /// A UDP flow began. `unsure` if it may have been there before: what is not known to be new is no attempt to hold against anybody.
    Begun {
        /// See above.
        unsure: bool,
    },
    /// It was answered.
    Answer(Outcome, Told),
    /// A UDP flow goes on; the key has the ports of this very datagram.
    GoesOn {
        /// From client to server.
        forward: bool,
        /// When the flow began; `None` if before anything that is remembered.
        begun: Option<Instant>,
    },
    /// It was counted before a restart (see [`counted_marker`]); so many SYNs were seen.
    Counted(u8),
}

/// ICMP type of a marker: an echo reply, which is never decoded as "unreachable", so that no
/// packet can pose as one.
pub(crate) const MARKER: u8 = 0;

/// Flow label and scope are no part of an identity.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// At which side of an attempt a packet that goes its way is seen, and one that goes back.
fn sides(crossing: Crossing) -> (Side, Side) {
    match crossing {
        Crossing::In => (Side::Destination, Side::Source),
        Crossing::Out => (Side::Source, Side::Destination),
    }
}

/// Whether an ICMP error is how a stack without a listener answers: sent by the very address that was called.
pub(crate) fn is_refusal(protocol: Protocol, server: IpAddr, told: &Told) -> bool {
    let Told::Icmp {
        reporter,
        icmp_type,
        code,
    } = told
    else {
        return false;
    };
    *reporter == server
        && match (protocol, server) {
            // A stack answers a SYN with a RST.
            (Protocol::Tcp, _) => false,
            (Protocol::Udp, IpAddr::V4(_)) => (*icmp_type, *code) == (3, 3),
            (Protocol::Udp, IpAddr::V6(_)) => (*icmp_type, *code) == (1, 4),
            (Protocol::Sctp, IpAddr::V4(_)) => (*icmp_type, *code) == (3, 2),
            // Unrecognised next header.
            (Protocol::Sctp, IpAddr::V6(_)) => (*icmp_type, *code) == (4, 1),
        }
}

/// What an ICMP error about an attempt says to the witness that it crossed.
pub(crate) fn unreachable(
    crossing: Crossing,
    protocol: Protocol,
    server: IpAddr,
    told: Told,
) -> Signal {
    let outcome = if crossing == Crossing::Out && is_refusal(protocol, server, &told) {
        Outcome::Refused
    } else {
        Outcome::Unreachable
    };
    Signal::Answer(outcome, told)
}

/// Reads a record as news of an attempt of TCP or SCTP; `None` if it is none. UDP has no such records: see [`crate::udp`].
pub(crate) fn read(record: &Record) -> Option<(Side, AttemptKey, Signal)> {
    let (source, destination) = (plain(record.source), plain(record.destination));
    let key = |client, server, tag| AttemptKey {
        netns: record.netns,
        protocol: record.protocol,
        client,
        server,
        tag,
    };
    let (there, back) = sides(record.crossing);
    let backward = |tag, outcome, told| {
        let key = key(destination, source, tag);
        Some((back, key, Signal::Answer(outcome, told)))
    };
    match (record.protocol, record.event) {
        (Protocol::Udp, _) => None,
        (Protocol::Tcp, Event::Syn { isn: tag }) | (Protocol::Sctp, Event::Init { tag }) => {
            Some((there, key(source, destination, tag), Signal::Syn))
        }
        (Protocol::Tcp, Event::SynAck { acknowledgement }) => backward(
            acknowledgement.wrapping_sub(1),
            Outcome::Accepted,
            Told::Plain,
        ),
        (Protocol::Sctp, Event::InitAck { tag }) => backward(tag, Outcome::Accepted, Told::Plain),
        (
            Protocol::Tcp,
            Event::Rst {
                acknowledgement,
                ack: true,
                ttl,
                ..
            },
        ) => backward(
            acknowledgement.wrapping_sub(1),
            Outcome::Refused,
            Told::Ttl(ttl),
        ),
        (Protocol::Sctp, Event::Abort { tag }) => backward(tag, Outcome::Refused, Told::Ttl(0)),
        (
            _,
            Event::Unreachable {
                icmp_type: MARKER,
                code,
                quoted_sequence,
                ..
            },
        ) => Some((
            there,
            key(source, destination, quoted_sequence),
            Signal::Counted(code),
        )),
        // Quotes the SYN, so its addresses are the SYN's, and it goes the other way.
        (
            protocol,
            Event::Unreachable {
                reporter,
                icmp_type,
                code,
                quoted_sequence,
            },
        ) => {
            let told = Told::Icmp {
                reporter,
                icmp_type,
                code,
            };
            let signal = unreachable(record.crossing, protocol, destination.ip(), told);
            Some((back, key(source, destination, quoted_sequence), signal))
        }
        // A RST without ACK answers no SYN; the rest is of another transport.
        _ => None,
    }
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No answer yet.
    Open,
    /// It ended; the verdict comes with the next tick.
    Ended(Outcome),
    /// It ended, and the verdict waits for an identity until then.
    Waiting(Outcome, Instant),
}

/// An attempt without a verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) key: AttemptKey,
    /// First SYN.
    pub(crate) first: Instant,
    /// Last SYN.
    pub(crate) last: Instant,
    /// SYNs seen, saturating.
    pub(crate) syns: u8,
    /// Of UDP: it may have begun before, see [`Signal::Begun`].
    pub(crate) unsure: bool,
    pub(crate) phase: Phase,
    /// When the answer came.
    pub(crate) answered: Instant,
    /// What the answer told.
    pub(crate) told: Told,
    /// Its place in the [memory](crate::recent) of its side.
    pub(crate) remembered: u32,
    /// Its number in the [table](crate::table).
    pub(crate) number: u32,
}

impl Attempt {
    pub(crate) fn begin(key: AttemptKey, at: Instant) -> Self {
        Self {
            key,
            first: at,
            last: at,
            syns: 1,
            unsure: false,
            phase: Phase::Open,
            answered: at,
            told: Told::Plain,
            remembered: 0,
            number: 0,
        }
    }

    /// A further SYN; records of two CPUs may be read in another order than they were made.
    pub(crate) fn repeated(&mut self, at: Instant) {
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        self.syns = self.syns.saturating_add(1);
    }

    /// An answer. Whatever else came, a SYN-ACK is the stack's own acceptance. Says whether the attempt ended by it.
    pub(crate) fn answered(&mut self, outcome: Outcome, told: Told, at: Instant) -> bool {
        let ended = match &mut self.phase {
            Phase::Open => {
                self.phase = Phase::Ended(outcome);
                true
            }
            Phase::Ended(held) | Phase::Waiting(held, _) if outcome < *held => {
                *held = outcome;
                false
            }
            Phase::Ended(_) | Phase::Waiting(..) => return false,
        };
        self.answered = at;
        self.told = told;
        ended
    }

    /// When the attempt has to be looked at again.
    pub(crate) fn deadline(&self, side: Side) -> Instant {
        match self.phase {
            Phase::Open => match side {
                Side::Destination => self.last.plus(2 * Instant::SECOND),
                // Who repeated after a second repeats two seconds later, or has given up (INITs are repeated after 3 s, then 6 s).
                Side::Source if self.syns >= 2 && self.key.protocol == Protocol::Tcp => self
                    .first
                    .plus(8 * Instant::SECOND)
                    .min(self.last.plus(Instant::SECOND * 5 / 2)),
                Side::Source => self.first.plus(8 * Instant::SECOND),
            },
            Phase::Ended(_) => self.last.plus(2 * Instant::SECOND),
            Phase::Waiting(_, until) => until,
        }
    }

    /// The record of a packet the way of the attempt.
    fn record(&self, side: Side, at: Instant, event: Event) -> Record {
        record_of(&self.key, crossing_of(side), at, event)
    }

    fn syn_at(&self, side: Side, at: Instant) -> Record {
        let event = match self.key.protocol {
            Protocol::Tcp => Event::Syn { isn: self.key.tag },
            Protocol::Sctp => Event::Init { tag: self.key.tag },
            Protocol::Udp => Event::Datagram,
        };
        self.record(side, at, event)
    }

    /// The (first) SYN.
    pub(crate) fn syn(&self, side: Side) -> Record {
        self.syn_at(side, self.first)
    }

    /// The records that lead to this state again, to be read after a restart.
    pub(crate) fn replay(&self, side: Side, out: &mut Vec<Record>) {
        if self.key.protocol == Protocol::Udp {
            out.push(begun_marker(&self.key, side, self.first, self.unsure));
        } else {
            out.push(self.syn(side));
            for _ in 1..self.syns.min(7) {
                out.push(self.syn_at(side, self.last));
            }
        }
        if let Phase::Ended(outcome) | Phase::Waiting(outcome, _) = self.phase {
            out.extend(answer_record(
                side,
                &self.key,
                outcome,
                self.told,
                self.answered,
            ));
        }
    }
}

/// For how long after its last SYN a decided attempt may be repeated: a sender waits 1 s (of SCTP 3 s), then twice as long each time, and
/// one repetition may be lost on the way.
pub(crate) fn patience(protocol: Protocol, syns: u8) -> u64 {
    let unit = match protocol {
        Protocol::Sctp => 3 * Instant::SECOND,
        Protocol::Tcp | Protocol::Udp => Instant::SECOND,
    };
    (unit << syns.clamp(1, 6)).saturating_add(Instant::SECOND)
}

/// A record that no packet makes: "this attempt is counted, ignore repetitions".
pub(crate) fn counted_marker(key: &AttemptKey, side: Side, last: Instant, syns: u8) -> Record {
    record_of(
        key,
        crossing_of(side),
        last,
        Event::Unreachable {
            reporter: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            icmp_type: MARKER,
            code: syns,
            quoted_sequence: key.tag,
        },
    )
}

fn crossing_of(side: Side) -> Crossing {
    match side {
        Side::Destination => Crossing::In,
        Side::Source => Crossing::Out,
    }
}

/// The record of a packet from client to server.
pub(crate) fn record_of(key: &AttemptKey, crossing: Crossing, at: Instant, event: Event) -> Record {
    Record {
        at,
        netns: key.netns,
        protocol: key.protocol,
        crossing,
        source: key.client,
        destination: key.server,
        event,
    }
}

/// Bits of the code of a marker of a UDP flow.
pub(crate) mod flow_bits {
    /// It was answered.
    pub(crate) const ANSWERED: u8 = 1;
    /// It may have begun before.
    pub(crate) const UNSURE: u8 = 2;
    /// It is an attempt that is still to be judged.
    pub(crate) const OPEN: u8 = 4;
}

/// A record that no packet makes: "this UDP flow began then, and its attempt is still to be judged".
pub(crate) fn begun_marker(key: &AttemptKey, side: Side, at: Instant, unsure: bool) -> Record {
    let unsure = if unsure { flow_bits::UNSURE } else { 0 };
    record_of(
        key,
        crossing_of(side),
        at,
        Event::Unreachable {
            reporter: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            icmp_type: MARKER,
            code: flow_bits::OPEN | unsure,
            quoted_sequence: 0,
        },
    )
}

/// The record of an answer; `None` for silence.
pub(crate) fn answer_record(
    side: Side,
    key: &AttemptKey,
    outcome: Outcome,
    told: Told,
    at: Instant,
) -> Option<Record> {
    let crossing = match side {
        Side::Destination => Crossing::Out,
        Side::Source => Crossing::In,
    };
    let event = match (outcome, told, key.protocol) {
        (Outcome::Silent, ..) => return None,
        // Quotes the SYN, so its addresses are the SYN's.
        (
            _,
            Told::Icmp {
                reporter,
                icmp_type,
                code,
            },
            _,
        ) => {
            let event = Event::Unreachable {
                reporter,
                icmp_type,
                code,
                quoted_sequence: key.tag,
            };
            return Some(record_of(key, crossing, at, event));
        }
        (Outcome::Accepted, _, Protocol::Tcp) => Event::SynAck {
            acknowledgement: key.tag.wrapping_add(1),
        },
        (Outcome::Accepted, _, Protocol::Sctp) => Event::InitAck { tag: key.tag },
        (_, _, Protocol::Udp) => Event::Datagram,
        (_, _, Protocol::Sctp) => Event::Abort { tag: key.tag },
        (_, told, Protocol::Tcp) => Event::Rst {
            sequence: 0,
            acknowledgement: key.tag.wrapping_add(1),
            ack: true,
            ttl: match told {
                Told::Ttl(ttl) => ttl,
                Told::Plain | Told::Icmp { .. } => 0,
            },
        },
    };
    Some(Record {
        source: key.server,
        destination: key.client,
        ..record_of(key, crossing, at, event)
    })
}

#[cfg(test)]
mod memory;
#[cfg(test)]
pub(crate) mod sides;
#[cfg(test)]
mod tests;
