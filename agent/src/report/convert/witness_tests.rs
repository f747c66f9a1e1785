#![allow(clippy::unwrap_used)]

use super::*;
use crate::observe::wall_offset_ns;

const OFFSET: i64 = 1_700_000_000_000_000_000;

fn asked() -> Inquiry {
    Inquiry {
        id: 7,
        whom: Whom::Node("n2".into()),
        question: Question {
            side: Side::Source,
            protocol: Protocol::Sctp,
            tag: 0xdead_beef,
            client: "10.0.0.1:40000".parse().unwrap(),
            server: "10.0.0.2:80".parse().unwrap(),
            pod: Some(Uid("pod".into())),
            asker: None,
            first: Instant(5),
            last: Instant(6_000_000_000),
        },
    }
}

#[test]
fn what_is_asked_and_answered_comes_back_as_it_went() {
    let inquiry = asked();
    let wire = inquiry_out(&inquiry, OFFSET);
    assert_eq!(wire.node, "n2");
    let (id, question) = question_in(wire.question.unwrap(), OFFSET).unwrap();
    assert_eq!((id, question), (7, inquiry.question));

    let mut words: Vec<Testimony> = Gap::ALL.map(Testimony::Incomplete).to_vec();
    words.push(Testimony::NotSeen(Absence { control: None }));
    words.push(Testimony::NotSeen(Absence {
        control: Some(Control {
            at: Instant(9),
            client: "[fd00::1]:1".parse().unwrap(),
            server: "[fd00::2]:2".parse().unwrap(),
        }),
    }));
    for outcome in [
        Seen::Accepted,
        Seen::Refused,
        Seen::Unreachable,
        Seen::Unanswered,
    ] {
        for pod in [
            None,
            Some((NamespacedName::new("shop", "db"), Uid("u".into()))),
        ] {
            words.push(Testimony::Seen(Sighting {
                pod,
                client: "10.0.0.9:1".parse().unwrap(),
                server: "10.0.0.2:80".parse().unwrap(),
                first: Instant(3),
                outcome,
            }));
        }
    }
    for word in words {
        let wire = testimony_out(3, &word, OFFSET);
        assert_eq!(testimony_in(wire, OFFSET), Ok((3, word)));
    }
}

#[test]
fn every_hostile_field_of_a_question_is_named() {
    let good = inquiry_out(&asked(), OFFSET).question.unwrap();
    type Poison = fn(&mut v1::Question);
    let cases: [(&str, Poison); 16] = [
        ("question.side: unspecified", |q| q.side = 0),
        ("question.side: 9 is unknown", |q| q.side = 9),
        ("question.protocol: unspecified", |q| q.protocol = 0),
        ("question.protocol: -1 is unknown", |q| q.protocol = -1),
        ("question.client_address: `10.0`", |q| {
            q.client_address = "10.0".to_owned()
        }),
        ("question.client_address: `\\u{1b}[2J`", |q| {
            q.client_address = "\u{1b}[2J".to_owned()
        }),
        ("question.client_port: 65536 is no port", |q| {
            q.client_port = 65_536
        }),
        ("question.server_address: not of the family", |q| {
            q.server_address = "::1".to_owned()
        }),
        ("question.pod_uid: 300 bytes long", |q| {
            q.pod_uid = "x".repeat(300)
        }),
        ("question.asker_uid: holds", |q| {
            q.asker_uid = "a\nb".to_owned()
        }),
        ("question.first: missing", |q| q.first = None),
        ("question.first: before this node's boot", |q| {
            q.first = Some(Timestamp::default())
        }),
        ("question.first: before this node's boot", |q| {
            q.first.as_mut().unwrap().seconds = i64::MIN
        }),
        ("question.last: -1 nanoseconds cannot be", |q| {
            q.last.as_mut().unwrap().nanos = -1
        }),
        ("question.last: 9223372036854775807 s cannot be", |q| {
            q.last.as_mut().unwrap().seconds = i64::MAX
        }),
        ("question.last: before `first`", |q| {
            q.first.as_mut().unwrap().seconds += 60
        }),
    ];
    for (said, poison) in cases {
        let mut wire = good.clone();
        poison(&mut wire);
        let malformed = question_in(wire, OFFSET).unwrap_err().to_string();
        assert!(malformed.starts_with(said), "{said}: {malformed}");
    }
    // Whatever the clocks say, it is refused and not computed with.
    for offset in [i64::MIN, 0, i64::MAX] {
        for seconds in [i64::MIN, -1, 0, 1, i64::MAX] {
            let mut wire = good.clone();
            wire.first = Some(Timestamp { seconds, nanos: 1 });
            let _ = question_in(wire, offset);
        }
    }
}

#[test]
fn every_hostile_field_of_a_testimony_is_named() {
    let sighting = || v1::Sighting {
        pod: None,
        client_address: "10.0.0.1".to_owned(),
        client_port: 1,
        server_address: "10.0.0.2".to_owned(),
        server_port: 2,
        first: Some(wall(Instant(1), OFFSET)),
        outcome: 1,
    };
    let cases = [
        ("testimony.word: missing", None),
        (
            "testimony.incomplete: unspecified",
            Some(Word::Incomplete(0)),
        ),
        (
            "testimony.incomplete: 77 is unknown",
            Some(Word::Incomplete(77)),
        ),
        (
            "testimony.not_seen.control.client_address",
            Some(Word::NotSeen(v1::Absence {
                control: Some(v1::Control::default()),
            })),
        ),
        (
            "testimony.seen.outcome: unspecified",
            Some(Word::Seen(v1::Sighting {
                outcome: 0,
                ..sighting()
            })),
        ),
        (
            "testimony.seen.pod.namespace: missing",
            Some(Word::Seen(v1::Sighting {
                pod: Some(v1::ObjectRef::default()),
                ..sighting()
            })),
        ),
        (
            "testimony.seen.first: missing",
            Some(Word::Seen(v1::Sighting {
                first: None,
                ..sighting()
            })),
        ),
    ];
    for (said, word) in cases {
        let (id, malformed) = testimony_in(v1::Testimony { id: 4, word }, OFFSET).unwrap_err();
        assert_eq!(id, 4);
        assert!(malformed.to_string().starts_with(said), "{malformed}");
    }
}

#[test]
fn the_offset_takes_monotonic_time_to_the_wall_and_back() {
    let offset = wall_offset_ns();
    let at = Instant(12_345_678_901);
    assert_eq!(moment("at", Some(wall(at, offset)), offset), Ok(at));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let monotonic = moment(
        "at",
        Some(Timestamp {
            seconds: now.as_secs().cast_signed(),
            nanos: now.subsec_nanos().cast_signed(),
        }),
        offset,
    )
    .unwrap();
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let difference = clock.tv_sec() - (monotonic.0 / 1_000_000_000).cast_signed();
    assert!(difference.abs() <= 5, "{difference} s apart");
}
