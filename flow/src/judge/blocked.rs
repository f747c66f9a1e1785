//! What it takes to hold it against the network that something allowed did not get through, or its answer not back: that nothing was
//! missed, that the way was open while it failed, and that whoever forwards Services forwards this one.

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::Uid;

use crate::attempt::Side;
use crate::control::{Doubt, Enough, Failed, shows_the_way};
use crate::expectation::{Call, Tuple};
use crate::finding::{Answer, FindingKind, InconclusiveReason, Sample};
use crate::join::Joined;
use crate::keys;
use crate::record::Instant;
use crate::services::{self, Behind};
use crate::witness::Testimony;

use super::Judge;
use super::departures::Departed;

/// Packets that a rejection is worth: it says by itself that none was lost.
const REJECTED: u32 = 2;
/// How near in time a Service must have worked.
pub(super) const WORKED: u64 = 60 * Instant::SECOND;

impl Judge {
    /// Holds it against the network that something allowed did not get through.
    pub(super) fn doubt(
        &mut self,
        departed: &Departed,
        joined: Joined,
        said: &Testimony,
    ) -> Result<(), InconclusiveReason> {
        let Departed {
            attempt,
            uid,
            tuple,
            ends,
            ..
        } = departed;
        let end = match (ends.as_slice(), said) {
            ([end], _) => Some(end),
            // Of several ends behind a Service one saw it.
            (ends, Testimony::Seen(sighting)) => ends.iter().find(|end| {
                let there = sighting
                    .pod
                    .as_ref()
                    .is_some_and(|(_, uid)| *uid == end.pod.uid);
                there && sighting.server.ip() == end.ip && sighting.server.port() == end.port
            }),
            _ => None,
        };
        let end = end.ok_or(InconclusiveReason::MixedEndpoints)?;
        // The answer may have come, and its record was lost.
        if departed.again || self.lost_around(attempt) {
            return Err(InconclusiveReason::RecordsLost);
        }
        if self.is_deaf(attempt) {
            return Err(InconclusiveReason::AttachedLate);
        }
        if attempt.unsure {
            return Err(InconclusiveReason::FlowBegunBefore);
        }
        let (kind, answer) = match joined {
            Joined::ReplyLost => (FindingKind::ReplyLost, Answer::ReplyLost),
            Joined::Rejected => (FindingKind::OverBlocked, Answer::Rejected),
            _ => (FindingKind::OverBlocked, Answer::Dropped),
        };
        let control = match said {
            Testimony::NotSeen(absence) if shows_the_way(absence, attempt.first) => {
                absence.control.map(|control| control.at)
            }
            Testimony::Seen(_) => Some(attempt.first),
            Testimony::NotSeen(_) | Testimony::Incomplete(_) => None,
        };
        let control = control.ok_or(InconclusiveReason::NoControl)?;
        if departed.service && kind == FindingKind::OverBlocked {
            // A node masquerades what it forwards: whether policies are asked before that or after it, the API leaves open.
            if self.is_node(tuple.peer) {
                return Err(InconclusiveReason::TranslatedAddress);
            }
            // Where it would have gone was seen by nobody.
            if !self.is_forwarded(departed) {
                return Err(InconclusiveReason::MixedEndpoints);
            }
        }
        let newest = self.history.newest();
        let newest = newest.ok_or(InconclusiveReason::SnapshotNotReady)?;
        let held = newest.pod(&end.pod.uid).filter(|pod| !pod.finished);
        if held.is_none() || newest.is_ready(&end.pod.uid) == Some(false) {
            return Err(InconclusiveReason::DestinationNotReady);
        }
        // Named are those who allowed it then; whoever came since then may deny it by now.
        let then = self.history.in_force(attempt.first);
        let then = then.ok_or(InconclusiveReason::SnapshotNotReady)?;
        let (Some(own), Some(pod)) = (then.pod(uid), then.pod(&end.pod.uid)) else {
            return Err(InconclusiveReason::ExpectationChanged);
        };
        let end = Behind {
            pod: Arc::clone(pod),
            ..*end
        };
        let query = services::query(tuple, own, &end);
        let key = keys::allowed(then, kind, &query)?;
        keys::allowed(newest, kind, &query)?;
        let expected = self
            .history
            .expect(tuple, uid, attempt.first, &self.here, &self.settings);
        match expected {
            Ok(expected) if expected.steady && matches!(expected.call, Call::Allow(_)) => {}
            Ok(_) => return Err(InconclusiveReason::ExpectationChanged),
            Err(open) => return Err(open.reason),
        }
        let doubt = doubt(kind, uid, tuple, &end);
        let sample = Sample {
            syn: attempt.syn(Side::Source),
            answer,
        };
        let failed = Failed {
            sample,
            last: attempt.last,
            packets: match answer {
                Answer::Rejected => REJECTED,
                _ => u32::from(attempt.syns),
            },
            control,
        };
        let failed = match self.doubts.add(doubt, failed) {
            Enough::Count(failed) => failed,
            Enough::TooFew => return Err(InconclusiveReason::TooFewAttempts),
            Enough::Uncontrolled => return Err(InconclusiveReason::NoControl),
        };
        let key = Arc::new(key);
        for sample in failed {
            let at = sample.syn.at;
            self.ledger.observe(&key, sample, at, true, self.now);
            self.standing.stand(&key, at);
        }
        Ok(())
    }

    /// Whether a Service was seen to work at about that time, with the same ends: whoever forwards its address may not forward it (yet),
    /// or still to those who were its ends before. A node masquerades what it forwards to one of its own ports.
    pub(super) fn is_forwarded(&self, departed: &Departed) -> bool {
        let Departed {
            attempt,
            tuple,
            ends,
            ..
        } = departed;
        let Some(&worked) = self.ways.get(&(tuple.peer, tuple.port, tuple.protocol)) else {
            return false;
        };
        let then = self.history.in_force(worked);
        let same = then
            .and_then(|then| self.ends_in(then, tuple))
            .is_some_and(|(then, _)| {
                let is_held = |end: &Behind, all: &[Behind]| {
                    all.iter().any(|held| {
                        held.pod.uid == end.pod.uid && held.ip == end.ip && held.port == end.port
                    })
                };
                then.len() == ends.len() && ends.iter().all(|end| is_held(end, &then))
            });
        same && worked.0.abs_diff(attempt.first.0) <= WORKED && !self.is_node(tuple.peer)
    }

    fn is_node(&self, ip: IpAddr) -> bool {
        self.here.has(ip)
            || self
                .history
                .newest()
                .is_some_and(|newest| services::is_node(newest, ip))
    }
}

/// What failed attempts from this pod to that end are counted as.
pub(super) fn doubt(kind: FindingKind, source: &Uid, tuple: &Tuple, end: &Behind) -> Doubt {
    Doubt {
        kind,
        source: source.clone(),
        destination: end.pod.uid.clone(),
        destination_ip: end.ip,
        protocol: tuple.protocol,
        port: end.port,
    }
}
