//! Totals and sizes of a judge.

/// Totals and sizes, for telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records taken in.
    pub records: u64,
    /// Attempts that began, at either side.
    pub attempts: u64,
    /// Attempts that no policy speaks of.
    pub exempt: u64,
    /// Attempts evicted without a verdict, at either side.
    pub evicted: u64,
    /// Attempts without a verdict.
    pub held: usize,
    /// Attempts remembered for the questions of others.
    pub remembered: usize,
    /// Attempts forgotten sooner than meant, for want of room.
    pub forgotten: u64,
    /// UDP flows in memory.
    pub flows: usize,
    /// UDP flows forgotten for want of room.
    pub flows_evicted: u64,
    /// Groups of attempts not judged for good.
    pub unsettled: usize,
    /// Findings waiting to be reported.
    pub unreported: usize,
    /// Questions to witnesses on other nodes.
    pub inquiries: u64,
    /// Of those, answered in time.
    pub inquiries_answered: u64,
    /// Cases that were given up because an answer did not come in time.
    pub inquiries_timed_out: u64,
    /// Cases in which nobody was asked, because too many were open.
    pub inquiries_dropped: u64,
    /// Cases that are open.
    pub inquiring: usize,
    /// Questions of others answered by "seen".
    pub answered_seen: u64,
    /// By "not seen".
    pub answered_not_seen: u64,
    /// By "cannot tell".
    pub answered_incomplete: u64,
    /// Questions of others that were one too many.
    pub questions_refused: u64,
    /// Findings whose end is watched for.
    pub watched: usize,
    /// Established connections that are followed.
    pub sockets: usize,
}
