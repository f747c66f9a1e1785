//! What a person calls an end, and who stands behind the name.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::error::AskError;
use super::near;
use crate::evaluate::Endpoint;
use crate::model::{EndpointSlice, Family, NamespacedName, Pod, Service};
use crate::state::{IpOwner, Snapshot};

/// How many errors of one directory look for similar names: that is a scan of everything.
const SUGGESTIONS: u32 = 20;

/// Kinds with pods: what may be written (lower case), the kind, and the short name that we write.
const KINDS: &[(&[&str], &str, &str)] = &[
    (&["po", "pod", "pods"], "Pod", "pod"),
    (
        &["deploy", "deployment", "deployments", "deployment.apps"],
        "Deployment",
        "deploy",
    ),
    (
        &["sts", "statefulset", "statefulsets", "statefulset.apps"],
        "StatefulSet",
        "sts",
    ),
    (
        &["ds", "daemonset", "daemonsets", "daemonset.apps"],
        "DaemonSet",
        "ds",
    ),
    (
        &["rs", "replicaset", "replicasets", "replicaset.apps"],
        "ReplicaSet",
        "rs",
    ),
    (
        &["rc", "replicationcontroller", "replicationcontrollers"],
        "ReplicationController",
        "rc",
    ),
    (&["job", "jobs", "job.batch"], "Job", "job"),
    (
        &["cj", "cronjob", "cronjobs", "cronjob.batch"],
        "CronJob",
        "cronjob",
    ),
    (&["svc", "service", "services"], "Service", "svc"),
];

/// The short name of a kind, as it can be asked for.
pub(super) fn short(kind: &str) -> &str {
    KINDS
        .iter()
        .find(|(_, known, _)| *known == kind)
        .map_or(kind, |(_, _, short)| short)
}

/// One thing that connects or is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A pod, on the network of its own or on its node's; at this address only, if one is given.
    Pod(Arc<Pod>, Option<IpAddr>),
    /// A node at an address.
    Node(Arc<str>, IpAddr),
    /// An address outside the cluster.
    External(IpAddr),
}

impl Target {
    /// The address that stands for it in a family. A pod without any has an unknown one.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let only = |address: &IpAddr| (Family::of(*address) == family).then_some(*address);
        match self {
            Self::Pod(_, Some(address)) | Self::Node(_, address) | Self::External(address) => {
                only(address)
            }
            Self::Pod(pod, None) => super::address(pod, family),
        }
    }

    /// As the engine wants it.
    pub fn endpoint(&self) -> Endpoint<'_> {
        match self {
            Self::Pod(pod, _) => Endpoint::Pod(pod),
            Self::Node(name, _) => Endpoint::Node(name),
            Self::External(_) => Endpoint::External,
        }
    }

    /// The pod, if it is one.
    pub const fn pod(&self) -> Option<&Arc<Pod>> {
        match self {
            Self::Pod(pod, _) => Some(pod),
            Self::Node(..) | Self::External(_) => None,
        }
    }
}

/// `shop/web-0`, `node n1`, `192.0.2.7`.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(pod, _) => pod.id.fmt(f),
            Self::Node(name, _) => write!(f, "node {name}"),
            Self::External(address) => address.fmt(f),
        }
    }
}

/// Who stands behind the name of an end.
#[derive(Clone, Debug)]
pub enum End {
    /// One.
    One(Target),
    /// The living pods of a workload; never empty.
    Pods(Arc<[Target]>),
    /// A Service.
    Service(Arc<Service>),
}

type Workload = (Arc<str>, Arc<str>, Arc<str>);

/// Finds ends by their names. What it needs for workloads and Services is gathered once, at the first use.
#[derive(Debug)]
pub struct Directory {
    pub(super) snapshot: Snapshot,
    workloads: OnceCell<HashMap<Workload, Arc<[Target]>>>,
    services: OnceCell<HashMap<NamespacedName, Arc<Service>>>,
    slices: OnceCell<HashMap<NamespacedName, Vec<Arc<EndpointSlice>>>>,
    suggestions: Cell<u32>,
}

