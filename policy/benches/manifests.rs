//! Writes the synthetic cluster as the YAML that `kubectl get -o yaml` would give, with questions about it, for
//! `cargo xtask bench` to run the command on.
//!
//! `cargo bench -p polproof-policy --bench manifests -- --to FOLDER [--policies N --pods N --namespaces N --verdicts N]`
//!
//! Makes `FOLDER/before`, `FOLDER/after` (one policy is not there) and `FOLDER/questions.jsonl` (`--verdicts` lines).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr
)]

#[path = "engine/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polproof_policy::model::{Namespace, NetworkPolicy, Node, Pod, Written};
use polproof_policy::{Object, Protocol, remedy};
use serde_json::{Value, json};
use synthetic::{Random, Sizes};

fn main() {
    let mut to = None;
    let mut rest = ["--namespaces", "500", "--verdicts", "1000000"]
        .map(str::to_owned)
        .to_vec();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--to" {
            to = args.next().map(PathBuf::from);
        } else {
            rest.push(arg);
        }
    }
    let Some(to) = to else {
        // `cargo bench` without a name runs every benchmark.
        println!("manifests: nothing to do without --to FOLDER");
        return;
    };
    let sizes = Sizes::from_args(rest.into_iter()).unwrap();
    let objects: Vec<Object> = synthetic::cluster(&sizes)
        .into_iter()
        .flat_map(|(_, objects)| objects)
        .collect();
    let left_out = objects
        .iter()
        .filter_map(|object| match object {
            Object::NetworkPolicy(policy) => Some(policy.id.clone()),
            _ => None,
        })
        .nth(sizes.policies / 2)
        .unwrap();
    manifests(&to.join("before"), &objects, |_| true);
    manifests(
        &to.join("after"),
        &objects,
        |object| !matches!(object, Object::NetworkPolicy(policy) if policy.id == left_out),
    );
    questions(&to.join("questions.jsonl"), &objects, &sizes);
}

/// One file for each namespace and one for the nodes.
fn manifests(folder: &Path, objects: &[Object], keep: impl Fn(&Object) -> bool) {
    let mut files: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for object in objects.iter().filter(|object| keep(object)) {
        let (file, manifest) = match object {
            Object::Namespace(it) => (Arc::clone(&it.name), namespace(it)),
            Object::Node(it) => (Arc::from("nodes"), node(it)),
            Object::NetworkPolicy(it) => (Arc::clone(&it.id.namespace), policy(it)),
            Object::Pod(it) => (Arc::clone(&it.id.namespace), pod(it)),
            _ => continue,
        };
        let text = files.entry(file).or_default();
        writeln!(text, "---\n{}", serde_saphyr::to_string(&manifest).unwrap()).unwrap();
    }
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
    }
}

fn namespace(namespace: &Namespace) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace.name,
            "uid": namespace.uid,
            "labels": namespace.labels,
        },
    })
}

fn node(node: &Node) -> Value {
    let addresses = node.addresses.iter();
    let addresses: Vec<Value> = addresses
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "uid": node.uid, "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": node.pod_cidrs[0].to_string(), "podCIDRs": node.pod_cidrs},
        "status": {"addresses": addresses},
    })
}

fn policy(policy: &NetworkPolicy) -> Value {
    let mut policy = policy.clone();
    policy.written = Written {
        policy_types: true,
        ..Written::default()
    };
    let mut manifest = serde_json::to_value(remedy::manifest(&policy)).unwrap();
    manifest["metadata"]["uid"] = json!(policy.uid);
    manifest["metadata"]["generation"] = json!(policy.generation);
    manifest
}

/// With what the engine reads, and some of what it does not.
fn pod(pod: &Pod) -> Value {
    let ports = pod.ports.iter();
    let ports: Vec<Value> = ports
        .map(|port| {
            json!({
                "name": port.name,
                "containerPort": port.number,
                "protocol": word(port.protocol),
            })
        })
        .collect();
    let addresses = pod.ips.iter();
    let addresses: Vec<Value> = addresses.map(|address| json!({"ip": address})).collect();
    let owners = pod.owner.iter();
    let owners: Vec<Value> = owners
        .map(|(kind, name)| {
            json!({
                "apiVersion": "apps/v1",
                "kind": kind,
                "name": name,
                "uid": pod.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            })
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.id.name,
            "namespace": pod.id.namespace,
            "uid": pod.uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": pod.labels,
            "ownerReferences": owners,
        },
        "spec": {
            "nodeName": pod.node,
            "hostNetwork": pod.host_network,
            "serviceAccountName": "default",
            "restartPolicy": "Always",
            "containers": [{
                "name": "main",
                "image": "registry.example.com/shop/main:1.2.3",
                "args": ["--listen=0.0.0.0", "--log=info"],
                "env": [{"name": "MODE", "value": "production"}],
                "ports": ports,
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"memory": "256Mi"},
                },
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": true}],
            }],
            "volumes": [{"name": "token", "emptyDir": {}}],
        },
        "status": {
            "phase": if pod.finished { "Succeeded" } else { "Running" },
            "podIP": pod.ips[0],
            "podIPs": addresses,
            "qosClass": "Burstable",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// From pods that run to pods that run, one in ten to or from an address.
fn questions(file: &Path, objects: &[Object], sizes: &Sizes) {
    let pods: Vec<&Arc<Pod>> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Pod(pod) if !pod.finished => Some(pod),
            _ => None,
        })
        .collect();
    let mut random = Random::new(17);
    let mut out = BufWriter::new(fs::File::create(file).unwrap());
    for number in 0..sizes.verdicts {
        let end = |random: &mut Random| {
            let pod = pods[random.below(pods.len())];
            match random.below(20) {
                0 => json!({"ip": "203.0.113.9"}),
                1 => json!({"ip": pod.ips[0]}),
                _ => json!(pod.id.to_string()),
            }
        };
        let (src, dst) = (end(&mut random), end(&mut random));
        let protocol = word(synthetic::protocol(&mut random));
        let port = [5432, 80, 443, 53, 8080, 9090, 31000][random.below(7)];
        writeln!(
            out,
            "{}",
            json!({"id": number, "src": src, "dst": dst, "proto": protocol, "port": port})
        )
        .unwrap();
    }
    out.flush().unwrap();
}
