//! What both witnesses prove, and how findings end: stored, kept over crashes and upgrades, and said in the status.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::path::Path;

use polproof_proto::v1;
use polproof_proto::v1::query_service_client::QueryServiceClient;
use polproof_proto::v1::{EnforcementState, EvidenceLevel, FindingKind, RecoveryCause};
use support::{Agent, Collector, Pki, ago, all, batch, folder, node, update};
use tonic::transport::Channel;

fn ended(seconds_ago: i64, cause: RecoveryCause) -> Option<v1::Recovery> {
    Some(v1::Recovery {
        at: ago(seconds_ago),
        cause: cause.into(),
    })
}

fn of_kind(kind: FindingKind, port: u32) -> v1::FindingUpdate {
    let mut update = update("web", port, 2);
    update.key.as_mut().unwrap().kind = kind.into();
    update
}

/// Seen between these times.
fn between(port: u32, observed: u64, first: i64, last: i64) -> v1::FindingUpdate {
    let mut update = update("web", port, observed);
    (update.first_seen, update.last_seen) = (ago(first), ago(last));
    update
}

async fn one(collector: &Collector, pki: &Pki, port: u32) -> v1::Finding {
    let mut query = collector.query(pki).await;
    all(&mut query, v1::FindingFilter::default(), 100)
        .await
        .into_iter()
        .find(|finding| finding.key.as_ref().unwrap().destination_port == port)
        .unwrap()
}

#[tokio::test]
async fn what_two_witnesses_say_and_how_it_ended_survives_a_crash() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let mut collector = Collector::start(dir.path(), &pki, &database, &[]);
    let address = collector.address.clone();
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let mut first = between(1, 3, 100, 90);
    first.witnessed = 1;
    agent.deliver(batch(1, vec![first])).await.unwrap();
    let finding = one(&collector, &pki, 1).await;
    assert_eq!((finding.witnessed, finding.recovered), (1, None));
    // The other witness comes later, and nothing else with it.
    let mut word = between(1, 0, 100, 90);
    word.witnessed = 2;
    word.evidence = EvidenceLevel::TwoWitnesses.into();
    word.samples.clear();
    let mut end = between(1, 0, 100, 90);
    end.recovered = ended(60, RecoveryCause::Enforced);
    let mut counted = batch(2, vec![word, end]);
    counted.judged = Some(v1::JudgedCounts {
        denied_unanswered: 9,
        denied_stopped: 7,
        denied_in_grace: 5,
        ..v1::JudgedCounts::default()
    });
    let mut counts = vec![0; 11];
    (counts[2], counts[10]) = (4, 1);
    counted.exposure = Some(v1::Exposure {
        counts,
        sum_ms: 45_000,
    });
    agent.deliver(counted.clone()).await.unwrap();
    // Again, and after a crash: counted once.
    agent.deliver(counted.clone()).await.unwrap();
    collector.kill();
    collector = Collector::start_at(dir.path(), &pki, &database, &address, &[]);
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    agent.deliver(counted).await.unwrap();
    let finding = one(&collector, &pki, 1).await;
    assert_eq!((finding.witnessed, finding.observed), (3, 3));
    assert_eq!(finding.evidence(), EvidenceLevel::TwoWitnesses);
    let recovered = finding.recovered.unwrap();
    assert_eq!(recovered.cause(), RecoveryCause::Enforced);
    let status = node(&mut collector.query(&pki).await, "n1").await;
    let judged = status.judged.unwrap();
    assert_eq!((judged.denied_stopped, judged.denied_in_grace), (7, 5));
    let exposure = status.exposure.unwrap();
    assert_eq!(exposure.sum_ms, 45_000);
    assert_eq!(exposure.counts, [0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn what_is_seen_again_after_its_end_stands_again() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let mut sequence = 0;
    let mut deliver = async |update: v1::FindingUpdate| {
        sequence += 1;
        agent.deliver(batch(sequence, vec![update])).await.unwrap();
        one(&collector, &pki, 1).await.recovered
    };
    let with = |mut update: v1::FindingUpdate, end| {
        update.recovered = end;
        update
    };
    let nothing_new = || {
        let mut update = between(1, 0, 500, 400);
        update.settled = 1;
        update
    };
    assert_eq!(deliver(between(1, 1, 500, 400)).await, None);
    // It ends, attempts from before its end settle, and it goes on having ended.
    let end = deliver(with(nothing_new(), ended(300, RecoveryCause::PodGone))).await;
    assert_eq!(end.unwrap().cause(), RecoveryCause::PodGone);
    assert!(deliver(nothing_new()).await.is_some());
    assert!(deliver(between(1, 1, 450, 350)).await.is_some());
    // Seen again.
    assert_eq!(deliver(between(1, 1, 200, 200)).await, None);
    // An end that lies before that is none.
    let late = with(nothing_new(), ended(250, RecoveryCause::Closed));
    assert_eq!(deliver(late).await, None);
    let end = deliver(with(
        nothing_new(),
        ended(100, RecoveryCause::PolicyChanged),
    ))
    .await;
    assert_eq!(end.unwrap().cause(), RecoveryCause::PolicyChanged);
    // An earlier end does not take the place of a later one.
    let end = deliver(with(nothing_new(), ended(150, RecoveryCause::Closed))).await;
    assert_eq!(end.unwrap().cause(), RecoveryCause::PolicyChanged);
    // Seen and ended in one batch, in this order and in the other.
    let both = with(between(1, 1, 50, 50), ended(40, RecoveryCause::Enforced));
    let end = deliver(both).await;
    assert_eq!(end.unwrap().cause(), RecoveryCause::Enforced);
    let other = with(between(1, 1, 20, 20), ended(30, RecoveryCause::Enforced));
    assert_eq!(deliver(other).await, None);
    // A new finding that has ended already.
    let mut new = with(between(2, 1, 90, 80), ended(70, RecoveryCause::Closed));
    new.settled = 1;
    deliver(new).await;
    assert!(one(&collector, &pki, 2).await.recovered.is_some());

    let mut query = collector.query(&pki).await;
    let standing = v1::FindingFilter {
        standing_only: true,
        ..v1::FindingFilter::default()
    };
    let findings = all(&mut query, standing, 100).await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].key.as_ref().unwrap().destination_port, 1);
    let status = node(&mut query, "n1").await;
    assert_eq!((status.findings, status.violations_standing), (2, 1));
}

