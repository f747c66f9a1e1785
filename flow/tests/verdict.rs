//! Verdicts on single attempts: every outcome and every reason for none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{
    Answer, DeniedBy, End, FindingKind, InconclusiveReason as Reason, Report,
};
use polproof_flow::netns::{Hook, InPod, NetnsEvent};
use polproof_flow::{Judge, Settings};
use polproof_policy::{Direction, Kind, State};
use world::*;

/// The report on one answered attempt at 100 s.
fn judged(judge: &mut Judge, client: &str) -> Report {
    let t = attempt(client, 7);
    feed(
        judge,
        seconds(100.1),
        &[t.syn(seconds(100.0)), t.syn_ack(seconds(100.001))],
    )
}

fn only(report: &Report, reason: Reason) {
    assert_eq!(report.findings, []);
    assert_eq!(report.inconclusive, [(reason, 1)], "{report:#?}");
}

fn silent(report: &Report) {
    assert!(report.findings.is_empty(), "{report:#?}");
    assert!(report.inconclusive.is_empty(), "{report:#?}");
}

fn observed(report: &Report) {
    assert_eq!(counts(report), (1, 0, 0), "{report:#?}");
    assert!(report.inconclusive.is_empty(), "{report:#?}");
}

#[test]
fn a_denied_connection_that_was_answered_is_observed_and_then_settled() {
    let mut judge = judge(&cluster());
    let t = attempt(CLIENT, 7);
    for record in [t.syn(seconds(100.0)), t.syn_ack(seconds(100.001))] {
        judge.on_record(record);
    }
    tick(&mut judge, seconds(100.01));
    assert!(judge.urgent());
    let report = judge.take_report(seconds(100.01));
    assert!(!judge.urgent());
    observed(&report);
    assert_eq!(report.judged.denied_delivered, 1);
    let delta = &report.findings[0];
    assert_eq!(delta.key.kind, FindingKind::Unenforced);
    assert!(
        matches!(&delta.key.source, End::Pod(id, uid) if &*id.name == "client" && &*uid.0 == "client")
    );
    assert!(matches!(&delta.key.destination, End::Pod(id, _) if &*id.name == "server"));
    assert_eq!(delta.key.port, 80);
    assert_eq!(delta.key.policies.len(), 1);
    let policy = &delta.key.policies[0];
    assert_eq!(
        (policy.direction, policy.generation, policy.kind, policy.by),
        (
            Direction::Ingress,
            1,
            Kind::NetworkPolicy,
            DeniedBy::NoRule(1)
        )
    );
    assert_eq!(&*policy.uid.0, "guard");
    assert_eq!(delta.samples.len(), 1);
    assert_eq!(delta.samples[0].syn, t.syn(seconds(100.0)));
    assert_eq!(delta.samples[0].answer, Answer::Accepted);

    assert!(feed(&mut judge, seconds(109.9), &[]).is_empty());
    let report = feed(&mut judge, seconds(110.1), &[]);
    assert_eq!(counts(&report), (0, 1, 0));
    assert!(judge.settled_until() >= seconds(100.0));
    assert!(feed(&mut judge, seconds(130.0), &[]).is_empty());
}

#[test]
fn a_closed_port_answers_too() {
    let mut judge = judge(&cluster());
    judge.on_netns(&NetnsEvent::InPod {
        netns: SERVER_NETNS,
        at: seconds(0.6),
        filter: InPod::Plain,
    });
    let t = attempt(CLIENT, 7);
    let report = feed(
        &mut judge,
        seconds(100.1),
        &[t.syn(seconds(100.0)), t.rst(seconds(100.001))],
    );
    observed(&report);
    assert_eq!(report.findings[0].samples[0].answer, Answer::Refused);
}

#[test]
fn an_allowed_connection_is_silent() {
    let mut judge = judge(&cluster());
    let report = judged(&mut judge, FRIEND);
    silent(&report);
    assert_eq!(report.judged.allowed_delivered, 1);
}

#[test]
fn an_external_source_is_named_as_such() {
    let mut judge = judge(&cluster());
    let report = judged(&mut judge, "203.0.113.9");
    observed(&report);
    assert_eq!(report.findings[0].key.source, End::External);
}

#[test]
fn the_own_node_and_the_pod_itself_are_exempt() {
    for source in ["192.168.0.1", "10.1.0.254", SERVER] {
        let mut judge = judge(&cluster());
        let report = judged(&mut judge, source);
        silent(&report);
        assert_eq!(report.judged.denied_delivered, 0);
        assert_eq!(judge.tally().exempt, 1);
    }
}

