//! The judge: records, namespaces and views of the cluster go in, reports come out.
//!
//! It is a value that knows no clock. [`Judge::on_record`] only notes; [`Judge::tick`] gives the verdicts, so that
//! the order in which the records of several CPUs are read does not matter.
//!
//! # What can spoil which verdict
//!
//! A violation is a positive fact: the SYN was seen at the pod's eth0 and the pod's stack answered. Records lost
//! around it do not make it untrue, nor does an attach that came late. What can make it untrue is another
//! program on eth0 that may have answered ([`InconclusiveReason::HookShared`]), a doubt about who the two ends
//! were, and an expectation that was not constant. Only what rests on *not* having seen something (no answer)
//! is spoiled by a loss.

use std::collections::VecDeque;
use std::net::IpAddr;

use polproof_policy::Snapshot;

use crate::attempt::{Attempt, Outcome, Phase, Side, Signal, read};
use crate::expectation::{Call, Tuple};
use crate::finding::{Answer, End, FindingDelta, InconclusiveReason, Report, Sample};
use crate::here::Here;
use crate::history::History;
use crate::ledger::Ledger;
use crate::namespaces::{Binding, Namespaces, Witness};
use crate::netns::NetnsEvent;
use crate::record::{Instant, Record};
use crate::restored::Restored;
use crate::settings::Settings;
use crate::table::Attempts;
use crate::tally::Tally;
use crate::witness::{Gap, Inquiry, Question, Testimony};

/// Times of loss remembered.
const LOSSES: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Judge {
    settings: Settings,
    here: Here,
    destination: Attempts,
    source: Attempts,
    history: History,
    /// Whether the view of the cluster is complete now.
    ready: bool,
    /// When a restart was overcome, or the view became stale.
    restored_at: Option<Instant>,
    namespaces: Namespaces,
    ledger: Ledger,
    /// From, to.
    losses: VecDeque<(Instant, Instant)>,
    now: Instant,
    /// Something came that attempts may have waited for.
    news: bool,
    waiting: bool,
    due: Vec<u32>,
    testimonies: Vec<(u64, Testimony)>,
    tally: Tally,
}

enum Decision {
    Done,
    Wait(InconclusiveReason),
}

impl Judge {
    /// A judge that knows nothing yet.
    pub fn new(here: Here, settings: Settings) -> Self {
        Self {
            here,
            destination: Attempts::new(
                Side::Destination,
                settings.max_attempts,
                settings.max_early,
            ),
            source: Attempts::new(Side::Source, settings.max_attempts, settings.max_early),
            history: History::new(&settings),
            ready: false,
            restored_at: None,
            namespaces: Namespaces::default(),
            ledger: Ledger::new(settings.max_keys, settings.max_unsettled),
            losses: VecDeque::new(),
            now: Instant(0),
            news: false,
            waiting: false,
            due: Vec::new(),
            testimonies: Vec::new(),
            tally: Tally::default(),
            settings,
        }
    }

