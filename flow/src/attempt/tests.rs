#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::sides::{Ends, Sides};
use super::*;
use crate::settings::Settings;

const T: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant((T + ms) * 1_000_000)
}

fn key(protocol: Protocol, tag: u32) -> AttemptKey {
    AttemptKey {
        netns: NetnsCookie(1),
        protocol,
        client: "10.1.0.1:40000".parse().unwrap(),
        server: "10.1.0.2:80".parse().unwrap(),
        tag,
    }
}

fn way(side: Side) -> (Crossing, Crossing) {
    match side {
        Side::Destination => (Crossing::In, Crossing::Out),
        Side::Source => (Crossing::Out, Crossing::In),
    }
}

fn there(side: Side, key: &AttemptKey, ms: u64, event: Event) -> Record {
    record_of(key, way(side).0, at(ms), event)
}

fn back(side: Side, key: &AttemptKey, ms: u64, event: Event) -> Record {
    Record {
        source: key.server,
        destination: key.client,
        ..record_of(key, way(side).1, at(ms), event)
    }
}

fn icmp(side: Side, key: &AttemptKey, ms: u64, from: &str, icmp: (u8, u8)) -> Record {
    let event = Event::Unreachable {
        reporter: from.parse().unwrap(),
        icmp_type: icmp.0,
        code: icmp.1,
        quoted_sequence: key.tag,
    };
    record_of(key, way(side).1, at(ms), event)
}

/// How the attempts of these records end.
fn ends(records: &[Record]) -> Vec<(u32, Instant, u8, Outcome)> {
    let mut sides = Sides::new(&Settings::default());
    let mut now = at(0);
    for record in records {
        while now < record.at {
            now = record.at.min(now.plus(Instant::SECOND / 10));
            sides.tick(now);
        }
        sides.read(record);
    }
    let last = records.iter().map(|record| record.at).max().unwrap();
    for n in 0..200 {
        sides.tick(last.plus(n * Instant::SECOND / 10));
    }
    sides
        .ends
        .iter()
        .map(|((_, key, first), (syns, _, outcome))| (key.tag, *first, *syns, *outcome))
        .collect()
}

#[test]
fn an_init_is_answered_by_an_init_ack_refused_by_an_abort_and_repeated() {
    use Outcome::{Accepted, Refused, Silent, Unreachable};
    let k = key(Protocol::Sctp, 9);
    let init = Event::Init { tag: 9 };
    for side in [Side::Destination, Side::Source] {
        let first = there(side, &k, 0, init);
        for (records, syns, expected) in [
            (
                vec![first, back(side, &k, 1, Event::InitAck { tag: 9 })],
                1,
                Accepted,
            ),
            (
                vec![first, back(side, &k, 1, Event::Abort { tag: 9 })],
                1,
                Refused,
            ),
            // Of another association.
            (
                vec![first, back(side, &k, 1, Event::InitAck { tag: 8 })],
                1,
                Silent,
            ),
            (
                vec![first, back(side, &k, 1, Event::Abort { tag: 8 })],
                1,
                Silent,
            ),
            // Of another transport.
            (
                vec![
                    first,
                    back(
                        side,
                        &k,
                        1,
                        Event::SynAck {
                            acknowledgement: 10,
                        },
                    ),
                ],
                1,
                Silent,
            ),
            (
                vec![first, icmp(side, &k, 1, "192.168.0.1", (3, 13))],
                1,
                Unreachable,
            ),
        ] {
            assert_eq!(ends(&records), [(9, at(0), syns, expected)], "{records:?}");
        }
    }
    // Repeated after 3 s: the source waits for the answer to that too.
    let records = [
        there(Side::Source, &k, 0, init),
        there(Side::Source, &k, 3_000, init),
        back(Side::Source, &k, 6_500, Event::InitAck { tag: 9 }),
    ];
    assert_eq!(ends(&records), [(9, at(0), 2, Accepted)]);
    // At the destination it ends in between, and the repetition is no second one.
    let records = [
        there(Side::Destination, &k, 0, init),
        there(Side::Destination, &k, 3_000, init),
        back(Side::Destination, &k, 3_001, Event::InitAck { tag: 9 }),
    ];
    assert_eq!(ends(&records), [(9, at(0), 1, Silent)]);
}

