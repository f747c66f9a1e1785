//! What must come together before it is said that something allowed does not get through: a positive control, and several
//! attempts that failed alike.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use polproof_policy::{Protocol, Uid};

use crate::finding::{FindingKind, Sample};
use crate::record::Instant;
use crate::witness::Absence;

/// Attempts that must have failed.
const ATTEMPTS: usize = 3;
/// Packets that they must have lost together: a bad network loses one of ten, and a client that gives up within a second sends one.
const PACKETS: u32 = 6;
/// Within this time.
const WINDOW: u64 = 60 * Instant::SECOND;
/// Two of them at least so far apart.
const APART: u64 = Instant::SECOND;
/// So often it must have failed with something else getting through in between: a network that is away for a while, and again, blocks
/// nobody in particular.
const TIMES: usize = 3;
/// How near in time to an attempt that failed though it was allowed something else must have got through: a network that was away for
/// a while blocks nobody in particular.
const SAME: u64 = 2 * Instant::SECOND;
/// How near in time to one that was denied.
pub(crate) const NEAR: u64 = 10 * Instant::SECOND;
/// Attempts remembered of one connection.
const REMEMBERED: usize = 8;

/// Whether something else got through at about that time.
pub(crate) fn shows_the_way(absence: &Absence, at: Instant) -> bool {
    absence
        .control
        .is_some_and(|control| control.at.since(at) <= NEAR && at.since(control.at) <= NEAR)
}

/// A connection without its ephemeral port, between two pods, and what may be wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Doubt {
    pub(crate) kind: FindingKind,
    pub(crate) source: Uid,
    pub(crate) destination: Uid,
    pub(crate) destination_ip: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// An attempt that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) sample: Sample,
    /// Its last packet.
    pub(crate) last: Instant,
    /// How many it had. One that was rejected was not lost, whatever their number.
    pub(crate) packets: u32,
    /// When something else got through, near it.
    pub(crate) control: Instant,
}

/// Whether attempts that failed are enough.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Enough {
    /// They are too few.
    TooFew,
    /// What got through did so too seldom between them: the way may have been cut meanwhile.
    Uncontrolled,
    /// These are to be counted.
    Count(Vec<Sample>),
}

/// How often it failed between one time that something else got through and the next.
fn times_failed(all: &[&Failed]) -> usize {
    let mut events: Vec<(Instant, bool)> = all
        .iter()
        .flat_map(|failed| {
            [
                (failed.sample.syn.at, true),
                (failed.last, true),
                (failed.control, false),
            ]
        })
        .collect();
    events.sort_unstable();
    events.dedup_by_key(|(_, failed)| *failed);
    events.iter().filter(|(_, failed)| *failed).count()
}

/// Attempts that failed though they were allowed, by connection.
#[derive(Debug)]
pub(crate) struct Doubts {
    bound: usize,
    held: HashMap<Doubt, Held>,
}

#[derive(Debug, Default)]
struct Held {
    failed: VecDeque<Failed>,
    certain: bool,
}

