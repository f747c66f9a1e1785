//! What left a pod, as its own witness counts it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::InconclusiveReason as Reason;
use world::*;

#[test]
fn departures_are_counted() {
    let mut held = judge(&cluster());
    let denied = |isn| departure(SERVER, isn);
    let allowed = departure(FRIEND, 5);
    // Link-local, but no sender: the target that policies most often block.
    let metadata = departure("169.254.169.254", 6);
    let report = feed(
        &mut held,
        seconds(100.5),
        &[
            denied(1).syn(seconds(100.0)),
            denied(1).syn_ack(seconds(100.1)),
            denied(2).syn(seconds(100.0)),
            denied(2).rst(seconds(100.1)),
            denied(3).syn(seconds(100.0)),
            denied(3).unreachable(seconds(100.1)),
            denied(4).syn(seconds(100.0)),
            allowed.syn(seconds(100.0)),
            allowed.syn_ack(seconds(100.1)),
            metadata.syn(seconds(100.0)),
            metadata.syn_ack(seconds(100.1)),
        ],
    );
    assert_eq!(report.judged.denied_answered, 1);
    assert_eq!(report.judged.denied_unanswered, 2);
    assert_eq!(report.judged.allowed_answered, 2);
    // Of the denied ones one is asked about: it was answered, and the server's own witness did not see it.
    let report = feed(&mut held, seconds(107.9), &[]);
    assert_eq!(report.inconclusive, [(Reason::AnsweredElsewhere, 1)]);
    let report = feed(&mut held, seconds(108.1), &[]);
    assert_eq!(report.judged.denied_unanswered, 1);
}
