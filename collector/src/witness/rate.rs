//! How often something may happen.

use std::time::Instant;

/// On average, and at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) a_second: f64,
    pub(super) burst: f64,
}

/// What is left of a rate.
#[derive(Debug)]
pub(super) struct Tokens {
    left: f64,
    at: Option<Instant>,
}

impl Tokens {
    pub(super) const fn new(rate: Rate) -> Self {
        Self {
            left: rate.burst,
            at: None,
        }
    }

    /// Takes one, if there is one at this rate.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let since = self
            .at
            .replace(now)
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.left = since.mul_add(rate.a_second, self.left).min(rate.burst);
        let is = self.left >= 1.0;
        if is {
            self.left -= 1.0;
        }
        is
    }
}
