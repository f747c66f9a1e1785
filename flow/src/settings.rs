//! Times and bounds of the judge.

use crate::record::Instant;

/// Times in nanoseconds; bounds in entries. Every bound that is hit is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an expectation must have been constant before an attempt is held against it.
    pub grace: u64,
    /// Age at which an attempt is judged for good.
    pub settle: u64,
    /// How long after an attempt its expectation must stay constant; at most `settle` is used.
    pub aftermath: u64,
    /// How long an attempt waits for the identity of its namespace, the first view of the cluster, or the address of a new pod.
    pub identify: u64,
    /// How long after a restart the view of before may be judged by, provisionally.
    pub stale_view: u64,
    /// How long after the grace time an enforcement is called late, and not missing.
    pub late: u64,
    /// How long the word of the other end's witness is waited for.
    pub testimony: u64,
    /// For how long attempts are remembered for the questions of others.
    pub remember: u64,
    /// Attempts remembered, for each of the two sides: at 10,000 a second those of 13 s. They also tell the repetition of a decided
    /// attempt from a new one.
    pub max_remembered: usize,
    /// How long nothing may have been sent between two ends before a UDP datagram is a new attempt.
    pub udp_idle: u64,
    /// For how long the kernel says nothing of a UDP tuple after it recorded it: what the programs were loaded with.
    pub udp_window: u64,
    /// UDP flows in memory.
    pub max_flows: usize,
    /// Questions of others that wait for their answer.
    pub max_questions: usize,
    /// Inquiries of our own under way.
    pub max_inquiries: usize,
    /// Findings whose end is watched for.
    pub max_watched: usize,
    /// Attempts without a verdict at a time, for each of the two sides.
    pub max_attempts: usize,
    /// Answers that were read before their SYN.
    pub max_early: usize,
    /// Records of open attempts in a checkpoint, and of repeated attempts already counted.
    pub max_open_records: usize,
    /// Past views of the cluster.
    pub max_snapshots: usize,
    /// Remembered expectations, twice.
    pub max_tuples: usize,
    /// Findings in one report: a report is due when there are so many.
    pub report_keys: usize,
    /// Findings held while reports cannot be written.
    pub max_keys: usize,
    /// Reported groups of attempts that wait to be judged for good.
    pub max_unsettled: usize,
}

impl Settings {
    /// How long after an attempt its expectation must stay constant.
    pub(crate) fn after(&self) -> u64 {
        self.aftermath.min(self.settle)
    }

    /// How far back views are kept: an attempt may be judged after waiting and settling.
    pub(crate) fn retention(&self) -> u64 {
        self.grace
            .saturating_add(self.settle)
            .saturating_add(self.late)
            .saturating_add(self.identify)
            .saturating_add(10 * Instant::SECOND)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: 30 * Instant::SECOND,
            settle: 10 * Instant::SECOND,
            aftermath: 5 * Instant::SECOND,
            identify: 30 * Instant::SECOND,
            stale_view: 60 * Instant::SECOND,
            late: 10 * Instant::SECOND,
            testimony: 10 * Instant::SECOND,
            remember: 120 * Instant::SECOND,
            max_remembered: 131_072,
            udp_idle: 180 * Instant::SECOND,
            udp_window: 30 * Instant::SECOND,
            max_flows: 65_536,
            max_questions: 4_096,
            max_inquiries: 4_096,
            max_watched: 65_536,
            max_attempts: 131_072,
            max_early: 4_096,
            max_open_records: 16_384,
            max_snapshots: 2_048,
            max_tuples: 65_536,
            report_keys: 4_096,
            max_keys: 65_536,
            max_unsettled: 131_072,
        }
    }
}
