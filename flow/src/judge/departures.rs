//! What left a pod of this node: whether it got where it should, or did not where it should not.
//!
//! That alone proves nothing: a full backlog looks like a drop, and a refusal by the network like one by the application. So the
//! witness at the destination is asked. What arrived though it is denied is that one's to tell of.

use std::collections::HashMap;
use std::net::IpAddr;

use polproof_policy::{IpOwner, Protocol, Snapshot, Uid};

use crate::attempt::{Attempt, AttemptKey, Outcome, Phase, Side};
use crate::control::shows_the_way;
use crate::expectation::{Call, Tuple};
use crate::finding::{FindingKind, InconclusiveReason};
use crate::join::{Joined, join};
use crate::namespaces::Witness;
use crate::record::Instant;
use crate::recovery::Pair;
use crate::services::{self, Behind};
use crate::witness::{Question, Testimony};

use super::blocked::{WORKED, doubt};
use super::witnesses::Purpose;
use super::{Asked, Judge};

/// Ends behind a Service that are asked about one attempt.
const ENDS: usize = 8;
/// Ways to Services that are remembered.
const WAYS: usize = 4_096;

/// The address, port and transport of a Service.
pub(super) type Way = (IpAddr, u16, Protocol);

/// What the policies say of an attempt that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    Allowed,
    Denied,
    /// It depends on which end of a Service it reaches.
    Mixed,
}

/// An attempt that left, until the witness at its destination has spoken.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) attempt: Attempt,
    pub(super) outcome: Outcome,
    pub(super) meant: Meant,
    pub(super) uid: Uid,
    pub(super) tuple: Tuple,
    pub(super) ends: Vec<Behind>,
    /// It was sent to an address that is none of the ends'.
    pub(super) service: bool,
    /// It left before a restart: what was lost at that time nobody knows any more.
    pub(super) again: bool,
}

impl Departed {
    pub(super) fn new(
        attempt: &Attempt,
        outcome: Outcome,
        meant: Meant,
        uid: Uid,
        tuple: Tuple,
    ) -> Self {
        Self {
            attempt: *attempt,
            outcome,
            meant,
            uid,
            tuple,
            ends: Vec::new(),
            service: false,
            again: false,
        }
    }
}

/// An attempt as it left.
pub(super) fn left(key: &AttemptKey) -> Tuple {
    Tuple {
        side: Side::Source,
        netns: key.netns,
        protocol: key.protocol,
        own: key.client.ip(),
        peer: key.server.ip(),
        port: key.server.port(),
        who: None,
        seen_as: None,
    }
}

impl Judge {
    /// Judges an attempt that left a pod and has ended.
    pub(super) fn depart(&mut self, attempt: &Attempt) {
        let outcome = match attempt.phase {
            Phase::Ended(outcome) | Phase::Waiting(outcome, _) => outcome,
            Phase::Open => return,
        };
        // Two ends that open a connection together make one attempt each, and answer the other's.
        if !self.has_view(attempt.first) || self.destination.recent().crosses(attempt) {
            return;
        }
        let key = &attempt.key;
        let Witness::Of(uid) = self.namespaces.witness(key.netns, attempt.first) else {
            return;
        };
        let uid = uid.clone();
        let tuple = left(key);
        let expected = self
            .history
            .expect(&tuple, &uid, attempt.first, &self.here, &self.settings);
        let lost = self.lost_around(attempt);
        let dead = outcome != Outcome::Accepted;
        let meant = match expected {
            Ok(expected) => match (expected.call, outcome) {
                (Call::Exempt, _) => return,
                (Call::Allow(_), Outcome::Accepted) => {
                    self.ledger.judged().allowed_answered += 1;
                    self.works(attempt, &uid, &tuple);
                    return;
                }
                (Call::Allow(_), Outcome::Refused) if !expected.steady => return,
                (Call::Allow(_), _) if !expected.steady => {
                    self.leave_open(&tuple, InconclusiveReason::WithinGrace);
                    return;
                }
                (Call::Allow(_), _) => Meant::Allowed,
                (Call::Deny(_), Outcome::Accepted) => {
                    self.ledger.judged().denied_answered += 1;
                    Meant::Denied
                }
                (Call::Deny(_), _) => {
                    // The answer itself may have been lost.
                    if outcome != Outcome::Silent || !lost {
                        self.ledger.judged().denied_unanswered += 1;
                    }
                    Meant::Denied
                }
                (Call::Undecided(reason), _) => {
                    if dead {
                        self.leave_open(&tuple, reason);
                    }
                    return;
                }
            },
            Err(open) if open.reason == InconclusiveReason::MixedEndpoints => Meant::Mixed,
            // A port of a node may be forwarded to a pod: its witness has to learn who called.
            Err(open) if open.reason == InconclusiveReason::SourceIsNode => {
                self.call_node(attempt, uid, &tuple);
                return;
            }
            Err(open) => {
                // What was answered arrived somewhere, and is judged there.
                if dead {
                    self.leave_open(&tuple, open.reason);
                }
                return;
            }
        };
        self.inquire(Departed::new(attempt, outcome, meant, uid, tuple));
    }

