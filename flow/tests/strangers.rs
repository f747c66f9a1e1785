//! Sources that no object of the cluster names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{End, InconclusiveReason as Reason, Report};
use polproof_policy::State;
use world::pair::{
    CLIENT as CLIENT_A, FRIEND as FRIEND_A, Fate, Nodes, SERVER as SERVER_B, two_nodes,
};
use world::*;

fn judged(state: &State, client: &str) -> Report {
    let t = attempt(client, 7);
    feed(
        &mut judge(state),
        seconds(100.1),
        &[t.syn(seconds(100.0)), t.syn_ack(seconds(100.001))],
    )
}

/// Nobody at all may reach the server.
fn closed() -> State {
    let mut state = cluster();
    let mut policy = guard(2);
    policy.ingress.clear();
    apply_policy(&mut state, policy);
    state
}

#[test]
fn a_private_address_may_stand_for_a_friend() {
    for client in ["192.168.44.0", "172.20.1.1", "10.77.0.9", "100.64.3.1"] {
        let report = judged(&cluster(), client);
        assert_eq!(report.findings, [], "{client}");
        assert_eq!(
            inconclusive(&report, Reason::SourceUnidentified),
            1,
            "{client}: {report:#?}"
        );
    }
}

#[test]
fn where_nobody_is_let_in_it_does_not_matter_who_it_is() {
    for client in ["192.168.44.0", "100.64.3.1", "203.0.113.9"] {
        let report = judged(&closed(), client);
        assert_eq!(counts(&report), (1, 0, 0), "{client}: {report:#?}");
        assert_eq!(report.findings[0].key.source, End::External);
    }
}

#[test]
fn a_public_address_is_a_client_of_its_own() {
    for client in ["203.0.113.9", "100.128.0.1"] {
        let report = judged(&cluster(), client);
        assert_eq!(counts(&report), (1, 0, 0), "{client}: {report:#?}");
    }
}

/// An address that lies in the podCIDR of the asker's node, in that of the sender's, and in none.
const POOLED: [&str; 3] = ["10.1.1.77", "10.1.0.77", "10.99.0.77"];

#[test]
fn who_has_an_address_of_another_nodes_range_is_found_all_the_same() {
    // The addresses of some CNIs' pods have nothing to do with the ranges of their nodes, and these two are not in the view.
    for seen_as in POOLED {
        for (from, delivered) in [(CLIENT_A, None), (FRIEND_A, Some(1))] {
            let mut nodes = Nodes::new(&two_nodes());
            nodes.run(100.0);
            nodes.translated(from, SERVER_B, (SERVER_B.1, 80), seen_as, Fate::Accepted);
            nodes.run(135.0);
            let book = &nodes.books[1];
            match delivered {
                None => {
                    let (key, sum) = book.only();
                    assert!(
                        matches!(&key.source, End::Pod(id, _) if &*id.name == "client"),
                        "{seen_as} {key:?}"
                    );
                    assert_eq!((sum.settled, sum.witnessed), (1, 1), "{seen_as}");
                }
                Some(count) => {
                    assert!(book.findings.is_empty(), "{seen_as}");
                    assert_eq!(book.judged.allowed_delivered, count, "{seen_as}");
                }
            }
            assert_eq!(book.reasons(), [], "{seen_as}");
        }
    }
}

#[test]
fn an_address_that_nobody_knows_accuses_nobody() {
    for seen_as in POOLED {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        let tag = nodes.next_tag();
        let client = std::net::SocketAddr::new(ip(seen_as), 4_000);
        let server = std::net::SocketAddr::new(ip(SERVER_B.1), 80);
        nodes.arrive(SERVER_B, tag, client, server, Fate::Accepted);
        nodes.run(150.0);
        let book = &nodes.books[1];
        assert!(book.findings.is_empty(), "{seen_as}");
        assert_eq!(
            book.reasons(),
            [(Reason::SourceUnidentified, 1)],
            "{seen_as}"
        );
    }
}
