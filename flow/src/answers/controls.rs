//! What is told beside "not seen": what got through on the same way.
#![allow(clippy::panic)]

use std::net::SocketAddr;

use polproof_policy::Protocol;

use super::tests::*;
use super::*;
use crate::attempt::{AttemptKey, Outcome};

#[test]
fn the_control_is_the_nearest_from_the_askers_node() {
    let other = |client: &str, tag| key(Protocol::Tcp, client, SERVER, tag);
    let attempts = [
        (other("10.2.0.9:1", 1), 50_100, Outcome::Accepted),
        (other("10.2.0.9:2", 2), 57_000, Outcome::Refused),
        (other("10.3.0.1:3", 3), 60_000, Outcome::Accepted),
        (other("10.2.0.9:4", 4), 61_000, Outcome::Silent),
        (other("10.2.0.9:5", 5), 49_000, Outcome::Accepted),
    ];
    let q = question(&tcp(CLIENT, SERVER), 60_000);
    let control = |attempts: &[_], q: &Question| match said(&CLUSTER, attempts, q) {
        Testimony::NotSeen(Absence { control }) => control.map(|control| control.at),
        other => panic!("{other:?}"),
    };
    assert_eq!(control(&attempts, &q), Some(at(57_000)));
    assert_eq!(control(&attempts[..1], &q), Some(at(50_100)));
    assert_eq!(control(&attempts[2..], &q), None);
    // Before any that came sooner before it: the first of those soon after it.
    let after = [
        (other("10.2.0.9:6", 16), 59_900, Outcome::Accepted),
        (other("10.2.0.9:7", 17), 61_500, Outcome::Accepted),
        (other("10.2.0.9:8", 18), 60_900, Outcome::Accepted),
    ];
    assert_eq!(control(&after, &q), Some(at(60_900)));
    assert_eq!(control(&after[..2], &q), Some(at(61_500)));
    assert_eq!(control(&after[..1], &q), Some(at(59_900)));
    let nobody = Question { asker: None, ..q };
    assert_eq!(control(&attempts, &nobody), None);
}

#[test]
fn what_got_through_over_one_family_or_transport_shows_nothing_of_the_other() {
    let asked: Vec<AttemptKey> = [Protocol::Tcp, Protocol::Sctp]
        .into_iter()
        .flat_map(|way| {
            [
                (way, CLIENT, SERVER),
                (way, "[fd00:2::8]:1", "[fd00:1::2]:80"),
            ]
        })
        .map(|(way, client, server)| key(way, client, server, 7))
        .collect();
    for (one, key) in asked.iter().enumerate() {
        for (other, like) in asked.iter().enumerate() {
            let through = AttemptKey {
                client: SocketAddr::new(like.client.ip(), 999),
                tag: 1,
                ..*like
            };
            let attempts = [(through, 59_000, Outcome::Accepted)];
            let Testimony::NotSeen(absence) = said(&CLUSTER, &attempts, &question(key, 60_000))
            else {
                panic!("{key:?}")
            };
            assert_eq!(
                absence.control.is_some(),
                one == other,
                "{key:?} {through:?}"
            );
        }
    }
}
