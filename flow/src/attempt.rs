//! One connection attempt, from its SYN to its answer or silence.
//!
//! ```text
//! destination:  SYN in  -> Open -> SYN-ACK out: Accepted | RST out: Refused | 2 s of nothing: Silent
//! source:       SYN out -> Open -> SYN-ACK in: Accepted | RST in: Refused | ICMP in: Unreachable | 8 s: Silent
//! ```
//!
//! A SYN is repeated by its sender with the same initial sequence number: that is the same attempt, and a
//! decided attempt is remembered for as long as a repetition can still come.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use polproof_policy::Protocol;

use crate::record::{Crossing, Event, Instant, NetnsCookie, Record};
pub(crate) use crate::witness::Side;

/// What makes two SYNs the same attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttemptKey {
    /// Where it was seen.
    pub(crate) netns: NetnsCookie,
    /// Who connects, as seen there.
    pub(crate) client: SocketAddr,
    /// To whom, as seen there.
    pub(crate) server: SocketAddr,
    /// Initial sequence number of the SYN.
    pub(crate) isn: u32,
}

/// How an attempt ended, as the witness saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// SYN-ACK.
    Accepted,
    /// RST that acknowledges the SYN.
    Refused,
    /// ICMP destination unreachable that quotes the SYN (source only).
    Unreachable,
    /// Nothing in time.
    Silent,
}

/// What a record says about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It began, or was repeated.
    Syn,
    /// It was answered.
    Answer(Outcome),
    /// It was counted before a restart (see [`Attempt::counted_marker`]); so many SYNs were seen.
    Counted(u8),
}

/// ICMP type of a marker: an echo reply, which is never decoded as "unreachable", so that no
/// packet can pose as one.
const MARKER: u8 = 0;

/// Reads a record as news of an attempt; `None` if it is none.
pub(crate) fn read(record: &Record) -> Option<(Side, AttemptKey, Signal)> {
    // Flow label and scope are no part of the identity.
    let source = SocketAddr::new(record.source.ip(), record.source.port());
    let destination = SocketAddr::new(record.destination.ip(), record.destination.port());
    let netns = record.netns;
    let forward = |isn| AttemptKey {
        netns,
        client: source,
        server: destination,
        isn,
    };
    let backward = |acknowledgement: u32| AttemptKey {
        netns,
        client: destination,
        server: source,
        isn: acknowledgement.wrapping_sub(1),
    };
    let side_of_syn = match record.crossing {
        Crossing::In => Side::Destination,
        Crossing::Out => Side::Source,
    };
    let side_of_answer = match record.crossing {
        Crossing::Out => Side::Destination,
        Crossing::In => Side::Source,
    };
    match record.event {
        Event::Syn { isn } => Some((side_of_syn, forward(isn), Signal::Syn)),
        Event::SynAck { acknowledgement } => Some((
            side_of_answer,
            backward(acknowledgement),
            Signal::Answer(Outcome::Accepted),
        )),
        // A RST without ACK answers no SYN.
        Event::Rst { ack: false, .. } => None,
        Event::Rst {
            acknowledgement, ..
        } => Some((
            side_of_answer,
            backward(acknowledgement),
            Signal::Answer(Outcome::Refused),
        )),
        Event::Unreachable {
            icmp_type: MARKER,
            code,
            quoted_sequence,
            ..
        } => Some((side_of_syn, forward(quoted_sequence), Signal::Counted(code))),
        // Quotes the SYN, so its addresses are the SYN's. Out of the pod it is a filter inside the
        // pod that speaks: not the stack's answer.
        Event::Unreachable {
            quoted_sequence, ..
        } => match record.crossing {
            Crossing::In => Some((
                Side::Source,
                forward(quoted_sequence),
                Signal::Answer(Outcome::Unreachable),
            )),
            Crossing::Out => None,
        },
        Event::Init { .. } | Event::InitAck { .. } | Event::Abort { .. } | Event::Datagram => None,
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
    /// The verdict is given; remembered for repetitions.
    Counted,
}

/// An attempt in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) key: AttemptKey,
    /// First SYN.
    pub(crate) first: Instant,
    /// Last SYN.
    pub(crate) last: Instant,
    /// SYNs seen, saturating.
    pub(crate) syns: u8,
    pub(crate) phase: Phase,
    /// When the answer came.
    pub(crate) answered: Instant,
}

impl Attempt {
    pub(crate) fn begin(key: AttemptKey, at: Instant) -> Self {
        Self {
            key,
            first: at,
            last: at,
            syns: 1,
            phase: Phase::Open,
            answered: at,
        }
    }

