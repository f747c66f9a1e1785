//! The ends of connections, as people name them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Family, Pod};
use crate::state::Snapshot;

/// What an end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// All pods of a workload ([`Pod::workload`]).
    #[default]
    Workload,
    /// All pods of a namespace.
    Namespace,
    /// A pod.
    Pod,
}

/// The sort of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndKind {
    /// Pods with networks of their own.
    Pods,
    /// Pods on the host's network: they are their nodes to others.
    HostNetwork,
    /// Addresses outside the cluster.
    Outside,
}

/// One end.
#[derive(Clone, Debug)]
pub struct End {
    /// Its sort.
    pub kind: EndKind,
    /// Its namespace; empty outside.
    pub namespace: Arc<str>,
    /// The kind of the workload, `Pod` for a pod; empty for a namespace and outside.
    pub owner: Arc<str>,
    /// The name of the workload or pod; empty for a namespace and outside.
    pub name: Arc<str>,
    /// Outside: the block.
    pub block: Option<IpNet>,
    /// Outside: the blocks within it that are ends of their own.
    pub except: Vec<IpNet>,
    /// The living pods.
    pub pods: Vec<Arc<Pod>>,
}

impl End {
    pub(super) fn outside(net: IpNet, except: Vec<IpNet>) -> Self {
        Self {
            kind: EndKind::Outside,
            namespace: Arc::from(""),
            owner: Arc::from(""),
            name: Arc::from(""),
            block: Some(net),
            except,
            pods: Vec::new(),
        }
    }

    /// Whether a single pod of it may get another one beside it.
    pub(super) fn has_replicas(&self) -> bool {
        self.kind != EndKind::Outside && &*self.owner != "Pod"
    }

    /// The whole address space, less the blocks that policies name.
    fn is_anywhere_else(&self) -> bool {
        self.block.is_some_and(|net| net.prefix_len() == 0)
    }
}

/// `shop/deployment/web`, `shop/web-0` for a pod, `shop` for a namespace, `203.0.113.0/24`, `anywhere else (IPv4)`.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.block {
            Some(net) if self.is_anywhere_else() => {
                let family = match Family::of(net.addr()) {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                };
                let else_ = if self.except.is_empty() { "" } else { " else" };
                return write!(f, "anywhere{else_} ({family})");
            }
            Some(net) => return write!(f, "{net}"),
            None => {}
        }
        f.write_str(&self.namespace)?;
        if !self.name.is_empty() {
            match &*self.owner {
                "" | "Pod" => write!(f, "/{}", self.name)?,
                owner => write!(f, "/{}/{}", owner.to_lowercase(), self.name)?,
            }
        }
        match self.kind {
            EndKind::HostNetwork => f.write_str(" (hostNetwork)"),
            EndKind::Pods | EndKind::Outside => Ok(()),
        }
    }
}

/// The ends of the cluster by namespace and name. Finished pods are nobody's.
pub(super) fn of(snapshot: &Snapshot, by: By) -> Vec<End> {
    let mut ends: BTreeMap<_, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in snapshot.pods().filter(|pod| !pod.finished) {
        let (owner, name) = match by {
            By::Workload => pod.workload(),
            By::Namespace => (Arc::from(""), Arc::from("")),
            By::Pod => (Arc::from("Pod"), Arc::clone(&pod.id.name)),
        };
        let kind = if pod.host_network {
            EndKind::HostNetwork
        } else {
            EndKind::Pods
        };
        let key = (Arc::clone(&pod.id.namespace), name, owner, kind);
        ends.entry(key).or_default().push(Arc::clone(pod));
    }
    ends.into_iter()
        .map(|((namespace, name, owner, kind), pods)| End {
            kind,
            namespace,
            owner,
            name,
            block: None,
            except: Vec::new(),
            pods,
        })
        .collect()
}
