//! What is forgotten, and what the status makes of what is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use polproof_collector::convert;
use polproof_collector::finding::Wall;
use polproof_collector::store::Store as _;
use polproof_collector::store::sqlite::Sqlite;
use polproof_proto::v1;
use polproof_proto::v1::stream_request::Message;
use support::{Agent, Collector, DEADLINE, Pki, ago, all, batch, folder, node, update};

/// A finding to a port, last seen that many seconds ago.
fn seen(port: u32, seconds: i64) -> v1::FindingUpdate {
    let mut update = update("web", port, 1);
    (update.first_seen, update.last_seen) = (ago(seconds), ago(seconds));
    update
}

fn ports(findings: &[v1::Finding]) -> Vec<u32> {
    findings
        .iter()
        .map(|finding| finding.key.as_ref().unwrap().destination_port)
        .collect()
}

#[tokio::test]
async fn the_store_forgets_by_age_and_then_by_number() {
    let (_dir, database) = folder();
    let store = Sqlite::open(&database).await.unwrap();
    let findings = (1..=10)
        .map(|port| seen(port, i64::from(port) * 100))
        .collect();
    let (delivery, refused) = convert::delivery("n1", "spool", batch(1, findings), Wall::now());
    assert_eq!(
        (store.apply(&delivery).await.unwrap().fresh, refused.len()),
        (true, 0)
    );
    let left = async || store.count(&Default::default()).await.unwrap();
    let before = Wall::now().minus(Duration::from_secs(750));
    assert_eq!(store.purge(before, 1_000).await.unwrap(), 3);
    assert_eq!(left().await, 7);
    assert_eq!(store.purge(before, 7).await.unwrap(), 0);
    assert_eq!(store.purge(before, 5).await.unwrap(), 2);
    // The youngest are left, and a batch that comes again brings nothing back.
    assert!(!store.apply(&delivery).await.unwrap().fresh);
    assert_eq!(left().await, 5);
    let page = store
        .list(&Default::default(), &store.begin().await.unwrap(), 100)
        .await
        .unwrap();
    let left: Vec<u16> = page
        .findings
        .iter()
        .map(|finding| finding.key.port)
        .collect();
    assert_eq!(left, [1, 2, 3, 4, 5]);
    assert!(
        page.findings
            .iter()
            .all(|finding| finding.samples.len() == 1)
    );
    store.close().await;
}

#[tokio::test]
async fn a_collector_keeps_to_its_retention_settings() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let first = Collector::start(dir.path(), &pki, &database, &[]);
    let mut agent = Agent::connect(&first, &pki, "n1", "spool").await.unwrap();
    let findings = vec![
        seen(1, 10),
        seen(2, 20),
        seen(3, 30),
        seen(4, 7_000),
        seen(5, 40),
    ];
    agent.deliver(batch(1, findings)).await.unwrap();
    drop(first);
    let settings = ["--retention", "1h", "--max-findings", "3"];
    let second = Collector::start(dir.path(), &pki, &database, &settings);
    // The first look is at the start. One goes for its age, one for the number.
    let line = second.says("forgot old findings").await;
    assert!(line.contains("\"count\":2"), "{line}");
    let mut query = second.query(&pki).await;
    let left = all(&mut query, v1::FindingFilter::default(), 100).await;
    assert_eq!(ports(&left), [1, 2, 3]);
}

