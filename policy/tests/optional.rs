//! The kinds that only some clusters serve, from JSON into the model.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value
)]

use std::sync::Arc;

use polproof_policy::compile::{OPTIONAL_KINDS, optional};
use polproof_policy::model::{
    Action, AdminPeer, AdminPolicy, AdminPort, ForeignEffect, ForeignPolicy, PortMatch,
    Requirement, Selector, Subject, Tier,
};
use polproof_policy::{Kind, Object, Protocol};
use serde_json::{Value, json};

fn admin(kind: Kind, spec: Value) -> Arc<AdminPolicy> {
    let name = match kind {
        Kind::BaselineAdminNetworkPolicy => "default",
        _ => "a",
    };
    let meta = json!({"name": name, "uid": "u", "generation": 2, "annotations": {"polproof.io/x": "y", "other": "z"}});
    match optional(kind, &json!({"metadata": meta, "spec": spec})) {
        Ok(Object::AdminPolicy(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

fn labels(key: &str, value: &str) -> Selector {
    Selector {
        match_labels: [(Arc::from(key), Arc::from(value))].into(),
        match_expressions: Vec::new(),
    }
}

#[test]
fn an_admin_policy_is_read_whole() {
    let policy = admin(
        Kind::AdminNetworkPolicy,
        json!({
            "priority": 1000,
            "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
            "ingress": [{"name": "r", "action": "Pass", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}, {"pods": {"namespaceSelector": {}, "podSelector": {}}}]}],
            "egress": [
                {"action": "Deny", "to": [{"nodes": {}}, {"networks": ["10.1.2.3/8", "::/0"]}], "ports": [
                    {"portNumber": {"port": 53, "protocol": "UDP"}}, {"portNumber": {"port": 80}}, {"portRange": {"start": 1, "end": 65535, "protocol": "SCTP"}}]},
                {"action": "Allow", "to": [{"domainNames": ["*.example.com", "a.b.c."]}]},
                {"action": "Allow", "to": [{"namespaces": {}}], "ports": [{"namedPort": "web"}]},
            ],
        }),
    );
    assert_eq!(
        (policy.tier, policy.priority, policy.generation),
        (Tier::Admin, 1000, 2)
    );
    assert_eq!(policy.annotations.len(), 1);
    assert_eq!(
        policy.subject,
        Subject::Pods {
            namespaces: Selector::default(),
            pods: labels("app", "db")
        }
    );
    let rule = &policy.ingress[0];
    assert_eq!(
        (rule.name.as_deref(), rule.action),
        (Some("r"), Action::Pass)
    );
    assert_eq!(rule.peers[0], AdminPeer::Namespaces(labels("a", "b")));
    assert!(rule.ports.is_empty());
    assert_eq!(
        policy.egress[0].peers[1],
        AdminPeer::Networks(vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()])
    );
    assert_eq!(
        policy.egress[0].ports,
        [
            AdminPort::Of(Protocol::Udp, PortMatch::Range(53, 53)),
            AdminPort::Of(Protocol::Tcp, PortMatch::Range(80, 80)),
            AdminPort::Of(Protocol::Sctp, PortMatch::Range(1, 65535)),
        ]
    );
    let names = ["*.example.com", "a.b.c."].map(Arc::from).to_vec();
    assert_eq!(policy.egress[1].peers, [AdminPeer::DomainNames(names)]);
    assert_eq!(policy.egress[2].ports, [AdminPort::Named(Arc::from("web"))]);
}

#[test]
fn baseline_and_cluster_policies_are_read() {
    let policy = admin(
        Kind::BaselineAdminNetworkPolicy,
        json!({"subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}),
    );
    assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 0));
    let policy = admin(
        Kind::ClusterNetworkPolicy,
        json!({
            "tier": "Baseline", "priority": 0, "subject": {"namespaces": {}}, "ingress": null,
            "egress": [{"action": "Accept", "to": [{"pods": {"podSelector": {}}}], "protocols": [
                {"tcp": {"destinationPort": {"number": 443}}},
                {"sctp": {"destinationPort": {"range": {"start": 1, "end": 2}}}},
                {"destinationNamedPort": "dns"},
            ]}],
        }),
    );
    assert_eq!(
        (policy.tier, policy.egress[0].action),
        (Tier::Baseline, Action::Allow)
    );
    assert_eq!(
        policy.egress[0].peers,
        [AdminPeer::Pods {
            namespaces: Selector::default(),
            pods: Selector::default()
        }]
    );
    assert_eq!(policy.egress[0].ports.len(), 3);
}

#[test]
fn a_peer_of_a_newer_api_is_unrecognised() {
    for kind in [
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ] {
        let policy = admin(
            kind,
            json!({
                "tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "later": [1],
                "ingress": [{"action": "Deny", "later": 1, "from": [{"galaxies": {"x": 1}}, {"networks": ["10.0.0.0/8"]}, {"galaxies": 1, "planets": 2}]}],
            }),
        );
        let peers = &policy.ingress[0].peers;
        assert_eq!(*peers, [const { AdminPeer::Unrecognised }; 3]);
    }
}

#[test]
fn a_field_of_a_newer_api_beside_a_known_one_is_passed_over() {
    for kind in [
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ] {
        let (ports, port) = match kind {
            Kind::ClusterNetworkPolicy => ("protocols", "destinationNamedPort"),
            _ => ("ports", "namedPort"),
        };
        let policy = |later: bool| {
            let with = |mut value: Value| {
                if later {
                    value["later"] = json!({"x": 1});
                    value["also"] = json!(1);
                }
                value
            };
            admin(
                kind,
                json!({
                    "tier": "Admin", "priority": 1, "subject": with(json!({"namespaces": {}})),
                    "ingress": [{"action": "Deny", "from": [with(json!({"namespaces": {}}))], ports: [with(json!({port: "web"}))]}],
                }),
            )
        };
        let passed_over = policy(true);
        assert_eq!(
            passed_over.ingress[0].peers,
            [AdminPeer::Namespaces(Selector::default())]
        );
        assert_eq!(passed_over, policy(false));
    }
}

/// What would widen a rule if it were left out is refused.
#[test]
fn fields_of_other_versions_are_not_left_out() {
    let deny = |from, ports| json!({"action": "Deny", "from": [from], "ports": ports});
    let of = |rule| json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]});
    let named = json!([{"namedPort": "http"}]);
    let old = json!({"namespaces": {"namespaceSelector": {"matchLabels": {"a": "b"}}}});
    for (kind, spec, field) in [
        (
            Kind::AdminNetworkPolicy,
            of(deny(old, json!(null))),
            "spec.ingress[0].from[0].namespaces.namespaceSelector",
        ),
        (
            Kind::ClusterNetworkPolicy,
            of(deny(json!({"namespaces": {}}), named)),
            "spec.ingress[0].ports",
        ),
    ] {
        let object = json!({"metadata": {"name": "p"}, "spec": spec});
        let refusal = optional(kind, &object).unwrap_err();
        assert_eq!(refusal.field, field);
    }
}

