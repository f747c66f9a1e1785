#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::attempt::{Attempt, Phase};
use crate::witness::{Question, Side};

fn at(ms: u64) -> Instant {
    Instant(1_000 * Instant::SECOND + ms * 1_000_000)
}

fn key(netns: u64, tag: u32) -> AttemptKey {
    AttemptKey {
        netns: NetnsCookie(netns),
        protocol: Protocol::Tcp,
        client: "10.1.0.1:40000".parse().unwrap(),
        server: "10.1.0.2:80".parse().unwrap(),
        tag,
    }
}

fn ask(key: &AttemptKey, first: u64, last: u64) -> Question {
    Question {
        side: Side::Destination,
        protocol: key.protocol,
        tag: key.tag,
        client: key.client,
        server: key.server,
        pod: None,
        asker: None,
        first: at(first),
        last: at(last),
    }
}

fn seen(recent: &Recent, question: &Question) -> bool {
    recent.find(question, &|_| false).is_some()
}

#[test]
fn the_oldest_goes_and_what_is_forgotten_is_known() {
    let mut recent = Recent::new(10, u64::MAX);
    assert_eq!(recent.bound, 8, "a power of two, not more than asked");
    for n in 0..100_u32 {
        recent.begin(&key(1, n), at(u64::from(n) * 10), false);
        assert!(recent.len() <= 8 && recent.ring.len() <= 8);
    }
    for n in 0..100_u32 {
        let question = ask(&key(1, n), u64::from(n) * 10, u64::from(n) * 10);
        assert_eq!(seen(&recent, &question), n >= 92, "{n}");
        assert_eq!(recent.complete_from() <= question.first, n >= 92, "{n}");
    }
    assert_eq!(recent.evicted(), 92);
}

#[test]
fn what_was_repeated_is_kept_longer() {
    let mut recent = Recent::new(8, u64::MAX);
    let mut place = recent.begin(&key(1, 1_000), at(0), false);
    for n in 0..50_u32 {
        recent.begin(&key(1, n), at(u64::from(n) * 100), false);
        if n % 5 == 0 {
            place = recent.repeated(place, &key(1, 1_000), at(u64::from(n) * 100));
        }
    }
    let found = recent.find(&ask(&key(1, 1_000), 4_500, 4_500), &|_| false);
    let found = found.unwrap();
    assert_eq!((found.first(), found.last()), (at(0), at(4_500)));
    let place = recent.latest(&key(1, 1_000), WALK).unwrap();
    assert_eq!(recent.entry(place).unwrap().syns, 11);
    assert_eq!(recent.len(), 8);
}

#[test]
fn age_is_forgotten_too() {
    let mut recent = Recent::new(64, 60 * Instant::SECOND);
    for n in 0..10_u32 {
        recent.begin(&key(u64::from(n), n), at(u64::from(n) * 10_000), false);
    }
    recent.expire(at(95_000));
    assert_eq!(recent.len(), 6);
    assert!(recent.complete_from() > at(30_000) && recent.complete_from() <= at(40_000));
    assert_eq!(recent.evicted(), 0);
    recent.expire(at(1_000_000));
    assert_eq!(recent.len(), 0);
    // Still in order after that.
    recent.begin(&key(1, 1), at(1_000_000), false);
    assert!(seen(&recent, &ask(&key(1, 1), 1_000_000, 1_000_000)));
}

#[test]
fn numbers_wrap() {
    let mut recent = Recent::new(8, u64::MAX);
    recent.next = 0_u32.wrapping_sub(48);
    for n in 0..100_u32 {
        recent.begin(&key(1, n), at(u64::from(n)), false);
        let held = recent.of(NetnsCookie(1), at(0)).count();
        assert_eq!(held, (n as usize + 1).min(8), "{n}");
        assert!(seen(&recent, &ask(&key(1, n), 0, 100)));
    }
}

