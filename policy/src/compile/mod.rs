//! Kubernetes API types -> model, with the API server's validation.
//!
//! One function a kind. What the API server (1.36) would refuse is refused here too, with the
//! object, the field and what to write instead: evaluating it leniently would answer for a
//! cluster that cannot exist. One thing is taken that only API servers before 1.36 took: an
//! ipBlock with bits set beyond its mask, which such clusters still hold; it is normalised.
//!
//! Objects from files have no UID; `kind/namespace/name` stands in for it. An absent namespace
//! of a namespaced object is `default`, as kubectl would have it.

mod admin;
mod admin_rule;
mod calico_selector;
mod foreign;
mod json;
mod network_policy;
mod optional;
mod path;
mod placement;
mod pod;
mod service;
mod strict;
mod template;
mod validate;

pub use network_policy::network_policy;
pub use optional::{OPTIONAL_KINDS, OptionalKind, optional};
pub use path::short;
pub use placement::{namespace, node};
pub use pod::pod;
pub use service::{endpoint_slice, service};
pub use strict::known_fields;
pub use template::{WORKLOADS, template};

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{Annotations, Labels, NamespacedName, Uid};
use path::Path;

/// An object that cannot be part of a cluster, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {}", self.reason())]
pub struct Refusal {
    /// Kind, namespace and name, such as `NetworkPolicy shop/db`.
    pub object: String,
    /// Path of the field, such as `spec.ingress[0].ports[1].endPort`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
    /// The other faults of the object, as far as they were looked for: the first [`Refusal::MOST`] of them.
    pub more: Vec<Fault>,
}

/// A further fault of an object that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl Refusal {
    /// How many faults of an object are told beyond the first.
    pub const MOST: usize = 9;

    /// Every fault with its field and remedy, without the object's name.
    pub fn reason(&self) -> String {
        let mut text = format!("{}: {}; {}", self.field, self.problem, self.remedy);
        for fault in &self.more {
            text.push_str(&format!(
                ". Also {}: {}; {}",
                fault.field, fault.problem, fault.remedy
            ));
        }
        text
    }
}

/// Gathers the faults of an object's parts, so that one reading names them all.
#[derive(Default)]
struct Faults(Option<Refusal>);

impl Faults {
    /// What is sound; a fault is kept.
    fn take<T>(&mut self, part: Result<T, Refusal>) -> Option<T> {
        match (part, &mut self.0) {
            (Ok(part), _) => Some(part),
            (Err(refusal), None) => {
                self.0 = Some(refusal);
                None
            }
            (Err(refusal), Some(first)) => {
                let fault = Fault {
                    field: refusal.field,
                    problem: refusal.problem,
                    remedy: refusal.remedy,
                };
                first.more.push(fault);
                first.more.extend(refusal.more);
                first.more.truncate(Refusal::MOST);
                None
            }
        }
    }

    /// Whether more are worth looking for.
    fn full(&self) -> bool {
        let found = self.0.as_ref();
        found.is_some_and(|first| first.more.len() >= Refusal::MOST)
    }

    /// The whole, if nothing was wrong.
    fn or<T>(self, whole: T) -> Result<T, Refusal> {
        match self.0 {
            None => Ok(whole),
            Some(refusal) => Err(refusal),
        }
    }

    /// The sound entries of a list.
    fn entries<T, U>(
        &mut self,
        given: impl IntoIterator<Item = T>,
        list: &Path<'_>,
        convert: impl Fn(T, &Path<'_>) -> Result<U, Refusal>,
    ) -> Vec<U> {
        let mut sound = Vec::new();
        for (index, given) in given.into_iter().enumerate() {
            if self.full() {
                break;
            }
            sound.extend(self.take(convert(given, &list.index(index))));
        }
        sound
    }
}

/// `Kind namespace/name` as far as the object says it.
fn subject(kind: &str, meta: &ObjectMeta, namespaced: bool) -> String {
    let name = match (&meta.name, &meta.generate_name) {
        (Some(name), _) => name.as_str(),
        (None, Some(prefix)) => prefix.as_str(),
        (None, None) => "(no name)",
    };
    if namespaced {
        format!("{kind} {}/{name}", namespace_of(meta))
    } else {
        format!("{kind} {name}")
    }
}

fn namespace_of(meta: &ObjectMeta) -> &str {
    match meta.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}

/// `metadata.name`, which every object must have.
fn name_of(meta: &ObjectMeta, root: &Path<'_>) -> Result<Arc<str>, Refusal> {
    match meta.name.as_deref() {
        None | Some("") => Err(root.field("metadata").field("name").refuse(
            "there is no name",
            "write metadata.name; generateName is only good for creating objects",
        )),
        Some(name) => Ok(Arc::from(name)),
    }
}

fn id_of(meta: &ObjectMeta, root: &Path<'_>) -> Result<NamespacedName, Refusal> {
    let metadata = root.field("metadata");
    let name = name_of(meta, root)?;
    validate::dns_subdomain(&name, &metadata.field("name"))?;
    let namespace = namespace_of(meta);
    validate::dns_label(namespace, &metadata.field("namespace"))?;
    Ok(NamespacedName::new(namespace, name))
}

fn uid_of(kind: &str, meta: &ObjectMeta, id: &NamespacedName) -> Uid {
    match meta.uid.as_deref() {
        None | Some("") if id.namespace.is_empty() => Uid(Arc::from(format!("{kind}/{}", id.name))),
        None | Some("") => Uid(Arc::from(format!("{kind}/{id}"))),
        Some(uid) => Uid(Arc::from(uid)),
    }
}

fn labels_of(meta: &ObjectMeta, root: &Path<'_>) -> Result<Labels, Refusal> {
    let metadata = root.field("metadata");
    let labels = metadata.field("labels");
    meta.labels
        .iter()
        .flatten()
        .map(|(key, value)| {
            validate::label_key(key, &labels)?;
            validate::label_value(value, &labels.key(key))?;
            Ok((Arc::from(key.as_str()), Arc::from(value.as_str())))
        })
        .collect()
}

/// The annotations that are ours; the API server puts no bound on their values but the size of the whole.
fn annotations_of(meta: &ObjectMeta) -> Annotations {
    meta.annotations
        .iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("polproof.io/"))
        .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
        .collect()
}
