//! What of a manifest is looked at. The rest is dropped before it is typed: a pod template's
//! `cpu: 1`, which kubectl takes and the generated types do not, is no reason to refuse a pod.

use serde_json::{Map, Value};

/// Of the spec of a pod.
const POD: &[&str] = &["nodeName", "hostNetwork", "containers", "initContainers"];
/// Fields that a server writes and no rule looks at.
const SERVERS: &[&str] = &["managedFields", "selfLink", "clusterName"];

/// Leaves of an item of a list what is looked at, as far as the item says what it is. Whether it does.
pub(super) fn slim_item(item: &mut Value) -> bool {
    let word = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(_), Some(kind)) = (word("apiVersion"), word("kind")) else {
        return false;
    };
    drop_unread(&kind, item);
    true
}

/// Leaves of `object` what the engine reads, and writes what the API server makes of a `null`.
pub(super) fn slim(kind: &str, object: &mut Value) {
    absent(object);
    drop_unread(kind, object);
}

fn drop_unread(kind: &str, object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata") {
        slim_meta(meta);
    }
    match kind {
        "Pod" => {
            if let Some(spec) = object.get_mut("spec") {
                slim_pod(spec);
            }
            keep_in(object, "status", &["phase", "podIP", "podIPs"]);
        }
        "Node" => {
            keep_in(object, "spec", &["podCIDR", "podCIDRs"]);
            keep_in(object, "status", &["addresses"]);
        }
        "Service" => keep_in(object, "status", &["loadBalancer"]),
        "Secret" | "ConfigMap" => keep(object, &["apiVersion", "kind"]),
        "CustomResourceDefinition" => keep(object, &["apiVersion", "kind"]),
        "NetworkPolicy" => {
            // Servers before 1.28 had one.
            if let Some(fields) = object.as_object_mut() {
                fields.remove("status");
            }
        }
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => {
            keep_in(object, "spec", &["selector", "template"]);
            keep_in(object, "status", &[]);
            slim_template(object.pointer_mut("/spec/template"));
        }
        "CronJob" => {
            keep_in(object, "spec", &["jobTemplate"]);
            keep_in(object, "status", &[]);
            slim_template(object.pointer_mut("/spec/jobTemplate/spec/template"));
        }
        _ => {}
    }
}

fn slim_template(template: Option<&mut Value>) {
    if let Some(template) = template {
        if let Some(meta) = template.get_mut("metadata") {
            slim_meta(meta);
        }
        if let Some(spec) = template.get_mut("spec") {
            slim_pod(spec);
        }
    }
}

/// Of the annotations, ours are kept.
fn slim_meta(meta: &mut Value) {
    if let Some(meta) = meta.as_object_mut() {
        for field in SERVERS {
            meta.remove(*field);
        }
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.retain(|key, _| key.starts_with("polproof.io/"));
        }
    }
}

fn slim_pod(spec: &mut Value) {
    keep(spec, POD);
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            keep(container, &["name", "ports", "restartPolicy"]);
        }
    }
}

/// Writes what the API server makes of a `null` where the generated types take none: an entry of a
/// list becomes the empty object, a label's value the empty string. Elsewhere `null` is absence.
fn absent(value: &mut Value) {
    match value {
        Value::Array(entries) => {
            for entry in entries {
                if entry.is_null() {
                    *entry = Value::Object(Map::new());
                } else {
                    absent(entry);
                }
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Object(pairs)
                        if name == "labels" || name == "matchLabels" || name == "annotations" =>
                    {
                        for value in pairs.values_mut().filter(|value| value.is_null()) {
                            *value = Value::String(String::new());
                        }
                    }
                    Value::Array(texts)
                        if name == "values" || name == "except" || name == "policyTypes" =>
                    {
                        for text in texts.iter_mut().filter(|text| text.is_null()) {
                            *text = Value::String(String::new());
                        }
                    }
                    other => absent(other),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn keep_in(object: &mut Value, part: &str, fields: &[&str]) {
    if let Some(part) = object.get_mut(part) {
        keep(part, fields);
    }
}

fn keep(value: &mut Value, fields: &[&str]) {
    if let Value::Object(map) = value {
        map.retain(|field, _| fields.contains(&field.as_str()));
    }
}
