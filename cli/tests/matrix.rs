//! `polproof matrix` as people and CI use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/shop");

fn polproof(args: &[&str]) -> Output {
    polproof_with(args, "")
}

fn polproof_with(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_polproof"))
        .env_clear()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn fine(args: &[&str]) -> String {
    let output = polproof(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

fn json(args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.extend(["-o", "json"]);
    serde_json::from_str(&fine(&all)).unwrap()
}

/// What may be said from one end to another, as `first-last/PROTOCOL verdict`.
fn verdicts(matrix: &Value, source: &str, destination: &str) -> Vec<String> {
    let has = |list: &Value, name: &str| list.as_array().unwrap().iter().any(|of| of == name);
    let connections = matrix["connections"].as_array().unwrap().iter();
    connections
        .filter(|of| has(&of["sources"], source) && has(&of["destinations"], destination))
        .flat_map(|of| of["verdicts"].as_array().unwrap().clone())
        .map(|of| {
            format!(
                "{}-{}/{} {}",
                of["first_port"],
                of["last_port"],
                of["protocol"].as_str().unwrap(),
                of["verdict"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn the_shop_is_as_its_policies_say() {
    let matrix = json(&["matrix", SHOP]);
    assert_eq!(matrix["unlisted"], "deny");
    let db = verdicts(&matrix, "shop/api", "shop/db");
    assert!(db.contains(&"5432-5432/TCP allow".to_owned()), "{db:?}");
    assert!(db.contains(&"1-5431/TCP deny".to_owned()), "{db:?}");
    assert!(db.contains(&"1-65535/UDP deny".to_owned()), "{db:?}");
    assert!(verdicts(&matrix, "shop/web", "shop/db").is_empty());
    // A named port is a number here.
    let scraped = verdicts(&matrix, "monitoring/prometheus", "shop/web");
    assert!(scraped.contains(&"9090-9090/TCP allow".to_owned()));
    // The block of web's egress cuts what is outside, and its exceptions are denied.
    assert!(!verdicts(&matrix, "shop/web", "anywhere else (IPv4)").is_empty());
    assert!(verdicts(&matrix, "shop/web", "169.254.169.254/32").is_empty());
    assert!(verdicts(&matrix, "shop/web", "anywhere (IPv6)").is_empty());
}

#[test]
fn the_list_names_sources_destinations_and_ports() {
    let text = fine(&["matrix", SHOP]);
    let line = |from: &str, to: &str| {
        text.lines()
            .find(|line| line.starts_with(from) && line.contains("->") && line.contains(to))
            .unwrap_or_else(|| panic!("no line {from} {to} in\n{text}"))
            .to_owned()
    };
    assert!(line("shop/api", "shop/db").contains("5432/TCP"));
    assert!(line("shop/* (4)", "kube-system/coredns").contains("53/TCP, 53/UDP"));
    assert!(text.contains("to namespace shop"));
    assert!(text.contains("What is not listed is denied"));
}

#[test]
fn filters_leave_what_is_asked_for() {
    let to_db = json(&["matrix", SHOP, "--to", "shop/db", "--port", "5432"]);
    let connections = to_db["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 1, "{connections:?}");
    assert_eq!(connections[0]["sources"], serde_json::json!(["shop/api"]));
    assert_eq!(to_db["unlisted"], Value::Null);

    let denied = json(&[
        "matrix", SHOP, "--from", "shop/web", "--to", "shop", "--only", "deny",
    ]);
    assert!(!verdicts(&denied, "shop/web", "shop/db").is_empty());
    let all: Vec<String> = verdicts(&denied, "shop/web", "shop/api");
    assert!(all.iter().all(|of| of.ends_with("deny")), "{all:?}");

    let monitoring = json(&["matrix", SHOP, "-n", "monitoring"]);
    assert!(verdicts(&monitoring, "shop/api", "shop/db").is_empty());
    assert!(!verdicts(&monitoring, "monitoring/prometheus", "shop/db").is_empty());

    // An address outside is the region that holds it.
    let metadata = json(&["matrix", SHOP, "--to", "169.254.169.254"]);
    assert!(!verdicts(&metadata, "kube-system/coredns", "169.254.169.254/32").is_empty());
    assert!(verdicts(&metadata, "kube-system/coredns", "anywhere else (IPv4)").is_empty());
}

#[test]
fn by_namespace_counts_the_pods_that_differ() {
    let matrix = json(&["matrix", SHOP, "--by", "namespace"]);
    let connection = matrix["connections"]
        .as_array()
        .unwrap()
        .iter()
        .find(|of| {
            of["sources"] == serde_json::json!(["monitoring"])
                && of["destinations"] == serde_json::json!(["shop"])
        })
        .unwrap();
    let mixed = connection["verdicts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|of| of["first_port"] == 9090)
        .unwrap();
    assert_eq!(mixed["verdict"], "mixed");
    // jobs declares no port named metrics.
    assert_eq!(
        mixed["pod_pairs"],
        serde_json::json!({"allow": 3, "deny": 1, "unknown": 0})
    );
}

#[test]
fn csv_has_a_row_for_every_pair_and_run_of_ports() {
    let text = fine(&["matrix", SHOP, "-o", "csv"]);
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("source,destination,families,protocol,first_port,last_port,verdict,detail")
    );
    assert!(text.contains("shop/api,shop/db,IPv4 IPv6,TCP,5432,5432,allow,\n"));
    assert!(text.contains("shop/web,shop/db,IPv4 IPv6,TCP,1,65535,deny,\n"));
    assert!(lines.all(|line| line.split(',').count() == 8));
}

#[test]
fn names_cannot_break_out_of_pictures_and_graphs() {
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: web, uid: a, ownerReferences: [{ apiVersion: v1, kind: "Odd\"]; x -> y", name: "a<b>&\"c", uid: u, controller: true }] }
spec: { containers: [{ name: c, image: i }] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: api, uid: b }
spec: { containers: [{ name: c, image: i }] }
"#;
    let svg = polproof_with(&["matrix", "-", "-o", "svg"], pod);
    assert_eq!(svg.status.code(), Some(0), "{}", stderr(&svg));
    let svg = stdout(&svg);
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert!(
        svg.contains("a&lt;b&gt;&amp;&quot;c") && !svg.contains("a<b>"),
        "{svg}"
    );
    let dot = stdout(&polproof_with(&["matrix", "-", "-o", "dot"], pod));
    assert!(dot.contains("odd\\\"]; x"), "{dot}");
    for text in [&svg, &dot] {
        assert!(!text.contains("http://") || text.matches("http://").count() == 1);
    }
}

#[test]
fn a_picture_of_a_namespace_has_no_rows_for_what_it_has_nothing_to_do_with() {
    let whole = fine(&["matrix", SHOP, "-o", "svg"]);
    let part = fine(&["matrix", SHOP, "-n", "monitoring", "-o", "svg"]);
    // Prometheus reads the metrics of web, and jobs has none.
    for (name, shown) in [("shop/web", true), ("shop/jobs", false)] {
        assert!(whole.contains(name), "{name}");
        assert_eq!(part.contains(name), shown, "{name}");
    }
}

#[test]
fn a_workload_of_one_pod_is_asked_about_its_next_one() {
    let one = r#"
apiVersion: v1
kind: Pod
metadata:
  namespace: shop
  name: db-0
  uid: a
  ownerReferences: [{ apiVersion: apps/v1, kind: StatefulSet, name: db, uid: u, controller: true }]
spec: { containers: [{ name: c, image: i }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: peers, uid: b }
spec: { podSelector: {}, ingress: [{ from: [{ podSelector: {} }], ports: [{ port: 7000 }] }] }
"#;
    let output = polproof_with(&["matrix", "-", "-o", "csv"], one);
    let text = stdout(&output);
    let name = "shop/statefulset/db";
    assert!(
        text.contains(&format!("{name},{name},IPv4,TCP,7000,7000,allow,\n")),
        "{text}{}",
        stderr(&output)
    );
    assert!(text.contains(&format!("{name},{name},IPv4,UDP,1,65535,deny,\n")));
}

#[test]
fn bad_input_says_what_to_write_instead() {
    for (args, says) in [
        (
            vec!["matrix", SHOP, "--port", "http"],
            "give a number from 1 to 65535",
        ),
        (
            vec!["matrix", SHOP, "--to", "shop/dbb"],
            "no living pod is there",
        ),
        (vec!["matrix", SHOP, "-n", "sho"], "did you mean shop?"),
        (vec!["matrix", SHOP, "-o", "junit"], "cannot print junit"),
        (vec!["matrix", "/nowhere"], "/nowhere"),
    ] {
        let output = polproof(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(says),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    let policies = format!("{SHOP}/policies.yaml");
    let output = polproof(&["matrix", &policies]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there are no pods in"));
}

#[test]
fn progress_is_shown_when_it_is_asked_for() {
    let output = polproof(&["matrix", SHOP, "--progress", "-o", "json"]);
    assert!(
        stderr(&output).contains("polproof: matrix: 100%"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&polproof(&["matrix", SHOP])), "");
}
