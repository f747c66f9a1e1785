//! Verdicts of two witnesses: every outcome, and every reason for none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{
    Answer, DeniedBy, End, FindingKind, InconclusiveReason as Reason, RecoveryCause,
};
use polproof_flow::netns::{Hook, InPod, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use polproof_policy::Direction;
use world::pair::*;
use world::{apply_policy, delete_policy, guard, ip};

const A: usize = 0;
const B: usize = 1;

fn name(end: &End) -> &str {
    match end {
        End::Pod(id, _) => &id.name,
        End::Node(name) => name,
        End::External => "outside",
    }
}

/// Attempts of the same kind a second apart, each a moment after something else got through.
fn repeat(nodes: &mut Nodes, from: At, times: usize, fate: Fate, control: bool) {
    for _ in 0..times {
        if control {
            nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
        }
        nodes.attempt(from, SERVER, 80, fate);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
}

#[test]
fn a_delivery_that_both_ends_saw_has_two_witnesses() {
    for (fate, answer) in [
        (Fate::Accepted, Answer::Accepted),
        (Fate::Refused, Answer::Refused),
        // Nothing in the pod filters.
        (Fate::Unanswered, Answer::Delivered),
        (Fate::ReplyLost, Answer::Accepted),
    ] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.attempt(CLIENT, SERVER, 80, fate);
        nodes.run(125.0);
        let (key, sum) = nodes.books[B].only();
        assert_eq!(key.kind, FindingKind::Unenforced);
        assert_eq!(
            (name(&key.source), name(&key.destination)),
            ("client", "server")
        );
        assert_eq!(
            (sum.observed, sum.settled, sum.retracted, sum.witnessed),
            (1, 1, 0, 1),
            "{fate:?}"
        );
        assert_eq!(sum.deltas[0].samples[0].answer, answer);
        // Shown before anybody was asked.
        assert_eq!(sum.deltas[0].witnessed, 0);
        assert!(nodes.books[A].findings.is_empty());
        assert!(nodes.books[B].inconclusive.is_empty());
    }
}

#[test]
fn a_forged_source_accuses_nobody() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    let packet = nodes.next_tag();
    let client = std::net::SocketAddr::new(ip(CLIENT.1), 4_000);
    let server = std::net::SocketAddr::new(ip(SERVER.1), 80);
    nodes.arrive(SERVER, packet, client, server, Fate::Accepted);
    nodes.run(125.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.observed, sum.settled, sum.retracted), (1, 0, 1));
    assert_eq!(nodes.books[B].reasons(), [(Reason::SourceUnidentified, 1)]);
}

#[test]
fn without_the_other_agent_one_witness_has_to_do() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.reachable[A] = false;
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(125.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.settled, sum.witnessed), (1, 0));
}

#[test]
fn a_pod_of_the_same_node_is_known_by_ourselves_whatever_its_address() {
    for seen_as in ["192.168.0.1", "10.99.0.1", "192.168.0.2"] {
        let mut nodes = Nodes::new(&two_nodes());
        // Nobody has to be asked.
        nodes.reachable = [false, false];
        nodes.run(100.0);
        nodes.translated(
            NEIGHBOUR,
            SERVER,
            ("192.168.0.1", 30_080),
            seen_as,
            Fate::Accepted,
        );
        nodes.run(125.0);
        let (key, sum) = nodes.books[B].only();
        assert_eq!(name(&key.source), "neighbour", "{seen_as}");
        assert_eq!((sum.settled, sum.witnessed), (1, 1), "{seen_as}");
    }
}

#[test]
fn the_real_pod_is_named_behind_masquerading() {
    for seen_as in ["192.168.0.1", "10.1.0.99", "10.99.0.1"] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.translated(CLIENT, SERVER, (SERVER.1, 80), seen_as, Fate::Accepted);
        nodes.run(125.0);
        let (key, sum) = nodes.books[B].only();
        assert_eq!(name(&key.source), "client", "{seen_as}");
        assert_eq!(key.source_ip, ip(CLIENT.1));
        assert_eq!((sum.settled, sum.witnessed), (1, 1), "{seen_as}");

        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.translated(FRIEND, SERVER, (SERVER.1, 80), seen_as, Fate::Accepted);
        nodes.run(125.0);
        assert!(nodes.books[B].findings.is_empty());
        assert_eq!(nodes.books[B].judged.allowed_delivered, 1, "{seen_as}");
    }
}

