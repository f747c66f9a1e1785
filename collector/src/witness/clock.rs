//! How far an agent's clock is from ours.
//!
//! Every heartbeat says when it was sent. Arrival less that is the difference of the clocks and the time on the way; the least of many is
//! the one with the least time on the way. What is left of it, some milliseconds, is far below what a witness allows for.

use std::collections::VecDeque;

use crate::finding::Wall;

/// Heartbeats that count: about a minute of them.
const WINDOW: usize = 32;
/// So many in a row that agree on being later than the least by more than [`STEP`]: the clock was set, it is not the network.
const AGREEING: usize = 4;
/// Nanoseconds.
const STEP: i64 = 250_000_000;

/// An estimate; none before the first heartbeat.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    /// Arrival less sending, newest last.
    seen: VecDeque<i64>,
}

impl Clock {
    /// A heartbeat came.
    pub(super) fn heartbeat(&mut self, sent: Wall, arrived: Wall) {
        if self.seen.len() == WINDOW {
            self.seen.pop_front();
        }
        self.seen.push_back(arrived.0.saturating_sub(sent.0));
        let newest = self.seen.len().saturating_sub(AGREEING);
        if newest > 0
            && let Some(of_newest) = self.seen.range(newest..).min()
            && let Some(least) = self.seen.iter().min()
            && of_newest.saturating_sub(*least) > STEP
        {
            self.seen.drain(..newest);
        }
    }

    /// What to add to a time of the agent's clock to have ours, in nanoseconds.
    pub(super) fn offset(&self) -> Option<i64> {
        self.seen.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn beats(clock: &mut Clock, ahead: i64, delays: &[i64]) {
        for (delay, at) in delays.iter().zip(1_700_000_000_i64..) {
            let ours = at * Wall::SECOND;
            clock.heartbeat(Wall(ours + ahead), Wall(ours + delay));
        }
    }

    #[test]
    fn the_least_delay_counts() {
        let mut clock = Clock::default();
        assert_eq!(clock.offset(), None);
        beats(&mut clock, 5_000 * MS, &[40 * MS, 3 * MS, 900 * MS, 7 * MS]);
        assert_eq!(clock.offset(), Some(-5_000 * MS + 3 * MS));
        // A congested way for a while changes nothing.
        beats(&mut clock, 5_000 * MS, &[800 * MS, 700 * MS, 3_000 * MS]);
        assert_eq!(clock.offset(), Some(-5_000 * MS + 3 * MS));
    }

    #[test]
    fn a_clock_that_is_set_is_followed_both_ways() {
        let mut clock = Clock::default();
        beats(&mut clock, 0, &[2 * MS; 40]);
        // Ahead: the difference is less at once.
        beats(&mut clock, 60_000 * MS, &[2 * MS]);
        assert_eq!(clock.offset(), Some(-60_000 * MS + 2 * MS));
        // Back: believed when heartbeats agree.
        beats(&mut clock, 0, &[2 * MS; 3]);
        assert_eq!(clock.offset(), Some(-60_000 * MS + 2 * MS));
        beats(&mut clock, 0, &[2 * MS]);
        assert_eq!(clock.offset(), Some(2 * MS));
    }

    #[test]
    fn hostile_times_are_only_numbers() {
        let mut clock = Clock::default();
        for sent in [i64::MIN, i64::MAX, 0] {
            clock.heartbeat(Wall(sent), Wall(i64::MAX));
            clock.heartbeat(Wall(sent), Wall(i64::MIN));
        }
        assert!(clock.offset().is_some());
    }
}
