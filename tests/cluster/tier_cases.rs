//! The table of policies for `tiers`: each is a sound one in which one thing was made another.

use polproof_policy::Kind;
use serde_json::{Value, json};

use crate::kinds::optional;
use crate::tiers::KINDS;

/// A sound policy of a kind, in which one thing at a time is made another.
fn sound(kind: Kind) -> Value {
    let (group, version) = optional(kind).apis[0];
    let mut spec = json!({ "subject": { "namespaces": {} } });
    let mut name = "case";
    match kind {
        Kind::BaselineAdminNetworkPolicy => name = "default",
        Kind::ClusterNetworkPolicy => {
            spec["tier"] = json!("Admin");
            spec["priority"] = json!(10);
        }
        _ => spec["priority"] = json!(10),
    }
    json!({ "apiVersion": format!("{group}/{version}"), "kind": kind.name(), "metadata": { "name": name }, "spec": spec })
}

/// `value` at a field of the spec; null removes it.
fn with(kind: Kind, field: &str, value: &Value) -> Value {
    let mut object = sound(kind);
    match value {
        Value::Null => {
            let spec = object["spec"].as_object_mut().expect("a spec");
            spec.remove(field);
        }
        _ => object["spec"][field] = value.clone(),
    }
    object
}

fn allow(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterNetworkPolicy => "Accept",
        _ => "Allow",
    }
}

fn ports(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterNetworkPolicy => "protocols",
        _ => "ports",
    }
}

fn ingress(kind: Kind, rule: &Value) -> Value {
    with(kind, "ingress", &json!([rule]))
}

fn egress(kind: Kind, rule: &Value) -> Value {
    with(kind, "egress", &json!([rule]))
}

fn to(kind: Kind, action: &str, peer: &Value) -> Value {
    egress(kind, &json!({ "action": action, "to": [peer] }))
}

fn port(kind: Kind, port: &Value) -> Value {
    let mut rule = json!({ "action": "Deny", "from": [{ "namespaces": {} }] });
    rule[ports(kind)] = json!([port]);
    ingress(kind, &rule)
}

pub(crate) fn cases() -> Vec<(String, Kind, Value)> {
    let mut cases = Vec::new();
    for kind in KINDS {
        let mut add = |what: &str, value: &Value, object: Value| {
            let text: String = value.to_string().chars().take(160).collect();
            cases.push((format!("{} {what} {text}", kind.name()), kind, object));
        };
        for value in priorities() {
            add("priority", &value, with(kind, "priority", &value));
        }
        for value in [
            json!("Admin"),
            json!("Baseline"),
            json!("admin"),
            json!(""),
            json!(null),
        ] {
            add("tier", &value, with(kind, "tier", &value));
        }
        for value in subjects() {
            add("subject", &value, with(kind, "subject", &value));
        }
        for value in ["default", "other", "A", "a.b", "a_b", ""] {
            let mut object = sound(kind);
            object["metadata"]["name"] = json!(value);
            add("name", &json!(value), object);
        }
        let mut none = sound(kind);
        none.as_object_mut().expect("an object").remove("spec");
        add("spec", &json!(null), none);
        for value in rules(kind) {
            add("ingress", &value, ingress(kind, &value));
        }
        for value in lists(kind) {
            add("ingress list", &value, with(kind, "ingress", &value));
        }
        for value in peers() {
            let peer = json!({ "action": "Deny", "from": [value] });
            add("from", &value, ingress(kind, &peer));
            add("to", &value, to(kind, "Deny", &value));
        }
        for (action, value) in targets(kind) {
            add(&format!("{action} to"), &value, to(kind, action, &value));
        }
        let values = if kind == Kind::ClusterNetworkPolicy {
            protocols()
        } else {
            v1alpha1_ports()
        };
        for value in values {
            add("port", &value, port(kind, &value));
        }
        for value in beside_named_port() {
            let mut rule = json!({ "action": "Deny", "to": [{ "namespaces": {} }, value] });
            rule[ports(kind)] = json!([match kind {
                Kind::ClusterNetworkPolicy => json!({ "destinationNamedPort": "web" }),
                _ => json!({ "namedPort": "web" }),
            }]);
            add("named port beside", &value, egress(kind, &rule));
        }
    }
    cases
}

fn priorities() -> Vec<Value> {
    vec![
        json!(0),
        json!(1000),
        json!(1001),
        json!(-1),
        json!("5"),
        json!(1.5),
        json!(null),
    ]
}

