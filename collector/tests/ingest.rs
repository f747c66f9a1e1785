//! What agents send is stored exactly once, whatever happens on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use polproof_proto::v1;
use polproof_proto::v1::stream_request::Message;
use support::{Agent, Collector, Pki, all, batch, folder, node, update};
use tonic::Code;

#[tokio::test]
async fn a_batch_that_comes_again_is_counted_once_and_a_gap_is_counted() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;

    let mut agent = Agent::connect(&collector, &pki, "n1", "spool-a")
        .await
        .unwrap();
    assert_eq!(agent.welcome, 0);
    assert_eq!(
        agent
            .deliver(batch(1, vec![update("web", 5432, 3)]))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        agent
            .deliver(batch(2, vec![update("web", 5432, 2), update("api", 80, 1)]))
            .await
            .unwrap(),
        2
    );
    // Again, within the stream and after a reconnect.
    assert_eq!(
        agent
            .deliver(batch(1, vec![update("web", 5432, 3)]))
            .await
            .unwrap(),
        2
    );
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool-a")
        .await
        .unwrap();
    assert_eq!(agent.welcome, 2);
    assert_eq!(
        agent
            .deliver(batch(2, vec![update("web", 5432, 2)]))
            .await
            .unwrap(),
        2
    );
    // Batches 3 to 6 were dropped by the agent.
    assert_eq!(
        agent
            .deliver(batch(7, vec![update("web", 5432, 1)]))
            .await
            .unwrap(),
        7
    );
    // Another spool of the node counts from 1 again.
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool-b")
        .await
        .unwrap();
    assert_eq!(agent.welcome, 0);
    assert_eq!(
        agent
            .deliver(batch(1, vec![update("web", 5432, 1)]))
            .await
            .unwrap(),
        1
    );

    let findings = all(&mut query, v1::FindingFilter::default(), 100).await;
    let mut counts: Vec<(u32, u64)> = findings
        .iter()
        .map(|finding| {
            (
                finding.key.as_ref().unwrap().destination_port,
                finding.observed,
            )
        })
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [(80, 1), (5432, 7)]);
    let status = node(&mut query, "n1").await;
    assert_eq!(status.batches_missing, 4);
    assert_eq!(status.violations, 8);
    assert_eq!(status.violations_recent, 8);
    assert_eq!(status.judged.unwrap().allowed_delivered, 40);
    assert_eq!(status.inconclusive[0].count, 4);
    assert!(status.connected);
    assert_eq!(
        status.enforcement(),
        v1::EnforcementState::NotEnforced,
        "{}",
        status.enforcement_reason
    );
}

