//! How fast to attach and how long to wait between tries. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// A token bucket. Attaching takes the kernel's RTNL lock for some 24 ms: a node that starts with 200 pods must not
/// stall the CNI.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    burst: u32,
    tokens: u32,
    /// When `tokens` was right.
    at: Instant,
}

impl Throttle {
    /// `per_second` of 0 counts as 1.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let burst = per_second.max(1);
        Self {
            interval: Duration::from_secs(1) / burst,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// When the next attach may be made; `now` or earlier means at once.
    pub(super) fn ready_at(&mut self, now: Instant) -> Instant {
        self.refill(now);
        if self.tokens > 0 {
            now
        } else {
            self.at + self.interval
        }
    }

    /// Takes a token; false if there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }

    /// Gives one back, for an attempt that attached nothing.
    pub(super) fn give_back(&mut self) {
        self.tokens = (self.tokens + 1).min(self.burst);
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < self.burst && now.saturating_duration_since(self.at) >= self.interval {
            self.tokens += 1;
            self.at += self.interval;
        }
        if self.tokens == self.burst {
            self.at = now;
        }
    }
}

/// Wait before the next try after `failures` of them: 20 ms doubling to 1 s, for about ten seconds in all (a CNI that is
/// setting up the pod), then every 10 s (a namespace that is no pod's).
pub(super) fn retry_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        1..=6 => Duration::from_millis(20) * 2_u32.pow(failures - 1),
        7..=15 => Duration::from_secs(1),
        _ => Duration::from_secs(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10, start);
        for _ in 0..10 {
            assert!(throttle.take(start));
        }
        assert!(!throttle.take(start));
        assert_eq!(throttle.ready_at(start), start + Duration::from_millis(100));
        let later = start + Duration::from_millis(250);
        assert!(throttle.take(later));
        assert!(throttle.take(later));
        assert!(!throttle.take(later));
        throttle.give_back();
        assert!(throttle.take(later));
        // A long idle time gives one burst, no more.
        let much_later = start + Duration::from_secs(3600);
        let taken = (0..100).filter(|_| throttle.take(much_later)).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn tries_grow_rarer() {
        let mut last = Duration::ZERO;
        let mut total = Duration::ZERO;
        for failures in 0..16 {
            let wait = retry_after(failures);
            assert!(wait >= last);
            last = wait;
            total += wait;
        }
        assert!(total > Duration::from_secs(9) && total < Duration::from_secs(12));
        assert_eq!(retry_after(u32::MAX), Duration::from_secs(10));
    }
}
