//! What no API server takes is left out and named: object, field, problem, remedy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod admin;

use std::fs;

use polproof_cluster::manifests::load;
use polproof_cluster::{Refused, View};
use polproof_policy::{Kind, NamespacedName};

fn view(text: &str) -> View {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    load(file.path()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The one refusal of a text.
fn refused(text: &str) -> Refused {
    let view = view(text);
    assert_eq!(view.refused.len(), 1, "{text}\n{:#?}", view.refused);
    view.refused[0].clone()
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

fn ingress(rule: &str) -> String {
    policy(&format!("{{podSelector: {{}}, ingress: [{rule}]}}"))
}

fn admin_policy(kind: &str, spec: &str) -> String {
    let version = match kind {
        "ClusterNetworkPolicy" => "v1alpha2",
        _ => "v1alpha1",
    };
    let name = match kind {
        "BaselineAdminNetworkPolicy" => "default",
        _ => "a",
    };
    format!(
        "apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// An AdminNetworkPolicy with one egress rule.
fn anp(rule: &str) -> String {
    admin_policy(
        "AdminNetworkPolicy",
        &format!("{{priority: 1, subject: {{namespaces: {{}}}}, egress: [{rule}]}}"),
    )
}

fn cnp(rule: &str) -> String {
    admin_policy(
        "ClusterNetworkPolicy",
        &format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{rule}]}}"),
    )
}

/// Field, then a part of the problem.
type Case = (String, &'static str, &'static str);

fn all_of(cases: &[Case], object: &str, kind: Kind, id: &NamespacedName) {
    for (text, field, problem) in cases {
        let refused = refused(text);
        assert!(
            refused.object.starts_with(&format!("{object} (")) && refused.object.ends_with(":1)"),
            "{}\n{text}",
            refused.object
        );
        assert_eq!((refused.key.kind, &refused.key.id), (kind, id), "{text}");
        let (told, rest) = refused.reason.split_once(": ").unwrap();
        assert_eq!(told, *field, "{}\n{text}", refused.reason);
        let (what, remedy) = rest.split_once("; ").unwrap();
        assert!(what.contains(problem), "{what} ({problem})\n{text}");
        assert!(!remedy.is_empty(), "no remedy: {text}");
    }
}

#[test]
fn network_policies_that_no_server_takes() {
    let expression =
        |text: &str| policy(&format!("{{podSelector: {{matchExpressions: [{text}]}}}}"));
    let port = |text: &str| ingress(&format!("{{ports: [{text}]}}"));
    let from = |text: &str| ingress(&format!("{{from: [{text}]}}"));
    let block = |text: &str| from(&format!("{{ipBlock: {text}}}"));
    const FROM: &str = "spec.ingress[0].from[0]";
    const VALUES: &str = "spec.podSelector.matchExpressions[0].values";
    let cases: Vec<Case> = vec![
        (from("{}"), FROM, "the peer is empty"),
        (from("null"), FROM, "the peer is empty"),
        (
            from("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}"),
            FROM,
            "ipBlock and a selector",
        ),
        (
            block("{cidr: 10.0.0.0}"),
            "spec.ingress[0].from[0].ipBlock.cidr",
            "no CIDR",
        ),
        (
            block("{cidr: 10.0.0.0/33}"),
            "spec.ingress[0].from[0].ipBlock.cidr",
            "too long",
        ),
        (
            block("{cidr: 010.0.0.0/8}"),
            "spec.ingress[0].from[0].ipBlock.cidr",
            "no CIDR",
        ),
        (
            block("{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}"),
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "strict subset",
        ),
        (
            block("{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}"),
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "strict subset",
        ),
        (
            port("{endPort: 9}"),
            "spec.ingress[0].ports[0].endPort",
            "without port",
        ),
        (
            port("{port: web, endPort: 9}"),
            "spec.ingress[0].ports[0].endPort",
            "named port",
        ),
        (
            port("{port: 10, endPort: 9}"),
            "spec.ingress[0].ports[0].endPort",
            "less than",
        ),
        (
            port("{port: 10, endPort: 65536}"),
            "spec.ingress[0].ports[0].endPort",
            "no port number",
        ),
        (
            port("{port: 0}"),
            "spec.ingress[0].ports[0].port",
            "no port number",
        ),
        (
            port("{port: 65536}"),
            "spec.ingress[0].ports[0].port",
            "no port number",
        ),
        (
            port("{port: -1}"),
            "spec.ingress[0].ports[0].port",
            "no port number",
        ),
        (
            port("{port: \"80\"}"),
            "spec.ingress[0].ports[0].port",
            "no port name",
        ),
        (
            port("{port: under_score}"),
            "spec.ingress[0].ports[0].port",
            "no port name",
        ),
        (
            port("{port: 1.5}"),
            "spec.ingress[0].ports[0].port",
            "invalid type",
        ),
        (
            port("{port: 80, protocol: tcp}"),
            "spec.ingress[0].ports[0].protocol",
            "no protocol",
        ),
        (
            port("{port: 80, protocol: ICMP}"),
            "spec.ingress[0].ports[0].protocol",
            "no protocol",
        ),
        (
            policy("{podSelector: {}, policyTypes: [ingress]}"),
            "spec.policyTypes[0]",
            "no policy type",
        ),
        (
            policy("{podSelector: {}, policyTypes: [Ingress, Egress, Ingress]}"),
            "spec.policyTypes",
            "3 policy types",
        ),
        (
            expression("{key: a, operator: Equals, values: [b]}"),
            "spec.podSelector.matchExpressions[0].operator",
            "no operator",
        ),
        (expression("{key: a, operator: In}"), VALUES, "no values"),
        (
            expression("{key: a, operator: NotIn, values: []}"),
            VALUES,
            "no values",
        ),
        (
            expression("{key: a, operator: Exists, values: [b]}"),
            VALUES,
            "takes no values",
        ),
        (
            expression("{key: a, operator: DoesNotExist, values: [b]}"),
            VALUES,
            "takes no values",
        ),
        (
            policy("{podSelector: {matchLabels: {app: a b}}}"),
            "spec.podSelector.matchLabels[app]",
            "no label value",
        ),
        (
            policy("{podSelector: {matchLabels: {a b: c}}}"),
            "spec.podSelector.matchLabels",
            "no label key",
        ),
        (
            policy("{podSelector: 7}"),
            "spec.podSelector",
            "invalid type: integer `7`",
        ),
        (policy("[]"), "spec", "invalid"),
        (
            policy("{podSelector: {matchLabels: {a: 1}}}"),
            "spec.podSelector.matchLabels.a",
            "invalid type: integer `1`, expected a string",
        ),
        // Slips of the pen.
        (
            policy("{podSelecter: {}}"),
            "spec.podSelecter",
            "no such field",
        ),
        (
            ingress("{port: [{port: 80}]}"),
            "spec.ingress[0].port",
            "no such field",
        ),
        (
            ingress("{to: [{podSelector: {}}]}"),
            "spec.ingress[0].to",
            "no such field",
        ),
        (
            from("{podSelector: {app: web}}"),
            "spec.ingress[0].from[0].podSelector.app",
            "no such",
        ),
        (
            from("{ipBlock: {cidr: 10.0.0.0/8, excepts: []}}"),
            "spec.ingress[0].from[0].ipBlock.excepts",
            "no such",
        ),
        (
            policy("{podSelector: {}}").replace("spec:", "podSelector: {}\nspec:"),
            "podSelector",
            "no such field",
        ),
        (
            policy("{podSelector: {}}").replace("name: p,", "name: p, label: {a: b},"),
            "metadata.label",
            "no such field",
        ),
    ];
    let id = NamespacedName::new("shop", "p");
    all_of(&cases, "NetworkPolicy shop/p", Kind::NetworkPolicy, &id);
}

#[test]
fn a_slip_of_the_pen_is_answered_with_what_was_meant() {
    for (text, remedy) in [
        (policy("{podSelecter: {}}"), "did you mean podSelector?"),
        (ingress("{port: []}"), "did you mean ports?"),
        (ingress("{From: []}"), "did you mean from?"),
        (ingress("{ports: [{endport: 9}]}"), "did you mean endPort?"),
        (ingress("{to: []}"), "remove it; there may be from, ports"),
    ] {
        let reason = refused(&text).reason;
        assert!(reason.ends_with(remedy), "{reason}");
    }
}

#[test]
fn every_fault_of_an_object_is_named_up_to_ten() {
    let reason = refused(&policy(
        "{podSelector: {}, policyTypes: [Out], ingress: [{from: [{}, {podSelector: {}}], ports: [{port: 0}]}, {from: [{}]}]}",
    ))
    .reason;
    let fields: Vec<&str> = reason
        .split(". Also ")
        .filter_map(|fault| fault.split(": ").next())
        .collect();
    assert_eq!(
        fields,
        [
            "spec.ingress[0].from[0]",
            "spec.ingress[0].ports[0].port",
            "spec.ingress[1].from[0]",
            "spec.policyTypes[0]"
        ]
    );
    let many = vec!["{port: 0}"; 1000].join(",");
    let reason = refused(&ingress(&format!("{{ports: [{many}]}}"))).reason;
    assert_eq!(reason.split(". Also ").count(), 10);
    let reason = refused(&admin_policy(
        "ClusterNetworkPolicy",
        "{tier: x, priority: 2000, subject: {}, egress: [{action: no, to: [{}]}]}",
    ))
    .reason;
    assert_eq!(reason.split(". Also ").count(), 3, "{reason}");
}

#[test]
fn of_two_objects_of_one_name_the_first_counts() {
    let good = policy("{podSelector: {}}");
    for second in [good.clone(), policy("{podSelector: {matchLabels: {a: b}}}")] {
        let view = view(&format!("{good}---\n{second}"));
        let held: Vec<_> = view.snapshot.policies().collect();
        assert!(held.len() == 1 && held[0].pod_selector.match_labels.is_empty());
        let again = &view.refused[0];
        assert_eq!(again.key.id, NamespacedName::new("shop", "p"));
        assert!(
            again.object.starts_with("NetworkPolicy shop/p ("),
            "{}",
            again.object
        );
        assert!(
            again.reason.starts_with("defined twice: the one at "),
            "{}",
            again.reason
        );
        assert!(
            again.reason.contains(":1 counts; remove one"),
            "{}",
            again.reason
        );
    }
    // The first counts even if it is refused itself.
    let bad = policy("{podSelector: 7}");
    let view = view(&format!("{bad}---\n{good}"));
    assert_eq!(
        (view.snapshot.policies().count(), view.refused.len()),
        (0, 2)
    );
}

#[test]
fn versions_that_no_server_has_are_named_with_the_one_to_write() {
    for (api, kind, write) in [
        (
            "extensions/v1beta1",
            "NetworkPolicy",
            "networking.k8s.io/v1",
        ),
        ("extensions/v1beta1", "Deployment", "apps/v1"),
        ("batch/v1beta1", "CronJob", "batch/v1"),
        (
            "policy.networking.k8s.io/v1alpha2",
            "AdminNetworkPolicy",
            "v1alpha1",
        ),
        (
            "policy.networking.k8s.io/v1alpha1",
            "ClusterNetworkPolicy",
            "v1alpha2",
        ),
        (
            "projectcalico.org/v1",
            "GlobalNetworkPolicy",
            "projectcalico.org/v3",
        ),
    ] {
        let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\n");
        let refused = refused(&text);
        assert!(
            refused.reason.starts_with("apiVersion: ") && refused.reason.ends_with(write),
            "{}",
            refused.reason
        );
    }
}
