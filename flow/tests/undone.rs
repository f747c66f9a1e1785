//! Labels that are changed and changed back before a view is made of it: no view shows it, but whoever enforces may have seen it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use std::sync::Arc;

use polproof_flow::Judge;
use polproof_flow::finding::{FindingKind, InconclusiveReason as Reason, Report};
use polproof_policy::model::Namespace;
use polproof_policy::{Object, State, Uid};
use world::*;

/// For a moment the client has the labels of the friend, who may.
fn client_may(state: &mut State) {
    let mut client = pod("client", "client", CLIENT);
    let labels = std::mem::replace(&mut client.labels, pod("friend", "friend", FRIEND).labels);
    apply_pod(state, client.clone());
    client.labels = labels;
    apply_pod(state, client);
}

/// For a moment the server is none whom the policy selects.
fn server_is_open(state: &mut State) {
    let server = pod("server", "server", SERVER);
    let mut open = server.clone();
    open.labels.clear();
    apply_pod(state, open);
    apply_pod(state, server);
}

/// The client gets other labels, by way of those of the friend.
fn client_is_another(state: &mut State) {
    let mut client = pod("client", "client", CLIENT);
    let mut labels = client.labels.clone();
    labels.insert("step".into(), "second".into());
    client.labels = pod("friend", "friend", FRIEND).labels;
    apply_pod(state, client.clone());
    client.labels = labels;
    apply_pod(state, client);
}

/// For a moment the namespace has another label.
fn namespace_is_another(state: &mut State) {
    put_namespace(state, &[("team", "red")]);
    put_namespace(state, &[]);
}

fn put_namespace(state: &mut State, labels: &[(&str, &str)]) {
    let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    state.apply(Object::Namespace(Arc::new(Namespace {
        name: "shop".into(),
        uid: Uid("ns".into()),
        labels: labels.collect(),
        annotations: Default::default(),
    })));
}

type Change = fn(&mut State);

const FLIPS: [Change; 4] = [
    client_may,
    client_is_another,
    server_is_open,
    namespace_is_another,
];

/// The server answers an attempt of the client, and somewhat later it is judged.
fn attempt_at(judge: &mut Judge, at: f64, isn: u32) -> Report {
    let t = attempt(CLIENT, isn);
    feed(
        judge,
        seconds(at + 0.1),
        &[t.syn(seconds(at)), t.syn_ack(seconds(at + 0.001))],
    )
}

fn view(judge: &mut Judge, state: &State, at: f64) {
    judge.on_snapshot(seconds(at), snapshot(state), true);
}

#[test]
fn what_gets_through_within_the_grace_time_after_it_accuses_nobody() {
    for flip in FLIPS {
        for known in [false, true] {
            let mut state = cluster();
            let mut judge = judge(&state);
            if known {
                // What was expected until then is remembered.
                assert_eq!(counts(&attempt_at(&mut judge, 50.0, 1)), (1, 0, 0));
                feed(&mut judge, seconds(65.0), &[]);
            }
            flip(&mut state);
            view(&mut judge, &state, 70.0);
            for (n, at) in [(2, 70.1), (3, 85.0), (4, 99.9)] {
                let report = attempt_at(&mut judge, at, n);
                assert_eq!(counts(&report), (0, 0, 0), "{report:#?}");
                assert_eq!(inconclusive(&report, Reason::WithinGrace), 1);
            }
            // Of an enforcer that has not followed by then nothing is missed.
            let report = attempt_at(&mut judge, 105.0, 11);
            assert_eq!(report.findings[0].key.kind, FindingKind::LateEnforcement);
            let report = attempt_at(&mut judge, 115.0, 12);
            let found: Vec<_> = report.findings.iter().filter(|f| f.observed > 0).collect();
            assert_eq!(found.len(), 1, "{report:#?}");
            assert_eq!(found[0].key.kind, FindingKind::Unenforced);
            let report = feed(&mut judge, seconds(130.0), &[]);
            assert_eq!(counts(&report), (0, 1, 0), "{report:#?}");
        }
    }
}

#[test]
fn what_got_through_before_the_view_that_hides_it_is_taken_back() {
    for flip in FLIPS {
        let mut state = cluster();
        let mut judge = judge(&state);
        assert_eq!(counts(&attempt_at(&mut judge, 70.0, 1)), (1, 0, 0));
        flip(&mut state);
        view(&mut judge, &state, 71.0);
        let report = feed(&mut judge, seconds(85.0), &[]);
        assert_eq!(counts(&report), (0, 0, 1), "{report:#?}");
        assert_eq!(inconclusive(&report, Reason::ExpectationChanged), 1);
    }
}