#[test]
fn an_address_block_that_holds_the_translated_address_leaves_it_open() {
    let mut state = two_nodes();
    let mut policy = guard(1);
    policy.ingress.push(polproof_policy::model::Rule {
        peers: vec![polproof_policy::model::Peer::IpBlock {
            cidr: "192.168.0.0/24".parse().unwrap(),
            except: Vec::new(),
        }],
        ports: Vec::new(),
    });
    apply_policy(&mut state, policy);
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes.translated(
        CLIENT,
        SERVER,
        (SERVER.1, 80),
        "192.168.0.1",
        Fate::Accepted,
    );
    nodes.run(125.0);
    assert!(nodes.books[B].findings.is_empty());
    assert_eq!(nodes.books[B].reasons(), [(Reason::TranslatedAddress, 1)]);
}

#[test]
fn a_pod_that_reaches_itself_is_exempt_though_it_looks_like_the_node() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.translated(
        SERVER,
        SERVER,
        ("192.168.0.2", 30_080),
        "192.168.0.2",
        Fate::Accepted,
    );
    nodes.run(125.0);
    for book in &nodes.books {
        assert!(book.findings.is_empty() && book.inconclusive.is_empty());
    }
    assert!(nodes.judges[B].tally().exempt >= 1);
}

#[test]
fn an_allowed_attempt_that_is_stopped_thrice_is_over_blocked() {
    for (fate, answer) in [
        (Fate::Dropped, Answer::Dropped),
        (Fate::Reset, Answer::Rejected),
        (Fate::Icmp, Answer::Rejected),
    ] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        repeat(&mut nodes, FRIEND, 3, fate, true);
        nodes.run(140.0);
        let (key, sum) = nodes.books[A].only();
        assert_eq!(key.kind, FindingKind::OverBlocked);
        assert_eq!(
            (name(&key.source), name(&key.destination)),
            ("friend", "server")
        );
        assert_eq!(key.policies.len(), 1);
        assert_eq!(key.policies[0].direction, Direction::Ingress);
        assert_eq!(key.policies[0].by, DeniedBy::Rule(0));
        assert_eq!(
            (sum.observed, sum.settled, sum.witnessed),
            (3, 3, 3),
            "{fate:?}"
        );
        assert_eq!(sum.deltas[0].samples[0].answer, answer);
        assert_eq!(nodes.books[A].reasons(), [(Reason::TooFewAttempts, 2)]);
        assert!(nodes.books[B].findings.is_empty());
    }
}

#[test]
fn what_is_too_little_for_over_blocking() {
    // Twice only.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    repeat(&mut nodes, FRIEND, 2, Fate::Dropped, true);
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::TooFewAttempts, 2)]);

    // Nothing else got through.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    repeat(&mut nodes, FRIEND, 4, Fate::Dropped, false);
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::NoControl, 4)]);

    // Nobody can be asked.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.reachable[B] = false;
    nodes.run(100.0);
    repeat(&mut nodes, FRIEND, 4, Fate::Dropped, true);
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert_eq!(nodes.books[A].reasons(), [(Reason::NoWitness, 4)]);

    // It arrives: the backlog is full.
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    repeat(&mut nodes, FRIEND, 4, Fate::Unanswered, true);
    nodes.run(140.0);
    assert!(nodes.books[A].findings.is_empty());
    assert!(nodes.books[A].inconclusive.is_empty());
}

#[test]
fn an_incomplete_witness_proves_no_absence() {
    type Spoil = fn(&mut Nodes);
    let spoils: [Spoil; 4] = [
        |nodes| nodes.judges[B].on_lost(on(B, 100.0), on(B, 101.0)),
        |nodes| {
            nodes.judges[B].on_netns(&NetnsEvent::HookChanged {
                netns: NetnsCookie(SERVER.2),
                at: on(B, 99.0),
                hook: Hook::Shared("xdp".into()),
            });
        },
        |nodes| {
            nodes.judges[B].on_netns(&NetnsEvent::Gap {
                netns: NetnsCookie(SERVER.2),
                from: on(B, 100.0),
                to: on(B, 103.0),
            });
        },
        |nodes| nodes.attach(SERVER, 102.5),
    ];
    for (n, spoil) in spoils.into_iter().enumerate() {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        spoil(&mut nodes);
        for _ in 0..3 {
            nodes.attempt(FRIEND, SERVER, 443, Fate::Accepted);
            nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
            let next = nodes.now + 0.6;
            nodes.run(next);
        }
        nodes.run(140.0);
        assert!(nodes.books[A].findings.is_empty(), "{n}");
        let withheld = nodes.books[A].inconclusive.get(&Reason::WitnessIncomplete);
        assert!(
            withheld.is_some_and(|n| *n >= 1),
            "{n} {:?}",
            nodes.books[A]
        );
    }
}

