//! What a selector peer comes to in the cluster as it is: NP031, NP032 and NP033 each report one way to be wrong.

use std::sync::Arc;

use super::cluster::Cluster;
use crate::model::{NetworkPolicy, Peer, Selector};

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// Some pods, or a DNS server that the audit assumes.
    Something,
    /// No namespace has the labels.
    NoNamespace,
    /// There are such namespaces, and no pod in them.
    NoPod,
    /// No pod of the policy's namespace, for want of a namespaceSelector; there are some in this one.
    Elsewhere(Arc<str>),
}

/// A selector peer.
pub(super) struct Selection<'p> {
    pub(super) namespaces: Option<&'p Selector>,
    pub(super) pods: Option<&'p Selector>,
    pub(super) means: Means,
    /// The namespaces in question.
    pub(super) among: Vec<Arc<str>>,
}

impl<'p> Selection<'p> {
    /// `None` for an ipBlock.
    pub(super) fn of(
        cluster: &Cluster<'_>,
        policy: &NetworkPolicy,
        peer: &'p Peer,
    ) -> Option<Self> {
        let Peer::Pods { namespaces, pods } = peer else {
            return None;
        };
        let own = &policy.id.namespace;
        let of = |means, among| Self {
            namespaces: namespaces.as_ref(),
            pods: pods.as_ref(),
            means,
            among,
        };
        if cluster.first_of(peer, own).is_some() || cluster.dns().assumes(peer, own) {
            return Some(of(Means::Something, Vec::new()));
        }
        Some(match namespaces {
            Some(selector) => {
                let among = cluster.matching_namespaces(selector).to_vec();
                if !among.is_empty() {
                    of(Means::NoPod, among)
                } else if cluster.dns().assumes_namespace(selector) {
                    of(Means::Something, among)
                } else {
                    of(Means::NoNamespace, among)
                }
            }
            None => {
                let anywhere = Peer::Pods {
                    namespaces: Some(Selector::default()),
                    pods: pods.clone(),
                };
                match cluster.first_of(&anywhere, own) {
                    Some(pod) => of(Means::Elsewhere(Arc::clone(&pod.id.namespace)), Vec::new()),
                    None => of(Means::NoPod, vec![Arc::clone(own)]),
                }
            }
        })
    }
}
