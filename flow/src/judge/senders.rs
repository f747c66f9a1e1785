//! Who sent what arrived, where its address does not tell: a node's, a tunnel's, a stranger's, or one that changed hands.

use std::net::IpAddr;

use polproof_policy::{IpOwner, Protocol, Uid};

use crate::attempt::{Attempt, AttemptKey, Outcome, Side};
use crate::finding::InconclusiveReason;
use crate::history::Open;
use crate::inquiries::Ask;
use crate::witness::{Gap, Question, Seen, Testimony, Whom};

use super::arrivals::question;
use super::witnesses::Purpose;
use super::{Asked, Judge};

/// Addresses of nobody that are remembered.
const STRANGERS: usize = 4_096;

/// Who sent an attempt, where its address does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A witness is asked.
    Asked,
    /// The node at which the address points is asked. It is not known to be there: not every CNI gives its pods addresses of
    /// `spec.podCIDRs`.
    Guessed,
    /// That node knows nothing of it: everybody else is still to be asked.
    Elsewhere,
    /// This pod, which has this address.
    Pod(Uid, IpAddr),
    /// No witness knows.
    Nobody,
}

impl Judge {
    /// Whether an attempt that cannot be judged by its addresses is to wait for somebody who knows better.
    pub(super) fn waits_for_sender(
        &mut self,
        attempt: &Attempt,
        uid: &Uid,
        sender: Option<&Sender>,
        open: Open,
    ) -> bool {
        let reason = match open.reason {
            InconclusiveReason::WithinGrace if open.changed_hands => {
                InconclusiveReason::SourceAmbiguous
            }
            reason => reason,
        };
        match (reason, sender) {
            // The pod may not be in the view yet.
            (InconclusiveReason::DestinationUnidentified, _) => true,
            (InconclusiveReason::SourceUnidentified, Some(Sender::Pod(..))) => true,
            (
                InconclusiveReason::SourceUnidentified
                | InconclusiveReason::SourceIsNode
                | InconclusiveReason::SourceAmbiguous,
                sender,
            ) => match sender {
                Some(Sender::Asked | Sender::Guessed) => true,
                Some(Sender::Pod(..)) => false,
                Some(Sender::Nobody) => self.may_be_new(attempt),
                None => match self.own_sender(attempt) {
                    Some(sender) if self.senders.len() < self.settings.max_inquiries => {
                        self.senders.insert(attempt.key, sender);
                        self.news = true;
                        true
                    }
                    _ => self.identify(attempt, uid, true) || self.may_be_new(attempt),
                },
                Some(Sender::Elsewhere) => {
                    self.identify(attempt, uid, false) || self.may_be_new(attempt)
                }
            },
            _ => false,
        }
    }

    /// Whether an address that nobody has may be that of a new pod, which will be known soon.
    fn may_be_new(&mut self, attempt: &Attempt) -> bool {
        let ip = attempt.key.client.ip();
        let stranger = self
            .history
            .newest()
            .is_some_and(|newest| matches!(newest.owner(ip), IpOwner::UnknownInPodCidr));
        if !stranger {
            return false;
        }
        let full = self.strangers.len() >= STRANGERS && !self.strangers.contains_key(&ip);
        if full {
            return false;
        }
        let (since, last) = self.strangers.entry(ip).or_insert((self.now, self.now));
        *last = self.now;
        since.plus(self.settings.identify) > self.now
    }