#[test]
fn an_acceptance_that_does_not_come_back() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    repeat(&mut nodes, FRIEND, 3, Fate::ReplyLost, false);
    nodes.run(140.0);
    let (key, sum) = nodes.books[A].only();
    assert_eq!(key.kind, FindingKind::ReplyLost);
    assert_eq!((sum.settled, sum.witnessed), (3, 3));
    // It is delivered and answered again.
    nodes.attempt(FRIEND, SERVER, 80, Fate::Accepted);
    nodes.run(142.0);
    let (_, sum) = nodes.books[A].only();
    assert_eq!(sum.recovered.len(), 1);
    assert_eq!(sum.recovered[0].cause, RecoveryCause::Delivered);
}

#[test]
fn a_denied_attempt_that_a_complete_witness_missed_is_proof_with_a_control() {
    for fate in [Fate::Dropped, Fate::Reset, Fate::Icmp] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Accepted);
        nodes.attempt(CLIENT, SERVER, 80, fate);
        nodes.run(140.0);
        assert_eq!(nodes.books[A].judged.denied_stopped, 1, "{fate:?}");
        assert!(nodes.books[A].inconclusive.is_empty());

        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(100.0);
        nodes.attempt(CLIENT, SERVER, 80, fate);
        nodes.run(140.0);
        assert_eq!(nodes.books[A].judged.denied_stopped, 0);
        assert_eq!(nodes.books[A].judged.denied_unanswered, 1);
    }
}

#[test]
fn something_else_answers() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Elsewhere);
    nodes.run(140.0);
    assert_eq!(nodes.books[A].judged.denied_answered, 1);
    assert_eq!(nodes.books[A].reasons(), [(Reason::AnsweredElsewhere, 1)]);
    assert!(nodes.books[B].findings.is_empty());
}

#[test]
fn what_a_filter_of_the_pod_may_have_decided_is_left_open() {
    for (fate, accused) in [
        (Fate::Unanswered, false),
        (Fate::Refused, false),
        (Fate::Accepted, true),
    ] {
        let mut nodes = Nodes::new(&two_nodes());
        nodes.run(90.0);
        nodes.judges[B].on_netns(&NetnsEvent::InPod {
            netns: NetnsCookie(SERVER.2),
            at: on(B, 90.0),
            filter: InPod::Filtered("nft: 3 chains".into()),
        });
        nodes.run(100.0);
        nodes.attempt(CLIENT, SERVER, 80, fate);
        nodes.run(125.0);
        assert_eq!(!nodes.books[B].findings.is_empty(), accused, "{fate:?}");
        if !accused {
            assert_eq!(nodes.books[B].reasons(), [(Reason::InPodFilter, 1)]);
        }
    }
}

#[test]
fn a_violation_is_over_when_the_same_is_stopped_and_stands_again_when_it_is_not() {
    let mut nodes = Nodes::new(&two_nodes());
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    for until in [120.0, 140.0, 160.0] {
        nodes.run(until - 20.0 + 0.1);
        if until > 120.0 {
            nodes.attempt(FRIEND, SERVER, 80, Fate::Accepted);
            nodes.attempt(CLIENT, SERVER, 80, Fate::Dropped);
        }
        nodes.run(until);
    }
    let (_, sum) = nodes.books[B].only();
    assert_eq!(sum.recovered.len(), 1, "once");
    assert_eq!(sum.recovered[0].cause, RecoveryCause::Enforced);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(180.0);
    nodes.attempt(FRIEND, SERVER, 80, Fate::Accepted);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Reset);
    nodes.run(200.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.settled, sum.recovered.len()), (2, 2));
}

#[test]
fn a_violation_is_over_when_the_policy_or_a_pod_is_gone() {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(120.0);
    delete_policy(&mut state);
    nodes.view(&state, nodes.now);
    nodes.run(121.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!(sum.recovered[0].cause, RecoveryCause::PolicyChanged);

    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    // A short-lived client: gone before the attempt is settled.
    nodes.run(101.0);
    world::delete_pod(&mut state, a_pod("client", "client", CLIENT));
    nodes.view(&state, nodes.now);
    nodes.run(120.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.settled, sum.retracted), (1, 0));
    assert_eq!(sum.recovered.len(), 1);
    assert_eq!(sum.recovered[0].cause, RecoveryCause::PodGone);
}