#[test]
fn sources_without_a_sound_identity() {
    for (source, reason) in [
        ("192.168.0.2", Reason::SourceIsNode),
        ("10.9.9.9", Reason::SourceUnidentified),
        ("169.254.7.7", Reason::SourceUnidentified),
    ] {
        let mut judge = judge(&cluster());
        only(&judged(&mut judge, source), reason);
    }
    // This may be the address of a new pod, for a while.
    let mut held = judge(&cluster());
    assert!(judged(&mut held, "10.1.1.77").is_empty());
    only(
        &feed(&mut held, seconds(130.2), &[]),
        Reason::SourceUnidentified,
    );
    let mut state = cluster();
    apply_pod(&mut state, pod("twin", "twin", CLIENT));
    only(&judged(&mut judge(&state), CLIENT), Reason::SourceAmbiguous);
}

#[test]
fn an_address_that_changed_hands_is_ambiguous() {
    let mut state = cluster();
    let mut judge = judge(&state);
    delete_pod(&mut state, pod("client", "client", CLIENT));
    apply_pod(&mut state, pod("client", "client-2", CLIENT));
    judge.on_snapshot(seconds(90.0), state.snapshot(), true);
    only(&judged(&mut judge, CLIENT), Reason::SourceAmbiguous);
}

#[test]
fn a_young_pod_has_no_grace_and_is_called_one_until_a_change_would_be_late_no_more() {
    let mut state = cluster();
    let mut judge = judge(&state);
    apply_pod(&mut state, pod("new", "new", "10.1.0.9"));
    judge.on_snapshot(seconds(90.0), state.snapshot(), true);
    let report = judged(&mut judge, "10.1.0.9");
    observed(&report);
    assert_eq!(report.findings[0].key.kind, FindingKind::StartupGap);
    let t = attempt("10.1.0.9", 8);
    let report = feed(
        &mut judge,
        seconds(131.0),
        &[t.syn(seconds(130.5)), t.syn_ack(seconds(130.5))],
    );
    assert_eq!(counts(&report), (1, 1, 0), "the first one is settled");
    let mut kinds: Vec<_> = report.findings.iter().map(|delta| delta.key.kind).collect();
    kinds.sort();
    assert_eq!(kinds, [FindingKind::Unenforced, FindingKind::StartupGap]);
}

#[test]
fn within_grace_of_a_new_denial_and_of_the_first_view() {
    let mut state = cluster();
    delete_policy(&mut state);
    let mut held = judge(&state);
    apply_policy(&mut state, guard(1));
    held.on_snapshot(seconds(71.0), state.snapshot(), true);
    only(&judged(&mut held, CLIENT), Reason::WithinGrace);

    let mut young = Judge::new(here(), Settings::default());
    identify(&mut young);
    young.on_snapshot(seconds(80.0), state.snapshot(), true);
    only(&judged(&mut young, CLIENT), Reason::WithinGrace);
}

#[test]
fn an_edited_policy_has_its_grace_but_another_that_denied_throughout_decides() {
    let mut state = cluster();
    let mut held = judge(&state);
    apply_policy(&mut state, guard(2));
    held.on_snapshot(seconds(90.0), state.snapshot(), true);
    only(&judged(&mut held, CLIENT), Reason::WithinGrace);

    let mut state = cluster();
    let mut other = guard(1);
    other.id.name = "second".into();
    other.uid = polproof_policy::Uid("second".into());
    apply_policy(&mut state, other);
    let mut held = judge(&state);
    apply_policy(&mut state, guard(2));
    held.on_snapshot(seconds(90.0), state.snapshot(), true);
    let report = judged(&mut held, CLIENT);
    observed(&report);
    assert_eq!(report.findings[0].key.policies.len(), 2);
}

#[test]
fn unrelated_changes_do_not_begin_a_grace_time() {
    let mut state = cluster();
    let mut judge = judge(&state);
    for n in 0..60_u32 {
        apply_pod(&mut state, pod("noise", &format!("noise-{n}"), "10.1.0.50"));
        judge.on_snapshot(seconds(40.0 + f64::from(n)), state.snapshot(), true);
    }
    observed(&judged(&mut judge, CLIENT));
}

#[test]
fn a_change_soon_after_takes_the_attempt_back() {
    let mut state = cluster();
    let mut judge = judge(&state);
    observed(&judged(&mut judge, CLIENT));
    delete_policy(&mut state);
    judge.on_snapshot(seconds(104.0), state.snapshot(), true);
    let report = feed(&mut judge, seconds(110.5), &[]);
    assert_eq!(counts(&report), (0, 0, 1));
    assert_eq!(inconclusive(&report, Reason::ExpectationChanged), 1);
}

