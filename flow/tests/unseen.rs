//! What went unseen accuses nobody: connections that began meanwhile, filters that nobody had asked about, owners of an address that
//! nobody knew.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use std::net::SocketAddr;

use polproof_flow::finding::{FindingKind, InconclusiveReason as Reason};
use polproof_flow::netns::{Hook, InPod, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use polproof_policy::Protocol;
use world::pair::*;
use world::{apply_policy, delete_policy, guard, ip};

const A: usize = 0;
const B: usize = 1;

/// The policy comes at 420 s, and the datagram at 480 s belongs to a flow that may have begun before it, unless it is `held` to be new.
fn a_flow(unseen: impl FnOnce(&mut Nodes)) -> Nodes {
    let mut state = two_nodes();
    delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    nodes.run(420.0);
    apply_policy(&mut state, guard(1));
    nodes.view(&state, 420.0);
    nodes.run(440.0);
    unseen(&mut nodes);
    nodes.run(480.0);
    nodes.datagram(CLIENT, SERVER, &[CLIENT, SERVER]);
    nodes.run(510.0);
    nodes
}

#[test]
fn a_flow_that_began_while_the_programs_were_away_is_not_new() {
    let nodes = a_flow(|_| {});
    assert_eq!(nodes.books[B].of(FindingKind::Unenforced).len(), 1);

    let nodes = a_flow(|nodes| {
        nodes.judges[B].on_netns(&NetnsEvent::Gap {
            netns: NetnsCookie(SERVER.2),
            from: on(B, 400.0),
            to: on(B, 430.0),
        });
        nodes.attach(SERVER, 430.0);
    });
    assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);
    assert_eq!(nodes.books[B].reasons(), [(Reason::FlowBegunBefore, 1)]);
}

#[test]
fn a_flow_whose_beginning_was_lost_is_not_new() {
    // It says something every minute: longer than the kernel says nothing of it, and not so long that it would be another one.
    let nodes = a_flow(|nodes| nodes.judges[B].on_lost(on(B, 418.0), on(B, 419.0)));
    assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);
    assert_eq!(nodes.books[B].reasons(), [(Reason::RecordsLost, 1)]);

    // Begun that long ago it would be another one.
    let nodes = a_flow(|nodes| nodes.judges[B].on_lost(on(B, 260.0), on(B, 269.0)));
    assert_eq!(nodes.books[B].of(FindingKind::Unenforced).len(), 1);
    // What began after the grace time had no right to.
    let nodes = a_flow(|nodes| nodes.judges[B].on_lost(on(B, 451.0), on(B, 448.5)));
    assert!(nodes.books[B].findings.is_empty());
}

#[test]
fn a_filter_in_the_pod_that_is_found_soon_after_may_have_refused() {
    for fate in [Fate::Refused, Fate::Unanswered] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.attempt(CLIENT, SERVER, 80, fate);
        nodes.run(105.0);
        nodes.judges[B].on_netns(&NetnsEvent::InPod {
            netns: NetnsCookie(SERVER.2),
            at: on(B, nodes.now),
            filter: InPod::Filtered("nft: 3 chains".into()),
        });
        nodes.run(130.0);
        let (_, sum) = nodes.books[B].only();
        assert_eq!((sum.observed, sum.settled, sum.retracted), (1, 0, 1));
        assert_eq!(nodes.books[B].reasons(), [(Reason::InPodFilter, 1)]);
    }
    // No filter accepts.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(105.0);
    nodes.judges[B].on_netns(&NetnsEvent::InPod {
        netns: NetnsCookie(SERVER.2),
        at: on(B, nodes.now),
        filter: InPod::Filtered("nft: 3 chains".into()),
    });
    nodes.run(130.0);
    assert_eq!(nodes.books[B].only().1.settled, 1);
}

#[test]
fn a_refusal_waits_until_it_is_known_whether_the_pod_filters() {
    let mut nodes = Nodes::new(&two_nodes());
    let fresh = At(B, "10.1.1.9", 99);
    nodes.judges[B].on_netns(&NetnsEvent::Attached {
        netns: NetnsCookie(fresh.2),
        since: on(B, 1.0),
        addresses: vec![ip(fresh.1)],
        hook: Hook::Exclusive,
    });
    nodes.identify(fresh, "fresh");
    let mut state = two_nodes();
    let mut pod = a_pod("fresh", "fresh", fresh);
    pod.labels.insert("app".into(), "server".into());
    world::apply_pod(&mut state, pod);
    nodes.view(&state, 1.5);
    nodes.run(100.0);
    nodes.attempt(CLIENT, fresh, 80, Fate::Refused);
    nodes.run(135.0);
    assert!(nodes.books[B].findings.is_empty());
    assert_eq!(nodes.books[B].reasons(), [(Reason::InPodFilter, 1)]);
    // Told in time, it is one.
    nodes.attempt(CLIENT, fresh, 80, Fate::Refused);
    nodes.run(137.0);
    nodes.judges[B].on_netns(&NetnsEvent::InPod {
        netns: NetnsCookie(fresh.2),
        at: on(B, nodes.now),
        filter: InPod::Plain,
    });
    nodes.run(160.0);
    assert_eq!(nodes.books[B].only().1.settled, 1);
}

