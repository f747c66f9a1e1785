//! What is left of before a restart.
//!
//! Under way were attempts that left a pod, and were judged but for the word of the witness at the other end. Whoever was to hear that
//! word is gone, so it is asked for again, while the other one may still remember.
//!
//! All that is counted of such an attempt alone was counted before. What comes of the other witness's word is counted when it is
//! heard, and with the same commit the attempt is under way no more: so once, whenever the agent is killed.
//!
//! It refuses to accuse: what this node lost before the restart is not known any more, so nothing is held against the network for want
//! of an answer that may have been among it.

use std::sync::Arc;

use polproof_policy::Protocol;

use crate::attempt::{Attempt, Outcome, Signal, read};
use crate::expectation::Call;
use crate::finding::{FindingDelta, InconclusiveReason};
use crate::namespaces::Witness;
use crate::record::{Instant, Record};
use crate::restored::{Restored, asked, asked_marker};
use crate::survivor::Connection;

use super::Judge;
use super::departures::{Departed, Meant, left};
use super::witnesses::Purpose;

impl Judge {
    /// Takes over what is left of before a restart. Call it first, then feed the records after the position of
    /// the last written report.
    pub fn restore(&mut self, restored: Restored, now: Instant) {
        for (at, snapshot) in restored.views {
            self.history.restore(at, snapshot);
        }
        for binding in restored.bindings {
            self.flows.attached(binding.netns, binding.since);
            self.namespaces.restore(binding, now);
        }
        for record in restored.open {
            if let Some((attempt, outcome)) = asked(&record) {
                self.unheard(attempt, outcome);
                // The table of flows has a marker of its own.
                if record.protocol != Protocol::Udp {
                    self.source.counted(attempt.key, attempt.last, attempt.syns);
                }
                continue;
            }
            if let Some(connection) = Connection::marked(&record) {
                self.survivors.said(connection, record.at);
                continue;
            }
            match read(&record) {
                Some((side, key, Signal::Counted(syns))) => {
                    self.side(side).counted(key, record.at, syns);
                }
                _ => self.on_record(record),
            }
        }
        self.flows.restored(now);
        self.destination.forget_before(now);
        self.source.forget_before(now);
        for delta in &restored.unsettled {
            self.standing.stand(&delta.key, delta.last);
            let samples = delta
                .samples
                .first()
                .map(|sample| (Arc::clone(&delta.key), *sample));
            if self.unconfirmed.len() < self.settings.max_inquiries {
                self.unconfirmed.extend(samples);
            }
        }
        self.ledger
            .restore(restored.unsettled, restored.settled_until);
        self.restored_at = Some(now);
        self.news = true;
    }

    /// Takes back observed attempts that can never be judged for good: the node was rebooted, and nothing that
    /// is known now tells of their time.
    pub fn retract(&mut self, unsettled: Vec<FindingDelta>) {
        self.ledger.retract(unsettled);
    }

    /// Takes over an attempt of before a restart.
    pub(super) fn unheard(&mut self, attempt: Attempt, outcome: Outcome) {
        if self.unheard.len() < self.settings.max_inquiries {
            self.unheard.push((attempt, outcome));
        } else {
            self.ledger.inconclusive(InconclusiveReason::NoWitness, 1);
        }
    }

    /// Records that lead a new judge to the questions that are under way.
    pub(super) fn under_way(&self, out: &mut Vec<Record>) {
        let asked = self
            .inquiries
            .purposes()
            .filter_map(|purpose| match purpose {
                Purpose::Departure(departed) => Some((&departed.attempt, departed.outcome)),
                Purpose::Identify(_) | Purpose::Confirm(_) | Purpose::Tell => None,
            });
        let unheard = self.unheard.iter().map(|(attempt, how)| (attempt, *how));
        out.extend(
            asked
                .chain(unheard)
                .take(self.settings.max_open_records)
                .map(|(attempt, outcome)| asked_marker(attempt, outcome)),
        );
    }

    /// Asks again, as soon as others can be asked.
    pub(super) fn inquire_again(&mut self) {
        if self.unheard.is_empty()
            || !self.inquiries.is_connected()
            || self.history.newest().is_none()
        {
            return;
        }
        for (attempt, outcome) in std::mem::take(&mut self.unheard) {
            if !self.has_view(attempt.first) {
                self.unheard.push((attempt, outcome));
            } else if let Err(reason) = self.depart_again(&attempt, outcome) {
                self.ledger.inconclusive(reason, 1);
            }
        }
    }

    /// Gives up what nobody remembers any more.
    pub(super) fn forget_unheard(&mut self, now: Instant) {
        let remember = self.settings.remember;
        let before = self.unheard.len();
        self.unheard
            .retain(|(attempt, _)| attempt.last.plus(remember) > now);
        let gone = before - self.unheard.len();
        self.ledger
            .inconclusive(InconclusiveReason::NoWitness, gone as u64);
    }

    fn depart_again(
        &mut self,
        attempt: &Attempt,
        outcome: Outcome,
    ) -> Result<(), InconclusiveReason> {
        let Witness::Of(uid) = self.namespaces.witness(attempt.key.netns, attempt.first) else {
            return Err(InconclusiveReason::NoWitness);
        };
        let uid = uid.clone();
        let tuple = left(&attempt.key);
        let expected = self
            .history
            .expect(&tuple, &uid, attempt.first, &self.here, &self.settings);
        let meant = match expected {
            Ok(expected) => match expected.call {
                Call::Deny(_) => Meant::Denied,
                Call::Allow(_) if expected.steady => Meant::Allowed,
                Call::Undecided(reason) => return Err(reason),
                Call::Allow(_) | Call::Exempt => {
                    return Err(InconclusiveReason::ExpectationChanged);
                }
            },
            Err(open) if open.reason == InconclusiveReason::MixedEndpoints => Meant::Mixed,
            Err(open) => return Err(open.reason),
        };
        let departed = Departed {
            again: true,
            ..Departed::new(attempt, outcome, meant, uid, tuple)
        };
        let Some((ends, service)) = self.witnesses_of(&departed) else {
            return Err(InconclusiveReason::NoWitness);
        };
        self.inquire_of(departed, ends, service);
        Ok(())
    }
}
