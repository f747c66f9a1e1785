//! The one owner of the state: takes updates, publishes views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use polproof_policy::{Change, Key, Kind, NamespacedName, State, Uid};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::object::Compiled;
use crate::{Refused, SourceKind, View};

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
    problems: BTreeMap<&'static str, String>,
}

impl Owner {
    pub(crate) fn new(source: SourceKind) -> Self {
        Self {
            source,
            state: State::new(),
            listed: BTreeSet::new(),
            refused: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Takes an update in. Whether the view is another one now.
    pub(crate) fn take(&mut self, update: Update) -> bool {
        let changed = self.note(update);
        if !changed {
            return false;
        }
        // The engine must know of policies that it lacks: they may admit what the others deny.
        let refused = self
            .refused
            .keys()
            .filter(|(kind, _)| *kind == Kind::NetworkPolicy)
            .map(|(_, id)| id.clone());
        self.state.set_refused_policies(refused);
        true
    }

    fn note(&mut self, update: Update) -> bool {
        match update {
            Update::Apply(Compiled::Sound(object)) => {
                let key = object.key();
                let cleared = self.refused.remove(&(key.kind, key.id)).is_some();
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

    /// An object became one that cannot be evaluated: what was known of that name is outdated.
    fn refuse(&mut self, key: Key, refused: Refused) -> bool {
        let held = self
            .state
            .snapshot()
            .objects()
            .map(|object| object.key())
            .find(|held| held.kind == key.kind && held.id == key.id);
        let changed = held.is_some_and(|held| self.state.delete(&held) == Change::Changed);
        let Key { kind, id, uid } = key;
        let now = (uid, refused);
        let name = (kind, id);
        if self.refused.get(&name) == Some(&now) {
            return changed;
        }
        self.refused.insert(name, now);
        true
    }

    fn delete(&mut self, key: &Key) -> bool {
        let name = (key.kind, key.id.clone());
        let refused = self
            .refused
            .get(&name)
            .is_some_and(|(uid, _)| *uid == key.uid)
            && self.refused.remove(&name).is_some();
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
            origins: Arc::default(),
            refused: self
                .refused
                .values()
                .map(|(_, refused)| refused.clone())
                .collect(),
            problem,
        }
    }
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use polproof_policy::Object;
    use polproof_policy::model::{NetworkPolicy, Pod, Selector};

    use super::*;

    fn pod(name: &str, uid: &str) -> Object {
        Object::Pod(Arc::new(Pod {
            id: NamespacedName::new("ns", name),
            uid: Uid(Arc::from(uid)),
            labels: Default::default(),
            ips: Vec::new(),
            node: None,
            host_network: false,
            finished: false,
            ports: Vec::new(),
            owner: None,
            annotations: Default::default(),
        }))
    }

    fn sound(name: &str, uid: &str) -> Compiled {
        Compiled::Sound(pod(name, uid))
    }

    fn refused(name: &str, uid: &str) -> Compiled {
        Compiled::Refused(
            pod(name, uid).key(),
            Refused {
                key: pod(name, uid).key(),
                object: name.to_owned(),
                reason: "bad".to_owned(),
            },
        )
    }

    fn uids(owner: &Owner) -> Vec<String> {
        let mut uids: Vec<String> = owner
            .view()
            .snapshot
            .pods()
            .map(|pod| pod.uid.0.to_string())
            .collect();
        uids.sort();
        uids
    }

    #[test]
    fn ready_only_when_every_kind_was_listed_and_then_for_ever() {
        let mut owner = Owner::new(SourceKind::Kubernetes);
        for kind in Kind::ALL {
            assert!(!owner.view().ready);
            assert!(
                owner.take(Update::Reset(kind, Vec::new())),
                "the first list is news, even if empty"
            );
        }
        assert!(owner.view().ready);
        assert!(owner.take(Update::Problem("pods", Some("away".to_owned()))));
        assert!(owner.view().ready);
        assert!(!owner.take(Update::Reset(Kind::Pod, Vec::new())));
    }

    #[test]
    fn a_late_delete_of_an_earlier_pod_does_not_remove_its_successor() {
        let mut owner = Owner::new(SourceKind::Kubernetes);
        owner.take(Update::Apply(sound("a", "1")));
        owner.take(Update::Apply(sound("a", "2")));
        assert!(!owner.take(Update::Delete(pod("a", "1").key())));
        assert_eq!(uids(&owner), ["2"]);
        assert!(owner.take(Update::Delete(pod("a", "2").key())));
        assert!(uids(&owner).is_empty());
    }

    #[test]
    fn a_list_replaces_what_is_not_in_it() {
        let mut owner = Owner::new(SourceKind::Kubernetes);
        owner.take(Update::Reset(
            Kind::Pod,
            vec![sound("a", "1"), sound("b", "2"), refused("c", "3")],
        ));
        assert_eq!(owner.view().refused.len(), 1);
        assert!(owner.take(Update::Reset(
            Kind::Pod,
            vec![sound("b", "2"), sound("a", "4")]
        )));
        assert_eq!(uids(&owner), ["2", "4"]);
        assert!(owner.view().refused.is_empty());
        assert!(
            !owner.take(Update::Reset(
                Kind::Pod,
                vec![sound("a", "4"), sound("b", "2")]
            )),
            "the same again is no change"
        );
    }

    #[test]
    fn an_object_that_becomes_bad_leaves_and_comes_back_when_it_is_good() {
        let mut owner = Owner::new(SourceKind::Kubernetes);
        owner.take(Update::Apply(sound("a", "1")));
        assert!(owner.take(Update::Apply(refused("a", "1"))));
        assert!(uids(&owner).is_empty() && owner.view().refused.len() == 1);
        assert!(!owner.take(Update::Apply(refused("a", "1"))));
        assert!(owner.take(Update::Apply(sound("a", "1"))));
        assert!(owner.view().refused.is_empty());
        owner.take(Update::Apply(refused("b", "2")));
        assert!(!owner.take(Update::Delete(pod("b", "9").key())));
        assert!(owner.take(Update::Delete(pod("b", "2").key())));
        assert!(owner.view().refused.is_empty());
    }

    fn policy(name: &str, uid: &str) -> Object {
        Object::NetworkPolicy(Arc::new(NetworkPolicy {
            id: NamespacedName::new("ns", name),
            uid: Uid(Arc::from(uid)),
            generation: 1,
            pod_selector: Selector::default(),
            isolates_ingress: true,
            isolates_egress: false,
            ingress: Vec::new(),
            egress: Vec::new(),
            written: Default::default(),
            annotations: Default::default(),
        }))
    }

    fn bad_policy(name: &str, uid: &str) -> Compiled {
        Compiled::Refused(
            policy(name, uid).key(),
            Refused {
                key: policy(name, uid).key(),
                object: name.to_owned(),
                reason: "bad".to_owned(),
            },
        )
    }

    /// The policies that the engine knows it lacks.
    fn lacking(owner: &Owner) -> Vec<String> {
        let snapshot = owner.view().snapshot;
        snapshot
            .refused_policies()
            .map(|id| id.to_string())
            .collect()
    }

    #[test]
    fn the_engine_knows_of_refused_policies_until_they_are_corrected_or_deleted() {
        let mut owner = Owner::new(SourceKind::Kubernetes);
        owner.take(Update::Apply(refused("pod", "0")));
        assert!(lacking(&owner).is_empty(), "policies only");
        owner.take(Update::Apply(Compiled::Sound(policy("a", "1"))));
        let before = owner.view().snapshot.version();
        assert!(owner.take(Update::Apply(bad_policy("a", "1"))));
        assert_eq!(lacking(&owner), ["ns/a"]);
        assert_eq!(owner.view().snapshot.policies().count(), 0);
        assert_ne!(owner.view().snapshot.version(), before);
        // Corrected, under whatever UID.
        assert!(owner.take(Update::Apply(Compiled::Sound(policy("a", "2")))));
        assert!(lacking(&owner).is_empty());
        // Deleted; the late delete of an earlier one of that name is none.
        owner.take(Update::Apply(bad_policy("b", "3")));
        assert!(!owner.take(Update::Delete(policy("b", "2").key())));
        assert_eq!(lacking(&owner), ["ns/b"]);
        assert!(owner.take(Update::Delete(policy("b", "3").key())));
        assert!(lacking(&owner).is_empty());
        // Listed anew.
        let list = || vec![bad_policy("c", "4"), Compiled::Sound(policy("d", "5"))];
        owner.take(Update::Apply(bad_policy("b", "3")));
        assert!(owner.take(Update::Reset(Kind::NetworkPolicy, list())));
        assert_eq!(lacking(&owner), ["ns/c"]);
        let version = owner.view().snapshot.version();
        assert!(!owner.take(Update::Reset(Kind::NetworkPolicy, list())));
        assert_eq!(owner.view().snapshot.version(), version);
        assert!(owner.take(Update::Reset(Kind::NetworkPolicy, Vec::new())));
        assert!(lacking(&owner).is_empty());
    }

    #[test]
    fn one_text_for_one_cause() {
        let mut owner = Owner::new(SourceKind::Kubernetes);
        for part in ["pods", "nodes"] {
            owner.take(Update::Problem(part, Some("away".to_owned())));
        }
        assert_eq!(owner.view().problem.as_deref(), Some("away"));
        owner.take(Update::Problem("nodes", Some("forbidden".to_owned())));
        assert_eq!(owner.view().problem.as_deref(), Some("away\nforbidden"));
        owner.take(Update::Problem("pods", None));
        owner.take(Update::Problem("nodes", None));
        assert_eq!(owner.view().problem, None);
    }

    #[tokio::test]
    async fn a_burst_is_one_view_and_a_trickle_is_not_starved() {
        let (updates, queue) = mpsc::channel(QUEUE);
        let (views, mut reader) = watch::channel(Arc::new(View::empty(SourceKind::Kubernetes)));
        let cancel = CancellationToken::new();
        let owner = tokio::spawn(run(
            Owner::new(SourceKind::Kubernetes),
            queue,
            views,
            cancel.clone(),
        ));
        for index in 0..500 {
            updates
                .send(Update::Apply(sound(
                    &format!("p{index}"),
                    &index.to_string(),
                )))
                .await
                .unwrap();
        }
        let mut seen = 0;
        while reader.borrow_and_update().snapshot.count(Kind::Pod) < 500 {
            reader.changed().await.unwrap();
            seen += 1;
        }
        assert!(seen <= 20, "{seen} views of one burst");
        // Changes that never pause are shown while they go on.
        let trickle = tokio::spawn(async move {
            let mut index = 1000;
            while updates
                .send(Update::Apply(sound(
                    &format!("p{index}"),
                    &index.to_string(),
                )))
                .await
                .is_ok()
            {
                index += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        tokio::time::timeout(Duration::from_secs(30), reader.changed())
            .await
            .unwrap()
            .unwrap();
        cancel.cancel();
        owner.await.unwrap();
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn it_ends_when_nobody_looks() {
        let (_updates, queue) = mpsc::channel(QUEUE);
        let (views, reader) = watch::channel(Arc::new(View::empty(SourceKind::Kubernetes)));
        let cancel = CancellationToken::new();
        let owner = tokio::spawn(run(
            Owner::new(SourceKind::Kubernetes),
            queue,
            views,
            cancel.clone(),
        ));
        drop(reader);
        tokio::time::timeout(Duration::from_secs(30), owner)
            .await
            .unwrap()
            .unwrap();
        assert!(cancel.is_cancelled(), "the watches must end, too");
    }
}
