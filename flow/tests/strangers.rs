//! Sources that no object of the cluster names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{End, InconclusiveReason as Reason, Report};
use polproof_policy::State;
use world::*;

fn judged(state: &State, client: &str) -> Report {
    let t = attempt(client, 7);
    feed(
        &mut judge(state),
        seconds(100.1),
        &[t.syn(seconds(100.0)), t.syn_ack(seconds(100.001))],
    )
}

/// Nobody at all may reach the server.
fn closed() -> State {
    let mut state = cluster();
    let mut policy = guard(2);
    policy.ingress.clear();
    apply_policy(&mut state, policy);
    state
}

#[test]
fn a_private_address_may_stand_for_a_friend() {
    for client in ["192.168.44.0", "172.20.1.1", "10.77.0.9", "100.64.3.1"] {
        let report = judged(&cluster(), client);
        assert_eq!(report.findings, [], "{client}");
        assert_eq!(
            inconclusive(&report, Reason::SourceUnidentified),
            1,
            "{client}: {report:#?}"
        );
    }
}

#[test]
fn where_nobody_is_let_in_it_does_not_matter_who_it_is() {
    for client in ["192.168.44.0", "100.64.3.1", "203.0.113.9"] {
        let report = judged(&closed(), client);
        assert_eq!(counts(&report), (1, 0, 0), "{client}: {report:#?}");
        assert_eq!(report.findings[0].key.source, End::External);
    }
}

#[test]
fn a_public_address_is_a_client_of_its_own() {
    for client in ["203.0.113.9", "100.128.0.1"] {
        let report = judged(&cluster(), client);
        assert_eq!(counts(&report), (1, 0, 0), "{client}: {report:#?}");
    }
}
