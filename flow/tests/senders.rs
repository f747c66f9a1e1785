//! Who sent it: forged sources, ports of nodes, restarts in between.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{End, FindingKind, InconclusiveReason as Reason};
use world::pair::*;
use world::{apply_policy, guard, ip};

const A: usize = 0;
const B: usize = 1;

fn name(end: &End) -> &str {
    match end {
        End::Pod(id, _) => &id.name,
        End::Node(name) => name,
        End::External => "outside",
    }
}

#[test]
fn a_forged_attempt_does_not_hide_one_that_was_witnessed() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.attempt(CLIENT, SERVER, 81, Fate::Accepted);
    nodes.run(101.2);
    let packet = nodes.next_tag();
    let client = std::net::SocketAddr::new(ip(CLIENT.1), 4_000);
    let server = std::net::SocketAddr::new(ip(SERVER.1), 80);
    nodes.arrive(SERVER, packet, client, server, Fate::Accepted);
    nodes.run(130.0);
    for (key, sum) in nodes.books[B].of(FindingKind::Unenforced) {
        assert_eq!((sum.settled, sum.witnessed), (1, 1), "{key:?}");
        assert_eq!(sum.retracted, u64::from(key.port == 80));
    }
}

#[test]
fn a_port_of_a_node_that_is_forwarded_to_a_pod_hides_nobody() {
    // No Service: the runtime forwards it, and the pod sees its own node's address.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.translated(
        CLIENT,
        SERVER,
        ("192.168.0.2", 8_080),
        "192.168.0.2",
        Fate::Accepted,
    );
    nodes.translated(
        FRIEND,
        SERVER,
        ("192.168.0.2", 8_080),
        "192.168.0.2",
        Fate::Accepted,
    );
    nodes.run(130.0);
    let (key, sum) = nodes.books[B].only();
    assert_eq!(name(&key.source), "client");
    assert_eq!((sum.observed, sum.settled, sum.witnessed), (1, 1, 1));
    assert!(nodes.books[A].inconclusive.is_empty());
}

#[test]
fn a_named_port_that_the_pod_does_not_name_leaves_it_open() {
    let mut state = two_nodes();
    let mut policy = guard(1);
    policy.ingress.push(polproof_policy::model::Rule {
        peers: Vec::new(),
        ports: vec![polproof_policy::model::PolicyPort {
            protocol: polproof_policy::Protocol::Tcp,
            port: polproof_policy::model::PortMatch::Named("web".into()),
            end_port_written: Default::default(),
        }],
    });
    apply_policy(&mut state, policy);
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(130.0);
    assert!(nodes.books[B].findings.is_empty());
    assert_eq!(nodes.books[B].reasons(), [(Reason::NamedPort, 1)]);
}

#[test]
fn a_restart_asks_the_other_witness_again() {
    for forged in [false, true] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        let packet = nodes.next_tag();
        let client = std::net::SocketAddr::new(ip(CLIENT.1), 4_000);
        let server = std::net::SocketAddr::new(ip(SERVER.1), 80);
        nodes.arrive(SERVER, packet, client, server, Fate::Accepted);
        if !forged {
            nodes.leave(CLIENT, packet, client, server, Fate::Accepted);
        }
        // The answer is on its way when the agent is killed.
        nodes.delay = 1_000;
        nodes.run(100.5);
        nodes.delay = 1;
        let (_, sum) = nodes.books[B].only();
        let written: Vec<_> = sum.deltas.clone();
        nodes.restart(B, &two_nodes(), written);
        nodes.run(130.0);
        let (_, sum) = nodes.books[B].only();
        let expected = if forged { (0, 1, 0) } else { (1, 0, 1) };
        assert_eq!((sum.settled, sum.retracted, sum.witnessed), expected);
    }
}
