//! The API server as oracle of our validation and of our defaults.

use anyhow::{Result, bail};
use kube::Client;
use polproof_cluster::manifests;
use polproof_policy::model;
use polproof_tests::cluster::ControlPlane;
use serde_json::{Value, json};

use crate::shared::namespace;

/// What API servers before 1.36 took in an ipBlock, so that clusters still hold it: we take it, too.
const TAKEN_BEFORE_1_36: &str = "must not have bits set beyond the prefix length";

/// For each policy: the API server and we both take it, and mean the same, or both refuse it.
pub(crate) async fn same_verdicts(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "oracle").await?;
    let mut wrong = Vec::new();
    let (mut taken, mut refused, mut earlier) = (0, 0, Vec::new());
    for (name, object) in cases() {
        let server = dry_run(&client, &object).await?;
        let ours = ours(&object);
        match (server, ours) {
            (Ok(defaulted), Ok(compiled)) => {
                taken += 1;
                // What the server filled in must be what we filled in.
                match self::ours(&defaulted) {
                    Ok(again) if again == compiled => {}
                    Ok(again) => wrong.push(format!(
                        "{name}: with the server's defaults it means something else:\n  {again:?}\n  {compiled:?}"
                    )),
                    Err(error) => wrong.push(format!("{name}: refused with the server's defaults: {error}")),
                }
            }
            (Err(_), Err(_)) => refused += 1,
            (Ok(_), Err(error)) => {
                wrong.push(format!("{name}: the API server takes it; we: {error}"))
            }
            (Err(error), Ok(_)) if error.contains(TAKEN_BEFORE_1_36) => {
                earlier.push(name);
            }
            (Err(error), Ok(_)) => {
                wrong.push(format!("{name}: we take it; the API server: {error}"))
            }
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{} of {} policies differ:\n{}",
            wrong.len(),
            taken + refused + wrong.len(),
            wrong.join("\n")
        );
    }
    // The table must test both answers.
    if taken < 40 || refused < 60 {
        bail!("only {taken} taken and {refused} refused");
    }
    let known = [
        r#"ipBlock {"cidr":"10.0.0.1/8"}"#,
        r#"ipBlock {"cidr":"10.0.0.0/8","except":["10.1.0.1/16"]}"#,
    ];
    if earlier != known {
        bail!("taken although this API server refuses them: {earlier:?}; known are {known:?}");
    }
    Ok(())
}

async fn dry_run(client: &Client, object: &Value) -> Result<Result<Value, String>> {
    let request = http::Request::post(
        "/apis/networking.k8s.io/v1/namespaces/oracle/networkpolicies?dryRun=All",
    )
    .header("content-type", "application/json")
    .body(serde_json::to_vec(object)?)?;
    match client.request::<Value>(request).await {
        Ok(value) => Ok(Ok(value)),
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            Ok(Err(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// What the source of manifests makes of it.
fn ours(object: &Value) -> Result<model::NetworkPolicy, String> {
    let file = tempfile::Builder::new()
        .suffix(".json")
        .tempfile()
        .map_err(|error| error.to_string())?;
    std::fs::write(file.path(), object.to_string()).map_err(|error| error.to_string())?;
    let view = manifests::load(file.path()).map_err(|error| error.to_string())?;
    if let Some(refused) = view.refused.first() {
        return Err(format!("{}: {}", refused.object, refused.reason));
    }
    let policy = view.snapshot.policies().next().ok_or("no policy")?;
    let mut policy = model::NetworkPolicy::clone(policy);
    // Given by the server.
    policy.uid = model::Uid("".into());
    policy.generation = 0;
    // Lints of what people wrote: the server fills policyTypes in, and leaves empty lists out.
    policy.written = model::Written::default();
    Ok(policy)
}

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "case", "namespace": "oracle" }, "spec": spec,
    })
}

fn ingress(rule: &Value) -> Value {
    policy(&json!({ "podSelector": {}, "ingress": [rule] }))
}

fn egress(rule: &Value) -> Value {
    policy(&json!({ "podSelector": {}, "egress": [rule] }))
}

fn port(port: &Value) -> Value {
    ingress(&json!({ "ports": [port] }))
}

fn block(block: &Value) -> Value {
    ingress(&json!({ "from": [{ "ipBlock": block }] }))
}