fn subjects() -> Vec<Value> {
    vec![
        json!(null),
        json!({}),
        json!([]),
        json!({ "namespaces": null }),
        json!({ "namespaces": { "matchLabels": { "a": "b" } } }),
        json!({ "namespaces": { "matchLabels": { "a b": "c" } } }),
        json!({ "namespaces": { "matchLabels": { "a": 1 } } }),
        json!({ "namespaces": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
        json!({ "namespaces": { "matchExpressions": [{ "key": "a", "operator": "Exists", "values": ["b"] }] } }),
        json!({ "namespaces": { "matchExpressions": [{ "key": "a", "operator": "Like", "values": ["b"] }] } }),
        json!({ "namespaces": { "matchExpressions": [{ "operator": "Exists" }] } }),
        json!({ "pods": {} }),
        json!({ "pods": { "podSelector": {} } }),
        json!({ "pods": { "namespaceSelector": {} } }),
        json!({ "pods": { "namespaceSelector": {}, "podSelector": {} } }),
        json!({ "pods": { "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "db" } } } }),
        json!({ "namespaces": {}, "pods": { "namespaceSelector": {}, "podSelector": {} } }),
        json!({ "nodes": {} }),
        json!({ "unknown": {} }),
        json!({ "unknown": {}, "namespaces": {} }),
    ]
}

fn rules(kind: Kind) -> Vec<Value> {
    let all = json!([{ "namespaces": {} }]);
    let mut rules: Vec<Value> = ["Allow", "Accept", "Deny", "Pass", "deny", ""]
        .iter()
        .map(|action| json!({ "action": action, "from": all }))
        .collect();
    rules.extend([
        json!({ "from": all }),
        json!({ "action": "Deny" }),
        json!({ "action": "Deny", "from": [] }),
        json!({ "action": "Deny", "from": null }),
        json!({ "action": "Deny", "from": {} }),
        json!({ "action": "Deny", "to": all }),
        json!({ "action": "Deny", "from": all, "name": "x".repeat(100) }),
        json!({ "action": "Deny", "from": all, "name": "x".repeat(101) }),
        json!({ "action": "Deny", "from": all, "name": "" }),
        json!({ "action": "Deny", "from": all, ports(kind): [] }),
        json!({ "action": "Deny", "from": all, ports(kind): null }),
        json!({ "action": "Deny", "from": vec![json!({ "namespaces": {} }); 25] }),
        json!({ "action": "Deny", "from": vec![json!({ "namespaces": {} }); 26] }),
        json!({ "action": "Deny", "from": vec![json!({ "namespaces": {} }); 100] }),
        json!({ "action": "Deny", "from": vec![json!({ "namespaces": {} }); 101] }),
    ]);
    rules
}

fn lists(kind: Kind) -> Vec<Value> {
    let rule = json!({ "action": allow(kind), "from": [{ "namespaces": {} }] });
    vec![
        json!([]),
        json!({}),
        json!(vec![rule.clone(); 25]),
        json!(vec![rule.clone(); 26]),
        json!(vec![rule.clone(); 100]),
        json!(vec![rule; 101]),
    ]
}

fn peers() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "namespaces": {} }),
        json!({ "namespaces": { "matchLabels": { "a": "b c" } } }),
        json!({ "namespaces": { "matchExpressions": [{ "key": "a", "operator": "NotIn", "values": [] }] } }),
        json!({ "pods": {} }),
        json!({ "pods": { "podSelector": {} } }),
        json!({ "pods": { "namespaceSelector": {} } }),
        json!({ "pods": { "namespaceSelector": {}, "podSelector": {} } }),
        json!({ "namespaces": {}, "pods": { "namespaceSelector": {}, "podSelector": {} } }),
        json!({ "nodes": {} }),
        json!({ "networks": ["10.0.0.0/8"] }),
        json!({ "unknown": {} }),
        json!({ "unknown": {}, "namespaces": {} }),
        json!({ "unknown": {}, "other": {} }),
        json!({ "networks": ["10.0.0.0/8"], "namespaces": {} }),
    ]
}

fn targets(kind: Kind) -> Vec<(&'static str, Value)> {
    let mut targets = vec![
        (
            "Deny",
            json!({ "nodes": { "matchExpressions": [{ "key": "a", "operator": "Exists" }] } }),
        ),
        (
            "Deny",
            json!({ "nodes": { "matchExpressions": [{ "key": "a", "operator": "exists" }] } }),
        ),
        ("Deny", json!({ "nodes": {}, "networks": ["10.0.0.0/8"] })),
        ("Deny", json!({ "domainNames": ["example.com"] })),
        ("Pass", json!({ "domainNames": ["example.com"] })),
    ];
    for networks in [
        json!([]),
        json!(["0.0.0.0/0", "::/0"]),
        json!(["10.0.0.0/8", "10.0.0.0/8"]),
        json!(["10.0.0.1/8"]),
        json!(["10.0.0.0"]),
        json!(["10.0.0.0/33"]),
        json!(["010.0.0.0/8"]),
        json!(["2001:db8::/32"]),
        json!(["2001:db8::1/32"]),
        json!(["::ffff:10.0.0.0/104"]),
        json!([""]),
        json!([" 10.0.0.0/8"]),
        json!("10.0.0.0/8"),
        json!(
            (0..25)
                .map(|n| format!("10.{n}.0.0/16"))
                .collect::<Vec<_>>()
        ),
        json!(
            (0..26)
                .map(|n| format!("10.{n}.0.0/16"))
                .collect::<Vec<_>>()
        ),
    ] {
        targets.push(("Deny", json!({ "networks": networks })));
    }
    for names in [
        json!(["example.com"]),
        json!(["*.example.com", "a.example.com."]),
        json!(["example.com", "example.com"]),
        json!(["*"]),
        json!(["com"]),
        json!(["*.com"]),
        json!(["a.*.com"]),
        json!(["-a.example.com"]),
        json!(["Example.COM"]),
        json!(["a_b.example.com"]),
        json!(["example..com"]),
        json!([""]),
        json!([]),
        json!(
            (0..26)
                .map(|n| format!("n{n}.example.com"))
                .collect::<Vec<_>>()
        ),
    ] {
        targets.push((allow(kind), json!({ "domainNames": names })));
    }
    targets
}

fn beside_named_port() -> Vec<Value> {
    vec![
        json!({ "namespaces": {} }),
        json!({ "pods": { "namespaceSelector": {}, "podSelector": {} } }),
        json!({ "nodes": {} }),
        json!({ "networks": ["10.0.0.0/8"] }),
    ]
}

fn v1alpha1_ports() -> Vec<Value> {
    let number = |port: Value, protocol: Value| json!({ "portNumber": { "port": port, "protocol": protocol } });
    let range = |start: u32, end: u32| json!({ "portRange": { "start": start, "end": end, "protocol": "UDP" } });
    vec![
        json!({}),
        number(json!(80), json!("TCP")),
        json!({ "namedPort": "web", "unknown": 1 }),
        number(json!(80), json!("SCTP")),
        number(json!(80), json!("tcp")),
        number(json!(80), json!("ICMP")),
        number(json!(80), json!("")),
        number(json!(0), json!("TCP")),
        number(json!(65535), json!("TCP")),
        number(json!(65536), json!("TCP")),
        number(json!("80"), json!("TCP")),
        json!({ "portNumber": { "port": 80 } }),
        json!({ "portNumber": { "protocol": "TCP" } }),
        json!({ "portNumber": {} }),
        range(80, 90),
        range(80, 80),
        range(90, 80),
        range(0, 80),
        range(80, 65536),
        json!({ "portRange": { "start": 80, "end": 90 } }),
        json!({ "portRange": { "start": 80, "protocol": "TCP" } }),
        json!({ "portRange": { "end": 80, "protocol": "TCP" } }),
        json!({ "namedPort": "web" }),
        json!({ "namedPort": "" }),
        json!({ "namedPort": "Not A Name" }),
        json!({ "namedPort": 80 }),
        json!({ "namedPort": "web", "portNumber": { "port": 80, "protocol": "TCP" } }),
        json!({ "unknown": {} }),
    ]
}

fn protocols() -> Vec<Value> {
    let tcp = |port: Value| json!({ "tcp": { "destinationPort": port } });
    vec![
        json!({}),
        json!({ "tcp": {} }),
        json!({ "tcp": { "unknown": 1 } }),
        tcp(json!({})),
        tcp(json!({ "number": 80 })),
        tcp(json!({ "number": 0 })),
        tcp(json!({ "number": 65535 })),
        tcp(json!({ "number": 65536 })),
        tcp(json!({ "number": "80" })),
        tcp(json!({ "range": { "start": 80, "end": 90 } })),
        tcp(json!({ "range": { "start": 80, "end": 80 } })),
        tcp(json!({ "range": { "start": 90, "end": 80 } })),
        tcp(json!({ "range": { "start": 0, "end": 80 } })),
        tcp(json!({ "range": { "start": 80 } })),
        tcp(json!({ "range": { "start": 80, "end": 90 }, "number": 80 })),
        json!({ "udp": { "destinationPort": { "number": 53 } } }),
        json!({ "sctp": { "destinationPort": { "number": 53 } } }),
        json!({ "icmp": { "destinationPort": { "number": 53 } } }),
        json!({ "udp": { "destinationPort": { "number": 53 } }, "tcp": { "destinationPort": { "number": 53 } } }),
        json!({ "destinationNamedPort": "web" }),
        json!({ "destinationNamedPort": "" }),
        json!({ "destinationNamedPort": "Not A Name" }),
        json!({ "destinationNamedPort": "web", "tcp": { "destinationPort": { "number": 53 } } }),
        json!({ "unknown": {} }),
        json!({ "unknown": {}, "destinationNamedPort": "web" }),
        tcp(json!({ "number": 80, "unknown": 1 })),
    ]
}