impl Doubts {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(1),
            held: HashMap::new(),
        }
    }

    /// Takes in an attempt that failed. Gives those that a finding now has to count.
    pub(crate) fn add(&mut self, doubt: Doubt, failed: Failed) -> Enough {
        let at = failed.sample.syn.at;
        if self.held.len() >= self.bound && !self.held.contains_key(&doubt) {
            self.expire(at);
            if self.held.len() >= self.bound {
                return Enough::TooFew;
            }
        }
        let held = self.held.entry(doubt).or_default();
        held.failed
            .retain(|failed| failed.sample.syn.at.plus(WINDOW) > at);
        if held.failed.is_empty() {
            held.certain = false;
        }
        held.failed.push_back(failed);
        if held.failed.len() > REMEMBERED {
            held.failed.pop_front();
        }
        if held.certain {
            return Enough::Count(vec![failed.sample]);
        }
        let times = held.failed.iter().map(|failed| failed.sample.syn.at);
        let first = times.clone().min().unwrap_or(at);
        let last = times.max().unwrap_or(at);
        let packets: u32 = held.failed.iter().map(|failed| failed.packets).sum();
        if held.failed.len() < ATTEMPTS || packets < PACKETS || last.since(first) < APART {
            return Enough::TooFew;
        }
        let beside = |failed: &&Failed| {
            let from = failed.sample.syn.at.minus(SAME);
            (from..=failed.last.plus(SAME)).contains(&failed.control)
        };
        let beside: Vec<&Failed> = held.failed.iter().filter(beside).collect();
        if beside.len() < ATTEMPTS || times_failed(&beside) < TIMES {
            return Enough::Uncontrolled;
        }
        held.certain = true;
        Enough::Count(held.failed.iter().map(|failed| failed.sample).collect())
    }

    /// The connection works: what failed before was something else.
    pub(crate) fn dispel(&mut self, doubt: &Doubt) {
        self.held.remove(doubt);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.held.retain(|_, held| {
            held.failed
                .back()
                .is_some_and(|last| last.sample.syn.at.plus(WINDOW) > now)
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::finding::Answer;
    use crate::record::{Crossing, Event, NetnsCookie, Record};
    use crate::witness::Control;

    fn doubt() -> Doubt {
        Doubt {
            kind: FindingKind::OverBlocked,
            source: Uid("a".into()),
            destination: Uid("b".into()),
            destination_ip: "10.0.0.2".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 80,
        }
    }

    fn failed(ms: u64) -> Failed {
        let sample = Sample {
            syn: Record {
                at: Instant(ms * 1_000_000),
                netns: NetnsCookie(1),
                crossing: Crossing::Out,
                protocol: Protocol::Tcp,
                source: "10.0.0.1:1".parse().unwrap(),
                destination: "10.0.0.2:80".parse().unwrap(),
                event: Event::Syn { isn: 1 },
            },
            answer: Answer::Dropped,
        };
        Failed {
            sample,
            last: sample.syn.at,
            packets: 2,
            control: sample.syn.at.plus(1),
        }
    }

    fn count(enough: Enough) -> usize {
        match enough {
            Enough::Count(samples) => samples.len(),
            Enough::TooFew | Enough::Uncontrolled => 0,
        }
    }

    fn counted(times: &[u64]) -> Vec<usize> {
        let mut held = Doubts::new(4);
        let add = |ms: &u64| count(held.add(doubt(), failed(*ms)));
        times.iter().map(add).collect()
    }

    #[test]
    fn three_attempts_within_a_minute_two_of_them_a_second_apart() {
        assert_eq!(counted(&[0, 500, 1_000, 1_100]), [0, 0, 3, 1]);
        assert_eq!(counted(&[0, 100, 200, 300, 1_000]), [0, 0, 0, 0, 5]);
        assert_eq!(
            counted(&[0, 30_000, 60_000, 61_000, 62_000]),
            [0, 0, 0, 3, 1]
        );
        // After a minute of nothing it begins anew.
        assert_eq!(counted(&[0, 1_000, 2_000, 63_000, 64_000]), [0, 0, 3, 0, 0]);
    }

    #[test]
    fn what_works_again_is_doubted_no_more() {
        let mut held = Doubts::new(4);
        for ms in [0, 1_000] {
            assert_eq!(held.add(doubt(), failed(ms)), Enough::TooFew);
        }
        held.dispel(&doubt());
        assert_eq!(held.add(doubt(), failed(2_000)), Enough::TooFew);
    }

    #[test]
    fn clients_that_give_up_at_once_need_more_attempts() {
        let mut held = Doubts::new(4);
        let add = |ms: u64| {
            let packets = 1;
            count(held.add(
                doubt(),
                Failed {
                    packets,
                    ..failed(ms)
                },
            ))
        };
        let times = [0, 1_000, 2_000, 3_000, 4_000, 5_000];
        assert_eq!(
            times.map(add),
            [0, 0, 0, 0, 0, 6],
            "a network may lose five packets"
        );
    }

    #[test]
    fn one_control_before_all_of_them_is_a_cable_that_was_cut() {
        let mut held = Doubts::new(4);
        let mut add = |ms, control: u64| {
            let control = Instant(control * 1_000_000);
            held.add(
                doubt(),
                Failed {
                    control,
                    ..failed(ms)
                },
            )
        };
        assert_eq!(add(1_000, 900), Enough::TooFew);
        assert_eq!(add(2_000, 900), Enough::TooFew);
        assert_eq!(add(3_000, 900), Enough::Uncontrolled);
        assert_eq!(add(4_000, 7_000), Enough::Uncontrolled);
        // Nor does it take more than two outages.
        assert_eq!(add(5_000, 4_500), Enough::Uncontrolled);
        assert_eq!(count(add(8_000, 7_000)), 6);
        assert_eq!(count(add(9_000, 900)), 1);
    }

    #[test]
    fn what_gets_through_while_an_attempt_repeats_itself_parts_it() {
        let mut held = Doubts::new(4);
        let mut add = |ms: u64, last: u64, control: u64| {
            let at = |ms| Instant(ms * 1_000_000);
            let failed = Failed {
                last: at(last),
                control: at(control),
                ..failed(ms)
            };
            held.add(doubt(), failed)
        };
        assert_eq!(add(1_000, 4_000, 2_000), Enough::TooFew);
        assert_eq!(add(1_500, 4_500, 2_000), Enough::TooFew);
        assert_eq!(add(3_000, 3_000, 2_000), Enough::Uncontrolled);
        assert_eq!(count(add(5_000, 6_000, 4_700)), 4);
    }

    #[test]
    fn memory_is_bounded() {
        let mut held = Doubts::new(4);
        for port in 0..100 {
            held.add(Doubt { port, ..doubt() }, failed(0));
        }
        assert_eq!(held.held.len(), 4);
    }

    #[test]
    fn a_control_is_near_in_time() {
        let at = Instant(100 * Instant::SECOND);
        let absence = |seconds: u64| Absence {
            control: Some(Control {
                at: Instant(seconds * Instant::SECOND),
                client: "10.0.0.9:1".parse().unwrap(),
                server: "10.0.0.2:80".parse().unwrap(),
            }),
        };
        assert!(!shows_the_way(&Absence { control: None }, at));
        assert!(shows_the_way(&absence(90), at) && shows_the_way(&absence(110), at));
        assert!(!shows_the_way(&absence(89), at) && !shows_the_way(&absence(111), at));
    }
}
