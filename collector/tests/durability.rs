//! Crashes, full disks, broken files: nothing is counted twice, nothing that was receipted is lost, and every
//! failure says what to do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use polproof_proto::v1;
use polproof_proto::v1::stream_request::Message;
use support::{Agent, Collector, DEADLINE, Pki, all, batch, command, folder, node, update};
use tonic::Code;

fn main() {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!(
            "not root: a_full_disk_stops_receipts_and_loses_nothing is ignored (it mounts a small tmpfs)"
        );
    }
    let tests = vec![
        Trial::test(
            "killed_in_the_middle_the_counts_are_exact",
            || run(killed()),
        ),
        Trial::test("asked_to_end_it_ends_and_says_so_to_its_agents", || {
            run(asked_to_end())
        }),
        Trial::test("what_stops_a_start_is_named", || run(what_stops_a_start())),
        Trial::test("a_locked_database_stops_receipts_and_loses_nothing", || {
            run(locked())
        }),
        Trial::test("a_full_disk_stops_receipts_and_loses_nothing", || {
            run(full_disk())
        })
        .with_ignored_flag(!root),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

fn run(test: impl Future<Output = ()>) -> Result<(), Failed> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
    Ok(())
}

async fn observed(collector: &Collector, pki: &Pki) -> u64 {
    let mut query = collector.query(pki).await;
    all(&mut query, v1::FindingFilter::default(), 100)
        .await
        .iter()
        .map(|finding| finding.observed)
        .sum()
}

/// An agent that streams without waiting for receipts; the collector is killed again and again meanwhile.
async fn killed() {
    const BATCHES: u64 = 400;
    let (dir, database) = folder();
    let pki = Pki::new();
    let mut collector = Collector::start(dir.path(), &pki, &database, &[]);
    let address = collector.address.clone();
    let mut receipted = 0;
    for kill_at in [37, 120, 121, 300] {
        let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
            .await
            .unwrap();
        assert!(agent.welcome >= receipted, "a receipted batch is gone");
        for sequence in agent.welcome + 1..=BATCHES.min(agent.welcome + 60) {
            agent
                .send(Message::Batch(batch(
                    sequence,
                    vec![update("web", 5432, sequence)],
                )))
                .await;
        }
        while receipted < kill_at {
            match agent.receipt().await {
                Ok(sequence) => receipted = sequence,
                Err(_) => break,
            }
            if receipted >= agent.welcome + 60 {
                break;
            }
        }
        collector.kill();
        collector = Collector::start_at(dir.path(), &pki, &database, &address, &[]);
    }
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    assert!(agent.welcome >= receipted, "a receipted batch is gone");
    // An agent that did not see the last receipts sends more than it must.
    for sequence in agent.welcome.saturating_sub(5).max(1)..=BATCHES {
        agent
            .deliver(batch(sequence, vec![update("web", 5432, sequence)]))
            .await
            .unwrap();
    }
    assert_eq!(
        observed(&collector, &pki).await,
        BATCHES * (BATCHES + 1) / 2
    );
    let status = node(&mut collector.query(&pki).await, "n1").await;
    assert_eq!(status.judged.unwrap().allowed_delivered, 10 * BATCHES);
    assert_eq!(status.batches_missing, 0);
}

async fn asked_to_end() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let mut collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    agent
        .deliver(batch(1, vec![update("web", 5432, 1)]))
        .await
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(collector.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = agent.receipt().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(collector.wait().code(), Some(0));
    // What was known of the node is known to the next one.
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let status = node(&mut collector.query(&pki).await, "n1").await;
    assert_eq!(
        (status.agent_version.as_str(), status.connected),
        ("test", false)
    );
}