async fn overall(query: &mut QueryServiceClient<Channel>) -> v1::OverallStatus {
    let status = query.get_status(v1::GetStatusRequest {}).await.unwrap();
    status.into_inner().overall.unwrap()
}

#[tokio::test]
async fn proofs_make_a_node_enforced_and_only_violations_unmake_it() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let others = [
        FindingKind::OverBlocked,
        FindingKind::LateEnforcement,
        FindingKind::StartupGap,
        FindingKind::Survivor,
        FindingKind::ReplyLost,
    ];
    let mut first = batch(
        1,
        (1..)
            .zip(others)
            .map(|(port, kind)| of_kind(kind, port))
            .collect(),
    );
    first.judged = Some(v1::JudgedCounts {
        denied_stopped: 42,
        ..v1::JudgedCounts::default()
    });
    agent.deliver(first).await.unwrap();
    let status = node(&mut query, "n1").await;
    assert_eq!(status.enforcement(), EnforcementState::Enforced);
    assert_eq!((status.violations, status.findings), (0, 5));
    for said in ["42 proved by both ends", "1 enforced late", "1 survived"] {
        assert!(
            status.enforcement_reason.contains(said),
            "{said}: {}",
            status.enforcement_reason
        );
    }
    let kinds: Vec<_> = status.kinds.iter().map(v1::KindCount::kind).collect();
    assert_eq!(kinds.len(), 5);
    assert!(
        status
            .kinds
            .iter()
            .all(|of| (of.attempts, of.standing) == (2, 1))
    );
    let said = overall(&mut query).await;
    assert_eq!(
        said.enforcement(),
        EnforcementState::Enforced,
        "{}",
        said.reason
    );
    assert_eq!(said.denied_stopped, 42);
    // A violation now, and stopped ones at the same time.
    agent
        .deliver(batch(2, vec![update("web", 5432, 1)]))
        .await
        .unwrap();
    let status = node(&mut query, "n1").await;
    assert_eq!(status.enforcement(), EnforcementState::Partial);
    assert!(status.enforcement_reason.contains("42 proved stopped"));
    let said = overall(&mut query).await;
    assert_eq!(
        said.enforcement(),
        EnforcementState::Partial,
        "{}",
        said.reason
    );

    // Of what an agent may say wrongly nothing is believed.
    let mut wrong = of_kind(FindingKind::Survivor, 9);
    wrong.recovered = Some(v1::Recovery {
        at: ago(1),
        cause: 77,
    });
    let mut wrong = batch(3, vec![wrong]);
    wrong.exposure = Some(v1::Exposure {
        counts: vec![1; 3],
        sum_ms: 1,
    });
    agent.deliver(wrong).await.unwrap();
    let status = node(&mut query, "n1").await;
    assert_eq!(status.findings_refused, 1);
    assert_eq!(status.exposure.unwrap().sum_ms, 0);
    collector
        .says("exposure.counts: 3 of them, 11 are understood")
        .await;
    collector.says("recovered.cause: 77 is unknown").await;
}

