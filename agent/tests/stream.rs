//! The stream against a real gRPC server with real mutual TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod collector;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use collector::agent::{Agent, open, until};
use collector::{Authority, Collector, Fate};
use polproof_agent::observe::RingId;
use polproof_agent::report::spool::Entry;
use polproof_flow::finding::{End, FindingDelta, FindingKey, FindingKind, Report};
use polproof_flow::record::Instant;
use polproof_policy::{NamespacedName, Protocol, Uid};

fn entry(position: u64) -> Entry {
    Entry {
        report: Report {
            findings: vec![FindingDelta {
                key: Arc::new(FindingKey {
                    kind: FindingKind::Unenforced,
                    source: End::External,
                    source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    destination: End::Pod(
                        NamespacedName::new("shop", "a-database".repeat(9)),
                        Uid("u".into()),
                    ),
                    destination_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    protocol: Protocol::Tcp,
                    port: 5432,
                    policies: Vec::new(),
                }),
                observed: position,
                settled: 0,
                retracted: 0,
                witnessed: 0,
                recovered: None,
                first: Instant(position),
                last: Instant(position),
                samples: Vec::new(),
            }],
            ..Report::default()
        },
        ring: RingId {
            boot_id: "boot".into(),
            map_id: 1,
        },
        position,
        open: Vec::new(),
        settled_until: Instant(position),
        committed: Instant(position),
        wall_offset_ns: 1_700_000_000_000_000_000,
    }
}

fn segments(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("spool"))
        .unwrap()
        .filter(|f| {
            f.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|e| e == "segment")
        })
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_arrive_once_and_receipts_trim() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    authority.write_agent(dir.path());
    let collector = Collector::default();
    let server = collector.serve(&authority, None).await;
    let (mut writer, reader) = open(dir.path());
    for position in 1..=100 {
        writer.append(&entry(position)).unwrap();
    }
    assert!(segments(dir.path()) > 3);
    let agent = Agent::start(dir.path(), server.address, reader);
    until("100 batches stored", || collector.stored().len() == 100).await;
    for position in 101..=110 {
        writer.append(&entry(position)).unwrap();
    }
    until("110 batches stored", || collector.stored().len() == 110).await;
    until("the spool is trimmed", || segments(dir.path()) == 1).await;
    until("heartbeats", || collector.lock().heartbeats.len() > 2).await;
    agent.stop().await;

    let stored = collector.stored();
    let numbers: Vec<_> = stored.iter().map(|b| b.sequence).collect();
    assert_eq!(numbers, (1..=110).collect::<Vec<_>>());
    assert_eq!(stored[4].findings[0].observed, 5);
    let first = stored[0].findings[0].first_seen.unwrap();
    assert_eq!((first.seconds, first.nanos), (1_700_000_000, 1));
    let seen = collector.lock();
    assert_eq!(seen.duplicates, 0);
    assert_eq!(seen.hellos.len(), 1);
    assert_eq!(seen.hellos[0].node, "node-1");
    let beat = &seen.heartbeats[0];
    assert_eq!(beat.loss.unwrap().ring_records_lost, 7);
    assert_eq!(beat.snapshot.as_ref().unwrap().source, "manifests");
    let lacks = &beat.kernel.as_ref().unwrap().lacks;
    assert_eq!((lacks.len(), &*lacks[0].name), (1, "tcx"));
    for said in [&lacks[0].what, &lacks[0].consequence, &lacks[0].remedy] {
        assert!(!said.is_empty());
    }
}

/// The collector stores batches, its receipts are lost with the connection, and that again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_receipts_make_no_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    authority.write_agent(dir.path());
    let collector = Collector::default();
    let server = collector.serve(&authority, None).await;
    let (mut writer, reader) = open(dir.path());
    for position in 1..=60 {
        writer.append(&entry(position)).unwrap();
    }
    collector.lock().fate = Fate::BreakAfter(7);
    let agent = Agent::start(dir.path(), server.address, reader);
    until("60 batches stored", || collector.stored().len() == 60).await;
    agent.stop().await;
    let numbers: Vec<_> = collector.stored().iter().map(|b| b.sequence).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    let seen = collector.lock();
    assert_eq!(seen.duplicates, 0, "the welcome says what is there");
    assert!(seen.hellos.len() > 5, "{} connections", seen.hellos.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_was_away_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    authority.write_agent(dir.path());
    let collector = Collector::default();
    let server = collector.serve(&authority, None).await;
    let address = server.address;
    let (mut writer, reader) = open(dir.path());
    let agent = Agent::start(dir.path(), address, reader);
    writer.append(&entry(1)).unwrap();
    until("the first batch", || collector.stored().len() == 1).await;
    server.stop().await;
    until("the agent notices", || {
        agent
            .stats
            .connected
            .load(std::sync::atomic::Ordering::Relaxed)
            == 0
    })
    .await;
    for position in 2..=80 {
        writer.append(&entry(position)).unwrap();
    }
    let _server = collector.serve(&authority, Some(address)).await;
    until("all 80", || collector.stored().len() == 80).await;
    agent.stop().await;
    assert_eq!(collector.lock().duplicates, 0);
}

