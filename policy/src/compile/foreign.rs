//! Cilium's and Calico's own policies: whom they may select and what they may do, never what they mean.
//!
//! A field that is not understood widens the answer. Saying too little of such a policy would make us accuse an enforcer
//! that obeys it.

use std::sync::Arc;

use serde_json::Value;

use super::calico_selector;
use super::json::{metadata, object};
use super::path::Path;
use super::{Refusal, id_of, labels_of, name_of, subject, uid_of, validate};
use crate::model::NAMESPACE_NAME_LABEL;
use crate::model::{
    ForeignEffect, ForeignKind, ForeignPolicy, ForeignScope, NamespacedName, Requirement, Selector,
};

/// Converts a policy of a CNI's own API.
pub(super) fn foreign_policy(kind: ForeignKind, value: &Value) -> Result<ForeignPolicy, Refusal> {
    let name = kind.kind().name();
    let namespaced = matches!(
        kind,
        ForeignKind::CiliumNetworkPolicy | ForeignKind::CalicoNetworkPolicy
    );
    let lenient = super::admin::named(name, value).unwrap_or_else(|| name.to_owned());
    let meta = metadata(value, &Path::of(&lenient))?;
    let object_name = subject(name, &meta, namespaced);
    let root = Path::of(&object_name);
    object(value, &root)?;
    let id = if namespaced {
        id_of(&meta, &root)?
    } else {
        let name = name_of(&meta, &root)?;
        let metadata = root.field("metadata");
        validate::dns_subdomain(&name, &metadata.field("name"))?;
        NamespacedName::new("", name)
    };
    labels_of(&meta, &root)?;
    for field in ["spec", "specs"] {
        let path = root.field(field);
        match value.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::Array(specs)) if field == "specs" => {
                for (index, spec) in specs.iter().enumerate() {
                    object(spec, &path.index(index))?;
                }
            }
            Some(_) if field == "specs" => {
                return Err(path.refuse("it is no list", "write a list of specs"));
            }
            Some(spec) => {
                object(spec, &path)?;
            }
        }
    }
    let mut parts = match kind {
        ForeignKind::CiliumNetworkPolicy | ForeignKind::CiliumClusterwideNetworkPolicy => {
            let list = value.get("specs").and_then(Value::as_array);
            let specs = value.get("spec").into_iter();
            specs
                .chain(list.into_iter().flatten())
                .filter_map(|spec| cilium(spec, namespaced))
                .collect::<Vec<_>>()
                .into_iter()
        }
        ForeignKind::CalicoNetworkPolicy | ForeignKind::CalicoGlobalNetworkPolicy => {
            let spec = value.get("spec").unwrap_or(&Value::Null);
            vec![calico(spec, namespaced)].into_iter()
        }
    };
    let nothing = Part {
        scope: ForeignScope {
            own_namespace: namespaced,
            namespaces: None,
            pods: None,
        },
        ingress: ForeignEffect::default(),
        egress: ForeignEffect::default(),
    };
    let first = parts.next().unwrap_or(nothing);
    let Part {
        scope,
        ingress,
        egress,
    } = parts.fold(first, |one, other| one.or(&other));
    Ok(ForeignPolicy {
        kind,
        uid: uid_of(name, &meta, &id),
        id,
        scope,
        ingress,
        egress,
    })
}

/// One spec.
struct Part {
    scope: ForeignScope,
    ingress: ForeignEffect,
    egress: ForeignEffect,
}

impl Part {
    /// What either may do to whom either may select.
    fn or(self, other: &Self) -> Self {
        let both = |one: ForeignEffect, other: ForeignEffect| ForeignEffect {
            may_admit: one.may_admit || other.may_admit,
            may_block: one.may_block || other.may_block,
        };
        let equal = self.scope == other.scope;
        Self {
            scope: ForeignScope {
                own_namespace: self.scope.own_namespace && other.scope.own_namespace,
                namespaces: self.scope.namespaces.filter(|_| equal),
                pods: self.scope.pods.filter(|_| equal),
            },
            ingress: both(self.ingress, other.ingress),
            egress: both(self.egress, other.egress),
        }
    }
}

/// `Some` if it says anything.
pub(super) fn selecting(requirements: Vec<Requirement>) -> Option<Selector> {
    (!requirements.is_empty()).then(|| Selector {
        match_labels: Default::default(),
        match_expressions: requirements,
    })
}