    /// Asks who sent an attempt: of an address that belongs to nobody the node at which it points, if a `guess` is good enough, and
    /// else everybody. Says whether that is worth waiting for.
    fn identify(&mut self, attempt: &Attempt, uid: &Uid, guess: bool) -> bool {
        let key = &attempt.key;
        // Translated, a UDP flow cannot be recognised.
        let Some(newest) = self.history.newest() else {
            return false;
        };
        let owner = newest.owner(key.client.ip());
        if key.protocol == Protocol::Udp && !matches!(owner, IpOwner::Pod(_) | IpOwner::Ambiguous) {
            return false;
        }
        let points = guess && matches!(owner, IpOwner::UnknownInPodCidr);
        let node = match owner {
            IpOwner::Node(node) => Some(node),
            IpOwner::Pod(pod) => pod.node.clone(),
            IpOwner::UnknownInPodCidr if points => {
                newest.node_of_pod_cidr(key.client.ip()).cloned()
            }
            IpOwner::UnknownInPodCidr
            | IpOwner::Nobody
            | IpOwner::Service(_)
            | IpOwner::Ambiguous => None,
        };
        let sender = if points && node.is_some() {
            Sender::Guessed
        } else {
            Sender::Asked
        };
        let ask = match node {
            Some(node) => self.ask_node(node),
            None => Ask::Others(Whom::Everybody),
        };
        // The second question about one attempt is limited as one to everybody is.
        let held = self.senders.contains_key(key);
        if (ask != Ask::Ourselves && !self.inquiries.is_connected())
            || (!held && self.senders.len() >= self.settings.max_inquiries)
            || (!held
                && !self
                    .identifying
                    .admits(Asked::of(Side::Destination, key), self.now))
            || (ask == Ask::Others(Whom::Everybody) && !self.shouting.admits((), self.now))
        {
            return false;
        }
        let question = question(attempt, None, uid);
        self.senders.insert(*key, sender);
        self.inquiries.open(
            Purpose::Identify(*key),
            vec![(ask, question)],
            self.now,
            &mut self.tally,
        );
        true
    }

    /// The pod of this node that sent what came from the node's own address: it was masqueraded, or called itself.
    pub(super) fn own_sender(&self, attempt: &Attempt) -> Option<Sender> {
        if attempt.key.protocol == Protocol::Udp {
            return None;
        }
        let question = Question {
            asker: None,
            ..question(attempt, None, &Uid("".into()))
        };
        let found = self
            .source
            .recent()
            .find(&question, &|ip| self.stands_for_others(ip))?;
        let pod = self.namespaces.pod(found.netns())?;
        Some(Sender::Pod(pod.clone(), found.client().ip()))
    }

    /// A witness has said who sent an attempt, or that it does not know.
    pub(super) fn identified(&mut self, key: AttemptKey, said: &Testimony) {
        let Some(sender) = self.senders.get_mut(&key) else {
            return;
        };
        let guessed = *sender == Sender::Guessed;
        if guessed || *sender == Sender::Asked {
            *sender = match said {
                Testimony::Seen(sighting) => match &sighting.pod {
                    Some((_, uid)) => Sender::Pod(uid.clone(), sighting.client.ip()),
                    None => Sender::Nobody,
                },
                // It does not know the address, or it is not there to say so.
                Testimony::Incomplete(Gap::PodUnknown | Gap::NoAgent | Gap::TimedOut)
                    if guessed =>
                {
                    Sender::Elsewhere
                }
                Testimony::NotSeen(_) | Testimony::Incomplete(_) => Sender::Nobody,
            };
            self.news = true;
        }
    }

    /// Another witness asked about an attempt that came here from an address that is not its pod's: it was translated on the
    /// way, and now it is known who sent it.
    pub(super) fn learn(&mut self, question: &Question, asker: &Uid) {
        if question.protocol == Protocol::Udp {
            return;
        }
        let memory = self.destination.recent();
        let Some(found) = memory.find(question, &|ip| self.stands_for_others(ip)) else {
            return;
        };
        let seen_as = found.client().ip();
        let newest = self.history.newest();
        let own_address = newest
            .and_then(|newest| newest.pod(asker))
            .is_none_or(|pod| pod.ips.contains(&seen_as));
        if own_address || seen_as == question.client.ip() {
            return;
        }
        let key = AttemptKey {
            netns: found.netns(),
            protocol: question.protocol,
            client: found.client(),
            server: found.server(),
            tag: question.tag,
        };
        let ip = question.client.ip();
        if self.destination.has(&key) {
            if self.senders.len() < self.settings.max_inquiries {
                self.senders.insert(key, Sender::Pod(asker.clone(), ip));
                self.news = true;
            }
        } else if self.learned.admits(key, self.now) {
            let attempt = Attempt::begin(key, found.first());
            let outcome = ended(found.outcome());
            self.judge_as(&attempt, outcome, asker.clone(), ip);
        }
    }
}

/// How an attempt ended, as far as is remembered.
const fn ended(seen: Seen) -> Outcome {
    match seen {
        Seen::Accepted => Outcome::Accepted,
        Seen::Refused => Outcome::Refused,
        Seen::Unreachable => Outcome::Unreachable,
        Seen::Unanswered => Outcome::Silent,
    }
}