#[test]
fn the_best_of_several_with_one_tag() {
    let mut recent = Recent::new(64, u64::MAX);
    let tag = 7;
    let hairpin = AttemptKey {
        client: "10.1.0.254:1234".parse().unwrap(),
        ..key(1, tag)
    };
    recent.begin(&hairpin, at(0), false);
    recent.begin(&key(2, tag), at(1), false);
    let other_family = AttemptKey {
        client: "[fd00::1]:40000".parse().unwrap(),
        server: "[fd00::2]:80".parse().unwrap(),
        ..key(3, tag)
    };
    recent.begin(&other_family, at(2), false);
    let sctp = AttemptKey {
        protocol: Protocol::Sctp,
        ..key(4, tag)
    };
    recent.begin(&sctp, at(3), false);
    let netns = |question: &Question| {
        let stands = |ip: IpAddr| ip == "10.1.0.254".parse::<IpAddr>().unwrap();
        recent.find(question, &stands).map(|found| found.netns().0)
    };
    assert_eq!(netns(&ask(&key(9, tag), 0, 0)), Some(2));
    assert_eq!(netns(&ask(&hairpin, 0, 0)), Some(1));
    assert_eq!(netns(&ask(&other_family, 0, 0)), Some(3));
    assert_eq!(netns(&ask(&sctp, 0, 0)), Some(4));
}

#[test]
fn a_number_that_two_pods_chose_is_not_one_attempt() {
    let mut recent = Recent::new(64, u64::MAX);
    let other = AttemptKey {
        client: "10.1.0.77:40001".parse().unwrap(),
        ..key(1, 7)
    };
    recent.begin(&other, at(0), false);
    let question = ask(&key(1, 7), 0, 0);
    // The address of a pod is never what another one was translated to.
    assert!(matches!(
        recent.look(&question, &|_| false),
        Match::Unclear(_)
    ));
    // Any other address may be.
    assert!(recent.find(&question, &|_| true).is_some());
}

#[test]
fn a_match_out_of_time_is_unclear_and_a_number_chosen_again_long_after_is_another_attempt() {
    let mut recent = Recent::new(64, u64::MAX);
    recent.begin(&key(1, 7), at(0), false);
    let look = |first| recent.look(&ask(&key(1, 7), first, first), &|_| false);
    assert!(matches!(look(2_000), Match::Seen(_)));
    assert!(matches!(look(2_001), Match::Unclear(_)));
    // All is the same but the time: the clocks are wrong.
    assert!(matches!(look(90_000), Match::Unclear(_)));
    let again = AttemptKey {
        client: "10.1.0.1:41234".parse().unwrap(),
        server: "10.1.0.2:81".parse().unwrap(),
        ..key(1, 7)
    };
    let look = |first| recent.look(&ask(&again, first, first), &|_| true);
    assert!(matches!(look(30_001), Match::Nothing));
}

#[test]
fn a_flood_under_one_tag_does_not_make_questions_expensive() {
    let mut recent = Recent::new(4_096, u64::MAX);
    for n in 0..4_096_u32 {
        let mut other = key(1, 7);
        let port = u16::try_from(n).unwrap();
        other.client = SocketAddr::new("10.9.9.9".parse().unwrap(), port);
        recent.begin(&other, at(u64::from(n)), false);
    }
    assert!(matches!(
        recent.look(&ask(&key(1, 7), 0, 0), &|_| false),
        Match::Unclear(crate::witness::Gap::Overloaded)
    ));
}

#[test]
fn controls_are_answered_attempts_of_that_pod_and_time() {
    let mut recent = Recent::new(64, u64::MAX);
    for (n, outcome) in (0_u32..).zip([
        Outcome::Accepted,
        Outcome::Refused,
        Outcome::Unreachable,
        Outcome::Silent,
        Outcome::Accepted,
    ]) {
        for netns in [1, 2] {
            let key = key(netns, n * 10 + u32::try_from(netns).unwrap());
            let place = recent.begin(&key, at(u64::from(n) * 1_000), false);
            recent.answered(place, &key, outcome, at(u64::from(n) * 1_000 + 1));
        }
    }
    let controls: Vec<_> = recent
        .controls(NetnsCookie(2), at(0), at(3_500))
        .map(|found| (found.netns().0, found.first()))
        .collect();
    assert_eq!(controls, [(2, at(1_000)), (2, at(0))]);
}

