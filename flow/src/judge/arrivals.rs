//! What arrived at a pod of this node: who sent it, and whether it should have.
//!
//! A denied attempt that was delivered is shown at once, and the witness at its source is asked whether it knows it: that makes
//! two witnesses, or takes it back. Where the address does not tell who sent it, that is asked first.

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::Uid;

use crate::attempt::{Attempt, AttemptKey, Outcome, Phase, Side};
use crate::expectation::{Call, Tuple};
use crate::finding::{Answer, End, FindingKey, FindingKind, InconclusiveReason, Sample};
use crate::history::{Expected, Open};
use crate::inquiries::Ask;
use crate::namespaces::Witness;
use crate::witness::{Question, Testimony, Whom};

use super::senders::Sender;
use super::witnesses::Purpose;
use super::{Asked, Judge};

enum Decision {
    Done,
    Wait(InconclusiveReason),
}

/// An attempt that is a finding, until the witness at its source has spoken.
#[derive(Debug)]
pub(super) struct Accused {
    key: Arc<FindingKey>,
    attempt: Attempt,
    outcome: Outcome,
}

impl Judge {
    pub(super) fn decide(&mut self, slot: u32) {
        let Some(attempt) = self.destination.slot(slot).copied() else {
            return;
        };
        let (outcome, until) = match attempt.phase {
            Phase::Ended(outcome) => (outcome, None),
            Phase::Waiting(outcome, until) => (outcome, Some(until)),
            Phase::Open => return,
        };
        match self.arrival(&attempt, outcome) {
            Decision::Done => {}
            Decision::Wait(reason) if until.is_some_and(|until| until <= self.now) => {
                self.ledger.inconclusive(reason, 1);
            }
            Decision::Wait(_) => {
                self.waiting = true;
                let until = until.unwrap_or_else(|| self.now.plus(self.settings.identify));
                self.destination.wait(slot, outcome, until);
                return;
            }
        }
        self.senders.remove(&attempt.key);
        self.destination.close(slot);
    }

    /// The verdict on an attempt that arrived at a pod.
    fn arrival(&mut self, attempt: &Attempt, outcome: Outcome) -> Decision {
        let key = &attempt.key;
        let memory = self.source.recent();
        // The two ends open one connection together: this is the answer.
        if memory.crossed(
            key.netns,
            key.protocol,
            key.server,
            key.client,
            attempt.first,
        ) {
            self.tally.exempt += 1;
            return Decision::Done;
        }
        let own_node = self.here.has(key.client.ip());
        let sender = match self.senders.get(key) {
            Some(sender) => Some(sender.clone()),
            None if own_node => self.own_sender(attempt),
            None => None,
        };
        if own_node && !matches!(sender, Some(Sender::Pod(..))) {
            self.tally.exempt += 1;
            return Decision::Done;
        }
        let reason = match self.namespaces.witness(key.netns, attempt.first) {
            Witness::Unknown => return Decision::Wait(InconclusiveReason::DestinationUnidentified),
            Witness::Contradicted => InconclusiveReason::DestinationUnidentified,
            Witness::Shared => InconclusiveReason::HookShared,
            Witness::Of(_) if !self.has_view(attempt.first) => {
                return Decision::Wait(InconclusiveReason::SnapshotNotReady);
            }
            Witness::Of(uid) => {
                let uid = uid.clone();
                let who = match &sender {
                    Some(Sender::Pod(pod, ip)) => Some((pod.clone(), *ip)),
                    Some(Sender::Asked | Sender::Guessed | Sender::Elsewhere | Sender::Nobody)
                    | None => None,
                };
                let witnessed = who.is_some();
                let tuple = arrived(key, who);
                match self
                    .history
                    .expect(&tuple, &uid, attempt.first, &self.here, &self.settings)
                {
                    // Whoever refused it may be a filter: that is asked soon after the namespace is attached to.
                    Ok(expected)
                        if matches!(expected.call, Call::Deny(_))
                            && outcome == Outcome::Refused
                            && !self.namespaces.is_inside_known(key.netns) =>
                    {
                        return Decision::Wait(InconclusiveReason::InPodFilter);
                    }
                    Ok(expected) => match self.verdict(attempt, outcome, &expected, witnessed) {
                        None => return Decision::Done,
                        Some(reason) => reason,
                    },
                    Err(open) if self.waits_for_sender(attempt, &uid, sender.as_ref(), open) => {
                        return Decision::Wait(open.reason);
                    }
                    Err(open) => {
                        self.note_exposure(attempt, outcome, open);
                        open.reason
                    }
                }
            }
        };
        self.ledger.inconclusive(reason, 1);
        Decision::Done
    }

