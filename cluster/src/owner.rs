//! The one owner of the state: takes updates, publishes views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use polproof_policy::{Change, Key, Kind, NamespacedName, Object, Snapshot, State, Uid};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::object::Compiled;
use crate::{Origins, Refused, SourceKind, View};

/// How many updates may wait. A sender that finds the queue full waits, which slows its watch
/// down; nothing is dropped.
pub(crate) const QUEUE: usize = 1024;

/// How long after the first change of a burst the view is published.
const COALESCE: Duration = Duration::from_millis(25);

/// A change of what is known.
#[derive(Debug)]
pub(crate) enum Update {
    /// An object is there now, in this form.
    Apply(Compiled),
    /// The object with this UID is gone.
    Delete(Key),
    /// These are all objects of the kind.
    Reset(Kind, Vec<Compiled>),
    /// What is wrong with a part of the source; `None` when it is well again.
    Problem(&'static str, Option<String>),
}

/// The state and what else makes a view.
#[derive(Debug)]
pub(crate) struct Owner {
    source: SourceKind,
    state: State,
    listed: BTreeSet<Kind>,
    refused: BTreeMap<(Kind, NamespacedName), (Uid, Refused)>,
    /// Whether a policy came to or left `refused` since the engine was told.
    refused_changed: bool,
    origins: Arc<Origins>,
    problems: BTreeMap<&'static str, String>,
}

impl Owner {
    pub(crate) fn new(source: SourceKind) -> Self {
        Self {
            source,
            state: State::new(),
            listed: BTreeSet::new(),
            refused: BTreeMap::new(),
            refused_changed: false,
            origins: Arc::default(),
            problems: BTreeMap::new(),
        }
    }

    /// Says where the objects stand, if they come from files. Whether that is another place now.
    pub(crate) fn place(&mut self, origins: Origins) -> bool {
        let changed = *self.origins != origins;
        self.origins = Arc::new(origins);
        changed
    }

    /// Takes an update in. Whether the view is another one now.
    pub(crate) fn take(&mut self, update: Update) -> bool {
        let changed = self.note(update);
        if !changed {
            return false;
        }
        // The engine must know of policies that it lacks: they may admit what the others deny.
        if self.refused_changed {
            self.refused_changed = false;
            let refused = self
                .refused
                .keys()
                .filter(|(kind, _)| decides(*kind))
                .map(|(_, id)| id.clone());
            self.state.set_refused_policies(refused);
        }
        true
    }

    fn note(&mut self, update: Update) -> bool {
        match update {
            Update::Apply(Compiled::Sound(object)) => {
                let key = object.key();
                let cleared = self.cleared(&(key.kind, key.id));
                self.state.apply(object) == Change::Changed || cleared
            }
            Update::Apply(Compiled::Refused(key, refused)) => self.refuse(key, refused),
            Update::Delete(key) => self.delete(&key),
            Update::Reset(kind, objects) => self.reset(kind, objects),
            Update::Problem(part, None) => self.problems.remove(part).is_some(),
            Update::Problem(part, Some(text)) => {
                let before = self.problems.insert(part, text);
                before.as_ref() != self.problems.get(part)
            }
        }
    }

    /// Whether an object of that name was refused until now.
    fn cleared(&mut self, name: &(Kind, NamespacedName)) -> bool {
        let cleared = self.refused.remove(name).is_some();
        self.refused_changed |= cleared && decides(name.0);
        cleared
    }

    /// An object became one that cannot be evaluated: what was known of that name is outdated.
    fn refuse(&mut self, key: Key, refused: Refused) -> bool {
        let name = (key.kind, key.id.clone());
        // Nothing is held of what was refused before. An edited object has kept its UID; one that was made anew has not.
        let changed = !self.refused.contains_key(&name)
            && (self.state.delete(&key) == Change::Changed
                || held(&self.state.snapshot(), &key)
                    .is_some_and(|held| self.state.delete(&held) == Change::Changed));
        let now = (key.uid, refused);
        if self.refused.get(&name) == Some(&now) {
            return changed;
        }
        self.refused_changed |= decides(name.0);
        self.refused.insert(name, now);
        true
    }

    fn delete(&mut self, key: &Key) -> bool {
        let name = (key.kind, key.id.clone());
        let refused = self
            .refused
            .get(&name)
            .is_some_and(|(uid, _)| *uid == key.uid)
            && self.cleared(&name);
        self.state.delete(key) == Change::Changed || refused
    }