#[test]
fn an_attempt_that_is_read_after_the_view_that_hides_it_accuses_nobody() {
    for flip in FLIPS {
        let mut state = cluster();
        let mut judge = judge(&state);
        flip(&mut state);
        view(&mut judge, &state, 70.0);
        let report = attempt_at(&mut judge, 69.0, 1);
        assert_eq!(counts(&report), (0, 0, 0), "{report:#?}");
        assert_eq!(inconclusive(&report, Reason::ExpectationChanged), 1);
        // Another view came since, which hides nothing.
        apply_pod(&mut state, pod("other", "other", "10.1.0.9"));
        view(&mut judge, &state, 80.0);
        let report = attempt_at(&mut judge, 79.0, 2);
        assert_eq!(counts(&report), (0, 0, 0), "{report:#?}");
        assert_eq!(inconclusive(&report, Reason::WithinGrace), 1);
    }
}

#[test]
fn a_new_pod_whose_namespace_was_another_for_a_moment_is_no_gap_at_its_start() {
    for flips in [false, true] {
        let mut state = cluster();
        let mut client = pod("client", "client", CLIENT);
        delete_pod(&mut state, client.clone());
        client.uid = Uid("new".into());
        let mut judge = judge(&state);
        if flips {
            namespace_is_another(&mut state);
        }
        apply_pod(&mut state, pod("other", "other", "10.1.0.9"));
        view(&mut judge, &state, 60.0);
        apply_pod(&mut state, client);
        view(&mut judge, &state, 70.0);
        let report = attempt_at(&mut judge, 71.0, 1);
        let found = usize::from(!flips);
        assert_eq!(report.findings.len(), found, "{report:#?}");
    }
}

#[test]
fn what_does_not_concern_the_labels_of_either_end_begins_no_grace_time() {
    let changes: [Change; 3] = [
        // Another pod is what it was again.
        |state| {
            let friend = pod("friend", "friend", FRIEND);
            let mut other = friend.clone();
            other.labels.clear();
            apply_pod(state, other);
            apply_pod(state, friend);
        },
        // An object is told of again.
        |state| {
            apply_pod(state, pod("client", "client", CLIENT));
            apply_pod(state, pod("server", "server", SERVER));
        },
        // Its second address is told.
        |state| {
            let mut client = pod("client", "client", CLIENT);
            client.ips.push(ip("10.1.0.77"));
            apply_pod(state, client);
        },
    ];
    for change in changes {
        let mut state = cluster();
        let mut judge = judge(&state);
        change(&mut state);
        view(&mut judge, &state, 70.0);
        let report = attempt_at(&mut judge, 71.0, 1);
        assert_eq!(counts(&report), (1, 0, 0), "{report:#?}");
        assert_eq!(report.findings[0].key.kind, FindingKind::Unenforced);
        let report = feed(&mut judge, seconds(90.0), &[]);
        assert_eq!(counts(&report), (0, 1, 0), "{report:#?}");
    }
}

#[test]
fn views_of_two_states_have_no_object_in_common_and_are_compared_by_what_they_say() {
    let mut judge = judge(&cluster());
    judge.on_stale(seconds(69.0), snapshot(&cluster()));
    judge.on_snapshot(seconds(70.0), snapshot(&cluster()), true);
    let report = attempt_at(&mut judge, 71.0, 1);
    assert_eq!(counts(&report), (1, 0, 0), "{report:#?}");
}

#[test]
fn a_view_may_tell_of_a_pods_end_and_of_what_changed_before_it() {
    let changes: [(Change, bool); 5] = [
        (|_| {}, false),
        (|state| put_namespace(state, &[("team", "red")]), true),
        (namespace_is_another, true),
        (
            |state| {
                let mut server = pair::a_pod("server", "server", pair::SERVER);
                server.labels.insert("tier".into(), "front".into());
                apply_pod(state, server);
            },
            true,
        ),
        (
            |state| {
                let mut all = guard(1);
                all.id = pair::id("all");
                all.uid = Uid("all".into());
                all.ingress[0].peers.clear();
                apply_policy(state, all);
            },
            true,
        ),
    ];
    for (n, (change, taken_back)) in changes.into_iter().enumerate() {
        let mut state = pair::two_nodes();
        let mut nodes = pair::Nodes::new(&state);
        nodes.run(100.0);
        nodes.attempt(pair::CLIENT, pair::SERVER, 80, pair::Fate::Accepted);
        nodes.run(101.0);
        change(&mut state);
        delete_pod(&mut state, pair::a_pod("client", "client", pair::CLIENT));
        nodes.view(&state, 101.0);
        nodes.run(140.0);
        let (_, sum) = nodes.books[1].only();
        let back = u64::from(taken_back);
        assert_eq!(
            (sum.settled, sum.retracted),
            (1 - back, back),
            "{n}: {sum:#?}"
        );
    }
}
