#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::attempt::{Signal, read};
use crate::record::NetnsCookie;

fn small(side: Side) -> Attempts {
    let settings = Settings {
        max_attempts: 16,
        max_early: 8,
        max_remembered: 16,
        ..Settings::default()
    };
    Attempts::new(side, &settings)
}

fn at(ms: u64) -> Instant {
    Instant(Instant::SECOND + ms * 1_000_000)
}

fn key(isn: u32) -> AttemptKey {
    AttemptKey {
        netns: NetnsCookie(1),
        protocol: Protocol::Tcp,
        client: "[fd00::1]:40000".parse().unwrap(),
        server: "[fd00::2]:80".parse().unwrap(),
        tag: isn,
    }
}

/// SYNs at these times, then an answer; when and how the attempt ends, looked at every 10 ms.
fn end(side: Side, syns: &[u64], answer: Option<(u64, Outcome)>) -> (u64, Outcome) {
    let mut table = small(side);
    let mut due = Vec::new();
    let mut ended = None;
    for now in (0..200_000).step_by(10) {
        if syns.contains(&now) {
            table.syn(key(7), at(now));
        }
        if let Some((when, outcome)) = answer
            && when == now
        {
            table.answer(key(7), outcome, Told::Plain, at(now));
        }
        table.due(at(now), &mut due);
        for slot in due.clone() {
            let attempt = table.slot(slot).unwrap();
            let Phase::Ended(outcome) = attempt.phase else {
                panic!("{attempt:?}");
            };
            assert!(ended.is_none(), "it ends once");
            assert_eq!(attempt.first, at(syns[0]));
            ended = Some((now, outcome));
            table.close(slot);
        }
    }
    assert_eq!(table.len(), 0, "it is forgotten in the end");
    assert!(table.next_look().is_none());
    ended.unwrap()
}

#[test]
fn states() {
    use Outcome::{Accepted, Refused, Silent, Unreachable};
    use Side::{Destination, Source};
    for (side, syns, answer, expected) in [
        (Destination, &[0][..], Some((10, Accepted)), (10, Accepted)),
        (Destination, &[0], Some((10, Refused)), (10, Refused)),
        (Destination, &[0], None, (2_000, Silent)),
        (Destination, &[0, 1_000], None, (3_000, Silent)),
        (
            Destination,
            &[0, 1_000],
            Some((1_010, Accepted)),
            (1_010, Accepted),
        ),
        // Repetitions after the end are the same attempt.
        (
            Destination,
            &[0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000],
            Some((10, Accepted)),
            (10, Accepted),
        ),
        (Source, &[0], Some((500, Accepted)), (500, Accepted)),
        (Source, &[0], Some((500, Refused)), (500, Refused)),
        (Source, &[0], Some((500, Unreachable)), (500, Unreachable)),
        (Source, &[0], None, (8_000, Silent)),
        (Source, &[0, 1_000], None, (3_000, Silent)),
        (
            Source,
            &[0, 1_000, 2_000, 3_500, 5_400, 7_200],
            None,
            (8_000, Silent),
        ),
    ] {
        // A deadline that has moved nearer may be noticed up to two seconds late.
        let (when, outcome) = end(side, syns, answer);
        assert_eq!(outcome, expected.1, "{side:?} {syns:?} {answer:?}");
        assert!(
            (expected.0..=expected.0 + 2_000).contains(&when),
            "{side:?} {syns:?} {answer:?} ended at {when}"
        );
    }
}

#[test]
fn an_acceptance_outweighs_a_reset() {
    let mut table = small(Side::Destination);
    let mut due = Vec::new();
    table.syn(key(1), at(0));
    table.answer(key(1), Outcome::Refused, Told::Plain, at(2));
    table.answer(key(1), Outcome::Accepted, Told::Plain, at(1));
    table.due(at(3), &mut due);
    assert_eq!(due.len(), 1);
    assert_eq!(
        table.slot(due[0]).unwrap().phase,
        Phase::Ended(Outcome::Accepted)
    );
}

#[test]
fn a_number_chosen_again_is_another_attempt_even_if_nobody_has_looked_meanwhile() {
    let mut table = small(Side::Destination);
    let mut due = Vec::new();
    table.syn(key(1), at(0));
    table.answer(key(1), Outcome::Accepted, Told::Plain, at(1));
    table.due(at(2), &mut due);
    table.close(due[0]);
    table.syn(key(1), at(2_900));
    assert_eq!(table.begun(), 1);
    table.syn(key(1), at(60_000));
    assert_eq!((table.begun(), table.len()), (2, 1));
    table.due(at(62_000), &mut due);
    let attempt = table.slot(due[0]).unwrap();
    assert_eq!((attempt.first, attempt.syns), (at(60_000), 1));
    assert_eq!(attempt.phase, Phase::Ended(Outcome::Silent));
}

