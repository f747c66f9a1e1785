//! What the judge counts, for telemetry.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use polproof_flow::Tally;
use polproof_flow::finding::{EXPOSURE_BOUNDS_MS, FindingKind, InconclusiveReason, Report};
use polproof_flow::record::{Event, Record};
use polproof_flow::witness::{Gap, Testimony};
use polproof_policy::Protocol;

/// Transports that are told apart.
pub(super) const PROTOCOLS: usize = 3;

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
    /// Packets that open something, as they were recorded: by the number of the protocol.
    pub openings: [AtomicU64; PROTOCOLS],
    /// Attempts in findings, as committed, by the number of the kind.
    pub findings: [KindStats; FindingKind::ALL.len()],
    /// Changes within the grace time, by for how long connections still got through; see [`EXPOSURE_BOUNDS_MS`].
    pub exposure: [AtomicU64; EXPOSURE_BOUNDS_MS.len() + 1],
    /// Sum of those times, in milliseconds.
    pub exposure_sum_ms: AtomicU64,
    /// Attempts of flows older than the policies that deny them, or within the grace time, as committed.
    pub denied_in_grace: AtomicU64,
    /// Denied attempts that a complete witness says were stopped while the way was open, as committed.
    pub denied_stopped: AtomicU64,
    /// Questions of others.
    pub questions: AtomicU64,
    /// Answers to them.
    pub testimonies: Words,
    /// Of those, dropped because the stream did not take them.
    pub testimonies_dropped: AtomicU64,
    /// Inquiries of our own.
    pub inquiries: AtomicU64,
    /// Inquiries that were not sent: the queue was full, or there is no stream.
    pub inquiries_dropped: AtomicU64,
    /// Answers to ours.
    pub answers: Words,
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
    /// Gauge: attempts without a verdict.
    pub attempts_held: AtomicU64,
    /// Gauge: attempts remembered for the questions of others.
    pub remembered: AtomicU64,
    /// Attempts forgotten sooner than meant, for want of room.
    pub forgotten: AtomicU64,
    /// Gauge: UDP flows in memory.
    pub flows: AtomicU64,
    /// UDP flows forgotten for want of room.
    pub flows_evicted: AtomicU64,
    /// Gauge: cases in which another witness is waited for.
    pub inquiring: AtomicU64,
    /// Cases in which it was waited for in vain.
    pub inquiries_timed_out: AtomicU64,
    /// Cases in which nobody was asked, because too many were open.
    pub inquiries_not_made: AtomicU64,
    /// Questions of others that were one too many.
    pub questions_refused: AtomicU64,
    /// Gauge: findings whose end is watched for.
    pub watched: AtomicU64,
    /// Gauge: established connections that are followed.
    pub sockets: AtomicU64,
    /// Gauge: reported groups of attempts that are not judged for good.
    pub unsettled: AtomicU64,
    /// Gauge: findings waiting to be committed.
    pub unreported: AtomicU64,
    /// Gauge: when the last entry was committed, nanoseconds of CLOCK_MONOTONIC.
    pub last_append_ns: AtomicU64,
}

/// Attempts in findings of one kind.
#[derive(Debug, Default)]
pub struct KindStats {
    /// At first sight.
    pub observed: AtomicU64,
    /// Of those, judged for good.
    pub settled: AtomicU64,
    /// Of those, taken back.
    pub retracted: AtomicU64,
    /// Of those, upheld by the witness at the other end.
    pub witnessed: AtomicU64,
    /// Findings that ended.
    pub recovered: AtomicU64,
}

/// Testimonies, by what they say.
#[derive(Debug, Default)]
pub struct Words {
    /// Seen.
    pub seen: AtomicU64,
    /// Not seen, by a complete witness.
    pub not_seen: AtomicU64,
    incomplete: [AtomicU64; Gap::ALL.len()],
}

impl Words {
    /// Those that could not tell, for one reason.
    pub fn incomplete(&self, gap: Gap) -> u64 {
        self.incomplete
            .get(gap as usize)
            .map_or(0, |count| count.load(Relaxed))
    }