/// A collector that has more than the spool: the spool was damaged. What is new must arrive all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_lost_numbers_begins_a_new_identity() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    authority.write_agent(dir.path());
    let collector = Collector::default();
    let server = collector.serve(&authority, None).await;
    let (mut writer, reader) = open(dir.path());
    collector
        .lock()
        .last
        .insert(reader.instance().to_owned(), 1_000);
    writer.append(&entry(1)).unwrap();
    let agent = Agent::start(dir.path(), server.address, reader);
    until("the batch", || collector.stored().len() == 1).await;
    agent.stop().await;
    let seen = collector.lock();
    assert_ne!(seen.hellos[0].instance, seen.hellos[1].instance);
}

/// What the log says for each way to fail. The tracing of this process goes to one buffer, so this is one test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_is_named_once() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // Other tests of this process may log into it too: each message is looked for by its port.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let authority = Authority::new("test CA");
    let stranger = Authority::new("another CA");
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = plain.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 no\r\n\r\n").await;
        }
    });
    let refused = {
        let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        unused.local_addr().unwrap()
    };
    let collector = Collector::default();
    let good = collector.serve(&authority, None).await;
    let unknown = collector.serve(&stranger, None).await;
    let expired = collector
        .serve_with(&authority, authority.server("localhost", true), None)
        .await;
    let misnamed = collector
        .serve_with(&authority, authority.server("other.example", false), None)
        .await;
    let small = Collector::default();
    small.lock().limit = Some(110);
    let small = small.serve(&authority, None).await;

    type Prepare<'a> = Box<dyn Fn(&Path) + 'a>;
    let ours: Prepare<'_> = Box::new(|d| authority.write_agent(d));
    let theirs: Prepare<'_> = Box::new(|d| {
        stranger.write_agent(d);
        std::fs::write(d.join("ca.pem"), authority.ca_pem()).unwrap();
    });
    let missing: Prepare<'_> = Box::new(|d| {
        authority.write_agent(d);
        std::fs::remove_file(d.join("agent.key")).unwrap();
    });
    let garbage: Prepare<'_> = Box::new(|d| {
        authority.write_agent(d);
        std::fs::write(d.join("ca.pem"), "no certificate").unwrap();
    });
    let cases: [(&str, SocketAddr, &Prepare<'_>, &[&str]); 9] = [
        (
            "refused",
            refused,
            &ours,
            &["connection refused", "--collector"],
        ),
        (
            "unknown issuer",
            unknown.address,
            &ours,
            &["unknown issuer", "--tls-ca"],
        ),
        ("expired", expired.address, &ours, &["has expired"]),
        (
            "name",
            misnamed.address,
            &ours,
            &["name mismatch", "other.example", "--tls-server-name"],
        ),
        (
            "client certificate",
            good.address,
            &theirs,
            &["refuses this agent's certificate", "--tls-cert"],
        ),
        (
            "no key",
            good.address,
            &missing,
            &["--tls-key", "agent.key", "cannot be read"],
        ),
        (
            "no PEM",
            good.address,
            &garbage,
            &["--tls-ca", "is not a PEM file"],
        ),
        ("not TLS", plain_address, &ours, &["TLS:"]),
        (
            "too large",
            small.address,
            &ours,
            &["too large", "same release"],
        ),
    ];
    for (name, address, prepare, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (mut writer, reader) = open(dir.path());
        writer.append(&entry(1)).unwrap();
        log.clear();
        let agent = Agent::start(dir.path(), address, reader);
        until(name, || {
            agent
                .stats
                .failures
                .load(std::sync::atomic::Ordering::Relaxed)
                >= 4
        })
        .await;
        agent.stop().await;
        let lines: Vec<String> = log
            .text()
            .lines()
            .filter(|l| {
                l.contains("no stream to the collector")
                    && l.contains(&format!(":{}", address.port()))
            })
            .map(str::to_owned)
            .collect();
        assert!(!lines.is_empty(), "{name}: {}", log.text());
        for part in expected {
            assert!(
                lines[0].contains(part),
                "{name}: {part:?} is not in {}",
                lines[0]
            );
        }
        // A try that gets as far as the welcome is another state, and may be said again.
        if name != "too large" {
            assert_eq!(lines.len(), 1, "{name}: once, not per try: {lines:#?}");
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
