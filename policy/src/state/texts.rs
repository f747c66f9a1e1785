//! Texts that many pods say, held once: the keys and most values of labels, the names of namespaces, nodes, owners and ports.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::model::Pod;

/// Texts that objects share. Those that nobody else holds any more go from time to time.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// With a hash that costs less than making the text did; seeded, as it is users who choose labels.
    held: HashSet<Arc<str>, RandomState>,
    /// Pods that went or came in another version since the last time.
    released: usize,
}

impl Texts {
    /// Lets a new pod share its texts with the others, and its name with the version of it that is held.
    ///
    /// Only while nobody else has the pod: the others would keep its own texts alive anyway.
    pub(super) fn share(&mut self, pod: &mut Arc<Pod>, held: Option<&Pod>) {
        let Some(pod) = Arc::get_mut(pod) else {
            return;
        };
        match held {
            Some(held) => {
                pod.id.clone_from(&held.id);
                if pod.uid == held.uid {
                    pod.uid.clone_from(&held.uid);
                }
            }
            None => self.one(&mut pod.id.namespace),
        }
        let labels = std::mem::take(&mut pod.labels).into_iter();
        pod.labels = labels
            .map(|(mut key, mut value)| {
                self.one(&mut key);
                self.one(&mut value);
                (key, value)
            })
            .collect();
        if let Some(node) = &mut pod.node {
            self.one(node);
        }
        if let Some((kind, name)) = &mut pod.owner {
            self.one(kind);
            self.one(name);
        }
        for name in pod.ports.iter_mut().filter_map(|port| port.name.as_mut()) {
            self.one(name);
        }
    }

    fn one(&mut self, text: &mut Arc<str>) {
        match self.held.get(text) {
            Some(held) => text.clone_from(held),
            None => {
                self.held.insert(Arc::clone(text));
            }
        }
    }

    /// Counts a pod that is held no more.
    pub(super) const fn release(&mut self) {
        self.released = self.released.saturating_add(1);
    }

    /// Forgets what nobody else holds, when that may be much of all.
    pub(super) fn prune(&mut self) {
        if self.released > (self.held.len() / 2).max(1_024) {
            self.held.retain(|text| Arc::strong_count(text) > 1);
            self.held.shrink_to_fit();
            self.released = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::{ContainerPort, Kind, NamespacedName, Object, Protocol, Uid};
    use crate::state::State;

    /// A pod as it comes from an API server: it shares nothing with any other.
    fn pod(number: usize, version: usize) -> Pod {
        let text = |text: &str| Arc::<str>::from(text);
        Pod {
            id: NamespacedName::new("shop", format!("web-{number}")),
            uid: Uid(text(&format!("uid-{number}"))),
            labels: [
                (text("app"), text("web")),
                (text("version"), text(&format!("v{version}"))),
            ]
            .into(),
            ips: Vec::new(),
            node: Some(text("node-1")),
            host_network: false,
            finished: false,
            ports: vec![ContainerPort {
                name: Some(text("http")),
                number: 80,
                protocol: Protocol::Tcp,
            }],
            owner: Some((text("ReplicaSet"), text("web-1"))),
            annotations: Default::default(),
        }
    }

    fn texts(pod: &Pod) -> Vec<&Arc<str>> {
        let labels = pod.labels.iter().flat_map(|(key, value)| [key, value]);
        let names = pod.ports.iter().filter_map(|port| port.name.as_ref());
        let owner = pod.owner.iter().flat_map(|(kind, name)| [kind, name]);
        let others = labels.chain(names).chain(owner).chain(&pod.node);
        others.chain([&pod.id.namespace]).collect()
    }

    #[test]
    fn equal_pods_hold_each_text_once() {
        let mut state = State::new();
        for number in 0..2 {
            state.apply(Object::Pod(Arc::new(pod(number, 1))));
        }
        let snapshot = state.snapshot();
        let held: Vec<_> = snapshot.pods().collect();
        let [first, second] = held.as_slice() else {
            unreachable!("{held:?}");
        };
        assert_eq!(***first, pod(0, 1));
        assert_eq!(***second, pod(1, 1));
        assert_eq!(texts(first).len(), 9);
        for (one, other) in texts(first).into_iter().zip(texts(second)) {
            assert!(Arc::ptr_eq(one, other), "{one}");
        }
    }

    #[test]
    fn another_version_of_a_pod_keeps_its_name() {
        let mut state = State::new();
        state.apply(Object::Pod(Arc::new(pod(1, 1))));
        let before = state.snapshot();
        state.apply(Object::Pod(Arc::new(pod(1, 2))));
        let after = state.snapshot();
        let of = |snapshot: &crate::Snapshot| Arc::clone(snapshot.pods().next().unwrap());
        assert_eq!(*of(&after), pod(1, 2));
        assert!(Arc::ptr_eq(&of(&before).id.name, &of(&after).id.name));
        assert!(Arc::ptr_eq(&of(&before).uid.0, &of(&after).uid.0));
    }

    #[test]
    fn a_pod_that_somebody_else_has_stays_as_it_is() {
        let mut state = State::new();
        state.apply(Object::Pod(Arc::new(pod(1, 1))));
        let theirs = Arc::new(pod(2, 1));
        state.apply(Object::Pod(Arc::clone(&theirs)));
        let snapshot = state.snapshot();
        assert!(Arc::ptr_eq(snapshot.pod(&theirs.uid).unwrap(), &theirs));
    }

    #[test]
    fn texts_that_no_pod_says_any_more_go() {
        let mut state = State::new();
        for version in 0..10_000 {
            state.apply(Object::Pod(Arc::new(pod(1, version))));
        }
        assert!(state.texts.held.len() < 2_000, "{}", state.texts.held.len());
        let objects = (0..10_000).map(|number| Object::Pod(Arc::new(pod(number, number))));
        state.reset(Kind::Pod, objects.collect());
        assert!(state.texts.held.len() > 10_000);
        state.reset(Kind::Pod, Vec::new());
        assert!(state.texts.held.len() < 10, "{:?}", state.texts.held);
    }
}
