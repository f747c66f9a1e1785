//! What labels lack for a selector, and what may have been meant.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{Labels, NAMESPACE_NAME_LABEL, Requirement, Selector};
use crate::similar::similar;
use crate::state::Snapshot;

/// Whose labels they are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose<'a> {
    /// A pod's: its namespace and what to call it.
    Pod(&'a Arc<str>, &'a str),
    /// A namespace's.
    Namespace(&'a Arc<str>),
}

impl std::fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(_, name) => write!(f, "{name}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
        }
    }
}

/// What labels lack.
#[derive(Debug, Default)]
pub(super) struct Lack {
    /// A sentence without its end for each requirement that is not fulfilled.
    pub(super) missing: Vec<String>,
    /// How many of them look like slips.
    pub(super) slips: usize,
}

type Pairs = HashSet<(Arc<str>, Arc<str>)>;

/// Which labels there are, so that a label that others really have is not taken for a slip.
pub(super) struct Census<'s> {
    snapshot: &'s Snapshot,
    pods: RefCell<HashMap<Arc<str>, Rc<Pairs>>>,
    namespaces: RefCell<Option<Rc<Pairs>>>,
}

impl<'s> Census<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Self {
        Self {
            snapshot,
            pods: RefCell::default(),
            namespaces: RefCell::default(),
        }
    }

    fn of_pods(&self, namespace: &Arc<str>) -> Rc<Pairs> {
        let mut known = self.pods.borrow_mut();
        Rc::clone(known.entry(Arc::clone(namespace)).or_insert_with(|| {
            let pods = self.snapshot.pods();
            Rc::new(
                pods.filter(|pod| !pod.finished && pod.id.namespace == *namespace)
                    .flat_map(|pod| pod.labels.clone())
                    .collect(),
            )
        }))
    }

    fn of_namespaces(&self) -> Rc<Pairs> {
        let mut known = self.namespaces.borrow_mut();
        Rc::clone(known.get_or_insert_with(|| {
            let namespaces = self.snapshot.namespaces();
            Rc::new(
                namespaces
                    .flat_map(|namespace| self.snapshot.namespace_labels(&namespace.name))
                    .collect(),
            )
        }))
    }

    /// What labels lack for a selector.
    pub(super) fn lack(&self, selector: &Selector, labels: &Labels, whose: Whose<'_>) -> Lack {
        let found = |key: &Arc<str>| match labels.get(key) {
            Some(value) => format!("{whose} has {key}={value}"),
            None => format!("{whose} has no label {key}"),
        };
        let mut lack = Lack::default();
        for (key, value) in &selector.match_labels {
            if labels.get(key) == Some(value) {
                continue;
            }
            let mut text = match whose {
                // What everybody calls the namespace's name.
                Whose::Namespace(name) if **key == *NAMESPACE_NAME_LABEL => {
                    format!("its namespace is {name}, not {value}")
                }
                Whose::Namespace(_) | Whose::Pod(..) => {
                    format!("{}, not {key}={value}", found(key))
                }
            };
            if let Some((key, value)) = self.meant(key, value, labels, whose) {
                text = format!("{text} (did you mean {key}={value}?)");
                lack.slips += 1;
            }
            lack.missing.push(text);
        }
        for requirement in &selector.match_expressions {
            if requirement.matches(labels) {
                continue;
            }
            lack.missing.push(match requirement {
                Requirement::In(key, values) => {
                    format!("{}, not one of {}", found(key), values.join(", "))
                }
                Requirement::NotIn(key, _) | Requirement::DoesNotExist(key) => {
                    format!("{}, which {requirement} excludes", found(key))
                }
                Requirement::Exists(key) => found(key),
            });
        }
        lack
    }

    /// The label that may have been meant by one that nobody has.
    fn meant(
        &self,
        key: &Arc<str>,
        value: &Arc<str>,
        labels: &Labels,
        whose: Whose<'_>,
    ) -> Option<(Arc<str>, Arc<str>)> {
        let known = match whose {
            Whose::Pod(namespace, _) => self.of_pods(namespace),
            Whose::Namespace(_) => self.of_namespaces(),
        };
        if known.contains(&(Arc::clone(key), Arc::clone(value))) {
            return None;
        }
        if let Whose::Namespace(name) = whose
            && name == value
            && **key != *NAMESPACE_NAME_LABEL
        {
            return Some((Arc::from(NAMESPACE_NAME_LABEL), Arc::clone(name)));
        }
        labels
            .iter()
            .filter_map(|(other_key, other_value)| {
                let far = if other_key == key {
                    similar(value, other_value)
                } else if other_value == value {
                    similar(key, other_key)
                } else {
                    None
                }?;
                Some((far, (Arc::clone(other_key), Arc::clone(other_value))))
            })
            .min()
            .map(|(_, meant)| meant)
    }
}
