//! An agent that is killed while it waits for the word of the other end's witness.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::InconclusiveReason as Reason;
use world::pair::*;

const A: usize = 0;

/// A cluster in which something left the client and died, and the question about it is on its way.
fn under_way(from: At, fate: Fate) -> Nodes {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
    nodes.attempt(from, SERVER, 80, fate);
    nodes.delay = 10_000;
    nodes.run(109.0);
    nodes.delay = 1;
    nodes
}

fn kill(nodes: &mut Nodes) {
    nodes.restart(A, &two_nodes(), Vec::new());
}

#[test]
fn a_proof_that_was_waited_for_is_asked_for_again_and_counted_once() {
    for (fate, kills) in [
        (Fate::Dropped, 0),
        (Fate::Dropped, 1),
        (Fate::Dropped, 2),
        (Fate::Reset, 1),
        (Fate::Icmp, 1),
    ] {
        let mut nodes = under_way(CLIENT, fate);
        let judged = nodes.books[A].judged;
        assert_eq!((judged.denied_unanswered, judged.denied_stopped), (1, 0));
        for _ in 0..kills {
            kill(&mut nodes);
        }
        nodes.run(130.0);
        // And after all is heard there is nothing left to ask about.
        if kills > 0 {
            kill(&mut nodes);
            nodes.run(160.0);
        }
        let book = &nodes.books[A];
        let stopped = u64::from(kills > 0);
        assert_eq!(
            (book.judged.denied_unanswered, book.judged.denied_stopped),
            (1, stopped),
            "{fate:?} {kills}"
        );
        // Who is not killed waits for the answer in vain.
        let reasons = [(Reason::NoWitness, 1)];
        let expected = if kills == 0 { &reasons[..] } else { &[] };
        assert_eq!(book.reasons(), expected, "{fate:?} {kills}");
        assert!(book.findings.is_empty());
    }
}

#[test]
fn nothing_is_held_against_the_network_for_what_may_have_been_lost_before_a_restart() {
    for fate in [Fate::Dropped, Fate::ReplyLost] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        for _ in 0..4 {
            nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
            nodes.attempt(FRIEND, SERVER, 80, fate);
            let next = nodes.now + 0.5;
            nodes.run(next);
        }
        nodes.delay = 10_000;
        nodes.run(111.0);
        nodes.delay = 1;
        kill(&mut nodes);
        nodes.run(140.0);
        let book = &nodes.books[A];
        assert!(book.findings.is_empty(), "{book:#?}");
        assert_eq!(book.reasons(), [(Reason::RecordsLost, 4)], "{fate:?}");
    }
}

#[test]
fn an_allowed_attempt_that_arrived_is_no_more_than_that() {
    let mut nodes = under_way(FRIEND, Fate::Refused);
    kill(&mut nodes);
    nodes.run(130.0);
    assert_eq!(nodes.books[A].reasons(), []);
    assert!(nodes.books[A].findings.is_empty());
}

#[test]
fn what_nobody_can_be_asked_about_in_time_ends_and_is_counted() {
    let mut nodes = under_way(CLIENT, Fate::Dropped);
    kill(&mut nodes);
    nodes.judges[A].on_collector(false);
    nodes.run(215.0);
    assert_eq!(nodes.books[A].reasons(), []);
    nodes.run(225.0);
    // Others remember for two minutes.
    assert_eq!(nodes.books[A].reasons(), [(Reason::NoWitness, 1)]);
    nodes.judges[A].on_collector(true);
    nodes.run(240.0);
    assert_eq!(nodes.books[A].reasons(), [(Reason::NoWitness, 1)]);
    assert_eq!(nodes.books[A].judged.denied_stopped, 0);
}

#[test]
fn a_witness_that_is_away_after_the_restart_leaves_a_reason() {
    let mut nodes = under_way(CLIENT, Fate::Dropped);
    nodes.reachable[1] = false;
    kill(&mut nodes);
    nodes.run(130.0);
    assert_eq!(nodes.books[A].reasons(), [(Reason::NoWitness, 1)]);
}
