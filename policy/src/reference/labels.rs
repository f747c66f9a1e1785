//! Labels and selectors, as the documentation defines them.

use std::sync::Arc;

use crate::model::{Object, Pod, Requirement, Selector};

pub(super) fn of_namespace(objects: &[Object], name: &Arc<str>, key: &str) -> Option<Arc<str>> {
    if key == "kubernetes.io/metadata.name" {
        return Some(Arc::clone(name));
    }
    objects.iter().find_map(|object| match object {
        Object::Namespace(namespace) if namespace.name == *name => {
            namespace.labels.get(key).cloned()
        }
        _ => None,
    })
}

pub(super) fn of_node(objects: &[Object], name: &str, key: &str) -> Option<Arc<str>> {
    objects.iter().find_map(|object| match object {
        Object::Node(node) if &*node.name == name => node.labels.get(key).cloned(),
        _ => None,
    })
}

pub(super) fn of_pod(pod: &Pod, key: &str) -> Option<Arc<str>> {
    pod.labels.get(key).cloned()
}

pub(super) fn selects(selector: &Selector, label: impl Fn(&str) -> Option<Arc<str>>) -> bool {
    for (key, value) in &selector.match_labels {
        if label(key).as_ref() != Some(value) {
            return false;
        }
    }
    for requirement in &selector.match_expressions {
        let met = match requirement {
            Requirement::In(key, values) => match label(key) {
                Some(value) => values.contains(&value),
                None => false,
            },
            Requirement::NotIn(key, values) => match label(key) {
                Some(value) => !values.contains(&value),
                None => true,
            },
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::DoesNotExist(key) => label(key).is_none(),
        };
        if !met {
            return false;
        }
    }
    true
}