/// A spec of Cilium's; `None` if it selects nodes, not pods.
fn cilium(spec: &Value, namespaced: bool) -> Option<Part> {
    let of = |name: &str| spec.get(name).filter(|value| !value.is_null());
    if of("endpointSelector").is_none() && of("nodeSelector").is_some() {
        return None;
    }
    let (mut namespaces, mut pods) = (Vec::new(), Vec::new());
    let selector = of("endpointSelector");
    let part = |name: &str| selector.and_then(|selector| selector.get(name));
    for (key, value) in part("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if let Some(value) = value.as_str() {
            let values = vec![Arc::from(value)];
            put(
                key,
                |key| Requirement::In(key, values),
                &mut namespaces,
                &mut pods,
            );
        }
    }
    for expression in part("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |name: &str| expression.get(name).and_then(Value::as_str);
        let (Some(key), Some(operator)) = (word("key"), word("operator")) else {
            continue;
        };
        let values = expression.get("values").and_then(Value::as_array);
        let values: Vec<Arc<str>> = values
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_str().map(Arc::from))
            .collect();
        let requirement: Box<dyn FnOnce(Arc<str>) -> Requirement> = match operator {
            "In" => Box::new(|key| Requirement::In(key, values)),
            "NotIn" => Box::new(|key| Requirement::NotIn(key, values)),
            "Exists" => Box::new(Requirement::Exists),
            "DoesNotExist" => Box::new(Requirement::DoesNotExist),
            _ => continue,
        };
        put(key, requirement, &mut namespaces, &mut pods);
    }
    // A namespaced policy selects in its own namespace whatever it says of others.
    let namespaces = if namespaced {
        None
    } else {
        selecting(namespaces)
    };
    let default_deny = |direction: &str| of("enableDefaultDeny").and_then(|of| of.get(direction));
    let effect = |allows: &str, denies: &str, direction: &str| {
        let isolates = default_deny(direction) != Some(&Value::Bool(false));
        ForeignEffect {
            may_admit: of(allows).is_some_and(|rules| match rules {
                Value::Array(rules) => rules.iter().any(says_something),
                _ => true,
            }),
            may_block: (of(allows).is_some() && isolates)
                || of(denies).is_some()
                || default_deny(direction) == Some(&Value::Bool(true)),
        }
    };
    Some(Part {
        scope: ForeignScope {
            own_namespace: namespaced,
            namespaces,
            pods: selecting(pods),
        },
        ingress: effect("ingress", "ingressDeny", "ingress"),
        egress: effect("egress", "egressDeny", "egress"),
    })
}

/// An allow rule without any field lets nothing in: `- {}` is Cilium's default deny.
fn says_something(rule: &Value) -> bool {
    match rule {
        Value::Object(fields) => fields.values().any(|value| !value.is_null()),
        Value::Null => false,
        _ => true,
    }
}

/// Sorts a requirement on one of Cilium's labels. One from another source than Kubernetes' labels is dropped.
fn put(
    key: &str,
    requirement: impl FnOnce(Arc<str>) -> Requirement,
    namespaces: &mut Vec<Requirement>,
    pods: &mut Vec<Requirement>,
) {
    let name = match key.split_once(':') {
        None => key,
        Some(("k8s" | "any", name)) => name,
        Some(_) => return,
    };
    if name == "io.kubernetes.pod.namespace" {
        namespaces.push(requirement(Arc::from(NAMESPACE_NAME_LABEL)));
    } else if let Some(label) = name.strip_prefix("io.cilium.k8s.namespace.labels.") {
        namespaces.push(requirement(Arc::from(label)));
    } else if !name.starts_with("io.cilium.") && !name.starts_with("io.kubernetes.") {
        pods.push(requirement(Arc::from(name)));
    }
}

fn calico(spec: &Value, namespaced: bool) -> Part {
    let words = |name: &str| spec.get(name).and_then(Value::as_str).unwrap_or_default();
    let (mut namespaces, pods) = calico_selector::pods(words("selector"));
    if !namespaced {
        namespaces.extend(calico_selector::namespaces(words("namespaceSelector")));
    }
    let rules = |name: &str| match spec.get(name) {
        None | Some(Value::Null) => None,
        Some(rules) => Some(rules),
    };
    let named = |word: &str| match spec.get("types").and_then(Value::as_array) {
        // What Calico fills in: the directions that have rules, or ingress if none has.
        None => match word {
            "Ingress" => rules("ingress").is_some() || rules("egress").is_none(),
            _ => rules("egress").is_some(),
        },
        Some(types) => types.iter().any(|of| of.as_str() == Some(word)),
    };
    let effect = |word: &str, name: &str| {
        let allows = |rule: &Value| {
            !matches!(
                rule.get("action").and_then(Value::as_str),
                Some("Deny" | "Log")
            )
        };
        ForeignEffect {
            may_admit: named(word)
                && rules(name).is_some_and(|rules| match rules {
                    Value::Array(rules) => rules.iter().any(allows),
                    _ => true,
                }),
            may_block: named(word),
        }
    };
    Part {
        scope: ForeignScope {
            own_namespace: namespaced,
            namespaces: if namespaced {
                None
            } else {
                selecting(namespaces)
            },
            pods: selecting(pods),
        },
        ingress: effect("Ingress", "ingress"),
        egress: effect("Egress", "egress"),
    }
}
