//! What a judge takes over from the one before a restart.

use std::net::{IpAddr, Ipv6Addr};

use polproof_policy::Snapshot;

use crate::attempt::{Attempt, AttemptKey, MARKER, Outcome, Phase, Side, counted_marker, plain};
use crate::finding::FindingDelta;
use crate::namespaces::Binding;
use crate::record::{Crossing, Event, Instant, Record};

/// What is left of a judge of before a restart, on the same boot of the same node.
#[derive(Debug, Default)]
pub struct Restored {
    /// Views of the cluster, oldest first, with the time from which each was in force.
    pub views: Vec<(Instant, Snapshot)>,
    /// Namespaces and their pods.
    pub bindings: Vec<Binding>,
    /// [`Judge::open_attempts`](crate::Judge::open_attempts) of the last report that was written.
    pub open: Vec<Record>,
    /// Written deltas with `observed` attempts later than `settled_until`.
    pub unsettled: Vec<FindingDelta>,
    /// [`Judge::settled_until`](crate::Judge::settled_until) of the last report that was written.
    pub settled_until: Instant,
}

/// Bits of the ninth byte of what stands for the reporter of a marker.
const OUTCOME: u8 = 0b0000_0011;
const UNSURE: u8 = 0b0000_0100;
/// Tells it from a marker of an attempt that is counted, and asked about no more.
const ASKED: u8 = 0b1000_0000;

/// A record that no packet makes: "this attempt left, ended so, and the other end's witness is asked about it". To whoever does not know it,
/// it is the marker of an attempt that is counted.
pub(crate) fn asked_marker(attempt: &Attempt, outcome: Outcome) -> Record {
    let outcome = match outcome {
        Outcome::Accepted => 0,
        Outcome::Refused => 1,
        Outcome::Unreachable => 2,
        Outcome::Silent => 3,
    };
    let unsure = if attempt.unsure { UNSURE } else { 0 };
    let mut told = [0; 16];
    let (first, rest) = told.split_at_mut(8);
    first.copy_from_slice(&attempt.first.0.to_be_bytes());
    if let Some(bits) = rest.first_mut() {
        *bits = ASKED | unsure | outcome;
    }
    let mut record = counted_marker(&attempt.key, Side::Source, attempt.last, attempt.syns);
    if let Event::Unreachable { reporter, .. } = &mut record.event {
        *reporter = IpAddr::V6(Ipv6Addr::from(told));
    }
    record
}

/// What a record says that [`asked_marker`] made.
pub(crate) fn asked(record: &Record) -> Option<(Attempt, Outcome)> {
    let Event::Unreachable {
        reporter: IpAddr::V6(told),
        icmp_type: MARKER,
        code: syns,
        quoted_sequence: tag,
    } = record.event
    else {
        return None;
    };
    let told = told.octets();
    let (first, rest) = told.split_first_chunk::<8>()?;
    let bits = *rest.first()?;
    if bits & ASKED == 0 || record.crossing != Crossing::Out {
        return None;
    }
    let outcome = match bits & OUTCOME {
        0 => Outcome::Accepted,
        1 => Outcome::Refused,
        2 => Outcome::Unreachable,
        _ => Outcome::Silent,
    };
    let key = AttemptKey {
        netns: record.netns,
        protocol: record.protocol,
        client: plain(record.source),
        server: plain(record.destination),
        tag,
    };
    let attempt = Attempt {
        last: record.at,
        syns,
        unsure: bits & UNSURE != 0,
        phase: Phase::Ended(outcome),
        ..Attempt::begin(key, Instant(u64::from_be_bytes(*first)))
    };
    Some((attempt, outcome))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use polproof_policy::Protocol;

    use super::*;
    use crate::attempt::{Signal, read};
    use crate::record::NetnsCookie;

    #[test]
    fn a_marker_tells_all_of_an_attempt_that_is_asked_about() {
        for (protocol, tag) in [
            (Protocol::Tcp, 7),
            (Protocol::Sctp, u32::MAX),
            (Protocol::Udp, 0),
        ] {
            for outcome in [
                Outcome::Accepted,
                Outcome::Refused,
                Outcome::Unreachable,
                Outcome::Silent,
            ] {
                let key = AttemptKey {
                    netns: NetnsCookie(3),
                    protocol,
                    client: "10.0.0.1:40000".parse().unwrap(),
                    server: "[fd00::1]:80".parse().unwrap(),
                    tag,
                };
                let mut attempt = Attempt::begin(key, Instant(1 << 60));
                attempt.repeated(Instant((1 << 60) + 5));
                attempt.unsure = tag == 7;
                let marker = asked_marker(&attempt, outcome);
                let (found, how) = asked(&marker).unwrap();
                assert_eq!((found.key, how), (key, outcome));
                assert_eq!((found.first, found.last), (attempt.first, attempt.last));
                assert_eq!((found.syns, found.unsure), (2, attempt.unsure));
                assert_eq!(found.phase, Phase::Ended(outcome));
                // Its repetitions are ignored after the restart, too.
                if protocol != Protocol::Udp {
                    assert_eq!(read(&marker), Some((Side::Source, key, Signal::Counted(2))));
                }
                for other in [
                    counted_marker(&attempt.key, Side::Source, attempt.last, attempt.syns),
                    attempt.syn(Side::Source),
                ] {
                    assert!(asked(&other).is_none(), "{other:?}");
                }
            }
        }
    }
}
