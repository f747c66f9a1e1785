//! Commits reports, and then hands the ring's space back to the kernel.

use std::sync::atomic::Ordering::Relaxed;

use polproof_flow::finding::Report;
use polproof_flow::record::Instant;
use tracing::{error, info};

use super::bench::Bench;
use super::records::Records;
use crate::observe::{now, wall_offset_ns};
use crate::report::spool::{Entry, SpoolError};

/// At most five appends a second.
pub(super) const URGENT: u64 = Instant::SECOND / 5;
/// While there is anything to commit it waits no longer than this, so that also a known finding shows within a second.
pub(super) const ROUTINE: u64 = Instant::SECOND / 2;

impl<R: Records> Bench<R> {
    pub(super) fn flush_if_due(&mut self) {
        let at = now();
        let age = at.since(self.last_flush);
        let due = if self.failing.is_some() {
            age >= ROUTINE
        } else {
            self.judge.full()
                || (self.judge.urgent() && age >= URGENT)
                || (age >= ROUTINE && self.has_something())
        };
        if due {
            self.flush(at);
        }
        self.stats.tally(&self.judge.tally());
    }

    pub(super) fn has_something(&self) -> bool {
        !self.judge.is_quiet()
            || self.judge.tally().unsettled > 0
            || self.ring.position() != self.committed
    }

    /// Commits, then releases.
    pub(super) fn flush(&mut self, at: Instant) {
        let position = self.ring.position();
        let report = self.judge.take_report(at);
        self.last_flush = at;
        if report.is_empty() && position == self.committed {
            return;
        }
        let entry = Entry {
            report,
            ring: self.ring.id(),
            position,
            open: self.judge.open_attempts(),
            settled_until: self.judge.settled_until(),
            committed: at,
            wall_offset_ns: wall_offset_ns(),
        };
        match self.spool.append(&entry) {
            Ok(()) => {
                self.stats.appends.fetch_add(1, Relaxed);
                self.stats.last_append_ns.store(at.0, Relaxed);
                self.stats.committed(&entry.report);
                self.committed = position;
                if let Some((since, _)) = self.failing.take() {
                    info!(
                        seconds = at.since(since) / Instant::SECOND,
                        "the spool can be written again; the findings of meanwhile are in it"
                    );
                }
            }
            Err(failure) => self.not_committed(at, entry.report, &failure),
        }
        // Also if it failed: packets that are not read now would be lost in the kernel.
        self.ring.release(position);
        self.stats
            .ring_lag_bytes
            .store(position.saturating_sub(self.committed), Relaxed);
    }

    fn not_committed(&mut self, at: Instant, report: Report, failure: &SpoolError) {
        self.stats.append_failures.fetch_add(1, Relaxed);
        if matches!(failure, SpoolError::TooLarge { .. }) {
            let attempts = report
                .findings
                .iter()
                .map(|delta| delta.observed)
                .fold(0, u64::saturating_add);
            self.stats.dropped.fetch_add(attempts, Relaxed);
            error!(error = %failure, attempts, findings = report.findings.len(), "a report is given up");
            return;
        }
        self.judge.put_back(report);
        let (since, said) = self.failing.unwrap_or((at, Instant(0)));
        let say = self.failing.is_none() || at.since(said) >= 60 * Instant::SECOND;
        if say {
            error!(error = %failure, seconds = at.since(since) / Instant::SECOND, "a report cannot be committed: it is kept in memory and tried again twice a second; killed now, the agent would forget it");
        }
        self.failing = Some((since, if say { at } else { said }));
    }
}