    /// Counts an attempt without a verdict, if a witness could have been asked: of what leaves the cluster nothing is claimed.
    fn leave_open(&mut self, tuple: &Tuple, reason: InconclusiveReason) {
        let has_ends = self.ends(tuple).is_some_and(|(ends, _)| !ends.is_empty());
        if has_ends && !is_about_a_source(reason) {
            self.ledger.inconclusive(reason, 1);
        }
    }

    /// The pods that may be reached, and whether they stand behind another address; `None` if it is not pods.
    fn ends(&self, tuple: &Tuple) -> Option<(Vec<Behind>, bool)> {
        self.ends_in(self.history.newest()?, tuple)
    }

    pub(super) fn ends_in(&self, view: &Snapshot, tuple: &Tuple) -> Option<(Vec<Behind>, bool)> {
        if let Some((service, entry)) = services::at(view, &self.here, tuple) {
            let behind = services::behind(view, tuple.own, service, entry);
            return Some((behind.unwrap_or_default(), true));
        }
        match view.owner(tuple.peer) {
            IpOwner::Pod(pod) => {
                let (ip, port) = (tuple.peer, tuple.port);
                Some((vec![Behind { pod, ip, port }], false))
            }
            _ => None,
        }
    }

    /// The pods that may have seen it. Others have no witness, and whether a pod reaches itself through a Service is no question
    /// of policies.
    pub(super) fn witnesses_of(&self, departed: &Departed) -> Option<(Vec<Behind>, bool)> {
        let (ends, service) = self.ends(&departed.tuple)?;
        let itself = ends.iter().any(|end| end.pod.uid == departed.uid);
        (!ends.is_empty() && !itself).then_some((ends, service))
    }

    /// Asks the witness at the destination, as often as it is worth.
    fn inquire(&mut self, departed: Departed) {
        let Some((ends, service)) = self.witnesses_of(&departed) else {
            return;
        };
        let limit = match departed.meant {
            Meant::Allowed => &mut self.doubting,
            Meant::Denied | Meant::Mixed => &mut self.proving,
        };
        let asked = Asked::of(Side::Source, &departed.attempt.key);
        if limit.admits(asked, self.now) {
            self.inquire_of(departed, ends, service);
        }
    }

    /// Asks these ends' witnesses.
    pub(super) fn inquire_of(&mut self, mut departed: Departed, ends: Vec<Behind>, service: bool) {
        let mut asks = Vec::new();
        if ends.len() <= ENDS {
            for end in &ends {
                let Some(node) = &end.pod.node else {
                    asks.clear();
                    break;
                };
                let (attempt, own) = (&departed.attempt, departed.uid.clone());
                let question = question(attempt, own, Some(end.pod.uid.clone()));
                asks.push((self.ask_node(node.clone()), question));
            }
        }
        departed.ends = ends;
        departed.service = service;
        let purpose = Purpose::Departure(Box::new(departed));
        self.inquiries
            .open(purpose, asks, self.now, &mut self.tally);
    }