#[tokio::test]
async fn attempts_that_left_one_node_are_held_against_violations_on_another() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut client = Agent::connect(&collector, &pki, "n1", "a").await.unwrap();
    let mut server = Agent::connect(&collector, &pki, "n2", "b").await.unwrap();
    server.deliver(batch(1, vec![seen(80, 300)])).await.unwrap();
    for (sequence, seconds, unanswered) in [(1, 400, 1_000), (2, 310, 100), (3, 120, 5), (4, 60, 2)]
    {
        let mut left = batch(sequence, Vec::new());
        left.made = ago(seconds);
        left.judged.as_mut().unwrap().denied_unanswered = unanswered;
        client.deliver(left).await.unwrap();
    }
    let mut status = async || {
        query
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    };
    let overall = status().await.overall.unwrap();
    // Only what was reported well after the violation counts, whenever it came.
    assert_eq!(overall.denied_unanswered, 7);
    assert_eq!(overall.last_violation_node, "n2");
    assert_eq!(overall.enforcement(), v1::EnforcementState::Unproven);
    assert!(
        overall
            .reason
            .starts_with("7 denied attempts left pods since the last violation anywhere"),
        "{}",
        overall.reason
    );
    server.deliver(batch(2, vec![seen(80, 0)])).await.unwrap();
    let overall = status().await.overall.unwrap();
    assert_eq!(overall.denied_unanswered, 0);
    assert_eq!(overall.violations_recent, 1);
    assert_eq!(overall.enforcement(), v1::EnforcementState::NotEnforced);
    // Taken back: it never was.
    let mut back = update("web", 80, 0);
    back.retracted = 2;
    server.deliver(batch(3, vec![back])).await.unwrap();
    let overall = status().await.overall.unwrap();
    assert_eq!(
        (overall.denied_unanswered, overall.last_violation),
        (1_107, None)
    );
}

#[tokio::test]
async fn what_agents_say_is_harmless_and_short() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let agent = Agent::connect(&collector, &pki, "n1", "a").await.unwrap();
    let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\r\nnode n2: enforced\u{202e}".to_owned();
    let long = "x".repeat(1_000_000);
    agent
        .send(Message::Heartbeat(v1::Heartbeat {
            coverage: Some(v1::Coverage {
                pods_expected: 7,
                pods_watched: 0,
                unwatched: (0..2_000)
                    .map(|_| v1::UnwatchedPod {
                        pod: Some(v1::ObjectRef {
                            namespace: evil.clone(),
                            name: evil.clone(),
                            uid: evil.clone(),
                        }),
                        reason: evil.clone(),
                    })
                    .collect(),
            }),
            cni: vec![v1::CniHint {
                name: evil.clone(),
                claim: 1,
                evidence: long.clone(),
                remedy: evil.clone(),
            }],
            snapshot: Some(v1::SnapshotState {
                source: evil.clone(),
                refused: vec![long; 3],
                problem: evil.clone(),
                other_policies: vec![
                    v1::PolicyCount {
                        kind: evil.clone(),
                        ..v1::PolicyCount::default()
                    };
                    200
                ],
                ..v1::SnapshotState::default()
            }),
            kernel: Some(v1::Kernel {
                lacks: vec![
                    v1::KernelLack {
                        name: evil.clone(),
                        what: evil.clone(),
                        consequence: "y".repeat(10_000),
                        remedy: evil,
                    };
                    200
                ],
            }),
            ..v1::Heartbeat::default()
        }))
        .await;
    let began = std::time::Instant::now();
    let status = loop {
        let status = node(&mut query, "n1").await;
        if status.coverage.is_some() {
            break status;
        }
        assert!(began.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    };
    let coverage = status.coverage.unwrap();
    assert_eq!(coverage.unwatched.len(), 500);
    let pod = coverage.unwatched[0].pod.clone().unwrap();
    let snapshot = status.snapshot.unwrap();
    let mut all = vec![
        pod.namespace,
        pod.name,
        pod.uid,
        snapshot.source,
        snapshot.problem,
    ];
    assert_eq!(snapshot.other_policies.len(), 20);
    all.extend(snapshot.other_policies.into_iter().map(|of| of.kind));
    all.extend([status.cni[0].remedy.clone(), status.cni[0].evidence.clone()]);
    all.extend(snapshot.refused);
    let lacks = status.kernel.unwrap().lacks;
    assert_eq!(lacks.len(), 20);
    for lack in lacks {
        all.extend([lack.name, lack.what, lack.consequence, lack.remedy]);
    }
    for text in all {
        assert!(!text.chars().any(convert::unprintable), "{text:?}");
        assert!(text.len() <= 1_003, "{}", text.len());
    }
}
