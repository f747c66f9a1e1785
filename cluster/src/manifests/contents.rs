//! The objects of a set of manifests, by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polproof_policy::compile::{self, OptionalKind};
use polproof_policy::model::{Labels, Namespace};
use polproof_policy::{Key, Kind, NamespacedName, Object, Uid};

use serde_json::Value;

use super::Ignored;
use crate::Refused;
use crate::object::{Compiled, Watched, compile_object, key_of};

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) objects: BTreeMap<Kind, Vec<Compiled>>,
    pub(super) ignored: Ignored,
    /// Where each name was first defined.
    seen: BTreeMap<(Kind, NamespacedName), String>,
}

impl Contents {
    /// Adds an object that was found at `origin` (file and line).
    pub(super) fn add<K: Watched>(&mut self, object: &K, origin: &str) {
        let compile = || compile_object(object, Some(origin));
        self.put(key_of(object), &K::kind(&()), origin, compile);
    }

    /// Adds an object of a kind that only some clusters serve.
    pub(super) fn add_optional(&mut self, kind: &OptionalKind, value: &Value, origin: &str) {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        let namespace = match text("/metadata/namespace") {
            _ if !kind.namespaced => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let key = Key {
            kind: kind.kind,
            id: NamespacedName::new(namespace, text("/metadata/name").unwrap_or_default()),
            uid: Uid(Arc::from(text("/metadata/uid").unwrap_or_default())),
        };
        let again = key.clone();
        self.put(key, kind.kind.name(), origin, || {
            match compile::optional(kind.kind, value) {
                Ok(object) => Compiled::Sound(object),
                Err(refusal) => Compiled::Refused(
                    again.clone(),
                    Refused {
                        key: again,
                        object: format!("{} ({origin})", refusal.object),
                        reason: format!(
                            "{}: {}; {}",
                            refusal.field, refusal.problem, refusal.remedy
                        ),
                    },
                ),
            }
        });
    }

    fn put(
        &mut self,
        mut key: Key,
        kind_name: &str,
        origin: &str,
        compile: impl FnOnce() -> Compiled,
    ) {
        let kind = key.kind;
        if key.id.name.is_empty() {
            // It will be refused; several such must not hide one another.
            key.id.name = Arc::from(origin);
        }
        let first = self.seen.get(&(key.kind, key.id.clone()));
        let compiled = match first {
            Some(first) => {
                let reason =
                    format!("defined twice: the one at {first} counts; remove one of the two");
                let object = format!("{kind_name} {} ({origin})", shown(&key.id));
                // A key of its own, for the first definition may be refused too.
                key.id.name = Arc::from(format!("{} ({origin})", key.id.name));
                Compiled::Refused(
                    key.clone(),
                    Refused {
                        key,
                        object,
                        reason,
                    },
                )
            }
            None => {
                self.seen
                    .insert((key.kind, key.id.clone()), origin.to_owned());
                match compile() {
                    Compiled::Refused(_, refused) => {
                        Compiled::Refused(key.clone(), Refused { key, ..refused })
                    }
                    sound @ Compiled::Sound(_) => sound,
                }
            }
        };
        self.objects.entry(kind).or_default().push(compiled);
    }

    /// Adds the refusal of something that could not become an object of a kind. `object` says where it stands,
    /// so that no two hide one another; it is the name in the key.
    pub(super) fn refuse(&mut self, kind: Kind, namespace: &str, object: String, reason: String) {
        let key = Key {
            kind,
            id: NamespacedName::new(namespace, object.as_str()),
            uid: Uid(Arc::from("")),
        };
        self.objects
            .entry(kind)
            .or_default()
            .push(Compiled::Refused(
                key.clone(),
                Refused {
                    key,
                    object,
                    reason,
                },
            ));
    }

    /// Counts an object of a kind that the engine does not know.
    pub(super) fn ignore(&mut self, kind: &str) {
        *self.ignored.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds the namespaces that objects lie in and that no manifest defines: a cluster has them, with
    /// the one label that every namespace has.
    pub(super) fn complete(&mut self) {
        let sound = self
            .objects
            .values()
            .flatten()
            .filter_map(|object| match object {
                Compiled::Sound(object) => Some(object.key()),
                Compiled::Refused(..) => None,
            });
        let mut defined = BTreeSet::new();
        let mut used = BTreeSet::new();
        for key in sound {
            if key.kind == Kind::Namespace {
                defined.insert(key.id.name);
            } else if !key.id.namespace.is_empty() {
                used.insert(key.id.namespace);
            }
        }
        let missing = used.difference(&defined).map(|name| {
            Compiled::Sound(Object::Namespace(Arc::new(Namespace {
                name: Arc::clone(name),
                uid: Uid(Arc::from(format!("Namespace/{name}"))),
                labels: Labels::from([(
                    Arc::from("kubernetes.io/metadata.name"),
                    Arc::clone(name),
                )]),
                annotations: Default::default(),
            })))
        });
        self.objects
            .entry(Kind::Namespace)
            .or_default()
            .extend(missing);
    }
}

fn shown(id: &NamespacedName) -> String {
    if id.namespace.is_empty() {
        id.name.to_string()
    } else {
        id.to_string()
    }
}
