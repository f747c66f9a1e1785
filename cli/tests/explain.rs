//! `polproof explain` from manifests, as people ask it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn command(manifests: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polproof"));
    command
        .env_clear()
        .arg("explain")
        .arg("--manifests")
        .arg(manifests);
    command
}

fn explain(manifests: &Path, args: &[&str]) -> Output {
    command(manifests).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Objects in a file of their own.
fn written(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Answers of `--queries` to these lines, and the exit code.
fn queries(manifests: &Path, lines: &str) -> (Vec<Value>, i32) {
    let mut child = command(manifests)
        .args(["--queries", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = lines.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let answers = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (answers, output.status.code().unwrap())
}

#[test]
fn recipes_are_explained_as_an_expert_would() {
    let folder = fixtures().join("recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let expected = entry.unwrap().path();
        if expected.extension().is_none_or(|of| of != "txt") {
            continue;
        }
        seen += 1;
        let manifests = expected.with_extension("yaml");
        let text = std::fs::read_to_string(&expected).unwrap();
        let mut got = String::new();
        for line in text.lines() {
            let Some(asked) = line.strip_prefix("$ polproof explain ") else {
                continue;
            };
            let args: Vec<&str> = asked.split(' ').map(|arg| arg.trim_matches('\'')).collect();
            let output = explain(&manifests, &args);
            assert!(output.status.code().is_some(), "{asked}");
            if !got.is_empty() {
                got.push('\n');
            }
            got.push_str(&format!("{line}\n{}", said(&output)));
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected, &got).unwrap();
        } else {
            assert!(
                got == text,
                "{} is not what is answered; UPDATE=1 writes it anew:\n{got}",
                expected.display()
            );
        }
    }
    assert!(seen >= 8, "{seen} recipes in {}", folder.display());
}

const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: Pod
metadata: { name: web-7d4b9-aa, namespace: shop, labels: { app: web, pod-template-hash: 7d4b9 }, ownerReferences: [{ apiVersion: apps/v1, kind: ReplicaSet, name: web-7d4b9, uid: rs, controller: true }] }
spec: { containers: [{ name: c, image: i, ports: [{ name: http, containerPort: 8080 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.1 }, { ip: "fd00::1" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-7d4b9-bb, namespace: shop, labels: { app: web, pod-template-hash: 7d4b9, canary: "yes" }, ownerReferences: [{ apiVersion: apps/v1, kind: ReplicaSet, name: web-7d4b9, uid: rs, controller: true }] }
spec: { containers: [{ name: c, image: i, ports: [{ name: http, containerPort: 8081 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.2 }, { ip: "fd00::2" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: api, namespace: shop, labels: { app: api } }
spec: { containers: [{ name: c, image: i }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.3 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: done, namespace: shop, labels: { app: web } }
spec: { containers: [{ name: c, image: i }] }
status: { phase: Succeeded }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 10.96.0.1, selector: { app: web }, ports: [{ name: http, port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: sliced, namespace: shop }
spec: { clusterIP: 10.96.0.2, selector: { app: web }, ports: [{ name: http, port: 80, targetPort: http }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: sliced-1, namespace: shop, labels: { kubernetes.io/service-name: sliced } }
addressType: IPv4
ports: [{ name: http, port: 8080, protocol: TCP }]
endpoints:
- { addresses: [10.0.0.1], conditions: { ready: true } }
- { addresses: [10.0.0.2], conditions: { ready: false } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: canary, namespace: shop }
spec:
  podSelector: { matchLabels: { canary: "yes" } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: nobody } } }] }]
"#;

#[test]
fn ends_are_pods_workloads_services_and_addresses() {
    let file = written(CLUSTER);
    for (args, code, expected) in [
        (
            &["shop/api", "shop/deploy/web:8080"][..],
            0,
            "1 allowed, 1 denied of 2 pairs of pods",
        ),
        (
            &["shop/api", "shop/deployment/web:8080"],
            0,
            "shop/api -> shop/web-7d4b9-bb: deny",
        ),
        (
            &["shop/api", "shop/rs/web-7d4b9:8080"],
            0,
            "shop/api -> shop/web-7d4b9-aa: allow",
        ),
        (
            &["shop/api", "shop/svc/web:80"],
            0,
            "policies see one of the 2 pods behind Service shop/web and port 8080 or 8081, not the Service's address and \
             its port 80",
        ),
        (
            &["shop/api", "10.96.0.2:80"],
            0,
            "policies see the pod behind Service shop/sliced and port 8080",
        ),
        (
            &["shop/api", "shop/svc/sliced"],
            0,
            "shop/svc/sliced:80/TCP: the policies allow it",
        ),
        (
            &["shop/api", "shop/svc/web:8080"],
            2,
            "Service shop/web has no port 8080/TCP; it has 80/TCP",
        ),
        (
            &["shop/svc/web", "shop/api:80"],
            0,
            "allow (all 2 pairs of pods",
        ),
        (
            &["shop/api", "shop/svc/wbe:80"],
            2,
            "did you mean shop/svc/web?",
        ),
        (
            &["shop/api", "shop/web:80"],
            2,
            "there is no pod shop/web; did you mean shop/deploy/web",
        ),
        (
            &["shop/api", "shop/sts/web:80"],
            2,
            "did you mean shop/deploy/web?",
        ),
        (
            &["shop/api", "shpo/web:80"],
            2,
            "there is no namespace shpo",
        ),
        (
            &["shop/api", "shop/cm/web:80"],
            2,
            "is no kind that has pods",
        ),
        (&["shop/api", "shop/done:80"], 2, "has ended"),
        (
            &["shop/web-7d4b9-aa", "shop/api:80", "--family", "ipv6"],
            2,
            "not both ends have an IPv6 address",
        ),
        (
            &["shop/web-7d4b9-aa", "shop/api:80"],
            0,
            "shop/api has no IPv6 address, so this is about IPv4 only",
        ),
        (
            &["shop/web-7d4b9-aa", "shop/web-7d4b9-bb:80", "--exit-code"],
            1,
            "IPv4 and IPv6: deny",
        ),
        (
            &["shop/web-7d4b9-bb", "shop/web-7d4b9-aa:80", "--exit-code"],
            0,
            "IPv4 and IPv6: allow",
        ),
        (
            &["shop/api", "shop/api:80", "--family", "IPv4"],
            0,
            "the policies allow it",
        ),
        (&["shop/api"], 2, "DST"),
    ] {
        let output = explain(file.path(), args);
        let shown = said(&output);
        assert!(shown.contains(expected), "{args:?} {expected}: {shown}");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {shown}");
    }
}

#[test]
fn json_has_the_whole_walk() {
    let file = written(CLUSTER);
    let output = explain(
        file.path(),
        &["shop/api", "shop/deploy/web:8080", "-o", "json"],
    );
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["verdict"], "mixed");
    let family = &value["families"][0];
    assert_eq!(
        family["pairs"],
        serde_json::json!({"allow": 1, "deny": 1, "unknown": 0})
    );
    assert_eq!(family["destination"], "shop/web-7d4b9-bb");
    assert_eq!(family["destination_address"], "10.0.0.2");
    let ingress = &family["directions"][1];
    assert_eq!(ingress["direction"], "ingress");
    assert_eq!(ingress["tiers"][1]["tier"], "NetworkPolicy");
    assert_eq!(ingress["policies"][0]["policy"], "shop/canary");
    assert!(ingress["nearest"].as_str().unwrap().contains("app=nobody"));
    assert_eq!(family["others"][0]["verdict"], "allow");
    assert_eq!(family["others"][0]["directions"][1]["verdict"], "allow");
    let yaml = explain(
        file.path(),
        &["shop/api", "shop/deploy/web:8080", "-o", "yaml"],
    );
    assert!(said(&yaml).contains("families:"), "{}", said(&yaml));
}

#[test]
fn many_questions_are_answered_in_order() {
    let file = written(CLUSTER);
    let (answers, code) = queries(
        file.path(),
        r#"{"src":"shop/api","dst":{"ip":"203.0.113.9"},"proto":"TCP","port":443,"family":"IPv4"}
{"src":{"ip":"10.0.0.3"},"dst":{"pod":"shop/web-7d4b9-bb"},"port":8081}

{"src":"shop/web-7d4b9-aa","dst":"shop/web-7d4b9-bb","port":1,"proto":"udp","family":"IPv6","id":7}
{"src":"shop/api","dst":"shop/deploy/web","port":80}
not json
{"src":"shop/api","dst":"shop/api","port":80,"family":"IPv6"}
{"src":"shop/api","dst":"shop/api","port":0}
{"src":"shop/api","dst":"shop/api","port":80,"prot":"UDP"}
{"src":"shop/apii","dst":"shop/api","port":80}
{"src":"shop/api","dst":"shop/svc/web","port":80}"#,
    );
    assert_eq!(code, 2);
    assert_eq!(answers.len(), 10);
    assert_eq!(
        answers[0],
        serde_json::json!({
            "src": "shop/api", "dst": {"ip": "203.0.113.9"}, "proto": "TCP", "port": 443, "family": "IPv4",
            "egress": "allow", "ingress": "allow", "verdict": "allow", "policies": []
        })
    );
    assert_eq!(answers[1]["verdict"], "deny");
    assert_eq!(
        answers[1]["policies"],
        serde_json::json!([{"direction": "ingress", "kind": "NetworkPolicy", "namespace": "shop", "name": "canary", "rule": null}])
    );
    assert_eq!(answers[2]["family"], "IPv6");
    assert_eq!(answers[2]["id"], 7);
    assert_eq!(answers[2]["ingress"], "deny");
    assert_eq!(answers[3]["verdict"], "unknown");
    assert_eq!(answers[3]["reason"], "PodsDiffer");
    for (index, line, said) in [
        (4, 6, "a question looks like"),
        (5, 7, "IPv6"),
        (6, 8, "from 1 to 65535"),
        (7, 9, "prot"),
        (8, 10, "did you mean shop/api?"),
    ] {
        assert_eq!(answers[index]["line"], line);
        let error = answers[index]["error"].as_str().unwrap();
        assert!(error.contains(said), "{said}: {error}");
    }
    assert_eq!(answers[9]["egress"], "allow");
}

#[test]
fn what_the_api_leaves_open_has_its_reason() {
    let manifests = fixtures().join("recipes/metadata-block.yaml");
    let (answers, code) = queries(
        &manifests,
        r#"{"src":"shop/web","dst":"shop/api","port":8080}"#,
    );
    assert_eq!(code, 0);
    assert_eq!(answers[0]["verdict"], "unknown");
    assert_eq!(answers[0]["reason"], "IpBlockOnPod");
    assert_eq!(answers[0]["policies"][0]["rule"], 0);
}

#[test]
fn who_asks_one_question_at_a_time_gets_each_answer_at_once() {
    let file = written(CLUSTER);
    let mut child = command(file.path())
        .args(["--queries", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for port in [80, 443] {
        writeln!(
            stdin,
            r#"{{"src":"shop/api","dst":"shop/api","port":{port}}}"#
        )
        .unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["port"], port);
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let file = written(CLUSTER);
    let mut text = "x".repeat(1 << 20);
    text.push('\n');
    text.push_str(r#"{"src":"shop/api","dst":"shop/api","port":80}"#);
    let (answers, code) = queries(file.path(), &text);
    assert_eq!((answers.len(), code), (2, 2));
    assert!(answers[0]["error"].as_str().unwrap().contains("65536"));
    assert_eq!(answers[1]["verdict"], "allow");
}

#[test]
fn queries_need_objects_and_a_standard_input_of_their_own() {
    for (args, expected) in [
        (&["--queries", "-"][..], "--queries needs the objects here"),
        (
            &["--queries", "-", "--manifests", "-"],
            "cannot both read standard input",
        ),
        (
            &["--queries", "-", "--manifests", "x", "-o", "yaml"],
            "leave -o yaml out",
        ),
        (
            &["--queries", "/nowhere", "--manifests", "."],
            "cannot read",
        ),
        (&["--queries", "-", "a/b", "c/d"], "cannot be used with"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_polproof"))
            .env_clear()
            .arg("explain")
            .args(args)
            .stdin(Stdio::null())
            .current_dir(fixtures().join("shop"))
            .output()
            .unwrap();
        let shown = said(&output);
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}
