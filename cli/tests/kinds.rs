//! Every kind of finding, how it ended, and what two witnesses prove, as people and programs read it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod polproof;
#[path = "../../collector/tests/support/mod.rs"]
mod support;

use std::path::Path;

use polproof::{run, text};
use polproof_proto::v1;
use serde_json::Value;
use support::{Agent, Collector, Pki, ago, batch, folder, update};

fn of(kind: v1::FindingKind, port: u32, count: u64) -> v1::FindingUpdate {
    let mut update = update("web", port, count);
    update.key.as_mut().unwrap().kind = kind.into();
    update.first_seen = ago(600);
    update.last_seen = ago(300);
    update.settled = count;
    update
}

/// One violation that has ended, and other kinds that have not.
async fn collector(dir: &Path, database: &Path, pki: &Pki) -> Collector {
    let collector = Collector::start(dir, pki, database, &[]);
    pki.write(dir, "person", &["polproof-reader"]);
    let mut agent = Agent::connect(&collector, pki, "n1", "spool")
        .await
        .unwrap();
    let mut ended = of(v1::FindingKind::Unenforced, 5432, 3);
    ended.witnessed = 2;
    ended.evidence = v1::EvidenceLevel::TwoWitnesses.into();
    ended.recovered = Some(v1::Recovery {
        at: ago(240),
        cause: v1::RecoveryCause::Enforced.into(),
    });
    let blocked = of(v1::FindingKind::OverBlocked, 80, 4);
    let old = of(v1::FindingKind::Survivor, 443, 1);
    let mut all = batch(1, vec![ended, blocked, old]);
    all.judged = Some(v1::JudgedCounts {
        denied_unanswered: 50,
        denied_stopped: 42,
        ..v1::JudgedCounts::default()
    });
    all.inconclusive = vec![
        v1::InconclusiveCount {
            reason: v1::InconclusiveReason::NoControl.into(),
            count: 5,
        },
        v1::InconclusiveCount {
            reason: v1::InconclusiveReason::HookShared.into(),
            count: 17,
        },
    ];
    let mut counts = vec![0; 11];
    (counts[2], counts[5]) = (9, 1);
    all.exposure = Some(v1::Exposure {
        counts,
        sum_ms: 1_500,
    });
    agent.deliver(all).await.unwrap();
    collector
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_of_every_kind_are_shown_with_their_end_and_their_witnesses() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let collector = collector(dir, &database, &pki).await;
    let polproof = |args: &[&str]| run(dir, &collector.address, args);

    let shown = text(&polproof(&["violations"]).stdout);
    for said in [
        "KIND",
        "unenforced",
        "ended: stopped",
        "over_blocked",
        "allowed by ingress shop/db",
        "3 connections that the policies deny were delivered: 1 finding on 1 node, 1 of them ended since.",
        "4 connections: allowed, and stopped on the way (over_blocked); 1 finding",
        "1 connection: older than the policies that deny them",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let shown = text(&polproof(&["violations", "-o", "wide"]).stdout);
    for said in [
        "LASTED",
        "two witnesses (2 of 3)",
        "one witness",
        "stopped when tried again",
        "6m",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }

    let json = polproof(&["violations", "-o", "json"]);
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["violations"], 3);
    assert_eq!(
        value["attempts_by_kind"],
        serde_json::json!({ "over_blocked": 4, "survivor": 1, "unenforced": 3 })
    );
    let finding = value["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["kind"] == "unenforced")
        .unwrap();
    assert_eq!(finding["recovered"]["cause"], "enforced");
    assert!(finding["recovered"]["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(finding["evidence"], "two_witnesses");
    assert_eq!(finding["witnessed"], 2);
    assert_eq!(finding["state"], "standing");

    // What is listed, and what that ends with.
    for (args, count, code) in [
        (&["violations"][..], 3, 1),
        (&["violations", "--standing"], 2, 0),
        (&["violations", "--kind", "unenforced"], 1, 1),
        (&["violations", "--kind", "unenforced", "--standing"], 0, 0),
        (&["violations", "--kind", "over_blocked,survivor"], 2, 1),
        (&["violations", "--kind", "startup_gap"], 0, 0),
    ] {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let output = polproof(&args);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            value["findings"].as_array().unwrap().len(),
            count,
            "{args:?}"
        );
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
    let empty = polproof(&["violations", "--kind", "startup_gap", "--standing"]);
    let shown = text(&empty.stdout);
    assert!(
        shown.contains("No violation for the kind startup_gap, what has not ended."),
        "{shown}"
    );
    assert_eq!(
        polproof(&["violations", "--kind", "wrong"]).status.code(),
        Some(2)
    );
    let help = text(&polproof(&["violations", "--help"]).stdout);
    for said in ["--kind", "--standing", "late_enforcement", "reply_lost"] {
        assert!(help.contains(said), "{said}: {help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_is_proved_how_late_it_was_and_why_the_rest_is_not_judged() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let collector = collector(dir, &database, &pki).await;
    let output = run(dir, &collector.address, &["status", "--exit-code"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for said in [
        "PROVED STOPPED",
        "42",
        "cluster: enforced: every denied connection that was tried and could be judged was stopped: 42 proved by both ends since the last",
        "1 blocked though allowed",
        "exposure window: after 10 changes to a denial connections still got through, half of the times at most 100 ms (p50), 99 % at \
         most 1 s (p99)",
        "17 hook_shared: another program sits on the pod's eth0",
        "5 no_control: was not delivered",
        "To do:",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    // The most frequent reason first.
    assert!(shown.find("hook_shared") < shown.find("no_control"));
    let json = run(dir, &collector.address, &["status", "-o", "json"]);
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    let node = &value["nodes"][0];
    assert_eq!(node["enforcement"], "enforced");
    assert_eq!(node["judged"]["denied_stopped"], 42);
    assert_eq!(node["stopped_since"], 42);
    assert_eq!(node["violations_standing"], 0);
    assert_eq!(node["exposure"]["p50_ms"], 100);
    assert_eq!(node["exposure"]["p99_ms"], 1_000);
    assert_eq!(node["exposure"]["mean_ms"], 150);
    assert_eq!(node["exposure"]["buckets"][10]["le_ms"], Value::Null);
    assert_eq!(node["inconclusive"]["hook_shared"], 17);
    assert_eq!(node["kinds"].as_array().unwrap().len(), 3);
    assert_eq!(value["overall"]["enforcement"], "enforced");
    assert_eq!(value["overall"]["denied_stopped"], 42);
}