#[tokio::test]
async fn only_whom_the_ca_signed_may_talk() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    // A certificate of another CA, presented to the right server.
    let (cert, key) = Pki::new().issue(&["polproof-agent"]);
    let stranger = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&pki.ca))
        .domain_name("collector");
    for tls in [
        stranger.clone(),
        stranger.identity(tonic::transport::Identity::from_pem(cert, key)),
    ] {
        let refused = match collector.channel(tls).await {
            Err(_) => true,
            Ok(channel) => Agent::over(channel, "n1", "spool").await.is_err(),
        };
        assert!(refused);
    }
    assert!(
        Agent::connect(&collector, &pki, "n1", "spool")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_poisoned_batch_is_stored_without_its_poison() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();

    let mut bad = Vec::new();
    let mut poison = |change: &dyn Fn(&mut v1::FindingUpdate)| {
        let mut update = update("web", 1, 1);
        change(&mut update);
        bad.push(update);
    };
    poison(&|u| u.key = None);
    poison(&|u| u.key.as_mut().unwrap().kind = 0);
    poison(&|u| u.key.as_mut().unwrap().kind = 99);
    poison(&|u| u.key.as_mut().unwrap().protocol = 0);
    poison(&|u| u.key.as_mut().unwrap().destination_port = 65_536);
    poison(&|u| u.key.as_mut().unwrap().source = None);
    poison(&|u| u.key.as_mut().unwrap().source.as_mut().unwrap().address = "10.0.0".to_owned());
    poison(&|u| u.key.as_mut().unwrap().source.as_mut().unwrap().address = "::1".to_owned());
    poison(&|u| u.key.as_mut().unwrap().source.as_mut().unwrap().kind = None);
    poison(&|u| u.key.as_mut().unwrap().policies[0].direction = 0);
    poison(&|u| u.key.as_mut().unwrap().policies[0].policy = None);
    poison(&|u| {
        u.key.as_mut().unwrap().policies[0]
            .policy
            .as_mut()
            .unwrap()
            .name = "a\u{1b}[2J".to_owned()
    });
    poison(&|u| u.observed = u64::MAX);
    poison(&|u| u.observed = 0);
    poison(&|u| u.evidence = 0);
    poison(&|u| u.last_seen = None);
    poison(&|u| u.last_seen.as_mut().unwrap().seconds = i64::MIN);
    poison(&|u| u.last_seen.as_mut().unwrap().nanos = -1);
    poison(&|u| u.samples[0].source_address = "x".to_owned());
    let count = bad.len() as u64;
    bad.push(update("web", 5432, 3));
    let mut batch_1 = batch(1, bad);
    batch_1.judged.as_mut().unwrap().denied_answered = u64::MAX;
    assert_eq!(agent.deliver(batch_1).await.unwrap(), 1);
    // More findings than a batch may hold: the rest is left out and counted.
    let many = (0..1_200)
        .map(|i| update("web", 5432, u64::from(i < 1_200)))
        .collect();
    assert_eq!(agent.deliver(batch(2, many)).await.unwrap(), 2);

    let findings = all(&mut query, v1::FindingFilter::default(), 100).await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].observed, 1_003);
    assert_eq!(findings[0].samples.len(), 10);
    assert_eq!(node(&mut query, "n1").await.findings_refused, count + 200);
    let log = collector.log.lock().unwrap().clone();
    assert!(log.contains("findings[0].key: missing"), "{log}");

    // What makes no sense as a whole ends the stream and names the field.
    for (sequence, named) in [(0, "batch.sequence"), (u64::MAX, "batch.sequence")] {
        let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
            .await
            .unwrap();
        let status = agent
            .deliver(batch(sequence, Vec::new()))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(named), "{status}");
    }
    for (node, instance, named) in [
        ("", "a", "hello.node: missing"),
        ("n", "", "hello.instance: missing"),
    ] {
        let status = Agent::connect(&collector, &pki, node, instance)
            .await
            .err()
            .unwrap();
        assert!(status.message().contains(named), "{status}");
    }
}

#[tokio::test]
async fn a_message_that_can_never_be_read_does_not_stop_its_agent() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    agent
        .deliver(batch(1, vec![update("web", 5432, 1)]))
        .await
        .unwrap();
    // Too long for the wire.
    let mut monster = update("web", 5432, 1);
    monster.samples[0].source_address = "x".repeat(17 * 1024 * 1024);
    for attempt in 0..3 {
        let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
            .await
            .unwrap();
        assert_eq!(agent.welcome, 1, "attempt {attempt}");
        let status = agent
            .deliver(batch(2, vec![monster.clone()]))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    assert_eq!(agent.welcome, 2);
    assert_eq!(
        agent
            .deliver(batch(3, vec![update("web", 5432, 1)]))
            .await
            .unwrap(),
        3
    );
    let status = node(&mut query, "n1").await;
    assert_eq!((status.violations, status.batches_missing), (2, 1));
}

#[tokio::test]
async fn a_second_stream_of_a_node_replaces_the_first() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut first = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let second = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let status = first.receipt().await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    second
        .send(Message::Heartbeat(v1::Heartbeat {
            coverage: Some(v1::Coverage {
                pods_expected: 5,
                pods_watched: 4,
                unwatched: Vec::new(),
            }),
            ..v1::Heartbeat::default()
        }))
        .await;
    let began = std::time::Instant::now();
    loop {
        let status = node(&mut query, "n1").await;
        if status
            .coverage
            .as_ref()
            .is_some_and(|coverage| coverage.pods_watched == 4)
        {
            assert!(status.connected);
            break;
        }
        assert!(began.elapsed() < support::DEADLINE);
        tokio::task::yield_now().await;
    }
}
