//! What is judged while the view of the cluster may be behind it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::Judge;
use polproof_flow::finding::{InconclusiveReason as Reason, Report};
use polproof_policy::State;
use world::*;

/// An attempt at 100 s, 5 s after the API server went away.
fn observed_while_stale(state: &State) -> Judge {
    let mut judge = judge(state);
    judge.on_stale(seconds(95.0), snapshot(state));
    let report = attempt_at(&mut judge, 100.0, 7);
    assert_eq!(counts(&report), (1, 0, 0), "{report:#?}");
    let waiting = feed(&mut judge, seconds(125.0), &[]);
    assert!(waiting.is_empty(), "settled by a stale view: {waiting:#?}");
    judge
}

fn attempt_at(judge: &mut Judge, at: f64, isn: u32) -> Report {
    let t = attempt(CLIENT, isn);
    feed(
        judge,
        seconds(at + 0.1),
        &[t.syn(seconds(at)), t.syn_ack(seconds(at + 0.001))],
    )
}

#[test]
fn what_was_seen_meanwhile_settles_when_the_fresh_view_agrees() {
    let state = cluster();
    let mut judge = observed_while_stale(&state);
    judge.on_snapshot(seconds(130.0), snapshot(&state), true);
    let report = feed(&mut judge, seconds(130.1), &[]);
    assert_eq!(counts(&report), (0, 1, 0), "{report:#?}");
}

#[test]
fn what_was_seen_meanwhile_is_taken_back_when_the_policy_is_gone() {
    let mut state = cluster();
    let mut judge = observed_while_stale(&state);
    delete_policy(&mut state);
    judge.on_snapshot(seconds(130.0), snapshot(&state), true);
    let report = feed(&mut judge, seconds(130.1), &[]);
    assert_eq!(counts(&report), (0, 0, 1), "{report:#?}");
    assert_eq!(inconclusive(&report, Reason::ExpectationChanged), 1);
}

#[test]
fn a_view_that_stays_behind_for_long_is_not_believed() {
    let state = cluster();
    let mut judge = judge(&state);
    judge.on_stale(seconds(95.0), snapshot(&state));
    // A second word of the same trouble does not start the time anew.
    judge.on_stale(seconds(140.0), snapshot(&state));
    let report = attempt_at(&mut judge, 156.0, 7);
    assert_eq!(report.findings, []);
    let report = feed(&mut judge, seconds(187.0), &[]);
    assert_eq!(report.findings, []);
    assert_eq!(
        inconclusive(&report, Reason::SnapshotNotReady),
        1,
        "{report:#?}"
    );
}
