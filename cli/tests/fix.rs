//! `polproof fix`: what it writes passes the audit that asked for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "fix/by_rule.rs"]
mod by_rule;
#[path = "fix/run.rs"]
mod run;

use std::path::Path;

use run::{DNS, SHOP, fix, found, input, patched, polproof, text};
use serde_json::{Value, json};

#[test]
fn a_bare_namespace_gets_what_it_lacks_and_passes() {
    let folder = input(&[DNS, SHOP]);
    assert!(found(folder.path()).contains("NP001 shop"));
    let output = fix(folder.path(), &[]);
    std::fs::write(folder.path().join("fix.yaml"), &output.stdout).unwrap();
    let left = found(folder.path());
    assert!(
        left.iter()
            .all(|finding| finding.starts_with("NP0") && !finding.contains("shop")),
        "{left:?}\n{}",
        text(&output.stdout)
    );
    let again = fix(folder.path(), &["-o", "json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&again["policies"], &again["patches"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn what_rules_at_one_end_allow_is_allowed_at_the_other() {
    let allow = r#"---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: front }
spec:
  podSelector: { matchLabels: { app: web } }
  policyTypes: [Egress]
  egress:
  - to: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: shop } }, podSelector: { matchLabels: { app: db } } }]
    ports: [{ port: 5432 }]
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: front, labels: { app: web } }
spec: { containers: [{ name: web, image: i }] }
status: { podIPs: [{ ip: 10.0.1.1 }] }
"#;
    let folder = input(&[DNS, SHOP, allow]);
    let output = fix(folder.path(), &[]);
    std::fs::write(folder.path().join("fix.yaml"), &output.stdout).unwrap();
    let left = found(folder.path());
    assert!(!left.iter().any(|f| f.starts_with("NP10")), "{left:?}");
    let explain = polproof(&[
        "explain",
        "--manifests",
        folder.path().to_str().unwrap(),
        "front/web",
        "shop/deployment.db:5432",
        "-o",
        "json",
    ]);
    let explained: Value = serde_json::from_slice(&explain.stdout).unwrap();
    assert_eq!(explained["verdict"], "allow", "{explained:#}");
}

const SLIPS: &str = r#"---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop, annotations: { note: keep } }
spec:
  podSelector: { matchLabels: { app: frontnd } }
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ namespaceSelector: { matchLabels: { name: kube-system } } }]
    ports: [{ port: 8080, endPort: 8080 }]
  egress:
  - to: [{ ipBlock: { cidr: 0.0.0.0/0, except: [10.0.0.0/8, 10.1.0.0/16] } }]
"#;

#[test]
fn slips_are_corrected_by_a_patch_of_the_object_as_it_is() {
    let folder = input(&[DNS, SHOP, SLIPS]);
    let before = found(folder.path());
    for finding in [
        "NP030 shop/web",
        "NP032 shop/web:ingress[0].from[0]",
        "NP052 shop/web:egress[0].to[0]",
        "NP091 shop/web:ingress[0].ports[0]",
    ] {
        assert!(before.contains(finding), "{finding} {before:?}");
    }
    let output = fix(folder.path(), &["-o", "json"]);
    let fixes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let patch = &fixes["patches"][0];
    assert_eq!(
        (&patch["namespace"], &patch["name"]),
        (&json!("shop"), &json!("web"))
    );
    let object: Value = serde_saphyr::from_str(SLIPS.trim_start_matches("---\n")).unwrap();
    let object = patched(&object, &fixes);
    assert_eq!(object["metadata"]["annotations"]["note"], "keep");
    let spec = &object["spec"];
    assert_eq!(
        spec["podSelector"]["matchLabels"],
        json!({"app": "frontend"})
    );
    assert_eq!(
        spec["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"],
        json!({"kubernetes.io/metadata.name": "kube-system"})
    );
    assert_eq!(spec["ingress"][0]["ports"], json!([{"port": 8080}]));
    // The policy selects a pod only now, so only now its egress rule lets it reach the metadata services.
    assert_eq!(
        spec["egress"][0]["to"][0]["ipBlock"]["except"],
        json!(["10.0.0.0/8", "100.100.100.200/32", "169.254.169.254/32"])
    );
    let corrected = serde_json::to_string(&object).unwrap();
    let folder = input(&[DNS, SHOP]);
    std::fs::write(folder.path().join("web.json"), corrected).unwrap();
    let left = found(folder.path());
    for lint in ["NP022 shop/web", "NP030", "NP032", "NP052", "NP091"] {
        assert!(!left.iter().any(|f| f.starts_with(lint)), "{left:?}");
    }
}