    /// Tells the node that was called who called.
    fn call_node(&mut self, attempt: &Attempt, uid: Uid, tuple: &Tuple) {
        let newest = self.history.newest();
        let Some(IpOwner::Node(node)) = newest.map(|newest| newest.owner(tuple.peer)) else {
            return;
        };
        let asked = Asked::of(Side::Source, &attempt.key);
        if tuple.protocol == Protocol::Udp
            || !self.inquiries.is_connected()
            || !self.proving.admits(asked, self.now)
        {
            return;
        }
        let question = question(attempt, uid, None);
        let asks = vec![(self.ask_node(node), question)];
        self.inquiries
            .open(Purpose::Tell, asks, self.now, &mut self.tally);
    }

    /// The witness at the destination of an attempt has spoken.
    pub(super) fn departed(&mut self, departed: &Departed, said: &Testimony) {
        let Departed {
            attempt,
            outcome,
            meant,
            ..
        } = departed;
        let joined = join(attempt.key.protocol, *outcome, said);
        let reason = match (meant, joined) {
            // The witness there tells of it.
            (Meant::Denied | Meant::Mixed, Joined::Delivered | Joined::ReplyLost) => return,
            (Meant::Denied, Joined::Dropped | Joined::Rejected) => {
                if matches!(said, Testimony::NotSeen(absence) if shows_the_way(absence, attempt.first))
                    && (!departed.service || self.is_forwarded(departed))
                {
                    self.ledger.judged().denied_stopped += 1;
                }
                return;
            }
            (Meant::Mixed, Joined::Dropped | Joined::Rejected) => {
                InconclusiveReason::MixedEndpoints
            }
            (Meant::Mixed, Joined::Inconclusive(_)) if matches!(said, Testimony::Incomplete(_)) => {
                InconclusiveReason::MixedEndpoints
            }
            (Meant::Allowed, Joined::Delivered) => {
                if *outcome != Outcome::Silent {
                    self.works(attempt, &departed.uid, &departed.tuple);
                }
                return;
            }
            (_, Joined::Inconclusive(reason)) => reason,
            (Meant::Allowed, Joined::Dropped | Joined::Rejected | Joined::ReplyLost) => {
                match self.doubt(departed, joined, said) {
                    Ok(()) => return,
                    Err(reason) => reason,
                }
            }
        };
        self.ledger.inconclusive(reason, 1);
    }

    /// An allowed connection got through and was answered.
    fn works(&mut self, attempt: &Attempt, uid: &Uid, tuple: &Tuple) {
        let Some((ends, service)) = self.ends(tuple) else {
            return;
        };
        if service {
            remember(
                &mut self.ways,
                (tuple.peer, tuple.port, tuple.protocol),
                attempt.first,
            );
        }
        let [end] = ends.as_slice() else {
            return;
        };
        if self.doubts.is_empty() && self.standing.len() == 0 {
            return;
        }
        for kind in [FindingKind::OverBlocked, FindingKind::ReplyLost] {
            self.doubts.dispel(&doubt(kind, uid, tuple, end));
        }
        let pair = Pair {
            source: uid.clone(),
            destination: end.pod.uid.clone(),
            protocol: tuple.protocol,
            port: end.port,
        };
        let over = self.standing.tried(&pair, attempt.first, true);
        self.end(over, attempt.first);
    }
}

fn remember(ways: &mut HashMap<Way, Instant>, way: Way, at: Instant) {
    if ways.len() >= WAYS && !ways.contains_key(&way) {
        ways.retain(|_, worked| worked.plus(WORKED) > at);
        if ways.len() >= WAYS {
            return;
        }
    }
    let worked = ways.entry(way).or_insert(at);
    *worked = at.max(*worked);
}

/// Whether a reason tells of who sent something, which is no question of what left a pod.
const fn is_about_a_source(reason: InconclusiveReason) -> bool {
    matches!(
        reason,
        InconclusiveReason::SourceIsNode
            | InconclusiveReason::SourceUnidentified
            | InconclusiveReason::SourceAmbiguous
            | InconclusiveReason::DestinationUnidentified
    )
}

/// The question to a pod that an attempt may have reached, or to every pod of a node.
fn question(attempt: &Attempt, own: Uid, pod: Option<Uid>) -> Question {
    let Attempt {
        key, first, last, ..
    } = *attempt;
    Question {
        side: Side::Destination,
        protocol: key.protocol,
        tag: key.tag,
        client: key.client,
        server: key.server,
        pod,
        asker: Some(own),
        first,
        last,
    }
}
