//! The objects of a set of manifests, by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polproof_policy::compile::{Refusal, short};
use polproof_policy::model::{Labels, Namespace, Pod};
use polproof_policy::{Key, Kind, NamespacedName, Object, Uid};
use serde_json::Value;

use super::Ignored;
use super::place::Place;
use crate::object::Compiled;
use crate::{Origin, Origins, Refused};

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) objects: BTreeMap<Kind, Vec<Compiled>>,
    pub(super) ignored: Ignored,
    pub(super) origins: Origins,
    stand_ins: Vec<StandIn>,
    /// The workloads that were found, by kind and name.
    workloads: BTreeSet<Workload>,
}

/// Namespace, kind and name.
type Workload = (Arc<str>, Arc<str>, Arc<str>);

/// The pod of a workload's template.
#[derive(Debug)]
struct StandIn {
    workload: Workload,
    made_by: Option<Workload>,
    pod: Object,
    origin: Origin,
}

/// What an object says it is, be the rest as wrong as it may.
#[derive(Debug)]
pub(super) struct Name {
    key: Key,
    /// The kind and name, for people.
    shown: String,
    /// The workload that a template belongs to.
    workload: Option<Workload>,
}

impl Name {
    pub(super) fn of(kind: Kind, kind_name: &str, namespaced: bool, value: &Value) -> Self {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        let namespace = match text("/metadata/namespace") {
            _ if !namespaced => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let name = text("/metadata/name").unwrap_or_default();
        let told = match name {
            "" => text("/metadata/generateName").unwrap_or("(no name)"),
            name => name,
        };
        Self {
            key: Key {
                kind,
                id: NamespacedName::new(namespace, name),
                uid: Uid(Arc::from(text("/metadata/uid").unwrap_or_default())),
            },
            shown: short(&if namespaced {
                format!("{kind_name} {namespace}/{told}")
            } else {
                format!("{kind_name} {told}")
            }),
            workload: None,
        }
    }

    /// A workload: its pod has the key `namespace/kind.name`.
    pub(super) fn of_workload(kind: &str, value: &Value) -> Self {
        let mut name = Self::of(Kind::Pod, kind, true, value);
        let id = name.key.id.clone();
        if !id.name.is_empty() {
            name.key.id.name = Arc::from(format!("{}.{}", kind.to_lowercase(), id.name));
        }
        name.workload = Some((id.namespace, Arc::from(kind), id.name));
        name
    }

    pub(super) fn refusal(&self, field: &str, problem: &str, remedy: &str) -> Refusal {
        Refusal {
            object: self.shown.clone(),
            field: short(field),
            problem: short(problem),
            remedy: remedy.to_owned(),
            more: Vec::new(),
        }
    }
}

impl Contents {
    /// Adds an object, unless one of its name came before.
    pub(super) fn add(
        &mut self,
        name: &Name,
        place: Place<'_>,
        compile: impl FnOnce() -> Result<Object, Refusal>,
    ) {
        if let Some(first) = self.first(name) {
            self.refuse_again(name, place, &first);
            return;
        }
        match compile() {
            Ok(object) => {
                self.note(&name.key, place);
                self.hold(name.key.kind, Compiled::Sound(object));
            }
            Err(refusal) => self.refuse(name, place, &refusal.reason()),
        }
    }

    /// Adds a workload, whose pod stands if no real one does.
    pub(super) fn stand_in(
        &mut self,
        name: &Name,
        kind: &str,
        made_by: Option<(String, String)>,
        place: Place<'_>,
        compiled: Result<Object, Refusal>,
    ) {
        let workload = name.workload.clone().unwrap_or_else(|| {
            let id = &name.key.id;
            (
                Arc::clone(&id.namespace),
                Arc::from(kind),
                Arc::clone(&id.name),
            )
        });
        if !workload.2.is_empty() && !self.workloads.insert(workload.clone()) {
            let first = self.origins.get(&(name.key.kind, name.key.id.clone()));
            let first = first.map_or_else(String::new, shown);
            self.refuse_again(name, place, &first);
            return;
        }
        match compiled {
            Ok(pod) => {
                self.note(&name.key, place);
                self.stand_ins.push(StandIn {
                    made_by: made_by.map(|(kind, name)| {
                        (Arc::clone(&workload.0), Arc::from(kind), Arc::from(name))
                    }),
                    workload,
                    pod,
                    origin: place.origin(),
                });
            }
            Err(refusal) => self.refuse(name, place, &refusal.reason()),
        }
    }