#[test]
fn metadata_services_are_taken_out_of_rules_that_reach_them() {
    let open = r#"---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: out, namespace: shop }
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  egress:
  - {}
  - to: [{ ipBlock: { cidr: 169.254.0.0/16 } }]
"#;
    let folder = input(&[DNS, SHOP, open]);
    assert!(found(folder.path()).contains("NP022 shop/web->169.254.169.254"));
    let output = fix(folder.path(), &["-o", "json"]);
    let fixes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left: Vec<&str> = fixes["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["lint"].as_str().unwrap())
        .collect();
    assert!(
        !left.contains(&"NP022") && !left.contains(&"NP011"),
        "{left:?}"
    );
    let object: Value = serde_saphyr::from_str(open.trim_start_matches("---\n")).unwrap();
    let object = patched(&object, &fixes);
    let folder = input(&[DNS, SHOP]);
    std::fs::write(folder.path().join("out.json"), object.to_string()).unwrap();
    assert!(!found(folder.path()).iter().any(|f| f.starts_with("NP022")));
}

#[test]
fn a_folder_names_what_it_holds_and_is_not_written_over() {
    let folder = input(&[DNS, SHOP, SLIPS]);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("fixes");
    let path = path.to_str().unwrap();
    fix(folder.path(), &["--out", path]);
    let read = |file: &str| std::fs::read_to_string(Path::new(path).join(file)).unwrap();
    let kustomization: Value = serde_saphyr::from_str(&read("kustomization.yaml")).unwrap();
    for file in kustomization["resources"].as_array().unwrap() {
        let policy: Value = serde_saphyr::from_str(&read(file.as_str().unwrap())).unwrap();
        assert_eq!(policy["kind"], "NetworkPolicy");
    }
    let patch = &kustomization["patches"][0];
    assert_eq!(patch["target"]["name"], "web");
    let operations: Value = serde_saphyr::from_str(&read(patch["path"].as_str().unwrap())).unwrap();
    assert!(operations.is_array());
    let again = polproof(&["fix", folder.path().to_str().unwrap(), "--out", path]);
    assert_eq!(again.status.code(), Some(2));
    assert!(
        text(&again.stderr).contains("--force"),
        "{}",
        text(&again.stderr)
    );
    fix(folder.path(), &["--out", path, "--force"]);
}

#[test]
fn the_components_of_the_cluster_are_left_alone_until_named() {
    let bare = r#"---
apiVersion: v1
kind: Pod
metadata: { name: coredns-1, namespace: kube-system, labels: { k8s-app: kube-dns } }
spec: { containers: [{ name: dns, image: i }] }
"#;
    let folder = input(&[bare]);
    let output = fix(folder.path(), &[]);
    assert_eq!(text(&output.stdout), "");
    assert!(
        text(&output.stderr).contains("left alone"),
        "{}",
        text(&output.stderr)
    );
    let output = fix(folder.path(), &["-n", "kube-system", "--ingress-only"]);
    let written: Value =
        serde_saphyr::from_str(text(&output.stdout).trim_start_matches("---\n")).unwrap();
    assert_eq!(written["spec"]["policyTypes"], json!(["Ingress"]));
}

#[test]
fn the_kyverno_rules_generate_policies_that_the_audit_accepts() {
    let output = polproof(&["fix", "--kyverno"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let policy: Value = serde_saphyr::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(policy["apiVersion"], "kyverno.io/v1");
    let folder = input(&[DNS, SHOP]);
    for rule in policy["spec"]["rules"].as_array().unwrap() {
        let generate = &rule["generate"];
        assert_eq!(generate["namespace"], "{{request.object.metadata.name}}");
        assert!(
            rule["exclude"]["any"][0]["resources"]["names"]
                .as_array()
                .unwrap()
                .contains(&json!("kube-system"))
        );
        let generated = json!({
            "apiVersion": generate["apiVersion"],
            "kind": generate["kind"],
            "metadata": {"name": generate["name"], "namespace": "shop"},
            "spec": generate["data"]["spec"],
        });
        let name = format!("{}.json", generate["name"].as_str().unwrap());
        std::fs::write(folder.path().join(name), generated.to_string()).unwrap();
    }
    let left = found(folder.path());
    assert!(!left.iter().any(|f| f.contains("shop")), "{left:?}");
}
