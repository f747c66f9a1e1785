//! What of a manifest is looked at. The rest is dropped before it is typed: a pod template's
//! `cpu: 1`, which kubectl takes and the generated types do not, is no reason to refuse a pod.

use serde_json::{Map, Value};

/// Leaves of `object` what the engine reads.
pub(super) fn slim(kind: &str, object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
        meta.remove("annotations");
    }
    match kind {
        "Pod" => {
            keep(
                object.get_mut("spec"),
                &["nodeName", "hostNetwork", "containers", "initContainers"],
            );
            for list in ["containers", "initContainers"] {
                let containers = object
                    .pointer_mut(&format!("/spec/{list}"))
                    .and_then(Value::as_array_mut);
                for container in containers.into_iter().flatten() {
                    keep(Some(container), &["name", "ports", "restartPolicy"]);
                }
            }
            keep(object.get_mut("status"), &["phase", "podIP", "podIPs"]);
        }
        "Node" => {
            keep(object.get_mut("spec"), &["podCIDR", "podCIDRs"]);
            keep(object.get_mut("status"), &["addresses"]);
        }
        _ => {}
    }
}

fn keep(value: Option<&mut Value>, fields: &[&str]) {
    if let Some(Value::Object(map)) = value {
        let kept: Map<String, Value> = std::mem::take(map)
            .into_iter()
            .filter(|(field, _)| fields.contains(&field.as_str()))
            .collect();
        *map = kept;
    }
}
