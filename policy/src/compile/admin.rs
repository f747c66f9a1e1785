//! AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1), ClusterNetworkPolicy (v1alpha2) of
//! policy.networking.k8s.io.
//!
//! The bounds and rules are those of the CRDs' schemas (v0.1.7 and v0.2.0, experimental channel). Where a schema leaves a
//! word open (a protocol, an operator of a selector), what no implementation can mean anything by is refused, too.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::admin_rule::rules;
use super::json::{get, integer, metadata, object, required, selector, text};
use super::path::Path;
use super::{Faults, Refusal, annotations_of, labels_of, name_of, subject, uid_of, validate};
use crate::model::{AdminKind, AdminPolicy, Direction, NamespacedName, Selector, Subject, Tier};

/// In what the kinds differ.
pub(super) struct Api {
    pub(super) kind: AdminKind,
    /// The words of `action`; the first allows.
    pub(super) actions: &'static [&'static str],
    /// At most so many rules a direction, peers a rule and ports a rule.
    pub(super) most: usize,
    /// The field that holds the ports of a rule.
    pub(super) ports: &'static str,
    /// Whether `pods` may leave `namespaceSelector` out.
    pub(super) any_namespace: bool,
    /// The fields of which a peer of `to` has one.
    pub(super) to: &'static [&'static str],
}

/// The fields of which a peer of `from` has one.
pub(super) const FROM: &[&str] = &["namespaces", "pods"];
const TO: &[&str] = &["namespaces", "pods", "nodes", "networks", "domainNames"];

pub(super) static ADMIN: Api = Api {
    kind: AdminKind::AdminNetworkPolicy,
    actions: &["Allow", "Deny", "Pass"],
    most: 100,
    ports: "ports",
    any_namespace: false,
    to: TO,
};
pub(super) static BASELINE: Api = Api {
    kind: AdminKind::BaselineAdminNetworkPolicy,
    actions: &["Allow", "Deny"],
    most: 100,
    ports: "ports",
    any_namespace: false,
    to: &["namespaces", "pods", "nodes", "networks"],
};
pub(super) static CLUSTER: Api = Api {
    kind: AdminKind::ClusterNetworkPolicy,
    actions: &["Accept", "Deny", "Pass"],
    most: 25,
    ports: "protocols",
    any_namespace: true,
    to: TO,
};

/// Converts a policy of the admin or baseline tier.
pub(super) fn admin_policy(api: &Api, value: &Value) -> Result<AdminPolicy, Refusal> {
    let kind = api.kind.kind().name();
    let nameless = subject(kind, &Default::default(), false);
    let meta = metadata(value, &Path::of(&named(kind, value).unwrap_or(nameless)))?;
    let object_name = subject(kind, &meta, false);
    let root = Path::of(&object_name);
    object(value, &root)?;
    let name = name_of(&meta, &root)?;
    let name_path = root.field("metadata");
    let name_path = name_path.field("name");
    validate::dns_subdomain(&name, &name_path)?;
    if api.kind == AdminKind::BaselineAdminNetworkPolicy && &*name != "default" {
        return Err(name_path.refuse(
            format!("it is {name:?}; a cluster has one BaselineAdminNetworkPolicy"),
            "name it default",
        ));
    }
    labels_of(&meta, &root)?;
    let path = root.field("spec");
    let spec = match value.get("spec") {
        None | Some(Value::Null) => return Err(path.refuse("it is missing", "write a spec")),
        Some(spec) => object(spec, &path)?,
    };
    let mut faults = Faults::default();
    let (tier, priority) = faults
        .take(precedence(api, spec, &path))
        .unwrap_or((Tier::Admin, 0));
    let subject = required(spec, "subject", &path)
        .and_then(|given| policy_subject(api, given, &path.field("subject")));
    let subject = faults.take(subject);
    let ingress = faults.take(rules(api, Direction::Ingress, spec, &path));
    let egress = faults.take(rules(api, Direction::Egress, spec, &path));
    let id = NamespacedName::new("", Arc::clone(&name));
    faults.or(AdminPolicy {
        kind: api.kind,
        uid: uid_of(kind, &meta, &id),
        name,
        generation: meta.generation.unwrap_or(0),
        tier,
        priority,
        subject: subject.unwrap_or_else(|| Subject::Namespaces(Selector::default())),
        ingress: ingress.unwrap_or_default(),
        egress: egress.unwrap_or_default(),
        annotations: annotations_of(&meta),
    })
}

