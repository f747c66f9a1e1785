//! Paging, filters, watching, the pages for machines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use polproof_proto::v1;
use support::{Agent, Collector, DEADLINE, Pki, ago, all, batch, folder, update};
use tonic::Code;

#[tokio::test]
async fn pages_hold_everything_even_what_changes_meanwhile() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let findings = (1..=250)
        .map(|port| {
            let mut update = update("web", port, 1);
            update.last_seen = ago(1_000 - i64::from(port / 3));
            update.first_seen = update.last_seen;
            update
        })
        .collect();
    agent.deliver(batch(1, findings)).await.unwrap();
    for size in [1, 7, 250, 1_000] {
        let findings = all(&mut query, v1::FindingFilter::default(), size).await;
        assert_eq!(findings.len(), 250);
        assert!(findings.windows(2).all(|pair| {
            let seen = |finding: &v1::Finding| finding.last_seen.unwrap().seconds;
            seen(&pair[0]) >= seen(&pair[1])
        }));
    }

    // Port 1 is the oldest. It is seen again while somebody pages: it must not be missed.
    let mut seen = BTreeMap::new();
    let mut request = v1::ListFindingsRequest {
        filter: None,
        page_size: 100,
        page_token: String::new(),
    };
    let mut pages = 0;
    loop {
        let page = query
            .list_findings(request.clone())
            .await
            .unwrap()
            .into_inner();
        for finding in page.findings {
            seen.insert(finding.key.unwrap().destination_port, finding.observed);
        }
        if pages == 0 {
            assert_eq!(page.total, 250);
            agent
                .deliver(batch(2, vec![update("web", 1, 5), update("web", 999, 1)]))
                .await
                .unwrap();
        }
        pages += 1;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!((seen.len(), seen[&1], seen[&999]), (251, 6, 1));

    let mut refused = async |request| query.list_findings(request).await.unwrap_err();
    for (filter, page_size, page_token, named) in [
        (None, 1_001, "", "page_size"),
        (None, 1, "nonsense", "page_token"),
        (
            Some(v1::FindingFilter {
                kinds: vec![77],
                ..v1::FindingFilter::default()
            }),
            1,
            "",
            "filter.kinds",
        ),
        (
            Some(v1::FindingFilter {
                since: Some(prost_types::Timestamp {
                    seconds: -5,
                    nanos: 0,
                }),
                ..v1::FindingFilter::default()
            }),
            1,
            "",
            "filter.since",
        ),
    ] {
        let status = refused(v1::ListFindingsRequest {
            filter,
            page_size,
            page_token: page_token.to_owned(),
        })
        .await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(named), "{status}");
    }
}

#[tokio::test]
async fn filters_and_what_is_taken_back() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let mut old = update("web", 1, 1);
    (old.first_seen, old.last_seen) = (ago(500), ago(500));
    agent
        .deliver(batch(
            1,
            vec![old, update("api", 2, 2), update("dev", 3, 3)],
        ))
        .await
        .unwrap();
    let mut back = update("dev", 3, 0);
    back.retracted = 3;
    back.last_seen = ago(0);
    agent.deliver(batch(2, vec![back])).await.unwrap();
    // Settled, though the batch in which it was observed was lost.
    let mut settled = update("lost", 4, 0);
    settled.settled = 2;
    let mut other = Agent::connect(&collector, &pki, "n2", "spool")
        .await
        .unwrap();
    other.deliver(batch(1, vec![settled])).await.unwrap();

    let none = v1::FindingFilter::default;
    for (filter, ports) in [
        (none(), vec![1, 2, 4]),
        (
            v1::FindingFilter {
                include_retracted: true,
                ..none()
            },
            vec![1, 2, 3, 4],
        ),
        (
            v1::FindingFilter {
                namespace: "api".to_owned(),
                ..none()
            },
            vec![2],
        ),
        (
            v1::FindingFilter {
                namespace: "shop".to_owned(),
                ..none()
            },
            vec![1, 2, 4],
        ),
        (
            v1::FindingFilter {
                node: "n2".to_owned(),
                ..none()
            },
            vec![4],
        ),
        (
            v1::FindingFilter {
                since: ago(100),
                ..none()
            },
            vec![2, 4],
        ),
        (
            v1::FindingFilter {
                kinds: vec![v1::FindingKind::Survivor.into()],
                ..none()
            },
            vec![],
        ),
    ] {
        let mut found: Vec<u32> = all(&mut query, filter.clone(), 2)
            .await
            .into_iter()
            .map(|finding| finding.key.unwrap().destination_port)
            .collect();
        found.sort_unstable();
        assert_eq!(found, ports, "{filter:?}");
    }
    let status = support::node(&mut query, "n1").await;
    assert_eq!(
        (status.findings, status.violations, status.violations_recent),
        (2, 3, 2)
    );
    assert_eq!(support::node(&mut query, "n2").await.violations, 2);
}

#[tokio::test]
async fn a_watch_sends_what_is_there_and_then_every_change_of_it() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut query = collector.query(&pki).await;
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    let many: Vec<_> = (1..=500).map(|port| update("web", port, 1)).collect();
    agent.deliver(batch(1, many.clone())).await.unwrap();
    let filter = Some(v1::FindingFilter {
        namespace: "web".to_owned(),
        ..v1::FindingFilter::default()
    });
    let mut watch = query
        .watch_findings(v1::WatchFindingsRequest { filter })
        .await
        .unwrap()
        .into_inner();
    let mut counts = BTreeMap::new();
    // Nobody reads while much happens: nothing piles up, and in the end all is known.
    for sequence in 2..=40 {
        agent
            .deliver(batch(
                sequence,
                vec![update("web", 7, 1), update("api", 7, 1)],
            ))
            .await
            .unwrap();
    }
    agent.deliver(batch(41, many)).await.unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while counts.len() < 500 || counts[&7] < 41 || counts.values().any(|count| *count < 2) {
        let finding = tokio::time::timeout_at(deadline, watch.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let key = finding.key.unwrap();
        assert_eq!(finding.samples.len() as u64, finding.observed.min(10));
        let before = counts.insert(key.destination_port, finding.observed);
        assert!(
            before.is_none_or(|before| before <= finding.observed),
            "it went back"
        );
    }
}

#[tokio::test]
async fn pages_for_machines() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    agent
        .deliver(batch(5, vec![update("web", 1, 1)]))
        .await
        .unwrap();
    for (path, said) in [
        ("/healthz", "ok"),
        ("/readyz", "ok"),
        ("/metrics", "polproof_collector_batches_stored_total 1"),
        ("/metrics", "polproof_collector_batches_missing_total 4"),
        ("/metrics", "polproof_collector_agents_connected 1"),
    ] {
        let mut stream = std::net::TcpStream::connect(&collector.http).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(said),
            "{path}: {answer}"
        );
    }
}
