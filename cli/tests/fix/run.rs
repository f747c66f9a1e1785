//! Clusters of a few manifests, and what is asked of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) const DNS: &str = r#"---
apiVersion: v1
kind: Pod
metadata: { name: coredns-1, namespace: kube-system, labels: { k8s-app: kube-dns } }
spec: { containers: [{ name: dns, image: i, ports: [{ name: dns, containerPort: 53, protocol: UDP }, { name: dns-tcp, containerPort: 53 }] }] }
status: { podIPs: [{ ip: 10.0.9.9 }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: dns, namespace: kube-system }
spec: { podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ ports: [{ port: 53, protocol: UDP }, { port: 53 }] }] }
"#;

pub(crate) const SHOP: &str = r#"---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, labels: { app: frontend } }
spec: { containers: [{ name: web, image: i, ports: [{ name: http, containerPort: 8080 }] }] }
status: { podIPs: [{ ip: 10.0.0.1 }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: db, namespace: shop }
spec:
  selector: { matchLabels: { app: db } }
  template:
    metadata: { labels: { app: db } }
    spec: { containers: [{ name: db, image: i, ports: [{ containerPort: 5432 }] }] }
"#;

pub(crate) fn polproof(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polproof"))
        .env_clear()
        .args(arguments)
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `lint subject` of everything that the audit finds in a folder.
pub(crate) fn found(folder: &Path) -> BTreeSet<String> {
    let output = polproof(&[
        "audit",
        folder.to_str().unwrap(),
        "-o",
        "json",
        "--fail-on",
        "never",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = audit["findings"].as_array().unwrap().iter();
    findings
        .map(|f| {
            format!(
                "{} {}",
                f["lint"].as_str().unwrap(),
                f["subject"].as_str().unwrap()
            )
        })
        .collect()
}

pub(crate) fn fix(folder: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["fix", folder.to_str().unwrap()];
    arguments.extend(more);
    let output = polproof(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

pub(crate) fn input(manifests: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.yaml"), manifests.concat()).unwrap();
    folder
}

/// An object with the operations of `fix -o json` applied, as `kubectl patch --type=json` does it.
pub(crate) fn patched(object: &Value, fixes: &Value) -> Value {
    let mut object = object.clone();
    let meta = &object["metadata"];
    let of =
        |patch: &&Value| patch["namespace"] == meta["namespace"] && patch["name"] == meta["name"];
    if let Some(patch) = fixes["patches"].as_array().unwrap().iter().find(of) {
        let operations: json_patch::Patch =
            serde_json::from_value(patch["operations"].clone()).unwrap();
        json_patch::patch(&mut object, &operations).unwrap();
    }
    object
}
