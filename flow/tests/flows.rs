//! Connections that are older than the policies that deny them, and Services.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use std::net::SocketAddr;
use std::sync::Arc;

use polproof_flow::finding::{
    Answer, End, FindingKind, InconclusiveReason as Reason, RecoveryCause,
};
use polproof_flow::netns::{NetnsEvent, OpenSocket};
use polproof_flow::record::NetnsCookie;
use polproof_policy::model::{EndpointSlice, Service, ServicePort, SliceEndpoint, TargetPort};
use polproof_policy::{Object, Protocol, State, Uid};
use world::pair::*;
use world::{apply_policy, delete_policy, guard, ip};

const A: usize = 0;
const B: usize = 1;

fn socket(client: At, port: u16, cookie: u64) -> OpenSocket {
    OpenSocket {
        protocol: Protocol::Tcp,
        local: SocketAddr::new(ip(SERVER.1), port),
        remote: SocketAddr::new(ip(client.1), u16::try_from(20_000 + cookie).unwrap()),
        inbound: true,
        cookie,
        heard: None,
    }
}

fn list(nodes: &mut Nodes, sockets: &[OpenSocket]) {
    list_as(nodes, sockets, true);
}

fn list_as(nodes: &mut Nodes, sockets: &[OpenSocket], complete: bool) {
    let at = on(B, nodes.now);
    nodes.judges[B].on_netns(&NetnsEvent::Sockets {
        netns: NetnsCookie(SERVER.2),
        at,
        // Each says something all the time, unless it says otherwise.
        sockets: sockets
            .iter()
            .map(|socket| OpenSocket {
                heard: socket.heard.or(Some(at)),
                ..*socket
            })
            .collect(),
        complete,
    });
}

#[test]
fn a_connection_that_a_later_policy_denies_survives_it() {
    let mut state = two_nodes();
    delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    nodes.run(50.0);
    let packet = nodes.next_tag();
    let open = socket(CLIENT, 80, 1);
    nodes.arrive(SERVER, packet, open.remote, open.local, Fate::Accepted);
    nodes.run(55.0);
    list(&mut nodes, &[open]);
    nodes.run(60.0);
    apply_policy(&mut state, guard(1));
    nodes.view(&state, 60.0);
    for at in [80.0, 95.0, 125.0, 155.0] {
        nodes.run(at);
        list(&mut nodes, &[open, socket(FRIEND, 80, 2)]);
        assert_eq!(nodes.books[B].findings.is_empty(), at <= 95.0);
    }
    nodes.run(180.0);
    let (key, sum) = nodes.books[B].only();
    assert_eq!(key.kind, FindingKind::Survivor);
    assert_eq!(
        (sum.observed, sum.settled, sum.retracted),
        (1, 1, 0),
        "once"
    );
    assert_eq!(sum.first, on(B, packet.at + 0.002));
    assert_eq!(sum.deltas[0].samples[0].answer, Answer::Established);
    assert!(sum.recovered.is_empty());
    // There were more than are listed.
    list_as(&mut nodes, &[], false);
    nodes.run(180.5);
    assert!(nodes.books[B].only().1.recovered.is_empty());
    list(&mut nodes, &[]);
    nodes.run(181.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!(sum.recovered.len(), 1);
    assert_eq!(sum.recovered[0].cause, RecoveryCause::Closed);
}

#[test]
fn one_that_was_cut_or_may_have_been_is_no_survivor() {
    for (heard, reasons) in [
        // Within the grace time.
        (Some(on(B, 70.0)), Vec::new()),
        (None, vec![(Reason::FlowBegunBefore, 1)]),
    ] {
        let mut state = two_nodes();
        delete_policy(&mut state);
        let mut nodes = Nodes::new(&state);
        let open = OpenSocket {
            heard,
            ..socket(CLIENT, 80, 1)
        };
        for at in [5.0, 60.0, 80.0, 100.0, 130.0, 160.0] {
            nodes.run(at);
            if at == 60.0 {
                apply_policy(&mut state, guard(1));
                nodes.view(&state, 60.0);
            }
            nodes.judges[B].on_netns(&NetnsEvent::Sockets {
                netns: NetnsCookie(SERVER.2),
                at: on(B, at),
                sockets: vec![open],
                complete: true,
            });
        }
        nodes.run(180.0);
        assert!(nodes.books[B].findings.is_empty());
        assert_eq!(nodes.books[B].reasons(), reasons);
    }
}

#[test]
fn one_that_was_there_before_us_is_at_least_as_old_as_the_attach() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(2.0);
    list(&mut nodes, &[socket(CLIENT, 80, 1)]);
    nodes.run(32.0);
    list(&mut nodes, &[socket(CLIENT, 80, 1), socket(CLIENT, 80, 9)]);
    nodes.run(62.0);
    list(&mut nodes, &[socket(CLIENT, 80, 1), socket(CLIENT, 80, 9)]);
    nodes.run(80.0);
    // The other one came later, and its beginning was missed.
    let (key, sum) = nodes.books[B].only();
    assert_eq!((key.kind, sum.observed), (FindingKind::Survivor, 1));
    assert_eq!(sum.first, on(B, 0.5));
}

