//! What a witness may have missed: when it was attached, what was lost, and what was left out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::Settings;
use polproof_flow::finding::{FindingKind, InconclusiveReason as Reason};
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use world::pair::*;
use world::{SECOND, SERVER_NETNS, attempt, cluster, counts, feed, inconclusive, judge, seconds};

const A: usize = 0;
const B: usize = 1;

#[test]
fn an_answer_that_may_have_left_before_both_programs_were_attached() {
    let t = attempt(world::CLIENT, 7);
    for (since, reason) in [(100.05, Reason::AttachedLate), (99.0, Reason::InPodFilter)] {
        let mut held = judge(&cluster());
        held.on_netns(&NetnsEvent::Attached {
            netns: SERVER_NETNS,
            since: seconds(since),
            addresses: Vec::new(),
            hook: Hook::Exclusive,
        });
        feed(&mut held, seconds(100.1), &[t.syn(seconds(100.0))]);
        let report = feed(&mut held, seconds(103.0), &[]);
        assert_eq!(report.inconclusive, [(reason, 1)], "{since}");
        // Repeated, and then answered: a fact.
        let again = attempt(world::CLIENT, 8);
        let records = [
            again.syn(seconds(100.0)),
            again.syn(seconds(101.0)),
            again.syn_ack(seconds(101.0)),
        ];
        assert_eq!(counts(&feed(&mut held, seconds(103.5), &records)).0, 1);
    }
    // The programs were taken away and put back.
    let mut held = judge(&cluster());
    held.on_netns(&NetnsEvent::Gap {
        netns: SERVER_NETNS,
        from: seconds(100.5),
        to: seconds(101.0),
    });
    feed(&mut held, seconds(101.0), &[t.syn(seconds(100.0))]);
    let report = feed(&mut held, seconds(103.0), &[]);
    assert_eq!(inconclusive(&report, Reason::AttachedLate), 1);
}

#[test]
fn a_source_that_may_have_missed_the_answer_tells_of_no_lost_reply() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.judges[A].on_netns(&NetnsEvent::Gap {
        netns: NetnsCookie(FRIEND.2),
        from: on(A, 100.0),
        to: on(A, 110.0),
    });
    for _ in 0..4 {
        nodes.attempt(FRIEND, SERVER, 80, Fate::ReplyLost);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::AttachedLate, 4)]);
}

#[test]
fn datagrams_that_were_left_out_say_nothing_of_connections() {
    type Spoil = fn(&mut Nodes);
    let spoils: [(Spoil, bool); 4] = [
        (|_| {}, true),
        (
            |nodes| nodes.judges[B].on_sampled(on(B, 99.0), on(B, 104.0)),
            true,
        ),
        (
            |nodes| nodes.judges[B].on_unparsed(on(B, 99.0), on(B, 104.0)),
            false,
        ),
        // Told in the wrong order.
        (
            |nodes| {
                nodes.judges[B].on_lost(on(B, 130.0), on(B, 131.0));
                nodes.judges[B].on_lost(on(B, 99.5), on(B, 104.0));
            },
            false,
        ),
    ];
    for (n, (spoil, said)) in spoils.into_iter().enumerate() {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        spoil(&mut nodes);
        for _ in 0..4 {
            nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
            nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
            let next = nodes.now + 0.6;
            nodes.run(next);
        }
        nodes.run(140.0);
        let found = nodes.books[A].of(FindingKind::OverBlocked).len();
        assert_eq!(found, usize::from(said), "{n} {:?}", nodes.books[A]);
    }
}

/// Datagrams are recorded again after a second.
fn brief() -> Settings {
    Settings {
        udp_idle: SECOND,
        udp_window: SECOND,
        ..Settings::default()
    }
}

#[test]
fn how_soon_datagrams_are_judged_follows_from_how_often_they_are_recorded() {
    for (settings, found) in [(Settings::default(), 0), (brief(), 1)] {
        let mut nodes = Nodes::with(&two_nodes(), settings);
        // In a node without its neighbour, who would deny to have sent it.
        nodes.reachable = [false, false];
        nodes.run(40.0);
        nodes.datagram(CLIENT, SERVER, &[SERVER]);
        nodes.run(60.0);
        assert_eq!(nodes.books[B].of(FindingKind::Unenforced).len(), found);
        if found == 0 {
            assert_eq!(nodes.books[B].reasons(), [(Reason::FlowBegunBefore, 1)]);
        }
    }
}

#[test]
fn a_loss_before_a_datagram_that_is_told_late_leaves_it_open() {
    for (lost, found) in [
        (None, true),
        (Some((39.5, 39.8)), false),
        (Some((30.0, 37.0)), true),
    ] {
        let mut nodes = Nodes::with(&two_nodes(), brief());
        nodes.reachable = [false, false];
        nodes.run(40.0);
        nodes.datagram(CLIENT, SERVER, &[SERVER]);
        // It is announced, and nobody has answered yet.
        nodes.run(41.0);
        if let Some((from, to)) = lost {
            nodes.judges[B].on_lost(on(B, from), on(B, to));
        }
        nodes.run(60.0);
        assert_eq!(
            nodes.books[B].findings.len(),
            usize::from(found),
            "{lost:?}"
        );
        if !found {
            assert_eq!(nodes.books[B].reasons(), [(Reason::RecordsLost, 1)]);
        }
    }
}