/// A database as the release before wrote it.
async fn of_before(database: &Path, dir: &Path) {
    let old = dir.join("old");
    std::fs::create_dir_all(&old).unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    for file in ["0001_initial.sql", "0002_unanswered.sql"] {
        std::fs::copy(ours.join(file), old.join(file)).unwrap();
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(database)
        .create_if_missing(true);
    let mut file = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::migrate::Migrator::new(old)
        .await
        .unwrap()
        .run(&mut file)
        .await
        .unwrap();
    for statement in [
        "INSERT INTO agents VALUES ('n1', 'spool', 5)",
        "INSERT INTO nodes (node, first_heard, last_heard, denied_unanswered) VALUES ('n1', 1, 2, 9)",
        "INSERT INTO activity (node, bucket, observed, retracted, unanswered) VALUES ('n1', 0, 3, 0, 9)",
        "INSERT INTO findings VALUES ('id1', 'n1', 1, 'web', 'shop', \
         '{\"kind\":\"unenforced\",\"source\":\"external\",\"source_ip\":\"10.0.0.1\",\"destination\":\"external\",\
         \"destination_ip\":\"10.0.0.2\",\"protocol\":\"Tcp\",\"port\":80,\"policies\":[]}', 3, 3, 0, 1, 2, 1, 1)",
    ] {
        sqlx::query(statement).execute(&mut file).await.unwrap();
    }
    sqlx::Connection::close(file).await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_release_before_is_taken_over_whole() {
    let (dir, database) = folder();
    let pki = Pki::new();
    of_before(&database, dir.path()).await;
    let collector = Collector::start(dir.path(), &pki, &database, &["--retention", "36500d"]);
    let mut query = collector.query(&pki).await;
    let findings = all(&mut query, v1::FindingFilter::default(), 100).await;
    assert_eq!(findings.len(), 1);
    let finding = &findings[0];
    assert_eq!((finding.observed, finding.settled), (3, 3));
    assert_eq!((finding.witnessed, finding.recovered), (0, None));
    let status = node(&mut query, "n1").await;
    assert_eq!((status.violations, status.violations_standing), (3, 1));
    assert_eq!(status.judged.unwrap().denied_unanswered, 9);
    assert_eq!(status.judged.unwrap().denied_stopped, 0);
    // And written on.
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    assert_eq!(agent.welcome, 5);
    agent
        .deliver(batch(6, vec![update("web", 5432, 1)]))
        .await
        .unwrap();
    assert_eq!(node(&mut query, "n1").await.violations, 4);
}
