//! What of a manifest is looked at. The rest is dropped before it is typed: a pod template's
//! `cpu: 1`, which kubectl takes and the generated types do not, is no reason to refuse a pod.

use serde_json::{Map, Value};

/// Leaves of `object` what the engine reads.
pub(super) fn slim(kind: &str, object: &mut Value) {
    absent(object);
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
        // Only ours: kubectl's copy of what was last applied is as large as the object.
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.retain(|key, value| key.starts_with("polproof.io/") && value.is_string());
        }
    }
    match kind {
        "Pod" => {
            keep_in(
                object,
                "spec",
                &["nodeName", "hostNetwork", "containers", "initContainers"],
            );
            for list in ["containers", "initContainers"] {
                let containers = object
                    .pointer_mut(&format!("/spec/{list}"))
                    .and_then(Value::as_array_mut);
                for container in containers.into_iter().flatten() {
                    keep(container, &["name", "ports", "restartPolicy"]);
                }
            }
            keep_in(object, "status", &["phase", "podIP", "podIPs"]);
        }
        "Node" => {
            keep_in(object, "spec", &["podCIDR", "podCIDRs"]);
            keep_in(object, "status", &["addresses"]);
        }
        _ => {}
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
                    Value::Object(labels) if name == "labels" || name == "matchLabels" => {
                        for label in labels.values_mut().filter(|label| label.is_null()) {
                            *label = Value::String(String::new());
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
        let kept: Map<String, Value> = std::mem::take(map)
            .into_iter()
            .filter(|(field, _)| fields.contains(&field.as_str()))
            .collect();
        *map = kept;
    }
}
