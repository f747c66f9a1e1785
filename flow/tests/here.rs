//! What is no accusation because of who sent it, or because of what is not known of the policies.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs
)]

mod world;

use polproof_flow::finding::{InconclusiveReason as Reason, Report};
use polproof_flow::{Judge, Settings};
use polproof_policy::NamespacedName;
use world::*;

const BRIDGE: &str = "10.1.0.77";

fn node_addresses(more: &[&str]) -> Vec<std::net::IpAddr> {
    let known = ["192.168.0.1", "10.1.0.254"];
    known.iter().chain(more).map(|text| ip(text)).collect()
}

/// The report on an attempt of this moment, answered.
fn judged(judge: &mut Judge, client: &str, isn: u32, at: f64) -> Report {
    let t = attempt(client, isn);
    feed(
        judge,
        seconds(at + 0.1),
        &[t.syn(seconds(at)), t.syn_ack(seconds(at + 0.001))],
    )
}

#[test]
fn a_bridge_that_came_later_is_the_own_node() {
    let mut judge = judge(&cluster());
    // It may be the address of a new pod.
    assert!(judged(&mut judge, BRIDGE, 1, 60.0).is_empty());
    let report = feed(&mut judge, seconds(91.0), &[]);
    assert_eq!(inconclusive(&report, Reason::SourceUnidentified), 1);
    judge.on_here(seconds(101.0), node_addresses(&[BRIDGE]));
    let report = judged(&mut judge, BRIDGE, 2, 102.0);
    assert!(report.findings.is_empty() && report.inconclusive.is_empty());
    assert_eq!(judge.tally().exempt, 1);
    // Others are judged as before.
    assert_eq!(counts(&judged(&mut judge, CLIENT, 3, 103.0)), (1, 0, 0));
}

#[test]
fn an_accusation_of_what_turns_out_to_be_the_own_node_is_taken_back() {
    let outside = "203.0.113.9";
    let mut judge = judge(&cluster());
    assert_eq!(counts(&judged(&mut judge, outside, 1, 100.0)), (1, 0, 0));
    judge.on_here(seconds(105.0), node_addresses(&[outside]));
    let report = feed(&mut judge, seconds(111.0), &[]);
    assert_eq!(counts(&report), (0, 0, 1), "{report:#?}");
}

#[test]
fn an_address_that_is_gone_stays_exempt_while_its_attempts_may_be_judged() {
    let outside = "203.0.113.9";
    let mut judge = judge(&cluster());
    let keep = judge.retention() as f64 / SECOND as f64;
    assert!(judge.retention() > Settings::default().grace + Settings::default().settle);
    judge.on_here(seconds(50.0), node_addresses(&[outside]));
    judge.on_here(seconds(100.0), node_addresses(&[]));
    judge.on_here(seconds(110.0), node_addresses(&[]));
    for (isn, at) in [(1, 100.5), (2, 99.0 + keep)] {
        let report = judged(&mut judge, outside, isn, at);
        assert!(report.findings.is_empty() && report.inconclusive.is_empty());
    }
    assert_eq!(judge.tally().exempt, 2);
    tick(&mut judge, seconds(100.5 + keep));
    assert_eq!(
        counts(&judged(&mut judge, outside, 9, 101.0 + keep)),
        (1, 0, 0)
    );
}

/// What was found out of a connection earlier does not outlive a change of who the node is, either way.
#[test]
fn what_is_remembered_of_a_connection_is_asked_again() {
    let outside = "203.0.113.9";
    let mut state = cluster();
    let mut policy = guard(1);
    policy.pod_selector = selector(&[("app", "client")]);
    policy.isolates_ingress = false;
    policy.isolates_egress = true;
    apply_policy(&mut state, policy);
    let mut judge = judge(&state);
    let keep = judge.retention() as f64 / SECOND as f64;
    let denied = |judge: &mut Judge, at: f64| {
        let t = departure(outside, at as u32);
        let records = [t.syn(seconds(at)), t.syn_ack(seconds(at + 0.001))];
        feed(judge, seconds(at + 0.1), &records)
            .judged
            .denied_answered
    };
    assert_eq!(denied(&mut judge, 100.0), 1);
    judge.on_here(seconds(101.0), node_addresses(&[outside]));
    assert_eq!(denied(&mut judge, 102.0), 0);
    judge.on_here(seconds(103.0), node_addresses(&[]));
    assert_eq!(denied(&mut judge, 104.0), 0);
    tick(&mut judge, seconds(103.5 + keep));
    assert_eq!(denied(&mut judge, 105.0 + keep), 1);
}

#[test]
fn a_refused_policy_leaves_the_denials_of_its_namespace_open() {
    let mut state = cluster();
    state.set_refused_policies([NamespacedName::new("shop", "to-server")]);
    let mut judge = judge(&state);
    let report = judged(&mut judge, CLIENT, 1, 100.0);
    assert_eq!(report.findings, []);
    assert_eq!(report.inconclusive, [(Reason::ExpectationUnknown, 1)]);
    let report = judged(&mut judge, FRIEND, 2, 101.0);
    assert_eq!(report.judged.allowed_delivered, 1);
    // Corrected: what is denied now has its grace.
    state.set_refused_policies([]);
    judge.on_snapshot(seconds(110.0), state.snapshot(), true);
    let report = judged(&mut judge, CLIENT, 3, 120.0);
    assert_eq!(report.inconclusive, [(Reason::WithinGrace, 1)]);
    assert_eq!(counts(&judged(&mut judge, CLIENT, 4, 141.0)), (1, 0, 0));
}

#[test]
fn a_policy_that_is_refused_soon_after_takes_the_attempt_back() {
    let mut state = cluster();
    let mut judge = judge(&state);
    assert_eq!(counts(&judged(&mut judge, CLIENT, 1, 100.0)), (1, 0, 0));
    state.set_refused_policies([NamespacedName::new("shop", "to-server")]);
    judge.on_snapshot(seconds(103.0), state.snapshot(), true);
    let report = feed(&mut judge, seconds(111.0), &[]);
    assert_eq!(counts(&report), (0, 0, 1));
}