/// Starts a collector that must not start; gives its last words.
fn refused(dir: &Path, pki: &Pki, database: &Path, extra: &[&str]) -> String {
    let output = command(dir, pki, database, "127.0.0.1:0", extra)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_ne!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

async fn what_stops_a_start() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    pki.write(dir, "collector", &["collector"]);
    pki.write(dir, "stranger", &["stranger"]);
    std::fs::write(dir.join("empty.pem"), "").unwrap();
    std::fs::write(dir.join("torn.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    std::fs::write(dir.join("wrong.toml"), "lisen = 1\n").unwrap();

    std::fs::write(
        dir.join("text.db"),
        "this is no database, it is a text of some length\n".repeat(200),
    )
    .unwrap();
    // A real database with a page that is garbage.
    drop(Collector::start(dir, &pki, &dir.join("torn.db"), &[]));
    let _ = std::fs::remove_file(dir.join("torn.db-wal"));
    let mut bytes = std::fs::read(dir.join("torn.db")).unwrap();
    if bytes.len() < 8_192 {
        // All of it was in the log: what is left is no database at all.
        bytes = vec![0x5a; 16_384];
    } else {
        for byte in &mut bytes[4_096..] {
            *byte ^= 0x5a;
        }
    }
    std::fs::write(dir.join("torn.db"), bytes).unwrap();

    let running = Collector::start(dir, &pki, &dir.join("used.db"), &[]);
    for (file, extra, said) in [
        ("text.db", vec![], "is no SQLite database"),
        ("torn.db", vec![], "is damaged"),
        ("used.db", vec![], "in use by another polproof-collector"),
        ("no/such/folder/x.db", vec![], "the folder does not exist"),
        (
            "x.db",
            vec!["--tls-cert".to_owned(), path("nothing.pem")],
            "nothing.pem (--tls-cert)",
        ),
        (
            "x.db",
            vec!["--tls-ca".to_owned(), path("empty.pem")],
            "holds no certificate",
        ),
        (
            "x.db",
            vec!["--tls-cert".to_owned(), path("torn.pem")],
            "cannot be used",
        ),
        (
            "x.db",
            vec!["--tls-key".to_owned(), path("stranger.key")],
            "is the key that of the certificate",
        ),
        (
            "x.db",
            vec!["--config".to_owned(), path("wrong.toml")],
            "unknown field `lisen`",
        ),
        (
            "x.db",
            vec!["--log-level".to_owned(), "a=b=c".to_owned()],
            "log-level",
        ),
        (
            "x.db",
            vec!["--listen".to_owned(), running.address.clone()],
            "cannot",
        ),
    ] {
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        let words = if extra.first() == Some(&"--listen") {
            refused_at(dir, &pki, &dir.join(file), extra[1])
        } else if extra.is_empty() {
            refused(dir, &pki, &dir.join(file), &[])
        } else {
            refused_with(dir, &pki, &dir.join(file), &extra)
        };
        assert!(words.contains(said), "{said}: {words}");
    }
    drop(database);
}

fn refused_at(dir: &Path, pki: &Pki, database: &Path, listen: &str) -> String {
    let output = command(dir, pki, database, listen, &[])
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// As `refused`, with one flag in place of the usual one.
fn refused_with(dir: &Path, pki: &Pki, database: &Path, extra: &[&str]) -> String {
    let usual = command(dir, pki, database, "127.0.0.1:0", &[]);
    let mut args: Vec<std::ffi::OsString> =
        usual.get_args().map(std::ffi::OsStr::to_owned).collect();
    match args.iter().position(|arg| arg == extra[0]) {
        Some(place) => args[place + 1] = extra[1].into(),
        None => args.extend(extra.iter().map(Into::into)),
    }
    let output = std::process::Command::new(usual.get_program())
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Delivers until the store is well again.
async fn deliver_at_last(collector: &Collector, pki: &Pki, sequence: u64) {
    let began = Instant::now();
    loop {
        let mut agent = Agent::connect(collector, pki, "n1", "spool").await;
        if let Ok(agent) = &mut agent
            && agent
                .deliver(batch(sequence, vec![update("web", 5432, 1)]))
                .await
                .is_ok()
        {
            return;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{}",
            collector.log.lock().unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn locked() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    agent
        .deliver(batch(1, vec![update("web", 5432, 1)]))
        .await
        .unwrap();
    let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
    other = other.busy_timeout(Duration::from_secs(10));
    let mut other = sqlx::ConnectOptions::connect(&other).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let status = agent
        .deliver(batch(2, vec![update("web", 5432, 1)]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("another program holds a lock"),
        "{status}"
    );
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    deliver_at_last(&collector, &pki, 2).await;
    assert_eq!(observed(&collector, &pki).await, 2);
}

/// A tmpfs, unmounted at the end.
struct Small<'a>(&'a Path);

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

async fn full_disk() {
    let (dir, _) = folder();
    let pki = Pki::new();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(
        Some("tmpfs"),
        &disk,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=2m"),
    )
    .unwrap();
    let _small = Small(&disk);
    let database = disk.join("polproof.db");
    let mut collector = Collector::start(dir.path(), &pki, &database, &[]);
    let mut agent = Agent::connect(&collector, &pki, "n1", "spool")
        .await
        .unwrap();
    agent
        .deliver(batch(1, vec![update("web", 5432, 1)]))
        .await
        .unwrap();

    // Something else fills the disk.
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let chunk = [0_u8; 4_096];
    while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    let mut stored = 1;
    let status = loop {
        // Room inside the files may last for some batches.
        match agent
            .deliver(batch(
                stored + 1,
                (0..50)
                    .map(|port| update("web", 10_000 + port, 1))
                    .collect(),
            ))
            .await
        {
            Ok(sequence) => stored = sequence,
            Err(status) => break status,
        }
        assert!(stored < 10_000);
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("full"), "{status}");
    let before = observed(&collector, &pki).await;
    assert_eq!(before, 1 + 50 * (stored - 1));
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    deliver_at_last(&collector, &pki, stored + 1).await;
    assert_eq!(observed(&collector, &pki).await, before + 1);
    collector.kill();
}
