//! What is not over is not said to be.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use std::net::SocketAddr;
use std::sync::Arc;

use polproof_flow::finding::{FindingKind, RecoveryCause};
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use polproof_policy::model::{EndpointSlice, Service, ServicePort, SliceEndpoint, TargetPort};
use polproof_policy::{Object, Protocol, State, Uid};
use world::pair::*;
use world::{apply_policy, guard, ip, selector};

const A: usize = 0;
const B: usize = 1;
const ADDRESS: &str = "10.96.0.10";

/// A Service that forwards port 80 to this port of these pods.
fn service(state: &mut State, target: u16, ends: &[(&str, At)]) {
    state.apply(Object::Service(Arc::new(Service {
        id: id("web"),
        uid: Uid("web".into()),
        addresses: vec![ip(ADDRESS)],
        cluster_ips: vec![ip(ADDRESS)],
        selector: None,
        ports: vec![ServicePort {
            name: None,
            port: 80,
            node_port: None,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(target),
        }],
    })));
    state.apply(Object::EndpointSlice(Arc::new(EndpointSlice {
        id: id("web-1"),
        uid: Uid("web-1".into()),
        service: Some("web".into()),
        ports: vec![(None, target, Protocol::Tcp)],
        endpoints: ends
            .iter()
            .map(|(uid, at)| SliceEndpoint {
                addresses: vec![ip(at.1)],
                pod: Some(Uid((*uid).into())),
                ready: true,
                terminating: false,
            })
            .collect(),
    })));
}

/// The client got through to the server's port 80.
fn violated(state: &State) -> Nodes {
    let mut nodes = Nodes::new(state);
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(120.0);
    assert_eq!(nodes.books[B].only().1.settled, 1);
    nodes
}

fn recovered(nodes: &Nodes) -> Vec<RecoveryCause> {
    let found = nodes.books[B].of(FindingKind::Unenforced);
    let all = found.iter().flat_map(|(_, sum)| &sum.recovered);
    all.map(|over| over.cause).collect()
}

/// The friend gets through, the client does not.
fn stopped(nodes: &mut Nodes, called: (&str, u16)) {
    nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
    nodes.translated(CLIENT, SERVER, called, CLIENT.1, Fate::Dropped);
    let next = nodes.now + 20.0;
    nodes.run(next);
}

#[test]
fn what_was_sent_to_another_port_behind_a_service_says_nothing_of_this_one() {
    let mut state = two_nodes();
    service(&mut state, 8080, &[("server", SERVER)]);
    let mut nodes = violated(&state);
    stopped(&mut nodes, (ADDRESS, 80));
    assert_eq!(recovered(&nodes), []);
    // But what was sent to the pod itself does.
    stopped(&mut nodes, (SERVER.1, 80));
    assert_eq!(recovered(&nodes), [RecoveryCause::Enforced]);
}

#[test]
fn what_was_sent_to_a_service_may_have_been_meant_for_another_end() {
    let mut state = two_nodes();
    let mut policy = guard(1);
    policy.pod_selector = selector(&[]);
    apply_policy(&mut state, policy);
    service(
        &mut state,
        80,
        &[("server", SERVER), ("neighbour", NEIGHBOUR)],
    );
    let mut nodes = violated(&state);
    // The neighbour is the one that the Service chose, and there it is stopped, or gets through.
    stopped(&mut nodes, (ADDRESS, 80));
    nodes.translated(CLIENT, NEIGHBOUR, (ADDRESS, 80), CLIENT.1, Fate::Accepted);
    nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
    nodes.run(160.0);
    assert_eq!(recovered(&nodes), []);
}

#[test]
fn what_was_sent_to_the_only_end_of_a_service_was_meant_for_it() {
    let mut state = two_nodes();
    service(&mut state, 80, &[("server", SERVER)]);
    let mut nodes = violated(&state);
    stopped(&mut nodes, (ADDRESS, 80));
    assert_eq!(recovered(&nodes), [RecoveryCause::Enforced]);
}

#[test]
fn what_was_sent_to_a_service_may_have_been_meant_for_an_end_that_it_had_before() {
    let mut state = two_nodes();
    let ends = [("server", SERVER), ("neighbour", NEIGHBOUR)];
    service(&mut state, 80, &ends);
    let mut nodes = violated(&state);
    nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
    nodes.translated(CLIENT, SERVER, (ADDRESS, 80), CLIENT.1, Fate::Dropped);
    nodes.run(120.5);
    service(&mut state, 80, &ends[..1]);
    nodes.view(&state, nodes.now);
    nodes.run(140.0);
    assert_eq!(recovered(&nodes), []);
}