impl Directory {
    /// Of a snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            snapshot: snapshot.clone(),
            workloads: OnceCell::new(),
            services: OnceCell::new(),
            slices: OnceCell::new(),
            suggestions: Cell::new(SUGGESTIONS),
        }
    }

    /// Its snapshot.
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn by_workload(&self) -> &HashMap<Workload, Arc<[Target]>> {
        self.workloads.get_or_init(|| {
            let mut found: HashMap<Workload, Vec<Target>> = HashMap::new();
            for pod in self.snapshot.pods() {
                let (kind, name) = pod.workload();
                let mut keys = vec![(kind, name)];
                if let Some(owner) = &pod.owner
                    && !keys.contains(owner)
                {
                    keys.push(owner.clone());
                }
                for (kind, name) in keys {
                    let pods = found
                        .entry((Arc::clone(&pod.id.namespace), kind, name))
                        .or_default();
                    // One whose pods have all ended is known, too.
                    if !pod.finished {
                        pods.push(Target::Pod(Arc::clone(pod), None));
                    }
                }
            }
            found
                .into_iter()
                .map(|(key, pods)| (key, pods.into()))
                .collect()
        })
    }

    /// Namespace, kind and name of every workload.
    pub(super) fn workloads(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.by_workload()
            .keys()
            .map(|(namespace, kind, name)| (&**namespace, &**kind, &**name))
    }

    fn service(&self, id: &NamespacedName) -> Option<&Arc<Service>> {
        self.services
            .get_or_init(|| {
                let services = self.snapshot.services();
                services
                    .map(|service| (service.id.clone(), Arc::clone(service)))
                    .collect()
            })
            .get(id)
    }

    /// The slices of a Service.
    pub(super) fn slices(&self, service: &NamespacedName) -> &[Arc<EndpointSlice>] {
        self.slices
            .get_or_init(|| {
                let mut found: HashMap<_, Vec<_>> = HashMap::new();
                for slice in self.snapshot.endpoint_slices() {
                    if let Some(service) = &slice.service {
                        let id = NamespacedName::new(
                            Arc::clone(&slice.id.namespace),
                            Arc::clone(service),
                        );
                        found.entry(id).or_default().push(Arc::clone(slice));
                    }
                }
                found
            })
            .get(service)
            .map_or(&[], Vec::as_slice)
    }

    /// Who is meant by an end as a person writes it: `namespace/pod`, `namespace/kind/name` or an address.
    ///
    /// # Errors
    /// Nobody, or nobody that is left.
    pub fn end(&self, text: &str) -> Result<End, AskError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.address(address);
        }
        let unreadable = || AskError::Unreadable {
            end: text.to_owned(),
        };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(unreadable());
        }
        match *parts.as_slice() {
            [namespace, name] => self.pod(namespace, name),
            [namespace, kind, name] => {
                let lower = kind.to_ascii_lowercase();
                let Some((_, kind, _)) = KINDS
                    .iter()
                    .find(|(written, _, _)| written.contains(&lower.as_str()))
                else {
                    return Err(AskError::UnknownKind {
                        kind: kind.to_owned(),
                    });
                };
                match *kind {
                    "Pod" => self.pod(namespace, name),
                    "Service" => self.service_named(namespace, name),
                    kind => self.workload(namespace, kind, name),
                }
            }
            _ => Err(unreadable()),
        }
    }

    /// Who has an address.
    ///
    /// # Errors
    /// Several pods claim it.
    pub fn address(&self, address: IpAddr) -> Result<End, AskError> {
        let address = address.to_canonical();
        Ok(match self.snapshot.owner(address) {
            // Asked by this address, answered for this address.
            IpOwner::Pod(pod) => End::One(Target::Pod(pod, Some(address))),
            IpOwner::Node(name) => End::One(Target::Node(name, address)),
            IpOwner::Nobody | IpOwner::UnknownInPodCidr => End::One(Target::External(address)),
            IpOwner::Service(id) => match self.service(&id) {
                Some(service) => End::Service(Arc::clone(service)),
                None => End::One(Target::External(address)),
            },
            IpOwner::Ambiguous => return Err(AskError::Ambiguous { address }),
        })
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<End, AskError> {
        let id = NamespacedName::new(namespace, name);
        let Some(pod) = self.snapshot.pod_named(&id) else {
            return Err(self.missing("pod", namespace, name, || {
                near::pods(&self.snapshot, self, namespace, name)
            }));
        };
        if pod.finished {
            return Err(AskError::Finished {
                end: format!("pod {id}"),
            });
        }
        Ok(End::One(Target::Pod(Arc::clone(pod), None)))
    }

    fn workload(&self, namespace: &str, kind: &'static str, name: &str) -> Result<End, AskError> {
        let key = (Arc::from(namespace), Arc::from(kind), Arc::from(name));
        match self.by_workload().get(&key) {
            Some(pods) if pods.is_empty() => Err(AskError::Finished {
                end: format!("every pod of {kind} {namespace}/{name}"),
            }),
            Some(pods) => Ok(End::Pods(Arc::clone(pods))),
            None => Err(self.missing(kind, namespace, name, || {
                near::workloads(self, kind, namespace, name)
            })),
        }
    }

    fn service_named(&self, namespace: &str, name: &str) -> Result<End, AskError> {
        match self.service(&NamespacedName::new(namespace, name)) {
            Some(service) => Ok(End::Service(Arc::clone(service))),
            None => Err(self.missing("Service", namespace, name, || {
                near::services(&self.snapshot, namespace, name)
            })),
        }
    }

    fn missing(
        &self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        near: impl FnOnce() -> Vec<String>,
    ) -> AskError {
        let left = self.suggestions.get();
        self.suggestions.set(left.saturating_sub(1));
        let (near, no_namespace) = if left == 0 {
            (Vec::new(), false)
        } else {
            let near = near();
            match near::namespaces(&self.snapshot, namespace) {
                Some(namespaces) if near.is_empty() => (namespaces, true),
                other => (near, other.is_some()),
            }
        };
        AskError::Missing {
            kind,
            name: format!("{namespace}/{name}"),
            near,
            no_namespace,
        }
    }
}