#[test]
fn a_pod_without_sctp_refuses_by_icmp_and_a_filter_in_the_pod_is_told_apart() {
    use Outcome::{Refused, Unreachable};
    let v6 = AttemptKey {
        client: "[fd00::1]:40000".parse().unwrap(),
        server: "[fd00::2]:80".parse().unwrap(),
        ..key(Protocol::Sctp, 9)
    };
    for (k, from, told, destination) in [
        (key(Protocol::Sctp, 9), "10.1.0.2", (3, 2), Refused),
        (key(Protocol::Sctp, 9), "10.1.0.2", (3, 3), Unreachable),
        (key(Protocol::Sctp, 9), "10.1.0.254", (3, 2), Unreachable),
        (v6, "fd00::2", (4, 1), Refused),
        // The stack of a pod answers a SYN by a RST, never like this.
        (key(Protocol::Tcp, 9), "10.1.0.2", (3, 3), Unreachable),
    ] {
        let event = match k.protocol {
            Protocol::Sctp => Event::Init { tag: 9 },
            _ => Event::Syn { isn: 9 },
        };
        for (side, expected) in [
            (Side::Destination, destination),
            (Side::Source, Unreachable),
        ] {
            let records = [there(side, &k, 0, event), icmp(side, &k, 1, from, told)];
            assert_eq!(ends(&records), [(9, at(0), 1, expected)], "{side:?} {k:?}");
        }
    }
}

#[test]
fn what_belongs_to_another_connection_answers_nothing() {
    let k = key(Protocol::Tcp, 9);
    let rst = |acknowledgement, ack| Event::Rst {
        sequence: 0,
        acknowledgement,
        ack,
        ttl: 64,
    };
    for side in [Side::Destination, Side::Source] {
        for event in [
            Event::SynAck { acknowledgement: 9 },
            Event::SynAck {
                acknowledgement: 11,
            },
            rst(9, true),
            rst(10, false),
            rst(77_777, true),
            Event::Abort { tag: 9 },
            Event::Datagram,
        ] {
            let records = [
                there(side, &k, 0, Event::Syn { isn: 9 }),
                back(side, &k, 1, event),
            ];
            assert_eq!(
                ends(&records),
                [(9, at(0), 1, Outcome::Silent)],
                "{event:?}"
            );
        }
        // Of the client, after it was accepted.
        let records = [
            there(side, &k, 0, Event::Syn { isn: 9 }),
            back(
                side,
                &k,
                1,
                Event::SynAck {
                    acknowledgement: 10,
                },
            ),
            there(side, &k, 2, rst(10, true)),
        ];
        assert_eq!(ends(&records), [(9, at(0), 1, Outcome::Accepted)]);
    }
    // The sequence number wraps.
    let k = key(Protocol::Tcp, u32::MAX);
    let records = [
        there(Side::Source, &k, 0, Event::Syn { isn: u32::MAX }),
        back(Side::Source, &k, 1, Event::SynAck { acknowledgement: 0 }),
    ];
    assert_eq!(ends(&records), [(u32::MAX, at(0), 1, Outcome::Accepted)]);
}

#[test]
fn a_number_that_is_chosen_again_long_after_is_another_attempt() {
    let k = key(Protocol::Tcp, 9);
    let syn = |ms| there(Side::Destination, &k, ms, Event::Syn { isn: 9 });
    let accepted = back(
        Side::Destination,
        &k,
        1,
        Event::SynAck {
            acknowledgement: 10,
        },
    );
    let refused = |ms| {
        let event = Event::Rst {
            sequence: 0,
            acknowledgement: 10,
            ack: true,
            ttl: 61,
        };
        back(Side::Destination, &k, ms, event)
    };
    assert_eq!(
        ends(&[syn(0), accepted, syn(3_500), refused(3_501)]),
        [
            (9, at(0), 1, Outcome::Accepted),
            (9, at(3_500), 1, Outcome::Refused)
        ]
    );
    assert_eq!(
        ends(&[syn(0), accepted, syn(2_500)]),
        [(9, at(0), 1, Outcome::Accepted)]
    );
    // The same number from another port.
    let other = AttemptKey {
        client: "10.1.0.1:40001".parse().unwrap(),
        ..k
    };
    let records = [
        syn(0),
        there(Side::Destination, &other, 1, Event::Syn { isn: 9 }),
        accepted,
    ];
    assert_eq!(
        ends(&records),
        [
            (9, at(0), 1, Outcome::Accepted),
            (9, at(1), 1, Outcome::Silent)
        ]
    );
}

#[test]
fn what_an_answer_told_is_kept_over_a_restart() {
    let k = key(Protocol::Tcp, 9);
    for side in [Side::Destination, Side::Source] {
        for told in [
            Told::Ttl(57),
            Told::Icmp {
                reporter: "192.168.0.1".parse().unwrap(),
                icmp_type: 3,
                code: 10,
            },
        ] {
            let outcome = match told {
                Told::Icmp { .. } => Outcome::Unreachable,
                _ => Outcome::Refused,
            };
            let mut attempt = Attempt::begin(k, at(0));
            attempt.answered(outcome, told, at(1));
            let mut records = Vec::new();
            attempt.replay(side, &mut records);
            let read: Vec<_> = records.iter().filter_map(read).collect();
            assert_eq!(
                read,
                [
                    (side, k, Signal::Syn),
                    (side, k, Signal::Answer(outcome, told))
                ]
            );
        }
    }
}

