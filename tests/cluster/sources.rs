//! One cluster, two sources: what is in the API and what is in a folder mean the same.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use polproof_cluster::{View, manifests};
use polproof_policy::{NamespacedName, Object, Uid};
use polproof_tests::cluster::ControlPlane;
use serde_json::Value;

use crate::shared::Watching;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: src-shop, labels: { team: shop } }
---
apiVersion: v1
kind: Namespace
metadata: { name: src-other }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: src-shop, labels: { app: web } }
spec:
  nodeName: src-node
  containers:
    - name: c
      image: i
      ports: [{ name: http, containerPort: 8080 }, { name: dns, containerPort: 53, protocol: UDP }]
      resources: { requests: { cpu: "1", memory: 64Mi } }
  initContainers:
    - { name: sidecar, image: i, restartPolicy: Always, ports: [{ name: proxy, containerPort: 15001 }] }
    - { name: once, image: i, ports: [{ name: never, containerPort: 9 }] }
status: { phase: Running, podIP: 10.9.0.1, podIPs: [{ ip: 10.9.0.1 }, { ip: "fd00::9:1" }] }
---
apiVersion: v1
kind: Pod
metadata: { name: done, namespace: src-shop, labels: { app: job } }
spec: { containers: [{ name: c, image: i }] }
status: { phase: Succeeded, podIP: 10.9.0.2, podIPs: [{ ip: 10.9.0.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: host, namespace: src-other }
spec: { hostNetwork: true, nodeName: src-node, containers: [{ name: c, image: i }] }
status: { phase: Running, podIP: 192.0.2.9, podIPs: [{ ip: 192.0.2.9 }] }
---
apiVersion: v1
kind: Node
metadata: { name: src-node }
spec: { podCIDR: 10.9.0.0/24, podCIDRs: [10.9.0.0/24, "fd00::9:0/112"] }
status: { addresses: [{ type: InternalIP, address: 192.0.2.9 }, { type: Hostname, address: src-node }] }
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Service
    metadata: { name: web, namespace: src-shop }
    spec:
      clusterIP: 10.96.9.9
      clusterIPs: [10.96.9.9]
      selector: { app: web }
      ports: [{ name: http, port: 80, targetPort: http }, { name: dns, port: 53, protocol: UDP }]
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: { name: web, namespace: src-shop }
    spec:
      podSelector: { matchLabels: { app: web } }
      ingress:
        - from:
            - { podSelector: { matchExpressions: [{ key: app, operator: In, values: [a, b] }] } }
            - { namespaceSelector: { matchLabels: { team: shop } } }
            - { ipBlock: { cidr: 10.0.0.0/8, except: [10.9.0.0/16] } }
          ports: [{ port: http }, { port: 9000, endPort: 9100 }, { protocol: SCTP }]
      egress: [{ ports: [{ port: 53, protocol: UDP }] }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: src-other }
spec: { podSelector: {}, egress: [] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: src-shop, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: http, port: 8080 }]
endpoints:
  - { addresses: [10.9.0.1], conditions: { ready: true, serving: true } }
  - { addresses: [10.9.0.2], conditions: { ready: false, terminating: true } }
"#;

pub(crate) async fn equal_views(plane: &ControlPlane) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("all.yaml"), MANIFESTS)?;
    let from_files = manifests::load(folder.path())?;
    ensure!(
        from_files.ready && from_files.refused.is_empty(),
        "{:?}",
        from_files.refused
    );
    let expected = comparable(&from_files);
    ensure!(expected.len() == 10, "{expected:#?}");

    let client = plane.client().await?;
    for document in MANIFESTS.split("\n---") {
        let value: Value = serde_saphyr::from_str(document)?;
        match value.get("items").and_then(Value::as_array) {
            Some(items) => {
                for item in items {
                    create(&client, item).await?;
                }
            }
            None => create(&client, &value).await?,
        }
    }
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    let outcome = watching
        .until("equal views", |view| {
            view.ready && comparable(view) == expected
        })
        .await;
    if outcome.is_err() {
        let view = std::sync::Arc::clone(&watching.views.borrow());
        let found = comparable(&view);
        for (name, object) in &expected {
            ensure!(
                found.get(name) == Some(object),
                "{name}:\n files {object:?}\n API   {:?}",
                found.get(name)
            );
        }
    }
    outcome.map(|_| ())
}

/// Objects of this test, without what only an API server gives.
fn comparable(view: &View) -> BTreeMap<String, Object> {
    let mut objects = BTreeMap::new();
    for object in view.snapshot.objects() {
        let key = object.key();
        let id: &NamespacedName = &key.id;
        if !id.namespace.starts_with("src-") && !id.name.starts_with("src-") {
            continue;
        }
        objects.insert(format!("{:?} {id}", key.kind), plain(object));
    }
    objects
}

fn plain(mut object: Object) -> Object {
    let none = || Uid("".into());
    match &mut object {
        Object::Pod(o) => std::sync::Arc::make_mut(o).uid = none(),
        Object::Namespace(o) => {
            let o = std::sync::Arc::make_mut(o);
            o.uid = none();
            // Set by the server; the engine sets it whatever is there.
            o.labels.remove("kubernetes.io/metadata.name");
        }
        Object::Node(o) => std::sync::Arc::make_mut(o).uid = none(),
        Object::Service(o) => std::sync::Arc::make_mut(o).uid = none(),
        Object::EndpointSlice(o) => std::sync::Arc::make_mut(o).uid = none(),
        Object::NetworkPolicy(o) => {
            let o = std::sync::Arc::make_mut(o);
            o.uid = none();
            o.generation = 0;
            // The server fills policyTypes in, and leaves empty lists out.
            o.written = Default::default();
        }
        Object::AdminPolicy(o) => {
            let o = std::sync::Arc::make_mut(o);
            o.uid = none();
            o.generation = 0;
        }
        Object::ForeignPolicy(o) => std::sync::Arc::make_mut(o).uid = none(),
    }
    object
}

/// Creates an object and, where the API keeps it apart, its status.
pub(crate) async fn create(client: &Client, value: &Value) -> Result<()> {
    let api = api_of(client, value)?;
    let object: DynamicObject = serde_json::from_value(value.clone())?;
    let name = object.metadata.name.clone().unwrap_or_default();
    api.create(&PostParams::default(), &object).await?;
    if let Some(status) = value.get("status") {
        let status = serde_json::json!({ "status": status });
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
    }
    Ok(())
}

/// The API of any object that is written in full.
pub(crate) fn api_of(client: &Client, value: &Value) -> Result<Api<DynamicObject>> {
    let text = |pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (group, version) = text("/apiVersion")
        .split_once('/')
        .unwrap_or(("", text("/apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("/kind"));
    let resource = ApiResource::from_gvk(&kind);
    Ok(match text("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}
