//! Changes, and when what follows from them: late enforcement, exposure, new pods, addresses that change hands.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{End, FindingKind, InconclusiveReason as Reason};
use polproof_policy::{Object, State, Uid};
use std::sync::Arc;
use world::pair::*;
use world::{apply_pod, apply_policy, delete_pod, delete_policy, guard};

const B: usize = 1;

/// The policy comes at 60 s.
fn becomes_denied(at: f64) -> Nodes {
    let mut state = two_nodes();
    delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    nodes.run(60.0);
    apply_policy(&mut state, guard(1));
    nodes.view(&state, 60.0);
    nodes.run(at);
    nodes
}

fn kinds(nodes: &Nodes) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = nodes.books[B]
        .findings
        .iter()
        .filter(|(_, sum)| sum.settled > 0)
        .map(|(key, _)| key.kind)
        .collect();
    kinds.sort();
    kinds
}

#[test]
fn what_gets_through_after_a_policy_came() {
    for (after, kind) in [
        (0.1, None),
        (29.0, None),
        (31.0, Some(FindingKind::LateEnforcement)),
        (39.0, Some(FindingKind::LateEnforcement)),
        (41.0, Some(FindingKind::Unenforced)),
        (300.0, Some(FindingKind::Unenforced)),
    ] {
        let mut nodes = becomes_denied(60.0 + after);
        nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
        let end = nodes.now + 40.0;
        nodes.run(end);
        let found: Vec<_> = kind.into_iter().collect();
        assert_eq!(kinds(&nodes), found, "{after}");
        let in_grace = u64::from(kind.is_none());
        assert_eq!(nodes.books[B].judged.denied_in_grace, in_grace, "{after}");
    }
}

#[test]
fn the_exposure_is_the_time_to_the_last_delivery() {
    let mut nodes = becomes_denied(60.2);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(61.9);
    nodes.attempt(CLIENT, SERVER, 81, Fate::Accepted);
    nodes.run(64.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Dropped);
    nodes.run(91.0);
    assert_eq!(nodes.books[B].exposure.counts.iter().sum::<u64>(), 0);
    nodes.run(95.0);
    let exposure = nodes.books[B].exposure;
    assert_eq!(exposure.counts.iter().sum::<u64>(), 1);
    // Up to 2.5 s.
    assert_eq!(exposure.counts[6], 1, "{exposure:?}");
    assert!((1_800..2_100).contains(&exposure.sum_ms), "{exposure:?}");
    assert!(nodes.books[B].findings.is_empty());
}

#[test]
fn nothing_allowed_lately_is_over_blocked() {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    let mut policy = guard(1);
    policy.ingress.clear();
    apply_policy(&mut state, policy);
    nodes.view(&state, 1.0);
    nodes.run(60.0);
    apply_policy(&mut state, guard(2));
    nodes.view(&state, 60.0);
    nodes.run(70.0);
    for _ in 0..4 {
        nodes.attempt(NEIGHBOUR, SERVER, 443, Fate::Accepted);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
        let next = nodes.now + 1.0;
        nodes.run(next);
    }
    nodes.run(100.0);
    assert!(nodes.books[0].findings.is_empty());
    assert_eq!(nodes.books[0].reasons(), [(Reason::WithinGrace, 4)]);
}

const NEW: At = At(0, "10.1.0.9", 19);
const FRESH: At = At(1, "10.1.1.9", 29);

/// A pod whose packets come before the cluster's view of it.
fn newcomer(state: &mut State, at: At, labels: &str, known_after: f64, attempt: Attempt) -> Nodes {
    let mut nodes = Nodes::new(state);
    nodes.run(99.9);
    nodes.attach(at, 99.9);
    nodes.run(100.0);
    match attempt {
        Attempt::From => nodes.attempt(at, SERVER, 80, Fate::Accepted),
        Attempt::To => nodes.attempt(CLIENT, at, 80, Fate::Accepted),
    }
    nodes.run(100.0 + known_after);
    nodes.identify(at, "new");
    let mut pod = a_pod("new", "new", at);
    pod.labels.insert("app".into(), labels.into());
    apply_pod(state, pod);
    nodes.view(state, nodes.now);
    nodes.run(150.0);
    nodes
}

#[derive(Clone, Copy)]
enum Attempt {
    From,
    To,
}

#[test]
fn a_new_pod_under_old_policies_has_no_grace() {
    for (at, labels, attempt) in [
        (NEW, "new", Attempt::From),
        (FRESH, "server", Attempt::To),
        (FRESH, "new", Attempt::From),
    ] {
        for known_after in [0.3, 2.5, 20.0] {
            let nodes = newcomer(&mut two_nodes(), at, labels, known_after, attempt);
            assert_eq!(
                kinds(&nodes),
                [FindingKind::StartupGap],
                "{at:?} {known_after} {:#?}",
                nodes.books[B]
            );
        }
    }
}