    pub(super) fn count(&self, testimony: &Testimony) {
        let counter = match testimony {
            Testimony::Seen(_) => Some(&self.seen),
            Testimony::NotSeen(_) => Some(&self.not_seen),
            Testimony::Incomplete(gap) => self.incomplete.get(*gap as usize),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// Counts a record that opens something.
pub(super) fn count_opening(record: &Record, openings: &mut [u64; PROTOCOLS]) {
    if !matches!(
        record.event,
        Event::Syn { .. } | Event::Init { .. } | Event::Datagram
    ) {
        return;
    }
    if let Some(count) = openings.get_mut(record.protocol as usize) {
        *count += 1;
    }
}

impl JudgeStats {
    /// Attempts in findings of a kind.
    pub fn of(&self, kind: FindingKind) -> Option<&KindStats> {
        self.findings.get(kind as usize)
    }

    /// Recorded packets that open something.
    pub fn openings(&self, protocol: Protocol) -> u64 {
        self.openings
            .get(protocol as usize)
            .map_or(0, |count| count.load(Relaxed))
    }

    pub(super) fn opened(&self, openings: [u64; PROTOCOLS]) {
        for (total, count) in self.openings.iter().zip(openings) {
            if count > 0 {
                total.fetch_add(count, Relaxed);
            }
        }
    }

    /// Attempts without a verdict for a reason.
    pub fn inconclusive(&self, reason: InconclusiveReason) -> u64 {
        self.inconclusive
            .get(reason as usize)
            .map_or(0, |count| count.load(Relaxed))
    }

    pub(super) fn committed(&self, report: &Report) {
        for delta in &report.findings {
            if let Some(kind) = self.of(delta.key.kind) {
                kind.observed.fetch_add(delta.observed, Relaxed);
                kind.settled.fetch_add(delta.settled, Relaxed);
                kind.retracted.fetch_add(delta.retracted, Relaxed);
                kind.witnessed.fetch_add(delta.witnessed, Relaxed);
                kind.recovered
                    .fetch_add(u64::from(delta.recovered.is_some()), Relaxed);
            }
        }
        for (reason, count) in &report.inconclusive {
            if let Some(total) = self.inconclusive.get(*reason as usize) {
                total.fetch_add(*count, Relaxed);
            }
        }
        self.allowed_delivered
            .fetch_add(report.judged.allowed_delivered, Relaxed);
        self.denied_in_grace
            .fetch_add(report.judged.denied_in_grace, Relaxed);
        self.denied_stopped
            .fetch_add(report.judged.denied_stopped, Relaxed);
        for (total, count) in self.exposure.iter().zip(report.exposure.counts) {
            total.fetch_add(count, Relaxed);
        }
        self.exposure_sum_ms
            .fetch_add(report.exposure.sum_ms, Relaxed);
    }

    pub(super) fn tally(&self, tally: &Tally) {
        let gauge = |gauge: &AtomicU64, value: usize| {
            gauge.store(u64::try_from(value).unwrap_or(u64::MAX), Relaxed);
        };
        self.attempts.store(tally.attempts, Relaxed);
        self.exempt.store(tally.exempt, Relaxed);
        self.evicted.store(tally.evicted, Relaxed);
        gauge(&self.attempts_held, tally.held);
        gauge(&self.remembered, tally.remembered);
        self.forgotten.store(tally.forgotten, Relaxed);
        gauge(&self.flows, tally.flows);
        self.flows_evicted.store(tally.flows_evicted, Relaxed);
        gauge(&self.inquiring, tally.inquiring);
        self.inquiries_timed_out
            .store(tally.inquiries_timed_out, Relaxed);
        self.inquiries_not_made
            .store(tally.inquiries_dropped, Relaxed);
        self.questions_refused
            .store(tally.questions_refused, Relaxed);
        gauge(&self.watched, tally.watched);
        gauge(&self.sockets, tally.sockets);
        gauge(&self.unsettled, tally.unsettled);
        gauge(&self.unreported, tally.unreported);
    }
}