    /// Where an object of that name was found before.
    fn first(&self, name: &Name) -> Option<String> {
        if name.key.id.name.is_empty() {
            return None;
        }
        let key = (name.key.kind, name.key.id.clone());
        self.origins.get(&key).map(shown)
    }

    fn note(&mut self, key: &Key, place: Place<'_>) {
        let place = || place.origin();
        self.origins
            .entry((key.kind, key.id.clone()))
            .or_insert_with(place);
    }

    fn hold(&mut self, kind: Kind, object: Compiled) {
        self.objects.entry(kind).or_default().push(object);
    }

    fn refuse_again(&mut self, name: &Name, place: Place<'_>, first: &str) {
        let reason = format!("defined twice: the one at {first} counts; remove one of the two");
        // A key of its own, for the first definition may be refused too.
        let mut key = name.key.clone();
        key.id.name = Arc::from(format!("{} ({place})", key.id.name));
        self.hold_refused(key, name, place, reason);
    }

    /// Adds an object that no API server takes.
    pub(super) fn refuse(&mut self, name: &Name, place: Place<'_>, reason: &str) {
        let mut key = name.key.clone();
        if key.id.name.is_empty() {
            // Several such must not hide one another.
            key.id.name = Arc::from(place.to_string());
        }
        self.hold_refused(key, name, place, reason.to_owned());
    }

    fn hold_refused(&mut self, key: Key, name: &Name, place: Place<'_>, reason: String) {
        self.note(&key, place);
        let mut told = name.key.clone();
        if told.id.name.is_empty() {
            told.id = key.id.clone();
        }
        let refused = Refused {
            key: told,
            object: format!("{} ({place})", name.shown),
            reason,
        };
        self.hold(key.kind, Compiled::Refused(key, refused));
    }

    /// Counts an object of a kind that the engine does not know.
    pub(super) fn ignore(&mut self, kind: &str) {
        // A hostile file may have as many kinds as documents.
        const MOST_KINDS: usize = 10_000;
        let kind = &short(kind);
        let kind = if self.ignored.len() < MOST_KINDS || self.ignored.contains_key(kind) {
            kind
        } else {
            "(further kinds)"
        };
        *self.ignored.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds what a cluster has and no manifest says: a pod for each workload of which none is given, and the namespaces that
    /// objects lie in, with the one label that every namespace has.
    pub(super) fn complete(&mut self) {
        self.stand_for_workloads();
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

    fn stand_for_workloads(&mut self) {
        let stand_ins = std::mem::take(&mut self.stand_ins);
        let pods = self.objects.entry(Kind::Pod).or_default();
        let mut covered = BTreeSet::new();
        for pod in pods.iter().filter_map(pod_of) {
            let namespace = &pod.id.namespace;
            for (kind, name) in pod.owner.iter().cloned().chain([pod.workload()]) {
                covered.insert((Arc::clone(namespace), kind, name));
            }
        }
        for part in &stand_ins {
            if covered.contains(&part.workload) {
                covered.extend(part.made_by.clone());
            }
        }
        for part in stand_ins {
            let second = part
                .made_by
                .as_ref()
                .is_some_and(|whole| self.workloads.contains(whole));
            let key = part.pod.key();
            if !second && !covered.contains(&part.workload) {
                pods.push(Compiled::Sound(part.pod));
                self.origins
                    .entry((key.kind, key.id))
                    .or_insert(part.origin);
            } else {
                self.origins.remove(&(key.kind, key.id));
            }
        }
    }
}

fn pod_of(object: &Compiled) -> Option<&Pod> {
    match object {
        Compiled::Sound(Object::Pod(pod)) => Some(pod),
        _ => None,
    }
}

fn shown(origin: &Origin) -> String {
    format!("{}:{}", origin.file.display(), origin.line)
}