    /// Measures for how long what is denied since lately still gets through.
    fn note_exposure(&mut self, attempt: &Attempt, outcome: Outcome, open: Open) {
        if let Some(since) = open.denied_since
            && self.may_be_older(attempt, since).is_none()
            && self.delivery(attempt, outcome).is_ok()
        {
            self.exposures.note(since, attempt.first);
            self.ledger.judged().denied_in_grace += 1;
        }
    }

    /// What shows that an attempt was delivered.
    ///
    /// # Errors
    ///
    /// Something of the pod's own may have decided, or an answer may have been lost.
    fn delivery(&self, attempt: &Attempt, outcome: Outcome) -> Result<Answer, InconclusiveReason> {
        let netns = attempt.key.netns;
        match outcome {
            Outcome::Accepted => Ok(Answer::Accepted),
            // A filter can refuse like a stack.
            Outcome::Refused if self.namespaces.is_plain(netns, attempt.first) => {
                Ok(Answer::Refused)
            }
            Outcome::Refused => Err(InconclusiveReason::InPodFilter),
            Outcome::Unreachable => Err(InconclusiveReason::InPodFilter),
            Outcome::Silent if self.namespaces.is_plain(netns, attempt.first) => {
                Ok(Answer::Delivered)
            }
            Outcome::Silent if self.lost_around(attempt) => Err(InconclusiveReason::RecordsLost),
            // The answer may have left before both programs were attached.
            Outcome::Silent if self.is_deaf(attempt) => Err(InconclusiveReason::AttachedLate),
            Outcome::Silent => Err(InconclusiveReason::InPodFilter),
        }
    }

    fn verdict(
        &mut self,
        attempt: &Attempt,
        outcome: Outcome,
        expected: &Expected,
        witnessed: bool,
    ) -> Option<InconclusiveReason> {
        let denial = match &expected.call {
            Call::Exempt => {
                self.tally.exempt += 1;
                return None;
            }
            // It reached eth0: the network let it through, whatever the pod did with it.
            Call::Allow(_) => {
                self.ledger.judged().allowed_delivered += 1;
                return None;
            }
            Call::Undecided(reason) => return Some(*reason),
            Call::Deny(denial) => denial,
        };
        if let Some(reason) = self.may_be_older(attempt, expected.since) {
            return Some(reason);
        }
        let answer = match self.delivery(attempt, outcome) {
            Ok(answer) => answer,
            Err(reason) => return Some(reason),
        };
        let key = of_kind(&denial.key, expected.kind);
        let sample = Sample {
            syn: attempt.syn(Side::Destination),
            answer,
        };
        self.ledger
            .observe(&key, sample, attempt.first, witnessed, self.now);
        self.standing.stand(&key, attempt.first);
        if !witnessed
            && self
                .confirming
                .admits(Asked::of(Side::Destination, &attempt.key), self.now)
        {
            self.confirm(&key, attempt, outcome);
        }
        None
    }