#[test]
fn with_one_witness_an_address_must_have_had_one_owner() {
    // The source's agent is away. The client is gone, which the view is told late, and its heir, who may, has got its address.
    for heir_known in [Some(103.0), Some(107.0), None] {
        let mut state = two_nodes();
        let mut nodes = Nodes::new(&state);
        nodes.reachable[A] = false;
        nodes.run(100.0);
        nodes.attempt(At(A, CLIENT.1, 77), SERVER, 80, Fate::Accepted);
        nodes.run(102.0);
        world::delete_pod(&mut state, a_pod("client", "client", CLIENT));
        nodes.view(&state, nodes.now);
        if let Some(at) = heir_known {
            nodes.run(at);
            let mut pod = a_pod("heir", "heir", CLIENT);
            pod.labels.insert("app".into(), "friend".into());
            world::apply_pod(&mut state, pod);
            nodes.view(&state, nodes.now);
        }
        nodes.run(140.0);
        let (_, sum) = nodes.books[B].only();
        assert_eq!(
            (sum.observed, sum.settled, sum.retracted),
            (1, 0, 1),
            "{heir_known:?}"
        );
        assert_eq!(nodes.books[B].reasons(), [(Reason::SourceAmbiguous, 1)]);
    }
}

#[test]
fn a_time_without_a_complete_view_is_bridged_by_its_two_banks() {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(100.5);
    // A kind of policies is listed anew; meanwhile nobody tells of changes.
    for (n, judge) in nodes.judges.iter_mut().enumerate() {
        judge.on_snapshot(on(n, 100.5), state.snapshot(), false);
    }
    nodes.run(120.0);
    assert_eq!(nodes.books[B].only().1.settled, 0);
    delete_policy(&mut state);
    nodes.view(&state, 120.0);
    nodes.run(140.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.settled, sum.retracted), (0, 1));
}

#[test]
fn many_gaps_are_as_good_as_one_long_one() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    for _ in 0..3 {
        nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
        // Somebody takes the programs off again and again.
        for n in 0..10 {
            let from = nodes.now + f64::from(n) / 10.0;
            nodes.judges[B].on_netns(&NetnsEvent::Gap {
                netns: NetnsCookie(SERVER.2),
                from: on(B, from),
                to: on(B, from + 0.05),
            });
        }
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    for n in 0..60 {
        nodes.judges[B].on_netns(&NetnsEvent::Gap {
            netns: NetnsCookie(SERVER.2),
            from: on(B, 103.5 + f64::from(n) / 10.0),
            to: on(B, 103.55 + f64::from(n) / 10.0),
        });
    }
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty(), "{:#?}", nodes.books[A]);
}

#[test]
fn a_flow_that_began_before_anybody_could_tell_is_no_survivor() {
    // The policy is as old as what we know; the flow began somewhat later.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(5.0);
    // A new namespace, in which nothing went on before.
    let fresh = At(B, "10.1.1.9", 99);
    nodes.run(250.0);
    nodes.attach(fresh, 250.0);
    nodes.identify(fresh, "fresh");
    let mut state = two_nodes();
    let mut pod = a_pod("fresh", "fresh", fresh);
    pod.labels.insert("app".into(), "server".into());
    world::apply_pod(&mut state, pod);
    let mut second = guard(2);
    second.ingress.clear();
    apply_policy(&mut state, second);
    nodes.view(&state, 250.0);
    // Within the grace time of the policy's second edition, which denies like the first one.
    for at in [260.0, 290.0, 320.0] {
        nodes.run(at);
        nodes.datagram(CLIENT, fresh, &[fresh]);
    }
    nodes.run(350.0);
    assert!(nodes.books[B].of(FindingKind::Survivor).is_empty());
    let reasons = nodes.books[B].reasons();
    assert!(
        reasons.contains(&(Reason::FlowBegunBefore, 1)),
        "{reasons:?}"
    );
}

#[test]
fn a_clock_that_is_a_minute_wrong_makes_nothing_unseen() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    let mut seen = Vec::new();
    for _ in 0..4 {
        // Delivered, and lost in a full backlog.
        nodes.attempt(FRIEND, SERVER, 80, Fate::Unanswered);
        seen.push(nodes.next_tag().tag - 1);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(170.0);
    let client = |tag: u32| {
        let port = 20_000 + u16::try_from(tag % 20_000).unwrap();
        SocketAddr::new(ip(FRIEND.1), port)
    };
    for tag in seen {
        let wrong = on(B, 150.0);
        nodes.judges[B].on_question(
            u64::from(tag),
            polproof_flow::witness::Question {
                side: polproof_flow::witness::Side::Destination,
                protocol: Protocol::Tcp,
                tag,
                client: client(tag),
                server: SocketAddr::new(ip(SERVER.1), 80),
                pod: Some(polproof_policy::Uid("server".into())),
                asker: Some(polproof_policy::Uid("friend".into())),
                first: wrong,
                last: wrong,
            },
        );
    }
    nodes.judges[B].tick(on(B, 170.1), on(B, 170.1));
    let said = nodes.judges[B].take_testimonies();
    assert_eq!(said.len(), 4);
    for (_, said) in said {
        assert!(
            matches!(said, polproof_flow::witness::Testimony::Incomplete(_)),
            "{said:?}"
        );
    }
}
