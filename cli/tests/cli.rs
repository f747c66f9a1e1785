//! The command as people and CI use it, against a real collector.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod polproof;
#[path = "../../collector/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use polproof::{polproof, run, text};
use serde_json::Value;
use support::{Agent, Collector, DEADLINE, Pki, batch, folder, update};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: shop, uid: ns }
---
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: shop, uid: pod-db, labels: { app: db } }
spec: { nodeName: n1, containers: [{ name: c, image: i }] }
status: { phase: Running, podIP: 10.0.0.2, podIPs: [{ ip: 10.0.0.2 }, { ip: "fd00::2" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, uid: pod-web, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: c, image: i }] }
status: { phase: Running, podIP: 10.0.0.1, podIPs: [{ ip: 10.0.0.1 }, { ip: "fd00::1" }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: shop, uid: np }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress:
  - from: [{ podSelector: { matchLabels: { app: web } } }]
    ports: [{ port: 5432 }]
"#;

/// A collector with findings: web to port 5432 three times (two of them judged), api to 80 taken back.
async fn collector(dir: &Path, database: &Path, pki: &Pki) -> Collector {
    std::fs::create_dir_all(dir.join("manifests")).unwrap();
    std::fs::write(dir.join("manifests/all.yaml"), MANIFESTS).unwrap();
    let collector = Collector::start(dir, pki, database, &[]);
    pki.write(dir, "person", &["polproof-reader"]);
    let mut agent = Agent::connect(&collector, pki, "n1", "spool")
        .await
        .unwrap();
    let mut settled = update("web", 5432, 3);
    settled.settled = 2;
    let mut retracted = update("api", 80, 1);
    retracted.retracted = 1;
    agent
        .deliver(batch(1, vec![settled, retracted]))
        .await
        .unwrap();
    collector
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_in_every_format_with_their_exit_codes() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let collector = collector(dir, &database, &pki).await;
    let polproof = |args: &[&str]| run(dir, &collector.address, args);

    let table = polproof(&["violations"]);
    let shown = text(&table.stdout);
    assert_eq!(
        table.status.code(),
        Some(1),
        "{shown} {}",
        text(&table.stderr)
    );
    for expected in [
        "SEEN    KIND        SOURCE      DESTINATION       COUNT  STATE     DENIED BY",
        "web/client",
        "shop/db:5432/TCP  3      standing  ingress shop/db",
        "3 connections that the policies deny were delivered: 1 finding on 1 node.",
        "polproof explain web/client shop/db:5432/TCP",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(
        !shown.contains("api/client") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    assert!(text(&polproof(&["violations", "--color", "always"]).stdout).contains('\u{1b}'));
    assert!(text(&polproof(&["violations", "--all"]).stdout).contains("retracted"));

    let wide = polproof(&["violations", "-o", "wide"]);
    let shown = text(&wide.stdout);
    assert_eq!(wide.status.code(), Some(1));
    for expected in [
        "LAST SEEN",
        "standing (1 provisional)",
        "one witness",
        "ingress: shop/db (none of 2 rules matches)",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }

    let json = polproof(&["violations", "-o", "json"]);
    assert_eq!(json.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["violations"], 3);
    let finding = &value["findings"][0];
    assert_eq!(finding["state"], "standing");
    assert_eq!(finding["source"]["namespace"], "web");
    assert_eq!(
        finding["denied_by"][0]["rules_without_match"],
        serde_json::json!([0, 1])
    );
    let seen = finding["last_seen"].as_str().unwrap();
    assert!(seen.ends_with('Z') && seen.contains('T'), "{seen}");
    let yaml = polproof(&["violations", "-o", "yaml"]);
    let same: Value = serde_saphyr::from_str(&text(&yaml.stdout)).unwrap();
    assert_eq!(same, value);

    for (args, code) in [
        (&["violations", "-n", "web"][..], 1),
        (&["violations", "-n", "nowhere"], 0),
        (&["violations", "--node", "n2"], 0),
        (&["violations", "--since", "1h"], 1),
        (&["violations", "-n", "api", "--all"], 0),
        (&["violations", "--since", "yesterday"], 2),
        (&["violations", "-o", "xml"], 2),
        (&["violence"], 2),
        (&["--help"], 0),
        (&["completion", "bash"], 0),
        (&["completion", "zsh"], 0),
        (&["completion", "fish"], 0),
    ] {
        let output = polproof(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?} {}",
            text(&output.stderr)
        );
    }

    let status = polproof(&["status"]);
    let shown = text(&status.stdout);
    assert_eq!(status.status.code(), Some(0));
    for expected in [
        "NOT ENFORCED",
        "node n1: policies are NOT enforced: 3 denied connections",
        "cluster: policies are NOT enforced: 3 denied connections were delivered in the last 60 s on 1 of 1 nodes",
        "3/3",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert_eq!(polproof(&["status", "--exit-code"]).status.code(), Some(1));
    let value: Value = serde_json::from_slice(&polproof(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(value["nodes"][0]["enforcement"], "not_enforced");
    assert_eq!(value["cluster"]["pods"], 2);
    assert_eq!(value["overall"]["violations_recent"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_the_same_from_the_collector_and_from_manifests() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let collector = collector(dir, &database, &pki).await;
    let manifests = dir.join("manifests");
    let manifests = manifests.to_str().unwrap();
    // The collector may still be reading.
    let began = std::time::Instant::now();
    while run(dir, &collector.address, &["explain", "shop/web", "shop/db"])
        .status
        .code()
        != Some(0)
    {
        assert!(began.elapsed() < DEADLINE);
    }
    for (source, destination, code, said) in [
        ("shop/web", "shop/db:5432", 0, "the policies allow it"),
        ("shop/web", "shop/db:80", 0, "the policies deny it"),
        ("192.0.2.1", "shop/db:5432", 0, "the policies deny it"),
        ("fd00::1", "[fd00::2]:5432/TCP", 0, "IPv6: allow"),
        ("shop/web", "shop/db:5432/UDP", 0, "the policies deny it"),
        ("shop/wbe", "shop/db:80", 2, "did you mean shop/web?"),
        (
            "web",
            "shop/db:80",
            2,
            "neither NAMESPACE/POD nor an IP address",
        ),
        ("shop/web", "shop/db:http", 2, "no port from 1 to 65535"),
        ("192.0.2.1", "fd00::2", 2, "only IPv4"),
    ] {
        let by_collector = run(dir, &collector.address, &["explain", source, destination]);
        let by_files = run(
            dir,
            "127.0.0.1:1",
            &["explain", "--manifests", manifests, source, destination],
        );
        assert_eq!(by_collector, by_files, "{source} {destination}");
        let shown = text(&by_files.stdout) + &text(&by_files.stderr);
        assert_eq!(by_files.status.code(), Some(code), "{shown}");
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let json = run(
        dir,
        &collector.address,
        &["explain", "shop/web", "shop/db:80", "-o", "json"],
    );
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["verdict"], "deny");
    assert_eq!(value["families"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_said_in_one_line() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let collector = collector(dir, &database, &pki).await;
    let other = dir.join("other");
    std::fs::create_dir(&other).unwrap();
    Pki::new().write(&other, "person", &["polproof-reader"]);
    pki.write(dir, "agent", &["polproof-agent"]);
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for (address, args, code, said) in [
        (
            "127.0.0.1:1",
            vec![],
            3,
            "cannot reach the collector at https://127.0.0.1:1",
        ),
        (
            &collector.address,
            vec!["--tls-ca".to_owned(), path("other/ca.pem")],
            3,
            "not of the CA given by --tls-ca",
        ),
        (
            &collector.address,
            vec!["--tls-server-name".to_owned(), "elsewhere".to_owned()],
            3,
            "--tls-server-name",
        ),
        (
            &collector.address,
            vec![
                "--tls-cert".to_owned(),
                path("other/person.pem"),
                "--tls-key".to_owned(),
                path("other/person.key"),
            ],
            3,
            "refuses our certificate",
        ),
        (
            &collector.address,
            vec![
                "--tls-cert".to_owned(),
                path("agent.pem"),
                "--tls-key".to_owned(),
                path("agent.key"),
            ],
            3,
            "may not read: it needs the DNS name polproof-reader",
        ),
        (
            &collector.address,
            vec!["--tls-key".to_owned(), path("other/person.key")],
            2,
            "is the key that of the certificate?",
        ),
        (
            &collector.address,
            vec!["--tls-cert".to_owned(), path("nothing")],
            2,
            "cannot read",
        ),
        (
            &collector.address,
            vec!["--tls-cert".to_owned(), path("manifests/all.yaml")],
            2,
            "is no PEM file",
        ),
        (
            &collector.address,
            vec!["--collector".to_owned(), "http://x".to_owned()],
            2,
            "no https URL",
        ),
        (&collector.http, vec![], 3, "does not talk TLS"),
    ] {
        let mut all = vec!["status".to_owned()];
        all.extend(args.clone());
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let output = run(dir, address, &all);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{all:?} {stderr}");
        assert!(stderr.contains(said), "{said}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let output = polproof(dir, &collector.address, &["status"])
        .env_remove("POLPROOF_TLS_CA")
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("--tls-ca (or POLPROOF_TLS_CA) is missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_over_a_restart_and_ends_on_ctrl_c() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let mut first = collector(dir, &database, &pki).await;
    let mut following = polproof(dir, &first.address, &["violations", "-f", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, received) = std::sync::mpsc::channel();
    let stdout = BufReader::new(following.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines() {
            let _ = lines.send(serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        }
    });
    let (notes, said) = std::sync::mpsc::channel();
    let stderr = BufReader::new(following.stderr.take().unwrap());
    std::thread::spawn(move || {
        for line in stderr.lines() {
            let _ = notes.send(line.unwrap());
        }
    });
    let next = || received.recv_timeout(DEADLINE).unwrap();
    assert_eq!(next()["count"], 3);
    let mut agent = Agent::connect(&first, &pki, "n1", "spool").await.unwrap();
    agent
        .deliver(batch(2, vec![update("web", 5432, 4)]))
        .await
        .unwrap();
    assert_eq!(next()["count"], 7);

    let address = first.address.clone();
    first.kill();
    assert!(said.recv_timeout(DEADLINE).unwrap().contains("is gone"));
    let second = Collector::start_at(dir, &pki, &database, &address, &[]);
    assert!(said.recv_timeout(DEADLINE).unwrap().contains("is back"));
    let mut agent = Agent::connect(&second, &pki, "n1", "spool").await.unwrap();
    assert_eq!(agent.welcome, 2);
    agent
        .deliver(batch(3, vec![update("web", 5432, 1)]))
        .await
        .unwrap();
    // What was shown before is not shown again.
    assert_eq!(next()["count"], 8);
    // Taken back: said, since it was shown.
    let mut back = update("web", 5432, 0);
    back.retracted = 1;
    agent.deliver(batch(4, vec![back])).await.unwrap();
    assert_eq!(next()["count"], 7);

    // SAFETY: a signal to a process that we started and have not waited for.
    let sent = unsafe { libc::kill(i32::try_from(following.id()).unwrap(), libc::SIGINT) };
    assert_eq!(sent, 0);
    let began = std::time::Instant::now();
    let status = loop {
        if let Some(status) = following.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
    assert!(
        received.recv_timeout(DEADLINE).is_err(),
        "nothing more was printed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_terminal_would_obey_is_printed() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let first = collector(dir, &database, &pki).await;
    let address = first.address.clone();
    drop(first);
    // A database of a collector that let it in.
    let evil = "evil\u{1b}]0;owned\u{7}\u{9b}2J\nnode n9: enforced\u{202e}";
    let mut file = sqlx::ConnectOptions::connect(
        &sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&database)
            .foreign_keys(false),
    )
    .await
    .unwrap();
    let key: String = sqlx::query_scalar("SELECT key FROM findings LIMIT 1")
        .fetch_one(&mut file)
        .await
        .unwrap();
    let key = key.replace("\"client\"", &serde_json::to_string(evil).unwrap());
    assert!(key.contains("owned"), "{key}");
    sqlx::query("UPDATE findings SET key = ?1, node = ?2, retracted = 0")
        .bind(key)
        .bind(evil)
        .execute(&mut file)
        .await
        .unwrap();
    sqlx::query("UPDATE nodes SET node = ?1, kernel_release = ?1, heartbeat = NULL")
        .bind(evil)
        .execute(&mut file)
        .await
        .unwrap();
    sqlx::Connection::close(file).await.unwrap();
    let second = Collector::start_at(dir, &pki, &database, &address, &[]);
    for args in [
        &["violations"][..],
        &["violations", "-o", "wide"],
        &["violations", "-o", "yaml"],
        &["violations", "-o", "json"],
        &["status"],
        &["status", "-o", "json"],
        &["explain", evil, "shop/db:80"],
    ] {
        let output = run(dir, &second.address, args);
        let shown = text(&output.stdout) + &text(&output.stderr);
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!shown.contains(bad), "{args:?} {shown:?}");
        assert!(
            !shown.lines().any(|line| line.starts_with("node n9")),
            "{shown}"
        );
        assert!(shown.contains("owned"), "{args:?} {shown}");
    }
}