/// The object's name for an error in its metadata.
pub(super) fn named(kind: &str, value: &Value) -> Option<String> {
    let of = |field| value.pointer(field).and_then(Value::as_str);
    let name = of("/metadata/name")?;
    Some(match of("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    })
}

fn precedence(
    api: &Api,
    spec: &Map<String, Value>,
    path: &Path<'_>,
) -> Result<(Tier, u16), Refusal> {
    let tier = match api.kind {
        AdminKind::AdminNetworkPolicy => Tier::Admin,
        AdminKind::BaselineAdminNetworkPolicy => return Ok((Tier::Baseline, 0)),
        AdminKind::ClusterNetworkPolicy => {
            let given = required(spec, "tier", path)?;
            let path = path.field("tier");
            match text(given, &path)? {
                "Admin" => Tier::Admin,
                "Baseline" => Tier::Baseline,
                other => {
                    return Err(path.refuse(
                        format!("{other:?} is no tier"),
                        "use Admin or Baseline, spelt like that",
                    ));
                }
            }
        }
    };
    let given = required(spec, "priority", path)?;
    let path = path.field("priority");
    let priority = integer(given, &path)?;
    match u16::try_from(priority) {
        Ok(priority @ 0..=1000) => Ok((tier, priority)),
        _ => Err(path.refuse(
            format!("{priority} is no priority"),
            "use a number from 0 (goes first) to 1000",
        )),
    }
}

fn policy_subject(api: &Api, given: &Value, path: &Path<'_>) -> Result<Subject, Refusal> {
    let (field, given) = only(object(given, path)?, FROM, path)?;
    match field {
        "namespaces" => Ok(Subject::Namespaces(selector(given, &path.field(field))?)),
        "pods" => {
            let (namespaces, pods) = namespaced_pods(api, given, &path.field(field))?;
            Ok(Subject::Pods { namespaces, pods })
        }
        other => Err(path.field(other).refuse(
            "a subject has no such field",
            format!("write one of {}", FROM.join(", ")),
        )),
    }
}

/// `namespaceSelector` and `podSelector`.
pub(super) fn namespaced_pods(
    api: &Api,
    given: &Value,
    path: &Path<'_>,
) -> Result<(Selector, Selector), Refusal> {
    let given = object(given, path)?;
    let of = |name: &'static str| {
        selector(
            required(given, name, path).map_err(|refusal| Refusal {
                remedy: format!("write {name}; '{name}: {{}}' selects all"),
                ..refusal
            })?,
            &path.field(name),
        )
    };
    let namespaces = if api.any_namespace && get(given, "namespaceSelector").is_none() {
        Selector::default()
    } else {
        of("namespaceSelector")?
    };
    Ok((namespaces, of("podSelector")?))
}

/// The one known field of an object that must have one. What stands beside it and is not known is passed over, as a server
/// prunes it; where nothing else is there, the first such field is given.
pub(super) fn only<'v>(
    fields: &'v Map<String, Value>,
    known: &[&str],
    path: &Path<'_>,
) -> Result<(&'v str, &'v Value), Refusal> {
    let there = || fields.iter().filter(|(_, value)| !value.is_null());
    let mut ours = there().filter(|(field, _)| known.contains(&field.as_str()));
    let wanted = || format!("write exactly one of {}", known.join(", "));
    match (ours.next(), ours.next()) {
        (Some((field, value)), None) => Ok((field, value)),
        (Some((one, _)), Some((other, _))) => Err(path.refuse(
            format!("{one} and {other} stand together"),
            format!("{}; make two list items of two", wanted()),
        )),
        (None, _) => there()
            .next()
            .map(|(field, value)| (field.as_str(), value))
            .ok_or_else(|| path.refuse("it has no field", wanted())),
    }
}