/// A pod that comes at 100 s under old policies, and attempts so long after that.
fn young(at: At, labels: [&str; 2], attempt: Attempt, ages: &[f64]) -> Nodes {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(99.9);
    nodes.attach(at, 99.9);
    nodes.run(100.0);
    nodes.identify(at, "new");
    let [first, then] = labels;
    let mut pod = a_pod("new", "new", at);
    pod.labels.insert("app".into(), first.into());
    apply_pod(&mut state, pod.clone());
    nodes.view(&state, 100.0);
    if then != first {
        nodes.run(100.5);
        pod.labels.insert("app".into(), then.into());
        apply_pod(&mut state, pod);
        nodes.view(&state, 100.5);
    }
    for age in ages {
        nodes.run(100.0 + age);
        match attempt {
            Attempt::From => nodes.attempt(at, SERVER, 80, Fate::Accepted),
            Attempt::To => nodes.attempt(CLIENT, at, 80, Fate::Accepted),
        }
    }
    let end = nodes.now + 40.0;
    nodes.run(end);
    nodes
}

#[test]
fn a_new_pod_that_stays_open_for_a_while_is_a_gap_at_its_start_and_later_more_than_that() {
    for (at, labels, attempt) in [
        (NEW, "new", Attempt::From),
        (FRESH, "server", Attempt::To),
        (FRESH, "new", Attempt::From),
    ] {
        for (age, kind) in [
            (0.5, FindingKind::StartupGap),
            (29.0, FindingKind::StartupGap),
            (31.0, FindingKind::StartupGap),
            (39.0, FindingKind::StartupGap),
            (41.0, FindingKind::Unenforced),
        ] {
            let nodes = young(at, [labels, labels], attempt, &[age]);
            assert_eq!(kinds(&nodes), [kind], "{at:?} {age}");
        }
        let nodes = young(at, [labels, labels], attempt, &[1.0, 32.0, 35.0, 42.0]);
        assert_eq!(
            kinds(&nodes),
            [FindingKind::Unenforced, FindingKind::StartupGap],
            "{at:?}"
        );
    }
}

#[test]
fn a_pod_whose_labels_come_later_is_not_new() {
    for (at, labels, attempt) in [
        (NEW, ["friend", "new"], Attempt::From),
        (FRESH, ["new", "server"], Attempt::To),
    ] {
        for (age, kind) in [
            (1.0, None),
            (31.0, Some(FindingKind::LateEnforcement)),
            (42.0, Some(FindingKind::Unenforced)),
        ] {
            let nodes = young(at, labels, attempt, &[age]);
            let found: Vec<_> = kind.into_iter().collect();
            assert_eq!(kinds(&nodes), found, "{at:?} {age}");
        }
    }
}

#[test]
fn a_new_pod_that_may_is_no_gap() {
    for (at, labels, attempt) in [(NEW, "friend", Attempt::From), (FRESH, "new", Attempt::To)] {
        let nodes = newcomer(&mut two_nodes(), at, labels, 2.0, attempt);
        assert!(nodes.books[B].findings.is_empty());
        assert_eq!(nodes.books[B].judged.allowed_delivered, 1);
    }
}

#[test]
fn a_new_pod_under_a_new_policy_has_the_policys_grace() {
    let mut state = two_nodes();
    delete_policy(&mut state);
    let mut nodes = Nodes::new(&state);
    nodes.run(90.0);
    apply_policy(&mut state, guard(1));
    nodes.view(&state, 90.0);
    nodes.run(99.9);
    nodes.attach(FRESH, 99.9);
    nodes.run(100.0);
    nodes.attempt(CLIENT, FRESH, 80, Fate::Accepted);
    nodes.run(101.0);
    nodes.identify(FRESH, "new");
    let mut pod = a_pod("new", "new", FRESH);
    pod.labels.insert("app".into(), "server".into());
    apply_pod(&mut state, pod);
    nodes.view(&state, 101.0);
    nodes.run(150.0);
    assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);
}

#[test]
fn an_address_that_changes_hands_within_a_second_names_the_right_pod() {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    delete_pod(&mut state, a_pod("client", "client", CLIENT));
    nodes.view(&state, 100.0);
    nodes.run(100.3);
    // The new owner may: under another name, with the same address, in another namespace.
    let heir = At(0, CLIENT.1, 77);
    nodes.attach(heir, 100.3);
    nodes.identify(heir, "heir");
    let mut pod = a_pod("heir", "heir", heir);
    pod.labels.insert("app".into(), "friend".into());
    apply_pod(&mut state, pod);
    nodes.view(&state, 100.4);
    nodes.run(100.5);
    nodes.attempt(heir, SERVER, 80, Fate::Accepted);
    nodes.run(140.0);
    assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);

    // The other way round: it may not, and the one before might.
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    delete_pod(&mut state, a_pod("friend", "friend", FRIEND));
    nodes.view(&state, 100.0);
    let heir = At(0, FRIEND.1, 78);
    nodes.attach(heir, 100.1);
    nodes.identify(heir, "heir");
    apply_pod(&mut state, a_pod("heir", "heir", heir));
    nodes.view(&state, 100.4);
    nodes.run(100.5);
    nodes.attempt(heir, SERVER, 80, Fate::Accepted);
    nodes.run(140.0);
    let (key, sum) = nodes.books[B].only();
    assert!(matches!(&key.source, End::Pod(id, _) if &*id.name == "heir"));
    assert_eq!((sum.settled, sum.retracted), (1, 0));
}