#[test]
fn one_that_began_under_the_policy_is_no_survivor() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    let packet = nodes.next_tag();
    let open = socket(CLIENT, 80, 1);
    nodes.arrive(SERVER, packet, open.remote, open.local, Fate::Accepted);
    nodes.leave(CLIENT, packet, open.remote, open.local, Fate::Accepted);
    for at in [110.0, 140.0, 170.0, 200.0, 300.0] {
        nodes.run(at);
        list(&mut nodes, &[open]);
    }
    nodes.run(320.0);
    let (key, _) = nodes.books[B].only();
    assert_eq!(key.kind, FindingKind::Unenforced);
}

#[test]
fn a_udp_flow_that_goes_on_after_a_policy_came() {
    let mut state = two_nodes();
    delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    // What was there at the start may be older.
    nodes.run(300.0);
    let began = on(B, nodes.now);
    nodes.datagram(CLIENT, SERVER, &[SERVER]);
    nodes.run(310.0);
    apply_policy(&mut state, guard(1));
    nodes.view(&state, 310.0);
    for n in 1..5 {
        let at = 300.0 + 31.0 * f64::from(n);
        nodes.run(at);
        nodes.datagram(CLIENT, SERVER, &[SERVER]);
    }
    nodes.run(460.0);
    let (key, sum) = nodes.books[B].only();
    assert_eq!(key.kind, FindingKind::Survivor);
    assert_eq!((sum.observed, sum.settled), (1, 1));
    assert_eq!(sum.first, began);
    nodes.run(800.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!(sum.recovered[0].cause, RecoveryCause::Closed);
}

const ADDRESS: &str = "10.96.0.10";

fn service(state: &mut State, ends: &[(&str, At, bool)]) {
    state.apply(Object::Service(Arc::new(Service {
        id: id("web"),
        uid: Uid("web".into()),
        addresses: vec![ip(ADDRESS)],
        cluster_ips: vec![ip(ADDRESS)],
        selector: None,
        ports: vec![ServicePort {
            name: None,
            port: 8080,
            node_port: Some(30_080),
            protocol: Protocol::Tcp,
            target: TargetPort::Number(80),
        }],
    })));
    state.apply(Object::EndpointSlice(Arc::new(EndpointSlice {
        id: id("web-1"),
        uid: Uid("web-1".into()),
        service: Some("web".into()),
        ports: vec![(None, 80, Protocol::Tcp)],
        endpoints: ends
            .iter()
            .map(|(uid, at, ready)| SliceEndpoint {
                addresses: vec![ip(at.1)],
                pod: Some(Uid((*uid).into())),
                ready: *ready,
                terminating: false,
            })
            .collect(),
    })));
}

fn called(ends: &[(&str, At, bool)]) -> Nodes {
    let mut state = two_nodes();
    service(&mut state, ends);
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes
}

#[test]
fn a_service_of_which_every_end_is_denied() {
    // That nobody forwards it is no proof of anything.
    let mut nodes = called(&[("server", SERVER, true)]);
    nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
    nodes.translated(CLIENT, SERVER, (ADDRESS, 8080), CLIENT.1, Fate::Dropped);
    nodes.run(130.0);
    assert_eq!(nodes.books[A].judged.denied_unanswered, 1);
    assert_eq!(nodes.books[A].judged.denied_stopped, 0);

    let mut nodes = called(&[("server", SERVER, true)]);
    nodes.translated(FRIEND, SERVER, (ADDRESS, 8080), FRIEND.1, Fate::Accepted);
    nodes.translated(CLIENT, SERVER, (ADDRESS, 8080), CLIENT.1, Fate::Dropped);
    nodes.run(130.0);
    assert_eq!(nodes.books[A].judged.denied_unanswered, 1);
    assert_eq!(nodes.books[A].judged.denied_stopped, 1);
    // It gets through: the destination tells of it.
    nodes.translated(CLIENT, SERVER, (ADDRESS, 8080), CLIENT.1, Fate::Accepted);
    nodes.run(160.0);
    assert_eq!(nodes.books[A].judged.denied_answered, 1);
    assert!(nodes.books[A].findings.is_empty());
    let (key, sum) = nodes.books[B].only();
    assert!(matches!(&key.source, End::Pod(id, _) if &*id.name == "client"));
    assert_eq!(sum.settled, 1);
}

#[test]
fn a_node_port_of_the_servers_own_node_hides_nobody() {
    let mut nodes = called(&[("server", SERVER, true)]);
    // Forwarded by the server's node, whose own address the server sees: exempt, but for the word of the client's witness.
    nodes.translated(
        CLIENT,
        SERVER,
        ("192.168.0.2", 30_080),
        "192.168.0.2",
        Fate::Accepted,
    );
    nodes.run(130.0);
    let (key, sum) = nodes.books[B].only();
    assert_eq!(key.kind, FindingKind::Unenforced);
    assert!(matches!(&key.source, End::Pod(id, _) if &*id.name == "client"));
    assert_eq!((sum.observed, sum.settled, sum.witnessed), (1, 1, 1));
    // Who may is no finding.
    nodes.translated(
        FRIEND,
        SERVER,
        ("192.168.0.2", 30_080),
        "192.168.0.2",
        Fate::Accepted,
    );
    nodes.run(160.0);
    assert_eq!(nodes.books[B].only().1.observed, 1);
}

#[test]
fn ends_that_are_expected_to_be_treated_differently() {
    let mut nodes = called(&[("server", SERVER, true), ("neighbour", NEIGHBOUR, true)]);
    nodes.translated(CLIENT, NEIGHBOUR, (ADDRESS, 8080), CLIENT.1, Fate::Accepted);
    nodes.run(110.0);
    nodes.translated(CLIENT, SERVER, (ADDRESS, 8080), CLIENT.1, Fate::Dropped);
    nodes.run(130.0);
    assert_eq!(nodes.books[A].reasons(), [(Reason::MixedEndpoints, 1)]);
    assert!(nodes.books[A].findings.is_empty() && nodes.books[B].findings.is_empty());
    nodes.translated(CLIENT, SERVER, (ADDRESS, 8080), CLIENT.1, Fate::Accepted);
    nodes.run(160.0);
    assert_eq!(nodes.books[B].only().0.kind, FindingKind::Unenforced);
}

fn thrice(nodes: &mut Nodes, works_first: bool) {
    if works_first {
        nodes.translated(FRIEND, SERVER, (ADDRESS, 8080), FRIEND.1, Fate::Accepted);
    }
    for _ in 0..3 {
        nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
        nodes.translated(FRIEND, SERVER, (ADDRESS, 8080), FRIEND.1, Fate::Dropped);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(140.0);
}

#[test]
fn a_service_that_is_not_forwarded_is_not_over_blocked() {
    let mut nodes = called(&[("server", SERVER, true)]);
    thrice(&mut nodes, false);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::MixedEndpoints, 3)]);

    let mut nodes = called(&[("server", SERVER, true)]);
    thrice(&mut nodes, true);
    let (key, sum) = nodes.books[A].only();
    assert_eq!((key.kind, key.port), (FindingKind::OverBlocked, 80));
    assert_eq!(key.destination_ip, ip(SERVER.1));
    assert_eq!(sum.settled, 3);

    // Which of two ends it was is not known.
    let mut nodes = two_ends_alike();
    thrice(&mut nodes, true);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::MixedEndpoints, 3)]);
}