    fn reset(&mut self, kind: Kind, objects: Vec<Compiled>) -> bool {
        let mut sound = Vec::with_capacity(objects.len());
        let mut refused = BTreeMap::new();
        for object in objects {
            match object {
                Compiled::Sound(object) => sound.push(object),
                Compiled::Refused(key, reason) => {
                    refused.insert((kind, key.id), (key.uid, reason));
                }
            }
        }
        let before: BTreeMap<_, _> = self
            .refused
            .extract_if(.., |(held, _), _| *held == kind)
            .collect();
        let mut changed = before != refused;
        self.refused_changed |= changed && decides(kind);
        self.refused.extend(refused);
        changed |= self.state.reset(kind, sound) == Change::Changed;
        changed |= self.listed.insert(kind);
        changed
    }

    /// The present view.
    pub(crate) fn view(&self) -> View {
        // Six watches that all find the server away say so once.
        let problems: BTreeSet<&str> = self.problems.values().map(String::as_str).collect();
        let problem =
            (!problems.is_empty()).then(|| problems.into_iter().collect::<Vec<_>>().join("\n"));
        View {
            snapshot: self.state.snapshot(),
            at: SystemTime::now(),
            ready: self.listed.len() == Kind::ALL.len(),
            source: self.source,
            origins: Arc::clone(&self.origins),
            refused: self
                .refused
                .values()
                .map(|(_, refused)| refused.clone())
                .collect(),
            problem,
        }
    }
}

/// Whether what other policies deny or allow may hang on an object of this kind.
const fn decides(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy
    )
}

/// The key under which an object of that name is held, whatever its UID.
fn held(snapshot: &Snapshot, wanted: &Key) -> Option<Key> {
    let of_kind: Box<dyn Iterator<Item = Object> + '_> = match wanted.kind {
        Kind::Pod => {
            let pod = snapshot.pod_named(&wanted.id).cloned();
            Box::new(pod.map(Object::Pod).into_iter())
        }
        Kind::Namespace => Box::new(snapshot.namespaces().cloned().map(Object::Namespace)),
        Kind::Node => Box::new(snapshot.nodes().cloned().map(Object::Node)),
        Kind::NetworkPolicy => Box::new(snapshot.policies().cloned().map(Object::NetworkPolicy)),
        Kind::Service => Box::new(snapshot.services().cloned().map(Object::Service)),
        Kind::EndpointSlice => {
            let slices = snapshot.endpoint_slices().cloned();
            Box::new(slices.map(Object::EndpointSlice))
        }
        Kind::AdminNetworkPolicy
        | Kind::BaselineAdminNetworkPolicy
        | Kind::ClusterNetworkPolicy => {
            Box::new(snapshot.admin_policies().cloned().map(Object::AdminPolicy))
        }
        Kind::CiliumNetworkPolicy
        | Kind::CiliumClusterwideNetworkPolicy
        | Kind::CalicoNetworkPolicy
        | Kind::CalicoGlobalNetworkPolicy => {
            let policies = snapshot.foreign_policies().cloned();
            Box::new(policies.map(Object::ForeignPolicy))
        }
    };
    of_kind
        .map(|object| object.key())
        .find(|held| held.kind == wanted.kind && held.id == wanted.id)
}

/// Owns the state until cancelled or until nobody looks any more. A burst of updates becomes one
/// view, at most [`COALESCE`] late.
pub(crate) async fn run(
    mut owner: Owner,
    mut updates: mpsc::Receiver<Update>,
    views: watch::Sender<Arc<View>>,
    cancel: CancellationToken,
) {
    let mut due: Option<tokio::time::Instant> = None;
    loop {
        let publish_at = due.unwrap_or_else(tokio::time::Instant::now);
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = views.closed() => break,
            () = tokio::time::sleep_until(publish_at), if due.is_some() => {
                due = None;
                views.send_replace(Arc::new(owner.view()));
            }
            update = updates.recv() => {
                let Some(update) = update else { break };
                if owner.take(update) && due.is_none() {
                    due = Some(tokio::time::Instant::now() + COALESCE);
                }
            }
        }
    }
    cancel.cancel();
}

#[cfg(test)]
mod tests;