#[test]
fn a_change_after_the_aftermath_does_not() {
    let mut state = cluster();
    let mut judge = judge(&state);
    observed(&judged(&mut judge, CLIENT));
    delete_policy(&mut state);
    judge.on_snapshot(seconds(105.5), state.snapshot(), true);
    let report = feed(&mut judge, seconds(110.5), &[]);
    assert_eq!(counts(&report), (0, 1, 0));
}

#[test]
fn a_flip_that_was_undone_takes_the_attempt_back() {
    let mut state = cluster();
    let mut judge = judge(&state);
    observed(&judged(&mut judge, CLIENT));
    delete_policy(&mut state);
    judge.on_snapshot(seconds(101.0), state.snapshot(), true);
    apply_policy(&mut state, guard(1));
    judge.on_snapshot(seconds(102.0), state.snapshot(), true);
    assert_eq!(counts(&feed(&mut judge, seconds(110.5), &[])), (0, 0, 1));
}

#[test]
fn an_attempt_waits_for_the_identity_of_its_namespace_but_not_for_ever() {
    let mut judge = Judge::new(here(), Settings::default());
    judge.on_snapshot(seconds(1.0), cluster().snapshot(), true);
    assert!(judged(&mut judge, CLIENT).is_empty());
    identify(&mut judge);
    observed(&feed(&mut judge, seconds(105.0), &[]));

    let mut judge = Judge::new(here(), Settings::default());
    judge.on_snapshot(seconds(1.0), cluster().snapshot(), true);
    assert!(judged(&mut judge, CLIENT).is_empty());
    only(
        &feed(&mut judge, seconds(131.0), &[]),
        Reason::DestinationUnidentified,
    );
    identify(&mut judge);
    assert!(feed(&mut judge, seconds(132.0), &[]).is_empty());
}

#[test]
fn a_backlog_is_not_held_against_the_wait() {
    let mut judge = Judge::new(here(), Settings::default());
    judge.on_snapshot(seconds(1.0), cluster().snapshot(), true);
    let t = attempt(CLIENT, 7);
    judge.on_record(t.syn(seconds(100.0)));
    judge.on_record(t.syn_ack(seconds(100.0)));
    // Read a minute late: first while more is waiting, then at the end of the backlog.
    judge.tick(seconds(160.0), seconds(100.0));
    judge.tick(seconds(160.1), seconds(160.1));
    assert!(judge.take_report(seconds(160.1)).is_empty());
    identify(&mut judge);
    let report = feed(&mut judge, seconds(165.0), &[]);
    assert_eq!(
        counts(&report),
        (1, 1, 0),
        "old enough to be judged for good at once"
    );
}

#[test]
fn contradicted_namespaces_and_foreign_addresses() {
    let mut held = judge(&cluster());
    held.on_netns(&NetnsEvent::Contradicted {
        netns: SERVER_NETNS,
        why: "cgroup and address differ".into(),
    });
    only(&judged(&mut held, CLIENT), Reason::DestinationUnidentified);

    let mut held = judge(&cluster());
    let mut t = attempt(CLIENT, 7);
    t.server.set_ip(ip("10.9.9.9"));
    let report = feed(
        &mut held,
        seconds(100.0),
        &[t.syn(seconds(100.0)), t.rst(seconds(100.0))],
    );
    assert!(report.is_empty(), "the pod's addresses may be on their way");
    only(
        &feed(&mut held, seconds(131.0), &[]),
        Reason::DestinationUnidentified,
    );
}

#[test]
fn a_shared_hook() {
    let mut held = judge(&cluster());
    attach(
        &mut held,
        SERVER_NETNS,
        Hook::Shared("tcx: cil_from_container".into()),
    );
    only(&judged(&mut held, CLIENT), Reason::HookShared);

    // Exclusive again: only attempts from then on count.
    held.on_netns(&NetnsEvent::HookChanged {
        netns: SERVER_NETNS,
        at: seconds(105.0),
        hook: Hook::Exclusive,
    });
    let (early, late) = (attempt(CLIENT, 8), attempt(CLIENT, 9));
    let report = feed(
        &mut held,
        seconds(106.5),
        &[
            early.syn(seconds(104.0)),
            early.syn_ack(seconds(104.0)),
            late.syn(seconds(106.0)),
            late.syn_ack(seconds(106.0)),
        ],
    );
    assert_eq!(counts(&report), (1, 0, 0));
    assert_eq!(inconclusive(&report, Reason::HookShared), 1);

    // Noticed before it settled: taken back.
    held.on_netns(&NetnsEvent::HookChanged {
        netns: SERVER_NETNS,
        at: seconds(110.0),
        hook: Hook::Shared("xdp".into()),
    });
    let report = feed(&mut held, seconds(120.0), &[]);
    assert_eq!(counts(&report), (0, 0, 1));
    assert_eq!(inconclusive(&report, Reason::HookShared), 1);
}

