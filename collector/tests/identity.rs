//! Who may do what, and certificates that change while the collector runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Instant;

use polproof_proto::v1;
use polproof_proto::v1::query_service_client::QueryServiceClient;
use support::{Agent, Collector, DEADLINE, Pki, batch, folder, update};
use tonic::{Code, Status};

async fn report(
    collector: &Collector,
    pki: &Pki,
    names: &[&str],
    node: &str,
) -> Result<(), Status> {
    let channel = collector.channel(pki.client(names)).await.unwrap();
    let mut agent = Agent::over(channel, node, "spool").await?;
    let next = agent.welcome + 1;
    agent
        .deliver(batch(next, vec![update("web", 1, 1)]))
        .await
        .map(|_| ())
}

async fn ask(collector: &Collector, pki: &Pki, names: &[&str]) -> Vec<Result<(), Status>> {
    let channel = collector.channel(pki.client(names)).await.unwrap();
    let mut query = QueryServiceClient::new(channel);
    vec![
        query.get_status(v1::GetStatusRequest {}).await.map(|_| ()),
        query
            .list_findings(v1::ListFindingsRequest::default())
            .await
            .map(|_| ()),
        query
            .watch_findings(v1::WatchFindingsRequest::default())
            .await
            .map(|_| ()),
        query
            .explain(v1::ExplainRequest {
                source: "10.0.0.1".to_owned(),
                destination: "10.0.0.2".to_owned(),
                port: 80,
                ..v1::ExplainRequest::default()
            })
            .await
            .map(|_| ()),
    ]
}

#[tokio::test]
async fn a_certificate_may_do_what_its_names_say_and_no_more() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    // Names, node; what a refusal says, if it is refused.
    for (names, node, refused) in [
        (&["polproof-agent"][..], "n1", None),
        (&["polproof-agent"], "n2", None),
        (&["n1.polproof-agent"], "n1", None),
        (
            &["n1.polproof-agent"],
            "n2",
            Some("may not report of node n2"),
        ),
        (&["polproof-reader"], "n1", Some("may not report")),
        (&["collector"], "n1", Some("the DNS names collector")),
        (&["127.0.0.1"], "n1", Some("no DNS name")),
    ] {
        let outcome = report(&collector, &pki, names, node).await;
        match (outcome, refused) {
            (Ok(()), None) => {}
            (Err(status), Some(said)) => {
                assert_eq!(status.code(), Code::PermissionDenied, "{status}");
                assert!(status.message().contains(said), "{said}: {status}");
                assert!(status.message().contains("polproof-agent"), "{status}");
            }
            (outcome, _) => panic!("{names:?} {node}: {outcome:?}"),
        }
    }
    collector.says("a stream was refused").await;
    for (names, may) in [
        (&["polproof-reader"][..], true),
        (&["polproof-agent", "polproof-reader"], true),
        (&["polproof-agent"], false),
        (&["n1.polproof-agent"], false),
        (&["collector"], false),
    ] {
        for outcome in ask(&collector, &pki, names).await {
            match outcome {
                Err(status) if status.code() == Code::PermissionDenied => {
                    assert!(!may, "{status}");
                    assert!(status.message().contains("polproof-reader"), "{status}");
                }
                // The collector may not have read its manifests yet; that is another matter.
                _ => assert!(may, "{names:?}: {outcome:?}"),
            }
        }
    }
}

#[tokio::test]
async fn renewed_certificates_are_used_without_a_restart_and_broken_ones_are_not() {
    let (dir, database) = folder();
    let (dir, old) = (dir.path(), Pki::new());
    let collector = Collector::start(dir, &old, &database, &[]);
    let works = async |pki: &Pki| match collector.channel(pki.client(&["polproof-agent"])).await {
        Err(_) => false,
        Ok(channel) => Agent::over(channel, "n1", "spool").await.is_ok(),
    };
    assert!(works(&old).await);
    let mut open = Agent::connect(&collector, &old, "n2", "spool")
        .await
        .unwrap();

    // A key that is not the certificate's: the earlier files stay in use, and one line says so.
    let key = std::fs::read(dir.join("collector.key")).unwrap();
    std::fs::write(dir.join("collector.key"), old.issue(&["x"]).1).unwrap();
    let line = collector.says("the earlier ones stay in use").await;
    assert!(
        line.contains("is the key that of the certificate"),
        "{line}"
    );
    assert!(works(&old).await);
    std::fs::remove_file(dir.join("collector.key")).unwrap();
    collector.says("cannot read").await;
    assert!(works(&old).await);
    std::fs::write(dir.join("collector.key"), key).unwrap();

    // Another CA signs everything anew.
    let new = Pki::new();
    assert!(!works(&new).await);
    new.write(dir, "collector", &["collector"]);
    collector.says("new connections use the new ones").await;
    let began = Instant::now();
    while !works(&new).await {
        assert!(began.elapsed() < DEADLINE);
    }
    assert!(!works(&old).await, "the old CA is out");
    // Who is connected stays so.
    open.deliver(batch(1, vec![update("web", 1, 1)]))
        .await
        .unwrap();
    let log = collector.log.lock().unwrap().clone();
    assert_eq!(log.matches("stay in use").count(), 2, "{log}");
}
