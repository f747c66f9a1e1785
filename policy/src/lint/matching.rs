//! Whether selectors find pods and namespaces. Each distinct selector is answered once, and by the first pod that it finds:
//! a list of all would be as long as the cluster for each.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{Labels, Peer, Pod, Selector};
use crate::similar::{NearMiss, Vocabulary, near_miss};
use crate::state::Snapshot;

/// Namespaces by name.
pub(crate) type Namespaces = Rc<[Arc<str>]>;

type Pair = (Arc<str>, Arc<str>);

/// The living pods, found by label or by namespace.
pub(super) struct Matching<'a> {
    /// By namespace and name.
    pods: Vec<&'a Arc<Pod>>,
    /// Where in `pods` those of a namespace are.
    places: BTreeMap<Arc<str>, std::ops::Range<usize>>,
    /// Where in `pods` those with a label are, in order.
    by_pair: HashMap<Pair, Vec<usize>>,
    labels: BTreeMap<Arc<str>, Labels>,
    namespaces: RefCell<HashMap<Selector, Namespaces>>,
    first: RefCell<HashMap<Wanted, Option<&'a Arc<Pod>>>>,
    pod_words: RefCell<HashMap<Arc<str>, Rc<Vocabulary>>>,
    namespace_words: RefCell<Option<Rc<Vocabulary>>>,
}

/// A selector of pods in some namespaces.
type Wanted = (Scope, Selector);

#[derive(PartialEq, Eq, Hash)]
enum Scope {
    One(Arc<str>),
    Selected(Selector),
}

impl<'a> Matching<'a> {
    /// `pods` come by namespace and name.
    pub(super) fn new(
        snapshot: &Snapshot,
        namespaces: impl Iterator<Item = Arc<str>>,
        pods: Vec<&'a Arc<Pod>>,
    ) -> Self {
        let mut places: BTreeMap<Arc<str>, std::ops::Range<usize>> = BTreeMap::new();
        let mut by_pair: HashMap<Pair, Vec<usize>> = HashMap::new();
        for (place, pod) in pods.iter().enumerate() {
            places
                .entry(Arc::clone(&pod.id.namespace))
                .or_insert(place..place)
                .end = place + 1;
            for (key, value) in &pod.labels {
                let pair = (Arc::clone(key), Arc::clone(value));
                by_pair.entry(pair).or_default().push(place);
            }
        }
        Self {
            labels: namespaces
                .map(|name| {
                    let labels = snapshot.namespace_labels(&name);
                    (name, labels)
                })
                .collect(),
            pods,
            places,
            by_pair,
            namespaces: RefCell::default(),
            first: RefCell::default(),
            pod_words: RefCell::default(),
            namespace_words: RefCell::default(),
        }
    }

    fn in_namespace(&self, namespace: &str) -> &[&'a Arc<Pod>] {
        let place = self.places.get(namespace).cloned();
        place.and_then(|at| self.pods.get(at)).unwrap_or_default()
    }

    /// The namespaces that a selector selects.
    pub(super) fn namespaces(&self, selector: &Selector) -> Namespaces {
        if let Some(known) = self.namespaces.borrow().get(selector) {
            return Rc::clone(known);
        }
        let found: Namespaces = self
            .labels
            .iter()
            .filter(|(_, labels)| selector.matches(labels))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        let mut known = self.namespaces.borrow_mut();
        known.insert(selector.clone(), Rc::clone(&found));
        found
    }

    /// The first living pod, by namespace and name, that a peer of a policy in `namespace` selects; none for an ipBlock.
    pub(super) fn first(&self, peer: &Peer, namespace: &Arc<str>) -> Option<&'a Arc<Pod>> {
        let Peer::Pods { namespaces, pods } = peer else {
            return None;
        };
        let scope = match namespaces {
            None => Scope::One(Arc::clone(namespace)),
            Some(selector) => Scope::Selected(selector.clone()),
        };
        let key = (scope, pods.clone().unwrap_or_default());
        if let Some(known) = self.first.borrow().get(&key) {
            return *known;
        }
        let found = match &key.0 {
            Scope::One(namespace) => self.search(std::slice::from_ref(namespace), &key.1),
            Scope::Selected(namespaces) => self.search(&self.namespaces(namespaces), &key.1),
        };
        self.first.borrow_mut().insert(key, found);
        found
    }

    fn search(&self, namespaces: &[Arc<str>], selector: &Selector) -> Option<&'a Arc<Pod>> {
        let in_namespaces: usize = namespaces
            .iter()
            .map(|of| self.in_namespace(of).len())
            .sum();
        let rarest = selector
            .match_labels
            .iter()
            .map(|(key, value)| {
                let with = self.by_pair.get(&(Arc::clone(key), Arc::clone(value)));
                with.map(Vec::as_slice).unwrap_or_default()
            })
            .min_by_key(|with| with.len())
            .filter(|with| with.len() < in_namespaces);
        let selected = |pod: &&'a Arc<Pod>| selector.matches(&pod.labels);
        match rarest {
            Some(with) => with
                .iter()
                .filter_map(|place| self.pods.get(*place).copied())
                .filter(|pod| namespaces.binary_search(&pod.id.namespace).is_ok())
                .find(selected),
            None => namespaces
                .iter()
                .flat_map(|namespace| self.in_namespace(namespace))
                .copied()
                .find(selected),
        }
    }

    /// What a selector that matches no pod of these namespaces probably means.
    pub(super) fn pod_near_miss(
        &self,
        selector: &Selector,
        namespaces: &[Arc<str>],
    ) -> Option<NearMiss> {
        if selector.match_labels.is_empty() {
            return None;
        }
        let words: Vec<Rc<Vocabulary>> = namespaces.iter().map(|of| self.pod_words(of)).collect();
        let words: Vec<&Vocabulary> = words.iter().map(|words| &**words).collect();
        near_miss(selector, &words)
    }

    fn pod_words(&self, namespace: &Arc<str>) -> Rc<Vocabulary> {
        let mut known = self.pod_words.borrow_mut();
        let words = known.entry(Arc::clone(namespace)).or_insert_with(|| {
            let pods = self.in_namespace(namespace).iter();
            Rc::new(Vocabulary::of(pods.map(|pod| &pod.labels)))
        });
        Rc::clone(words)
    }

    /// What a selector that matches no namespace probably means.
    pub(super) fn namespace_near_miss(&self, selector: &Selector) -> Option<NearMiss> {
        let mut known = self.namespace_words.borrow_mut();
        let words = known.get_or_insert_with(|| Rc::new(Vocabulary::of(self.labels.values())));
        near_miss(selector, &[&**words])
    }
}
