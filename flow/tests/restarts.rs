//! What a restart may not change: who is accused, and how often.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use std::net::SocketAddr;

use polproof_flow::finding::{FindingKind, InconclusiveReason as Reason};
use polproof_flow::netns::{Hook, NetnsEvent, OpenSocket};
use polproof_flow::record::NetnsCookie;
use polproof_policy::{Protocol, State};
use world::pair::*;
use world::{apply_policy, delete_policy, guard, ip};

const B: usize = 1;

fn forged(nodes: &mut Nodes) {
    let packet = nodes.next_tag();
    let client = SocketAddr::new(ip(CLIENT.1), 4_000);
    let server = SocketAddr::new(ip(SERVER.1), 80);
    nodes.arrive(SERVER, packet, client, server, Fate::Accepted);
}

#[test]
fn each_that_was_observed_is_asked_about_again() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    // The answers are on their way when the agent is killed.
    nodes.delay = 1_000;
    for _ in 0..5 {
        forged(&mut nodes);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.delay = 1;
    let (_, sum) = nodes.books[B].only();
    let written: Vec<_> = sum.deltas.clone();
    assert_eq!(written.len(), 5);
    nodes.restart(B, &two_nodes(), written);
    nodes.run(140.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.settled, sum.retracted), (0, 5));
}

#[test]
fn what_shared_the_hook_before_may_have_answered() {
    let mut nodes = Nodes::new(&two_nodes());
    let hook = |nodes: &mut Nodes, hook| {
        nodes.judges[B].on_netns(&NetnsEvent::HookChanged {
            netns: NetnsCookie(SERVER.2),
            at: on(B, nodes.now),
            hook,
        });
    };
    nodes.run(98.0);
    hook(&mut nodes, Hook::Shared("tcx".into()));
    nodes.run(100.0);
    // Not answered yet when the agent is killed.
    let packet = nodes.next_tag();
    let client = SocketAddr::new(ip(CLIENT.1), 4_000);
    let server = SocketAddr::new(ip(SERVER.1), 80);
    nodes.arrive(SERVER, packet, client, server, Fate::Unanswered);
    nodes.run(100.5);
    hook(&mut nodes, Hook::Exclusive);
    nodes.restart(B, &two_nodes(), Vec::new());
    nodes.run(101.0);
    nodes.arrive(SERVER, packet, client, server, Fate::Accepted);
    nodes.run(140.0);
    assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);
    assert_eq!(nodes.books[B].reasons(), [(Reason::HookShared, 1)]);
}

fn list(nodes: &mut Nodes) {
    let at = on(B, nodes.now);
    nodes.judges[B].on_netns(&NetnsEvent::Sockets {
        netns: NetnsCookie(SERVER.2),
        at,
        sockets: vec![OpenSocket {
            protocol: Protocol::Tcp,
            local: SocketAddr::new(ip(SERVER.1), 80),
            remote: SocketAddr::new(ip(CLIENT.1), 20_001),
            inbound: true,
            cookie: 0x1234_5678_9abc_def0,
            heard: Some(at),
        }],
        complete: true,
    });
}

#[test]
fn a_connection_that_survives_is_told_of_once() {
    let mut state: State = two_nodes();
    delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    for at in [300.0, 330.0] {
        nodes.run(at);
        list(&mut nodes);
        nodes.datagram(CLIENT, SERVER, &[SERVER]);
    }
    apply_policy(&mut state, guard(1));
    nodes.view(&state, 330.5);
    for at in [370.0, 400.0, 430.0, 460.0, 490.0, 520.0] {
        nodes.run(at);
        list(&mut nodes);
        nodes.datagram(CLIENT, SERVER, &[SERVER]);
        if at == 430.0 {
            nodes.run(445.0);
            nodes.restart_at(B, &state, 330.5);
        }
    }
    nodes.run(540.0);
    let found = nodes.books[B].of(FindingKind::Survivor);
    let observed: Vec<_> = found
        .iter()
        .map(|(key, sum)| (key.protocol, sum.observed, sum.settled))
        .collect();
    assert_eq!(
        observed,
        [(Protocol::Tcp, 1, 1), (Protocol::Udp, 1, 1)],
        "{:#?}",
        nodes.books[B]
    );
}