fn crossed(departures: &Recent, arrival: &AttemptKey, ms: u64) -> bool {
    let AttemptKey {
        netns,
        protocol,
        client,
        server,
        ..
    } = *arrival;
    departures.crossed(netns, protocol, server, client, at(ms))
}

#[test]
fn two_ends_that_open_one_connection_cross() {
    let mut departures = Recent::new(64, u64::MAX);
    let mut arrivals = Recent::new(64, u64::MAX);
    let out = key(1, 1);
    let mirrored = AttemptKey {
        client: out.server,
        server: out.client,
        ..key(1, 2)
    };
    let place = departures.begin(&out, at(100), false);
    departures.answered(place, &out, Outcome::Accepted, at(120));
    arrivals.begin(&mirrored, at(110), false);
    for (ms, expected) in [(110, true), (90, false), (130, false)] {
        assert_eq!(crossed(&departures, &mirrored, ms), expected, "{ms}");
    }
    // The other namespace, another port.
    for other in [
        AttemptKey {
            netns: NetnsCookie(2),
            ..mirrored
        },
        AttemptKey {
            client: "10.1.0.2:81".parse().unwrap(),
            ..mirrored
        },
    ] {
        assert!(!crossed(&departures, &other, 110));
    }
    let mut departure = Attempt::begin(out, at(100));
    assert!(arrivals.crosses(&departure));
    departure.phase = Phase::Ended(Outcome::Refused);
    departure.answered = at(105);
    assert!(!arrivals.crosses(&departure), "it was over before");
}

#[test]
fn what_was_written_down_again_hides_nothing_that_came_before_it() {
    let mut recent = Recent::new(8, u64::MAX);
    let old = key(1, 1_000);
    let place = recent.begin(&old, at(0), false);
    recent.repeated(place, &old, at(100));
    for n in 0..8_u32 {
        let key = key(1, n);
        let place = recent.begin(&key, at(60_000 + u64::from(n)), false);
        recent.answered(place, &key, Outcome::Accepted, at(60_000 + u64::from(n)));
    }
    // It was the oldest when the last one came, and is the second youngest since.
    assert!(seen(&recent, &ask(&old, 0, 100)));
    let controls = recent.controls(NetnsCookie(1), at(50_000), at(70_000));
    assert_eq!(controls.count(), 7);
}

#[test]
fn what_is_decided_is_known_for_as_long_as_it_may_be_repeated() {
    let mut recent = Recent::new(8, u64::MAX);
    let (often, once, open) = (key(1, 1_000), key(1, 1_001), key(1, 1_002));
    for (key, decided) in [(often, true), (once, true), (open, false)] {
        let place = recent.begin(&key, at(0), false);
        if key != once {
            recent.repeated(place, &key, at(1_000));
        }
        if decided {
            recent.decide(place, &key);
        }
    }
    // Two SYNs: the third is 2 s after the second, or 5 if one was lost on the way.
    let known = |recent: &Recent, key, ms| recent.decided(key, at(ms)).is_some();
    for (key, ms, expected) in [
        (&often, 6_000, true),
        (&often, 6_001, false),
        (&once, 3_000, true),
        (&once, 3_001, false),
        (&open, 10, false),
    ] {
        assert_eq!(known(&recent, key, ms), expected, "{key:?} {ms}");
    }
    // Memory is overrun: what may still come again stays, the others go.
    for n in 0..40_u32 {
        recent.begin(&key(1, n), at(2_000 + u64::from(n) * 100), false);
    }
    assert!(known(&recent, &often, 5_999));
    assert!(!known(&recent, &once, 2_000));
    for n in 40..80_u32 {
        recent.begin(&key(1, n), at(6_100 + u64::from(n)), false);
    }
    assert!(!known(&recent, &often, 5_999));
    assert_eq!(recent.len(), 8);
}

