//! The forms in which people have manifests: what kustomize, Helm, kubectl and Windows write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

use polproof_cluster::manifests::{load, load_counted};
use polproof_cluster::{ClusterError, View};
use polproof_policy::{Kind, NamespacedName};

fn file(suffix: &str, text: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn read(suffix: &str, text: &str) -> View {
    load(file(suffix, text).path()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn names(view: &View, kind: Kind) -> Vec<String> {
    let keys = view.snapshot.objects().map(|object| object.key());
    let mut names: Vec<String> = keys
        .filter(|key| key.kind == kind)
        .map(|key| key.id.to_string())
        .collect();
    names.sort();
    names
}

/// Where an object stands.
fn line(view: &View, kind: Kind, namespace: &str, name: &str) -> u64 {
    view.origins[&(kind, NamespacedName::new(namespace, name))].line
}

const HELM: &str = "---
# Source: shop/templates/serviceaccount.yaml
apiVersion: v1
kind: ServiceAccount
metadata:
  name: web
---
# Source: shop/templates/empty.yaml
---
# Source: shop/templates/networkpolicy.yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  annotations:
    polproof.io/ignore: NP002
    other.example/n: 1
spec:
  podSelector: {matchLabels: {app: web}}
---
# Source: shop/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {polproof.io/ignore: NP004}}
    spec:
      containers:
      - {name: web, image: i, resources: {limits: {cpu: 1}}, ports: [{name: http, containerPort: 8080}]}
";

#[test]
fn helm_and_kustomize_output_is_read() {
    let (view, ignored) = load_counted(file(".txt", HELM).path()).unwrap();
    assert!(view.refused.is_empty(), "{:?}", view.refused);
    assert_eq!(names(&view, Kind::NetworkPolicy), ["default/web"]);
    assert_eq!(names(&view, Kind::Pod), ["default/deployment.web"]);
    assert_eq!(line(&view, Kind::NetworkPolicy, "default", "web"), 9);
    assert_eq!(line(&view, Kind::Pod, "default", "deployment.web"), 20);
    assert_eq!(ignored.keys().collect::<Vec<_>>(), ["ServiceAccount"]);
    let policy = view.snapshot.policies().next().unwrap();
    assert_eq!(&*policy.annotations["polproof.io/ignore"], "NP002");
    assert_eq!(policy.annotations.len(), 1, "ours only");
    let pod = view.snapshot.pods().next().unwrap();
    assert_eq!(&*pod.annotations["polproof.io/ignore"], "NP004");

    let dry_run = format!(
        "NAME: shop\nLAST DEPLOYED: today\nHOOKS:\nMANIFEST:\n{HELM}\nNOTES:\n1. Get the URL by running:\n  export X={{{{\n\ttab\n"
    );
    let view = read(".yaml", &dry_run);
    assert_eq!(names(&view, Kind::NetworkPolicy), ["default/web"]);
}

#[test]
fn windows_line_ends_and_marks_are_read() {
    let text = format!("\u{feff}{}", HELM.replace('\n', "\r\n"));
    let joined = format!("{text}{}", text.replace("name: web", "name: api"));
    let view = read(".yaml", joined.trim_end());
    assert_eq!(
        names(&view, Kind::NetworkPolicy),
        ["default/api", "default/web"]
    );
    let policy = view.snapshot.policies().next().unwrap();
    assert_eq!(policy.pod_selector.match_labels.len(), 1);
    assert_eq!(line(&view, Kind::NetworkPolicy, "default", "web"), 9);
    assert_eq!(view.snapshot.pods().count(), 2, "{:?}", view.refused);

    let utf16: Vec<u8> = HELM.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = load(file(".yaml", [&[0xff, 0xfe], &utf16[..]].concat()).path());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("PowerShell") && error.contains("save it as UTF-8"),
        "{error}"
    );
}

#[test]
fn json_and_streams_of_it_are_read() {
    let object = |name: &str| {
        format!(
            "{{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\",\n \"metadata\": {{\"name\": \"{name}\"}}, \"spec\": {{\"podSelector\": {{}}}}}}\n"
        )
    };
    let lines = object("a") + &object("b");
    for suffix in [".json", ".yaml", ".txt"] {
        let view = read(suffix, &lines);
        assert_eq!(
            names(&view, Kind::NetworkPolicy),
            ["default/a", "default/b"]
        );
        assert_eq!(line(&view, Kind::NetworkPolicy, "default", "b"), 3);
    }
    // YAML that begins like JSON.
    let view = read(".yaml", &format!("{}---\n{}", object("a"), object("b")));
    assert_eq!(line(&view, Kind::NetworkPolicy, "default", "b"), 3);
    let view = read(
        ".yaml",
        "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
    );
    assert_eq!(names(&view, Kind::Namespace), ["/a"]);
}

#[test]
fn lists_are_read_and_their_items_have_a_place() {
    let view = read(
        ".yaml",
        "# a\n---\napiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: inner}}]}\n\
         - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {}}, status: {}}\n\
         - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b}, spec: {podSelector: 1}}\n\
         - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: c}, spec: {endpointSelector: {}}}\n\
         ---\n\
         apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicyList\nitems:\n\
         - {metadata: {name: adm}, spec: {priority: 1, subject: {namespaces: {}}}}\n\
         ---\n{apiVersion: v1, kind: PodList, items: null}\n",
    );
    assert_eq!(names(&view, Kind::Namespace), ["/default", "/inner"]);
    assert_eq!(names(&view, Kind::NetworkPolicy), ["default/a"]);
    assert_eq!(names(&view, Kind::CiliumNetworkPolicy), ["default/c"]);
    assert_eq!(names(&view, Kind::AdminNetworkPolicy), ["/adm"]);
    assert_eq!(line(&view, Kind::NetworkPolicy, "default", "a"), 2);
    assert_eq!(line(&view, Kind::NetworkPolicy, "default", "b"), 2);
    assert_eq!(line(&view, Kind::AdminNetworkPolicy, "", "adm"), 10);
    assert!(
        view.refused[0].object.ends_with(":2 items[2])"),
        "{:?}",
        view.refused
    );
    let error = load(file(".yaml", "apiVersion: v1\nkind: List\nitems: {}\n").path());
    assert!(error.unwrap_err().to_string().contains("must be a list"));
}

/// As `kubectl get -o yaml` prints, with what servers add.
#[test]
fn a_dump_is_read() {
    let view = read(
        ".yaml",
        "apiVersion: v1\nitems:\n\
         - apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata:\n    annotations:\n      \
         kubectl.kubernetes.io/last-applied-configuration: |\n        {\"apiVersion\":\"x\"}\n    \
         creationTimestamp: \"2026-01-01T00:00:00Z\"\n    generation: 3\n    \
         managedFields:\n    - apiVersion: networking.k8s.io/v1\n      fieldsV1: {f:spec: {f:podSelector: {}}}\n      \
         manager: kubectl\n    name: p\n    namespace: shop\n    selfLink: /x\n    uid: u1\n  \
         spec: {podSelector: {}, policyTypes: [Ingress]}\n  status: {}\nkind: List\nmetadata:\n  resourceVersion: \"\"\n",
    );
    assert!(view.refused.is_empty(), "{:?}", view.refused);
    let policy = view.snapshot.policies().next().unwrap();
    assert_eq!((policy.generation, &*policy.uid.0), (3, "u1"));
}

fn broken(text: impl AsRef<[u8]>) -> (u64, String) {
    match load(file(".yaml", text).path()).unwrap_err() {
        ClusterError::Manifest { line, problem, .. } => (line, problem),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let (line, problem) = broken("a: 1\n---\nkind: Pod\nmetadata:\n\tname: x\n");
    assert_eq!(line, 5, "{problem}");
    let (line, problem) = broken(b"a: 1\nb: \xff\n");
    assert!(line == 2 && problem.contains("0xff"), "{line} {problem}");
    let (line, problem) = broken("a: 1\n---\nb: 1\nb: 2\n");
    assert!(
        line == 4 && problem == "duplicate mapping key: b; remove one of the two",
        "{line} {problem}"
    );
    let (line, problem) = broken("{\"a\": 1,\n\"a\": 2}");
    assert!(line == 2 && problem.contains("twice"), "{line} {problem}");
    let (line, problem) = broken("a: x\0y\nb: 2\n");
    assert_eq!(line, 1, "{problem}");
}

#[test]
fn numbers_beyond_any_type_break_nothing_but_what_they_are_in() {
    let view = read(
        ".yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, annotations: {n: 123456789012345678901234567890}}\nspec: {podSelector: {}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: b}\nspec: {podSelector: {}, ingress: [{ports: [{port: 123456789012345678901234567890}]}]}\n",
    );
    assert_eq!(names(&view, Kind::NetworkPolicy), ["default/a"]);
    let reason = &view.refused[0].reason;
    assert!(
        reason.starts_with("spec.ingress[0].ports[0].port"),
        "{reason}"
    );
}
