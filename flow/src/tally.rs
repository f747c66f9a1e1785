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
    /// Attempts in memory.
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
}