fn selector(selector: &Value) -> Value {
    policy(&json!({ "podSelector": selector }))
}

fn expression(expression: &Value) -> Value {
    selector(&json!({ "matchExpressions": [expression] }))
}

fn metadata(metadata: &Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": { "podSelector": {} } })
}

fn cases() -> Vec<(String, Value)> {
    let long = "a".repeat(64);
    let label63 = "a".repeat(63);
    let prefix253 = format!(
        "{}.{}.{}.{}",
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61)
    );
    let prefix254 = format!("{prefix253}e");
    let mut cases: Vec<(String, Value)> = Vec::new();
    let mut add =
        |kind: &str, what: &Value, object: Value| cases.push((format!("{kind} {what}"), object));

    for spec in [
        json!({ "podSelector": {} }),
        json!({}),
        json!({ "podSelector": null }),
        json!({ "podSelector": {}, "policyTypes": [] }),
        json!({ "podSelector": {}, "policyTypes": null }),
        json!({ "podSelector": {}, "policyTypes": ["Ingress"] }),
        json!({ "podSelector": {}, "policyTypes": ["Egress"] }),
        json!({ "podSelector": {}, "policyTypes": ["Egress", "Ingress"] }),
        json!({ "podSelector": {}, "policyTypes": ["Ingress", "Ingress"] }),
        json!({ "podSelector": {}, "policyTypes": ["ingress"] }),
        json!({ "podSelector": {}, "policyTypes": [""] }),
        json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress", "Ingress"] }),
        json!({ "podSelector": {}, "egress": [] }),
        json!({ "podSelector": {}, "ingress": [] }),
        json!({ "podSelector": {}, "ingress": [], "egress": [{}] }),
        json!({ "podSelector": {}, "ingress": null, "egress": null }),
        json!({ "podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}] }),
        json!({ "podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}] }),
        json!({ "podSelector": {}, "policyTypes": ["Egress"], "ingress": [{ "ports": [{ "port": 0 }] }] }),
        json!({ "podSelector": {}, "policyTypes": "Ingress" }),
        json!({ "podSelector": [] }),
        json!({ "podSelector": {}, "ingress": {} }),
        json!({ "podSelector": {}, "ingress": [null] }),
        json!({ "podSelector": {}, "ingress": [{}, {}] }),
    ] {
        add("spec", &spec, policy(&spec));
    }
    for rule in [
        json!({}),
        json!({ "from": [] }),
        json!({ "from": null, "ports": null }),
        json!({ "ports": [] }),
        json!({ "from": [{}] }),
        json!({ "from": [null] }),
        json!({ "from": [{ "podSelector": null }] }),
        json!({ "from": [{ "podSelector": {} }] }),
        json!({ "from": [{ "namespaceSelector": {} }] }),
        json!({ "from": [{ "podSelector": {}, "namespaceSelector": {} }] }),
        json!({ "from": [{ "podSelector": {} }, { "namespaceSelector": { "matchLabels": { "a": "b" } } }] }),
        json!({ "from": [{ "podSelector": {}, "ipBlock": { "cidr": "10.0.0.0/8" } }] }),
        json!({ "from": [{ "namespaceSelector": {}, "ipBlock": { "cidr": "10.0.0.0/8" } }] }),
        json!({ "from": [{ "podSelector": { "matchLabels": { "a b": "c" } } }] }),
        json!({ "from": [{ "namespaceSelector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }] }),
        json!({ "from": {} }),
    ] {
        add("ingress", &rule, ingress(&rule));
    }
    for rule in [
        json!({}),
        json!({ "to": [{}] }),
        json!({ "to": [{ "podSelector": {}, "ipBlock": { "cidr": "10.0.0.0/8" } }] }),
        json!({ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] } }] }),
        json!({ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["11.1.0.0/16"] } }] }),
        json!({ "ports": [{ "port": "dns", "protocol": "UDP" }] }),
        json!({ "ports": [{ "port": 70000 }] }),
        json!({ "to": [{ "podSelector": { "matchLabels": { "a": "-" } } }] }),
    ] {
        add("egress", &rule, egress(&rule));
    }
    for one in [
        json!({}),
        json!(null),
        json!({ "port": 1 }),
        json!({ "port": 65535 }),
        json!({ "port": 0 }),
        json!({ "port": -1 }),
        json!({ "port": 65536 }),
        json!({ "port": 4294967376_u64 }),
        json!({ "port": 80.5 }),
        json!({ "port": null }),
        json!({ "port": "http" }),
        json!({ "port": "80" }),
        json!({ "port": "8080-web" }),
        json!({ "port": "" }),
        json!({ "port": "HTTP" }),
        json!({ "port": "a--b" }),
        json!({ "port": "-a" }),
        json!({ "port": "a-" }),
        json!({ "port": "a_b" }),
        json!({ "port": "abcdefghijklmno" }),
        json!({ "port": "abcdefghijklmnop" }),
        json!({ "port": true }),
        json!({ "port": 80, "protocol": "TCP" }),
        json!({ "port": 80, "protocol": "UDP" }),
        json!({ "port": 80, "protocol": "SCTP" }),
        json!({ "protocol": "SCTP" }),
        json!({ "port": 80, "protocol": "tcp" }),
        json!({ "port": 80, "protocol": "" }),
        json!({ "port": 80, "protocol": null }),
        json!({ "port": 80, "protocol": "ICMP" }),
        json!({ "port": 80, "endPort": 90 }),
        json!({ "port": 80, "endPort": 80 }),
        json!({ "port": 80, "endPort": 79 }),
        json!({ "port": 80, "endPort": 65535 }),
        json!({ "port": 80, "endPort": 65536 }),
        json!({ "port": 80, "endPort": 0 }),
        json!({ "port": 80, "endPort": -1 }),
        json!({ "port": 80, "endPort": null }),
        json!({ "port": "http", "endPort": 90 }),
        json!({ "endPort": 90 }),
        json!({ "protocol": "UDP", "endPort": 90 }),
        json!({ "port": 80, "endPort": "90" }),
    ] {
        add("port", &one, port(&one));
    }
    for one in [
        json!({ "cidr": "10.0.0.0/8" }),
        json!({ "cidr": "0.0.0.0/0" }),
        json!({ "cidr": "::/0" }),
        json!({ "cidr": "10.0.0.1/32" }),
        json!({ "cidr": "2001:db8::/32" }),
        json!({ "cidr": "2001:db8::1/128" }),
        json!({ "cidr": "2001:DB8::/32" }),
        json!({ "cidr": "2001:db8:0:0::/64" }),
        json!({ "cidr": "::ffff:10.0.0.0/104" }),
        json!({ "cidr": "::ffff:10.0.0.0/8" }),
        json!({ "cidr": "10.0.0.1/8" }),
        json!({ "cidr": "10.0.0.0" }),
        json!({ "cidr": "10.0.0.0/33" }),
        json!({ "cidr": "10.0.0.0/-1" }),
        json!({ "cidr": "10.0.0.0/08" }),
        json!({ "cidr": "010.0.0.0/8" }),
        json!({ "cidr": "10.0.0/8" }),
        json!({ "cidr": "10/8" }),
        json!({ "cidr": " 10.0.0.0/8" }),
        json!({ "cidr": "10.0.0.0/8 " }),
        json!({ "cidr": "2001:db8::/129" }),
        json!({ "cidr": "fe80::%eth0/64" }),
        json!({ "cidr": "" }),
        json!({}),
        json!({ "cidr": null }),
        json!({ "cidr": "example.com/8" }),
        json!({ "cidr": "10.0.0.0/8", "except": [] }),
        json!({ "cidr": "10.0.0.0/8", "except": null }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.0.0/16"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.0.0.0/7"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["2001:db8::/32"] }),
        json!({ "cidr": "::/0", "except": ["10.0.0.0/8"] }),
        json!({ "cidr": "0.0.0.0/0", "except": ["::/1"] }),
        json!({ "cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.1/16"] }),
        json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.0"] }),
        json!({ "cidr": "10.0.0.0/8", "except": [""] }),
        json!({ "cidr": "10.0.0.0/8", "except": [null] }),
        json!({ "cidr": "10.1.2.3/32", "except": ["10.1.2.3/32"] }),
    ] {
        add("ipBlock", &one, block(&one));
    }
    for one in [
        json!({ "matchLabels": {} }),
        json!({ "matchLabels": null }),
        json!({ "matchLabels": { "a": "b" } }),
        json!({ "matchLabels": { "a": "" } }),
        json!({ "matchLabels": { "a": null } }),
        json!({ "matchLabels": { "": "b" } }),
        json!({ "matchLabels": { "a/b": "c" } }),
        json!({ "matchLabels": { "a.b/c_D.e-f": "G_h.i-J" } }),
        json!({ "matchLabels": { "a/b/c": "d" } }),
        json!({ "matchLabels": { "/b": "c" } }),
        json!({ "matchLabels": { "a/": "c" } }),
        json!({ "matchLabels": { "A/b": "c" } }),
        json!({ "matchLabels": { "a_b/c": "d" } }),
        json!({ "matchLabels": { "-a": "b" } }),
        json!({ "matchLabels": { "a": "b c" } }),
        json!({ "matchLabels": { "a": "-b" } }),
        json!({ "matchLabels": { "a": "b." } }),
        json!({ "matchLabels": { "a": "ü" } }),
        json!({ "matchLabels": { "a": true } }),
        json!({ "matchLabels": { "a": 1 } }),
        json!({ "matchLabels": { label63.as_str(): label63.as_str() } }),
        json!({ "matchLabels": { long.as_str(): "b" } }),
        json!({ "matchLabels": { "a": long.as_str() } }),
        json!({ "matchLabels": { format!("{prefix253}/a"): "b" } }),
        json!({ "matchLabels": { format!("{prefix254}/a"): "b" } }),
        json!({ "matchLabels": [] }),
        json!({ "matchExpressions": [] }),
        json!({ "matchExpressions": [null] }),
    ] {
        add("selector", &one, selector(&one));
    }
    for one in [
        json!({ "key": "a", "operator": "In", "values": ["b"] }),
        json!({ "key": "a", "operator": "In", "values": ["b", "b", ""] }),
        json!({ "key": "a", "operator": "In", "values": [] }),
        json!({ "key": "a", "operator": "In" }),
        json!({ "key": "a", "operator": "NotIn", "values": ["b"] }),
        json!({ "key": "a", "operator": "NotIn" }),
        json!({ "key": "a", "operator": "NotIn", "values": [] }),
        json!({ "key": "a", "operator": "Exists" }),
        json!({ "key": "a", "operator": "Exists", "values": [] }),
        json!({ "key": "a", "operator": "Exists", "values": null }),
        json!({ "key": "a", "operator": "Exists", "values": ["b"] }),
        json!({ "key": "a", "operator": "DoesNotExist" }),
        json!({ "key": "a", "operator": "DoesNotExist", "values": ["b"] }),
        json!({ "key": "a", "operator": "exists" }),
        json!({ "key": "a", "operator": "Gt", "values": ["1"] }),
        json!({ "key": "a", "operator": "" }),
        json!({ "key": "a" }),
        json!({ "operator": "Exists" }),
        json!({ "key": "", "operator": "Exists" }),
        json!({ "key": "a b", "operator": "Exists" }),
        json!({ "key": "a", "operator": "In", "values": ["b c"] }),
        json!({ "key": "a", "operator": "In", "values": ["-"] }),
        json!({ "key": "a", "operator": "In", "values": [long.as_str()] }),
        json!({ "key": "a", "operator": "NotIn", "values": ["b c"] }),
        json!({ "key": "a", "operator": "In", "values": [1] }),
        json!({ "key": "a", "operator": "In", "values": "b" }),
    ] {
        add("expression", &one, expression(&one));
    }
    for one in [
        json!({ "name": "a", "namespace": "oracle" }),
        json!({ "name": "a.b-c.1", "namespace": "oracle" }),
        json!({ "name": "A", "namespace": "oracle" }),
        json!({ "name": "a_b", "namespace": "oracle" }),
        json!({ "name": "-a", "namespace": "oracle" }),
        json!({ "name": "a.", "namespace": "oracle" }),
        json!({ "name": "a..b", "namespace": "oracle" }),
        json!({ "name": prefix253, "namespace": "oracle" }),
        json!({ "name": prefix254, "namespace": "oracle" }),
        json!({ "name": "", "namespace": "oracle" }),
        json!({ "namespace": "oracle" }),
        json!({ "name": "a", "namespace": "oracle", "labels": { "a": "b" } }),
        json!({ "name": "a", "namespace": "oracle", "labels": { "a b": "c" } }),
        json!({ "name": "a", "namespace": "oracle", "labels": { "a": "b c" } }),
    ] {
        add("metadata", &one, metadata(&one));
    }
    cases
}
