//! What the two ends of an attempt say, put together.

use polproof_policy::Protocol;

use crate::attempt::Outcome;
use crate::finding::InconclusiveReason;
use crate::witness::{Gap, Seen, Testimony};

/// What became of an attempt, as both ends saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It crossed the destination's eth0.
    Delivered,
    /// It did not, and something refused it.
    Rejected,
    /// It did not, and nothing came back.
    Dropped,
    /// It did and was accepted, but the acceptance did not come back.
    ReplyLost,
    /// Nobody can tell.
    Inconclusive(InconclusiveReason),
}

/// Joins what the source saw become of an attempt with what its destination says.
pub(crate) fn join(protocol: Protocol, source: Outcome, destination: &Testimony) -> Joined {
    match (source, destination) {
        (Outcome::Silent, Testimony::Seen(sighting)) if sighting.outcome == Seen::Accepted => {
            Joined::ReplyLost
        }
        (_, Testimony::Seen(_)) => Joined::Delivered,
        (Outcome::Refused | Outcome::Unreachable, Testimony::NotSeen(_)) => Joined::Rejected,
        (Outcome::Silent, Testimony::NotSeen(_)) => Joined::Dropped,
        // A proxy, or another end than the address says.
        (Outcome::Accepted, Testimony::NotSeen(_)) => {
            Joined::Inconclusive(InconclusiveReason::AnsweredElsewhere)
        }
        (_, Testimony::Incomplete(gap)) => Joined::Inconclusive(match (protocol, source) {
            // An application that has nothing to say looks the same.
            (Protocol::Udp, Outcome::Silent) => InconclusiveReason::UdpSilence,
            // The pod's own refusal and one on the way look the same.
            (_, Outcome::Refused) => InconclusiveReason::NoWitness,
            _ => without_witness(*gap),
        }),
    }
}

/// Why nothing follows from an attempt on which the other witness cannot say anything.
pub(crate) const fn without_witness(gap: Gap) -> InconclusiveReason {
    match gap {
        Gap::NoAgent | Gap::TimedOut | Gap::Overloaded | Gap::PodUnknown => {
            InconclusiveReason::NoWitness
        }
        Gap::HookShared
        | Gap::NotAttached
        | Gap::RecordsLost
        | Gap::Unparsed
        | Gap::TooOld
        | Gap::NotSampled => InconclusiveReason::WitnessIncomplete,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::record::Instant;
    use crate::witness::{Absence, Sighting};

    fn seen(outcome: Seen) -> Testimony {
        Testimony::Seen(Sighting {
            pod: None,
            client: "10.0.0.1:1".parse().unwrap(),
            server: "10.0.0.2:80".parse().unwrap(),
            first: Instant(0),
            outcome,
        })
    }

    #[test]
    fn every_pair_of_ends() {
        use InconclusiveReason as Reason;
        use Outcome::{Accepted, Refused, Silent, Unreachable};
        let not_seen = Testimony::NotSeen(Absence { control: None });
        let table = |source| {
            [
                join(Protocol::Tcp, source, &seen(Seen::Accepted)),
                join(Protocol::Tcp, source, &seen(Seen::Refused)),
                join(Protocol::Tcp, source, &seen(Seen::Unanswered)),
                join(Protocol::Tcp, source, &not_seen),
                join(Protocol::Tcp, source, &Testimony::Incomplete(Gap::NoAgent)),
                join(
                    Protocol::Tcp,
                    source,
                    &Testimony::Incomplete(Gap::RecordsLost),
                ),
            ]
        };
        use Joined::{Delivered, Dropped, Inconclusive, Rejected, ReplyLost};
        assert_eq!(
            table(Accepted),
            [
                Delivered,
                Delivered,
                Delivered,
                Inconclusive(Reason::AnsweredElsewhere),
                Inconclusive(Reason::NoWitness),
                Inconclusive(Reason::WitnessIncomplete),
            ]
        );
        assert_eq!(
            table(Refused),
            [
                Delivered,
                Delivered,
                Delivered,
                Rejected,
                Inconclusive(Reason::NoWitness),
                Inconclusive(Reason::NoWitness),
            ]
        );
        assert_eq!(
            table(Unreachable),
            [
                Delivered,
                Delivered,
                Delivered,
                Rejected,
                Inconclusive(Reason::NoWitness),
                Inconclusive(Reason::WitnessIncomplete),
            ]
        );
        assert_eq!(
            table(Silent),
            [
                ReplyLost,
                Delivered,
                Delivered,
                Dropped,
                Inconclusive(Reason::NoWitness),
                Inconclusive(Reason::WitnessIncomplete),
            ]
        );
        for gap in Gap::ALL {
            assert_eq!(
                join(Protocol::Udp, Silent, &Testimony::Incomplete(gap)),
                Inconclusive(Reason::UdpSilence)
            );
        }
    }
}