#[test]
fn an_address_that_changes_hands_in_the_view_that_tells_of_a_new_pod_accuses_nobody() {
    // The friend, who may, connects to a new pod, and goes. One view tells of both, and of the heir of its address, who may not.
    for reachable in [true, false] {
        let mut state = two_nodes();
        let mut nodes = Nodes::new(&state);
        nodes.reachable[0] = reachable;
        nodes.run(99.9);
        nodes.attach(FRESH, 99.9);
        nodes.run(100.0);
        nodes.attempt(FRIEND, FRESH, 80, Fate::Accepted);
        nodes.run(101.0);
        nodes.identify(FRESH, "new");
        let mut pod = a_pod("new", "new", FRESH);
        pod.labels.insert("app".into(), "server".into());
        apply_pod(&mut state, pod);
        delete_pod(&mut state, a_pod("friend", "friend", FRIEND));
        apply_pod(&mut state, a_pod("heir", "heir", FRIEND));
        nodes.view(&state, 101.0);
        nodes.run(150.0);
        assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);
        let reasons = nodes.books[B].reasons();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
    }
}

#[test]
fn a_packet_of_the_pod_before_accuses_the_pod_before() {
    // The old owner of the address sends; the view is told of the change a moment earlier than it happened.
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    delete_pod(&mut state, a_pod("friend", "friend", FRIEND));
    apply_pod(&mut state, a_pod("heir", "heir", FRIEND));
    nodes.view(&state, 100.0);
    nodes.run(100.2);
    nodes.attempt(FRIEND, SERVER, 80, Fate::Accepted);
    nodes.run(140.0);
    assert!(nodes.books[B].findings.is_empty(), "{:#?}", nodes.books[B]);
}

#[test]
fn a_pod_recreated_under_its_name_is_another_pod() {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.run(100.0);
    delete_pod(&mut state, a_pod("server", "server", SERVER));
    let again = At(1, SERVER.1, 99);
    nodes.attach(again, 100.1);
    nodes.identify(again, "server-2");
    apply_pod(&mut state, a_pod("server", "server-2", again));
    nodes.view(&state, 100.2);
    nodes.run(100.5);
    nodes.attempt(CLIENT, again, 80, Fate::Accepted);
    nodes.run(140.0);
    let (key, _) = nodes.books[B].only();
    assert_eq!(key.kind, FindingKind::StartupGap);
    assert!(matches!(&key.destination, End::Pod(_, uid) if &*uid.0 == "server-2"));
}

fn namespaced(state: &mut State, team: &str) {
    let mut policy = guard(1);
    policy.ingress[0].peers = vec![polproof_policy::model::Peer::Pods {
        namespaces: Some(world::selector(&[("team", "good")])),
        pods: None,
    }];
    apply_policy(state, policy);
    label(state, team);
}

fn label(state: &mut State, team: &str) {
    state.apply(Object::Namespace(Arc::new(
        polproof_policy::model::Namespace {
            name: "shop".into(),
            uid: Uid("ns".into()),
            labels: [("team".into(), team.into())].into(),
            annotations: Default::default(),
        },
    )));
}

#[test]
fn a_namespaces_label_is_a_change_like_another() {
    let mut state = two_nodes();
    namespaced(&mut state, "good");
    let mut nodes = Nodes::new(&state);
    nodes.run(60.0);
    label(&mut state, "bad");
    nodes.view(&state, 60.0);
    nodes.run(61.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(80.0);
    assert!(nodes.books[B].findings.is_empty());
    assert_eq!(nodes.books[B].judged.denied_in_grace, 1);
    nodes.run(95.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(120.0);
    assert_eq!(kinds(&nodes), [FindingKind::LateEnforcement]);
    // Back again: nothing new stands.
    label(&mut state, "good");
    nodes.view(&state, 120.0);
    nodes.run(121.0);
    nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
    nodes.run(140.0);
    let (_, sum) = nodes.books[B].only();
    assert_eq!((sum.observed, sum.recovered.len()), (1, 1));
}

#[test]
fn a_policy_that_flips_accuses_nobody() {
    let mut state = two_nodes();
    let mut nodes = Nodes::new(&state);
    for n in 0..40 {
        let at = 60.0 + f64::from(n) * 2.0;
        nodes.run(at);
        if n % 2 == 0 {
            delete_policy(&mut state);
        } else {
            apply_policy(&mut state, guard(1));
        }
        nodes.view(&state, at);
        nodes.attempt(CLIENT, SERVER, 80, Fate::Accepted);
        nodes.attempt(FRIEND, SERVER, 80, Fate::Dropped);
    }
    nodes.run(200.0);
    for book in &nodes.books {
        assert!(
            book.findings.values().all(|sum| sum.settled == 0),
            "{book:#?}"
        );
    }
}