    /// Takes over what is left of before a restart. Call it first, then feed the records after the position of
    /// the last written report.
    pub fn restore(&mut self, restored: Restored, now: Instant) {
        for (at, snapshot) in restored.views {
            self.history.restore(at, snapshot);
        }
        for binding in restored.bindings {
            self.namespaces.restore(binding, now);
        }
        for record in restored.open {
            match read(&record) {
                Some((side, key, Signal::Counted(syns))) => {
                    self.side(side).counted(key, record.at, syns);
                }
                _ => self.on_record(record),
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

    fn side(&mut self, side: Side) -> &mut Attempts {
        match side {
            Side::Destination => &mut self.destination,
            Side::Source => &mut self.source,
        }
    }

    /// Notes a record.
    pub fn on_record(&mut self, record: Record) {
        self.tally.records += 1;
        match read(&record) {
            Some((side, key, Signal::Syn)) => self.side(side).syn(key, record.at),
            Some((side, key, Signal::Answer(outcome))) => {
                self.side(side).answer(key, outcome, record.at);
            }
            // Only a restart makes these.
            Some((_, _, Signal::Counted(_))) | None => {}
        }
    }

    /// Notes news of a namespace.
    pub fn on_netns(&mut self, event: &NetnsEvent) {
        if self.namespaces.on_event(event) {
            self.history.forget();
        }
        self.news = true;
    }

    /// Notes a view of the cluster, in force from `at` on. One that is not `ready` is not believed.
    pub fn on_snapshot(&mut self, at: Instant, snapshot: Snapshot, ready: bool) {
        self.ready = ready;
        if ready {
            self.history.add(at, snapshot, &self.settings);
            self.news = true;
        }
    }

    /// Notes that the view may be behind the cluster since `at` (the API server is away), with what is known of
    /// the cluster. As over a restart, attempts are shown provisionally for a while, and settled only when a view
    /// that is up to date agrees: a policy may have been changed meanwhile, and the enforcer may know.
    pub fn on_stale(&mut self, at: Instant, snapshot: Snapshot) {
        if self.history.grow_stale(at, snapshot) {
            self.restored_at = Some(at);
        }
        self.news = true;
    }

    /// Notes the addresses of the node's own network namespace: bridges come with the first pod. One that is missing
    /// stays the node's for as long as an attempt from it may have to be judged; in doubt nobody is accused.
    pub fn on_here(&mut self, at: Instant, addresses: Vec<IpAddr>) {
        if self.here.set(at, addresses) {
            self.history.forget();
            self.news = true;
        }
    }

    /// Notes that `lost` records were lost at or somewhat before `at`.
    pub fn on_lost(&mut self, at: Instant, lost: u64) {
        if lost == 0 {
            return;
        }
        let from = at.minus(Instant::SECOND);
        if let Some((_, to)) = self.losses.back_mut()
            && *to >= from
        {
            *to = at.max(*to);
            return;
        }
        if self.losses.len() >= LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back((from, at));
    }

    fn lost_around(&self, attempt: &Attempt) -> bool {
        let until = attempt.last.plus(2 * Instant::SECOND);
        self.losses
            .iter()
            .any(|(from, to)| *from <= until && *to >= attempt.first)
    }

    /// Gives the verdicts that are due. `now` is the time; `horizon` is the time up to which all records have
    /// been read (but for some milliseconds): the same, unless records are waiting.
    pub fn tick(&mut self, now: Instant, horizon: Instant) {
        self.now = self.now.max(now);
        let mut due = std::mem::take(&mut self.due);
        self.destination.due(horizon, &mut due);
        if self.news && self.waiting {
            self.waiting = false;
            self.destination.waiting(&mut due);
            due.dedup();
        }
        self.news = false;
        for slot in &due {
            self.decide(*slot);
        }
        self.source.due(horizon, &mut due);
        for slot in &due {
            if let Some(attempt) = self.source.slot(*slot).copied() {
                self.count_departure(&attempt);
            }
            self.source.close(*slot);
        }
        self.due = due;
        self.namespaces.expire(self.now);
        if self.here.expire(self.now.minus(self.settings.retention())) {
            self.history.forget();
        }
        let evicted = self.destination.take_evicted();
        self.ledger
            .inconclusive(InconclusiveReason::StateEvicted, evicted);
        self.tally.evicted += evicted + self.source.take_evicted();
    }

    fn decide(&mut self, slot: u32) {
        let Some(attempt) = self.destination.slot(slot).copied() else {
            return;
        };
        let (outcome, until) = match attempt.phase {
            Phase::Ended(outcome) => (outcome, None),
            Phase::Waiting(outcome, until) => (outcome, Some(until)),
            Phase::Open | Phase::Counted => return,
        };
        match self.judge(&attempt, outcome) {
            Decision::Done => self.destination.close(slot),
            Decision::Wait(reason) if until.is_some_and(|until| until <= self.now) => {
                self.ledger.inconclusive(reason, 1);
                self.destination.close(slot);
            }
            Decision::Wait(_) => {
                self.waiting = true;
                let until = until.unwrap_or_else(|| self.now.plus(self.settings.identify));
                self.destination.wait(slot, outcome, until);
            }
        }
    }

    /// Whether there is a view to judge an attempt of that time by.
    fn has_view(&self, at: Instant) -> bool {
        if self.history.is_empty() {
            return false;
        }
        match (self.history.live_from(), self.restored_at) {
            (Some(_), _) => self.ready,
            // Provisionally, by the last view there was: it is settled under a live one only.
            (None, Some(restored)) => at <= restored.plus(self.settings.stale_view),
            (None, None) => false,
        }
    }

    /// The verdict on an attempt that arrived at a pod.
    fn judge(&mut self, attempt: &Attempt, outcome: Outcome) -> Decision {
        let (client, server) = (attempt.key.client, attempt.key.server);
        if self.here.has(client.ip()) {
            self.tally.exempt += 1;
            return Decision::Done;
        }
        let reason = match self.namespaces.witness(attempt.key.netns, attempt.first) {
            Witness::Unknown => return Decision::Wait(InconclusiveReason::DestinationUnidentified),
            Witness::Contradicted => InconclusiveReason::DestinationUnidentified,
            Witness::Shared => InconclusiveReason::HookShared,
            Witness::Of(_) if !self.has_view(attempt.first) => {
                return Decision::Wait(InconclusiveReason::SnapshotNotReady);
            }
            Witness::Of(uid) => {
                let tuple = Tuple {
                    side: Side::Destination,
                    netns: attempt.key.netns,
                    own: server.ip(),
                    peer: client.ip(),
                    port: server.port(),
                };
                match self
                    .history
                    .expect(&tuple, uid, attempt.first, &self.here, &self.settings)
                {
                    Ok(call) => match self.verdict(attempt, outcome, &call) {
                        None => return Decision::Done,
                        Some(reason) => reason,
                    },
                    // The pod may not be in the view yet.
                    Err(reason @ InconclusiveReason::DestinationUnidentified) => {
                        return Decision::Wait(reason);
                    }
                    Err(reason) => reason,
                }
            }
        };
        self.ledger.inconclusive(reason, 1);
        Decision::Done
    }

    fn verdict(
        &mut self,
        attempt: &Attempt,
        outcome: Outcome,
        call: &Call,
    ) -> Option<InconclusiveReason> {
        let answer = match outcome {
            Outcome::Accepted => Some(Answer::Accepted),
            Outcome::Refused => Some(Answer::Refused),
            Outcome::Unreachable | Outcome::Silent => None,
        };
        match (call, answer) {
            (Call::Exempt, _) => self.tally.exempt += 1,
            // It reached eth0: the network let it through, whatever the pod did with it.
            (Call::Allow, _) => self.ledger.judged().allowed_delivered += 1,
            (Call::Undecided(reason), _) => return Some(*reason),
            (Call::Deny(denial), Some(answer)) => {
                let sample = Sample {
                    syn: attempt.syn(Side::Destination),
                    answer,
                };
                self.ledger.observe(&denial.key, sample, self.now);
            }
            (Call::Deny(_), None) if self.lost_around(attempt) => {
                return Some(InconclusiveReason::RecordsLost);
            }
            (Call::Deny(_), None) => return Some(InconclusiveReason::NotAnswered),
        }
        None
    }

    /// Counts an attempt that left a pod. These are statistics: what cannot be told is left out.
    fn count_departure(&mut self, attempt: &Attempt) {
        let outcome = match attempt.phase {
            Phase::Ended(outcome) | Phase::Waiting(outcome, _) => outcome,
            Phase::Open | Phase::Counted => return,
        };
        if !self.has_view(attempt.first) {
            return;
        }
        let Witness::Of(uid) = self.namespaces.witness(attempt.key.netns, attempt.first) else {
            return;
        };
        let tuple = Tuple {
            side: Side::Source,
            netns: attempt.key.netns,
            own: attempt.key.client.ip(),
            peer: attempt.key.server.ip(),
            port: attempt.key.server.port(),
        };
        let expected = self
            .history
            .expect(&tuple, uid, attempt.first, &self.here, &self.settings);
        let lost = self.lost_around(attempt);
        let judged = self.ledger.judged();
        match (expected, outcome) {
            (Ok(Call::Allow), Outcome::Accepted) => judged.allowed_answered += 1,
            (Ok(Call::Deny(_)), Outcome::Accepted) => judged.denied_answered += 1,
            // The answer itself may have been lost.
            (Ok(Call::Deny(_)), Outcome::Silent) if lost => {}
            (Ok(Call::Deny(_)), _) => judged.denied_unanswered += 1,
            _ => {}
        }
    }

    /// A question of another witness: an answer follows, at once or when the time that it asks about is over.
    pub fn on_question(&mut self, id: u64, question: Question) {
        let _ = question;
        self.testimonies
            .push((id, Testimony::Incomplete(Gap::TooOld)));
    }

    /// Answers to questions, by the number of the question.
    pub fn take_testimonies(&mut self) -> Vec<(u64, Testimony)> {
        std::mem::take(&mut self.testimonies)
    }

    /// Questions to other witnesses.
    pub fn take_inquiries(&mut self) -> Vec<Inquiry> {
        Vec::new()
    }

    /// The answer to one of our inquiries.
    pub fn on_testimony(&mut self, id: u64, testimony: Testimony) {
        let _ = (id, testimony);
    }

    /// Whether other witnesses can be asked now: the collector is connected.
    pub fn on_collector(&mut self, connected: bool) {
        let _ = connected;
    }

    /// Everything to report since the last time. Observed attempts that are old enough by now are judged for
    /// good.
    pub fn take_report(&mut self, now: Instant) -> Report {
        self.now = self.now.max(now);
        let live = self.ready && self.history.live_from().is_some();
        let until = if live {
            self.now.minus(self.settings.settle)
        } else {
            self.ledger.settled_until()
        };
        let Self {
            ledger,
            history,
            namespaces,
            here,
            settings,
            ..
        } = self;
        let any_shared = namespaces.any_shared();
        ledger.report(now, until, |key, first, last| {
            // Noticed at the latest half a minute after it came, but before the attempts were settled.
            if any_shared
                && let End::Pod(_, uid) = &key.destination
                && namespaces.is_shared(uid)
            {
                return Err(InconclusiveReason::HookShared);
            }
            if history.upholds(key, first, last, here, settings) {
                Ok(())
            } else {
                Err(InconclusiveReason::ExpectationChanged)
            }
        })
    }

    /// Takes back the last report, which could not be written: its counts come again with the next one.
    pub fn put_back(&mut self, report: Report) {
        self.ledger.put_back(report);
    }

    /// Records that lead a new judge to the attempts that are not counted yet, and markers for those that are
    /// counted but may be repeated. To be written together with the report.
    pub fn open_attempts(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let bound = self.settings.max_open_records;
        self.destination.open(self.now, bound, &mut records);
        self.source.open(self.now, bound, &mut records);
        records
    }

    /// Up to when every reported attempt is judged for good. To be written together with the report.
    pub fn settled_until(&self) -> Instant {
        self.ledger.settled_until()
    }

    /// When to tick next, if no record comes.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.destination.has_ended() || self.source.has_ended() {
            return Some(self.now);
        }
        let settle = if self.ready {
            self.ledger
                .next_group()
                .map(|last| last.plus(self.settings.settle))
        } else {
            None
        };
        [
            self.destination.next_look(),
            self.source.next_look(),
            settle,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether a finding waits that was not reported lately.
    pub fn urgent(&self) -> bool {
        self.ledger.urgent()
    }

    /// Whether so many findings wait that a report is due at once.
    pub fn full(&self) -> bool {
        self.ledger.keys() >= self.settings.report_keys
    }

    /// Whether there is nothing to report but the progress of time.
    pub fn is_quiet(&self) -> bool {
        self.ledger.is_empty()
    }

    /// What is known of the namespaces, to be kept over a restart.
    pub fn bindings(&self) -> Vec<Binding> {
        self.namespaces.bindings()
    }

    /// For how long views have to be kept over a restart, in nanoseconds.
    pub fn retention(&self) -> u64 {
        self.settings.retention()
    }

    /// Totals and sizes.
    pub fn tally(&self) -> Tally {
        Tally {
            attempts: self.destination.begun() + self.source.begun(),
            held: self.destination.len() + self.source.len(),
            unsettled: self.ledger.unsettled(),
            unreported: self.ledger.keys(),
            ..self.tally
        }
    }
}