/// One attempt of some traffic.
#[derive(Clone, Debug)]
struct Plan {
    protocol: Protocol,
    side: Side,
    client: u8,
    ms: u64,
    end: u8,
}

fn plan() -> impl Strategy<Value = Plan> {
    (0..3_u8, any::<bool>(), 0..200_u8, 0..6_000_u64, 0..6_u8).prop_map(
        |(protocol, out, client, ms, end)| Plan {
            protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(protocol)],
            side: if out { Side::Source } else { Side::Destination },
            client,
            ms,
            end,
        },
    )
}

fn records(plans: &[Plan]) -> Vec<Record> {
    let mut records = Vec::new();
    for (n, plan) in (1_u32..).zip(plans) {
        let tag = if plan.protocol == Protocol::Udp { 0 } else { n };
        let k = AttemptKey {
            client: format!("10.9.{}.{n}:{}", plan.client, 40_000 + n)
                .parse()
                .unwrap(),
            tag,
            ..key(plan.protocol, tag)
        };
        let (begin, accept, refuse) = match plan.protocol {
            Protocol::Tcp => (
                Event::Syn { isn: tag },
                Event::SynAck {
                    acknowledgement: tag + 1,
                },
                Event::Rst {
                    sequence: 0,
                    acknowledgement: tag + 1,
                    ack: true,
                    ttl: 64,
                },
            ),
            Protocol::Sctp => (
                Event::Init { tag },
                Event::InitAck { tag },
                Event::Abort { tag },
            ),
            Protocol::Udp => (Event::Datagram, Event::Datagram, Event::Datagram),
        };
        let again = if plan.protocol == Protocol::Sctp {
            3_000
        } else {
            1_000
        };
        let (side, ms) = (plan.side, plan.ms);
        records.push(there(side, &k, ms, begin));
        match plan.end {
            0 => records.push(back(side, &k, ms, accept)),
            1 => records.push(back(side, &k, ms + 3, refuse)),
            2 => records.push(icmp(side, &k, ms + 1, "192.168.0.1", (3, 13))),
            3 => records.push(there(side, &k, ms + again, begin)),
            4 => records.extend([
                back(side, &k, ms + 1, accept),
                there(side, &k, ms + again, begin),
                back(side, &k, ms + again + 1, accept),
            ]),
            _ => {}
        }
    }
    records.sort_by_key(|record| record.at);
    records
}

/// The ends, if each record is read so many milliseconds late; and, if asked, with restarts after those ticks.
fn ends_of(records: &[Record], late: impl Fn(usize) -> u64, restarts: &[u64]) -> Ends {
    let settings = Settings::default();
    let mut read: Vec<(Instant, &Record)> = records
        .iter()
        .enumerate()
        .map(|(n, record)| (record.at.plus(late(n) * 1_000_000), record))
        .collect();
    read.sort_by_key(|(when, _)| *when);
    let mut read = read.into_iter().peekable();
    let mut sides = Sides::new(&settings);
    for n in 0..700 {
        let now = at(n * 50);
        while let Some((_, record)) = read.next_if(|(when, _)| *when <= now) {
            sides.read(record);
        }
        sides.tick(now);
        if restarts.contains(&n) {
            sides = sides.restarted(&settings);
        }
    }
    sides.ends
}

/// How many SYNs there were when it ended depends on when it was looked at; everything else does not.
fn told(ends: Ends) -> BTreeMap<(Side, AttemptKey, Instant), (bool, Outcome)> {
    ends.into_iter()
        .map(|(key, (_, unsure, outcome))| (key, (unsure, outcome)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_order_of_reading_within_the_skew_gives_the_same_ends(
        plans in proptest::collection::vec(plan(), 1..60),
        late in proptest::collection::vec(0..45_u64, 1..50),
    ) {
        let records = records(&plans);
        let expected = told(ends_of(&records, |_| 0, &[]));
        let got = told(ends_of(&records, |n| late[n % late.len()], &[]));
        prop_assert_eq!(expected, got);
    }

    #[test]
    fn a_replay_leads_to_the_same_ends(
        plans in proptest::collection::vec(plan(), 1..60),
        late in proptest::collection::vec(0..45_u64, 1..50),
        restarts in proptest::collection::vec(0..300_u64, 0..20),
    ) {
        let records = records(&plans);
        let late = |n: usize| late[n % late.len()];
        let expected = told(ends_of(&records, late, &[]));
        let got = told(ends_of(&records, late, &restarts));
        prop_assert_eq!(expected, got);
    }
}
