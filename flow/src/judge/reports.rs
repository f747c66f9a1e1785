//! What comes out of the judge, beside questions and answers.

use crate::finding::{End, FindingKey, InconclusiveReason, Recovery, Report};
use crate::namespaces::Binding;
use crate::record::{Instant, Record};
use crate::recovery::Over;
use crate::tally::Tally;

use super::Judge;

impl Judge {
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
            standing,
            ..
        } = self;
        let any_shared = namespaces.any_shared();
        let is_shared = |key: &FindingKey| {
            any_shared && matches!(&key.destination, End::Pod(_, uid) if namespaces.is_shared(uid))
        };
        let may_filter = |key: &FindingKey, since| matches!(&key.destination, End::Pod(_, uid) if namespaces.may_filter(uid, since));
        ledger.report(now, until, |key, first, last, basis| {
            let verdict = if let Some(reason) = basis.refused {
                Err(reason)
            } else if is_shared(key) {
                // Noticed at the latest half a minute after it came, but before the attempts were settled.
                Err(InconclusiveReason::HookShared)
            } else if basis.bare && may_filter(key, first) {
                // The like.
                Err(InconclusiveReason::InPodFilter)
            } else {
                history.upholds(key, (first, last), basis.witnessed, here, settings)
            };
            standing.settle(key, verdict.is_ok());
            verdict
        })
    }

    /// Takes back the last report, which could not be written: its counts come again with the next one.
    pub fn put_back(&mut self, report: Report) {
        self.ledger.put_back(report);
    }

    /// What is over is reported once.
    pub(super) fn end(&mut self, over: impl IntoIterator<Item = Over>, at: Instant) {
        for Over { key, last, cause } in over {
            let recovery = Recovery {
                at: at.max(last.plus(1)),
                cause,
            };
            self.ledger.recovered(&key, last, recovery);
        }
    }

    /// Looks whether what stands is over because the cluster has changed.
    pub(super) fn check_standing(&mut self) {
        let Some(version) = self
            .history
            .newest()
            .map(polproof_policy::Snapshot::version)
        else {
            return;
        };
        let live = self.ready && self.history.live_from().is_some();
        if !live || !self.standing.is_behind(version) {
            return;
        }
        let Self {
            standing,
            history,
            here,
            ..
        } = self;
        let Some(newest) = history.newest().cloned() else {
            return;
        };
        let over = standing.check(&newest, |key| {
            let (tuple, uid) = crate::keys::question(key)?;
            history.present(&tuple, uid, here)
        });
        let now = self.now;
        self.end(over, now);
    }

    /// Records that lead a new judge to the attempts that are not counted yet, and markers for those that are
    /// counted but may be repeated. To be written together with the report.
    pub fn open_attempts(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let bound = self.settings.max_open_records;
        self.destination.open(self.now, bound, &mut records);
        self.source.open(self.now, bound, &mut records);
        self.flows.open(&mut records);
        self.survivors.open(bound, &mut records);
        self.under_way(&mut records);
        records
    }

    /// Up to when every reported attempt is judged for good. To be written together with the report.
    pub fn settled_until(&self) -> Instant {
        self.ledger.settled_until()
    }

    /// When to tick next, if no record comes.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.destination.has_ended() || self.source.has_ended() || self.inquiries.has_finished()
        {
            return Some(self.now);
        }
        let settle = if self.ready {
            self.ledger
                .next_group()
                .map(|last| last.plus(self.settings.settle))
        } else {
            None
        };
        let walk = (self.news && self.waiting).then_some(self.next_walk);
        [
            walk,
            self.destination.next_look(),
            self.source.next_look(),
            self.flows.next_due(),
            self.answers.next_look(),
            self.inquiries.next_end(),
            self.exposures.next(self.settings.grace),
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
        let (destination, source) = (self.destination.recent(), self.source.recent());
        Tally {
            attempts: self.destination.begun() + self.source.begun(),
            held: self.destination.len() + self.source.len(),
            unsettled: self.ledger.unsettled(),
            unreported: self.ledger.keys(),
            inquiring: self.inquiries.len(),
            questions_refused: self.answers.refused(),
            remembered: destination.len() + source.len(),
            forgotten: destination.evicted() + source.evicted(),
            flows: self.flows.len(),
            flows_evicted: self.flows.evicted(),
            watched: self.standing.len(),
            sockets: self.survivors.len(),
            ..self.tally
        }
    }
}
