//! Kinds of findings, how they end, and how late enforcement was.

use jiff::Timestamp;
use serde::Serialize;

/// The end of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Recovered {
    /// When it was noticed.
    pub(crate) at: Option<Timestamp>,
    /// `enforced` (tried again, and stopped), `delivered` (tried again, and got through), `policy_changed`, `pod_gone`, `closed`.
    pub(crate) cause: &'static str,
}

/// Findings of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct KindCount {
    /// As in a finding.
    pub(crate) kind: &'static str,
    /// Those that are not taken back.
    pub(crate) findings: u64,
    /// Attempts behind them.
    pub(crate) attempts: u64,
    /// Findings that have not ended.
    pub(crate) standing: u64,
    /// The last attempt.
    pub(crate) last_seen: Option<Timestamp>,
}

/// For how long connections still got through after policies began to deny them, of changes within the grace time.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Exposure {
    /// Changes after which anything got through.
    pub(crate) changes: u64,
    /// On average; null without any.
    pub(crate) mean_ms: Option<u64>,
    /// Half of them took at most this; null if none is known, or if it is beyond the last bound.
    pub(crate) p50_ms: Option<u64>,
    /// All but one of a hundred.
    pub(crate) p99_ms: Option<u64>,
    /// By upper bound.
    pub(crate) buckets: Vec<Bucket>,
}

/// One bar of the histogram.
#[derive(Debug, Serialize)]
pub(crate) struct Bucket {
    /// At most so long; null for longer than all others.
    pub(crate) le_ms: Option<u64>,
    /// Changes; not cumulative.
    pub(crate) count: u64,
}

impl Exposure {
    /// From the counts of the wire, whose last has no bound.
    pub(crate) fn new(bounds: &[u64], counts: &[u64], sum_ms: u64) -> Self {
        let changes = counts.iter().copied().fold(0, u64::saturating_add);
        let buckets: Vec<Bucket> = counts
            .iter()
            .enumerate()
            .map(|(place, count)| Bucket {
                le_ms: bounds.get(place).copied(),
                count: *count,
            })
            .collect();
        let quantile = |hundredths: u64| {
            let rank = changes.saturating_mul(hundredths).div_ceil(100);
            let mut sum = 0_u64;
            buckets
                .iter()
                .find(|bucket| {
                    sum = sum.saturating_add(bucket.count);
                    rank > 0 && sum >= rank
                })
                .and_then(|bucket| bucket.le_ms)
        };
        Self {
            mean_ms: sum_ms.checked_div(changes),
            p50_ms: quantile(50),
            p99_ms: quantile(99),
            changes,
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let bounds = [10, 100, 1_000];
        let none = Exposure::new(&bounds, &[0, 0, 0, 0], 0);
        assert_eq!(
            (none.changes, none.mean_ms, none.p50_ms, none.p99_ms),
            (0, None, None, None)
        );
        let some = Exposure::new(&bounds, &[50, 48, 1, 1], 5_000);
        assert_eq!((some.changes, some.mean_ms), (100, Some(50)));
        assert_eq!((some.p50_ms, some.p99_ms), (Some(10), Some(1_000)));
        let late = Exposure::new(&bounds, &[1, 0, 0, 1], 90_000);
        assert_eq!((late.p50_ms, late.p99_ms), (Some(10), None));
        assert_eq!(late.buckets.last().map(|last| last.le_ms), Some(None));
    }
}