#[test]
fn a_memory_full_of_what_may_come_again_takes_in_what_is_new() {
    let mut recent = Recent::new(16, u64::MAX);
    for n in 0..1_000_u32 {
        let key = key(1, n);
        let place = recent.begin(&key, at(u64::from(n)), false);
        recent.repeated(place, &key, at(u64::from(n)));
        recent.decide(place, &key);
        assert!(recent.decided(&key, at(u64::from(n))).is_some());
        assert!(recent.len() <= 16);
    }
}

#[test]
fn what_may_be_repeated_after_a_restart_is_told() {
    let mut recent = Recent::new(64, u64::MAX);
    for n in 0..10_u32 {
        let key = key(1, n);
        let place = recent.begin(&key, at(u64::from(n) * 1_000), false);
        if n != 8 {
            recent.decide(place, &key);
        }
        if n == 6 {
            recent.repeated(place, &key, at(7_000));
        }
    }
    let mut told: Vec<_> = recent
        .repeatable(at(10_000))
        .map(|(key, last, syns)| (key.tag, last, syns))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(6, at(7_000), 2), (9, at(9_000), 1)]);
    let mut again = Recent::new(64, u64::MAX);
    for (tag, last, syns) in told {
        again.restore(&key(1, tag), last, syns);
    }
    assert!(again.decided(&key(1, 6), at(12_000)).is_some());
    assert!(again.decided(&key(1, 9), at(12_001)).is_none());
}

#[test]
fn a_flood_of_one_kind_does_not_make_attempts_expensive_to_find() {
    let mut recent = Recent::new(4_096, u64::MAX);
    let one = key(1, 7);
    let place = recent.begin(&one, at(0), false);
    recent.decide(place, &one);
    for n in 0..2_000_u16 {
        let client = SocketAddr::new("10.9.9.9".parse().unwrap(), n);
        recent.begin(&AttemptKey { client, ..one }, at(1), false);
    }
    // Behind all those on the chain of its tag, the first on that of its ends.
    // Some others may share a chain by chance.
    assert_eq!(recent.latest(&one, 16), Some(place));
    for n in 0..2_000_u32 {
        recent.begin(&key(1, 100 + n), at(1), false);
    }
    let other = key(1, 8);
    recent.begin(&other, at(1), false);
    assert_eq!(recent.latest(&other, 16), Some(recent.next.wrapping_sub(1)));
    assert_eq!(recent.latest(&key(1, 9), 8), None);
}

#[test]
fn addresses_of_both_families_are_kept_and_given_free() {
    let mut recent = Recent::new(8, 60 * Instant::SECOND);
    let wide = |n: u32| {
        let client = SocketAddr::new(
            std::net::Ipv6Addr::from_bits(u128::from(n) << 64).into(),
            40_000,
        );
        let server = "[fd00::2]:80".parse().unwrap();
        AttemptKey {
            client,
            server,
            ..key(1, n)
        }
    };
    for n in 0..100_u32 {
        let key = if n.is_multiple_of(3) {
            key(1, n)
        } else {
            wide(n)
        };
        let place = recent.begin(&key, at(u64::from(n)), false);
        if n.is_multiple_of(5) {
            recent.repeated(place, &key, at(u64::from(n) + 1));
        }
        let found = recent.find(&ask(&key, u64::from(n), u64::from(n)), &|_| false);
        let found = found.unwrap();
        assert_eq!((found.client(), found.server()), (key.client, key.server));
        assert!(recent.wide.held() <= 8, "{n}");
    }
    recent.expire(at(1_000_000));
    assert_eq!((recent.len(), recent.wide.held()), (0, 0));
}
