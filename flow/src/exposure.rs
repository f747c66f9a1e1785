//! For how long connections still get through after policies begin to deny them.

use std::collections::BTreeMap;

use crate::finding::{EXPOSURE_BOUNDS_MS, Exposure};
use crate::record::Instant;

/// Changes measured at a time; of more the newest are not.
const BOUND: usize = 4_096;
/// Records are read, and verdicts wait, somewhat later than things happen.
const SLACK: u64 = 2 * Instant::SECOND;

/// Changes to a denial that let something through, with the last that came through.
#[derive(Debug, Default)]
pub(crate) struct Exposures {
    /// By the time of the change.
    open: BTreeMap<Instant, Instant>,
}

impl Exposures {
    /// A delivery of what has been denied since then.
    pub(crate) fn note(&mut self, since: Instant, delivered: Instant) {
        if self.open.len() < BOUND || self.open.contains_key(&since) {
            let last = self.open.entry(since).or_insert(delivered);
            *last = delivered.max(*last);
        }
    }

    /// Adds the changes whose grace time is over.
    pub(crate) fn close(&mut self, now: Instant, grace: u64, to: &mut Exposure) {
        while let Some((since, last)) = self.open.first_key_value()
            && since.plus(grace).plus(SLACK) <= now
        {
            let ms = last.since(*since) / 1_000_000;
            let bucket = EXPOSURE_BOUNDS_MS.partition_point(|bound| *bound < ms);
            if let Some(count) = to.counts.get_mut(bucket) {
                *count += 1;
            }
            to.sum_ms += ms;
            self.open.pop_first();
        }
    }

    /// When the next one is to be closed.
    pub(crate) fn next(&self, grace: u64) -> Option<Instant> {
        let (since, _) = self.open.first_key_value()?;
        Some(since.plus(grace).plus(SLACK))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_change_is_measured_once_by_its_last_delivery() {
        let mut held = Exposures::default();
        let ms = |n: u64| Instant(n * 1_000_000);
        held.note(ms(1_000), ms(1_200));
        held.note(ms(1_000), ms(1_090));
        held.note(ms(5_000), ms(5_010));
        let mut to = Exposure::default();
        held.close(ms(32_999), 30 * Instant::SECOND, &mut to);
        assert_eq!(to, Exposure::default());
        assert_eq!(held.next(30 * Instant::SECOND), Some(ms(33_000)));
        held.close(ms(33_000), 30 * Instant::SECOND, &mut to);
        held.close(ms(60_000), 30 * Instant::SECOND, &mut to);
        assert_eq!(to.sum_ms, 210);
        assert_eq!(to.counts.iter().sum::<u64>(), 2);
        // 10 ms is in the first, 200 ms in that up to 250 ms.
        assert_eq!((to.counts.first(), to.counts.get(3)), (Some(&1), Some(&1)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut held = Exposures::default();
        for n in 0..10_000 {
            held.note(Instant(n), Instant(n));
        }
        assert_eq!(held.open.len(), BOUND);
    }
}