#[test]
fn an_answer_does_not_wait_long_for_its_syn() {
    let mut table = small(Side::Destination);
    let mut due = Vec::new();
    table.answer(key(1), Outcome::Accepted, Told::Plain, at(0));
    table.due(at(500), &mut due);
    table.syn(key(1), at(501));
    table.due(at(502), &mut due);
    assert!(
        due.is_empty(),
        "an answer of half a second before is another's"
    );
}

#[test]
fn what_is_open_can_be_read_again() {
    for side in [Side::Destination, Side::Source] {
        let mut table = small(side);
        let mut due = Vec::new();
        table.syn(key(1), at(0));
        table.syn(key(1), at(1_000));
        table.syn(key(2), at(1_400));
        table.answer(key(2), Outcome::Accepted, Told::Plain, at(1_401));
        table.due(at(1_402), &mut due);
        table.close(due[0]);
        table.syn(key(3), at(1_403));
        table.answer(key(3), Outcome::Refused, Told::Plain, at(1_404));
        table.answer(key(4), Outcome::Accepted, Told::Plain, at(1_405));

        let mut records = Vec::new();
        table.open(at(1_410), 100, &mut records);
        let mut again = small(side);
        for record in records {
            match read(&record) {
                Some((s, key, Signal::Syn)) if s == side => again.syn(key, record.at),
                Some((s, key, Signal::Answer(outcome, told))) if s == side => {
                    again.answer(key, outcome, told, record.at);
                }
                Some((s, key, Signal::Counted(syns))) if s == side => {
                    again.counted(key, record.at, syns);
                }
                other => panic!("{other:?} of {record:?}"),
            }
        }
        again.syn(key(2), at(2_400));
        again.syn(key(4), at(1_404));
        again.due(at(1_410), &mut due);
        let ended: Vec<_> = due
            .iter()
            .map(|slot| again.slot(*slot).unwrap())
            .map(|attempt| (attempt.key.tag, attempt.phase))
            .collect();
        assert_eq!(
            ended,
            [
                (3, Phase::Ended(Outcome::Refused)),
                (4, Phase::Ended(Outcome::Accepted))
            ]
        );
        let open = again
            .slots
            .iter()
            .flatten()
            .find(|a| a.key.tag == 1)
            .unwrap();
        assert_eq!((open.first, open.last, open.syns), (at(0), at(1_000), 2));
    }
}

#[test]
fn what_has_its_verdict_takes_no_place() {
    let mut table = small(Side::Destination);
    let mut due = Vec::new();
    for n in 0..20_000_u32 {
        let now = u64::from(n);
        table.syn(key(n), at(now));
        table.answer(key(n), Outcome::Accepted, Told::Plain, at(now));
        table.due(at(now), &mut due);
        assert_eq!(due.len(), 1, "{n}");
        table.close(due[0]);
        assert_eq!((table.len(), table.slots.len()), (0, 1));
        assert!(table.looks.len() <= IDLE_LOOKS + 1);
        // Its repetition is known, and an answer that is late is its own.
        table.syn(key(n), at(now));
        table.answer(key(n), Outcome::Refused, Told::Plain, at(now));
        assert_eq!(table.begun(), u64::from(n) + 1);
        assert_eq!(table.early.iter().count(), 0);
    }
    assert_eq!(table.take_evicted(), 0);
}

#[test]
fn a_look_at_what_has_left_is_none_at_what_came_after_it() {
    let mut table = small(Side::Destination);
    let mut due = Vec::new();
    table.syn(key(1), at(0));
    table.answer(key(1), Outcome::Accepted, Told::Plain, at(1));
    table.due(at(1), &mut due);
    table.close(due[0]);
    // In the same slot.
    table.syn(key(2), at(1_900));
    assert_eq!(table.slots.len(), 1);
    for now in (1_900..3_900).step_by(10) {
        table.due(at(now), &mut due);
        assert!(due.is_empty(), "{now}");
        assert!(table.looks.len() <= 2);
    }
    table.due(at(3_900), &mut due);
    assert_eq!(due.len(), 1);
    // At the bound those that are there go, not those that left.
    for n in 10..30 {
        table.syn(key(n), at(3_950));
    }
    assert_eq!((table.len(), table.take_evicted()), (16, 5));
}
