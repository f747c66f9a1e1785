//! How far an agent's clock is from ours.
//!
//! Every heartbeat says when it was sent. Arrival less that is the difference of the clocks and the time on the way; the least of many is
//! the one with the least time on the way. What is left of it, some milliseconds, is far below what a witness allows for.
//!
//! A wrong offset is a question about the wrong time, and "not seen" would be said of it in good faith. So there is none as long as
//! heartbeats do not agree: the two least must, and one of the two newest must not be far from them. One that waited in a queue agrees with no
//! other, since those behind it waited less.

use std::collections::VecDeque;

use crate::finding::Wall;

/// Heartbeats that count: about a minute of them.
const WINDOW: usize = 32;
/// So many in a row that agree on being later than the least by more than [`STEP`]: the clock was set, it is not the network.
const AGREEING: usize = 4;
/// Nanoseconds.
const STEP: i64 = 250_000_000;
/// How far the two least may be apart, in nanoseconds. Less than the time between two heartbeats.
const AGREE: i64 = 100_000_000;
/// How far the two newest may be from the least, in nanoseconds: what a witness allows for around an attempt.
const DOUBT: i64 = 1_000_000_000;

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
        let (mut least, mut second) = (i64::MAX, i64::MAX);
        for seen in &self.seen {
            if *seen < least {
                (least, second) = (*seen, least);
            } else {
                second = second.min(*seen);
            }
        }
        let newest = self.seen.iter().rev().take(2).min()?;
        let agree = self.seen.len() > 1
            && second.saturating_sub(least) <= AGREE
            && newest.saturating_sub(least) <= DOUBT;
        agree.then_some(least)
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
        // One that was late changes nothing; if all are, it may be the clock.
        beats(&mut clock, 5_000 * MS, &[1_800 * MS]);
        assert_eq!(clock.offset(), Some(-5_000 * MS + 3 * MS));
        beats(&mut clock, 5_000 * MS, &[1_700 * MS]);
        assert_eq!(clock.offset(), None);
        beats(&mut clock, 5_000 * MS, &[9 * MS]);
        assert_eq!(clock.offset(), Some(-5_000 * MS + 3 * MS));
    }

    #[test]
    fn what_waited_in_a_queue_says_nothing() {
        let mut clock = Clock::default();
        // Sent every 250 ms, read all at once; then the queue is empty.
        beats(&mut clock, 0, &[5_000 * MS, 4_750 * MS, 4_500 * MS]);
        assert_eq!(clock.offset(), None);
        beats(&mut clock, 0, &[4 * MS]);
        assert_eq!(clock.offset(), None);
        beats(&mut clock, 0, &[6 * MS]);
        assert_eq!(clock.offset(), Some(4 * MS));
    }

    #[test]
    fn a_clock_that_is_set_is_followed_both_ways() {
        let mut clock = Clock::default();
        beats(&mut clock, 0, &[2 * MS; 40]);
        // Ahead: a second one must agree.
        beats(&mut clock, 60_000 * MS, &[2 * MS]);
        assert_eq!(clock.offset(), None);
        beats(&mut clock, 60_000 * MS, &[3 * MS]);
        assert_eq!(clock.offset(), Some(-60_000 * MS + 2 * MS));
        // Back: four must; until then there is none.
        beats(&mut clock, 0, &[2 * MS; 2]);
        assert_eq!(clock.offset(), None);
        beats(&mut clock, 0, &[2 * MS; 2]);
        assert_eq!(clock.offset(), Some(2 * MS));
    }

    #[test]
    fn hostile_times_are_only_numbers() {
        let mut clock = Clock::default();
        for sent in [i64::MIN, i64::MAX, 0] {
            clock.heartbeat(Wall(sent), Wall(i64::MAX));
            clock.heartbeat(Wall(sent), Wall(i64::MIN));
        }
        let _ = clock.offset();
    }
}
