//! The default-deny as a Kyverno generate rule (kyverno.io/v1 ClusterPolicy), so that namespaces of tomorrow have it, too.

use std::collections::BTreeSet;

use polproof_policy::remedy::Choice;
use serde_json::{Value, json};

use crate::failure::Failure;

/// The policy, as YAML.
pub(super) fn policy(choice: &Choice) -> Result<String, Failure> {
    let mut rules = vec![rule("default-deny", choice, &default_deny(choice.egress))];
    if choice.egress {
        rules.push(rule("allow-dns", choice, &allow_dns()));
    }
    let policy = json!({
        "apiVersion": "kyverno.io/v1",
        "kind": "ClusterPolicy",
        "metadata": {
            "name": "default-deny",
            "annotations": {
                "policies.kyverno.io/title": "Default deny for every namespace",
                "policies.kyverno.io/subject": "Namespace, NetworkPolicy",
                "policies.kyverno.io/description":
                    "Every namespace, also one that is there already, gets a NetworkPolicy that denies what no other allows.",
            },
        },
        "spec": {"rules": rules},
    });
    let yaml = serde_saphyr::to_string(&policy)
        .map_err(|error| Failure::usage(format!("cannot write YAML: {error}")))?;
    Ok(format!(
        "# Kyverno's background controller needs the right to create and change NetworkPolicies (its documentation: Generate rules).\n\
         # To begin with some namespaces only, give the match a namespaceSelector.\n{yaml}"
    ))
}

fn rule(name: &str, choice: &Choice, spec: &Value) -> Value {
    let mut rule = json!({
        "name": name,
        "match": {"any": [{"resources": namespaces(&choice.namespaces)}]},
        "generate": {
            "generateExisting": true,
            "synchronize": true,
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "name": name,
            "namespace": "{{request.object.metadata.name}}",
            "data": {"spec": spec},
        },
    });
    if let Some(rule) = rule.as_object_mut()
        && !choice.leave.is_empty()
    {
        let exclude = json!({"any": [{"resources": namespaces(&choice.leave)}]});
        rule.insert("exclude".to_owned(), exclude);
    }
    rule
}

/// These namespaces, or every one.
fn namespaces(names: &BTreeSet<String>) -> Value {
    if names.is_empty() {
        json!({"kinds": ["Namespace"]})
    } else {
        json!({"kinds": ["Namespace"], "names": names})
    }
}

fn default_deny(egress: bool) -> Value {
    let types: &[&str] = if egress {
        &["Ingress", "Egress"]
    } else {
        &["Ingress"]
    };
    json!({"podSelector": {}, "policyTypes": types})
}

fn allow_dns() -> Value {
    json!({
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
        }],
    })
}