#[test]
fn a_cut_cable_ends_no_violation() {
    let mut nodes = violated(&two_nodes());
    // Nothing gets from one node to the other.
    for from in [FRIEND, CLIENT, FRIEND] {
        nodes.attempt(from, SERVER, 80, Fate::Dropped);
    }
    // On the node of the server all is well.
    nodes.attempt(NEIGHBOUR, SERVER, 443, Fate::Accepted);
    nodes.run(140.0);
    assert_eq!(recovered(&nodes), []);
    // Another pod of that node is reached: the way is open.
    nodes.attempt(FRIEND, NEIGHBOUR, 443, Fate::Accepted);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Dropped);
    nodes.run(160.0);
    assert_eq!(recovered(&nodes), [RecoveryCause::Enforced]);
}

/// The pods have a second address.
fn dual() -> State {
    let mut state = two_nodes();
    for (name, at, second) in [
        ("client", CLIENT, "fd00::1"),
        ("friend", FRIEND, "fd00::3"),
        ("server", SERVER, "fd00::2"),
    ] {
        let mut pod = a_pod(name, name, at);
        pod.ips.push(ip(second));
        world::apply_pod(&mut state, pod);
    }
    state
}

#[test]
fn one_family_is_no_control_for_the_other() {
    for (from, address) in [(FRIEND, "fd00::3"), (CLIENT, "fd00::1")] {
        let mut nodes = Nodes::new(&dual());
        nodes.run(100.0);
        for _ in 0..4 {
            nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
            let packet = nodes.next_tag();
            nodes.leave(
                from,
                packet,
                SocketAddr::new(ip(address), 4_000),
                SocketAddr::new(ip("fd00::2"), 80),
                Fate::Dropped,
            );
            let next = nodes.now + 1.0;
            nodes.run(next);
        }
        nodes.run(140.0);
        assert!(nodes.books[A].findings.is_empty(), "{:#?}", nodes.books[A]);
        assert_eq!(nodes.books[A].judged.denied_stopped, 0);
    }
}

#[test]
fn a_control_from_an_address_that_has_moved_is_none() {
    let mut state = two_nodes();
    // On the server's own node, so that the cable between the nodes does not matter.
    let mover = At(B, "10.1.9.9", 90);
    world::apply_pod(&mut state, a_pod("mover", "mover-1", mover));
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    for _ in 0..3 {
        nodes.attach(mover, 90.0);
        nodes.identify(mover, "mover-1");
        nodes.attempt(mover, SERVER, 443, Fate::Accepted);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    world::delete_pod(&mut state, a_pod("mover", "mover-1", mover));
    let moved = At(A, mover.1, 91);
    world::apply_pod(&mut state, a_pod("mover", "mover-2", moved));
    nodes.view(&state, nodes.now);
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty(), "{:#?}", nodes.books[A]);
}

#[test]
fn flows_that_could_not_be_seen_have_not_ended() {
    let mut state = two_nodes();
    world::delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    nodes.run(300.0);
    nodes.datagram(FRIEND, SERVER, &[SERVER]);
    nodes.run(305.0);
    let mut policy = guard(1);
    policy.ingress.clear();
    apply_policy(&mut state, policy);
    nodes.view(&state, nodes.now);
    for at in [340.0, 370.0] {
        nodes.run(at);
        nodes.datagram(FRIEND, SERVER, &[SERVER]);
    }
    nodes.run(390.0);
    assert_eq!(nodes.books[B].of(FindingKind::Survivor).len(), 1);
    // Something else sits on eth0 for long, which may take what comes before we see it.
    nodes.judges[B].on_netns(&NetnsEvent::HookChanged {
        netns: NetnsCookie(SERVER.2),
        at: on(B, 390.0),
        hook: Hook::Shared("tcx".into()),
    });
    nodes.run(700.0);
    let found = nodes.books[B].of(FindingKind::Survivor);
    assert!(found[0].1.recovered.is_empty(), "{found:?}");
}

#[test]
fn a_cable_that_was_cut_blocks_nobody_in_particular() {
    for back in [None, Some(106.0)] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Accepted);
        for at in [100.5, 102.0, 103.0, 104.0] {
            nodes.run(at);
            nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
        }
        if let Some(back) = back {
            nodes.run(back);
            nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
        }
        nodes.run(140.0);
        assert!(nodes.books[A].findings.is_empty(), "{:#?}", nodes.books[A]);
    }
}
