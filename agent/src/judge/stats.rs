//! What the judge counts, for telemetry.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use polproof_flow::Tally;
use polproof_flow::finding::{InconclusiveReason, Report};

/// Counters only grow within a process; gauges say what is now.
#[derive(Debug, Default)]
pub struct JudgeStats {
    /// Records read from the ring.
    pub records: AtomicU64,
    /// Records that were to be in the ring and are not.
    pub records_lost: AtomicU64,
    /// Records of another layout or of no sense.
    pub records_undecodable: AtomicU64,
    /// Attempts that began, at either side.
    pub attempts: AtomicU64,
    /// Attempts that no policy speaks of.
    pub exempt: AtomicU64,
    /// Attempts evicted from a full table without a verdict, at either side.
    pub evicted: AtomicU64,
    /// Attempts denied and delivered, as committed.
    pub unenforced_observed: AtomicU64,
    /// Of those, judged for good.
    pub unenforced_settled: AtomicU64,
    /// Of those, taken back.
    pub unenforced_retracted: AtomicU64,
    /// Attempts allowed and delivered, as committed.
    pub allowed_delivered: AtomicU64,
    /// Attempts without a verdict, by the number of the reason.
    pub inconclusive: [AtomicU64; InconclusiveReason::ALL.len()],
    /// Entries committed.
    pub appends: AtomicU64,
    /// Entries that could not be committed; their reports came with a later one.
    pub append_failures: AtomicU64,
    /// Attempts in reports that could never be committed and were given up.
    pub dropped: AtomicU64,
    /// Views and bindings that could not be kept on disk.
    pub keep_failures: AtomicU64,
    /// Gauge: bytes of records read and not committed.
    pub ring_lag_bytes: AtomicU64,
    /// Gauge: attempts in memory.
    pub attempts_held: AtomicU64,
    /// Gauge: reported groups of attempts that are not judged for good.
    pub unsettled: AtomicU64,
    /// Gauge: findings waiting to be committed.
    pub unreported: AtomicU64,
    /// Gauge: when the last entry was committed, nanoseconds of CLOCK_MONOTONIC.
    pub last_append_ns: AtomicU64,
}

impl JudgeStats {
    /// Attempts without a verdict for a reason.
    pub fn inconclusive(&self, reason: InconclusiveReason) -> u64 {
        self.inconclusive
            .get(reason as usize)
            .map_or(0, |count| count.load(Relaxed))
    }

    pub(super) fn committed(&self, report: &Report) {
        for delta in &report.findings {
            self.unenforced_observed.fetch_add(delta.observed, Relaxed);
            self.unenforced_settled.fetch_add(delta.settled, Relaxed);
            self.unenforced_retracted
                .fetch_add(delta.retracted, Relaxed);
        }
        for (reason, count) in &report.inconclusive {
            if let Some(total) = self.inconclusive.get(*reason as usize) {
                total.fetch_add(*count, Relaxed);
            }
        }
        self.allowed_delivered
            .fetch_add(report.judged.allowed_delivered, Relaxed);
    }

    pub(super) fn tally(&self, tally: &Tally) {
        let gauge = |gauge: &AtomicU64, value: usize| {
            gauge.store(u64::try_from(value).unwrap_or(u64::MAX), Relaxed);
        };
        self.attempts.store(tally.attempts, Relaxed);
        self.exempt.store(tally.exempt, Relaxed);
        self.evicted.store(tally.evicted, Relaxed);
        gauge(&self.attempts_held, tally.held);
        gauge(&self.unsettled, tally.unsettled);
        gauge(&self.unreported, tally.unreported);
    }
}