#[test]
fn no_json_makes_it_panic() {
    let values = [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!({}),
        json!([null]),
        json!({"a": null}),
    ];
    let fields = ["metadata", "spec", "specs", "kind"];
    let whole = json!({"metadata": {"name": "default"}, "spec": {
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "selector": "all()", "types": [], "endpointSelector": {}, "enableDefaultDeny": {},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}], "ports": [{"portNumber": {"port": 1}}], "protocols": [{"tcp": {"destinationPort": {"number": 1}}}]}],
    }});
    let mut pointers = vec![String::new()];
    walk(&whole, "", &mut pointers);
    for kind in OPTIONAL_KINDS {
        for value in &values {
            for field in fields {
                let _ = optional(kind.kind, &json!({field: value, "metadata": {"name": "x"}}));
            }
            for pointer in &pointers {
                let mut broken = whole.clone();
                *broken.pointer_mut(pointer).unwrap() = value.clone();
                if let Err(refusal) = optional(kind.kind, &broken) {
                    assert!(!refusal.problem.is_empty() && !refusal.remedy.is_empty());
                }
            }
        }
    }
}

fn walk(value: &Value, at: &str, pointers: &mut Vec<String>) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(n, v)| (n.to_string(), v))
            .collect(),
        _ => return,
    };
    for (name, value) in parts {
        let at = format!("{at}/{name}");
        pointers.push(at.clone());
        walk(value, &at, pointers);
    }
}