#[test]
fn a_service_that_is_still_forwarded_to_its_old_end_is_not_over_blocked() {
    let mut state = two_nodes();
    service(&mut state, &[("neighbour", NEIGHBOUR, true)]);
    let mut nodes = Nodes::new(&state);
    nodes.run(95.0);
    nodes.translated(FRIEND, NEIGHBOUR, (ADDRESS, 8080), FRIEND.1, Fate::Accepted);
    nodes.run(96.0);
    service(&mut state, &[("server", SERVER, true)]);
    nodes.view(&state, nodes.now);
    nodes.run(130.0);
    thrice(&mut nodes, false);
    nodes.run(160.0);
    assert!(nodes.books[A].findings.is_empty(), "{:#?}", nodes.books[A]);
}

/// A Service with two ends, which the same policy guards.
fn two_ends_alike() -> Nodes {
    let mut state = two_nodes();
    let mut policy = guard(1);
    policy.pod_selector = world::selector(&[]);
    apply_policy(&mut state, policy);
    service(
        &mut state,
        &[("server", SERVER, true), ("neighbour", NEIGHBOUR, true)],
    );
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes
}

#[test]
fn the_end_of_a_service_whose_acceptance_is_lost_names_itself() {
    let mut nodes = two_ends_alike();
    for end in [NEIGHBOUR, SERVER, SERVER, SERVER] {
        nodes.translated(FRIEND, end, (ADDRESS, 8080), FRIEND.1, Fate::ReplyLost);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(140.0);
    let (key, sum) = nodes.books[A].only();
    assert_eq!((key.kind, key.port), (FindingKind::ReplyLost, 80));
    assert_eq!(key.destination_ip, ip(SERVER.1));
    assert_eq!(sum.settled, 3);
    assert_eq!(nodes.books[A].reasons(), [(Reason::TooFewAttempts, 3)]);
}

#[test]
fn a_pod_that_is_not_ready_is_not_over_blocked() {
    let mut nodes = called(&[("server", SERVER, false)]);
    for _ in 0..3 {
        nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::DestinationNotReady, 3)]);
}

#[test]
fn what_a_node_forwards_is_not_over_blocked() {
    let mut nodes = called(&[("server", SERVER, true)]);
    let port = ("192.168.0.1", 30_080);
    nodes.translated(FRIEND, SERVER, port, "192.168.0.1", Fate::Accepted);
    for _ in 0..3 {
        nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
        nodes.translated(FRIEND, SERVER, port, "192.168.0.1", Fate::Dropped);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::TranslatedAddress, 3)]);
}