#[test]
fn unanswered_and_records_lost() {
    let t = attempt(CLIENT, 7);
    let mut held = judge(&cluster());
    assert!(feed(&mut held, seconds(100.1), &[t.syn(seconds(100.0))]).is_empty());
    assert!(feed(&mut held, seconds(101.9), &[]).is_empty());
    // Whether something in the pod filters was not asked.
    only(&feed(&mut held, seconds(102.1), &[]), Reason::InPodFilter);

    let mut held = judge(&cluster());
    assert!(feed(&mut held, seconds(100.1), &[t.syn(seconds(100.0))]).is_empty());
    held.on_lost(seconds(101.0), seconds(101.5));
    only(&feed(&mut held, seconds(102.1), &[]), Reason::RecordsLost);

    // A loss does not make a delivered attempt untrue.
    let mut held = judge(&cluster());
    held.on_lost(seconds(99.0), seconds(100.0));
    observed(&judged(&mut held, CLIENT));
}

#[test]
fn no_view_yet() {
    let mut held = Judge::new(here(), Settings::default());
    identify(&mut held);
    held.on_snapshot(seconds(1.0), State::new().snapshot(), false);
    assert!(judged(&mut held, CLIENT).is_empty());
    only(
        &feed(&mut held, seconds(130.2), &[]),
        Reason::SnapshotNotReady,
    );
}

#[test]
fn the_expectation_may_be_open() {
    // The verdict depends on an ipBlock that holds a pod's address.
    let mut state = cluster();
    let mut policy = guard(1);
    policy.ingress[0].peers = vec![polproof_policy::model::Peer::IpBlock {
        cidr: "10.1.0.0/24".parse().unwrap(),
        except: Vec::new(),
    }];
    apply_policy(&mut state, policy);
    only(
        &judged(&mut judge(&state), CLIENT),
        Reason::ExpectationUnknown,
    );
}

#[test]
fn a_full_table_is_counted() {
    let settings = Settings {
        max_attempts: 10,
        ..Settings::default()
    };
    let mut held = judge_with(&cluster(), settings);
    let records: Vec<_> = (0..15)
        .map(|n| attempt(CLIENT, n).syn(seconds(100.0 + f64::from(n) / 1000.0)))
        .collect();
    let report = feed(&mut held, seconds(100.1), &records);
    assert_eq!(inconclusive(&report, Reason::StateEvicted), 5);
    let report = feed(&mut held, seconds(103.0), &[]);
    assert_eq!(inconclusive(&report, Reason::InPodFilter), 10);
}

#[test]
fn repetitions_are_the_same_attempt() {
    let mut held = judge(&cluster());
    let t = attempt(CLIENT, 7);
    let report = feed(
        &mut held,
        seconds(100.1),
        &[t.syn(seconds(100.0)), t.syn_ack(seconds(100.0))],
    );
    observed(&report);
    for at in [101.0, 103.0, 107.0, 115.0] {
        let report = feed(
            &mut held,
            seconds(at + 0.1),
            &[t.syn(seconds(at)), t.syn_ack(seconds(at))],
        );
        assert_eq!(counts(&report).0, 0, "at {at}");
        assert!(report.inconclusive.is_empty());
    }
}

#[test]
fn an_answer_read_before_its_syn_is_not_lost() {
    let mut held = judge(&cluster());
    let t = attempt(CLIENT, 7);
    let report = feed(
        &mut held,
        seconds(100.001),
        &[t.syn_ack(seconds(100.000_01)), t.syn(seconds(100.0))],
    );
    observed(&report);
    // Even with a tick and a report between them.
    let t = attempt(CLIENT, 8);
    assert!(feed(&mut held, seconds(100.02), &[t.syn_ack(seconds(100.015))]).is_empty());
    observed(&feed(
        &mut held,
        seconds(100.03),
        &[t.syn(seconds(100.014))],
    ));
}