fn foreign(kind: Kind, body: Value) -> ForeignPolicy {
    let mut value = body;
    value["metadata"] = json!({"name": "p", "namespace": "shop"});
    match optional(kind, &value) {
        Ok(Object::ForeignPolicy(policy)) => (*policy).clone(),
        other => panic!("{other:?}"),
    }
}

fn effect(may_admit: bool, may_block: bool) -> ForeignEffect {
    ForeignEffect {
        may_admit,
        may_block,
    }
}

fn is_in(key: &str, values: &[&str]) -> Requirement {
    Requirement::In(
        Arc::from(key),
        values.iter().map(|v| Arc::from(*v)).collect(),
    )
}

fn selecting(requirements: &[Requirement]) -> Option<Selector> {
    Some(Selector {
        match_labels: Default::default(),
        match_expressions: requirements.to_vec(),
    })
}

#[test]
fn ciliums_policies_say_whom_they_select_and_what_they_may_do() {
    let cilium = |body| foreign(Kind::CiliumNetworkPolicy, body);
    let policy = cilium(json!({"spec": {
        "endpointSelector": {
            "matchLabels": {"k8s:app": "web", "any:tier": "front", "k8s:io.kubernetes.pod.namespace": "shop", "reserved:host": ""},
            "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}, {"key": "x", "operator": "Later"}]},
        "ingress": [{}], "egressDeny": [{"toEntities": ["world"]}]}}));
    assert!(policy.scope.own_namespace && policy.scope.namespaces.is_none());
    assert_eq!(
        policy.scope.pods,
        selecting(&[
            is_in("tier", &["front"]),
            is_in("app", &["web"]),
            Requirement::DoesNotExist(Arc::from("old")),
        ])
    );
    assert_eq!(
        (policy.ingress, policy.egress),
        (effect(false, true), effect(false, true))
    );

    let several = cilium(json!({"specs": [
        {"endpointSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"fromEntities": ["all"]}]},
        {"endpointSelector": {"matchLabels": {"c": "d"}}, "enableDefaultDeny": {"egress": false}, "egress": [{"toPorts": []}]}]}));
    assert_eq!(several.scope.pods, None);
    assert_eq!(
        (several.ingress, several.egress),
        (effect(true, true), effect(true, false))
    );

    let wide = foreign(
        Kind::CiliumClusterwideNetworkPolicy,
        json!({"spec": {"endpointSelector": {"matchExpressions": [
            {"key": "k8s:io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["kube-system"]},
            {"key": "io.cilium.k8s.namespace.labels.team", "operator": "Exists"}]}}}),
    );
    assert!(!wide.scope.own_namespace && wide.id.namespace.is_empty());
    assert_eq!(
        wide.scope.namespaces,
        selecting(&[
            Requirement::NotIn(
                Arc::from("kubernetes.io/metadata.name"),
                vec![Arc::from("kube-system")]
            ),
            Requirement::Exists(Arc::from("team")),
        ])
    );
    assert_eq!((wide.ingress, wide.egress), Default::default());
    let of_nodes = json!({"spec": {"nodeSelector": {}, "ingress": [{"fromEntities": ["all"]}]}});
    let of_nodes = foreign(Kind::CiliumClusterwideNetworkPolicy, of_nodes);
    assert_eq!((of_nodes.ingress, of_nodes.egress), Default::default());
}

#[test]
fn calicos_policies_say_whom_they_select_and_what_they_may_do() {
    let calico = |spec| foreign(Kind::CalicoNetworkPolicy, json!({ "spec": spec }));
    let ingress_only = calico(json!({"selector": "app == 'web'"}));
    assert_eq!(
        ingress_only.scope.pods,
        selecting(&[is_in("app", &["web"])])
    );
    assert!(ingress_only.scope.own_namespace);
    assert_eq!(
        (ingress_only.ingress, ingress_only.egress),
        (effect(false, true), effect(false, false))
    );
    let by_rules = calico(json!({"egress": [{"action": "Deny"}, {"action": "Log"}]}));
    assert_eq!(
        (by_rules.ingress, by_rules.egress),
        (effect(false, false), effect(false, true))
    );
    let passes = calico(
        json!({"types": ["Ingress", "Egress"], "ingress": [{"action": "Pass"}], "egress": [{"action": "Allow"}]}),
    );
    assert_eq!(
        (passes.ingress, passes.egress),
        (effect(true, true), effect(true, true))
    );

    let global = foreign(
        Kind::CalicoGlobalNetworkPolicy,
        json!({"spec": {"namespaceSelector": "projectcalico.org/name in {\"a\", 'b'} && team == 'x'", "selector": "projectcalico.org/namespace != 'c' && projectcalico.org/orchestrator == 'k8s'"}}),
    );
    let name = "kubernetes.io/metadata.name";
    assert_eq!(global.scope.pods, None);
    assert_eq!(
        global.scope.namespaces,
        selecting(&[
            Requirement::NotIn(Arc::from(name), vec![Arc::from("c")]),
            is_in(name, &["a", "b"]),
            is_in("team", &["x"]),
        ])
    );
}

#[test]
fn calicos_expressions_never_select_fewer_than_they_say() {
    let exists = |key: &str| Requirement::Exists(Arc::from(key));
    let absent = |key: &str| Requirement::DoesNotExist(Arc::from(key));
    let not_in = |key: &str, values: &[&str]| {
        Requirement::NotIn(
            Arc::from(key),
            values.iter().map(|v| Arc::from(*v)).collect(),
        )
    };
    let deep = format!("{}has(a){}", "(".repeat(100_000), ")".repeat(100_000));
    let negated = format!("{}has(a)", "!".repeat(100_000));
    let cases: Vec<(&str, Vec<Requirement>)> = vec![
        ("", vec![]),
        ("all()", vec![]),
        ("global()", vec![]),
        ("has(a)", vec![exists("a")]),
        ("!has(a)", vec![absent("a")]),
        ("! ! has(a)", vec![exists("a")]),
        ("a=='b'", vec![is_in("a", &["b"])]),
        ("a != \"b\"", vec![not_in("a", &["b"])]),
        ("!(a == 'b')", vec![not_in("a", &["b"])]),
        ("a in {'b', 'c'}", vec![is_in("a", &["b", "c"])]),
        ("a not in {'b'}", vec![not_in("a", &["b"])]),
        ("a in {}", vec![is_in("a", &[])]),
        ("a starts with 'b'", vec![exists("a")]),
        (
            "a ends with 'b' && c contains 'd'",
            vec![exists("a"), exists("c")],
        ),
        ("!(a contains 'b')", vec![]),
        ("a == 'b' || a == 'c'", vec![is_in("a", &["b", "c"])]),
        ("a == 'b' || c == 'd'", vec![]),
        ("(a == 'b' || c == 'd') && has(e)", vec![exists("e")]),
        (
            "!(a == 'b' || has(c))",
            vec![not_in("a", &["b"]), absent("c")],
        ),
        ("!(a == 'b' && has(c))", vec![]),
        (
            "app.kubernetes.io/name == 'x-y'",
            vec![is_in("app.kubernetes.io/name", &["x-y"])],
        ),
        // What is not understood selects everything.
        ("a == b", vec![]),
        ("a == 'b' &&", vec![]),
        ("a == 'b' has(c)", vec![]),
        ("(a == 'b'", vec![]),
        ("a ~ 'b'", vec![]),
        ("a == 'b", vec![]),
        (&deep, vec![]),
        (&negated, vec![]),
    ];
    for (expression, expected) in cases {
        let policy = foreign(
            Kind::CalicoNetworkPolicy,
            json!({"spec": {"selector": expression}}),
        );
        let found = policy.scope.pods.unwrap_or_default().match_expressions;
        let shown: String = expression.chars().take(60).collect();
        assert_eq!(found, expected, "{shown}");
    }
}