    /// Asks the witness at the source whether it knows an attempt that is a finding.
    pub(super) fn confirm(&mut self, key: &Arc<FindingKey>, attempt: &Attempt, outcome: Outcome) {
        let (End::Pod(_, source), End::Pod(_, destination)) = (&key.source, &key.destination)
        else {
            return;
        };
        let newest = self.history.newest();
        let Some(node) = newest.and_then(|newest| newest.pod(source)?.node.clone()) else {
            return;
        };
        let ask = self.ask_node(node);
        if ask != Ask::Ourselves && !self.inquiries.is_connected() {
            return;
        }
        let question = question(attempt, Some(source), destination);
        let accused = Accused {
            key: Arc::clone(key),
            attempt: *attempt,
            outcome,
        };
        self.inquiries.open(
            Purpose::Confirm(Box::new(accused)),
            vec![(ask, question)],
            self.now,
            &mut self.tally,
        );
    }

    /// The witness at the source of a finding has spoken.
    pub(super) fn confirmed(&mut self, accused: &Accused, said: &Testimony) {
        let Accused {
            key,
            attempt,
            outcome,
        } = accused;
        let nobody = InconclusiveReason::SourceUnidentified;
        match said {
            Testimony::Seen(sighting) => match (&sighting.pod, &key.source) {
                (Some((_, uid)), End::Pod(_, source)) if uid == source => {
                    self.ledger.witnessed(key, attempt.first);
                }
                (Some((_, uid)), _) => {
                    self.ledger.refuted(key, attempt.first, nobody);
                    self.judge_as(attempt, *outcome, uid.clone(), sighting.client.ip());
                }
                (None, _) => {}
            },
            // The pod that has the address did not send it.
            Testimony::NotSeen(_) => self.ledger.refuted(key, attempt.first, nobody),
            Testimony::Incomplete(_) => {}
        }
    }

    /// The verdict on an attempt that was sent by this pod, whatever its address says.
    pub(super) fn judge_as(&mut self, attempt: &Attempt, outcome: Outcome, who: Uid, ip: IpAddr) {
        let Witness::Of(uid) = self.namespaces.witness(attempt.key.netns, attempt.first) else {
            return;
        };
        let uid = uid.clone();
        let tuple = arrived(&attempt.key, Some((who, ip)));
        let expected = self
            .history
            .expect(&tuple, &uid, attempt.first, &self.here, &self.settings);
        let reason = match expected {
            Ok(expected) => self.verdict(attempt, outcome, &expected, true),
            Err(open) => Some(open.reason),
        };
        if let Some(reason) = reason {
            self.ledger.inconclusive(reason, 1);
        }
    }

    /// Whom to ask about a pod of that node.
    pub(super) fn ask_node(&self, node: Arc<str>) -> Ask {
        if node == self.here.node {
            Ask::Ourselves
        } else {
            Ask::Others(Whom::Node(node))
        }
    }
}

/// An attempt as it arrived, sent by whoever has its address, or by this pod.
fn arrived(key: &AttemptKey, who: Option<(Uid, IpAddr)>) -> Tuple {
    let seen = key.client.ip();
    let peer = who.as_ref().map_or(seen, |(_, ip)| *ip);
    Tuple {
        side: Side::Destination,
        netns: key.netns,
        protocol: key.protocol,
        own: key.server.ip(),
        peer,
        port: key.server.port(),
        who: who.map(|(uid, _)| uid),
        seen_as: (seen != peer).then_some(seen),
    }
}

/// The question to the source of an attempt that arrived.
pub(super) fn question(attempt: &Attempt, pod: Option<&Uid>, asker: &Uid) -> Question {
    let key = &attempt.key;
    Question {
        side: Side::Source,
        protocol: key.protocol,
        tag: key.tag,
        client: key.client,
        server: key.server,
        pod: pod.cloned(),
        asker: Some(asker.clone()),
        first: attempt.first,
        last: attempt.last.max(attempt.first),
    }
}

/// The same finding of another kind.
fn of_kind(key: &Arc<FindingKey>, kind: FindingKind) -> Arc<FindingKey> {
    if key.kind == kind {
        return Arc::clone(key);
    }
    Arc::new(FindingKey {
        kind,
        ..FindingKey::clone(key)
    })
}