    /// A further SYN; records of two CPUs may be read in another order than they were made.
    pub(crate) fn repeated(&mut self, at: Instant) {
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        self.syns = self.syns.saturating_add(1);
    }

    /// An answer. Whatever else came, a SYN-ACK is the stack's own acceptance.
    pub(crate) fn answered(&mut self, outcome: Outcome, at: Instant) -> bool {
        match &mut self.phase {
            Phase::Open => {
                self.phase = Phase::Ended(outcome);
                self.answered = at;
                true
            }
            Phase::Ended(held) | Phase::Waiting(held, _) => {
                if outcome < *held {
                    *held = outcome;
                    self.answered = at;
                }
                false
            }
            Phase::Counted => false,
        }
    }

    /// When the attempt has to be looked at again.
    pub(crate) fn deadline(&self, side: Side) -> Instant {
        match self.phase {
            Phase::Open => match side {
                Side::Destination => self.last.plus(2 * Instant::SECOND),
                // With two SYNs the sender repeats: 2 s after the last one it has given up, or waits long.
                Side::Source if self.syns >= 2 => self
                    .first
                    .plus(8 * Instant::SECOND)
                    .min(self.last.plus(2 * Instant::SECOND)),
                Side::Source => self.first.plus(8 * Instant::SECOND),
            },
            Phase::Ended(_) => self.last.plus(2 * Instant::SECOND),
            Phase::Waiting(_, until) => until,
            // A sender waits 1 s, then twice as long each time.
            Phase::Counted => {
                let wait = 1_u64 << self.syns.clamp(1, 6);
                self.last.plus((wait + 1) * Instant::SECOND)
            }
        }
    }

    /// Whether a repetition may come after a restart, so that a checkpoint must carry a marker.
    pub(crate) fn may_repeat(&self, now: Instant) -> bool {
        self.syns >= 2 || self.first.plus(Instant::SECOND * 3 / 2) >= now
    }

    fn record(&self, side: Side, at: Instant, event: Event) -> Record {
        Record {
            at,
            netns: self.key.netns,
            protocol: Protocol::Tcp,
            crossing: match side {
                Side::Destination => Crossing::In,
                Side::Source => Crossing::Out,
            },
            source: self.key.client,
            destination: self.key.server,
            event,
        }
    }

    /// The (first) SYN.
    pub(crate) fn syn(&self, side: Side) -> Record {
        self.record(side, self.first, Event::Syn { isn: self.key.isn })
    }

    /// A record that no packet makes: "this attempt is counted, ignore repetitions".
    pub(crate) fn counted_marker(&self, side: Side) -> Record {
        self.record(
            side,
            self.last,
            Event::Unreachable {
                reporter: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                icmp_type: MARKER,
                code: self.syns,
                quoted_sequence: self.key.isn,
            },
        )
    }

    /// The records that lead to this state again, to be read after a restart.
    pub(crate) fn replay(&self, side: Side, out: &mut Vec<Record>) {
        out.push(self.syn(side));
        for _ in 1..self.syns.min(7) {
            out.push(self.record(side, self.last, Event::Syn { isn: self.key.isn }));
        }
        if let Phase::Ended(outcome) | Phase::Waiting(outcome, _) = self.phase {
            out.extend(answer_record(side, &self.key, outcome, self.answered));
        }
    }
}

/// The record of an answer; `None` for silence.
pub(crate) fn answer_record(
    side: Side,
    key: &AttemptKey,
    outcome: Outcome,
    at: Instant,
) -> Option<Record> {
    let acknowledgement = key.isn.wrapping_add(1);
    let (event, quotes) = match outcome {
        Outcome::Accepted => (Event::SynAck { acknowledgement }, false),
        Outcome::Refused => (
            Event::Rst {
                sequence: 0,
                acknowledgement,
                ack: true,
                ttl: 0,
            },
            false,
        ),
        Outcome::Unreachable => (
            Event::Unreachable {
                reporter: key.server.ip(),
                icmp_type: 3,
                code: 13,
                quoted_sequence: key.isn,
            },
            true,
        ),
        Outcome::Silent => return None,
    };
    let (source, destination) = if quotes {
        (key.client, key.server)
    } else {
        (key.server, key.client)
    };
    Some(Record {
        at,
        netns: key.netns,
        protocol: Protocol::Tcp,
        crossing: match side {
            Side::Destination => Crossing::Out,
            Side::Source => Crossing::In,
        },
        source,
        destination,
        event,
    })
}
