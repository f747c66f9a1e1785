//! Waiting between attempts: longer each time, with jitter, so that a thousand agents do not
//! return to a restarted API server in the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);

/// The waits of one sequence of failures.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(max: Duration) -> Self {
        Self {
            ceiling: FIRST.min(max),
            max,
        }
    }

    /// The next wait: between half of the ceiling and the ceiling, which then doubles.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.max);
        // The standard library's hash seeds are random per process and differ per instance: good
        // enough to spread attempts, and no dependency.
        let spread = RandomState::new().hash_one(0_u8) % 1000;
        let half = ceiling / 2;
        half + half * u32::try_from(spread).unwrap_or(0) / 1000
    }

    /// Something succeeded.
    pub(super) fn reset(&mut self) {
        self.ceiling = FIRST.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_start_again() {
        let max = Duration::from_secs(5);
        let mut backoff = Backoff::new(max);
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| *wait <= max));
        assert!(waits.first().is_some_and(|wait| *wait <= FIRST));
        assert!(waits.last().is_some_and(|wait| *wait >= max / 2));
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
